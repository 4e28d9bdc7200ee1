//! Policies as parts of the table.
//!
//! ```text
//! forward ─┬─ a reply? ─ accept                    input ─┬─ a reply? ─ accept
//!          ├─ isolated-out ─► pod-out-A ─┬─ policy-out-P ─► allowed-out
//!          │                             └─ drop               │
//!          └─ allowed-out ─ isolated-in ─► pod-in-B ─┬─ policy-in-Q ─► accept
//!                                                    └─ drop
//! ```
//!
//! A Pod that comes or goes is an element of some sets and maps and a chain of its own; the chains of the
//! policies, which name those sets, stay as they are.
//!
//! What the node itself sends comes by neither hook. Only replies pass unseen: each packet of the side that
//! began is judged, so that a connection ends with the permission for it.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Destination, Direction, Isolated, Peers, Policies, PolicyUid, Ports, Rule, Span};
use crate::render::{Kind, Parts, chain_name, word};
use crate::{Family, Protocol};

/// Judged after refusals of Services and before other tables see the packet.
const FORWARD: &str = "    type filter hook forward priority -5; policy accept;
    ct state related accept
    ct state established ct direction reply accept
    FAMILY saddr vmap @isolated-out
    goto allowed-out
";
const INPUT: &str = "    type filter hook input priority -5; policy accept;
    ct state related accept
    ct state established ct direction reply accept
    FAMILY saddr vmap @isolated-out
";
const ALLOWED_OUT: &str = "    FAMILY daddr vmap @isolated-in
    accept
";
const VERDICTS: &str = "type ADDRESS : verdict;";
const ADDRESSES: &str = "type ADDRESS;";
const DESTINATIONS: &str = "type ADDRESS . inet_proto . inet_service;";

/// A comment of a rule may have this many bytes in the kernel.
pub(crate) const COMMENT_MAX: usize = 127;

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        }
    }

    fn isolated(self) -> &'static str {
        match self {
            Direction::Ingress => "isolated-in",
            Direction::Egress => "isolated-out",
        }
    }

    /// Where the address of the other side is.
    fn peer(self) -> &'static str {
        match self {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        }
    }

    /// The end of what this direction allows. Of egress the other side is asked still.
    fn allowed(self) -> &'static str {
        match self {
            Direction::Ingress => "accept",
            Direction::Egress => "goto allowed-out",
        }
    }
}

/// Adds what is there for policies; nothing while they isolate nobody of this family.
pub(crate) fn add(parts: &mut Parts, policies: &Policies, family: Family) {
    if !policies.has(family) {
        return;
    }
    let hook = |text: &str| text.replace("FAMILY", family.word());
    parts.chain("policies-forward", hook(FORWARD));
    parts.chain("policies-input", hook(INPUT));
    parts.chain("allowed-out", hook(ALLOWED_OUT));
    for direction in Direction::BOTH {
        parts.collection(direction.isolated(), Kind::Map, VERDICTS);
    }
    let of_family = |(_, address): &(Direction, IpAddr)| Family::of(*address) == family;
    for ((direction, address), isolated) in policies.isolated.iter().filter(|(key, _)| of_family(key)) {
        add_pod(parts, *direction, *address, isolated);
        for policy in &isolated.policies {
            let rules = policies.rules.get(&(*direction, policy.clone()));
            add_policy(parts, family, *direction, policy, rules.map(Vec::as_slice).unwrap_or_default());
        }
    }
}

/// One Pod's own chain and its entry in the map that leads to it.
fn add_pod(parts: &mut Parts, direction: Direction, address: IpAddr, isolated: &Isolated) {
    let chain = format!("pod-{}-{}", direction.name(), chain_name(address));
    parts.element(direction.isolated(), format!("{address} : goto {chain}"));
    let family = Family::of(address).word();
    // To itself a Pod may always speak, which it does by way of a Service.
    let mut rules = format!("    {family} {} {address} accept\n", direction.peer());
    for policy in &isolated.policies {
        let _ = writeln!(rules, "    jump {}", policy_chain(direction, policy));
    }
    let _ = writeln!(rules, "    drop comment \"{}\"", comment(&isolated.pod));
    parts.chain(&chain, rules);
}

fn policy_chain(direction: Direction, policy: &PolicyUid) -> String {
    format!("policy-{}-{policy}", direction.name())
}

/// Names of Kubernetes objects have neither quotes nor letters of several bytes.
pub(crate) fn comment(text: &str) -> &str {
    text.get(..COMMENT_MAX).unwrap_or(text)
}

/// The chain of a policy, which all Pods that it selects share, and the sets that it names.
fn add_policy(parts: &mut Parts, family: Family, direction: Direction, policy: &PolicyUid, rules: &[Rule]) {
    let name = policy_chain(direction, policy);
    if parts.has_chain(&name) {
        return;
    }
    let mut text = String::new();
    for (number, rule) in rules.iter().enumerate() {
        let set = |what: &str| format!("{what}-{}-{policy}-{number}", direction.name());
        let peers = peers(parts, family, direction, &rule.peers, &set("peers"));
        let mut allow = |matches: &str| {
            let _ = writeln!(text, "    {matches}{}", direction.allowed());
        };
        for peer in &peers {
            ports(&rule.ports).iter().for_each(|port| allow(&format!("{peer}{port}")));
        }
        if let Some(exact) = exact(parts, family, &rule.exact, &set("ports")) {
            match direction {
                Direction::Ingress => peers.iter().for_each(|peer| allow(&format!("{peer}{exact}"))),
                Direction::Egress => allow(&exact),
            }
        }
    }
    parts.chain(&name, text);
}

/// The matches of which one must hold for the other side; none when nobody is meant.
fn peers(parts: &mut Parts, family: Family, direction: Direction, peers: &Peers, set: &str) -> Vec<String> {
    let Peers::Of { pods, blocks } = peers else { return vec![String::new()] };
    let (side, word) = (direction.peer(), family.word());
    let mut matches = Vec::new();
    let pods: Vec<&IpAddr> = pods.iter().filter(|address| Family::of(**address) == family).collect();
    // The set is there for Pods that may come too, so that the chain stays when they do.
    parts.collection(set, Kind::Set, ADDRESSES);
    pods.iter().for_each(|address| parts.element(set, address.to_string()));
    matches.push(format!("{word} {side} @{set} "));
    let blocks = blocks.iter().filter(|block| Family::of(block.first) == family);
    let blocks: Vec<String> = blocks.map(span).collect();
    if !blocks.is_empty() {
        matches.push(format!("{word} {side} {{ {} }} ", blocks.join(", ")));
    }
    matches
}

fn span<T: PartialEq + std::fmt::Display>(span: &Span<T>) -> String {
    if span.first == span.last {
        return span.first.to_string();
    }
    format!("{}-{}", span.first, span.last)
}

/// The matches of which one must hold for the port.
fn ports(ports: &Ports) -> Vec<String> {
    let Ports::Of(numbers) = ports else { return vec![String::new()] };
    let all = [Span { first: 0, last: u16::MAX }];
    let of = |(protocol, spans): (&Protocol, &Vec<Span<u16>>)| {
        if spans[..] == all {
            return format!("meta l4proto {} ", word(*protocol));
        }
        let spans: Vec<String> = spans.iter().map(span).collect();
        format!("meta l4proto {} th dport {{ {} }} ", word(*protocol), spans.join(", "))
    };
    numbers.iter().filter(|(_, spans)| !spans.is_empty()).map(of).collect()
}

/// The match for destinations as wholes.
fn exact(
    parts: &mut Parts,
    family: Family,
    exact: &std::collections::BTreeSet<Destination>,
    set: &str,
) -> Option<String> {
    let mut of_family = exact.iter().filter(|(address, ..)| Family::of(*address) == family).peekable();
    of_family.peek()?;
    parts.collection(set, Kind::Set, DESTINATIONS);
    for (address, protocol, port) in of_family {
        parts.element(set, format!("{address} . {} . {port}", word(*protocol)));
    }
    Some(format!("{} daddr . meta l4proto . th dport @{set} ", family.word()))
}
