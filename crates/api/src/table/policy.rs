//! Who may do what, and what is let in.

use serde_json::{Value, json};

use super::common::{Row, scalar, text};

pub(super) fn role_binding(row: Row<'_>) -> Vec<Value> {
    let of = |kind: &str| {
        let named = |s: &Value| match text(s, "namespace") {
            namespace if kind == "ServiceAccount" => format!("{namespace}/{}", text(s, "name")),
            _ => text(s, "name").to_owned(),
        };
        let subjects = row.list("/subjects").iter().filter(|s| text(s, "kind") == kind);
        subjects.map(named).collect::<Vec<_>>().join(", ")
    };
    vec![
        json!(row.name()),
        json!(format!("{}/{}", row.text("/roleRef/kind"), row.text("/roleRef/name"))),
        json!(row.age()),
        json!(of("User")),
        json!(of("Group")),
        json!(of("ServiceAccount")),
    ]
}

pub(super) fn flow_schema(row: Row<'_>) -> Vec<Value> {
    vec![
        json!(row.name()),
        json!(row.text("/spec/priorityLevelConfiguration/name")),
        json!(row.int("/spec/matchingPrecedence")),
        json!(row.text_or("/spec/distinguisherMethod/type", "<none>")),
        json!(row.age()),
        json!(row.condition("Dangling").unwrap_or("?")),
    ]
}

pub(super) fn priority_level(row: Row<'_>) -> Vec<Value> {
    let first = |pointers: &[&str]| {
        let found = pointers.iter().find_map(|p| row.at(p)).filter(|v| v.is_number());
        found.cloned().unwrap_or_else(|| json!("<none>"))
    };
    let queuing = |field: &str| first(&[&format!("/spec/limited/limitResponse/queuing/{field}")]);
    vec![
        json!(row.name()),
        json!(row.text("/spec/type")),
        first(&["/spec/limited/nominalConcurrencyShares", "/spec/exempt/nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        json!(row.age()),
    ]
}

pub(super) fn webhooks(row: Row<'_>) -> Vec<Value> {
    vec![json!(row.name()), json!(row.count("/webhooks")), json!(row.age())]
}

pub(super) fn admission_policy(row: Row<'_>) -> Vec<Value> {
    let parameters = match row.at("/spec/paramKind") {
        None | Some(Value::Null) => "<unset>".to_owned(),
        Some(kind) => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")),
    };
    let rules = row.count("/spec/validations") + row.count("/spec/mutations");
    vec![json!(row.name()), json!(rules), json!(parameters), json!(row.age())]
}

pub(super) fn admission_binding(row: Row<'_>) -> Vec<Value> {
    let parameters =
        match row.at("/spec/paramRef/name").and_then(|n| scalar(Some(n))).filter(|n| !n.is_empty()) {
            Some(name) => format!("{}/{name}", row.text_or("/spec/paramRef/namespace", "*")),
            None if row.at("/spec/paramRef/selector").is_some() => row.selector("/spec/paramRef/selector"),
            None => "<unset>".to_owned(),
        };
    vec![json!(row.name()), json!(row.text("/spec/policyName")), json!(parameters), json!(row.age())]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_binding_lists_whom_it_binds() {
        let object = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "ann"}, {"kind": "User", "name": "bob"},
            {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        let cells = role_binding(Row { object: &object, now: Timestamp::UNIX_EPOCH });
        assert_eq!(cells[1], "Role/r");
        assert_eq!(cells[3..], ["ann, bob", "", "n/s"]);
    }
}
