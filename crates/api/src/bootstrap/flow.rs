//! The default priority levels and flow schemas of API priority and fairness.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{resource, seconds};
use crate::kinds::Kind;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// How a level that is limited shares the server.
struct Level {
    name: &'static str,
    /// Of all requests in flight, in proportion to those of the other levels.
    shares: i64,
    /// How many percent others may borrow while it has no need.
    lendable_percent: i64,
    /// How many queues wait, and how many of them one flow is dealt; none refuses at once.
    queues: Option<(i64, i64)>,
}

const QUEUE_LENGTH: i64 = 50;

const fn queued(name: &'static str, shares: i64, lendable_percent: i64, queues: i64, hand: i64) -> Level {
    Level { name, shares, lendable_percent, queues: Some((queues, hand)) }
}

const LEVELS: &[Level] = &[
    Level { name: "catch-all", shares: 5, lendable_percent: 0, queues: None },
    queued("global-default", 20, 50, 128, 6),
    queued("leader-election", 10, 0, 16, 4),
    queued("node-high", 40, 25, 64, 6),
    queued("system", 30, 33, 64, 6),
    queued("workload-high", 40, 50, 128, 6),
    queued("workload-low", 100, 90, 128, 6),
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
pub(super) fn objects(now: Timestamp) -> impl Iterator<Item = (&'static Kind, Value)> {
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

fn level(level: &Level) -> Value {
    let response = match level.queues {
        None => json!({"type": "Reject"}),
        Some((queues, hand)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH},
        }),
    };
    json!({
        "apiVersion": VERSION,
        "kind": "PriorityLevelConfiguration",
        "metadata": metadata(level.name),
        "spec": {
            "type": "Limited",
            "limited": {
                "lendablePercent": level.lendable_percent,
                "limitResponse": response,
                "nominalConcurrencyShares": level.shares,
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
