//! A server with its controllers, which can be started again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, InProcess, Informers, Transport};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use server::{Config, Nodes, Server};
use store::{Embedded, History, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::Handler;
use wire::pki::Authority;

use crate::faults::{Faults, Faulty};
use crate::way::{Gate, Way};

struct NoNodes;

impl Nodes for NoNodes {
    fn handler(&self, _node: &str) -> Option<Arc<dyn Handler>> {
        None
    }
}

pub(crate) struct Cluster {
    pub(crate) server: Arc<Server>,
    pub(crate) client: Client,
    store: Arc<Embedded>,
    /// What the controllers hear.
    pub(crate) gate: Arc<Gate>,
    faults: Option<Arc<Faults>>,
    running: Running,
    directory: tempfile::TempDir,
}

/// The controllers and what they read from.
struct Running {
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    /// What they asked of the server.
    under_way: TaskTracker,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, with controllers whose way to the server has faults; the test's own has none.
    pub(crate) async fn start_faulty(faults: Arc<Faults>) -> Self {
        Self::start_with(Some(faults)).await
    }

    async fn start_with(faults: Option<Arc<Faults>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), server::stamp, History::default()).unwrap();
        let config = Config {
            service_cidr: "10.43.0.0/16".into(),
            advertise: "127.0.0.1:6443".parse().unwrap(),
            authority_pem: authority(directory.path()).certificate_pem().to_owned(),
            service_account_key: server::auth::TokenKey::generate().unwrap(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            anonymous: true,
            nodes: Arc::new(NoNodes),
            limits: server::Limits::default(),
            audit: None,
            metrics: Arc::new(|_| {}),
            checks: Vec::new(),
        };
        let store = Arc::new(store);
        let server = Server::start(store.clone(), config).await.unwrap();
        let client = Client::new(Arc::new(transport(&server)));
        let gate = Gate::new();
        let running = Running::start(&server, gate.clone(), faults.clone(), directory.path());
        Self { server, client, store, gate, faults, running, directory }
    }

    /// Somebody else who talks to the server.
    pub(crate) fn client_of(&self, user: &str, groups: &[&str]) -> Client {
        Client::new(Arc::new(InProcess::new(self.server.clone(), user, groups)))
    }

    /// The certificate by which the server is known.
    pub(crate) fn authority_pem(&self) -> String {
        authority(self.directory.path()).certificate_pem().to_owned()
    }

    /// Ends the controllers in the middle of what they do and starts them anew, with nothing known. As when a
    /// process ends, nothing of theirs is under way any more when the next ones begin.
    pub(crate) async fn restart_controllers(&mut self) {
        self.running.tasks.shutdown().await;
        self.running.under_way.close();
        self.running.under_way.wait().await;
        let (gate, faults) = (self.gate.clone(), self.faults.clone());
        self.running = Running::start(&self.server, gate, faults, self.directory.path());
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> Result<Value, client::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let answer = self.client.raw(method, path, content_type, body.into()).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, body).await.unwrap()
    }

    /// Reads after each change of the store until an answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Result<Value, client::Error>) -> bool) {
        let mut changes = self.store.watch("/", self.store.revision()).await.unwrap();
        let reached = async {
            while !wanted(&self.ask(Method::GET, path, Value::Null).await) {
                changes.next().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), reached).await;
        assert!(waited.is_ok(), "{path}: {:?}", self.ask(Method::GET, path, Value::Null).await);
    }

    pub(crate) async fn until_gone(&self, path: &str) {
        self.until(path, |answer| answer.as_ref().is_err_and(client::Error::is_not_found)).await;
    }

    pub(crate) async fn stop(self) {
        self.running.shutdown.cancel();
        client::tasks::finish(self.running.tasks).await;
    }
}

fn transport(server: &Arc<Server>) -> InProcess {
    InProcess::new(server.clone(), "admin", &["system:masters"])
}

/// The authority of the cluster, made when it is asked for first.
fn authority(directory: &Path) -> Authority {
    Authority::open(&directory.join("pki"), "kubernetes", Timestamp::now()).unwrap()
}

impl Running {
    fn start(server: &Arc<Server>, gate: Arc<Gate>, faults: Option<Arc<Faults>>, directory: &Path) -> Self {
        let under_way = TaskTracker::new();
        let to = Arc::new(Way::new(transport(server), gate, under_way.clone()));
        let transport: Arc<dyn Transport> = match faults {
            Some(faults) => Arc::new(Faulty::new(to, faults)),
            None => to,
        };
        let client = Client::new(transport);
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let authority = authority(directory);
        let settings = controllers::Config {
            authority_pem: authority.certificate_pem().to_owned(),
            sign: controllers::Sign::new(move |order: &controllers::Order| {
                let order = wire::pki::Order {
                    request: &order.request,
                    key_usage: order.key_usage,
                    extended_key_usages: &order.extended_key_usages,
                    not_before: order.not_before,
                    not_after: order.not_after,
                };
                authority.certify(&order, Timestamp::now()).map_err(|error| error.to_string())
            }),
            volumes_dir: directory.join("volumes"),
            remove_tree: |_: &Path| Ok(()),
        };
        let kinds = server.registry().subscribe();
        let informers = Informers::spawn(client.clone(), &mut tasks, shutdown.clone());
        tasks.spawn(controllers::run(client, kinds, informers, settings, shutdown.clone()));
        Self { shutdown, tasks, under_way }
    }
}
