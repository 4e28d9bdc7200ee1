//! Which Pod is tried next, and when one that failed is tried again.
//!
//! ```text
//! Active ─ pop ─► InFlight ─┬─ failed ──► Waiting ─ a change that may help ─┐
//!    ▲                      └─ error ───► BackingOff ◄──────────────────────┘
//!    └──────────────────── its time has come ──┘
//! ```
//!
//! What is in flight (being placed, or bound by the server just now) stays there, whatever changes
//! meanwhile, until it comes back or is removed: it is handed out once at a time. Pods are known by
//! their UIDs; a name may belong to another Pod tomorrow.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::hints::Why;

/// Time since any fixed moment; the queue never reads a clock.
pub(crate) type Instant = Duration;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// So often a Pod is tried without a pause when something changes: its claims may be bound one by one.
const AT_ONCE: u32 = 2;
/// A Pod that waits is tried again after this, whatever happened.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

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
        why: Why,
    },
}

#[derive(Debug)]
struct Entry {
    priority: i32,
    arrival: u64,
    /// Bindings that failed.
    errors: u32,
    /// Attempts that found no node.
    failures: u32,
    state: State,
}

/// The Pods that have no node, by UID.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<String, Entry>,
    /// Order and UID of the active ones.
    active: BTreeSet<(i64, u64, String)>,
    /// When whose pause or wait ends.
    timers: BTreeSet<(Instant, String)>,
    arrivals: u64,
}

fn pause(times: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << times.saturating_sub(1).min(8)).min(BACKOFF_MAX)
}

impl Queue {
    /// Adds a Pod, or tries it again because it changed: what it failed on before says little.
    pub(crate) fn push(&mut self, uid: &str, priority: i32) {
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
        let state = State::Active { order: (0, 0) };
        self.entries.insert(uid.to_owned(), Entry { priority, arrival, errors, failures: 0, state });
        self.activate(uid);
    }

    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let order = (-i64::from(entry.priority), entry.arrival);
        entry.state = State::Active { order };
        self.active.insert((order.0, order.1, uid.to_owned()));
    }

    /// Whether the Pod is known, in whatever state.
    #[cfg(test)]
    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The Pod is gone, or has a node.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.forget(uid);
    }

    fn forget(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        match entry.state {
            State::Active { order } => drop(self.active.remove(&(order.0, order.1, uid.to_owned()))),
            State::BackingOff { until } => drop(self.timers.remove(&(until, uid.to_owned()))),
            State::Waiting { since, .. } => drop(self.timers.remove(&(since + FLUSH_AFTER, uid.to_owned()))),
            State::InFlight { .. } => {}
        }
        Some(entry)
    }

    /// The next Pod to place: the highest priority, of these the oldest. It is in flight
    /// until it is removed or comes back.
    pub(crate) fn pop(&mut self) -> Option<String> {
        let (_, _, uid) = self.active.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.state = State::InFlight { changed: false };
        }
        Some(uid)
    }

    /// No node took the Pod: it waits for a change that may help.
    pub(crate) fn failed(&mut self, uid: &str, why: Why, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let changed = matches!(entry.state, State::InFlight { changed: true });
        entry.failures = entry.failures.saturating_add(1);
        if changed {
            entry.failures = 0;
            self.activate(uid);
        } else {
            entry.state = State::Waiting { since: now, why };
            self.timers.insert((now + FLUSH_AFTER, uid.to_owned()));
        }
    }

    /// Binding failed: it is tried again after a pause.
    pub(crate) fn errored(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.errors = entry.errors.saturating_add(1);
            let until = now + pause(entry.errors);
            entry.state = State::BackingOff { until };
            self.timers.insert((until, uid.to_owned()));
        }
    }

    /// Tries again every waiting Pod that the change may help, those that failed often not too often.
    pub(crate) fn relieve(&mut self, now: Instant, helps: impl Fn(&str, &Why) -> bool) {
        let mut chosen = Vec::new();
        for (uid, entry) in &self.entries {
            if let State::Waiting { since, why } = &entry.state
                && helps(uid, why)
            {
                let rest = entry.failures.checked_sub(AT_ONCE).filter(|times| *times > 0).map(pause);
                chosen.push((uid.clone(), *since, *since + rest.unwrap_or_default()));
            }
        }
        for (uid, since, until) in chosen {
            self.timers.remove(&(since + FLUSH_AFTER, uid.clone()));
            if until <= now {
                self.activate(&uid);
            } else if let Some(entry) = self.entries.get_mut(&uid) {
                entry.state = State::BackingOff { until };
                self.timers.insert((until, uid));
            }
        }
    }

    /// Tries again what has waited long enough.
    pub(crate) fn tick(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, uid)) = self.timers.pop_first() else { return };
            self.activate(&uid);
        }
    }

    /// When [`Queue::tick`] has something to do.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Duration::from_secs(100);

    fn fail(queue: &mut Queue, uid: &str, now: Instant) {
        assert_eq!(queue.pop().as_deref(), Some(uid));
        queue.failed(uid, Why::default(), now);
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
    fn a_waiting_pod_is_tried_again_only_when_the_change_may_help_or_after_long() {
        let mut queue = Queue::default();
        queue.push("a", 0);
        fail(&mut queue, "a", START);
        queue.relieve(START, |_, _| false);
        assert_eq!(queue.pop(), None);
        queue.relieve(START, |uid, _| uid == "a");
        fail(&mut queue, "a", START);
        assert_eq!(queue.next_tick(), Some(START + FLUSH_AFTER));
        queue.tick(START + FLUSH_AFTER);
        assert_eq!(queue.pop().as_deref(), Some("a"));
        assert_eq!(queue.next_tick(), None);
    }

    #[test]
    fn who_fails_again_and_again_waits_longer_each_time_and_anew_when_it_changes() {
        let mut queue = Queue::default();
        queue.push("a", 0);
        let (mut now, mut pauses) = (START, Vec::new());
        for _ in 0..8 {
            fail(&mut queue, "a", now);
            queue.relieve(now, |_, _| true);
            let next = queue.next_tick().unwrap_or(now);
            pauses.push((next - now).as_secs());
            now = next;
            queue.tick(now);
        }
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 10, 10]);
        fail(&mut queue, "a", now);
        queue.push("a", 0);
        fail(&mut queue, "a", now);
        queue.relieve(now, |_, _| true);
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
        queue.relieve(START, |_, _| true);
        queue.push("a", 0);
        queue.tick(START + FLUSH_AFTER);
        assert_eq!((queue.pop(), queue.next_tick()), (None, None));
        queue.failed("a", Why::default(), START);
        assert_eq!(queue.pop().as_deref(), Some("a"));
    }

    #[test]
    fn a_removed_pod_is_never_popped_and_wakes_nobody() {
        let mut queue = Queue::default();
        for uid in ["a", "b"] {
            queue.push(uid, 0);
        }
        queue.remove("a");
        fail(&mut queue, "b", START);
        queue.remove("b");
        assert_eq!((queue.pop(), queue.next_tick()), (None, None));
    }
}
