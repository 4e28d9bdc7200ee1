//! The default priority levels and flow schemas of API priority and fairness.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{resource, seconds};
use crate::resource::Resource;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Name, shares, and queues with the size of a hand and the length of a queue.
const LEVELS: &[(&str, i64, Option<(i64, i64, i64)>)] = &[
    ("catch-all", 5, None),
    ("global-default", 20, Some((128, 6, 50))),
    ("leader-election", 10, Some((16, 4, 50))),
    ("node-high", 40, Some((64, 6, 50))),
    ("system", 30, Some((64, 6, 50))),
    ("workload-high", 40, Some((128, 6, 50))),
    ("workload-low", 100, Some((128, 6, 50))),
];

const GROUPS: &str = "Group";
const USERS: &str = "User";

/// Name, level, precedence, by what flows are told apart, kind and names of subjects,
/// and what is meant.
type Schema =
    (&'static str, &'static str, i64, Option<&'static str>, &'static str, &'static [&'static str], Meant);

#[derive(Clone, Copy)]
enum Meant {
    Everything,
    Probes,
    Leases,
    NodesAndLeases,
}

const BY_USER: Option<&str> = Some("ByUser");
const EVERYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];

const SCHEMAS: &[Schema] = &[
    ("exempt", "exempt", 1, None, GROUPS, &["system:masters"], Meant::Everything),
    ("probes", "exempt", 2, None, GROUPS, EVERYBODY, Meant::Probes),
    (
        "system-leader-election",
        "leader-election",
        100,
        BY_USER,
        USERS,
        &["system:kube-controller-manager", "system:kube-scheduler"],
        Meant::Leases,
    ),
    ("system-node-high", "node-high", 400, BY_USER, GROUPS, &["system:nodes"], Meant::NodesAndLeases),
    ("system-nodes", "system", 500, BY_USER, GROUPS, &["system:nodes"], Meant::Everything),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        Some("ByNamespace"),
        USERS,
        &["system:kube-controller-manager"],
        Meant::Everything,
    ),
    (
        "kube-scheduler",
        "workload-high",
        800,
        Some("ByNamespace"),
        USERS,
        &["system:kube-scheduler"],
        Meant::Everything,
    ),
    (
        "kube-system-service-accounts",
        "workload-high",
        900,
        Some("ByNamespace"),
        "ServiceAccount",
        &["*"],
        Meant::Everything,
    ),
    (
        "service-accounts",
        "workload-low",
        9000,
        BY_USER,
        GROUPS,
        &["system:serviceaccounts"],
        Meant::Everything,
    ),
    ("global-default", "global-default", 9900, BY_USER, GROUPS, EVERYBODY, Meant::Everything),
    ("catch-all", "catch-all", 10_000, BY_USER, GROUPS, EVERYBODY, Meant::Everything),
];

/// All of them.
pub(super) fn objects(now: Timestamp) -> impl Iterator<Item = (&'static Resource, Value)> {
    let levels = std::iter::once(exempt()).chain(LEVELS.iter().map(level));
    let levels = levels.map(|o| (resource(GROUP, "prioritylevelconfigurations"), o));
    levels.chain(SCHEMAS.iter().map(move |s| (resource(GROUP, "flowschemas"), schema(s, now))))
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

fn exempt() -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "PriorityLevelConfiguration",
        "metadata": metadata("exempt"),
        "spec": {"type": "Exempt", "exempt": {"lendablePercent": 0, "nominalConcurrencyShares": 0}},
        "status": {},
    })
}

fn level((name, shares, queues): &(&str, i64, Option<(i64, i64, i64)>)) -> Value {
    let response = match queues {
        None => json!({"type": "Reject"}),
        Some((queues, hand_size, length)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand_size, "queueLengthLimit": length},
        }),
    };
    let lendable = match *name {
        "global-default" => 50,
        "node-high" => 25,
        "system" => 33,
        "workload-high" => 50,
        "workload-low" => 90,
        _ => 0,
    };
    json!({
        "apiVersion": VERSION,
        "kind": "PriorityLevelConfiguration",
        "metadata": metadata(name),
        "spec": {
            "type": "Limited",
            "limited": {
                "lendablePercent": lendable,
                "limitResponse": response,
                "nominalConcurrencyShares": shares,
            },
        },
        "status": {},
    })
}

fn schema((name, level, precedence, distinguish, kind, names, meant): &Schema, now: Timestamp) -> Value {
    let subject = |name: &&str| match *kind {
        "Group" => json!({"kind": "Group", "group": {"name": name}}),
        "User" => json!({"kind": "User", "user": {"name": name}}),
        _ => json!({"kind": kind, "serviceAccount": {"name": name, "namespace": "kube-system"}}),
    };
    let mut rule = rules(*meant);
    rule["subjects"] = names.iter().map(subject).collect();
    let mut spec = json!({
        "matchingPrecedence": precedence,
        "priorityLevelConfiguration": {"name": level},
        "rules": [rule],
    });
    if let Some(method) = distinguish {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" and it exists"
    );
    json!({
        "apiVersion": VERSION,
        "kind": "FlowSchema",
        "metadata": metadata(name),
        "spec": spec,
        "status": {"conditions": [{
            "type": "Dangling",
            "status": "False",
            "reason": "Found",
            "message": message,
            "lastTransitionTime": seconds(now),
        }]},
    })
}

fn rules(meant: Meant) -> Value {
    let resources = |groups: &[&str],
                     resources: &[&str],
                     namespaces: &[&str],
                     cluster: bool,
                     verbs: &[&str]| {
        let mut rule =
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": namespaces});
        if cluster {
            rule["clusterScope"] = json!(true);
        }
        rule
    };
    match meant {
        Meant::Everything => json!({
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "resourceRules": [resources(&["*"], &["*"], &["*"], true, &["*"])],
        }),
        Meant::Probes => json!({
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
        }),
        Meant::Leases => {
            let verbs = ["get", "create", "update"];
            json!({"resourceRules": [resources(&["coordination.k8s.io"], &["leases"], &["*"], false, &verbs)]})
        }
        Meant::NodesAndLeases => json!({"resourceRules": [
            resources(&[""], &["nodes", "nodes/status"], &["*"], true, &["*"]),
            resources(&["coordination.k8s.io"], &["leases"], &["*"], false, &["*"]),
        ]}),
    }
}
