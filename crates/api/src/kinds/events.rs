//! The kinds of the group `events.k8s.io`.

use super::{Kind, SelectableField, namespaced, text};
use crate::convert;
use crate::table::cluster as cluster_table;

const GROUP: &str = "events.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(GROUP, "v1", "Event", "events", "event")
            .short(["ev"])
            .fields(event_fields())
            .stored_as("", "v1")
            .converts(convert::event_to_new_names, convert::event_to_core_names)
            .written_within(super::EVENTS_WITHIN)
            .creates_on_update()
            .cells(cluster_table::event),
    ]
}

/// The names of `events.k8s.io`; the values are those of the stored core Event.
fn event_fields() -> Vec<SelectableField> {
    vec![
        text("reason", ["/reason"]),
        text("regarding.apiVersion", ["/involvedObject/apiVersion", "/regarding/apiVersion"]),
        text("regarding.fieldPath", ["/involvedObject/fieldPath", "/regarding/fieldPath"]),
        text("regarding.kind", ["/involvedObject/kind", "/regarding/kind"]),
        text("regarding.name", ["/involvedObject/name", "/regarding/name"]),
        text("regarding.namespace", ["/involvedObject/namespace", "/regarding/namespace"]),
        text("regarding.resourceVersion", ["/involvedObject/resourceVersion", "/regarding/resourceVersion"]),
        text("regarding.uid", ["/involvedObject/uid", "/regarding/uid"]),
        text("reportingController", ["/reportingComponent", "/reportingController"]),
        text("type", ["/type"]),
    ]
}
