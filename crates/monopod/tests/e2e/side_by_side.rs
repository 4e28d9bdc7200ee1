//! Two instances on one machine: own ranges, own ports, own ends.

use crate::harness::{Instance, data_directory};

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: served}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "testserver:1", imagePullPolicy: Never, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}
"#;

#[test]
fn two_instances_that_start_at_once_share_nothing() {
    // Without --listen: the default port, or the next free one.
    let start = || {
        let instance = Instance::start_in(data_directory(), &["testserver.tar"], &[]);
        instance.apply(POD);
        instance.wait("condition=Ready", "pod/served");
        instance
    };
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(start);
        (start(), other.join().expect("started"))
    });
    assert_ne!(address(&one.said[0]), address(&other.said[0]), "each names its own port");
    let range = |instance: &Instance| instance.field("node", "{.items[0].spec.podCIDR}");
    assert_ne!(range(&one), range(&other));
    let service = |instance: &Instance| instance.field("service/kubernetes", "{.spec.clusterIP}");
    assert_ne!(service(&one), service(&other));
    let (here, there) =
        (one.field("pod/served", "{.status.podIP}"), other.field("pod/served", "{.status.podIP}"));
    assert_ne!(here, there);
    assert!(greets(&here) && greets(&there), "both Pods answer on the host");

    drop(one);
    assert!(greets(&there), "the end of one instance is nothing to the other");
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("readable");
    assert_eq!(forwarding.trim(), "1", "the other's Pods still reach the world");
    assert_eq!(other.kubectl(&["exec", "served", "--", "echo", "alive"]).ok(), "alive\n");
}

/// `https://ADDRESS:PORT` of the line that says where the API answers.
fn address(line: &str) -> &str {
    line.split(' ').find(|word| word.starts_with("https://")).unwrap_or(line)
}

fn greets(ip: &str) -> bool {
    let out = std::process::Command::new("curl")
        .args(["-s", "--max-time", "5", &format!("http://{ip}:8080/")])
        .output()
        .expect("curl runs");
    out.stdout == b"hello from served\n"
}
