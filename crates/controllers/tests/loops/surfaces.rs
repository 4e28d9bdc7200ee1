//! What all kinds of workloads have in common: a scale, a status of its own path, collections.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const APPS: &str = "/apis/apps/v1";
const BATCH: &str = "/apis/batch/v1";
const POLICY: &str = "/apis/policy/v1";

/// A kind by its path, and the spec of one of its objects.
struct Kind {
    group: &'static str,
    plural: &'static str,
    spec: Value,
}

impl Kind {
    fn collection(&self) -> String {
        format!("{}/namespaces/default/{}", self.group, self.plural)
    }

    fn object(&self, name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"round": "first"}}, "spec": self.spec})
    }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn kind(plural: &'static str) -> Kind {
    let selector = json!({"matchLabels": {"app": "x"}});
    let mut finite = template();
    finite["spec"]["restartPolicy"] = "Never".into();
    let job = json!({"template": finite});
    let (group, spec) = match plural {
        "replicationcontrollers" => {
            ("/api/v1", json!({"replicas": 1, "selector": {"app": "x"}, "template": template()}))
        }
        "statefulsets" => {
            (APPS, json!({"replicas": 1, "serviceName": "x", "selector": selector, "template": template()}))
        }
        "daemonsets" => (APPS, json!({"selector": selector, "template": template()})),
        "jobs" => (BATCH, job),
        "cronjobs" => (BATCH, json!({"schedule": "0 0 29 2 *", "jobTemplate": {"spec": job}})),
        "poddisruptionbudgets" => (POLICY, json!({"minAvailable": 1, "selector": selector})),
        "limitranges" => ("/api/v1", json!({"limits": [{"type": "Pod", "max": {"cpu": "1"}}]})),
        "resourcequotas" => ("/api/v1", json!({"hard": {"pods": "5"}})),
        _ => (APPS, json!({"replicas": 1, "selector": selector, "template": template()})),
    };
    Kind { group, plural, spec }
}

#[tokio::test]
async fn a_scale_is_read_replaced_and_patched_by_itself() {
    let cluster = Cluster::start().await;
    for kind in ["deployments", "replicasets", "statefulsets", "replicationcontrollers"].map(kind) {
        let path = format!("{}/x", kind.collection());
        cluster.post(&kind.collection(), kind.object("x")).await;
        let at_scale = format!("{path}/scale");
        let mut scale = cluster.ask(Method::GET, &at_scale, Value::Null).await.unwrap();
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)), "{path}");
        assert_eq!(scale["status"]["selector"], "app=x", "{path}");
        scale["spec"]["replicas"] = 2.into();
        // Whatever the controller writes meanwhile: the number is what is replaced.
        scale["metadata"]["resourceVersion"] = Value::Null;
        let answer = cluster.ask(Method::PUT, &at_scale, scale).await.unwrap();
        assert_eq!(answer["spec"]["replicas"], 2, "{path}");
        let object = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
        assert_eq!(object["spec"]["replicas"], 2, "{path}");
        cluster.ask(Method::PATCH, &at_scale, json!({"spec": {"replicas": 4}})).await.unwrap();
        let followed = |answer: &Result<Value, client::Error>| {
            let object = answer.as_ref().unwrap();
            object["spec"]["replicas"] == 4
                && object["status"]["observedGeneration"] == object["metadata"]["generation"]
        };
        cluster.until(&path, followed).await;
    }
    cluster.stop().await;
}

/// Whether the status has a condition of the type.
fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == condition)
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test", "message": "set by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Kinds whose controllers write conditions into their status, where others may write some too.
const WITH_STATUS: [&str; 7] = [
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "replicationcontrollers",
    "poddisruptionbudgets",
    "jobs",
];

/// What somebody else says in a status stays there beside what the controller says.
#[tokio::test]
async fn a_status_is_replaced_and_patched_under_a_path_of_its_own() {
    let cluster = Cluster::start().await;
    for kind in WITH_STATUS.map(kind) {
        let path = format!("{}/x", kind.collection());
        cluster.post(&kind.collection(), kind.object("x")).await;
        let at_status = format!("{path}/status");
        loop {
            let mut object = cluster.ask(Method::GET, &at_status, Value::Null).await.unwrap();
            let conditions = &mut object["status"]["conditions"];
            if conditions.is_null() {
                *conditions = json!([]);
            }
            conditions.as_array_mut().unwrap().push(condition("Replaced"));
            match cluster.ask(Method::PUT, &at_status, object).await {
                Ok(object) => break assert!(has(&object, "Replaced"), "{path}"),
                // The controller was faster.
                Err(error) => assert!(error.is_conflict(), "{path}: {error}"),
            }
        }
        let before = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
        assert!(has(&before, "Replaced"), "{path}: {}", before["status"]);
        let mut conditions = before["status"]["conditions"].clone();
        conditions.as_array_mut().unwrap().push(condition("Patched"));
        let patch = json!({"status": {"conditions": conditions}, "spec": {"paused": true}});
        let patched = cluster.ask(Method::PATCH, &at_status, patch).await.unwrap();
        assert!(has(&patched, "Patched"), "{path}");
        assert_eq!(patched["spec"], before["spec"], "{path}: a write to the status leaves the spec alone");
        // The controller sees to it once more.
        cluster.ask(Method::PATCH, &path, json!({"metadata": {"labels": {"app": "x"}}})).await.unwrap();
        let both = |answer: &Result<Value, client::Error>| {
            answer.as_ref().is_ok_and(|object| has(object, "Replaced") && has(object, "Patched"))
        };
        cluster.until(&path, both).await;
    }
    cluster.stop().await;
}

/// Names in a list of all namespaces.
async fn labelled(cluster: &Cluster, kind: &Kind, label: &str) -> Vec<String> {
    let path = format!("{}/{}?labelSelector=round={label}", kind.group, kind.plural);
    let list = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    let names = list["items"].as_array().unwrap().iter();
    names.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn collections_are_listed_over_all_namespaces_patched_and_deleted_by_label() {
    let cluster = Cluster::start().await;
    let others = ["cronjobs", "limitranges", "resourcequotas"];
    for kind in WITH_STATUS.into_iter().chain(others).map(kind) {
        for name in ["a", "b", "c"] {
            cluster.post(&kind.collection(), kind.object(name)).await;
        }
        assert_eq!(labelled(&cluster, &kind, "first").await, ["a", "b", "c"], "{}", kind.plural);
        let one = format!("{}/b", kind.collection());
        cluster.ask(Method::PATCH, &one, json!({"metadata": {"labels": {"round": "second"}}})).await.unwrap();
        assert_eq!(labelled(&cluster, &kind, "second").await, ["b"], "{}", kind.plural);
        let collection = format!("{}?labelSelector=round=first", kind.collection());
        cluster.ask(Method::DELETE, &collection, json!({"propagationPolicy": "Background"})).await.unwrap();
        let none = |answer: &Result<Value, client::Error>| {
            answer.as_ref().unwrap()["items"].as_array().unwrap().is_empty()
        };
        cluster.until(&collection, none).await;
        assert_eq!(labelled(&cluster, &kind, "second").await, ["b"], "{}", kind.plural);
        cluster.ask(Method::DELETE, &one, json!({"propagationPolicy": "Background"})).await.unwrap();
        cluster.until_gone(&one).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_priority_class_keeps_its_value_and_changes_otherwise() {
    let cluster = Cluster::start().await;
    let collection = "/apis/scheduling.k8s.io/v1/priorityclasses";
    for (name, value) in [("p1", 100), ("p2", 200)] {
        let class = json!({"metadata": {"name": name, "labels": {"round": "first"}}, "value": value,
            "description": "before"});
        cluster.post(collection, class).await;
    }
    let path = format!("{collection}/p1");
    let refused = cluster.ask(Method::PATCH, &path, json!({"value": 101})).await.unwrap_err();
    assert_eq!(refused.code(), 422, "{refused}");
    let patched = cluster.ask(Method::PATCH, &path, json!({"description": "after"})).await.unwrap();
    assert_eq!((&patched["description"], &patched["value"]), (&json!("after"), &json!(100)));
    let mut class = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    class["description"] = "replaced".into();
    assert_eq!(cluster.ask(Method::PUT, &path, class.clone()).await.unwrap()["description"], "replaced");
    class["value"] = 102.into();
    class["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(cluster.ask(Method::PUT, &path, class).await.unwrap_err().code(), 422);
    let first = format!("{collection}?labelSelector=round=first");
    cluster.ask(Method::DELETE, &first, Value::Null).await.unwrap();
    let left = cluster.ask(Method::GET, &first, Value::Null).await.unwrap();
    assert_eq!(left["items"], json!([]));
    cluster.stop().await;
}

/// The revisions of a DaemonSet, as somebody else may use them.
#[tokio::test]
async fn a_controller_revision_lives_like_any_object_and_its_owner_makes_it_again() {
    let cluster = Cluster::start().await;
    let kind = kind("daemonsets");
    cluster.post(&kind.collection(), kind.object("x")).await;
    let revisions = format!("{APPS}/namespaces/default/controllerrevisions");
    let some = |answer: &Result<Value, client::Error>| {
        !answer.as_ref().unwrap()["items"].as_array().unwrap().is_empty()
    };
    cluster.until(&revisions, some).await;
    let list = cluster.ask(Method::GET, &revisions, Value::Null).await.unwrap();
    let mut revision = list["items"][0].clone();
    let name = revision["metadata"]["name"].as_str().unwrap().to_owned();
    let path = format!("{revisions}/{name}");
    let labelled = json!({"metadata": {"labels": {"mine": "patched"}}});
    let patched = cluster.ask(Method::PATCH, &path, labelled).await.unwrap();
    assert_eq!(patched["metadata"]["labels"]["mine"], "patched");
    // Another of nobody, which only its name and data tell from the first.
    revision["metadata"] = json!({"name": "other", "labels": {"mine": "created"}});
    revision["revision"] = 7.into();
    let other = cluster.post(&revisions, revision.clone()).await;
    revision["metadata"] = other["metadata"].clone();
    revision["metadata"]["labels"]["mine"] = "replaced".into();
    cluster.ask(Method::PUT, &format!("{revisions}/other"), revision).await.unwrap();
    let replaced = format!("{APPS}/controllerrevisions?labelSelector=mine=replaced");
    let list = cluster.ask(Method::GET, &replaced, Value::Null).await.unwrap();
    assert_eq!(list["items"][0]["revision"], 7);
    cluster.ask(Method::DELETE, &format!("{revisions}?labelSelector=mine"), Value::Null).await.unwrap();
    cluster.until_gone(&format!("{revisions}/other")).await;
    let again = |answer: &Result<Value, client::Error>| {
        let items = answer.as_ref().unwrap()["items"].as_array().unwrap();
        items.len() == 1 && items[0]["metadata"]["labels"]["mine"].is_null()
    };
    // The next round of its owner finds that it is not there.
    cluster
        .ask(Method::PATCH, &format!("{}/x", kind.collection()), json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .unwrap();
    cluster.until(&revisions, again).await;
    cluster.stop().await;
}
