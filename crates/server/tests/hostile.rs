//! Clients that want more than they may: each gets its refusal, and nobody else notices.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::{Cluster, admin};
use futures_util::FutureExt;
use serde_json::{Value, json};
use server::Limits;
use store::{Answer, Delete, Embedded, Entry, Page, Put, Range, Store, Watch};
use wire::Identity;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Somebody who came over the network with a certificate of no weight.
fn outside(user: &str) -> Identity {
    Identity { user: user.to_owned(), groups: Vec::new(), certificate_sha256: "00".to_owned() }
}

/// Lets a user do what the rules say, everywhere.
async fn grant(cluster: &Cluster, user: &str, rules: Value) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": user}, "rules": rules});
    assert_eq!(cluster.post(&format!("{RBAC}/clusterroles"), &role).await.code, 201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    assert_eq!(cluster.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.code, 201);
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}})
}

#[tokio::test]
async fn a_field_selector_grants_nothing_but_what_it_selects() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.post(SECRETS, &secret("hidden")).await.code, 201);
    let verbs = ["create", "list", "watch", "deletecollection"];
    let rules =
        json!([{"verbs": verbs, "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"]}]);
    grant(&cluster, "ann", rules).await;
    let ann = cluster.asked_by(Some(outside("ann")));
    assert_eq!(ann.get(&format!("{SECRETS}?fieldSelector=metadata.name%3Dmine")).await.code, 200);
    let smuggled = ann.post(&format!("{SECRETS}?fieldSelector=metadata.name%3Dmine"), &secret("other")).await;
    assert_eq!(smuggled.code, 403, "{}", smuggled.text);
    // An escaped comma is part of a value: this selects everything of another type.
    let escaped = ann.get(&format!("{SECRETS}?fieldSelector=type%21%3Dx%5C%2Cmetadata.name%3Dmine")).await;
    assert_eq!(escaped.code, 403, "{}", escaped.text);
}

#[tokio::test]
async fn a_certificate_request_says_who_asked_whatever_its_author_wrote() {
    let cluster = Cluster::start().await;
    let verbs = ["create", "get", "update", "patch"];
    let parts = [
        "certificatesigningrequests",
        "certificatesigningrequests/approval",
        "certificatesigningrequests/status",
    ];
    grant(
        &cluster,
        "ann",
        json!([{"verbs": verbs, "apiGroups": ["certificates.k8s.io"], "resources": parts}]),
    )
    .await;
    let cluster = cluster.asked_by(Some(outside("ann")));
    let request = |name: &str, signer: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": signing_request(&["system:masters"]), "signerName": signer, "usages": ["client auth"],
                "username": "kubernetes-admin", "groups": ["system:masters"], "extra": {"a": ["b"]}},
            "status": {"conditions": [{"type": "Approved", "status": "True"}]}})
    };
    let made = cluster.post(REQUESTS, &request("a", "example.com/any")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"]["username"], "ann");
    assert_eq!(made.body["spec"]["groups"], json!(["system:authenticated"]));
    assert_eq!(made.body["status"]["conditions"], Value::Null, "approved by its author");
    let masters = cluster.post(REQUESTS, &request("b", "kubernetes.io/kube-apiserver-client")).await;
    assert_eq!(masters.code, 403);
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert!(masters.body["message"].as_str().unwrap().ends_with(why), "{}", masters.text);

    let mut approved = made.body.clone();
    approved["spec"]["username"] = "root".into();
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "r"}]);
    let path = format!("{REQUESTS}/a/approval");
    let refused = cluster.put(&path, &approved).await;
    assert_eq!(refused.code, 403);
    let why = "user not permitted to approve requests with signerName \"example.com/any\"";
    assert!(refused.body["message"].as_str().unwrap().ends_with(why), "{}", refused.text);
    let cluster = cluster.asked_by(Some(admin()));
    let signers = json!([{"verbs": ["approve", "sign"], "apiGroups": ["certificates.k8s.io"],
        "resources": ["signers"], "resourceNames": ["example.com/*"]}]);
    grant(&cluster, "bob", signers).await;
    let both = json!([{"verbs": verbs, "apiGroups": ["certificates.k8s.io"], "resources": parts}]);
    grant(&cluster, "bob-too", both).await;
    let stored = cluster.put(&path, &approved).await;
    assert_eq!(stored.code, 200, "{}", stored.text);
    assert_eq!(stored.body["spec"]["username"], "ann");
    let condition = &stored.body["status"]["conditions"][0];
    assert!(condition["type"] == "Approved" && condition["lastTransitionTime"].is_string(), "{condition}");
    let mut signed = stored.body.clone();
    let issued = rcgen::generate_simple_self_signed(Vec::new()).expect("a certificate");
    signed["status"]["certificate"] = STANDARD.encode(issued.cert.pem()).into();
    let ann = cluster.asked_by(Some(outside("ann")));
    let refused = ann.put(&format!("{REQUESTS}/a/status"), &signed).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    let admin = ann.asked_by(Some(admin()));
    assert_eq!(admin.put(&format!("{REQUESTS}/a/status"), &signed).await.code, 200);
}

/// A PKCS #10 request for these organisations, as the API carries it.
fn signing_request(organizations: &[&str]) -> String {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    for organization in organizations {
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, *organization);
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    STANDARD.encode(parameters.serialize_request(&key).expect("signed").pem().expect("PEM"))
}

#[tokio::test]
async fn a_node_gets_tokens_of_its_own_pods_only() {
    let cluster = Cluster::start().await;
    for (pod, node) in [("here", "one"), ("there", "two")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {"nodeName": node, "serviceAccountName": "default", "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(cluster.post(PODS, &pod).await.code, 201);
    }
    let uid = |pod: Value| pod["metadata"]["uid"].clone();
    let here = uid(cluster.get(&format!("{PODS}/here")).await.body);
    let there = uid(cluster.get(&format!("{PODS}/there")).await.body);
    let node = Identity { groups: vec!["system:nodes".into()], ..outside("system:node:one") };
    let cluster = cluster.asked_by(Some(node));
    let ask = async |bound: Value| {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "boundObjectRef": bound}});
        let answer = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", &request).await;
        (answer.code, answer.body["message"].as_str().unwrap_or_default().to_owned())
    };
    let pod = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    let begin = "serviceaccounts \"default\" is forbidden: node requested token";
    assert_eq!(ask(Value::Null).await, (403, format!("{begin} not bound to a pod")));
    let unnamed = json!({"apiVersion": "v1", "kind": "Pod", "name": "here"});
    assert_eq!(ask(unnamed).await, (403, format!("{begin} with a pod binding without a uid")));
    let elsewhere = ask(pod("there", &there)).await;
    assert_eq!(elsewhere, (403, format!("{begin} bound to a pod scheduled on a different node")));
    assert_eq!(ask(pod("here", &here)).await.0, 201);
}

#[tokio::test]
async fn a_permission_is_gone_with_its_binding_even_when_nobody_waited_for_the_answer() {
    let cluster = Cluster::start().await;
    grant(&cluster, "ann", json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["secrets"]}])).await;
    let cluster = cluster.asked_by(Some(outside("ann")));
    assert_eq!(cluster.get(SECRETS).await.code, 200);
    let cluster = cluster.asked_by(Some(admin()));
    let before = cluster.store().revision();
    let mut revoking =
        cluster.begin(http::Request::delete(format!("{RBAC}/clusterrolebindings/ann")), wire::empty());
    assert!((&mut revoking).now_or_never().is_none(), "the store answers before it is asked");
    // The client goes away while its request is on the way to the disk.
    drop(revoking);
    let mut changes = cluster.store().watch("/rbac.authorization.k8s.io/", before).await.expect("a watch");
    changes.next().await.expect("the binding goes");
    let cluster = cluster.asked_by(Some(outside("ann")));
    let mut code = cluster.get(SECRETS).await.code;
    for _ in 0..1_000 {
        if code == 403 {
            return;
        }
        // The write has happened; what follows from it is one turn of the runtime away.
        tokio::task::yield_now().await;
        code = cluster.get(SECRETS).await.code;
    }
    panic!("a revoked permission is still in force: {code}");
}

#[tokio::test]
async fn a_watch_from_a_version_that_is_not_kept_says_so_in_its_stream() {
    let cluster = Cluster::start().await.restart().await;
    let current = cluster.store().revision();
    let path = |version: u64| {
        format!("/api/v1/namespaces?watch=1&resourceVersion={version}&allowWatchBookmarks=true")
    };
    for (version, oldest) in [(1, current), (current + 1_000, current)] {
        let response = cluster.begin(http::Request::get(path(version)), wire::empty()).await;
        assert_eq!(response.status(), 200);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let golden = format!(
            "{{\"type\":\"ERROR\",\"object\":{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\
             \"status\":\"Failure\",\"message\":\"too old resource version: {version} ({oldest})\",\
             \"reason\":\"Expired\",\"code\":410}}}}\n"
        );
        assert_eq!(text, golden);
    }
    let mut watch = cluster.watch(&path(current)).await;
    let made = cluster
        .post(
            "/api/v1/namespaces",
            &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "new"}}),
        )
        .await;
    assert_eq!(made.code, 201);
    assert_eq!(watch.brief().await, "ADDED new");
}

#[tokio::test]
async fn a_list_before_the_history_begins_is_still_refused_by_its_code() {
    let cluster = Cluster::start().await.restart().await;
    let answer = cluster.get("/api/v1/namespaces?resourceVersion=1&resourceVersionMatch=Exact").await;
    assert_eq!((answer.code, answer.body["reason"].as_str()), (410, Some("Expired")));
}

/// A store in which a Pod changes whenever somebody is about to change it, once.
struct Rival {
    store: Arc<Embedded>,
    armed: Arc<AtomicBool>,
}

impl Store for Rival {
    fn revision(&self) -> u64 {
        self.store.revision()
    }
    fn health(&self) -> Result<(), store::Error> {
        self.store.health()
    }
    fn get(&self, key: &str) -> Answer<'_, Option<Arc<Entry>>> {
        self.store.get(key)
    }
    fn range(&self, range: Range) -> Answer<'_, Page> {
        self.store.range(range)
    }
    fn put(&self, put: Put) -> Answer<'_, Arc<Entry>> {
        Box::pin(async move {
            if put.key.starts_with("/core/pods/") && self.armed.swap(false, Ordering::SeqCst) {
                let current = self.store.get(&put.key).await?.expect("the Pod");
                let again = Put { value: current.value.clone(), expect: None, ..put.clone() };
                self.store.put(again).await?;
            }
            self.store.put(put).await
        })
    }
    fn delete(&self, delete: Delete) -> Answer<'_, Arc<Entry>> {
        self.store.delete(delete)
    }
    fn watch(&self, prefix: &str, after: u64) -> Answer<'_, Box<dyn Watch>> {
        self.store.watch(prefix, after)
    }
    fn compact(&self, revision: u64) -> Answer<'_, ()> {
        self.store.compact(revision)
    }
    fn close(&self) -> Answer<'_, ()> {
        self.store.close()
    }
}

#[tokio::test]
async fn an_eviction_takes_its_disruption_once_however_often_the_pod_changes() {
    let armed = Arc::new(AtomicBool::new(false));
    let rival = Arc::clone(&armed);
    let cluster = Cluster::start_on(Limits::default(), |store| Arc::new(Rival { store, armed: rival })).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(cluster.post(PODS, &pod).await.code, 201);
    let running =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(cluster.patch(&format!("{PODS}/web/status"), "merge-patch+json", &running).await.code, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": 2, "selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(cluster.post(budgets, &budget).await.code, 201);
    let allowed = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 2, "currentHealthy": 3,
        "desiredHealthy": 1, "expectedPods": 3}});
    assert_eq!(cluster.patch(&format!("{budgets}/b/status"), "merge-patch+json", &allowed).await.code, 200);
    armed.store(true, Ordering::SeqCst);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}});
    let answer = cluster.post(&format!("{PODS}/web/eviction"), &eviction).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert!(!armed.load(Ordering::SeqCst), "the Pod did not change meanwhile");
    let budget = cluster.get(&format!("{budgets}/b")).await.body;
    assert_eq!(budget["status"]["disruptionsAllowed"], 1);
}

#[tokio::test]
async fn what_is_deleted_is_answered_as_upstream_answers_it() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "finalizers": ["me/hold"]}});
    let made = cluster.post(maps, &map).await.body;
    let held = cluster.delete(&format!("{maps}/m"), &Value::Null).await;
    assert_eq!((held.code, held.body["kind"].as_str()), (200, Some("ConfigMap")), "it is still there");
    let again = cluster.post(maps, &map).await;
    let wanted = "object is being deleted: configmaps \"m\" already exists";
    assert_eq!((again.code, again.body["message"].as_str()), (409, Some(wanted)));
    let freed = cluster
        .patch(&format!("{maps}/m"), "merge-patch+json", &json!({"metadata": {"finalizers": null}}))
        .await;
    assert_eq!(freed.code, 200);
    let mut plain = map.clone();
    plain["metadata"] = json!({"name": "m"});
    let made_again = cluster.post(maps, &plain).await.body;
    assert_ne!(made["metadata"]["uid"], made_again["metadata"]["uid"]);
    let gone = cluster.delete(&format!("{maps}/m"), &Value::Null).await;
    assert_eq!(gone.body["kind"], "Status");
    assert_eq!(gone.body["details"]["uid"], made_again["metadata"]["uid"]);

    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    // Go's typed clients send the options in the version of the group.
    for options in [
        json!({"kind": "DeleteOptions", "apiVersion": "apps/v1", "propagationPolicy": "Background"}),
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 0}),
        json!({"kind": "DeleteOptions", "apiVersion": "v1"}),
        json!({"propagationPolicy": "Background"}),
    ] {
        assert_eq!(cluster.post(deployments, &deployment).await.code, 201);
        let gone = cluster.delete(&format!("{deployments}/d"), &options).await;
        assert_eq!(
            (gone.code, gone.body["kind"].as_str()),
            (200, Some("Status")),
            "{options}: {}",
            gone.text
        );
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(cluster.post(accounts, &account).await.code, 201);
    let gone = cluster.delete(&format!("{accounts}/s"), &Value::Null).await;
    assert_eq!(gone.body["kind"], "ServiceAccount", "upstream answers a few kinds themselves");
}

#[tokio::test]
async fn events_are_selected_by_the_names_of_either_group() {
    let cluster = Cluster::start().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"}, "reason": "Started", "type": "Normal"});
    assert_eq!(cluster.post("/api/v1/namespaces/default/events", &event).await.code, 201);
    for path in [
        "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dweb",
        "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name%3Dweb,regarding.kind%3DPod",
    ] {
        let found = cluster.get(path).await;
        assert_eq!(found.body["items"].as_array().map(Vec::len), Some(1), "{path}: {}", found.text);
    }
    let other = cluster.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dother").await;
    assert_eq!(other.body["items"], json!([]));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_named_and_goes_only_when_asked_in_full() {
    let cluster = Cluster::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sound"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(cluster.post(maps, &map).await.code, 201);
    let damaged = bytes::Bytes::from_static(b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"\",\"name\":\"dam");
    let put = Put {
        key: "/core/configmaps/default/damaged".into(),
        value: damaged,
        expect: None,
        durability: store::Durability::Now,
    };
    cluster.store().put(put).await.expect("written");
    let path = format!("{maps}/damaged");
    let changed = cluster.patch(&path, "merge-patch+json", &json!({"data": {"a": "b"}})).await;
    assert_eq!(changed.code, 500, "{}", changed.text);
    assert_eq!(cluster.delete(&path, &Value::Null).await.code, 500, "finalizers might hold it");
    let table = cluster.get_as(maps, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let names: Vec<_> = table.body["rows"].as_array().unwrap().iter().map(|row| &row["cells"][0]).collect();
    assert!(names.contains(&&json!("sound")) && names.contains(&&json!("<unreadable>")), "{names:?}");
    let all = json!({"kind": "DeleteOptions", "apiVersion": "v1", "ignoreStoreReadErrorWithClusterBreakingPotential": true});
    assert_eq!(cluster.delete(&path, &all).await.code, 200);
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn one_user_too_many_requests_is_told_to_come_back_and_others_are_served() {
    let limits = Limits { reads: 4, writes: 4, streams: 4, ..Limits::default() };
    let cluster = Cluster::start_on(limits, |store| store).await;
    let rules = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    grant(&cluster, "greedy", rules.clone()).await;
    grant(&cluster, "modest", rules).await;
    let cluster = cluster.asked_by(Some(outside("greedy")));
    let watch = "/api/v1/pods?watch=1";
    let _held = (cluster.watch(watch).await, cluster.watch(watch).await);
    let slow = || {
        let never = futures_util::stream::pending::<Result<bytes::Bytes, wire::BoxError>>();
        let post = http::Request::post(SECRETS).header("content-type", "application/json");
        let mut sent = cluster.begin(post, wire::body_from_stream(never));
        assert!((&mut sent).now_or_never().is_none());
        sent
    };
    let _slow = (slow(), slow());
    let refused = cluster.get(watch).await;
    assert_eq!((refused.code, refused.headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(refused.body["message"], "Too many requests, please try again later.");
    assert_eq!(cluster.post(SECRETS, &secret("a")).await.code, 429);
    assert_eq!(cluster.get("/api/v1/pods").await.code, 200, "reads are counted apart");
    let cluster = cluster.asked_by(Some(outside("modest")));
    assert_eq!(cluster.post(SECRETS, &secret("b")).await.code, 201);
    drop(cluster.watch(watch).await);
    let rooms = Identity { certificate_sha256: String::new(), ..outside("greedy") };
    let cluster = cluster.asked_by(Some(rooms));
    assert_eq!(
        cluster.post(SECRETS, &secret("c")).await.code,
        201,
        "a room of the process is never shut out"
    );
    let cluster =
        cluster.asked_by(Some(Identity { groups: vec!["system:masters".into()], ..outside("greedy") }));
    assert_eq!(cluster.post(SECRETS, &secret("d")).await.code, 201);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let cluster = Cluster::start().await;
    // From here on nothing but the clock can go on.
    tokio::time::pause();
    let never = futures_util::stream::pending::<Result<bytes::Bytes, wire::BoxError>>();
    let post = http::Request::post(SECRETS).header("content-type", "application/json");
    let answer = cluster.begin(post, wire::body_from_stream(never)).await;
    assert_eq!(answer.status(), 504);
}

#[tokio::test]
async fn who_has_not_said_who_it_is_reads_health_and_version_only() {
    let cluster = Cluster::start().await.asked_by(None);
    for path in ["/healthz", "/livez", "/readyz", "/version", "/version/"] {
        assert_eq!(cluster.get(path).await.code, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
        "/api/v1/namespaces",
        "/api/v1/nodes",
        "/api/v1/namespaces/kube-public/configmaps",
        "/readyz/store",
        "/healthz/ping",
        "/no/such",
    ] {
        assert_eq!(cluster.get(path).await.code, 403, "{path}");
    }
}
