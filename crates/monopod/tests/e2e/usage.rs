//! What Pods and nodes use, as kubectl shows it.

use crate::harness::Instance;

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: spins, image: "testserver:1", imagePullPolicy: Never, command: [sh, -c, "while :; do :; done"], resources: {limits: {cpu: 200m}}}
  - {name: idles, image: "testserver:1", imagePullPolicy: Never, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
"#;

#[test]
fn top_shows_what_pods_and_nodes_use() {
    let instance = Instance::start(&["testserver.tar"]);
    assert_eq!(instance.kubectl(&["top", "pods"]).ok(), "", "nothing runs");
    instance.apply(POD);
    instance.wait("condition=Ready", "pod/busy");
    // Two containers, each measured for a second at least.
    let lines = instance.eventually("both containers are measured", || {
        let out = instance.kubectl(&["top", "pods", "--containers", "--no-headers"]);
        let lines: Vec<String> = out.out.lines().map(str::to_owned).collect();
        if lines.len() == 2 { Ok(lines) } else { Err(format!("{}{}", out.out, out.err)) }
    });
    let used = |container: &str| -> (u64, String) {
        let line = lines.iter().find(|line| line.contains(container)).expect("a line for each");
        let mut columns = line.split_whitespace().skip(2);
        let millicores = columns.next().and_then(|cpu| cpu.strip_suffix('m')?.parse().ok()).expect(line);
        (millicores, columns.next().expect(line).to_owned())
    };
    let (spins, idles) = (used("spins"), used("idles"));
    assert!(spins.0 > 50 && spins.0 > idles.0, "{lines:?}");
    assert!(spins.1.ends_with("Mi") && idles.1.ends_with("Mi"), "{lines:?}");
    let nodes = instance.kubectl(&["top", "nodes", "--no-headers"]).ok();
    assert!(nodes.contains('%') && !nodes.contains("unknown"), "{nodes}");
    let node = instance.field("nodes", "{.items[0].metadata.name}");
    let raw =
        |path: &str| instance.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/{path}")]).ok();
    let metrics = raw("metrics/resource");
    let counted = r#"container_cpu_usage_seconds_total{container="spins",namespace="default",pod="busy"} "#;
    assert!(metrics.contains(counted), "{metrics}");
    let summary = raw("stats/summary");
    assert!(summary.contains("rootfs") && summary.contains("rxBytes"), "{summary}");
    dashboards_find_their_numbers(&raw("metrics/cadvisor"));
    let probes = raw("metrics/probes");
    let succeeded =
        probes.lines().find(|line| line.contains(r#"container="idles""#) && line.contains("successful"));
    let times = succeeded.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(times.is_some_and(|times| times > 0), "{probes}");
    let registered = instance.kubectl(&["get", "apiservice", "v1beta1.metrics.k8s.io", "--no-headers"]).ok();
    assert!(registered.split_whitespace().skip(1).take(2).eq(["Local", "True"]), "{registered}");
}

/// The Pod has used the processor and memory and has answered probes, and the numbers say so.
fn dashboards_find_their_numbers(metrics: &str) {
    let value = |family: &str, label: &str| {
        let found =
            metrics.lines().find(|line| line.starts_with(&format!("{family}{{")) && line.contains(label));
        let line = found.unwrap_or_else(|| panic!("{family} with {label} is not in\n{metrics}"));
        line.split_whitespace().rev().nth(1).and_then(|value| value.parse::<f64>().ok()).expect(line)
    };
    let spins = r#"container="spins""#;
    assert!(value("container_cpu_usage_seconds_total", spins) > 0.0, "{metrics}");
    assert!(value("container_memory_working_set_bytes", spins) > 0.0, "{metrics}");
    assert!(value("container_memory_rss", spins) > 0.0, "{metrics}");
    assert!(value("container_fs_usage_bytes", spins) >= 0.0, "{metrics}");
    assert!(value("container_cpu_usage_seconds_total", r#"id="/""#) > 0.0, "{metrics}");
    let interface = r#"interface="eth0""#;
    assert!(value("container_network_receive_bytes_total", interface) > 0.0, "{metrics}");
    assert!(value("container_network_transmit_bytes_total", r#"pod="busy""#) > 0.0, "{metrics}");
    assert!(value("machine_cpu_cores", "") >= 1.0 && value("machine_memory_bytes", "") > 1e6, "{metrics}");
}

const BUSY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  replicas: 1
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: spins, image: "testserver:1", imagePullPolicy: Never, command: [sh, -c, "while :; do :; done"], resources: {requests: {cpu: 20m}, limits: {cpu: 100m}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  minReplicas: 1
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
"#;

#[test]
fn an_autoscaler_adds_replicas_to_what_is_busy() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(BUSY);
    instance.eventually("the Deployment is scaled", || {
        match instance.field("deploy/busy", "{.spec.replicas}") {
            replicas if replicas == "3" => Ok(()),
            replicas => Err(format!("{replicas} {}", instance.field("hpa/busy", "{.status}"))),
        }
    });
    let described = instance.kubectl(&["describe", "hpa", "busy"]).ok();
    for words in [
        "New size: 3; reason: cpu resource utilization (percentage of request) above target",
        "ScalingLimited  True    TooManyReplicas",
        "ValidMetricFound",
    ] {
        assert!(described.contains(words), "{words} is not in\n{described}");
    }
}

/// Names of metrics in an expression: words with a `_` or known to be of Prometheus itself are told from labels
/// by what follows.
fn metrics_in(text: &str) -> std::collections::BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = ["apiserver_", "monopod_", "process_", "workqueue_", "scheduler_"];
    words.filter(|word| ours.iter().any(|start| word.starts_with(start))).map(str::to_owned).collect()
}

#[test]
fn what_the_alerts_and_the_dashboard_ask_for_is_measured() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.kubectl(&["run", "web", "--image=busybox:1.36", "--", "sleep", "3600"]).ok();
    instance.wait("condition=Ready", "pod/web");
    let there = instance.kubectl(&["get", "--raw", "/metrics"]).ok();
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(docs.join(file)).expect("a file");
        let asked = metrics_in(&text);
        assert!(asked.len() > 5, "{file}: {asked:?}");
        for name in asked {
            let found = there
                .lines()
                .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
            // Nothing has failed yet, so there is no number; that it would be counted its head says.
            let counted = there.contains(&format!("# TYPE {name} "));
            assert!(found || counted, "{file} asks for {name}, which is not among\n{there}");
        }
    }
    let started =
        there.lines().find(|line| line.starts_with("scheduler_schedule_attempts_total{result=\"scheduled\""));
    assert!(started.is_some_and(|line| !line.ends_with(" 0")), "{there}");
    let created = there.lines().find(|line| {
        line.starts_with("apiserver_request_total{verb=\"POST\",group=\"\",version=\"v1\",resource=\"pods\"")
    });
    assert!(created.is_some_and(|line| line.contains("code=\"201\"")), "{there}");
}
