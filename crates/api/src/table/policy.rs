//! Who may do what, and what is let in.

use serde_json::Value;

use super::cell::{Cell, cell};
use super::common::{Row, scalar, text};

pub(crate) fn role_binding(row: Row<'_>) -> Vec<Cell> {
    let of = |kind: &str| {
        let named = |s: &Value| match text(s, "namespace") {
            namespace if kind == "ServiceAccount" => format!("{namespace}/{}", text(s, "name")),
            _ => text(s, "name").to_owned(),
        };
        let subjects = row.list("/subjects").iter().filter(|s| text(s, "kind") == kind);
        subjects.map(named).collect::<Vec<_>>().join(", ")
    };
    vec![
        cell(row.name()),
        cell(format!("{}/{}", row.text("/roleRef/kind"), row.text("/roleRef/name"))),
        row.age(),
        cell(of("User")),
        cell(of("Group")),
        cell(of("ServiceAccount")),
    ]
}

pub(crate) fn flow_schema(row: Row<'_>) -> Vec<Cell> {
    vec![
        cell(row.name()),
        cell(row.text("/spec/priorityLevelConfiguration/name")),
        cell(row.int("/spec/matchingPrecedence")),
        cell(row.text_or("/spec/distinguisherMethod/type", "<none>")),
        row.age(),
        cell(row.condition("Dangling").unwrap_or("?")),
    ]
}

pub(crate) fn priority_level(row: Row<'_>) -> Vec<Cell> {
    let first = |pointers: &[&str]| {
        let found = pointers.iter().find_map(|p| row.at(p)).filter(|v| v.is_number());
        found.cloned().map_or_else(|| cell("<none>"), cell)
    };
    let queuing = |field: &str| first(&[&format!("/spec/limited/limitResponse/queuing/{field}")]);
    vec![
        cell(row.name()),
        cell(row.text("/spec/type")),
        first(&["/spec/limited/nominalConcurrencyShares", "/spec/exempt/nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        row.age(),
    ]
}

pub(crate) fn webhooks(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.count("/webhooks")), row.age()]
}

pub(crate) fn admission_policy(row: Row<'_>) -> Vec<Cell> {
    let parameters = match row.at("/spec/paramKind") {
        None | Some(Value::Null) => "<unset>".to_owned(),
        Some(kind) => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")),
    };
    let rules = row.count("/spec/validations") + row.count("/spec/mutations");
    vec![cell(row.name()), cell(rules), cell(parameters), row.age()]
}

pub(crate) fn admission_binding(row: Row<'_>) -> Vec<Cell> {
    let parameters =
        match row.at("/spec/paramRef/name").and_then(|n| scalar(Some(n))).filter(|n| !n.is_empty()) {
            Some(name) => format!("{}/{name}", row.text_or("/spec/paramRef/namespace", "*")),
            None if row.at("/spec/paramRef/selector").is_some() => row.selector("/spec/paramRef/selector"),
            None => "<unset>".to_owned(),
        };
    vec![cell(row.name()), cell(row.text("/spec/policyName")), cell(parameters), row.age()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cell::shown;
    use super::*;

    #[test]
    fn a_binding_lists_whom_it_binds() {
        let object = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "ann"}, {"kind": "User", "name": "bob"},
            {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        let cells = shown(role_binding(Row { object: &object }));
        assert_eq!(cells[1], "Role/r");
        assert_eq!(cells[3..], ["ann, bob", "", "n/s"]);
    }
}
