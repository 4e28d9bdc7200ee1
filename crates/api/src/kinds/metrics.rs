//! `metrics.k8s.io`, which clusters of others get from metrics-server: what nodes and Pods use.

use serde_json::json;

use super::{Answered, Kind, READ_ONLY, cluster, namespaced};
use crate::schema::{Field, Held, List, ListKind, MapOf, Struct, Type};
use crate::table::metrics as table;

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// The kinds of the group, to be served beside those that are built in.
pub fn metrics() -> Vec<Kind> {
    let usage = || Field::optional("usage", Held::Map(MapOf { value: quantity(), atomic: false }.into()));
    let container = Struct::part(vec![Field::optional("name", Held::Static(Type::String)), usage()]);
    let containers = List { item: Held::Struct(container.into()), kind: ListKind::Atomic };
    let containers = Field::optional("containers", Held::List(containers.into()));
    let node = cluster(GROUP, VERSION, "NodeMetrics", "nodes", "").cells(table::node);
    let pod = namespaced(GROUP, VERSION, "PodMetrics", "pods", "").cells(table::pod);
    vec![
        described(node, usage(), "usage", json!({"type": "object", "additionalProperties": quantities()})),
        described(pod, containers, "containers", json!({"type": "array", "items": {"type": "object"}})),
    ]
}

fn quantity() -> Held {
    Held::Static(Type::Quantity)
}

fn quantities() -> serde_json::Value {
    json!({"$ref": "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity"})
}

fn described(kind: Kind, field: Field, name: &str, definition: serde_json::Value) -> Kind {
    let fields = vec![
        Field::optional("timestamp", Held::Static(Type::Time)),
        Field::optional("window", Held::Static(Type::String)),
        field,
    ];
    let full_name = format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{}", kind.kind);
    let schema = Struct::object(full_name, kind.kind.clone(), fields);
    let definition = json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
            "timestamp": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Time"},
            "window": {"type": "string"},
            name: definition,
        },
        "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": kind.kind}],
    });
    kind.verbs(READ_ONLY).answered(Answered::ByMeasuring).described(schema, definition)
}
