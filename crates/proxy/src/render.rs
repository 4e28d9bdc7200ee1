//! The rules as a script for `nft`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::{Entry, Match, Protocol, Ruleset, Target};

/// The bit that says "masquerade", the same that kube-proxy uses by default.
const MARK: &str = "0x4000";

/// The table of an instance.
pub(crate) fn table_name(instance: &str) -> String {
    format!("monopod-{instance}")
}

impl Ruleset {
    /// The script that replaces the whole table in one transaction.
    ///
    /// Packets are led by verdict maps, whose look-up does not grow with the
    /// number of Services.
    pub fn script(&self) -> String {
        let name = table_name(&self.instance.id);
        let mut parts = Parts::default();
        for (number, (matched, entry)) in self.entries.iter().enumerate() {
            parts.add(number, matched, entry, &self.instance.pod_cidr);
        }
        let Parts { chains, services, node_ports, refused, refused_ports, targets } = parts;
        let hairpins: Vec<String> = targets.iter().map(|ip| format!("{ip} . {ip}")).collect();
        let address_map = "type ipv4_addr . inet_proto . inet_service : verdict;";
        let port_map = "type inet_proto . inet_service : verdict;";
        let mut script = format!("table ip {name}\ndelete table ip {name}\ntable ip {name} {{\n");
        collection(&mut script, "map services", address_map, &services);
        collection(&mut script, "map node-ports", port_map, &node_ports);
        collection(&mut script, "map refused", address_map, &refused);
        collection(&mut script, "map refused-ports", port_map, &refused_ports);
        collection(&mut script, "set hairpins", "type ipv4_addr . ipv4_addr;", &hairpins);
        script.push_str(&chains);
        script.push_str(HOOKS);
        script.push_str("}\n");
        script
    }
}

/// A Pod that reaches itself through a Service must see another sender, or it
/// would answer itself directly. Refusing happens where `reject` works and
/// before other tables accept.
const HOOKS: &str = r#"  chain rejecting {
    reject
  }
  chain lead {
    ip daddr . meta l4proto . th dport vmap @services
    fib daddr type local meta l4proto . th dport vmap @node-ports
  }
  chain refuse {
    ip daddr . meta l4proto . th dport vmap @refused
    fib daddr type local meta l4proto . th dport vmap @refused-ports
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    jump lead
  }
  chain local {
    type nat hook output priority -100; policy accept;
    jump lead
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 == 0x4000 masquerade
    ct status dnat ip saddr . ip daddr @hairpins masquerade
  }
  chain refuse-input {
    type filter hook input priority -10; policy accept;
    ct state new jump refuse
  }
  chain refuse-forward {
    type filter hook forward priority -10; policy accept;
    ct state new jump refuse
  }
  chain refuse-output {
    type filter hook output priority -10; policy accept;
    ct state new jump refuse
  }
"#;

#[derive(Default)]
struct Parts {
    chains: String,
    services: Vec<String>,
    node_ports: Vec<String>,
    refused: Vec<String>,
    refused_ports: Vec<String>,
    targets: BTreeSet<std::net::Ipv4Addr>,
}

impl Parts {
    fn add(&mut self, number: usize, matched: &Match, entry: &Entry, pod_cidr: &str) {
        let (key, led, refused) = match matched {
            Match::Address(address, protocol, port) => {
                (format!("{address} . {} . {port}", word(*protocol)), &mut self.services, &mut self.refused)
            }
            Match::NodePort(protocol, port) => {
                (format!("{} . {port}", word(*protocol)), &mut self.node_ports, &mut self.refused_ports)
            }
        };
        if entry.drop {
            return refused.push(format!("{key} : drop"));
        }
        if entry.targets.is_empty() {
            return refused.push(format!("{key} : goto rejecting"));
        }
        led.push(format!("{key} : goto service-{number}"));
        self.targets.extend(entry.targets.iter().map(|target| target.address));
        self.chains.push_str(&chain(number, matched, entry, pod_cidr));
    }
}

fn chain(number: usize, matched: &Match, entry: &Entry, pod_cidr: &str) -> String {
    let mut chain = String::new();
    // Names of Kubernetes objects cannot hold a quote.
    let _ = writeln!(chain, "  chain service-{number} {{\n    comment \"{}\"", entry.comment);
    if entry.from_outside {
        let _ = writeln!(chain, "    meta mark set meta mark | {MARK}");
    } else if matches!(matched, Match::Address(..)) {
        // The node itself, or somebody who routes the Service range to it.
        let _ = writeln!(chain, "    ip saddr != {pod_cidr} meta mark set meta mark | {MARK}");
    }
    let protocol = match matched {
        Match::Address(_, protocol, _) | Match::NodePort(protocol, _) => word(*protocol),
    };
    let _ = writeln!(chain, "    meta l4proto {protocol} {}\n  }}", dnat(&entry.targets));
    chain
}

fn dnat(targets: &[Target]) -> String {
    if let [only] = targets {
        return format!("dnat to {}:{}", only.address, only.port);
    }
    let numbered = targets.iter().enumerate();
    let choices: Vec<String> = numbered.map(|(i, t)| format!("{i} : {} . {}", t.address, t.port)).collect();
    format!("dnat ip to numgen random mod {} map {{ {} }}", targets.len(), choices.join(", "))
}

fn collection(script: &mut String, name: &str, kind: &str, elements: &[String]) {
    let _ = writeln!(script, "  {name} {{\n    {kind}");
    if !elements.is_empty() {
        let _ = writeln!(script, "    elements = {{ {} }}", elements.join(", "));
    }
    script.push_str("  }\n");
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use crate::{Instance, Ruleset, ruleset};
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn instance() -> Instance {
        Instance { id: "0123abcd".into(), node: "n1".into(), pod_cidr: "10.42.0.0/16".into() }
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
        ruleset(services, slices, &instance())
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
        assert!(script.contains("elements = { 10.43.0.5 . tcp . 80 : goto service-0 }"), "{script}");
        assert!(script.contains("elements = { tcp . 30080 : goto service-1 }"), "{script}");
        assert!(
            script.starts_with("table ip monopod-0123abcd\ndelete table ip monopod-0123abcd\n"),
            "{script}"
        );
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
}
