//! Which node a Pod gets, and what it says when it gets none: on the node of the instance, and on nodes
//! that exist as objects only.

use std::fmt::Write as _;

use crate::harness::Instance;

fn pod(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: \"busybox:1.36\", \
         command: [sleep, \"1000\"]}}]\n{spec}\n---\n"
    )
}

/// Waits for a message of the PodScheduled condition, and for the event that says the same.
fn says(instance: &Instance, name: &str, wanted: &str) {
    let what = format!("pod/{name}");
    instance.eventually(name, || {
        let path = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";
        match instance.field(&what, path) {
            said if said == wanted => Ok(()),
            said => Err(said),
        }
    });
    instance.eventually("kubectl describe", || {
        let said = instance.kubectl(&["describe", &what]).ok();
        let line = said.lines().find(|line| line.contains("FailedScheduling") && line.ends_with(wanted));
        line.map(|_| ()).ok_or(said)
    });
}

/// Nodes without anything behind them, two in each zone: what is bound to them stays Pending.
fn make_nodes(instance: &Instance) {
    let mut nodes = String::new();
    for (name, zone) in [("f0", "a"), ("f1", "a"), ("f2", "b"), ("f3", "b")] {
        let _ = write!(
            nodes,
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{fake: \"yes\", zone: {zone}, \
             kubernetes.io/hostname: {name}}}}}\n---\n"
        );
    }
    instance.apply(&nodes);
    for name in ["f0", "f1", "f2", "f3"] {
        let patch = r#"{"status":{"allocatable":{"cpu":"4","memory":"8Gi","pods":"10"},"capacity":{"cpu":"4","memory":"8Gi","pods":"10"}}}"#;
        instance.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", patch]).ok();
    }
}

/// The node of a Pod, when it has one.
fn node_of(instance: &Instance, name: &str) -> String {
    instance.eventually(name, || match instance.field(&format!("pod/{name}"), "{.spec.nodeName}") {
        node if node.is_empty() => Err("no node yet".to_owned()),
        node => Ok(node),
    })
}

const ON_FAKES: &str = "  nodeSelector: {fake: \"yes\"}\n  tolerations: [{operator: Exists}]\n";

#[test]
fn pods_that_want_to_be_apart_wait_for_each_other() {
    let instance = Instance::start(&["busybox.tar"]);
    let apart = "  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                 [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: a}}}]}}";
    instance.apply(&pod("first", "app: a", apart));
    instance.wait("condition=Ready", "pod/first");
    instance.apply(&pod("second", "app: a", apart));
    says(
        &instance,
        "second",
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. preemption: \
         0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    let near = "  affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: later}}}]}}";
    instance.apply(&pod("follower", "app: b", near));
    says(
        &instance,
        "follower",
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: \
         0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    instance.apply(&pod("leader", "app: later", ""));
    instance.wait("condition=Ready", "pod/follower");
    instance.kubectl(&["delete", "pod", "first"]).ok();
    instance.wait("condition=Ready", "pod/second");
}

#[test]
fn pods_are_spread_over_zones_and_wait_when_they_cannot_be() {
    let instance = Instance::start(&[]);
    make_nodes(&instance);
    let spread = format!(
        "{ON_FAKES}  topologySpreadConstraints: [{{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: \
         DoNotSchedule, labelSelector: {{matchLabels: {{app: s}}}}}}]"
    );
    let mut zones = Vec::new();
    for n in 0..4 {
        let name = format!("s{n}");
        instance.apply(&pod(&name, "app: s", &spread));
        zones.push(if ["f0", "f1"].contains(&node_of(&instance, &name).as_str()) { "a" } else { "b" });
    }
    zones.sort_unstable();
    assert_eq!(zones, ["a", "a", "b", "b"]);
    // Three of a kind in one zone only: the fourth has to go to the other, which is cordoned.
    instance.apply(&pod("s4", "app: s", &spread));
    let first = node_of(&instance, "s4");
    let other = if ["f0", "f1"].contains(&first.as_str()) { "b" } else { "a" };
    instance.kubectl(&["label", "node", "-l", &format!("zone={other}"), "full=yes"]).ok();
    let bound = spread.replace(
        "tolerations: [{operator: Exists}]",
        "tolerations: [{operator: Exists}]\n  \
        affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
        [{matchExpressions: [{key: full, operator: DoesNotExist}]}]}}}",
    );
    let bound = bound.replace("whenUnsatisfiable", "nodeAffinityPolicy: Ignore, whenUnsatisfiable");
    instance.apply(&pod("s5", "app: s", &bound));
    says(
        &instance,
        "s5",
        "0/5 nodes are available: 2 node(s) didn't match pod topology spread constraints, \
         3 node(s) didn't match Pod's node affinity/selector. preemption: 0/5 nodes are available: \
         2 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn the_more_important_pod_takes_the_room_and_a_gated_or_foreign_one_waits() {
    let instance = Instance::start(&["busybox.tar"]);
    let node = instance.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    for (name, value, policy) in [("low", "1", ""), ("high", "100", ""), ("polite", "100", "Never")] {
        let mut class = format!(
            "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: {name}}}\nvalue: {value}\n"
        );
        if !policy.is_empty() {
            let _ = writeln!(class, "preemptionPolicy: {policy}");
        }
        instance.apply(&class);
    }
    // A host port is a room for one.
    let seat = |name: &str, spec: &str| {
        pod(name, "app: seat", spec)
            .replace("name: c,", "name: c, ports: [{containerPort: 80, hostPort: 30999}],")
    };
    // Held after its end, so that one can read why.
    let taker = seat("taker", "  priorityClassName: low")
        .replace("name: taker,", "name: taker, finalizers: [example.com/hold],");
    instance.apply(&taker);
    instance.wait("condition=Ready", "pod/taker");
    instance.apply(&seat("polite", "  priorityClassName: polite"));
    says(
        &instance,
        "polite",
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
         preemption: not eligible due to preemptionPolicy=Never.",
    );
    instance.kubectl(&["delete", "pod", "polite"]).ok();
    instance.apply(&seat("important", "  priorityClassName: high"));
    instance.wait("condition=Ready", "pod/important");
    let why = "{.status.conditions[?(@.type==\"DisruptionTarget\")]['status','reason','message']}";
    assert_eq!(
        instance.field("pod/taker", why),
        "True PreemptionByScheduler default-scheduler: preempting to accommodate a higher priority pod"
    );
    let open = r#"{"metadata":{"finalizers":null}}"#;
    instance.kubectl(&["patch", "pod", "taker", "--type=merge", "-p", open]).ok();
    instance.kubectl(&["wait", "--for=delete", "pod/taker", "--timeout=30s"]).ok();
    let uid = instance.field("pod/important", "{.metadata.uid}");
    let events = instance
        .kubectl(&[
            "get",
            "events",
            "--field-selector",
            "reason=Preempted",
            "-o",
            "jsonpath={.items[*].message}",
        ])
        .ok();
    assert_eq!(events, format!("Preempted by pod {uid} on node {node}"));

    instance.apply(&pod("gated", "app: g", "  schedulingGates: [{name: example.com/hold}]"));
    instance.apply(&pod("foreign", "app: g", "  schedulerName: somebody"));
    instance.apply(&pod("after", "app: g", ""));
    instance.wait("condition=Ready", "pod/after");
    assert_eq!(instance.field("pod/foreign", "{.spec.nodeName}{.status.conditions}"), "");
    let why = instance.field("pod/gated", "{.status.conditions[0].reason}: {.status.conditions[0].message}");
    assert_eq!(why, "SchedulingGated: Scheduling is blocked due to non-empty scheduling gates");
    let open = r#"{"spec":{"schedulingGates":null}}"#;
    instance.kubectl(&["patch", "pod", "gated", "--type=merge", "-p", open]).ok();
    instance.wait("condition=Ready", "pod/gated");
}

/// A set of Pods of a class, each of which takes so many seats.
fn set(name: &str, replicas: usize, seats: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{set: {name}}}}}\n  template:\n    metadata: {{labels: {{set: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      priorityClassName: {name}\n      containers: [{{name: c, image: \
         \"busybox:1.36\", command: [sleep, \"1000\"], resources: {{limits: {{example.com/seat: {seats}}}}}}}]\n---\n"
    )
}

/// Ten seats on the node, and three classes of those who want some.
fn offer_seats(instance: &Instance) {
    let node = instance.field("nodes", "{.items[0].metadata.name}");
    let seats =
        r#"{"status": {"capacity": {"example.com/seat": "10"}, "allocatable": {"example.com/seat": "10"}}}"#;
    instance.kubectl(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", seats]).ok();
    for (name, value) in [("low", 1), ("middle", 10), ("high", 100)] {
        instance.apply(&format!(
            "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: {name}}}\nvalue: {value}\n"
        ));
    }
}

#[test]
fn sets_and_critical_pods_take_the_seats_of_the_less_important() {
    let instance = Instance::start(&["busybox.tar"]);
    offer_seats(&instance);
    let available = |set: &str, number: &str| {
        instance.eventually(set, || {
            match instance.field(&format!("rs/{set}"), "{.status.availableReplicas}") {
                said if said == number => Ok(()),
                said => Err(said),
            }
        });
    };
    instance.apply(&set("low", 5, 2));
    available("low", "5");
    instance.apply(&set("middle", 2, 3));
    available("middle", "2");
    // Three of five went; their followers have no seat.
    available("low", "2");
    instance.apply(&set("high", 1, 9));
    available("high", "1");
    for name in ["low", "middle"] {
        available(name, "");
    }
    instance.kubectl(&["delete", "rs", "low", "middle", "high"]).ok();
    // A Pod with any grace is there until its node says that nothing of it is left.
    instance.kubectl(&["wait", "--for=delete", "pods", "--all", "--timeout=60s"]).ok();
    a_critical_pod_takes_the_seats_of_the_least_important(&instance);
}

fn a_critical_pod_takes_the_seats_of_the_least_important(instance: &Instance) {
    let seat = |name: &str, spec: &str| {
        pod(name, "app: seat", spec)
            .replace("name: c,", "name: c, resources: {limits: {example.com/seat: 5}},")
    };
    for name in ["low", "middle"] {
        instance.apply(&seat(name, &format!("  priorityClassName: {name}")));
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    let critical = seat("critical", "  priorityClassName: system-cluster-critical");
    instance.kubectl_with(&["apply", "-n", "kube-system", "-f", "-"], &critical).ok();
    let wait = ["-n", "kube-system", "wait", "--for=condition=Ready", "pod/critical", "--timeout=60s"];
    instance.kubectl(&wait).ok();
    instance.wait("delete", "pod/low");
    assert_eq!(instance.field("pod/middle", "{.status.phase}"), "Running");
}
