//! The table that messages of our own make, as the kernel has it, in a network namespace of the test's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sys::namespace::{self, Namespaces};

use crate::{Entry, Family, Host, Instance, Match, Protocol, Range, Ruleset, Target, ruleset};

fn empty() -> Ruleset {
    let pods = [Range::parse("10.42.0.0/16"), Range::parse("fd42::/56")];
    let instance = Instance {
        id: "0123abcd".into(),
        node: "here".into(),
        zone: None,
        pod_cidrs: pods.into_iter().flatten().collect(),
        service_cidrs: Vec::new(),
        link: None,
        dns: None,
    };
    ruleset(&[], &[], &instance, &Host::default()).0
}

fn address(family: Family, kind: u8, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, kind, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, kind.into(), 0, 0, 0, 0, 0, number.into()).into(),
    }
}

fn matched() -> impl Strategy<Value = Match> {
    let family = prop_oneof![3 => Just(Family::V4), 1 => Just(Family::V6)];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (family, protocol, 1..4_u8, any::<bool>()).prop_map(|(family, protocol, number, by_address)| {
        match by_address {
            true => Match::Address(address(family, 43, number), protocol, 80),
            false => Match::NodePort(family, protocol, 30_000 + u16::from(number)),
        }
    })
}

/// Pods are few, so that several Services share some.
fn entry() -> impl Strategy<Value = (Vec<u8>, bool, bool, bool)> {
    let pods = prop::collection::btree_set(1..5_u8, 0..4);
    (
        pods.prop_map(|pods| pods.into_iter().collect()),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.1),
    )
}

fn rules() -> impl Strategy<Value = Ruleset> {
    prop::collection::btree_map(matched(), entry(), 0..7).prop_map(|entries| {
        let entries = entries.into_iter().map(|(matched, (pods, from_outside, keeps_sender, drop))| {
            let target = |pod: &u8| Target {
                address: address(matched.family(), 42, *pod),
                port: 8000 + u16::from(*pod),
            };
            let targets = pods.iter().map(target).collect();
            let comment = format!("a/web-{}:", pods.len());
            (matched, Entry { comment, targets, drop, from_outside, keeps_sender, ..Entry::default() })
        });
        Ruleset { entries: entries.collect(), ..empty() }
    })
}

fn nft(words: &[&str], script: &str) -> String {
    match sys::command::run("nft", words, script.as_bytes()) {
        Ok(output) => String::from_utf8(output.stdout).unwrap(),
        Err(error) => panic!("{error:?}\n{script}"),
    }
}

/// The tables, without those of an order that the kernel chooses: that of chains, and of elements.
fn listed() -> Vec<String> {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
        words.sort_unstable();
        words.join(" ")
    };
    let text = nft(&["list", "ruleset"], "").replace(",\n", ", ");
    let mut blocks: Vec<String> =
        text.split("\n\t}").map(|block| block.lines().map(line).collect::<Vec<_>>().join("\n")).collect();
    blocks.sort();
    blocks
}

#[test]
fn a_delta_makes_the_table_that_the_whole_script_would_make() {
    if sys::command::find("nft").is_none() {
        eprintln!("skipped: needs nft");
        return;
    }
    let test = std::thread::spawn(|| {
        if namespace::unshare(Namespaces::NETWORK).is_err() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut runner = TestRunner::deterministic();
        let mut before = empty();
        nft(&["-f", "-"], &before.script());
        let mut by_delta = 0;
        for _ in 0..40 {
            let now = rules().new_tree(&mut runner).unwrap().current();
            match now.delta(&before) {
                Some(batch) => {
                    by_delta += 1;
                    batch.commit().unwrap();
                }
                // IPv6 has come or gone.
                None => drop(nft(&["-f", "-"], &now.change(&before))),
            }
            let changed = listed();
            nft(&["-f", "-"], &now.script());
            assert_eq!(changed, listed(), "{:#?}\n{:#?}", before.entries, now.entries);
            before = now;
        }
        assert!(by_delta > 10, "{by_delta} of them are messages of our own");
    });
    test.join().unwrap();
}

#[test]
fn what_is_not_of_every_day_is_left_to_nft() {
    let web = Match::Address(address(Family::V4, 43, 1), Protocol::Tcp, 80);
    let with = |entry: Entry| Ruleset { entries: [(web, entry)].into(), ..empty() };
    let targets = vec![Target { address: address(Family::V4, 42, 1), port: 80 }];
    let plain = with(Entry { targets: targets.clone(), ..Entry::default() });
    assert!(plain.delta(&empty()).is_some_and(|batch| !batch.is_empty()));
    assert!(plain.delta(&plain).is_some_and(|batch| batch.is_empty()), "nothing differs");
    let sticky = with(Entry { targets: targets.clone(), affinity: Some(9), ..Entry::default() });
    assert!(sticky.delta(&plain).is_none() && plain.delta(&sticky).is_none());
    let sources = vec![Range::new(address(Family::V4, 1, 0), 8)];
    assert!(with(Entry { targets, sources, ..Entry::default() }).delta(&plain).is_none());
}
