//! What people do with kubectl, on Pods of a ReplicationController and on objects of other kinds.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::Instance;
use crate::once::apply;

/// A set of servers of any kind that has replicas.
fn servers(api: &str, kind: &str, name: &str, selector: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": {"replicas": 2, "selector": selector,
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "server", "image": "testserver:1", "ports": [{"containerPort": 8080}]}]}}}})
}

/// The names of the Pods of a set, once there are so many and all are ready.
#[track_caller]
fn pods(instance: &Instance, app: &str, number: usize) -> Vec<String> {
    instance.eventually(app, || {
        let each = "jsonpath={range .items[*]}{.metadata.name},{.metadata.deletionTimestamp},{.status.conditions[?(@.type=='Ready')].status} {end}";
        let said = instance.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", each]).ok();
        let names: Vec<String> =
            said.split_whitespace().filter_map(|pod| pod.strip_suffix(",,True")).map(str::to_owned).collect();
        if names.len() == number && said.split_whitespace().count() == number { Ok(names) } else { Err(said) }
    })
}

#[test]
fn each_replica_of_a_set_serves_by_its_own_name() {
    let instance = Instance::start(&["testserver.tar"]);
    apply(
        &instance,
        &[
            servers("v1", "ReplicationController", "rc", json!({"app": "rc"})),
            servers("apps/v1", "ReplicaSet", "rs", json!({"matchLabels": {"app": "rs"}})),
        ],
    );
    for app in ["rc", "rs"] {
        for pod in pods(&instance, app, 2) {
            let path = format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/");
            assert_eq!(instance.kubectl(&["get", "--raw", &path]).ok(), format!("hello from {pod}\n"));
        }
    }
}

#[test]
fn a_replication_controller_is_scaled_shown_exposed_patched_and_stopped() {
    let instance = Instance::start(&["testserver.tar"]);
    apply(&instance, &[servers("v1", "ReplicationController", "web", json!({"app": "web"}))]);
    pods(&instance, "web", 2);
    for number in [1, 2] {
        instance.kubectl(&["scale", "rc", "web", &format!("--replicas={number}")]).ok();
        pods(&instance, "web", number);
    }
    let all = pods(&instance, "web", 2);
    it_is_described(&instance, &all[0]);
    it_is_exposed_and_patched(&instance, &all);
    instance.kubectl(&["delete", "rc", "web", "--grace-period=0", "--force"]).ok();
    pods(&instance, "web", 0);
}

fn it_is_described(instance: &Instance, pod: &str) {
    let described = instance.kubectl(&["describe", "rc", "web"]).ok();
    for wanted in [
        "Name:         web",
        "Namespace:    default",
        "Selector:     app=web",
        "Replicas:     2 current / 2 desired",
        "Pods Status:  2 Running / 0 Waiting / 0 Succeeded / 0 Failed",
        "Image:         testserver:1",
        "Events:",
        "SuccessfulCreate",
    ] {
        assert!(described.contains(wanted), "{wanted} is not in\n{described}");
    }
    let described = instance.kubectl(&["describe", "pod", pod]).ok();
    for wanted in ["Controlled By:  ReplicationController/web", "Status:           Running", "IP:", "Node:"] {
        assert!(described.contains(wanted), "{wanted} is not in\n{described}");
    }
    let node = instance.field("nodes", "{.items[0].metadata.name}");
    assert!(instance.kubectl(&["describe", "node", &node]).ok().contains("Addresses:"));
    assert!(instance.kubectl(&["describe", "namespace", "default"]).ok().contains("Status:       Active"));
}

fn it_is_exposed_and_patched(instance: &Instance, all: &[String]) {
    for (from, name, port) in [("rc/web", "first", "1234"), ("service/first", "second", "2345")] {
        instance.kubectl(&["expose", from, "--name", name, "--port", port, "--target-port", "8080"]).ok();
        let ip = instance.field(&format!("service/{name}"), "{.spec.clusterIP}");
        instance.eventually(name, || {
            let words = ["exec", &all[0], "--", "/bin/testserver", "fetch", &format!("http://{ip}:{port}")];
            let said = instance.kubectl(&words);
            if said.code == 0 { Ok(()) } else { Err(said.err) }
        });
    }
    for pod in all {
        instance.kubectl(&["patch", "pod", pod, "-p", r#"{"metadata": {"annotations": {"x": "y"}}}"#]).ok();
        assert_eq!(instance.field(&format!("pod/{pod}"), "{.metadata.annotations.x}"), "y");
    }
    instance.kubectl(&["label", "pod", &all[0], "testing-label=testing-label-value"]).ok();
    let shown = instance.kubectl(&["get", "pod", &all[0], "-L", "testing-label"]).ok();
    assert!(shown.contains("testing-label-value"), "{shown}");
    instance.kubectl(&["label", "pod", &all[0], "testing-label-"]).ok();
    assert!(
        !instance
            .kubectl(&["get", "pod", &all[0], "-L", "testing-label"])
            .ok()
            .contains("testing-label-value")
    );
}

#[test]
fn the_cluster_says_what_it_is_and_a_proxy_leads_to_it() {
    let instance = Instance::start(&[]);
    let versions = instance.kubectl(&["api-versions"]).ok();
    assert!(versions.lines().any(|line| line == "v1"), "{versions}");
    let info = instance.kubectl(&["cluster-info"]).ok();
    assert!(info.contains("Kubernetes control plane") && info.contains("is running at"), "{info}");
    let version = instance.kubectl(&["version"]).ok();
    for wanted in ["Client Version", "Server Version"] {
        assert!(version.contains(wanted), "{version}");
    }
    a_proxy_leads_to_it(&instance);
}

fn a_proxy_leads_to_it(instance: &Instance) {
    let ask = |words: &[&str]| {
        Command::new("curl").args([&["-sS", "--max-time", "10"], words].concat()).output().expect("curl runs")
    };
    let socket = instance.dir.path().join("proxy.sock").display().to_string();
    let unix = format!("--unix-socket={socket}");
    for way in ["--port=0", unix.as_str()] {
        let mut proxy =
            instance.kubectl_command(&["proxy", way]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let line = BufReader::new(proxy.stdout.take().expect("piped")).lines().next();
        let line = line.expect("proxy says where it serves").expect("text");
        let said = match line.strip_prefix("Starting to serve on 127.0.0.1:") {
            Some(port) => ask(&[&format!("http://127.0.0.1:{port}/api/")]),
            None => ask(&["--unix-socket", &socket, "http://localhost/api/"]),
        };
        let (killed, reaped) = (proxy.kill(), proxy.wait());
        assert!(killed.is_ok() && reaped.is_ok());
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("APIVersions"), "{line}: {said}");
    }
}
