//! The rules as a script for `nft`.

use std::collections::{BTreeMap, BTreeSet};
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
        let parts = Parts::of(self);
        let mut script = format!("table ip {name}\ndelete table ip {name}\ntable ip {name} {{\n");
        for (number, (kind, collection)) in COLLECTIONS.iter().enumerate() {
            declare(&mut script, kind, collection, parts.elements[number].iter());
        }
        script.extend(parts.chains.iter().map(|(name, rules)| chain(name, rules)));
        script.push_str(HOOKS);
        script.push_str("}\n");
        script
    }

    /// The script that makes this table of the one that `before` describes, in one transaction.
    ///
    /// It touches what differs only. A table that is replaced leaves the kernel's hooks and
    /// joins them again, and each waits for all processors.
    pub fn change(&self, before: &Ruleset) -> String {
        let name = table_name(&self.instance.id);
        let (old, new) = (Parts::of(before), Parts::of(self));
        let (mut first, mut then) = (String::new(), format!("table ip {name} {{\n"));
        for (number, (kind, collection)) in COLLECTIONS.iter().enumerate() {
            let (old, new) = (&old.elements[number], &new.elements[number]);
            let gone: Vec<&str> = old.difference(new).map(|element| key(element)).collect();
            if !gone.is_empty() {
                let collection = collection.name;
                let _ = writeln!(first, "delete element ip {name} {collection} {{ {} }}", gone.join(", "));
            }
            declare(&mut then, kind, collection, new.difference(old));
        }
        for (chain, rules) in &old.chains {
            match new.chains.get(chain) {
                None => first
                    .push_str(&format!("flush chain ip {name} {chain}\ndelete chain ip {name} {chain}\n")),
                Some(now) if now != rules => first.push_str(&format!("flush chain ip {name} {chain}\n")),
                Some(_) => {}
            }
        }
        let differing = new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules));
        then.extend(differing.map(|(name, rules)| chain(name, rules)));
        then.push_str("}\n");
        first + &then
    }
}

/// A map or set of the table.
struct Collection {
    name: &'static str,
    elements: &'static str,
}

const ADDRESS_MAP: &str = "type ipv4_addr . inet_proto . inet_service : verdict;";
const PORT_MAP: &str = "type inet_proto . inet_service : verdict;";
const COLLECTIONS: [(&str, Collection); 5] = [
    ("map", Collection { name: "services", elements: ADDRESS_MAP }),
    ("map", Collection { name: "node-ports", elements: PORT_MAP }),
    ("map", Collection { name: "refused", elements: ADDRESS_MAP }),
    ("map", Collection { name: "refused-ports", elements: PORT_MAP }),
    ("set", Collection { name: "hairpins", elements: "type ipv4_addr . ipv4_addr;" }),
];
const SERVICES: usize = 0;
const NODE_PORTS: usize = 1;
const REFUSED: usize = 2;
const REFUSED_PORTS: usize = 3;
const HAIRPINS: usize = 4;

/// What of a map's element names it.
fn key(element: &str) -> &str {
    element.split_once(" : ").map_or(element, |(key, _)| key)
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

/// What a table holds besides its hooks.
#[derive(Default)]
struct Parts {
    /// In the order of [`COLLECTIONS`].
    elements: [BTreeSet<String>; 5],
    /// Rules by the name of the chain.
    chains: BTreeMap<String, String>,
}

impl Parts {
    fn of(ruleset: &Ruleset) -> Self {
        let mut parts = Parts::default();
        for (matched, entry) in &ruleset.entries {
            parts.add(matched, entry, &ruleset.instance.pod_cidr);
        }
        parts
    }

    fn add(&mut self, matched: &Match, entry: &Entry, pod_cidr: &str) {
        let (key, chain, led, refused) = match matched {
            Match::Address(address, protocol, port) => {
                let protocol = word(*protocol);
                let chain = format!("service-{address}-{protocol}-{port}");
                (format!("{address} . {protocol} . {port}"), chain, SERVICES, REFUSED)
            }
            Match::NodePort(protocol, port) => {
                let protocol = word(*protocol);
                let chain = format!("node-port-{protocol}-{port}");
                (format!("{protocol} . {port}"), chain, NODE_PORTS, REFUSED_PORTS)
            }
        };
        if entry.drop {
            self.elements[refused].insert(format!("{key} : drop"));
        } else if entry.targets.is_empty() {
            self.elements[refused].insert(format!("{key} : goto rejecting"));
        } else {
            self.elements[led].insert(format!("{key} : goto {chain}"));
            let pairs = entry.targets.iter().map(|target| format!("{0} . {0}", target.address));
            self.elements[HAIRPINS].extend(pairs);
            self.chains.insert(chain, rules(matched, entry, pod_cidr));
        }
    }
}

fn chain(name: &str, rules: &str) -> String {
    format!("  chain {name} {{\n{rules}  }}\n")
}

fn rules(matched: &Match, entry: &Entry, pod_cidr: &str) -> String {
    let mut rules = String::new();
    let (protocol, by_address) = match matched {
        Match::Address(_, protocol, _) => (word(*protocol), true),
        Match::NodePort(protocol, _) => (word(*protocol), false),
    };
    if entry.from_outside {
        let _ = writeln!(rules, "    meta mark set meta mark | {MARK}");
    } else if by_address {
        // The node itself, or somebody who routes the Service range to it.
        let _ = writeln!(rules, "    ip saddr != {pod_cidr} meta mark set meta mark | {MARK}");
    }
    // Names of Kubernetes objects cannot hold a quote.
    let (comment, lead) = (&entry.comment, dnat(&entry.targets));
    let _ = writeln!(rules, "    meta l4proto {protocol} {lead} comment \"{comment}\"");
    rules
}

fn dnat(targets: &[Target]) -> String {
    if let [only] = targets {
        return format!("dnat to {}:{}", only.address, only.port);
    }
    let numbered = targets.iter().enumerate();
    let choices: Vec<String> = numbered.map(|(i, t)| format!("{i} : {} . {}", t.address, t.port)).collect();
    format!("dnat ip to numgen random mod {} map {{ {} }}", targets.len(), choices.join(", "))
}

fn declare<'a>(
    script: &mut String,
    kind: &str,
    collection: &Collection,
    elements: impl Iterator<Item = &'a String>,
) {
    let _ = writeln!(script, "  {kind} {} {{\n    {}", collection.name, collection.elements);
    let elements: Vec<&str> = elements.map(String::as_str).collect();
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
        assert!(
            script.contains("elements = { 10.43.0.5 . tcp . 80 : goto service-10.43.0.5-tcp-80 }"),
            "{script}"
        );
        assert!(script.contains("elements = { tcp . 30080 : goto node-port-tcp-30080 }"), "{script}");
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
    fn a_change_touches_what_differs_only() {
        let services = [
            service("same", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]})),
            service("web", json!({"clusterIP": "10.43.0.6", "ports": [{"port": 80}]})),
        ];
        let same = slice("same", json!([endpoint("10.42.0.1", "n1", true, false)]));
        let both =
            json!([endpoint("10.42.0.2", "n1", true, false), endpoint("10.42.0.3", "n1", true, false)]);
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
}
