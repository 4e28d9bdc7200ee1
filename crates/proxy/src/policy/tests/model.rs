//! The policies against a naive reading of the API's own words: may A talk to B on port P?

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::Protocol;
use crate::policy::{Addressed, Dns, Objects, Policies, compile};

/// A Pod of the model; its address follows from its number.
#[derive(Debug, Clone)]
struct ModelPod {
    namespace: usize,
    labels: BTreeMap<String, String>,
    /// The number that `web` stands for.
    web: u16,
    here: bool,
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];

fn address(number: usize) -> IpAddr {
    format!("10.42.0.{}", number + 2).parse().unwrap()
}

fn number(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(_) => unreachable!("the model has none"),
    }
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[xy]", "[12]", 0..3)
}

fn selector() -> impl Strategy<Value = Value> {
    let expressions = prop_oneof![
        Just(json!([])),
        "[xy]".prop_map(|key| json!([{"key": key, "operator": "Exists"}])),
        "[xy]".prop_map(|key| json!([{"key": key, "operator": "DoesNotExist"}])),
        ("[xy]", "[12]")
            .prop_map(|(key, value)| json!([{"key": key, "operator": "NotIn", "values": [value]}])),
    ];
    (proptest::collection::btree_map("[xy]", "[12]", 0..2), expressions)
        .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}))
}

fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let pairs = selector["matchLabels"].as_object().unwrap();
    let expression = |one: &Value| {
        let value = labels.get(one["key"].as_str().unwrap());
        match one["operator"].as_str().unwrap() {
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => value.is_none_or(|value| one["values"][0] != value.as_str()),
        }
    };
    pairs.iter().all(|(key, value)| labels.get(key).is_some_and(|have| value == have.as_str()))
        && selector["matchExpressions"].as_array().unwrap().iter().all(expression)
}

fn peer() -> impl Strategy<Value = Value> {
    let block =
        (0u8..10, 28u8..=32, proptest::collection::vec(0u8..10, 0..3)).prop_map(|(at, bits, except)| {
            let except: Vec<String> = except.iter().map(|at| format!("10.42.0.{at}/32")).collect();
            json!({"ipBlock": {"cidr": format!("10.42.0.{at}/{bits}"), "except": except}})
        });
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(pods, spaces)| json!({"podSelector": pods, "namespaceSelector": spaces})),
        block,
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = prop_oneof![Just("TCP"), Just("UDP")];
    let which = prop_oneof![
        Just(json!({})),
        (80u16..86).prop_map(|port| json!({"port": port})),
        (80u16..86, 0u16..4).prop_map(|(port, more)| json!({"port": port, "endPort": port + more})),
        Just(json!({"port": "web"})),
    ];
    (protocol, which).prop_map(|(protocol, mut port)| {
        port["protocol"] = protocol.into();
        port
    })
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    (proptest::collection::vec(peer(), 0..3), proptest::collection::vec(port(), 0..3))
        .prop_map(move |(list, ports)| json!({peers: list, "ports": ports}))
}

fn policy() -> impl Strategy<Value = (usize, Value)> {
    let types = prop_oneof![
        Just(json!([])),
        Just(json!(["Ingress"])),
        Just(json!(["Egress"])),
        Just(json!(["Ingress", "Egress"])),
    ];
    let rules = |peers| proptest::collection::vec(rule(peers), 0..3);
    (0..NAMESPACES.len(), selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            let spec =
                json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress});
            (namespace, spec)
        },
    )
}

fn pod() -> impl Strategy<Value = ModelPod> {
    (0..NAMESPACES.len(), labels(), 80u16..86, proptest::bool::weighted(0.8))
        .prop_map(|(namespace, labels, web, here)| ModelPod { namespace, labels, web, here })
}

#[derive(Debug)]
pub(super) struct Model {
    namespaces: Vec<BTreeMap<String, String>>,
    pods: Vec<ModelPod>,
    policies: Vec<(usize, Value)>,
}

pub(super) fn model() -> impl Strategy<Value = Model> {
    (
        proptest::collection::vec(labels(), NAMESPACES.len()),
        proptest::collection::vec(pod(), 2..7),
        proptest::collection::vec(policy(), 0..5),
    )
        .prop_map(|(namespaces, pods, policies)| Model { namespaces, pods, policies })
}

impl Model {
    fn allows(&self, from: usize, to: usize, protocol: &str, port: u16) -> bool {
        let side = |peers: &str, direction: &str, subject: usize, other: usize| {
            let applies = |(namespace, spec): &&(usize, Value)| {
                let pod = &self.pods[subject];
                pod.here
                    && pod.namespace == *namespace
                    && isolates(spec, direction)
                    && selects(&spec["podSelector"], &pod.labels)
            };
            let mut own = self.policies.iter().filter(applies).peekable();
            let field = direction.to_lowercase();
            own.peek().is_none()
                || own.any(|(namespace, spec)| {
                    spec[&field].as_array().unwrap().iter().any(|rule| {
                        self.peers(&rule[peers], *namespace, other)
                            && self.ports(&rule["ports"], to, protocol, port)
                    })
                })
        };
        from == to || side("from", "Ingress", to, from) && side("to", "Egress", from, to)
    }

    fn peers(&self, peers: &Value, namespace: usize, other: usize) -> bool {
        let peers = peers.as_array().unwrap();
        let pod = &self.pods[other];
        peers.is_empty()
            || peers.iter().any(|peer| {
                if let Some(block) = peer.get("ipBlock") {
                    let inside = |cidr: &Value| {
                        let (network, bits) = cidr.as_str().unwrap().split_once('/').unwrap();
                        let mask = u32::MAX << (32 - bits.parse::<u32>().unwrap());
                        (number(network.parse().unwrap()) ^ number(address(other))) & mask == 0
                    };
                    return inside(&block["cidr"]) && !block["except"].as_array().unwrap().iter().any(inside);
                }
                let space = match peer.get("namespaceSelector") {
                    Some(selector) => selects(selector, &self.namespaces[pod.namespace]),
                    None => pod.namespace == namespace,
                };
                space && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod.labels))
            })
    }

    fn ports(&self, ports: &Value, to: usize, protocol: &str, port: u16) -> bool {
        let ports = ports.as_array().unwrap();
        ports.is_empty()
            || ports.iter().any(|one| {
                let number = match &one["port"] {
                    Value::Null => true,
                    // Only of TCP the model's Pods have a port of that name.
                    Value::String(_) => protocol == "TCP" && self.pods[to].web == port,
                    first => {
                        let first = first.as_u64().unwrap();
                        let last = one["endPort"].as_u64().unwrap_or(first);
                        (first..=last).contains(&port.into())
                    }
                };
                number && one["protocol"] == protocol
            })
    }

    pub(super) fn compiled(&self) -> Policies {
        let namespaces: Vec<Arc<Namespace>> = (0..NAMESPACES.len())
            .map(|n| json!({"metadata": {"name": NAMESPACES[n], "labels": self.namespaces[n]}}))
            .map(|value| Arc::new(serde_json::from_value(value).unwrap()))
            .collect();
        let policies: Vec<Arc<NetworkPolicy>> = self
            .policies
            .iter()
            .enumerate()
            .map(|(n, (namespace, spec))| {
                json!({"metadata": {"namespace": NAMESPACES[*namespace], "name": n.to_string(), "uid": n.to_string()},
                       "spec": spec})
            })
            .map(|value| Arc::new(serde_json::from_value(value).unwrap()))
            .collect();
        let pods: Vec<Addressed> = self.pods.iter().enumerate().map(|(n, pod)| addressed(n, pod)).collect();
        let objects =
            Objects { policies: &policies, pods: &pods, namespaces: &namespaces, node: "here", dns: None };
        compile(&objects)
    }
}

fn isolates(spec: &Value, direction: &str) -> bool {
    let types = spec["policyTypes"].as_array().unwrap();
    match types.is_empty() {
        true => direction == "Ingress" || !spec["egress"].as_array().unwrap().is_empty(),
        false => types.iter().any(|one| one == direction),
    }
}

fn addressed(number: usize, pod: &ModelPod) -> Addressed {
    let value = json!({
        "metadata": {"namespace": NAMESPACES[pod.namespace], "name": number.to_string(), "labels": pod.labels},
        "spec": {"nodeName": if pod.here { "here" } else { "there" },
                 "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": pod.web}]}]},
    });
    let pod: Pod = serde_json::from_value(value).unwrap();
    Addressed { pod: Arc::new(pod), addresses: vec![address(number)] }
}

proptest! {
    #[test]
    fn policies_allow_what_the_api_says(model in model()) {
        let compiled = model.compiled();
        for from in 0..model.pods.len() {
            for to in 0..model.pods.len() {
                for (word, protocol) in [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp)] {
                    for port in [79, 80, 81, 83, 85, 88] {
                        let wanted = model.allows(from, to, word, port);
                        let said = compiled.allows(address(from), (address(to), protocol, port));
                        prop_assert_eq!(said, wanted, "{} -> {} {} {}", from, to, word, port);
                    }
                }
            }
        }
    }
}

fn compiled(policies: &[Value], pods: &[Addressed], dns: Option<Dns>) -> Policies {
    let namespaces = ["default", "kube-system"].map(|name| {
        let value = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
        Arc::new(serde_json::from_value(value).unwrap())
    });
    let policies: Vec<Arc<NetworkPolicy>> =
        policies.iter().map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect();
    compile(&Objects { policies: &policies, pods, namespaces: &namespaces, node: "here", dns })
}

fn one_pod() -> Addressed {
    let pod = json!({"metadata": {"namespace": "default", "name": "web", "labels": {"app": "web"}},
                     "spec": {"nodeName": "here", "containers": []}});
    Addressed { pod: Arc::new(serde_json::from_value(pod).unwrap()), addresses: vec![address(0)] }
}

/// The way in which everybody allows names to Pods that may reach nobody else.
#[test]
fn the_nodes_server_for_names_counts_as_the_pods_that_serve_names_elsewhere() {
    let gateway: IpAddr = "10.42.0.1".parse().unwrap();
    let dns = Some(Dns { address: gateway, udp: 53, tcp: 5353 });
    let policy = |to: Value, ports: Value| {
        let metadata = json!({"namespace": "default", "name": "p", "uid": "p"});
        json!({"metadata": metadata,
               "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]}})
    };
    let system = json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}});
    let names =
        json!([{"namespaceSelector": system, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]);
    let others = json!([{"namespaceSelector": system, "podSelector": {"matchLabels": {"k8s-app": "other"}}}]);
    let both = json!([{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]);
    let may = |to: &Value, ports: &Value, protocol, port| {
        let compiled = compiled(&[policy(to.clone(), ports.clone())], &[one_pod()], dns);
        compiled.allows(address(0), (gateway, protocol, port))
    };
    let (udp, tcp) = (Protocol::Udp, Protocol::Tcp);
    assert!(may(&names, &both, udp, 53) && may(&names, &both, tcp, 5353));
    assert!(may(&names, &json!([]), udp, 53) && !may(&names, &json!([]), tcp, 6443), "only its ports");
    assert!(!may(&names, &json!([{"protocol": "UDP", "port": 53}]), tcp, 5353));
    assert!(!may(&others, &both, udp, 53));
    assert!(may(&json!([]), &both, tcp, 5353), "port 53 of anybody");
    assert!(may(&json!([{"ipBlock": {"cidr": "10.42.0.0/24"}}]), &both, tcp, 5353));
}

#[test]
fn a_pod_of_another_node_is_isolated_there() {
    let deny =
        json!({"metadata": {"namespace": "default", "name": "p", "uid": "p"}, "spec": {"podSelector": {}}});
    let mut pod = Pod::clone(&one_pod().pod);
    pod.spec.get_or_insert_default().node_name = Some("there".into());
    let pod = Addressed { pod: Arc::new(pod), addresses: vec![address(0)] };
    assert!(compiled(&[deny], &[pod], None).is_empty());
}
