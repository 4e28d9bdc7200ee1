//! Random events; what must hold whatever happens.

use proptest::prelude::*;
use serde_json::json;

use super::event::Event;
use super::probe::{Outcome, ProbeKind};
use super::tests::{World, pod};

/// Something random that happens to the Pod.
#[derive(Clone, Debug)]
enum Happening {
    Exit(usize, i32),
    Pass(i64),
    Probe(usize, bool),
    Fail(&'static str),
    Restart,
    Delete(i64),
    Evict,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..4_usize, prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(at, code)| Happening::Exit(at, code)),
        4 => (0..400_i64).prop_map(Happening::Pass),
        2 => (0..4_usize, any::<bool>()).prop_map(|(at, good)| Happening::Probe(at, good)),
        2 => prop_oneof![Just("image"), Just("start"), Just("config"), Just("post")].prop_map(Happening::Fail),
        1 => Just(Happening::Restart),
        1 => prop_oneof![Just(0), Just(5), Just(30)].prop_map(Happening::Delete),
        1 => Just(Happening::Evict),
    ]
}

const NAMES: [&str; 4] = ["i", "side", "a", "b"];

fn world(policy: &str) -> World {
    World::new(pod(json!({
        "restartPolicy": policy,
        "initContainers": [{"name": "i", "image": "img"}, {"name": "side", "image": "img", "restartPolicy": "Always"}],
        "containers": [
            {"name": "a", "image": "img", "livenessProbe": {"exec": {}, "failureThreshold": 1}},
            {"name": "b", "image": "img", "lifecycle": {"postStart": {"exec": {}}}},
        ],
    })))
}

fn happen(world: &mut World, what: &Happening) {
    match what {
        Happening::Exit(at, code) => world.exit(NAMES[*at], *code),
        Happening::Pass(seconds) => world.pass(*seconds),
        Happening::Probe(at, good) => {
            let outcome = if *good { Outcome::Success } else { Outcome::Failure("x".into()) };
            world.probe(NAMES[*at], ProbeKind::Liveness, outcome);
        }
        Happening::Fail(what) => *world.fail.entry(what).or_default() += 1,
        Happening::Restart => world.restart(),
        Happening::Delete(grace) => world.delete(*grace),
        Happening::Evict => world.event(Event::Evicted {
            reason: "Evicted".into(),
            message: "low".into(),
            grace_period_seconds: None,
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing starts in a Pod that has ended, restart counts never fall, a terminal phase
    /// stays, and a deletion always comes to its end. `World` checks the single instance.
    #[test]
    fn random_lives_keep_the_rules(policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
                                   list in prop::collection::vec(happening(), 1..60)) {
        let mut world = world(policy);
        let mut restarts = [0; 4];
        for what in &list {
            let ended = world.state.is_terminated();
            let phase = world.phase().to_string();
            let starts = world.log.iter().filter(|line| line.starts_with("start ")).count();
            happen(&mut world, what);
            if ended {
                let now = world.log.iter().filter(|line| line.starts_with("start ")).count();
                prop_assert_eq!(starts, now, "started after the end");
            }
            if phase == "Succeeded" || phase == "Failed" {
                prop_assert_eq!(world.phase(), phase);
            }
            for (count, container) in restarts.iter_mut().zip(&world.state.containers) {
                prop_assert!(container.attempt >= *count, "restarts of {} fell", container.name);
                *count = container.attempt;
            }
        }
        world.delete(30);
        world.pass(3600);
        prop_assert!(world.state.is_gone(), "{:?}", world.state.stage);
        prop_assert!(world.running.is_empty());
    }

    /// A node that forgets everything and looks again ends the same as one that did not.
    #[test]
    fn a_rebuilt_state_ends_the_same(code in prop_oneof![Just(0), Just(1)], crashes in 0..3_usize,
                                     policy in prop_oneof![Just("OnFailure"), Just("Never"), Just("Always")]) {
        let run = |restart: bool| {
            let mut world = world(policy);
            world.exit("i", 0);
            for _ in 0..crashes {
                world.exit("b", 1);
                if restart { world.restart(); }
                world.pass(310);
            }
            if restart { world.restart(); }
            world.exit("a", code);
            world.exit("b", code);
            if restart { world.restart(); }
            let running: Vec<String> = world.running.keys().cloned().collect();
            (world.phase().to_string(), running, world.state.containers.iter().map(|one| one.attempt).collect::<Vec<_>>())
        };
        prop_assert_eq!(run(false), run(true));
    }
}
