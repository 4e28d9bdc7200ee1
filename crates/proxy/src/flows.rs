//! Which flows go on to where no new one would go.
//!
//! A flow follows its first packet. When the Pod behind it is gone, or was not there yet, a sender of UDP that
//! never pauses would never reach the one that is there now, and neither would a connection of TCP that nobody
//! has answered, or a new one from the address and port of one that has just ended: such flows are forgotten.
//! kube-proxy does so for UDP alone, and loses those connections.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sys::netlink::conntrack::{Flow, Transport, Which};

use crate::{Entry, Family, Match, Protocol, Ruleset, Target};

/// Of so many Pods at once each is asked for by itself.
const ASKED_ONE_BY_ONE: usize = 16;

/// Where a change of the rules may have left such flows.
pub(crate) fn may_be_stale(before: Option<&Ruleset>, now: &Ruleset) -> Vec<Which> {
    let everywhere = vec![Which::All];
    let Some(before) = before else {
        return if tracked(now).next().is_some() { everywhere } else { Vec::new() };
    };
    // What was sent before there was anybody went to the Service's own address.
    let leads = |rules: &Ruleset, matched| rules.entries.get(matched).is_some_and(|e| !e.targets.is_empty());
    if tracked(now).any(|(matched, entry)| !entry.targets.is_empty() && !leads(before, matched)) {
        return everywhere;
    }
    let mut left = BTreeSet::new();
    for (matched, old) in tracked(before) {
        let kept = now.entries.get(matched).map(|new| new.targets.as_slice()).unwrap_or_default();
        let gone = old.targets.iter().filter(|target| !kept.contains(target));
        left.extend(gone.map(|target| Which::To(target.address)));
    }
    if left.len() > ASKED_ONE_BY_ONE { everywhere } else { left.into_iter().collect() }
}

/// The entries whose flows the kernel lets us forget.
fn tracked(ruleset: &Ruleset) -> impl Iterator<Item = (&Match, &Entry)> {
    ruleset.entries.iter().filter(|(matched, _)| {
        let (Match::Address(_, protocol, _) | Match::NodePort(_, protocol, _)) = matched;
        *protocol != Protocol::Sctp
    })
}

/// Whether a flow leads to a Pod that is no more. None of it comes back from there; a packet that is led anew
/// is answered at once, if only by a reset.
pub(crate) fn is_orphaned(flow: &Flow, gone: IpAddr) -> bool {
    flow.is_led() && flow.reply.source.0 == gone
}

/// Whether a flow goes where it should not: past the Pods of the Service that it is addressed to, or to a
/// Pod of a Service that is no more.
pub(crate) fn is_stale(flow: &Flow, before: Option<&Ruleset>, now: &Ruleset) -> bool {
    let (address, port) = flow.original.destination;
    let protocol = match flow.transport {
        Transport::Udp => Protocol::Udp,
        Transport::IdleTcp => Protocol::Tcp,
        // Whoever speaks with a Pod that leaves may finish.
        Transport::OpenTcp => return false,
    };
    let leads = |entry: &Entry| {
        let (address, port) = flow.reply.source;
        entry.targets.contains(&Target { address, port })
    };
    let by_address = Match::Address(address, protocol, port);
    if let Some(entry) = now.entries.get(&by_address) {
        return !leads(entry);
    }
    // Others may send to the same port of whatever host: only what was led was ours.
    let led_by =
        |ruleset: &Ruleset, matched: &Match| flow.is_led() && ruleset.entries.get(matched).is_some_and(leads);
    let by_port = Match::NodePort(Family::of(address), protocol, port);
    let gone = |matched| {
        let before = before.is_some_and(|before| led_by(before, matched));
        before && !led_by(now, matched)
    };
    gone(&by_address) || gone(&by_port)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use sys::netlink::conntrack::Tuple;

    use super::*;
    use crate::Instance;

    fn at(text: &str) -> (IpAddr, u16) {
        let address: std::net::SocketAddr = text.parse().unwrap();
        (address.ip(), address.port())
    }

    fn rules(entries: &[(Match, &[&str])]) -> Ruleset {
        let instance = Instance {
            id: "x".into(),
            node: "n".into(),
            zone: None,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            link: None,
            dns: None,
        };
        let target = |text: &&str| Target { address: at(text).0, port: at(text).1 };
        let entry = |targets: &[&str]| Entry {
            comment: String::new(),
            targets: targets.iter().map(target).collect(),
            ..Entry::default()
        };
        let entries = entries.iter().map(|(matched, targets)| (*matched, entry(targets))).collect();
        Ruleset { instance, entries, policies: std::sync::Arc::default() }
    }

    fn flow(to: &str, really: &str) -> Flow {
        flow_of(Transport::Udp, to, really)
    }

    fn flow_of(transport: Transport, to: &str, really: &str) -> Flow {
        let client = at("10.42.0.9:5000");
        let original = Tuple { source: client, destination: at(to) };
        Flow::new(transport, original, Tuple { source: at(really), destination: client })
    }

    fn dns() -> Match {
        Match::Address(at("10.43.0.10:53").0, Protocol::Udp, 53)
    }

    #[test]
    fn flows_to_pods_that_are_gone_or_that_came_late_are_stale() {
        let before = rules(&[(dns(), &["10.42.0.2:53", "10.42.0.3:53"])]);
        let now = rules(&[(dns(), &["10.42.0.3:53"])]);
        let gone = Which::To(at("10.42.0.2:53").0);
        assert_eq!(may_be_stale(Some(&before), &now), [gone]);
        let stale = |to, really| is_stale(&flow(to, really), Some(&before), &now);
        assert!(stale("10.43.0.10:53", "10.42.0.2:53"));
        assert!(stale("10.43.0.10:53", "10.43.0.10:53"), "sent before there was a rule");
        assert!(!stale("10.43.0.10:53", "10.42.0.3:53"));
        assert!(!stale("8.8.8.8:53", "8.8.8.8:53"));
        let none = rules(&[]);
        assert_eq!(may_be_stale(Some(&none), &now), [Which::All], "what was sent before");
        assert_eq!(may_be_stale(Some(&now), &none), [Which::To(at("10.42.0.3:53").0)]);
        assert!(is_stale(&flow("10.43.0.10:53", "10.42.0.3:53"), Some(&now), &none));
    }

    #[test]
    fn of_a_node_port_only_what_it_led_is_forgotten() {
        let port = Match::NodePort(Family::V4, Protocol::Udp, 30053);
        let (before, now) = (rules(&[(port, &["10.42.0.2:53"])]), rules(&[(port, &["10.42.0.3:53"])]));
        let stale = |to, really| is_stale(&flow(to, really), Some(&before), &now);
        assert!(stale("192.0.2.7:30053", "10.42.0.2:53"));
        assert!(!stale("192.0.2.7:30053", "10.42.0.3:53"));
        assert!(!stale("203.0.113.1:30053", "203.0.113.1:30053"), "another host's port");
    }

    #[test]
    fn one_pod_more_is_no_reason_to_look() {
        let one = rules(&[(dns(), &["10.42.0.2:53"])]);
        let two = rules(&[(dns(), &["10.42.0.2:53", "10.42.0.3:53"])]);
        assert_eq!(may_be_stale(Some(&one), &two), []);
        assert_eq!(may_be_stale(Some(&two), &two), []);
    }

    #[test]
    fn of_tcp_only_what_has_nothing_to_lose_is_forgotten() {
        let web = Match::Address(at("10.43.0.5:80").0, Protocol::Tcp, 80);
        let (before, now) =
            (rules(&[(web, &["10.42.0.2:80", "10.42.0.3:80"])]), rules(&[(web, &["10.42.0.3:80"])]));
        assert_eq!(may_be_stale(Some(&before), &now), [Which::To(at("10.42.0.2:80").0)]);
        assert_eq!(may_be_stale(Some(&now), &before), []);
        assert_eq!(may_be_stale(None, &now), [Which::All], "a daemon of before may have led there");
        let led = |transport, really| flow_of(transport, "10.43.0.5:80", really);
        let stale = |transport, really| is_stale(&led(transport, really), Some(&before), &now);
        assert!(stale(Transport::IdleTcp, "10.42.0.2:80"));
        assert!(!stale(Transport::IdleTcp, "10.42.0.3:80"));
        assert!(!stale(Transport::OpenTcp, "10.42.0.2:80"), "it may finish");
        assert!(!stale(Transport::Udp, "10.42.0.2:80"), "another protocol's port");
        let gone = at("10.42.0.2:80").0;
        assert!(is_orphaned(&led(Transport::OpenTcp, "10.42.0.2:80"), gone), "once the Pod is gone");
        assert!(!is_orphaned(&led(Transport::OpenTcp, "10.42.0.3:80"), gone));
    }
}
