//! Deployments and ReplicaSets as a person works with them.

use crate::harness::Instance;

/// Serves its readiness from a file on a volume that it shares with a log sidecar.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes: [{name: logs, emptyDir: {}}]
      initContainers:
      - name: shipper
        image: docker.io/library/busybox:1.36
        restartPolicy: Always
        command: [sh, -c, "trap 'exit 0' TERM; touch /logs/app.log; tail -f /logs/app.log & wait"]
        volumeMounts: [{name: logs, mountPath: /logs}]
      containers:
      - name: app
        image: docker.io/library/busybox:1.36
        command: [sh, -c, "trap 'exit 0' TERM; echo up >> /logs/app.log; touch /tmp/up; while :; do sleep 0.1; done"]
        readinessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1}
        volumeMounts: [{name: logs, mountPath: /logs}]
"#;

fn rolled_out(instance: &Instance) {
    let told = instance.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    assert!(told.contains("successfully rolled out"), "{told}");
}

/// The names of its Pods that are not going.
fn pods(instance: &Instance) -> Vec<String> {
    let each = "jsonpath={range .items[*]}{.metadata.name},{.metadata.deletionTimestamp} {end}";
    let pods = instance.kubectl(&["get", "pods", "-l", "app=web", "-o", each]).ok();
    let mut names: Vec<String> =
        pods.split_whitespace().filter_map(|pod| pod.strip_suffix(',')).map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_deployment_rolls_out_up_and_back_and_takes_all_with_it() {
    let instance = Instance::start(&["busybox.tar"]);
    let applied = instance.kubectl_with(&["apply", "-f", "-"], WEB);
    assert!(!applied.err.contains("Warning"), "{}", applied.err);
    rolled_out(&instance);
    let first = pods(&instance);
    assert_eq!(first.len(), 2);
    instance.eventually("the sidecar ships the log", || {
        let log = instance.kubectl(&["logs", &first[0], "-c", "shipper"]).ok();
        if log.trim() == "up" { Ok(()) } else { Err(log) }
    });

    instance.kubectl(&["scale", "deploy/web", "--replicas=3"]).ok();
    rolled_out(&instance);
    let grown = pods(&instance);
    assert!(grown.len() == 3 && first.iter().all(|name| grown.contains(name)), "{first:?} {grown:?}");

    // An image that cannot be pulled: no Pod that serves is given up for it.
    instance.kubectl(&["set", "image", "deploy/web", "app=127.0.0.1:1/nowhere:1"]).ok();
    instance.eventually("the new Pod waits for its image", || {
        let reasons = instance.kubectl(&["get", "pods", "-l", "app=web"]).ok();
        if reasons.contains("ErrImagePull") || reasons.contains("ImagePullBackOff") {
            Ok(())
        } else {
            Err(reasons)
        }
    });
    assert_eq!(instance.field("deploy/web", "{.status.availableReplicas} {.status.updatedReplicas}"), "3 1");
    instance.kubectl(&["rollout", "undo", "deploy/web"]).ok();
    rolled_out(&instance);
    assert_eq!(pods(&instance), grown, "a rollback of what never came up costs no Pod");

    instance.kubectl(&["rollout", "restart", "deploy/web"]).ok();
    rolled_out(&instance);
    assert!(pods(&instance).iter().all(|name| !grown.contains(name)));
    let history = instance.kubectl(&["rollout", "history", "deploy/web"]).ok();
    let revisions: Vec<&str> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok().map(|_| line))
        .collect();
    assert_eq!(revisions.len(), 3, "{history}");

    let events = instance.kubectl(&["get", "events", "--field-selector=involvedObject.kind=Deployment"]).ok();
    assert!(events.contains("from 0 to 2") && events.contains("from 2 to 3"), "{events}");
    instance.kubectl(&["delete", "deploy", "web", "--cascade=foreground"]).ok();
    let left = instance.kubectl(&["get", "deploy,rs,pods", "-l", "app=web", "-o", "name"]).ok();
    assert_eq!(left, "");
}

#[test]
fn a_killed_daemon_comes_back_to_as_many_pods_as_there_were() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.kubectl_with(&["apply", "-f", "-"], WEB).ok();
    rolled_out(&instance);
    let before = pods(&instance);
    instance.crash();
    instance.up();
    rolled_out(&instance);
    assert_eq!(pods(&instance), before);
}
