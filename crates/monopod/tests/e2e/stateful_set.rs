//! StatefulSets as their users meet them: names, order and volumes that stay, rollouts and rollbacks.

use crate::harness::Instance;

/// Each Pod writes its name into its volume when it starts; it is ready while /data/ready is there.
fn manifest(replicas: u32, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: None, selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: web}}
spec:
  serviceName: web
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  {more}
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: docker.io/library/busybox:1.36
        command: [sh, -c, "hostname -f >> /data/log; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
        volumeMounts: [{{name: data, mountPath: /data}}]
"#
    )
}

fn rolled_out(instance: &Instance) {
    instance.kubectl(&["rollout", "status", "sts/web", "--timeout=60s"]).ok();
}

fn log_of(instance: &Instance, pod: &str) -> Vec<String> {
    let log = instance.kubectl(&["exec", pod, "--", "cat", "/data/log"]).ok();
    log.lines().map(str::to_owned).collect()
}

fn until_gone(instance: &Instance, what: &str) {
    instance.kubectl(&["wait", "--for=delete", what, "--timeout=60s"]).ok();
}

fn uid(instance: &Instance, what: &str) -> String {
    instance.field(what, "{.metadata.uid}")
}

#[test]
fn a_set_keeps_names_and_data_over_scaling_and_a_restart_of_the_daemon() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(&manifest(2, ""));
    rolled_out(&instance);
    let name = "web-1.web.default.svc.cluster.local";
    assert_eq!(log_of(&instance, "web-1"), [name]);
    let volume = instance.field("pvc/data-web-1", "{.spec.volumeName}");
    assert_eq!(instance.field("pod/web-1", r"{.metadata.labels.apps\.kubernetes\.io/pod-index}"), "1");

    instance.kubectl(&["scale", "sts/web", "--replicas=1"]).ok();
    until_gone(&instance, "pod/web-1");
    assert_eq!(instance.field("pvc/data-web-1", "{.spec.volumeName}"), volume, "its data waits for it");
    let kept = uid(&instance, "pod/web-0");
    instance.crash();
    instance.up();
    instance.kubectl(&["scale", "sts/web", "--replicas=2"]).ok();
    rolled_out(&instance);
    assert_eq!(log_of(&instance, "web-1"), [name, name]);
    assert_eq!(uid(&instance, "pod/web-0"), kept, "what runs is not touched");
    assert_eq!(log_of(&instance, "web-0").len(), 1);

    let events = instance.kubectl(&["describe", "sts", "web"]).ok();
    for words in [
        "statefulset-controller  create Claim data-web-1 Pod web-1 in StatefulSet web success\n",
        "statefulset-controller  create Pod web-1 in StatefulSet web successful\n",
        "statefulset-controller  delete Pod web-1 in StatefulSet web successful\n",
    ] {
        assert!(events.contains(words), "{words} in {events}");
    }
    instance.kubectl(&["delete", "sts", "web", "--cascade=foreground"]).ok();
    assert_eq!(instance.kubectl(&["get", "pods", "-o", "name"]).ok(), "", "the Pods went first");
    assert_eq!(instance.field("pvc/data-web-0", "{.status.phase}"), "Bound");
}

#[test]
fn a_rollout_goes_from_the_highest_ordinal_to_the_partition_and_back() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&manifest(3, "podManagementPolicy: Parallel"));
    rolled_out(&instance);
    let image = |pod: &str| instance.field(pod, "{.spec.containers[0].image}");
    let first = uid(&instance, "pod/web-0");
    let partition = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":1}}}}"#;
    instance.kubectl(&["patch", "sts", "web", "-p", partition]).ok();
    instance.kubectl(&["set", "image", "sts/web", "c=busybox:1.37"]).ok();
    rolled_out(&instance);
    assert_eq!((image("pod/web-1"), image("pod/web-2")), ("busybox:1.37".into(), "busybox:1.37".into()));
    assert_eq!(uid(&instance, "pod/web-0"), first, "below the partition nothing happens");
    // What is lost below the partition comes back as it was.
    instance.kubectl(&["delete", "pod", "web-0"]).ok();
    instance.wait("condition=Ready", "pod/web-0");
    assert!(image("pod/web-0").ends_with("busybox:1.36"));

    let whole = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}"#;
    instance.kubectl(&["patch", "sts", "web", "-p", whole]).ok();
    instance.eventually("all Pods are of the new revision", || {
        let status = instance.field("sts/web", "{.status.currentRevision} {.status.updateRevision}");
        let (current, update) = status.split_once(' ').unwrap_or_default();
        if current == update { Ok(()) } else { Err(status) }
    });
    // A revision that never starts is mended by the next, although its Pods never become ready.
    instance.kubectl(&["set", "image", "sts/web", "c=localhost/none:1"]).ok();
    let waits = ["get", "pod/web-2", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}"];
    instance.eventually("the highest is broken", || {
        // Between its end and its follower's beginning there is none of the name.
        match instance.kubectl(&waits).out {
            reason if reason.starts_with("ErrImage") || reason.ends_with("BackOff") => Ok(()),
            other => Err(other),
        }
    });
    instance.kubectl(&["rollout", "undo", "sts/web"]).ok();
    rolled_out(&instance);
    assert_eq!(image("pod/web-2"), "busybox:1.37");
    let history = instance.kubectl(&["rollout", "history", "sts/web"]).ok();
    let numbers: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(numbers, ["statefulset.apps/web", "REVISION", "1", "3", "4"], "2 became 4: {history}");
}

#[test]
fn claims_go_with_what_the_retention_policy_names() {
    let instance = Instance::start(&["busybox.tar"]);
    let policy = "persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}";
    instance.apply(&manifest(2, policy));
    rolled_out(&instance);
    assert_eq!(instance.field("pvc/data-web-1", "{.metadata.ownerReferences[*].kind}"), "StatefulSet");
    let first = uid(&instance, "pvc/data-web-1");
    instance.kubectl(&["scale", "sts/web", "--replicas=1"]).ok();
    until_gone(&instance, "pvc/data-web-1");
    instance.kubectl(&["scale", "sts/web", "--replicas=2"]).ok();
    rolled_out(&instance);
    assert_ne!(uid(&instance, "pvc/data-web-1"), first);
    assert_eq!(log_of(&instance, "web-1").len(), 1, "a new volume");
    instance.kubectl(&["delete", "sts", "web"]).ok();
    until_gone(&instance, "pvc/data-web-0");
    until_gone(&instance, "pvc/data-web-1");
}
