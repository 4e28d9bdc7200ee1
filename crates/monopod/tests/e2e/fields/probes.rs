//! Probes: what they ask, when they begin, and what follows.

use crate::harness::Instance;
use crate::volumes::{pod, sh, told};

/// The test server, which is healthy or not as it is told; `--port` twice.
const SERVES: &str = "image: \"testserver:1\", args: [serve, --port, \"8080\"]";

fn server(name: &str, more: &str) -> String {
    pod(name, "", &format!("{SERVES}, {more}")).replace("image: \"busybox:1.36\", ", "")
}

fn restarts(instance: &Instance, name: &str) -> u32 {
    instance.field(&format!("pod/{name}"), "{.status.containerStatuses[0].restartCount}").parse().unwrap_or(0)
}

#[test]
fn each_way_of_asking_makes_a_container_ready_or_not() {
    let instance = Instance::start(&["busybox.tar", "testserver.tar"]);
    let often = "periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1";
    let ways = [
        ("http", "httpGet: {path: /healthz, port: 8080, scheme: HTTP, httpHeaders: [{name: X-A, value: b}]}"),
        ("named", "httpGet: {path: /healthz, port: web}"),
        ("tcp", "tcpSocket: {port: 8080}"),
        ("exec", "exec: {command: [/bin/testserver, fetch, \"http://127.0.0.1:8080/healthz\"]}"),
    ];
    for (name, way) in ways {
        let ports = "ports: [{name: web, containerPort: 8080}]";
        instance.apply(&server(name, &format!("{ports}, readinessProbe: {{{way}, {often}}}")));
    }
    let refused = format!("readinessProbe: {{tcpSocket: {{port: 8081}}, {often}}}");
    instance.apply(&server("closed", &refused));
    instance.apply(&server("elsewhere", &format!("readinessProbe: {{httpGet: {{host: 192.0.2.1, path: /, port: 8080}}, periodSeconds: 1, timeoutSeconds: 1}}")));
    for (name, _) in ways {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    told(&instance, "closed", "Unhealthy", "Readiness probe failed: dial tcp");
    told(&instance, "elsewhere", "Unhealthy", "Readiness probe failed: Get \"http://192.0.2.1:8080/\"");
    assert_eq!(
        instance.field("pod/closed", "{.status.containerStatuses[0].ready} {.status.phase}"),
        "false Running"
    );
    // Sick, and well again: the container is neither killed nor started for it.
    let ask = |path: &str| {
        let url = format!("http://127.0.0.1:8080{path}");
        instance.kubectl(&["exec", "http", "--", "/bin/testserver", "fetch", &url]).ok()
    };
    ask("/health/off");
    instance.wait("condition=Ready=false", "pod/http");
    told(&instance, "http", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503");
    ask("/health/on");
    instance.wait("condition=Ready", "pod/http");
    assert_eq!(restarts(&instance, "http"), 0);
}

/// Pods whose probes fail at once, wait for each other, or have not begun.
fn probe_all(instance: &Instance) {
    let sick = "command: [sh, -c, \"trap 'exit 3' TERM; while :; do sleep 1 & wait; done\"]";
    let never = "exec: {command: [\"false\"]}, periodSeconds: 1";
    let at_once = "failureThreshold: 1, terminationGracePeriodSeconds: 1";
    instance.apply(&pod("sick", "", &format!("{sick}, livenessProbe: {{{never}, {at_once}}}")));
    instance.apply(&pod("slow", "", &format!("{sick}, startupProbe: {{{never}, {at_once}}}")));
    // The first holds the others back until the file is there: without it both would fail at once.
    let file = |name: &str| format!("exec: {{command: [test, -e, /tmp/{name}]}}, periodSeconds: 1");
    let held = format!(
        "{sick}, startupProbe: {{{}, failureThreshold: 1000}}, livenessProbe: {{{}, failureThreshold: 1}}, readinessProbe: {{{}, successThreshold: 2}}",
        file("up"),
        file("up"),
        file("up")
    );
    instance.apply(&pod("held", "", &held));
    instance.apply(&pod(
        "late",
        "",
        &format!("{sick}, livenessProbe: {{{never}, failureThreshold: 1, initialDelaySeconds: 3600}}"),
    ));
}

#[test]
fn liveness_restarts_and_startup_holds_it_back() {
    let instance = Instance::start(&["busybox.tar"]);
    probe_all(&instance);
    for name in ["sick", "slow"] {
        instance.eventually(&format!("{name} is restarted"), || match restarts(&instance, name) {
            0 => Err(String::new()),
            _ => Ok(()),
        });
    }
    told(&instance, "sick", "Unhealthy", "Liveness probe failed");
    told(&instance, "sick", "Killing", "Container c failed liveness probe, will be restarted");
    told(&instance, "slow", "Killing", "Container c failed startup probe, will be restarted");
    told(&instance, "held", "Unhealthy", "Startup probe failed");
    assert_eq!(instance.field("pod/held", "{.status.containerStatuses[0].started}"), "false");
    sh(&instance, "held", "touch /tmp/up").ok();
    instance.wait("condition=Ready", "pod/held");
    assert_eq!((restarts(&instance, "held"), restarts(&instance, "late")), (0, 0));
    assert_eq!(instance.field("pod/held", "{.status.containerStatuses[0].started}"), "true");
}

/// What probes have found is not forgotten with the daemon.
#[test]
fn results_outlive_the_daemon() {
    let mut instance = Instance::start(&["busybox.tar"]);
    let file = |name: &str| format!("exec: {{command: [test, -e, /tmp/{name}]}}, periodSeconds: 1");
    // Startup would never pass again: its file is taken away when it has.
    let probes = format!(
        "command: [sh, -c, \"touch /tmp/up /tmp/ready; exec sleep 3600\"], startupProbe: {{{}, failureThreshold: 1000}}, readinessProbe: {{{}, failureThreshold: 1000}}",
        file("up"),
        file("ready")
    );
    instance.apply(&pod("web", "", &probes));
    instance.wait("condition=Ready", "pod/web");
    let since = instance.field("pod/web", "{.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}");
    sh(&instance, "web", "rm /tmp/up /tmp/ready").ok();
    instance.crash();
    instance.up();
    // The agent has looked when the probe has failed once more, and it fails a thousand times first.
    told(&instance, "web", "Unhealthy", "Readiness probe failed");
    let ready = "{.status.containerStatuses[0].started} {.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}";
    assert_eq!(instance.field("pod/web", ready), "true true 0");
    assert_eq!(
        instance.field("pod/web", "{.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}"),
        since
    );
}
