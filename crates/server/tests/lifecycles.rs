//! What can be done with the objects of any kind, asked of many kinds alike.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use cluster::{Answer, Cluster};
use serde_json::{Value, json};

/// A kind by its path, what its objects have, and what somebody may write into their status.
struct Kind {
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
    fields: Value,
    status: Option<Value>,
}

impl Kind {
    fn collection(&self) -> String {
        let namespace = if self.namespaced { "/namespaces/demo" } else { "" };
        format!("{}{namespace}/{}", self.group, self.plural)
    }

    fn object(&self, name: &str) -> Value {
        let mut object = self.fields.clone();
        object["metadata"] = json!({"name": name, "labels": {"round": "first"}});
        object
    }
}

fn namespaced(group: &'static str, plural: &'static str, fields: Value) -> Kind {
    Kind { group, plural, namespaced: true, fields, status: None }
}

fn global(group: &'static str, plural: &'static str, fields: Value) -> Kind {
    Kind { group, plural, namespaced: false, fields, status: None }
}

fn with_status(kind: Kind, status: Value) -> Kind {
    Kind { status: Some(status), ..kind }
}

const CORE: &str = "/api/v1";
const STORAGE: &str = "/apis/storage.k8s.io/v1";
const NETWORKING: &str = "/apis/networking.k8s.io/v1";
const RESOURCE: &str = "/apis/resource.k8s.io/v1";
const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn conditions() -> Value {
    json!({"conditions": [{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "set by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

fn core() -> Vec<Kind> {
    let template = json!({"template": {"metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let involved = json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "demo"}, "reason": "Test",
        "message": "m", "type": "Normal", "source": {"component": "test"}});
    let note = json!({"regarding": {"kind": "Pod", "name": "p", "namespace": "demo"}, "reason": "Test", "action": "Do",
        "note": "n", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "test-controller", "reportingInstance": "test-node"});
    let balanced = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    vec![
        namespaced(CORE, "configmaps", json!({"data": {"valueName": "value"}})),
        namespaced(CORE, "secrets", json!({"data": {"key": "dmFsdWU="}, "type": "Opaque"})),
        namespaced(CORE, "serviceaccounts", json!({})),
        namespaced(CORE, "podtemplates", template),
        namespaced(CORE, "limitranges", json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}}]}})),
        namespaced(CORE, "events", involved),
        namespaced("/apis/events.k8s.io/v1", "events", note),
        namespaced(
            CORE,
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.24"}],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]}),
        ),
        with_status(
            namespaced(CORE, "services", json!({"spec": {"ports": [{"name": "http", "port": 80}]}})),
            balanced,
        ),
        with_status(
            namespaced(CORE, "resourcequotas", json!({"spec": {"hard": {"cpu": "500m"}}})),
            json!({"hard": {"cpu": "500m"}, "used": {"cpu": "250m"}}),
        ),
    ]
}

fn networks() -> Vec<Kind> {
    let backend =
        json!({"spec": {"defaultBackend": {"service": {"name": "default-backend", "port": {"number": 80}}}}});
    vec![
        namespaced(
            "/apis/discovery.k8s.io/v1",
            "endpointslices",
            json!({"addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
        ),
        with_status(
            namespaced(NETWORKING, "ingresses", backend),
            json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}),
        ),
        global(NETWORKING, "ingressclasses", json!({"spec": {"controller": "example.com/controller"}})),
    ]
}

fn storage() -> Vec<Kind> {
    let attachment = json!({"spec": {"attacher": "e2e.example.com", "nodeName": "n",
        "source": {"persistentVolumeName": "pv"}}});
    vec![
        global(STORAGE, "storageclasses", json!({"provisioner": "e2e.example.com/x"})),
        global(STORAGE, "csidrivers", json!({"spec": {"attachRequired": false}})),
        global(STORAGE, "csinodes", json!({"spec": {"drivers": []}})),
        namespaced(STORAGE, "csistoragecapacities", json!({"storageClassName": "x"})),
        with_status(global(STORAGE, "volumeattachments", attachment), json!({"attached": true})),
        global(
            STORAGE,
            "volumeattributesclasses",
            json!({"driverName": "e2e.example.com", "parameters": {"a": "b"}}),
        ),
    ]
}

fn others() -> Vec<Kind> {
    let request = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}});
    let slice = json!({"spec": {"driver": "e2e.example.com", "nodeName": "n",
        "pool": {"name": "n", "resourceSliceCount": 1, "generation": 1}}});
    let level = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2,
        "limitResponse": {"type": "Reject"}}}});
    vec![
        namespaced(
            "/apis/coordination.k8s.io/v1",
            "leases",
            json!({"spec": {"holderIdentity": "holder", "leaseDurationSeconds": 30}}),
        ),
        global("/apis/node.k8s.io/v1", "runtimeclasses", json!({"handler": "some"})),
        with_status(
            global(
                FLOW,
                "flowschemas",
                json!({"spec": {"matchingPrecedence": 9000,
            "priorityLevelConfiguration": {"name": "global-default"}}}),
            ),
            conditions(),
        ),
        with_status(global(FLOW, "prioritylevelconfigurations", level), conditions()),
        global(RESOURCE, "deviceclasses", json!({"spec": {}})),
        namespaced(RESOURCE, "resourceclaims", json!({"spec": request})),
        namespaced(RESOURCE, "resourceclaimtemplates", json!({"spec": {"spec": request}})),
        global(RESOURCE, "resourceslices", slice),
    ]
}

fn good(answer: Answer, path: &str) -> Value {
    assert!((200..300).contains(&answer.code), "{path}: {}", answer.text);
    answer.body
}

/// The resource is told of in its group's document, with all that can be done with it.
async fn is_discovered(cluster: &Cluster, kind: &Kind) {
    let document = good(cluster.get(kind.group).await, kind.group);
    let resources = document["resources"].as_array().expect("resources");
    let found = resources.iter().find(|resource| resource["name"] == kind.plural).expect(kind.plural);
    for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
        assert!(
            found["verbs"].as_array().expect("verbs").iter().any(|one| one == verb),
            "{}: {verb}",
            kind.plural
        );
    }
    let status = resources.iter().any(|resource| resource["name"] == format!("{}/status", kind.plural));
    assert!(status || kind.status.is_none(), "{}", kind.plural);
}

async fn labelled(cluster: &Cluster, kind: &Kind, label: &str) -> Vec<String> {
    let path = format!("{}/{}?labelSelector=round%3D{label}", kind.group, kind.plural);
    let list = good(cluster.get(&path).await, &path);
    let names = list["items"].as_array().expect("items").iter();
    names.map(|object| object["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

async fn changes(cluster: &Cluster, kind: &Kind, path: &str) {
    let label = json!({"metadata": {"labels": {"round": "patched"}}});
    let patched = good(cluster.patch(path, "merge-patch+json", &label).await, path);
    assert_eq!(patched["metadata"]["labels"]["round"], "patched", "{path}");
    assert_eq!(labelled(cluster, kind, "patched").await, ["one"]);
    let mut object = good(cluster.get(path).await, path);
    object["metadata"]["annotations"] = json!({"updated": "true"});
    let put = good(cluster.put(path, &object).await, path);
    assert_eq!(put["metadata"]["annotations"]["updated"], "true", "{path}");
    // Who has read it before that is too late.
    object["metadata"]["annotations"] = json!({"updated": "late"});
    assert_eq!(cluster.put(path, &object).await.code, 409, "{path}");
}

async fn status_changes(cluster: &Cluster, path: &str, status: &Value) {
    let at = format!("{path}/status");
    let spec = good(cluster.get(path).await, path)["spec"].clone();
    let holds = |object: &Value| {
        for (name, value) in status.as_object().expect("an object") {
            assert_eq!(&object["status"][name], value, "{at}");
        }
        assert_eq!(object["spec"], spec, "{at}: a write to the status leaves the spec alone");
    };
    let cleared = json!({"status": status.as_object().expect("an object").keys().map(|name| (name.clone(), Value::Null)).collect::<serde_json::Map<_, _>>()});
    holds(&good(
        cluster.patch(&at, "merge-patch+json", &json!({"status": status, "spec": {"x": "y"}})).await,
        &at,
    ));
    good(cluster.patch(&at, "merge-patch+json", &cleared).await, &at);
    let mut object = good(cluster.get(&at).await, &at);
    for (name, value) in status.as_object().expect("an object") {
        object["status"][name] = value.clone();
    }
    holds(&good(cluster.put(&at, &object).await, &at));
    holds(&good(cluster.get(path).await, path));
}

/// It goes at once, or when those who hold it let it go.
async fn goes(cluster: &Cluster, path: &str) {
    let said = good(cluster.delete(path, &Value::Null).await, path);
    let left = cluster.get(path).await;
    if left.code == 200 {
        assert!(left.body["metadata"]["deletionTimestamp"].is_string(), "{path}: {}", left.text);
        good(cluster.patch(path, "merge-patch+json", &json!({"metadata": {"finalizers": null}})).await, path);
    } else if said["kind"] == "Status" {
        assert_eq!(said["status"], "Success", "{path}");
    }
    assert_eq!(cluster.get(path).await.code, 404, "{path}");
}

async fn lives(cluster: &Cluster, kind: &Kind) {
    is_discovered(cluster, kind).await;
    let collection = kind.collection();
    let before = good(cluster.get(&collection).await, &collection);
    let version = before["metadata"]["resourceVersion"].as_str().expect("a version");
    let mut watch = cluster
        .watch(&format!("{collection}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Done"))
        .await;
    for name in ["one", "two", "three"] {
        good(cluster.post(&collection, &kind.object(name)).await, &collection);
    }
    assert_eq!(watch.brief().await, "ADDED one", "{collection}");
    assert_eq!(labelled(cluster, kind, "first").await, ["one", "three", "two"], "{collection}");
    let path = format!("{collection}/one");
    let read = good(cluster.get(&path).await, &path);
    for (name, value) in
        kind.fields.as_object().expect("an object").iter().filter(|(_, value)| !value.is_object())
    {
        assert_eq!(&read[name], value, "{path}");
    }
    changes(cluster, kind, &path).await;
    assert_eq!(watch.brief().await, "MODIFIED one", "{path}");
    if let Some(status) = &kind.status {
        status_changes(cluster, &path, status).await;
    }
    goes(cluster, &path).await;
    let mut last = watch.brief().await;
    while last == "MODIFIED one" {
        last = watch.brief().await;
    }
    assert_eq!(last, "DELETED one", "{path}");
    let first = format!("{collection}?labelSelector=round%3Dfirst");
    good(cluster.delete(&first, &Value::Null).await, &first);
    for name in labelled(cluster, kind, "first").await {
        // Held by those who protect it: it is on its way.
        goes(cluster, &format!("{collection}/{name}")).await;
    }
    assert_eq!(labelled(cluster, kind, "first").await, Vec::<String>::new(), "{collection}");
}

async fn all_live(kinds: Vec<Kind>) {
    let cluster = Cluster::start().await;
    let demo = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}});
    good(cluster.post("/api/v1/namespaces", &demo).await, "the namespace");
    for kind in kinds {
        lives(&cluster, &kind).await;
    }
}

#[tokio::test]
async fn core_objects_are_made_found_watched_changed_and_deleted() {
    all_live(core()).await;
}

#[tokio::test]
async fn networks_objects_are_made_found_watched_changed_and_deleted() {
    all_live(networks()).await;
}

#[tokio::test]
async fn storage_objects_are_made_found_watched_changed_and_deleted() {
    all_live(storage()).await;
}

#[tokio::test]
async fn other_objects_are_made_found_watched_changed_and_deleted() {
    all_live(others()).await;
}

#[tokio::test]
async fn a_namespace_is_patched_updated_held_and_has_a_status() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/demo";
    let demo = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}});
    good(cluster.post("/api/v1/namespaces", &demo).await, path);
    let label = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    let patched = good(cluster.patch(path, "strategic-merge-patch+json", &label).await, path);
    assert_eq!(patched["metadata"]["labels"]["testLabel"], "testValue");
    let mut object = good(cluster.get(path).await, path);
    object["metadata"]["labels"]["updated"] = "yes".into();
    assert_eq!(good(cluster.put(path, &object).await, path)["metadata"]["labels"]["updated"], "yes");
    status_changes(&cluster, path, &conditions()).await;
    let mut object = good(cluster.get(path).await, path);
    object["spec"]["finalizers"].as_array_mut().expect("finalizers").push("e2e.example.com/fake".into());
    let finalize = format!("{path}/finalize");
    let held = good(cluster.put(&finalize, &object).await, &finalize);
    assert_eq!(held["spec"]["finalizers"], json!(["kubernetes", "e2e.example.com/fake"]));
    object = held;
    object["spec"]["finalizers"].as_array_mut().expect("finalizers").pop();
    let let_go = good(cluster.put(&finalize, &object).await, &finalize);
    assert_eq!(let_go["spec"]["finalizers"], json!(["kubernetes"]));
}

#[tokio::test]
async fn the_version_is_told() {
    let cluster = Cluster::start().await;
    let version = good(cluster.get("/version").await, "/version");
    assert_eq!(version["major"], "1");
    assert!(version["minor"].as_str().is_some_and(|minor| minor.starts_with("36")), "{version}");
}

#[tokio::test]
async fn a_key_without_a_name_is_refused() {
    let cluster = Cluster::start().await;
    for plural in ["configmaps", "secrets"] {
        let path = format!("/api/v1/namespaces/default/{plural}");
        let answer = cluster.post(&path, &json!({"metadata": {"name": "x"}, "data": {"": "dmFsdWU="}})).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (422, &json!("Invalid")),
            "{plural}: {}",
            answer.text
        );
    }
}
