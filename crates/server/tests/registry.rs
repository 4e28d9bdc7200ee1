//! A kind that comes and goes while the server runs.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use std::sync::Arc;

use api::kinds::{Conflict, Kind, SelectableField, Subresource};
use api::schema::{Field, Held, List, ListKind, Struct, Type};
use cluster::Cluster;
use serde_json::{Value, json};

const WIDGETS: &str = "/apis/example.com/v1/namespaces/demo/widgets";

/// A Widget: `spec: {color, size, parts: [{name, weight}]}`, with anything below `spec.free`.
fn widget() -> Kind {
    let text = || Held::Static(Type::String);
    let part = [("name", text()), ("weight", Held::Static(Type::Int64))];
    let part = Struct::part(part.map(|(name, ty)| Field::optional(name, ty)).into());
    let parts = List { item: Held::Struct(part.into()), kind: ListKind::Map(vec!["name".into()].into()) };
    let spec = vec![
        Field { default: Some(Arc::new(json!("red"))), ..Field::optional("color", text()) },
        Field { nullable: true, ..Field::optional("size", Held::Static(Type::Int64)) },
        Field::optional("free", Held::Struct(Struct::part(Vec::new()).preserving_unknown().into())),
        Field::optional("parts", Held::List(parts.into())),
    ];
    let status = Struct::part(Vec::new()).preserving_unknown();
    let fields = vec![
        Field::optional("spec", Held::Struct(Struct::part(spec).into())),
        Field::optional("status", Held::Struct(status.into())),
    ];
    let definition = json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"color": {"type": "string"}}}},
        "x-kubernetes-group-version-kind": [{"group": "example.com", "version": "v1", "kind": "Widget"}],
    });
    let color =
        SelectableField { name: "spec.color".into(), pointers: vec!["/spec/color".into()], absent: "" };
    Kind::namespaced("example.com", "v1", "Widget", "widgets", "widget")
        .short(["wd"])
        .subresources([Subresource::status("example.com", "v1", "Widget")])
        .fields([color])
        .described(Struct::object("com.example.v1.Widget", "Widget", fields), definition)
}

fn named(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn with_widgets() -> Cluster {
    let cluster = Cluster::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}});
    assert_eq!(cluster.post("/api/v1/namespaces", &namespace).await.code, 201);
    assert_eq!(cluster.get(WIDGETS).await.code, 404, "nothing is served before it is registered");
    cluster.registry().register(vec![widget()]).expect("no other kind has these names");
    cluster
}

#[tokio::test]
async fn a_registered_kind_is_served_like_any_other() {
    let cluster = with_widgets().await;
    let mut watch = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
    let spec = json!({"size": null, "free": {"a": [1, {"b": null}]}, "parts": [{"name": "x", "weight": 1}]});
    let made = cluster.post(WIDGETS, &named("a", &spec)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"]["color"], "red", "a default of the schema");
    assert!(made.body["spec"]["size"].is_null() && made.body["spec"].get("size").is_some(), "{}", made.text);
    assert_eq!(made.body["spec"]["free"], spec["free"], "what is to be preserved is kept as it is");
    let unknown = cluster.post(WIDGETS, &named("b", &json!({"colour": "red"}))).await;
    assert_eq!(unknown.headers["warning"], "299 - \"unknown field \\\"spec.colour\\\"\"");
    assert_eq!(unknown.body["spec"], json!({"color": "red"}), "unknown fields are pruned");
    let merged =
        cluster.patch(&format!("{WIDGETS}/b"), "merge-patch+json", &json!({"spec": {"color": "blue"}})).await;
    assert_eq!((merged.code, &merged.body["spec"]["color"]), (200, &json!("blue")), "{}", merged.text);
    let red = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(red.body["items"].as_array().map(Vec::len), Some(1), "{}", red.text);
    assert_eq!(
        (&red.body["kind"], &red.body["apiVersion"]),
        (&json!("WidgetList"), &json!("example.com/v1"))
    );
    let status = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "b"}, "status": {"ok": true}});
    let status = cluster.put(&format!("{WIDGETS}/b/status"), &status).await;
    assert_eq!((&status.body["spec"]["color"], &status.body["status"]["ok"]), (&json!("blue"), &json!(true)));
    assert_eq!(cluster.delete(&format!("{WIDGETS}/b"), &Value::Null).await.code, 200);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(watch.brief().await);
    }
    assert_eq!(seen, ["ADDED a", "ADDED b", "MODIFIED b", "MODIFIED b", "DELETED b"]);
}

#[tokio::test]
async fn fields_of_a_registered_kind_are_owned_by_their_appliers() {
    let cluster = with_widgets().await;
    let path = format!("{WIDGETS}/a?fieldManager=");
    let part = |name: &str, weight: u32| named("a", &json!({"parts": [{"name": name, "weight": weight}]}));
    let first = cluster.patch(&format!("{path}one"), "apply-patch+yaml", &part("x", 1)).await;
    assert_eq!(first.code, 201, "{}", first.text);
    let second = cluster.patch(&format!("{path}two"), "apply-patch+yaml", &part("y", 2)).await;
    let names: Vec<_> =
        second.body["spec"]["parts"].as_array().into_iter().flatten().map(|p| &p["name"]).collect();
    assert_eq!(names, ["x", "y"], "a list of keyed objects is merged: {}", second.text);
    let clash = cluster.patch(&format!("{path}two"), "apply-patch+yaml", &part("x", 3)).await;
    assert_eq!(clash.code, 409, "{}", clash.text);
}

#[tokio::test]
async fn discovery_and_openapi_tell_of_a_registered_kind() {
    let cluster = with_widgets().await;
    let groups = cluster.get("/apis").await;
    assert!(groups.text.contains(r#""preferredVersion":{"groupVersion":"example.com/v1","version":"v1"}"#));
    let listed = cluster.get("/apis/example.com/v1").await;
    assert_eq!(listed.body["resources"][0]["shortNames"], json!(["wd"]), "{}", listed.text);
    let aggregated = cluster.get_as("/apis", api::discovery::AGGREGATED).await;
    assert!(aggregated.text.contains(r#""resource":"widgets","responseKind":{"group":"example.com""#));
    let index = cluster.get("/openapi/v3").await;
    let url = index.body["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().expect("an entry");
    let document = cluster.get(url).await.body;
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["type"], "string", "{schema}");
    let list = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"]["get"];
    assert_eq!(list["operationId"], "listExampleComV1NamespacedWidget");
    let v2 = cluster.get("/openapi/v2").await.body;
    assert!(v2["definitions"]["com.example.v1.WidgetList"]["properties"]["items"].is_object());
}

#[tokio::test]
async fn a_withdrawn_kind_is_gone_and_its_watches_end() {
    let cluster = with_widgets().await;
    let hash = |index: &Value| index["paths"]["apis/example.com/v1"]["serverRelativeURL"].clone();
    let before = hash(&cluster.get("/openapi/v3").await.body);
    cluster.post(WIDGETS, &named("a", &json!({}))).await;
    let mut watch = cluster.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    cluster.delete(&format!("{WIDGETS}/a"), &Value::Null).await;
    assert_eq!(watch.brief().await, "DELETED a");
    cluster.registry().withdraw("example.com", "widgets");
    assert_eq!(watch.next().await, None, "nothing can happen any more to what is not served");
    for path in [WIDGETS, "/apis/example.com", "/apis/example.com/v1", "/openapi/v3/apis/example.com/v1"] {
        assert_eq!(cluster.get(path).await.code, 404, "{path}");
    }
    assert!(!cluster.get("/apis").await.text.contains("example.com"));
    // Another of the same name may follow, and OpenAPI's documents are told apart.
    cluster.registry().register(vec![widget().short(["other"])]).expect("nobody has the name");
    let listed = cluster.get("/apis/example.com/v1").await;
    assert_eq!(listed.body["resources"][0]["shortNames"], json!(["other"]));
    assert_ne!(hash(&cluster.get("/openapi/v3").await.body), before);
}

#[tokio::test]
async fn what_is_served_cannot_be_registered_under_another_name() {
    let cluster = with_widgets().await;
    let gadgets = Kind::namespaced("example.com", "v1", "Widget", "gadgets", "gadget");
    let refused = cluster.registry().register(vec![gadgets]);
    assert_eq!(refused, Err(Conflict::Served("Widget in example.com/v1".to_owned())));
    assert_eq!(cluster.get(WIDGETS).await.code, 200, "what was there is untouched");
}
