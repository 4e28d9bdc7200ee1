//! What kubectl does with objects, asked of the handler.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use std::io::Read as _;

use cluster::Cluster;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"key": value}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "busybox"}]}})
}

const MAPS: &str = "/api/v1/namespaces/demo/configmaps";
const PODS: &str = "/api/v1/namespaces/demo/pods";

async fn with_namespace() -> Cluster {
    let cluster = Cluster::start().await;
    let made = cluster.post("/api/v1/namespaces", &namespace("demo")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    cluster
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a version")
}

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect()
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let cluster = with_namespace().await;
    let made = cluster.post(MAPS, &config_map("a", "one")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made.body["metadata"][field].is_string(), "{field}: {}", made.text);
    }
    let read = cluster.get(&format!("{MAPS}/a")).await;
    assert_eq!((read.code, &read.body), (200, &made.body));
    let mut changed = read.body.clone();
    changed["data"]["key"] = "two".into();
    let put = cluster.put(&format!("{MAPS}/a"), &changed).await;
    assert_eq!(put.code, 200, "{}", put.text);
    assert!(version(&put.body) > version(&read.body));
    let stale = cluster.put(&format!("{MAPS}/a"), &changed).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.body["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let patched =
        cluster.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"more": "x"}})).await;
    assert_eq!(patched.body["data"], json!({"key": "two", "more": "x"}), "{}", patched.text);
    let gone = cluster.delete(&format!("{MAPS}/a"), &Value::Null).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")), "{}", gone.text);
    let missing = cluster.get(&format!("{MAPS}/a")).await;
    assert_eq!((missing.code, &missing.body["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version() {
    let cluster = with_namespace().await;
    let made = cluster.post(MAPS, &config_map("a", "one")).await;
    let put = cluster.put(&format!("{MAPS}/a"), &made.body).await;
    assert_eq!(version(&put.body), version(&made.body), "{}", put.text);
    let patched =
        cluster.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"key": "one"}})).await;
    assert_eq!(version(&patched.body), version(&made.body), "{}", patched.text);
}

#[tokio::test]
async fn creating_what_exists_or_where_nothing_is_fails_in_upstreams_words() {
    let cluster = with_namespace().await;
    cluster.post(MAPS, &config_map("a", "one")).await;
    let twice = cluster.post(MAPS, &config_map("a", "one")).await;
    assert_eq!((twice.code, &twice.body["message"]), (409, &json!("configmaps \"a\" already exists")));
    let nowhere = cluster.post("/api/v1/namespaces/nosuch/configmaps", &config_map("a", "one")).await;
    assert_eq!((nowhere.code, &nowhere.body["message"]), (404, &json!("namespaces \"nosuch\" not found")));
    let mut other = config_map("b", "one");
    other["metadata"]["namespace"] = "default".into();
    let moved = cluster.post(MAPS, &other).await;
    assert_eq!(
        moved.body["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
}

#[tokio::test]
async fn generated_names_follow_their_base() {
    let cluster = with_namespace().await;
    let mut map = config_map("x", "one");
    map["metadata"] = json!({"generateName": "web-"});
    let made = cluster.post(MAPS, &map).await;
    let name = made.body["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let cluster = with_namespace().await;
    let tried = cluster.post(&format!("{MAPS}?dryRun=All"), &config_map("a", "one")).await;
    assert_eq!(tried.code, 201, "{}", tried.text);
    assert!(tried.body["metadata"]["resourceVersion"].is_null());
    assert_eq!(cluster.get(&format!("{MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_state() {
    let cluster = with_namespace().await;
    for name in ["a", "b", "c", "d"] {
        cluster.post(MAPS, &config_map(name, "x")).await;
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first.body["kind"], "ConfigMapList");
    assert_eq!(names(&first.body), ["a", "b"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 3, "kube-root-ca.crt is there too");
    assert!(first.body["items"][0]["kind"].is_null(), "items of typed lists carry no kind");
    cluster.delete(&format!("{MAPS}/c"), &Value::Null).await;
    let token = first.body["metadata"]["continue"].as_str().expect("a token");
    let second = cluster.get(&format!("{MAPS}?limit=9&continue={token}")).await;
    assert_eq!(names(&second.body), ["c", "d", "kube-root-ca.crt"], "the page is of the first page's state");
    assert_eq!(second.body["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"]);
    let selected = cluster.get("/api/v1/configmaps?labelSelector=app%20in%20(a,d)").await;
    assert_eq!(names(&selected.body), ["a", "d"]);
    let named = cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dd")).await;
    assert_eq!(names(&named.body), ["d"]);
    let wrong = cluster.get(&format!("{MAPS}?fieldSelector=data.x%3Dd")).await;
    assert_eq!(wrong.code, 400, "{}", wrong.text);
}

#[tokio::test]
async fn a_watch_tells_every_change_and_what_ceases_to_match() {
    let cluster = with_namespace().await;
    cluster.post(MAPS, &config_map("a", "one")).await;
    let mut all = cluster.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da")).await;
    let mut labelled = cluster.watch(&format!("{MAPS}?watch=true&labelSelector=app%3Da")).await;
    assert_eq!(all.brief().await, "ADDED a");
    assert_eq!(labelled.brief().await, "ADDED a");
    cluster.post(MAPS, &config_map("b", "one")).await;
    let relabel = json!({"metadata": {"labels": {"app": "other"}}});
    let changed = cluster.patch(&format!("{MAPS}/a"), "merge-patch+json", &relabel).await;
    let left = labelled.next().await.expect("an event");
    assert_eq!((&left["type"], version(&left["object"])), (&json!("DELETED"), version(&changed.body)));
    assert_eq!(left["object"]["metadata"]["labels"]["app"], "a", "the object as it last matched");
    cluster.delete(&format!("{MAPS}/a"), &Value::Null).await;
    assert_eq!(all.brief().await, "MODIFIED a");
    assert_eq!(all.brief().await, "DELETED a");
}

#[tokio::test]
async fn a_watch_list_ends_its_initial_events_with_a_bookmark() {
    let cluster = with_namespace().await;
    let path = "/api/v1/namespaces/demo/serviceaccounts?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = cluster.watch(path).await;
    assert_eq!(watch.brief().await, "ADDED default");
    let mark = watch.next().await.expect("an event");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let refused = cluster.get("/api/v1/pods?watch=1&sendInitialEvents=true").await;
    assert_eq!(refused.code, 422, "{}", refused.text);
}

#[tokio::test]
async fn a_watch_ends_with_its_time() {
    let cluster = with_namespace().await;
    let mut watch = cluster.watch("/api/v1/nodes?watch=1&timeoutSeconds=1&allowWatchBookmarks=1").await;
    assert_eq!(watch.next().await.expect("the last bookmark")["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn versions_too_old_and_too_new_are_told_apart() {
    let cluster = with_namespace().await;
    let far = cluster.get("/api/v1/pods?resourceVersion=999999&resourceVersionMatch=NotOlderThan").await;
    assert_eq!((far.code, &far.body["reason"]), (504, &json!("Timeout")));
    let wrong = cluster.get("/api/v1/pods?resourceVersionMatch=Exact").await;
    assert_eq!(wrong.code, 422);
}

#[tokio::test]
async fn a_pod_is_defaulted_and_an_unscheduled_one_goes_at_once() {
    let cluster = with_namespace().await;
    let made = cluster.post(PODS, &pod("web")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"]["restartPolicy"], "Always");
    let gone = cluster.delete(&format!("{PODS}/web"), &Value::Null).await;
    assert_eq!((gone.code, &gone.body["kind"]), (200, &json!("Pod")), "{}", gone.text);
    assert_eq!(cluster.get(&format!("{PODS}/web")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let cluster = with_namespace().await;
    let mut map = config_map("held", "x");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(MAPS, &map).await;
    let path = format!("{MAPS}/held");
    let marked = cluster.delete(&path, &Value::Null).await;
    assert!(marked.body["metadata"]["deletionTimestamp"].is_string(), "{}", marked.text);
    let freed = cluster.patch(&path, "merge-patch+json", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200, "{}", freed.text);
    assert_eq!(cluster.get(&path).await.code, 404);
}

#[tokio::test]
async fn who_is_not_permitted_is_refused() {
    let cluster = with_namespace().await.asked_by(None);
    let refused = cluster.get("/api/v1/pods").await;
    assert_eq!(refused.code, 403, "{}", refused.text);
}

#[tokio::test]
async fn hostile_requests_are_answered() {
    let cluster = with_namespace().await;
    let big = "x".repeat(4 * 1024 * 1024);
    let large = cluster.post(MAPS, &config_map("a", &big)).await;
    assert_eq!(large.code, 413, "{}", large.text);
    assert_eq!(cluster.get("/api/v1/namespaces/demo/nosuch").await.code, 404);
    assert_eq!(cluster.put(PODS, &json!({})).await.code, 405);
    let none = cluster.get_as(PODS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(none.code, 406, "{}", none.text);
    assert_eq!(cluster.patch(&format!("{MAPS}/a"), "nosuch", &json!({})).await.code, 415);
    let lost = cluster.get("/nosuch").await;
    assert_eq!((lost.code, lost.text.as_str()), (404, "404 page not found\n"));
    let _ = lost.headers;
    assert_eq!(cluster.get(&format!("{MAPS}?continue=%00%ff&limit=1")).await.code, 400);
    assert_eq!(cluster.get("/api/v1/pods?limit=x").await.code, 400);
    assert_eq!(cluster.post("/api/v1/namespaces", &json!([])).await.code, 400);
}

#[tokio::test]
async fn a_fresh_cluster_can_be_used_at_once_and_a_restart_writes_nothing() {
    let cluster = Cluster::start().await;
    for path in [
        "/api/v1/namespaces/default",
        "/api/v1/namespaces/default/serviceaccounts/default",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
    ] {
        let found = cluster.get(path).await;
        assert_eq!(found.code, 200, "{path}: {}", found.text);
        assert!(found.body["metadata"]["uid"].is_string(), "{path}");
    }
    let before = cluster.get("/api/v1/pods").await;
    let again = cluster.restart().await;
    let after = again.get("/api/v1/pods").await;
    assert_eq!(before.body["metadata"], after.body["metadata"]);
}

#[tokio::test]
async fn discovery_comes_in_both_forms() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.get("/api").await.body["kind"], "APIVersions");
    assert_eq!(cluster.get("/apis/apps/v1").await.body["kind"], "APIResourceList");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let apis = cluster.get_as("/apis", aggregated).await;
    assert_eq!(apis.body["kind"], "APIGroupDiscoveryList");
    assert!(apis.headers.contains_key("etag"));
    assert_eq!(cluster.get("/apis/nosuch").await.code, 404);
    assert_eq!(cluster.get("/readyz?verbose").await.code, 200);
}

#[tokio::test]
async fn tables_are_what_kubectl_prints() {
    let cluster = with_namespace().await;
    cluster.post(PODS, &pod("web")).await;
    let table = cluster.get_as(PODS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!(table.body["kind"], "Table");
    assert_eq!(table.body["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table.body["rows"][0]["cells"][0], "web");
    assert_eq!(table.body["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

/// A list as text, whatever it came as, without the ages: those change while one looks.
async fn read_list(cluster: &Cluster, accept: &str, encoding: &str) -> Value {
    let request = http::Request::get(MAPS).header("accept", accept).header("accept-encoding", encoding);
    let response = cluster.send(request, wire::empty()).await;
    let packed = response.headers().get("content-encoding").is_some();
    assert_eq!(packed, encoding == "gzip");
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let mut text = String::new();
    if packed {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip");
    } else {
        text = String::from_utf8(bytes.to_vec()).expect("text");
    }
    assert!(text.ends_with("}\n"));
    let mut list: Value = serde_json::from_str(&text).expect("JSON");
    for row in list["rows"].as_array_mut().into_iter().flatten() {
        assert!(row["cells"][2].as_str().is_some_and(|age| age.ends_with('s')), "{row}");
        row["cells"][2].take();
    }
    list
}

#[tokio::test]
async fn a_large_list_says_the_same_compressed_and_follows_changes() {
    let cluster = with_namespace().await;
    for n in 0..70 {
        let mut map = config_map(&format!("m{n}"), &format!("value {n}"));
        map["metadata"]["annotations"]["padding"] = format!("{n}").repeat(1200).into();
        assert_eq!(cluster.post(MAPS, &map).await.code, 201);
    }
    for accept in [
        "application/json",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ] {
        let before = read_list(&cluster, accept, "identity").await;
        // The second comes from what the first has left.
        for _ in 0..2 {
            assert_eq!(read_list(&cluster, accept, "gzip").await, before);
        }
        let patch = json!({"metadata": {"annotations": {"seen": accept}}, "data": {accept.replace([';', '=', '/'], "."): "x"}});
        assert_eq!(cluster.patch(&format!("{MAPS}/m7"), "merge-patch+json", &patch).await.code, 200);
        let after = read_list(&cluster, accept, "gzip").await;
        assert_eq!(read_list(&cluster, accept, "identity").await, after);
        assert_ne!(before, after);
    }
}

#[tokio::test]
async fn an_autoscaler_is_applied_in_the_version_of_its_path() {
    let cluster = with_namespace().await;
    let base = MAPS.trim_end_matches("/configmaps").replace("/api/v1/", "/apis/autoscaling/v1/");
    let path = format!("{base}/horizontalpodautoscalers/h?fieldManager=one");
    let intent = |most: i64| {
        json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": most, "targetCPUUtilizationPercentage": 50,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    for (most, code) in [(3, 201), (4, 200)] {
        let applied = cluster.patch(&path, "apply-patch+yaml", &intent(most)).await;
        assert_eq!(applied.code, code, "{}", applied.text);
        assert_eq!(applied.body["spec"]["targetCPUUtilizationPercentage"], 50);
        let owner = &applied.body["metadata"]["managedFields"][0];
        assert_eq!(owner["apiVersion"], "autoscaling/v1");
        assert!(owner["fieldsV1"]["f:spec"].get("f:targetCPUUtilizationPercentage").is_some(), "{owner}");
    }
}

#[tokio::test]
async fn server_side_apply_creates_then_owns() {
    let cluster = with_namespace().await;
    let path = format!("{MAPS}/a?fieldManager=one");
    let first = cluster.patch(&path, "apply-patch+yaml", &config_map("a", "one")).await;
    assert_eq!(first.code, 201, "{}", first.text);
    assert_eq!(first.body["metadata"]["managedFields"][0]["manager"], "one");
    let same = cluster.patch(&path, "apply-patch+yaml", &config_map("a", "one")).await;
    assert_eq!((same.code, version(&same.body)), (200, version(&first.body)), "{}", same.text);
    let other = format!("{MAPS}/a?fieldManager=two");
    let conflict = cluster.patch(&other, "apply-patch+yaml", &config_map("a", "two")).await;
    assert_eq!(conflict.code, 409, "{}", conflict.text);
    let forced =
        cluster.patch(&format!("{other}&force=true"), "apply-patch+yaml", &config_map("a", "two")).await;
    assert_eq!(forced.body["data"]["key"], "two", "{}", forced.text);
    let nameless = cluster.patch(&format!("{MAPS}/a"), "apply-patch+yaml", &config_map("a", "x")).await;
    assert_eq!(nameless.code, 422, "{}", nameless.text);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let cluster = with_namespace().await;
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
    };
    let one = cluster.post("/api/v1/namespaces/demo/services", &service("one")).await;
    let two = cluster.post("/api/v1/namespaces/demo/services", &service("two")).await;
    let address =
        |made: &cluster::Answer| made.body["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    assert!(
        address(&one).starts_with("10.43.") && address(&one) != address(&two),
        "{} {}",
        one.text,
        two.text
    );
    let port = &one.body["spec"]["ports"][0]["nodePort"];
    assert!(port.is_number() && *port != two.body["spec"]["ports"][0]["nodePort"]);
    let mut update = service("one");
    update["metadata"]["labels"] = json!({"a": "b"});
    let kept = cluster.put("/api/v1/namespaces/demo/services/one", &update).await;
    assert_eq!(kept.body["spec"]["clusterIP"], one.body["spec"]["clusterIP"], "{}", kept.text);
}

#[tokio::test]
async fn a_pod_is_bound_once_and_scaled_kinds_tell_their_scale() {
    let cluster = with_namespace().await;
    cluster.post(PODS, &pod("web")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "one"}});
    let bound = cluster.post(&format!("{PODS}/web/binding"), &binding).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
    let again = cluster.post(&format!("{PODS}/web/binding"), &binding).await;
    assert_eq!(
        again.body["message"],
        "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"one\""
    );
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = cluster.post("/apis/apps/v1/namespaces/demo/deployments", &deployment).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let path = "/apis/apps/v1/namespaces/demo/deployments/d/scale";
    let scaled = cluster.patch(path, "merge-patch+json", &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(
        (&scaled.body["kind"], &scaled.body["spec"]["replicas"]),
        (&json!("Scale"), &json!(5)),
        "{}",
        scaled.text
    );
    assert_eq!(cluster.get(path).await.body["status"]["selector"], "a=b");
}

#[tokio::test]
async fn reviews_and_tokens_are_answered() {
    let cluster = with_namespace().await;
    let whoami = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &whoami).await;
    assert_eq!(
        (answer.code, &answer.body["status"]["userInfo"]["username"]),
        (201, &json!("admin")),
        "{}",
        answer.text
    );
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = cluster.post("/api/v1/namespaces/demo/serviceaccounts/default/token", &request).await;
    assert_eq!(token.code, 201, "{}", token.text);
    assert!(token.body["status"]["token"].as_str().is_some_and(|token| token.matches('.').count() == 2));
}

#[tokio::test]
async fn what_the_server_adds_to_objects_is_what_upstream_adds() {
    let cluster = with_namespace().await;
    let access = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}});
    let access = cluster.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &access).await;
    let owned = &access.body["metadata"]["managedFields"][0]["fieldsV1"];
    let expected = json!({"f:spec": {"f:nonResourceAttributes": {".": {}, "f:path": {}, "f:verb": {}}}});
    assert_eq!(*owned, expected, "a review has owners: {}", access.text);
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "metadata": {"name": "x"}, "spec": {"namespace": "demo"}});
    let rules = cluster.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await;
    assert_eq!((&rules.body["metadata"], &rules.body["spec"]), (&json!({}), &json!({})), "{}", rules.text);
    let alias = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
        "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let alias = cluster.post("/api/v1/namespaces/demo/services", &alias).await;
    assert_eq!((alias.code, alias.body["spec"].get("ports")), (201, None), "{}", alias.text);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    let volume = cluster.post("/api/v1/persistentvolumes", &volume).await;
    assert!(volume.body["status"]["lastPhaseTransitionTime"].is_string(), "{}", volume.text);
    let mut gated = pod("gated");
    gated["spec"]["schedulingGates"] = json!([{"name": "wait"}]);
    let gated = cluster.post(PODS, &gated).await;
    assert!(gated.body["status"]["conditions"][0]["lastTransitionTime"].is_string(), "{}", gated.text);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"},
        "secrets": [{"apiVersion": "v1", "kind": "Secret", "name": "s"}]});
    let account = cluster.post("/api/v1/namespaces/demo/serviceaccounts", &account).await;
    assert_eq!(account.body["secrets"], json!([{"name": "s"}]), "{}", account.text);
}

#[tokio::test]
async fn a_kind_whose_updates_name_a_version_refuses_those_that_do_not() {
    let cluster = Cluster::start().await;
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"},
        "spec": {}});
    let path = "/apis/storage.k8s.io/v1/csidrivers";
    assert_eq!(cluster.post(path, &driver).await.code, 201);
    let refused = cluster.put(&format!("{path}/d"), &driver).await;
    let words = "csidrivers.storage.k8s.io \"d\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    assert_eq!((refused.code, &refused.body["message"]), (422, &json!(words)));
}

#[tokio::test]
async fn logs_and_exec_reach_the_node_under_the_kubelets_paths() {
    struct Echo;
    impl server::Nodes for Echo {
        fn handler(&self, node: &str) -> Option<std::sync::Arc<dyn wire::Handler>> {
            (node == "one").then(|| {
                std::sync::Arc::new(
                    |request: wire::Request| -> futures_util::future::BoxFuture<'static, wire::Response> {
                        let text = format!("{} {}", request.method(), request.uri());
                        let mut response = wire::Response::new(wire::full(text));
                        if request.uri().query().is_some_and(|query| query.contains("previous")) {
                            *response.status_mut() = http::StatusCode::BAD_REQUEST;
                        }
                        Box::pin(async move { response })
                    },
                ) as std::sync::Arc<dyn wire::Handler>
            })
        }
    }
    let cluster = Cluster::with_nodes(std::sync::Arc::new(Echo)).await;
    cluster.post("/api/v1/namespaces", &namespace("demo")).await;
    cluster.post(PODS, &pod("web")).await;
    let early = cluster.get(&format!("{PODS}/web/exec?command=ls&stdout=1")).await;
    assert_eq!((early.code, &early.body["message"]), (400, &json!("pod web does not have a host assigned")));
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": {"name": "one"}});
    assert_eq!(cluster.post(&format!("{PODS}/web/binding"), &binding).await.code, 201);
    let log = cluster.get(&format!("{PODS}/web/log?follow=true")).await;
    assert_eq!(log.text, "GET /containerLogs/demo/web/main?follow=true");
    // What the node refuses is a Status to clients.
    let refused = cluster.get(&format!("{PODS}/web/log?previous=true")).await;
    assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")));
    assert_eq!(refused.body["message"], "GET /containerLogs/demo/web/main?previous=true");
    let exec = cluster.get(&format!("{PODS}/web/exec?command=ls&command=-l&stdout=true&tty=true")).await;
    assert_eq!(exec.text, "GET /exec/demo/web/main?output=1&tty=1&command=ls&command=-l");
    let forward = cluster.get(&format!("{PODS}/web/portforward?ports=80")).await;
    assert_eq!(forward.text, "GET /portForward/demo/web?ports=80");
}
