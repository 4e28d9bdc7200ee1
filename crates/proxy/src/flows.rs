//! Which flows of UDP go on to where no new one would go.
//!
//! A flow follows its first packet. When the Pod behind it is gone, or was not there yet, a sender that
//! never pauses would never reach the one that is there now: such flows are forgotten, as kube-proxy does.

use sys::netlink::conntrack::UdpFlow;

use crate::{Entry, Family, Match, Protocol, Ruleset, Target};

/// Whether a change of the rules may have left such flows.
pub(crate) fn may_be_stale(before: Option<&Ruleset>, now: &Ruleset) -> bool {
    let Some(before) = before else { return udp(now).next().is_some() };
    // A target more harms nobody, unless it is the first.
    let kept = |old: &Entry, new: &Entry| {
        (old.targets.is_empty() == new.targets.is_empty())
            && old.targets.iter().all(|target| new.targets.contains(target))
    };
    udp(before).any(|(matched, old)| now.entries.get(matched).is_none_or(|new| !kept(old, new)))
        || udp(now).any(|(matched, _)| !before.entries.contains_key(matched))
}

fn udp(ruleset: &Ruleset) -> impl Iterator<Item = (&Match, &Entry)> {
    let is_udp = |matched: &Match| {
        matches!(matched, Match::Address(_, Protocol::Udp, _) | Match::NodePort(_, Protocol::Udp, _))
    };
    ruleset.entries.iter().filter(move |(matched, _)| is_udp(matched))
}

/// Whether a flow goes where it should not: past the Pods of the Service that it is addressed to, or to a
/// Pod of a Service that is no more.
pub(crate) fn is_stale(flow: &UdpFlow, before: Option<&Ruleset>, now: &Ruleset) -> bool {
    let (address, port) = flow.original.destination;
    let leads = |entry: &Entry| {
        let (address, port) = flow.reply.source;
        entry.targets.contains(&Target { address, port })
    };
    let by_address = Match::Address(address, Protocol::Udp, port);
    if let Some(entry) = now.entries.get(&by_address) {
        return !leads(entry);
    }
    // Others may send to the same port of whatever host: only what was led was ours.
    let led_by =
        |ruleset: &Ruleset, matched: &Match| flow.is_led() && ruleset.entries.get(matched).is_some_and(leads);
    let by_port = Match::NodePort(Family::of(address), Protocol::Udp, port);
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
        let instance =
            Instance { id: "x".into(), node: "n".into(), pod_cidrs: Vec::new(), service_cidrs: Vec::new() };
        let target = |text: &&str| Target { address: at(text).0, port: at(text).1 };
        let entry = |targets: &[&str]| Entry {
            comment: String::new(),
            targets: targets.iter().map(target).collect(),
            drop: false,
            from_outside: false,
        };
        let entries = entries.iter().map(|(matched, targets)| (*matched, entry(targets))).collect();
        Ruleset { instance, entries }
    }

    fn flow(to: &str, really: &str) -> UdpFlow {
        let client = at("10.42.0.9:5000");
        UdpFlow::new(
            Tuple { source: client, destination: at(to) },
            Tuple { source: at(really), destination: client },
        )
    }

    fn dns() -> Match {
        Match::Address(at("10.43.0.10:53").0, Protocol::Udp, 53)
    }

    #[test]
    fn flows_to_pods_that_are_gone_or_that_came_late_are_stale() {
        let before = rules(&[(dns(), &["10.42.0.2:53", "10.42.0.3:53"])]);
        let now = rules(&[(dns(), &["10.42.0.3:53"])]);
        assert!(may_be_stale(Some(&before), &now));
        let stale = |to, really| is_stale(&flow(to, really), Some(&before), &now);
        assert!(stale("10.43.0.10:53", "10.42.0.2:53"));
        assert!(stale("10.43.0.10:53", "10.43.0.10:53"), "sent before there was a rule");
        assert!(!stale("10.43.0.10:53", "10.42.0.3:53"));
        assert!(!stale("8.8.8.8:53", "8.8.8.8:53"));
        let none = rules(&[]);
        assert!(may_be_stale(Some(&now), &none));
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
    fn one_pod_more_and_changes_of_tcp_are_no_reason_to_look() {
        let one = rules(&[(dns(), &["10.42.0.2:53"])]);
        let two = rules(&[(dns(), &["10.42.0.2:53", "10.42.0.3:53"])]);
        assert!(!may_be_stale(Some(&one), &two));
        let tcp = rules(&[(Match::Address(at("10.43.0.1:443").0, Protocol::Tcp, 443), &["10.42.0.1:6443"])]);
        assert!(!may_be_stale(Some(&rules(&[])), &tcp) && !may_be_stale(None, &tcp));
    }
}
