//! The scripts as text, and what the kernel says to them.

use crate::{Family, Host, Instance, Match, Protocol, Range, Ruleset, ruleset};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::sync::Arc;

fn instance() -> Instance {
    let range = |network: &str| Range::new(network.parse().unwrap(), 16);
    Instance {
        id: "0123abcd".into(),
        node: "n1".into(),
        zone: None,
        pod_cidrs: vec![range("10.42.0.0")],
        service_cidrs: vec![range("10.43.0.0")],
        link: None,
        dns: None,
    }
}

fn service(name: &str, spec: Value) -> Arc<Service> {
    let service = json!({"metadata": {"namespace": "a", "name": name}, "spec": spec});
    Arc::new(serde_json::from_value(service).unwrap())
}

fn slice(service: &str, endpoints: Value) -> Arc<EndpointSlice> {
    let slice = json!({"metadata": {"namespace": "a", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn rules(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Ruleset {
    ruleset(services, slices, &instance(), &Host::default()).0
}

fn endpoint(address: &str, node: &str, ready: bool, terminating: bool) -> Value {
    json!({"addresses": [address], "nodeName": node,
           "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
}

#[test]
fn addresses_and_node_ports_lead_to_ready_pods_at_random() {
    let services =
        [service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80, "nodePort": 30080}]}))];
    let slices = [slice(
        "web",
        json!([
            endpoint("10.42.0.2", "n1", true, false),
            endpoint("10.42.0.1", "n2", true, false),
            endpoint("10.42.0.3", "n1", false, true)
        ]),
    )];
    let script = rules(&services, &slices).script();
    let dnat = "dnat ip to numgen random mod 2 map { 0 : 10.42.0.1 . 8080, 1 : 10.42.0.2 . 8080 }";
    assert_eq!(script.matches(dnat).count(), 2, "{script}");
    assert!(
        script.contains("elements = { 10.43.0.5 . tcp . 80 : goto service-10.43.0.5-tcp-80 }"),
        "{script}"
    );
    assert!(script.contains("elements = { tcp . 30080 : goto node-port-tcp-30080 }"), "{script}");
    assert!(script.starts_with("table ip monopod-0123abcd\ndelete table ip monopod-0123abcd\n"), "{script}");
}

#[test]
fn a_service_without_endpoints_refuses_and_a_leaving_pod_is_better_than_none() {
    let services = [
        service("none", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]})),
        service("last", json!({"clusterIP": "10.43.0.6", "ports": [{"port": 80}]})),
        service("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
    ];
    let script =
        rules(&services, &[slice("last", json!([endpoint("10.42.0.3", "n1", false, true)]))]).script();
    assert!(script.contains("elements = { 10.43.0.5 . tcp . 80 : goto rejecting }"), "{script}");
    assert!(script.contains("meta l4proto tcp dnat to 10.42.0.3:8080"), "{script}");
}

#[test]
fn a_change_touches_what_differs_only() {
    let services = [
        service("same", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]})),
        service("web", json!({"clusterIP": "10.43.0.6", "ports": [{"port": 80}]})),
    ];
    let same = slice("same", json!([endpoint("10.42.0.1", "n1", true, false)]));
    let both = json!([endpoint("10.42.0.2", "n1", true, false), endpoint("10.42.0.3", "n1", true, false)]);
    let before = rules(&services, &[same.clone(), slice("web", both)]);
    let one = slice("web", json!([endpoint("10.42.0.2", "n1", true, false)]));
    let after = rules(&services, &[same.clone(), one]);
    let script = after.change(&before);
    assert!(!script.contains("10.43.0.5") && !script.contains("delete chain"), "{script}");
    assert!(
        script.contains("delete element ip monopod-0123abcd hairpins { 10.42.0.3 . 10.42.0.3 }"),
        "{script}"
    );
    assert!(script.contains("flush chain ip monopod-0123abcd service-10.43.0.6-tcp-80"), "{script}");
    let none = rules(&services, &[same]);
    let script = none.change(&after);
    assert!(
        script.contains("delete element ip monopod-0123abcd services { 10.43.0.6 . tcp . 80 }"),
        "{script}"
    );
    assert!(script.contains("delete chain ip monopod-0123abcd service-10.43.0.6-tcp-80"), "{script}");
    assert!(script.contains("elements = { 10.43.0.6 . tcp . 80 : goto rejecting }"), "{script}");
}

#[test]
fn a_local_policy_keeps_the_sender_and_drops_where_no_pod_is() {
    let spec = json!({"clusterIP": "10.43.0.5", "externalTrafficPolicy": "Local",
                      "ports": [{"port": 80, "nodePort": 30080}]});
    let away = [slice("web", json!([endpoint("10.42.1.3", "n2", true, false)]))];
    let script = rules(&[service("web", spec.clone())], &away).script();
    assert!(script.contains("elements = { tcp . 30080 : drop }"), "{script}");
    let here = [slice("web", json!([endpoint("10.42.0.3", "n1", true, false)]))];
    let rules = rules(&[service("web", spec)], &here);
    assert!(rules.entries.values().all(|entry| !entry.from_outside && !entry.drop), "{rules:?}");
}

#[test]
fn a_cluster_ip_is_never_anothers_external_address() {
    let api = json!({"clusterIP": "10.43.0.1", "ports": [{"port": 443}]});
    let thief = |ips: Value| json!({"clusterIP": "10.43.0.9", "externalIPs": ips, "ports": [{"port": 443}]});
    // By name it comes before the one that it takes from.
    let services = [
        service("a-thief", thief(json!(["10.43.0.1", "10.43.0.77", "10.42.3.4", "192.0.2.1", "192.0.2.2"]))),
        service("kubernetes", api),
    ];
    let slices = [
        slice("a-thief", json!([endpoint("10.42.0.66", "n1", true, false)])),
        slice("kubernetes", json!([endpoint("10.42.0.1", "n1", true, false)])),
    ];
    let host = Host {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        listeners: vec![(sys::socket::Transport::Tcp, "0.0.0.0:443".parse().unwrap())],
    };
    let (rules, refusals) = ruleset(&services, &slices, &instance(), &host);
    let leads = |address: &str| {
        let entry = rules.entries.get(&Match::Address(address.parse().unwrap(), Protocol::Tcp, 443));
        entry.map(|entry| entry.comment.clone())
    };
    assert_eq!(leads("10.43.0.1").as_deref(), Some("a/kubernetes:"));
    assert_eq!((leads("10.43.0.77"), leads("10.42.3.4"), leads("192.0.2.1")), (None, None, None));
    assert_eq!(leads("192.0.2.2").as_deref(), Some("a/a-thief:"), "nobody's");
    let refused: Vec<String> = refusals.iter().map(|refusal| refusal.address.to_string()).collect();
    assert_eq!(refused, ["10.43.0.1", "10.43.0.77", "10.42.3.4", "192.0.2.1"]);
    assert!(refusals[3].reason.contains("a program of the node listens there"), "{refusals:?}");
}

#[test]
fn addresses_of_ipv6_have_a_table_of_their_own_as_long_as_there_are_some() {
    let spec = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"],
                      "ports": [{"port": 80, "nodePort": 30080}]});
    let slices = [
        slice("web", json!([endpoint("10.42.0.3", "n1", true, false)])),
        slice("web", json!([endpoint("fd01::3", "n1", true, false), endpoint("fd01::4", "n1", true, false)])),
    ];
    let both = rules(&[service("web", spec)], &slices);
    assert!(both.entries.contains_key(&Match::NodePort(Family::V6, Protocol::Tcp, 30080)));
    let script = both.script();
    let (v4, v6) = script.split_once("table ip6 monopod-0123abcd\n").expect("two tables");
    assert!(v4.contains("dnat to 10.42.0.3:8080") && !v4.contains("fd0"), "{v4}");
    assert!(v6.contains("fd00::5 . tcp . 80 : goto service-fd00__5-tcp-80"), "{v6}");
    assert!(v6.contains("dnat ip6 to numgen random mod 2 map { 0 : fd01::3 . 8080, 1 :"), "{v6}");
    assert!(v6.contains("type ipv6_addr . ipv6_addr;") && v6.contains("ip6 daddr . meta l4proto"), "{v6}");
    let one = rules(
        &[service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80, "nodePort": 30080}]}))],
        &slices,
    );
    assert!(one.change(&both).ends_with("delete table ip6 monopod-0123abcd\n"));
    assert!(both.change(&one).contains("delete table ip6 monopod-0123abcd\ntable ip6 monopod-0123abcd {"));
}

/// The kernel's own check of it, in a network namespace of the test's.
#[test]
fn the_kernel_takes_both_tables() {
    let spec = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"],
                      "ports": [{"port": 80, "nodePort": 30080}]});
    let slices = [
        slice("web", json!([endpoint("10.42.0.3", "n1", true, false)])),
        slice("web", json!([endpoint("fd01::3", "n1", true, false), endpoint("fd01::4", "n1", true, false)])),
    ];
    let both = rules(&[service("web", spec)], &slices);
    let none = rules(&[], &[]);
    taken_by_the_kernel(vec![both.script(), none.change(&both), both.change(&none)]);
}

fn taken_by_the_kernel(scripts: Vec<String>) {
    if sys::command::find("nft").is_none() {
        eprintln!("skipped: needs nft");
        return;
    }
    let taken = std::thread::spawn(move || {
        if sys::namespace::unshare(sys::namespace::Namespaces::NETWORK).is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        for script in scripts {
            let taken = sys::command::run("nft", &["-f", "-"], script.as_bytes());
            assert!(taken.is_ok(), "{taken:?}\n{script}");
        }
    });
    taken.join().unwrap();
}

#[test]
fn a_client_is_remembered_by_the_pod_that_it_was_led_to() {
    let spec = json!({"clusterIP": "10.43.0.5", "sessionAffinity": "ClientIP",
                      "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                      "ports": [{"port": 80, "nodePort": 30080}]});
    let both = json!([endpoint("10.42.0.2", "n1", true, false), endpoint("10.42.0.3", "n1", true, false)]);
    let rules = rules(&[service("web", spec)], &[slice("web", both)]);
    let script = rules.script();
    assert_eq!(
        script.matches("    update @affinity-to-a/web/-10.42.0.2-8080 { ip saddr timeout 60s }").count(),
        1
    );
    assert_eq!(
        script.matches("set affinity-to-a/web/-10.42.0.2-8080 {").count(),
        1,
        "both ways share it: {script}"
    );
    let known = "ip saddr @affinity-to-a/web/-10.42.0.3-8080 goto to-a/web/-10.42.0.3-8080";
    assert_eq!(script.matches(known).count(), 2, "{script}");
    assert!(
        script.contains("numgen random mod 2 vmap { 0 : goto to-a/web/-10.42.0.2-8080, 1 : goto"),
        "{script}"
    );
}

#[test]
fn only_the_ranges_of_a_load_balancer_may_use_its_address() {
    let mut balancer = Service::clone(&service(
        "web",
        json!({"clusterIP": "10.43.0.5", "type": "LoadBalancer", "ports": [{"port": 80}],
               "loadBalancerSourceRanges": ["198.51.100.0/24", " 10.0.0.0/8"]}),
    ));
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    balancer.status = Some(serde_json::from_value(status).unwrap());
    let one = slice("web", json!([endpoint("10.42.0.2", "n1", true, false)]));
    let script = rules(&[Arc::new(balancer)], &[one]).script();
    assert_eq!(script.matches("ip saddr != { 198.51.100.0/24, 10.0.0.0/8 } drop").count(), 1, "{script}");
}

#[test]
fn hints_lead_to_pods_that_are_near_as_long_as_there_are_some() {
    let hinted = |address: &str, hints: Value| {
        let mut endpoint = endpoint(address, "n1", true, false);
        endpoint["hints"] = hints;
        endpoint
    };
    let node = |name: &str| json!({"forNodes": [{"name": name}]});
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let web = [service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]}))];
    let targets = |one: Value, other: Value| {
        let slices = [slice("web", json!([hinted("10.42.0.2", one), hinted("10.42.0.3", other)]))];
        let instance = Instance { zone: Some("east".into()), ..instance() };
        let rules = ruleset(&web, &slices, &instance, &Host::default()).0;
        let entry = rules.entries.values().next().unwrap().clone();
        entry.targets.iter().map(|target| target.address.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(targets(node("n1"), node("n2")), "10.42.0.2");
    assert_eq!(targets(node("n2"), node("n2")), "10.42.0.2 10.42.0.3", "nobody is here");
    assert_eq!(targets(node("n1"), Value::Null), "10.42.0.2 10.42.0.3", "not all have hints");
    assert_eq!(targets(zone("west"), zone("east")), "10.42.0.3");
    assert_eq!(targets(zone("west"), zone("west")), "10.42.0.2 10.42.0.3");
}

/// A comment of the kernel's has 128 bytes, and the names of one Service may have more.
#[test]
fn the_longest_names_are_programmed_too() {
    let name = "n".repeat(63);
    let port = "p".repeat(63);
    let mut long = Service::clone(&service(
        &name,
        json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80, "name": port}]}),
    ));
    long.metadata.namespace = Some("s".repeat(63));
    let mut pods = EndpointSlice::clone(&slice(&name, json!([endpoint("10.42.0.2", "n1", true, false)])));
    pods.metadata.namespace = long.metadata.namespace.clone();
    pods.ports.as_mut().unwrap()[0].name = Some(port);
    let mut sticky = long.clone();
    sticky.spec.as_mut().unwrap().session_affinity = Some("ClientIP".into());
    for service in [long, sticky] {
        let script = rules(&[Arc::new(service)], &[Arc::new(pods.clone())]).script();
        taken_by_the_kernel(vec![script]);
    }
}
