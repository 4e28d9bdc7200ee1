//! Which flows go on to where no new one would go.
//!
//! A flow follows its first packet. When the Pod behind it is gone, or was not there yet, a sender of UDP that
//! never pauses would never reach the one that is there now, and neither would a connection of TCP that nobody
//! has answered: such flows are forgotten. kube-proxy does so for UDP alone, and loses the later connections
//! from the same address and port.

use sys::netlink::conntrack::{Flow, Transport, Which};

use crate::{Entry, Family, Match, Protocol, Ruleset, Target};

/// Whether a change of the rules may have left such flows, and among which.
pub(crate) fn may_be_stale(before: Option<&Ruleset>, now: &Ruleset) -> Option<Which> {
    let Some(before) = before else { return which(tracked(now).map(|(protocol, ..)| protocol)) };
    // A target more harms nobody, unless it is the first.
    let kept = |old: &Entry, new: &Entry| {
        (old.targets.is_empty() == new.targets.is_empty())
            && old.targets.iter().all(|target| new.targets.contains(target))
    };
    let changed = tracked(before)
        .filter(|(_, matched, old)| now.entries.get(matched).is_none_or(|new| !kept(old, new)))
        .chain(tracked(now).filter(|(_, matched, _)| !before.entries.contains_key(matched)));
    which(changed.map(|(protocol, ..)| protocol))
}

fn which(protocols: impl Iterator<Item = Protocol>) -> Option<Which> {
    let of = |protocol| if protocol == Protocol::Udp { Which::All } else { Which::Unanswered };
    protocols.map(of).reduce(|one, other| if one == Which::All { one } else { other })
}

/// The entries whose flows the kernel lets us forget.
fn tracked(ruleset: &Ruleset) -> impl Iterator<Item = (Protocol, &Match, &Entry)> {
    ruleset.entries.iter().filter_map(|(matched, entry)| {
        let (Match::Address(_, protocol, _) | Match::NodePort(_, protocol, _)) = *matched;
        (protocol != Protocol::Sctp).then_some((protocol, matched, entry))
    })
}

/// Whether a flow goes where it should not: past the Pods of the Service that it is addressed to, or to a
/// Pod of a Service that is no more.
pub(crate) fn is_stale(flow: &Flow, before: Option<&Ruleset>, now: &Ruleset) -> bool {
    let (address, port) = flow.original.destination;
    let protocol = match flow.transport {
        Transport::Udp => Protocol::Udp,
        Transport::UnansweredTcp => Protocol::Tcp,
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
        assert_eq!(may_be_stale(Some(&before), &now), Some(Which::All));
        let stale = |to, really| is_stale(&flow(to, really), Some(&before), &now);
        assert!(stale("10.43.0.10:53", "10.42.0.2:53"));
        assert!(stale("10.43.0.10:53", "10.43.0.10:53"), "sent before there was a rule");
        assert!(!stale("10.43.0.10:53", "10.42.0.3:53"));
        assert!(!stale("8.8.8.8:53", "8.8.8.8:53"));
        let none = rules(&[]);
        assert_eq!(may_be_stale(Some(&now), &none), Some(Which::All));
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
        assert_eq!(may_be_stale(Some(&one), &two), None);
        assert_eq!(may_be_stale(Some(&two), &two), None);
    }

    #[test]
    fn of_tcp_only_what_nobody_has_answered_is_looked_at() {
        let web = Match::Address(at("10.43.0.5:80").0, Protocol::Tcp, 80);
        let (before, now) =
            (rules(&[(web, &["10.42.0.2:80", "10.42.0.3:80"])]), rules(&[(web, &["10.42.0.3:80"])]));
        assert_eq!(may_be_stale(Some(&before), &now), Some(Which::Unanswered));
        assert_eq!(may_be_stale(Some(&now), &before), None);
        assert_eq!(
            may_be_stale(None, &now),
            Some(Which::Unanswered),
            "a daemon of before may have led there"
        );
        let stale =
            |transport, really| is_stale(&flow_of(transport, "10.43.0.5:80", really), Some(&before), &now);
        assert!(stale(Transport::UnansweredTcp, "10.42.0.2:80"));
        assert!(!stale(Transport::UnansweredTcp, "10.42.0.3:80"));
        assert!(!stale(Transport::Udp, "10.42.0.2:80"), "another protocol's port");
    }
}
