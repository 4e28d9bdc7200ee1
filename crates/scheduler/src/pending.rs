//! The Pods that have no node yet, and what is under way for each of them.
//!
//! ```text
//! wants_node ─► queue ─ next ─► (placing) ─ assume ─► (the server binds) ─┬─ bound on watch ─► forget
//!                 ▲                 │                                     │
//!                 └── no node ──────┴──────────── bind_failed ◄───────────┘
//! ```
//!
//! A Pod leaves only when the watch says that it has a node, is gone, or is no longer for us. The answer
//! to a binding alone does not take it out: a change that the watch brings after the answer but that is
//! older would bring it in again, and it would be bound twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::hints::{Relief, Why, helps};
use crate::queue::{Instant, Queue};
use crate::{Failure, Namespaces, PodInfo};

/// By UID, all of it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) queue: Queue,
    pods: HashMap<String, Arc<PodInfo>>,
    /// Counted on a node before the watch has said that they are there.
    assumed: HashSet<String>,
}

/// What is to be done after a binding that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BindFailure {
    /// The Pod is still counted on the node it did not get.
    pub(crate) uncount: bool,
    /// It still wants a node, and will be tried again.
    pub(crate) again: bool,
}

impl Pending {
    /// The Pod has no node. `changed`: in what matters for finding one.
    pub(crate) fn wants_node(&mut self, pod: Arc<PodInfo>, changed: bool) {
        let (uid, priority) = (pod.uid().to_owned(), pod.priority);
        let known = self.pods.insert(uid.clone(), pod);
        if known.is_none() || changed {
            self.queue.push(&uid, priority);
        }
    }

    /// The Pod wants no node of us any more, but what was assumed may still come true.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.pods.remove(uid);
    }

    /// The watch says that the Pod has a node, or is gone: the assumption has an end.
    pub(crate) fn settled(&mut self, uid: &str) {
        self.forget(uid);
        self.assumed.remove(uid);
    }

    /// No node takes the Pod.
    pub(crate) fn failed(&mut self, uid: &str, failure: &Failure, now: Instant) {
        self.queue.failed(uid, Why::from(failure), now);
    }

    /// Something changed: whom it may help is tried again.
    pub(crate) fn relieve(&mut self, relief: Relief<'_>, namespaces: &Namespaces, now: Instant) {
        let pods = &self.pods;
        let helped =
            |uid: &str, why: &Why| pods.get(uid).is_some_and(|pod| helps(relief, pod, why, namespaces));
        self.queue.relieve(now, helped);
    }

    /// The next Pod to place.
    pub(crate) fn next(&mut self) -> Option<Arc<PodInfo>> {
        let uid = self.queue.pop()?;
        let pod = self.pods.get(&uid).cloned();
        debug_assert!(pod.is_some(), "the queue knows the same Pods");
        pod
    }

    /// A node was found, and the server is asked.
    pub(crate) fn assume(&mut self, uid: &str) {
        self.assumed.insert(uid.to_owned());
    }

    /// The server did not bind the Pod.
    pub(crate) fn bind_failed(&mut self, uid: &str, now: Instant) -> BindFailure {
        let failure = BindFailure { uncount: self.assumed.remove(uid), again: self.pods.contains_key(uid) };
        self.queue.errored(uid, now);
        failure
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::place::tests::pod;
    use serde_json::json;

    const LONG: Duration = Duration::from_secs(400);

    /// What can happen, to one of a few Pods.
    #[derive(Clone, Copy, Debug)]
    enum Happening {
        /// The watch brings a Pod without a node, or a change of one.
        Seen(u8),
        /// The next Pod in the queue is tried: it gets a node, or none.
        Tried(bool),
        /// The server answers a binding.
        Answered(u8, bool),
        /// The watch brings what the server has bound.
        Confirmed(u8),
        /// The watch says that a Pod is leaving, or gone.
        Leaving(u8),
        Gone(u8),
        Relieved,
        Passed,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let pods = 0..4_u8;
        prop_oneof![
            4 => pods.clone().prop_map(Happening::Seen),
            4 => any::<bool>().prop_map(Happening::Tried),
            2 => (pods.clone(), any::<bool>()).prop_map(|(n, done)| Happening::Answered(n, done)),
            2 => pods.clone().prop_map(Happening::Confirmed),
            1 => pods.clone().prop_map(Happening::Leaving),
            1 => pods.prop_map(Happening::Gone),
            2 => Just(Happening::Relieved),
            1 => Just(Happening::Passed),
        ]
    }

    /// A Pod as the server has it, and the binding of it.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Truth {
        leaving: bool,
        asked: bool,
        bound: bool,
    }

    #[derive(Default)]
    struct World {
        pending: Pending,
        /// Those that exist and have no node as far as the watch has said.
        pods: BTreeMap<String, Truth>,
        counted: HashSet<String>,
        now: Duration,
    }

    impl World {
        fn happen(&mut self, happening: Happening) {
            let named = |n: u8| format!("pod-{n}");
            match happening {
                Happening::Seen(n) => self.seen(&named(n)),
                Happening::Tried(fits) => self.tried(fits),
                Happening::Answered(n, done) => self.answered(&named(n), done),
                Happening::Confirmed(n) => {
                    if self.pods.get(&named(n)).is_some_and(|truth| truth.bound) {
                        self.pods.remove(&named(n));
                        self.pending.settled(&named(n));
                        self.counted.insert(named(n));
                    }
                }
                Happening::Leaving(n) => {
                    if let Some(truth) = self.pods.get_mut(&named(n)) {
                        truth.leaving = true;
                        self.pending.forget(&named(n));
                    }
                }
                Happening::Gone(n) => {
                    // An answer that comes later finds nobody: the UID does not come back.
                    if self.pods.get(&named(n)).is_some_and(|truth| !truth.asked)
                        || self.counted_only(&named(n))
                    {
                        self.pods.remove(&named(n));
                        self.pending.settled(&named(n));
                        self.counted.remove(&named(n));
                    }
                }
                Happening::Relieved => self.pending.queue.relieve(self.now, |_, _| true),
                Happening::Passed => self.pass(Duration::from_secs(3)),
            }
        }

        fn counted_only(&self, uid: &str) -> bool {
            self.counted.contains(uid) && !self.pods.contains_key(uid)
        }

        fn seen(&mut self, uid: &str) {
            if self.counted_only(uid) {
                return;
            }
            if !self.pods.entry(uid.to_owned()).or_default().leaving {
                self.pending.wants_node(pod(uid, json!({})), true);
            }
        }

        fn tried(&mut self, fits: bool) {
            let Some(pod) = self.pending.next() else { return };
            let truth = self.pods.get_mut(pod.uid()).expect("a Pod that exists");
            assert!(!truth.asked && !truth.bound && !truth.leaving, "{} is asked for twice", pod.uid());
            if fits {
                truth.asked = true;
                self.pending.assume(pod.uid());
                self.counted.insert(pod.uid().to_owned());
            } else {
                self.pending.failed(pod.uid(), &Failure::default(), self.now);
            }
        }

        fn answered(&mut self, uid: &str, done: bool) {
            let Some(truth) = self.pods.get_mut(uid).filter(|truth| truth.asked) else { return };
            truth.asked = false;
            truth.bound = done && !truth.leaving;
            if !truth.bound {
                let leaving = truth.leaving;
                let failure = self.pending.bind_failed(uid, self.now);
                assert_eq!(failure, BindFailure { uncount: true, again: !leaving });
                self.counted.remove(uid);
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.pending.queue.tick(self.now);
        }

        fn check(&self) {
            for (uid, truth) in &self.pods {
                assert_eq!(self.pending.queue.contains(uid), !truth.leaving, "{uid} {truth:?}");
                assert_eq!(self.pending.pods.contains_key(uid), !truth.leaving, "{uid} {truth:?}");
                let assumed = truth.asked || truth.bound;
                assert_eq!(self.pending.assumed.contains(uid), assumed, "{uid} {truth:?}");
                assert_eq!(self.counted.contains(uid), assumed, "{uid} {truth:?}");
            }
            assert_eq!(self.pending.pods.len(), self.pods.values().filter(|truth| !truth.leaving).count());
        }

        /// All bindings fail, time passes: who is still there is tried.
        fn everybody_is_tried(mut self) {
            for n in 0..4 {
                self.answered(&format!("pod-{n}"), false);
            }
            self.pass(LONG);
            let tried = std::iter::from_fn(|| self.pending.next());
            let tried: HashSet<String> = tried.map(|pod| pod.uid().to_owned()).collect();
            for (uid, truth) in self.pods.iter().filter(|(_, truth)| !truth.leaving && !truth.bound) {
                assert!(tried.contains(uid), "{uid} was lost: {truth:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_pod_is_lost_and_none_is_bound_twice(happenings in prop::collection::vec(happening(), 0..60)) {
            let mut world = World::default();
            for happening in happenings {
                world.happen(happening);
                world.check();
            }
            world.everybody_is_tried();
        }
    }

    #[test]
    fn a_pod_whose_binding_fails_while_a_node_changes_is_tried_again() {
        let mut world = World::default();
        world.seen("a");
        world.tried(true);
        world.pending.queue.relieve(world.now, |_, _| true);
        assert!(world.pending.next().is_none(), "its binding is under way");
        world.answered("a", false);
        world.pass(LONG);
        assert_eq!(world.pending.next().expect("it is tried again").uid(), "a");
    }
}
