//! Which Pod is tried next, and when one that failed is tried again.
//!
//! ```text
//! Active ─ pop ─► InFlight ─┬─ failed ──► Waiting ─ a change that may help ─► Active
//!    ▲                      └─ error ───► BackingOff ─ its time has come ───► Active
//!    └───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What is in flight (being placed, or bound by the server just now) stays there, whatever changes
//! meanwhile, until it comes back or is removed: it is handed out once at a time. Pods are known by
//! their UIDs; a name may belong to another Pod tomorrow.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::{Failure, Reason};

/// Time since any fixed moment; the queue never reads a clock.
pub type Instant = Duration;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A Pod that waits is tried again after this, whatever happened.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

/// A change in the cluster that may let a waiting Pod fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relief {
    /// A node is new, or its labels, taints or capacity changed.
    Node,
    /// A Pod left a node.
    PodGone,
    /// A Pod came to a node, or its labels, or those of a namespace changed.
    Neighbour,
    /// A claim, volume or storage class changed.
    Storage,
}

#[derive(Debug)]
enum State {
    Active {
        order: (i64, u64),
    },
    /// Handed out. It changed meanwhile: it is tried again at once when no node took it.
    InFlight {
        changed: bool,
    },
    BackingOff {
        until: Instant,
    },
    Waiting {
        since: Instant,
        failure: Failure,
    },
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    arrival: u64,
    errors: u32,
    state: State,
}

/// The Pods that have no node, by UID.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    /// Order and UID of the active ones.
    active: BTreeSet<(i64, u64, String)>,
    arrivals: u64,
}

impl Queue {
    /// Adds a Pod, or tries it again because it changed.
    pub fn push(&mut self, uid: &str, priority: i32) {
        if let Some(Entry { priority: known, state: State::InFlight { changed }, .. }) =
            self.entries.get_mut(uid)
        {
            (*known, *changed) = (priority, true);
            return;
        }
        let known = self.forget(uid);
        self.arrivals += 1;
        let arrival = known.as_ref().map_or(self.arrivals, |entry| entry.arrival);
        let errors = known.map_or(0, |entry| entry.errors);
        let order = (-i64::from(priority), arrival);
        self.entries
            .insert(uid.to_owned(), Entry { priority, arrival, errors, state: State::Active { order } });
        self.active.insert((order.0, order.1, uid.to_owned()));
    }

    /// Whether the Pod is known, in whatever state.
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The Pod is gone, or has a node.
    pub fn remove(&mut self, uid: &str) {
        self.forget(uid);
    }

    fn forget(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        if let State::Active { order } = entry.state {
            self.active.remove(&(order.0, order.1, uid.to_owned()));
        }
        Some(entry)
    }

    /// The next Pod to place: the highest priority, of these the oldest. It is in flight
    /// until it is removed or comes back.
    pub fn pop(&mut self) -> Option<String> {
        let (_, _, uid) = self.active.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.state = State::InFlight { changed: false };
        }
        Some(uid)
    }

    /// No node took the Pod: it waits for a change that may help.
    pub fn failed(&mut self, uid: &str, failure: Failure, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let changed = matches!(entry.state, State::InFlight { changed: true });
        entry.state = State::Waiting { since: now, failure };
        if changed {
            let priority = entry.priority;
            self.push(uid, priority);
        }
    }

    /// Binding failed: it is tried again after a pause.
    pub fn errored(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.errors = entry.errors.saturating_add(1);
            let pause = BACKOFF_MIN.saturating_mul(1 << (entry.errors - 1).min(8)).min(BACKOFF_MAX);
            entry.state = State::BackingOff { until: now + pause };
        }
    }

    /// Tries again every waiting Pod that the change may help.
    pub fn relieve(&mut self, relief: Relief) {
        let helped = |entry: &Entry| match &entry.state {
            State::Waiting { failure, .. } => helps(relief, failure),
            State::Active { .. } | State::InFlight { .. } | State::BackingOff { .. } => false,
        };
        self.activate(helped);
    }

    /// Tries again what has waited long enough.
    pub fn tick(&mut self, now: Instant) {
        self.activate(|entry| match &entry.state {
            State::Active { .. } | State::InFlight { .. } => false,
            State::BackingOff { until } => *until <= now,
            State::Waiting { since, .. } => *since + FLUSH_AFTER <= now,
        });
    }

    /// When [`Queue::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Instant> {
        let times = self.entries.values().filter_map(|entry| match &entry.state {
            State::Active { .. } | State::InFlight { .. } => None,
            State::BackingOff { until } => Some(*until),
            State::Waiting { since, .. } => Some(*since + FLUSH_AFTER),
        });
        times.min()
    }

    fn activate(&mut self, which: impl Fn(&Entry) -> bool) {
        let chosen: Vec<(String, i32)> =
            self.entries.iter().filter(|(_, e)| which(e)).map(|(uid, e)| (uid.clone(), e.priority)).collect();
        for (uid, priority) in chosen {
            self.push(&uid, priority);
        }
    }
}

fn helps(relief: Relief, failure: &Failure) -> bool {
    let any = |test: fn(&Reason) -> bool| failure.reasons.values().flatten().any(test);
    match relief {
        // A node may change in every way; a new one may just fit.
        Relief::Node => failure.rejected.is_none(),
        Relief::PodGone => any(Reason::preemption_may_help),
        Relief::Neighbour => any(|r| {
            use Reason::{ExistingAntiAffinity, PodAffinity, PodAntiAffinity, Spread};
            matches!(r, Spread | PodAffinity | PodAntiAffinity | ExistingAntiAffinity)
        }),
        Relief::Storage => {
            failure.rejected.is_some() || any(|r| matches!(r, Reason::VolumeAffinity | Reason::NoVolume))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Duration::from_secs(100);

    fn failure(reason: Reason) -> Failure {
        Failure { nodes: 1, reasons: [(0, vec![reason])].into(), ..Failure::default() }
    }

    #[test]
    fn the_highest_priority_is_first_and_among_equals_the_oldest() {
        let mut queue = Queue::default();
        for (key, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            queue.push(key, priority);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn a_waiting_pod_is_tried_again_only_when_the_change_may_help() {
        let mut queue = Queue::default();
        queue.push("a", 0);
        queue.pop();
        queue.failed("a", failure(Reason::Taint), START);
        queue.relieve(Relief::PodGone);
        assert_eq!(queue.pop(), None);
        queue.relieve(Relief::Node);
        assert_eq!(queue.pop().as_deref(), Some("a"));
    }

    #[test]
    fn errors_back_off_from_one_to_ten_seconds() {
        let mut queue = Queue::default();
        queue.push("a", 0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            queue.pop();
            queue.errored("a", START);
            let next = queue.next_tick().unwrap();
            pauses.push((next - START).as_secs());
            queue.tick(next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_pod_in_flight_is_not_handed_out_again_and_what_changed_meanwhile_counts() {
        let mut queue = Queue::default();
        queue.push("a", 0);
        queue.pop();
        queue.relieve(Relief::Node);
        queue.push("a", 0);
        queue.tick(START + FLUSH_AFTER);
        assert_eq!((queue.pop(), queue.next_tick()), (None, None));
        queue.failed("a", failure(Reason::Taint), START);
        assert_eq!(queue.pop().as_deref(), Some("a"));
    }

    #[test]
    fn a_removed_pod_is_never_popped() {
        let mut queue = Queue::default();
        queue.push("a", 0);
        queue.remove("a");
        assert_eq!(queue.pop(), None);
    }
}
