//! A kind that is registered while everything runs: collected with its owner, counted by quota, gone
//! with its namespace.

#![allow(clippy::disallowed_methods, reason = "a test owns what it starts")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::Kind;
use client::{Client, InProcess, Informers};
use http::Method;
use serde_json::{Value, json};
use server::{Config, Nodes, Server};
use store::{Embedded, History, Store};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use wire::Handler;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/demo/widgets";
const MAPS: &str = "/api/v1/namespaces/demo/configmaps";
const QUOTA: &str = "/api/v1/namespaces/demo/resourcequotas/limit";

struct NoNodes;

impl Nodes for NoNodes {
    fn handler(&self, _node: &str) -> Option<Arc<dyn Handler>> {
        None
    }
}

/// A server with its controllers.
struct Cluster {
    server: Arc<Server>,
    store: Arc<Embedded>,
    client: Client,
    shutdown: CancellationToken,
    controllers: JoinHandle<()>,
    reflectors: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), server::stamp, History::default()).unwrap();
        let config = Config {
            service_cidr: "10.43.0.0/16".into(),
            advertise: "127.0.0.1:6443".parse().unwrap(),
            authority_pem: "PEM".into(),
            service_account_key: server::auth::TokenKey::generate().unwrap(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            anonymous: true,
            nodes: Arc::new(NoNodes),
            limits: server::Limits::default(),
            checks: Vec::new(),
        };
        let store = Arc::new(store);
        let server = Server::start(store.clone(), config).await.unwrap();
        let client = Client::new(Arc::new(InProcess::new(server.clone(), "admin", &["system:masters"])));
        let settings = controllers::Config {
            authority_pem: "PEM".into(),
            volumes_dir: directory.path().join("volumes"),
            remove_tree: |_: &Path| Ok(()),
        };
        let shutdown = CancellationToken::new();
        let kinds = server.registry().subscribe();
        let mut reflectors = JoinSet::new();
        let informers = Informers::spawn(client.clone(), &mut reflectors, shutdown.clone());
        let controllers =
            tokio::spawn(controllers::run(client.clone(), kinds, informers, settings, shutdown.clone()));
        Self { server, store, client, shutdown, controllers, reflectors, _directory: directory }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, client::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.client.raw(method, path, "application/json", body.into()).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, body).await.unwrap()
    }

    /// Reads after each change of the store until an answer is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Result<Value, client::Error>) -> bool) {
        let mut changes = self.store.watch("/", self.store.revision()).await.unwrap();
        let reached = async {
            while !wanted(&self.ask(Method::GET, path, Value::Null).await) {
                changes.next().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), reached).await;
        assert!(waited.is_ok(), "{path}: {:?}", self.ask(Method::GET, path, Value::Null).await);
    }

    async fn until_gone(&self, path: &str) {
        self.until(path, |answer| answer.as_ref().is_err_and(client::Error::is_not_found)).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.controllers.await.unwrap();
        client::tasks::finish(self.reflectors).await;
    }
}

fn register(cluster: &Cluster) {
    let widgets = Kind::namespaced("example.com", "v1", "Widget", "widgets", "widget");
    cluster.server.registry().register(vec![widgets]).unwrap();
}

fn widget(name: &str, metadata: Value) -> Value {
    let mut widget =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": metadata, "spec": {"a": 1}});
    widget["metadata"]["name"] = name.into();
    widget
}

fn owned_by(owner: &Value) -> Value {
    let metadata = &owner["metadata"];
    json!({"ownerReferences": [{"apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": metadata["name"], "uid": metadata["uid"], "blockOwnerDeletion": true}]})
}

fn used(answer: &Result<Value, client::Error>, count: &str) -> bool {
    answer.as_ref().is_ok_and(|quota| quota["status"]["used"]["count/widgets.example.com"] == count)
}

#[tokio::test]
async fn a_kind_registered_at_run_time_is_collected_counted_and_goes_with_its_namespace() {
    let cluster = Cluster::start().await;
    cluster
        .post(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}),
        )
        .await;
    register(&cluster);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "limit"},
        "spec": {"hard": {"count/widgets.example.com": "3"}}});
    cluster.post("/api/v1/namespaces/demo/resourcequotas", quota).await;
    cluster.until(QUOTA, |answer| used(answer, "0")).await;

    // A chain of owners through it and through a kind that is built in.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "top"}});
    let top = cluster.post(MAPS, map).await;
    let middle = cluster.post(WIDGETS, widget("middle", owned_by(&top))).await;
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": owned_by(&middle)});
    map["metadata"]["name"] = "bottom".into();
    cluster.post(MAPS, map).await;
    cluster.post(WIDGETS, widget("alone", json!({}))).await;
    cluster.until(QUOTA, |answer| used(answer, "2")).await;
    cluster.post(WIDGETS, widget("third", json!({}))).await;
    let exceeded = cluster.ask(Method::POST, WIDGETS, widget("fourth", json!({}))).await.unwrap_err();
    assert!(exceeded.to_string().contains("exceeded quota: limit"), "{exceeded}");
    cluster.ask(Method::DELETE, &format!("{MAPS}/top"), Value::Null).await.unwrap();
    cluster.until_gone(&format!("{WIDGETS}/middle")).await;
    cluster.until_gone(&format!("{MAPS}/bottom")).await;
    // What is gone counts no more.
    cluster.until(QUOTA, |answer| used(answer, "2")).await;

    // What waits for a finalizer of its own holds the namespace.
    let held = widget("held", json!({"finalizers": ["example.com/hold"]}));
    cluster.post(WIDGETS, held).await;
    cluster.ask(Method::DELETE, "/api/v1/namespaces/demo", Value::Null).await.unwrap();
    cluster.until_gone(&format!("{WIDGETS}/alone")).await;
    let names_it = |answer: &Result<Value, client::Error>| {
        answer
            .as_ref()
            .is_ok_and(|namespace| namespace.to_string().contains("widgets.example.com has 1 resource"))
    };
    cluster.until("/api/v1/namespaces/demo", names_it).await;
    let free = json!({"metadata": {"finalizers": null}}).to_string().into_bytes();
    let path = format!("{WIDGETS}/held");
    cluster.client.raw(Method::PATCH, &path, "application/merge-patch+json", free.into()).await.unwrap();
    cluster.until_gone("/api/v1/namespaces/demo").await;

    cluster.server.registry().withdraw("example.com", "widgets");
    let gone = cluster.ask(Method::GET, WIDGETS, Value::Null).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    cluster.stop().await;
}
