//! DaemonSets as their users meet them.

use crate::harness::Instance;

const AGENT: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: docker.io/library/busybox:1.36
        command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
"#;

fn rolled_out(instance: &Instance) {
    instance.kubectl(&["rollout", "status", "ds/agent", "--timeout=60s"]).ok();
}

fn pod(instance: &Instance) -> String {
    let names = instance
        .kubectl(&["get", "pods", "-l", "app=agent", "-o", "jsonpath={.items[*].metadata.name}"])
        .ok();
    assert_eq!(names.split_whitespace().count(), 1, "{names}");
    names
}

#[test]
fn each_node_that_is_meant_has_a_pod_and_rollouts_go_both_ways() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(AGENT);
    rolled_out(&instance);
    let first = pod(&instance);
    let events = instance.kubectl(&["describe", "ds", "agent"]).ok();
    assert!(events.contains(&format!("daemonset-controller  Created pod: {first}\n")), "{events}");
    instance.crash();
    instance.up();
    instance.kubectl(&["set", "image", "ds/agent", "c=busybox:1.37"]).ok();
    rolled_out(&instance);
    let gone =
        |pod: &str| instance.kubectl(&["wait", "--for=delete", &format!("pod/{pod}"), "--timeout=60s"]).ok();
    gone(&first);
    let second = pod(&instance);
    assert_eq!(instance.field(&format!("pod/{second}"), "{.spec.containers[0].image}"), "busybox:1.37");
    instance.kubectl(&["rollout", "undo", "ds/agent"]).ok();
    rolled_out(&instance);
    gone(&second);
    let third = pod(&instance);
    assert!(instance.field(&format!("pod/{third}"), "{.spec.containers[0].image}").ends_with("busybox:1.36"));
    let history = instance.kubectl(&["rollout", "history", "ds/agent"]).ok();
    let numbers: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(numbers, ["daemonset.apps/agent", "REVISION", "2", "3"], "1 became 3: {history}");

    // What the set no longer means loses its Pod, and gets one when it is meant again.
    let node = instance.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let selecting = r#"{"spec":{"template":{"spec":{"nodeSelector":{"agent":"yes"}}}}}"#;
    instance.kubectl(&["patch", "ds", "agent", "-p", selecting]).ok();
    gone(&third);
    assert_eq!(instance.field("ds/agent", "{.status.desiredNumberScheduled}"), "0");
    instance.kubectl(&["label", "node", &node, "agent=yes"]).ok();
    instance.eventually("the node is meant", || {
        match instance.field("ds/agent", "{.status.numberAvailable}") {
            one if one == "1" => Ok(()),
            other => Err(other),
        }
    });
}
