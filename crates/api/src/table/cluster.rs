//! Nodes, namespaces, Events and the small kinds around them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cell::{Cell, cell};
use super::common::{Row, scalar, text};
use super::human_duration;

pub(crate) fn node(row: Row<'_>) -> Vec<Cell> {
    let mut status = match row.condition("Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if row.flag("/spec/unschedulable", false) {
        status.push_str(",SchedulingDisabled");
    }
    let info = |field: &str| row.text_or(&format!("/status/nodeInfo/{field}"), "<unknown>");
    vec![
        cell(row.name()),
        cell(status),
        cell(roles(row)),
        row.age(),
        cell(row.text("/status/nodeInfo/kubeletVersion")),
        cell(address(row, "InternalIP")),
        cell(address(row, "ExternalIP")),
        cell(info("osImage")),
        cell(info("kernelVersion")),
        cell(info("containerRuntimeVersion")),
    ]
}

fn roles(row: Row<'_>) -> String {
    let labels = row.at("/metadata/labels").and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> =
        labels.into_iter().flatten().filter_map(role).filter(|r| !r.is_empty()).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'a>(row: Row<'a>, kind: &str) -> &'a str {
    let found = row.list("/status/addresses").iter().find(|a| text(a, "type") == kind);
    found.map_or("<none>", |a| text(a, "address"))
}

pub(crate) fn namespace(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.text("/status/phase")), row.age()]
}

/// An Event in the words of either group.
pub(crate) fn event(row: Row<'_>) -> Vec<Cell> {
    let first =
        |pointers: &[&str]| pointers.iter().map(|p| row.text(p)).find(|t| !t.is_empty()).unwrap_or_default();
    let first_seen = Cell::since(first(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]));
    let last = first(&["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]);
    let last_seen = if last.is_empty() { first_seen.clone() } else { Cell::since(last) };
    let counts = ["/series/count", "/count", "/deprecatedCount"];
    let count = counts.iter().map(|p| row.int(p)).find(|c| *c != 0).unwrap_or(1);
    let kind = first(&["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
    let object = match first(&["/involvedObject/name", "/regarding/name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = first(&[
        "/source/component",
        "/deprecatedSource/component",
        "/reportingComponent",
        "/reportingController",
    ]);
    let source = match first(&["/source/host", "/deprecatedSource/host", "/reportingInstance"]) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    };
    vec![
        last_seen,
        cell(row.text("/type")),
        cell(row.text("/reason")),
        cell(object),
        cell(first(&["/involvedObject/fieldPath", "/regarding/fieldPath"])),
        cell(source),
        cell(first(&["/message", "/note"]).trim()),
        first_seen,
        cell(count),
        cell(row.name()),
    ]
}

pub(crate) fn config_map(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.count("/data") + row.count("/binaryData")), row.age()]
}

pub(crate) fn secret(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.text("/type")), cell(row.count("/data")), row.age()]
}

pub(crate) fn service_account(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), row.age()]
}

pub(crate) fn resource_quota(row: Row<'_>) -> Vec<Cell> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let used = row.at("/status/used");
    for (name, hard) in row.at("/status/hard").and_then(Value::as_object).into_iter().flatten() {
        let used = scalar(used.and_then(|u| u.get(name))).unwrap_or_else(|| "0".to_owned());
        let cell = format!("{name}: {used}/{}", scalar(Some(hard)).unwrap_or_default());
        if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![cell(row.name()), cell(requests.join(", ")), cell(limits.join(", ")), row.age()]
}

pub(crate) fn component_status(row: Row<'_>) -> Vec<Cell> {
    let healthy = row.list("/conditions").iter().find(|c| text(c, "type") == "Healthy");
    let status = match healthy.map(|c| text(c, "status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let said = |field| healthy.map(|c| text(c, field)).unwrap_or_default();
    vec![cell(row.name()), cell(status), cell(said("message")), cell(said("error"))]
}

pub(crate) fn lease(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.text("/spec/holderIdentity")), row.age()]
}

pub(crate) fn priority_class(row: Row<'_>) -> Vec<Cell> {
    vec![
        cell(row.name()),
        cell(row.int("/value")),
        cell(row.flag("/globalDefault", false)),
        row.age(),
        cell(row.text("/preemptionPolicy")),
    ]
}

pub(crate) fn runtime_class(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.text("/handler")), row.age()]
}

pub(crate) fn signing_request(row: Row<'_>) -> Vec<Cell> {
    let duration = row.at("/spec/expirationSeconds").and_then(Value::as_i64);
    let has = |kind: &str| row.condition(kind).is_some();
    let mut condition = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !row.text("/status/certificate").is_empty() {
        condition.push_str(",Issued");
    }
    vec![
        cell(row.name()),
        row.age(),
        cell(row.text_or("/spec/signerName", "<none>")),
        cell(row.text("/spec/username")),
        cell(duration.map_or_else(|| "<none>".to_owned(), human_duration)),
        cell(condition),
    ]
}

pub(crate) fn api_service(row: Row<'_>) -> Vec<Cell> {
    let service = match row.at("/spec/service") {
        None | Some(Value::Null) => "Local".to_owned(),
        Some(service) => format!("{}/{}", text(service, "namespace"), text(service, "name")),
    };
    let conditions = row.list("/status/conditions");
    let available = match conditions.iter().find(|c| text(c, "type") == "Available") {
        None => "Unknown".to_owned(),
        Some(c) if text(c, "status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
    };
    vec![cell(row.name()), cell(service), cell(available), row.age()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cell::shown;
    use super::*;

    fn row(object: &Value) -> Row<'_> {
        Row { object }
    }

    #[test]
    fn a_node_shows_state_roles_and_versions() {
        let object = json!({
            "metadata": {"name": "one", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
                       "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"}},
        });
        let cells = shown(node(row(&object)));
        assert_eq!(cells[1..3], ["Ready,SchedulingDisabled", "control-plane,worker"]);
        assert_eq!(cells[4..9], ["v1.36.0", "192.0.2.7", "<none>", "Debian", "<unknown>"]);
        assert_eq!(shown(node(row(&json!({}))))[1..3], ["Unknown", "<none>"]);
    }

    #[test]
    fn an_event_shows_its_object_and_how_often() {
        let object = json!({
            "metadata": {"name": "e"}, "type": "Warning", "reason": "BackOff", "message": " again \n", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "source": {"component": "kubelet", "host": "one"},
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:00Z",
        });
        assert_eq!(
            shown(event(row(&object))),
            [
                json!("60s"),
                json!("Warning"),
                json!("BackOff"),
                json!("pod/p"),
                json!("spec.containers{c}"),
                json!("kubelet, one"),
                json!("again"),
                json!("60m"),
                json!(3),
                json!("e")
            ]
        );
        let new =
            json!({"eventTime": "2026-01-01T00:59:30.000000Z", "regarding": {"kind": "Node"}, "note": "n"});
        assert_eq!(shown(event(row(&new)))[0], "30s");
        assert_eq!(shown(event(row(&new)))[3], "node");
    }

    #[test]
    fn a_quota_shows_requests_and_limits_apart() {
        let object = json!({"status": {"hard": {"pods": "4", "limits.cpu": "2"}, "used": {"pods": "1", "limits.cpu": "500m"}}});
        assert_eq!(shown(resource_quota(row(&object)))[1..3], ["pods: 1/4", "limits.cpu: 500m/2"]);
    }
}
