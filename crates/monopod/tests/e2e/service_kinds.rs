//! What a Service lists, and what it leads to by its slices.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::Instance;
use crate::once::apply;

/// Serves on two ports of TCP and on one of UDP.
fn server(name: &str) -> Value {
    let args = ["serve", "--port", "8080", "--port", "8081", "--udp", "8080"];
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web", "name": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "testserver:1", "args": args,
            "ports": [{"name": "first", "containerPort": 8080}, {"name": "second", "containerPort": 8081}]}]}})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn curl(url: &str) -> Result<String, String> {
    let said = Command::new("curl").args(["-sS", "--max-time", "5", url]).output().expect("curl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
}

fn start() -> Instance {
    let instance = Instance::start(&["testserver.tar"]);
    apply(&instance, &[server("web-0"), server("web-1")]);
    for pod in ["pod/web-0", "pod/web-1"] {
        instance.wait("condition=Ready", pod);
    }
    instance
}

fn address(instance: &Instance, service: &str) -> String {
    instance.field(&format!("service/{service}"), "{.spec.clusterIP}")
}

/// The addresses that are listed for a Service: in its Endpoints, and in its EndpointSlices.
#[track_caller]
fn lists(instance: &Instance, service: &str, pods: &[&str]) {
    let expected: BTreeSet<String> =
        pods.iter().map(|pod| instance.field(&format!("pod/{pod}"), "{.status.podIP}")).collect();
    let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    instance.eventually(service, || {
        let old =
            instance.kubectl(&["get", "endpoints", service, "-o", "jsonpath={.subsets[*].addresses[*].ip}"]);
        let label = format!("-lkubernetes.io/service-name={service}");
        let new = instance.kubectl(&[
            "get",
            "endpointslices",
            &label,
            "-o",
            "jsonpath={.items[*].endpoints[*].addresses[*]}",
        ]);
        let there = instance.kubectl(&["get", "endpointslices", &label, "-o", "name"]);
        let both = old.code == 0 && split(&old.out) == expected && split(&new.out) == expected;
        if both && !there.out.is_empty() { Ok(()) } else { Err(format!("{old:?} {new:?}")) }
    });
}

#[test]
fn endpoints_and_slices_list_the_pods_of_their_service() {
    let instance = start();
    // Both ports of TCP by name, and one number for two protocols.
    let ports = json!([{"name": "one", "port": 80, "targetPort": "first"}, {"name": "two", "port": 81, "targetPort": "second"},
        {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080}]);
    apply(
        &instance,
        &[
            service("web", json!({"selector": {"app": "web"}, "ports": ports})),
            service("nobody", json!({"selector": {"app": "nobody"}, "ports": [{"port": 80}]})),
        ],
    );
    lists(&instance, "web", &["web-0", "web-1"]);
    lists(&instance, "nobody", &[]);
    each_port_leads_to_a_pod(&instance);
    pods_are_reached_by_their_own_addresses(&instance);
    instance.kubectl(&["delete", "pod", "web-1"]).ok();
    lists(&instance, "web", &["web-0"]);
    lists_go_with_their_service(&instance);
}

fn lists_go_with_their_service(instance: &Instance) {
    instance.kubectl(&["delete", "service", "nobody"]).ok();
    instance.eventually("its lists go with it", || {
        let left = instance.kubectl(&["get", "endpoints,endpointslices", "-o", "name"]).ok();
        if left.contains("nobody") { Err(left) } else { Ok(()) }
    });
    // The server itself is listed, too.
    let own = |what: &str, path: &str| instance.field(what, path);
    let ip = own("endpoints/kubernetes", "{.subsets[0].addresses[0].ip}");
    assert!(!ip.is_empty());
    assert_eq!(own("endpointslice/kubernetes", "{.endpoints[0].addresses[0]}"), ip);
}

fn slice(instance: &Instance, name: &str, of: &str, pod: &str, port: (&str, u16)) -> Value {
    let ip = instance.field(&format!("pod/{pod}"), "{.status.podIP}");
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of}},
        "endpoints": [{"addresses": [ip]}], "ports": [{"name": port.0, "port": port.1}]})
}

/// Slices by hand, each with an address, or a port, of its own.
#[test]
fn a_service_leads_to_what_all_its_slices_say() {
    let instance = start();
    let slice = |name, of, pod, port| slice(&instance, name, of, pod, port);
    let two = json!([{"name": "one", "port": 80}, {"name": "two", "port": 81}]);
    apply(
        &instance,
        &[
            service("addresses", json!({"ports": [{"name": "http", "port": 80}]})),
            slice("addresses-0", "addresses", "web-0", ("http", 8080)),
            slice("addresses-1", "addresses", "web-1", ("http", 8080)),
            service("ports", json!({"ports": two})),
            slice("ports-0", "ports", "web-0", ("one", 8080)),
            slice("ports-1", "ports", "web-1", ("two", 8081)),
        ],
    );
    let mut seen = BTreeSet::new();
    let addresses = address(&instance, "addresses");
    instance.eventually("both addresses", || {
        seen.insert(curl(&format!("http://{addresses}"))?);
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let ports = address(&instance, "ports");
    for (port, pod) in [(80, "web-0"), (81, "web-1")] {
        let said = instance.eventually("each port", || curl(&format!("http://{ports}:{port}")));
        assert_eq!(said, format!("hello from {pod}"));
    }
}

fn pods_are_reached_by_their_own_addresses(instance: &Instance) {
    // And each Pod by its own address, from another one and from the node.
    let other = instance.field("pod/web-1", "{.status.podIP}");
    let targets = [format!("tcp/{other}:8080"), format!("udp/{other}:8080")];
    let words = ["exec", "web-0", "--", "/bin/testserver", "reach", &targets[0], &targets[1]];
    assert_eq!(instance.kubectl(&words).ok(), format!("{} yes\n{} yes\n", targets[0], targets[1]));
    assert_eq!(curl(&format!("http://{other}:8080")).as_deref(), Ok("hello from web-1"));
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("set");
    instance.eventually("a datagram from the node", || {
        socket.send_to(b"from the node", format!("{other}:8080")).map_err(|err| err.to_string())?;
        socket.recv(&mut [0; 64]).map(drop).map_err(|err| err.to_string())
    });
}

fn each_port_leads_to_a_pod(instance: &Instance) {
    let web = address(instance, "web");
    for port in [80, 81] {
        let said = instance.eventually("a port", || curl(&format!("http://{web}:{port}")));
        assert!(said.starts_with("hello from web-"), "{said}");
    }
    instance.eventually("the port of UDP", || {
        let said =
            instance.kubectl(&["exec", "web-0", "--", "/bin/testserver", "reach", &format!("udp/{web}:80")]);
        if said.code == 0 && said.out.ends_with(" yes\n") { Ok(()) } else { Err(format!("{said:?}")) }
    });
}
