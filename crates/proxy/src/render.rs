//! The rules as a script for `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::policy::render as policy;
use crate::{Entry, Family, Instance, Match, Protocol, Ruleset, Target};

/// The bit that says "masquerade", the same that kube-proxy uses by default.
const MARK: &str = "0x4000";
pub(crate) const MARK_BIT: u32 = 0x4000;

/// The table of an instance; of IPv6 there is another of the same name, once a Service has such an address.
pub fn table_name(instance: &str) -> String {
    format!("monopod-{instance}")
}

impl Family {
    pub(crate) const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family's name in commands and rules.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }
}

impl Ruleset {
    /// The script that replaces the whole table in one transaction.
    ///
    /// Packets are led by verdict maps, whose look-up does not grow with the
    /// number of Services.
    pub fn script(&self) -> String {
        let present = |family: &Family| *family == Family::V4 || self.has(*family);
        Family::ALL.into_iter().filter(present).map(|family| self.table(family)).collect()
    }

    /// The script that makes this table of the one that `before` describes, in one transaction.
    ///
    /// It touches what differs only. A table that is replaced leaves the kernel's hooks and
    /// joins them again, and each waits for all processors.
    pub fn change(&self, before: &Ruleset) -> String {
        let name = table_name(&self.instance.id);
        let of = |family: Family| match (family, before.has(family), self.has(family)) {
            (Family::V4, ..) | (_, true, true) => self.table_change(before, family),
            (_, false, true) => self.table(family),
            (_, true, false) => format!("delete table {} {name}\n", family.word()),
            (_, false, false) => String::new(),
        };
        Family::ALL.into_iter().map(of).collect()
    }

    pub(crate) fn has(&self, family: Family) -> bool {
        self.entries.keys().any(|matched| matched.family() == family) || self.policies.has(family)
    }

    fn table(&self, family: Family) -> String {
        let (name, word) = (table_name(&self.instance.id), family.word());
        let parts = Parts::of(self, family);
        let mut script = format!("table {word} {name}\ndelete table {word} {name}\ntable {word} {name} {{\n");
        for (name, collection) in &parts.collections {
            declare(&mut script, family, name, collection, collection.elements.iter());
        }
        script.extend(parts.chains.iter().map(|(name, rules)| chain(name, rules)));
        script.push_str(&HOOKS.replace("FAMILY", word));
        script.push_str("}\n");
        script
    }

    fn table_change(&self, before: &Ruleset, family: Family) -> String {
        let table = format!("{} {}", family.word(), table_name(&self.instance.id));
        let (old, new) = (Parts::of(before, family), Parts::of(self, family));
        let mut then = format!("table {table} {{\n");
        let nothing = BTreeSet::new();
        for (name, collection) in &new.collections {
            let known = old.collections.get(name).map_or(&nothing, |old| &old.elements);
            let mut added = collection.elements.difference(known).peekable();
            if added.peek().is_some() || !old.collections.contains_key(name) {
                declare(&mut then, family, name, collection, added);
            }
        }
        let differing = new.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(rules));
        then.extend(differing.map(|(name, rules)| chain(name, rules)));
        then.push_str("}\n");
        removals(&table, &old, &new) + &then
    }
}

/// What is not as it was, taken away. Nothing can be deleted while something else names it, so elements,
/// which name chains, go first, then rules, which name both, then chains, and then what held elements.
fn removals(table: &str, old: &Parts, new: &Parts) -> String {
    let (mut elements, mut rules, mut rest) = (String::new(), String::new(), String::new());
    let (nothing, mut collections) = (BTreeSet::new(), String::new());
    for (name, collection) in &old.collections {
        let kept = new.collections.get(name).map_or(&nothing, |new| &new.elements);
        let gone: Vec<&str> = collection.elements.difference(kept).map(|element| key(element)).collect();
        if !gone.is_empty() {
            let _ = writeln!(elements, "delete element {table} {name} {{ {} }}", gone.join(", "));
        }
        if !new.collections.contains_key(name) {
            let _ = writeln!(collections, "delete {} {table} {name}", collection.kind.word());
        }
    }
    for (chain, was) in &old.chains {
        let now = new.chains.get(chain);
        if now != Some(was) {
            let _ = writeln!(rules, "flush chain {table} {chain}");
        }
        if now.is_none() {
            let _ = writeln!(rest, "delete chain {table} {chain}");
        }
    }
    elements + &rules + &rest + &collections
}

/// What holds elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Map,
    Set,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Map => "map",
            Kind::Set => "set",
        }
    }
}

/// A map or set of the table.
#[derive(Debug)]
struct Collection {
    kind: Kind,
    /// `ADDRESS` is the family's type of addresses.
    types: &'static str,
    elements: BTreeSet<String>,
}

const ADDRESS_MAP: &str = "type ADDRESS . inet_proto . inet_service : verdict;";
const PORT_MAP: &str = "type inet_proto . inet_service : verdict;";
pub(crate) const SERVICES: &str = "services";
pub(crate) const NODE_PORTS: &str = "node-ports";
pub(crate) const REFUSED: &str = "refused";
pub(crate) const REFUSED_PORTS: &str = "refused-ports";
pub(crate) const HAIRPINS: &str = "hairpins";
/// Those that the hooks name, which are always there.
const ALWAYS: [(&str, Kind, &str); 5] = [
    (SERVICES, Kind::Map, ADDRESS_MAP),
    (NODE_PORTS, Kind::Map, PORT_MAP),
    (REFUSED, Kind::Map, ADDRESS_MAP),
    (REFUSED_PORTS, Kind::Map, PORT_MAP),
    (HAIRPINS, Kind::Set, "type ADDRESS . ADDRESS;"),
];

/// What of a map's element names it.
fn key(element: &str) -> &str {
    element.split_once(" : ").map_or(element, |(key, _)| key)
}

/// A Pod that reaches itself through a Service must see another sender, or it
/// would answer itself directly. Refusing happens where `reject` works and
/// before other tables accept. TCP is refused by a reset: of the ICMP errors that `reject` sends by itself
/// the kernel lets one client have one a second (icmp(7), icmp_ratelimit), and the others would hang.
const HOOKS: &str = r#"  chain rejecting {
    meta l4proto tcp reject with tcp reset
    reject
  }
  chain lead {
    FAMILY daddr . meta l4proto . th dport vmap @services
    fib daddr type local meta l4proto . th dport vmap @node-ports
  }
  chain refuse {
    FAMILY daddr . meta l4proto . th dport vmap @refused
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
    ct status dnat FAMILY saddr . FAMILY daddr @hairpins masquerade
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
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Maps and sets by name.
    collections: BTreeMap<String, Collection>,
    /// Rules by the name of the chain.
    chains: BTreeMap<String, String>,
}

impl Parts {
    fn of(ruleset: &Ruleset, family: Family) -> Self {
        let mut parts = Parts::default();
        for (name, kind, types) in ALWAYS {
            parts.collection(name, kind, types);
        }
        for (matched, entry) in ruleset.entries.iter().filter(|(matched, _)| matched.family() == family) {
            parts.add(matched, entry, &ruleset.instance);
        }
        policy::add(&mut parts, &ruleset.policies, family);
        parts
    }

    /// Declares a map or set.
    pub(crate) fn collection(&mut self, name: &str, kind: Kind, types: &'static str) {
        let empty = || Collection { kind, types, elements: BTreeSet::new() };
        self.collections.entry(name.to_owned()).or_insert_with(empty);
    }

    /// Adds an element to what was declared.
    pub(crate) fn element(&mut self, collection: &str, element: String) {
        let known = self.collections.get_mut(collection);
        known.expect("a collection is declared before it has elements").elements.insert(element);
    }

    pub(crate) fn chain(&mut self, name: &str, rules: String) {
        self.chains.insert(name.to_owned(), rules);
    }

    pub(crate) fn has_chain(&self, name: &str) -> bool {
        self.chains.contains_key(name)
    }

    fn add(&mut self, matched: &Match, entry: &Entry, instance: &Instance) {
        let chain = chain_of(matched);
        let (key, led, refused) = match matched {
            Match::Address(address, protocol, port) => {
                (format!("{address} . {} . {port}", word(*protocol)), SERVICES, REFUSED)
            }
            Match::NodePort(_, protocol, port) => {
                (format!("{} . {port}", word(*protocol)), NODE_PORTS, REFUSED_PORTS)
            }
        };
        if entry.drop {
            self.element(refused, format!("{key} : drop"));
        } else if entry.targets.is_empty() {
            self.element(refused, format!("{key} : goto rejecting"));
        } else {
            self.element(led, format!("{key} : goto {chain}"));
            for target in &entry.targets {
                self.element(HAIRPINS, format!("{0} . {0}", target.address));
            }
            let rules =
                marks(matched, entry, instance) + &self.lead(matched.family(), entry, protocol_of(matched));
            self.chain(&chain, rules);
        }
    }
}

/// The chain that leads the packets of a match on.
pub(crate) fn chain_of(matched: &Match) -> String {
    match matched {
        Match::Address(address, protocol, port) => {
            format!("service-{}-{}-{port}", chain_name(*address), word(*protocol))
        }
        Match::NodePort(_, protocol, port) => format!("node-port-{}-{port}", word(*protocol)),
    }
}

/// An address in the name of a chain, which a colon would end.
pub(crate) fn chain_name(address: IpAddr) -> String {
    address.to_string().replace(':', "_")
}

fn chain(name: &str, rules: &str) -> String {
    format!("  chain {name} {{\n{rules}  }}\n")
}

fn protocol_of(matched: &Match) -> Protocol {
    let (Match::Address(_, protocol, _) | Match::NodePort(_, protocol, _)) = matched;
    *protocol
}

/// Who may not come, and whose answers must come back by this node.
fn marks(matched: &Match, entry: &Entry, instance: &Instance) -> String {
    let mut rules = String::new();
    let (family, by_address) = (matched.family(), matches!(matched, Match::Address(..)));
    if !entry.sources.is_empty() {
        let ranges: Vec<String> = entry.sources.iter().map(ToString::to_string).collect();
        let _ = writeln!(rules, "    {} saddr != {{ {} }} drop", family.word(), ranges.join(", "));
    }
    let pods = instance.pod_cidrs.iter().find(|range| range.family() == family);
    match pods {
        _ if entry.keeps_sender => {}
        // The node itself, or somebody who routes the Service range to it.
        Some(pods) if !entry.from_outside && by_address => {
            let _ = writeln!(rules, "    {} saddr != {pods} meta mark set meta mark | {MARK}", family.word());
        }
        _ if entry.from_outside => {
            let _ = writeln!(rules, "    meta mark set meta mark | {MARK}");
        }
        _ => {}
    }
    rules
}

impl Parts {
    /// The rules that lead to one of the targets.
    fn lead(&mut self, family: Family, entry: &Entry, protocol: Protocol) -> String {
        let Some(seconds) = entry.affinity else {
            // Names of Kubernetes objects cannot hold a quote.
            let (comment, lead) = (policy::comment(&entry.comment), dnat(family, &entry.targets));
            return format!("    meta l4proto {} {lead} comment \"{comment}\"\n", word(protocol));
        };
        let mut rules = String::new();
        let chains: Vec<String> =
            entry.targets.iter().map(|target| self.remember(entry, *target, protocol, seconds)).collect();
        for chain in &chains {
            let _ = writeln!(rules, "    {} saddr @affinity-{chain} goto {chain}", family.word());
        }
        let choices: Vec<String> =
            chains.iter().enumerate().map(|(i, c)| format!("{i} : goto {c}")).collect();
        let _ = writeln!(rules, "    numgen random mod {} vmap {{ {} }}", chains.len(), choices.join(", "));
        rules
    }

    /// A chain that leads to one target and notes who was led there. All ways to a Service share it: a client
    /// is the same whichever address it comes by.
    fn remember(&mut self, entry: &Entry, target: Target, protocol: Protocol, seconds: u32) -> String {
        let (family, service) = (Family::of(target.address), entry.comment.replace(':', "/"));
        let chain = format!("to-{service}-{}-{}", chain_name(target.address), target.port);
        let set = format!("affinity-{chain}");
        self.collection(&set, Kind::Set, "type ADDRESS; flags dynamic,timeout;");
        let note = format!("    update @{set} {{ {} saddr timeout {seconds}s }}\n", family.word());
        let lead = format!("    meta l4proto {} {}\n", word(protocol), dnat(family, &[target]));
        self.chain(&chain, note + &lead);
        chain
    }
}

fn dnat(family: Family, targets: &[Target]) -> String {
    if let [Target { address, port }] = targets {
        return format!("dnat to {}", std::net::SocketAddr::new(*address, *port));
    }
    let numbered = targets.iter().enumerate();
    let choices: Vec<String> = numbered.map(|(i, t)| format!("{i} : {} . {}", t.address, t.port)).collect();
    let (family, count) = (family.word(), targets.len());
    format!("dnat {family} to numgen random mod {count} map {{ {} }}", choices.join(", "))
}

fn declare<'a>(
    script: &mut String,
    family: Family,
    name: &str,
    collection: &Collection,
    elements: impl Iterator<Item = &'a String>,
) {
    let types = collection.types.replace("ADDRESS", family.address_type());
    let _ = writeln!(script, "  {} {name} {{\n    {types}", collection.kind.word());
    let elements: Vec<&str> = elements.map(String::as_str).collect();
    if !elements.is_empty() {
        let _ = writeln!(script, "    elements = {{ {} }}", elements.join(", "));
    }
    script.push_str("  }\n");
}

pub(crate) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests;
