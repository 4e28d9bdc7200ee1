//! The rules as the kernel has them, in a network namespace of the test's.

use std::sync::Arc;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sys::namespace::{self, Namespaces};

use super::model::model;
use crate::policy::Policies;
use crate::{Host, Instance, Range, Ruleset, ruleset};

fn rules(policies: Policies) -> Ruleset {
    let instance = Instance {
        id: "0123abcd".into(),
        node: "here".into(),
        zone: None,
        pod_cidrs: vec![Range::new("10.42.0.0".parse().unwrap(), 16)],
        service_cidrs: Vec::new(),
        link: None,
        dns: None,
    };
    Ruleset { policies: Arc::new(policies), ..ruleset(&[], &[], &instance, &Host::default()).0 }
}

fn nft(words: &[&str], script: &str) -> String {
    match sys::command::run("nft", words, script.as_bytes()) {
        Ok(output) => String::from_utf8(output.stdout).unwrap(),
        Err(error) => panic!("{error:?}\n{script}"),
    }
}

/// The table in an order of its own: the kernel lists chains as they came, and elements in none.
fn listed() -> Vec<String> {
    let text = nft(&["list", "table", "ip", "monopod-0123abcd"], "");
    let mut blocks: Vec<String> = text
        .split("\n\t}")
        .map(|block| {
            if block.trim_start().starts_with("chain") {
                return block.trim().to_owned();
            }
            let mut words: Vec<&str> =
                block.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty()).collect();
            words.sort_unstable();
            words.join(" ")
        })
        .collect();
    blocks.sort();
    blocks
}

#[test]
fn a_change_makes_the_table_that_the_whole_script_would_make() {
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
        let mut before = rules(Policies::default());
        nft(&["-f", "-"], &before.script());
        let mut isolated = 0;
        for _ in 0..24 {
            let model = model().new_tree(&mut runner).unwrap().current();
            let now = rules(model.compiled());
            isolated += now.policies.isolated.len();
            nft(&["-f", "-"], &now.change(&before));
            let changed = listed();
            nft(&["-f", "-"], &now.script());
            assert_eq!(changed, listed(), "{}", now.change(&before));
            before = now;
        }
        assert!(isolated > 0, "some of them have something to say");
        nft(&["-f", "-"], &rules(Policies::default()).change(&before));
        nft(&["-f", "-"], &before.change(&rules(Policies::default())));
    });
    test.join().unwrap();
}
