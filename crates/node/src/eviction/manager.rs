//! Which thresholds are met, for how long, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::threshold::{Eviction, Pressure, Resource, Signal, Threshold};

/// What there is of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// What is left.
    pub(crate) available: u64,
    /// All of it.
    pub(crate) capacity: u64,
}

/// What was seen at one time. What cannot be measured is not there, and crosses no threshold.
pub(crate) type Observations = BTreeMap<Signal, Observed>;

/// What follows from an observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Conditions of the Node.
    pub(crate) pressures: BTreeSet<Pressure>,
    /// Thresholds that something has to be done about, the most urgent first.
    pub(crate) due: Vec<Threshold>,
}

/// Remembers what was seen before. Times are counted from any fixed beginning.
#[derive(Debug)]
pub(crate) struct Manager {
    settings: Eviction,
    /// Since when each threshold is met, by its place among the settings.
    first_met: BTreeMap<usize, Duration>,
    /// Those that something is being done about: they are over only when the minimum is reclaimed.
    acted_on: BTreeSet<usize>,
    last_seen: BTreeMap<Pressure, Duration>,
}

impl Manager {
    /// One that has seen nothing yet.
    pub(crate) fn new(settings: Eviction) -> Self {
        let (first_met, acted_on, last_seen) = Default::default();
        Self { settings, first_met, acted_on, last_seen }
    }

    /// Takes an observation in.
    pub(crate) fn observe(&mut self, seen: &Observations, now: Duration) -> Found {
        let mut met = self.met(seen, false);
        met.extend(self.met(seen, true).intersection(&self.acted_on));
        self.first_met.retain(|at, _| met.contains(at));
        for at in &met {
            self.first_met.entry(*at).or_insert(now);
            self.last_seen.insert(self.settings.thresholds[*at].signal.pressure(), now);
        }
        let period = self.settings.pressure_transition_period;
        // One that holds now is seen now, however short the period.
        self.last_seen.retain(|_, seen| *seen == now || now.saturating_sub(*seen) < period);
        let thresholds = &self.settings.thresholds;
        let lasts = |at: usize, since: Duration| now.saturating_sub(since) >= thresholds[at].grace_period;
        self.acted_on =
            self.first_met.iter().filter(|(at, since)| lasts(**at, **since)).map(|(at, _)| *at).collect();
        let mut due: Vec<Threshold> = self.acted_on.iter().map(|at| thresholds[*at].clone()).collect();
        // Memory before all else: without it nothing else can be done.
        due.sort_by_key(|one| one.signal.resource() != Resource::Memory);
        Found { pressures: self.last_seen.keys().copied().collect(), due }
    }

    /// Whether no threshold is met, with what has to be reclaimed beyond each.
    pub(crate) fn is_relieved(&self, seen: &Observations) -> bool {
        self.met(seen, true).is_empty()
    }

    /// Whether so many times each threshold is still there.
    pub(crate) fn is_far(&self, seen: &Observations, times: u64) -> bool {
        let far = |one: &Threshold| {
            seen.get(&one.signal)
                .is_none_or(|seen| seen.available >= one.value.of(seen.capacity).saturating_mul(times))
        };
        self.settings.thresholds.iter().all(far)
    }

    fn met(&self, seen: &Observations, with_minimum: bool) -> BTreeSet<usize> {
        let is_met = |threshold: &Threshold| {
            let Some(seen) = seen.get(&threshold.signal) else { return false };
            let minimum = threshold.minimum_reclaim.as_ref().filter(|_| with_minimum);
            let more = minimum.map_or(0, |minimum| minimum.of(seen.capacity));
            seen.available < threshold.value.of(seen.capacity).saturating_add(more)
        };
        let all = self.settings.thresholds.iter().enumerate();
        all.filter(|(_, threshold)| is_met(threshold)).map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::{Statements, name};

    fn statements(text: &str) -> Statements {
        let pairs = text.split(',').filter_map(|one| one.split_once(['<', '=']));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn manager(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Manager {
        let [hard, soft, grace, reclaim] = [hard, soft, grace, reclaim].map(statements);
        Manager::new(Eviction::parse(&hard, &soft, &grace, &reclaim).unwrap())
    }

    /// What is found at a second with so many of a hundred left.
    fn at(
        manager: &mut Manager,
        second: u64,
        left: &[(Signal, u64)],
    ) -> (Vec<&'static str>, Vec<&'static str>) {
        let seen = left
            .iter()
            .map(|(signal, available)| (*signal, Observed { available: *available, capacity: 100 }));
        let found = manager.observe(&seen.collect(), Duration::from_secs(second));
        let pressures = found.pressures.iter().map(|one| one.condition()).collect();
        (pressures, found.due.iter().map(|one| name(one.signal)).collect())
    }

    #[test]
    fn a_condition_outlasts_what_caused_it_by_the_transition_period() {
        let mut manager = manager("nodefs.available<10%", "", "", "");
        let disk = |left| [(Signal::NodeFsAvailable, left)];
        assert_eq!(at(&mut manager, 0, &disk(10)), (vec![], vec![]), "as much as is asked for is enough");
        assert_eq!(at(&mut manager, 10, &disk(9)), (vec!["DiskPressure"], vec!["nodefs.available"]));
        assert_eq!(at(&mut manager, 20, &disk(50)), (vec!["DiskPressure"], vec![]));
        assert_eq!(at(&mut manager, 309, &disk(50)), (vec!["DiskPressure"], vec![]));
        assert_eq!(at(&mut manager, 310, &disk(50)), (vec![], vec![]));
    }

    #[test]
    fn a_soft_threshold_waits_and_begins_anew_when_it_was_left() {
        let mut manager = manager("", "memory.available<20%", "memory.available=30s", "");
        let memory = |left| [(Signal::MemoryAvailable, left)];
        assert_eq!(at(&mut manager, 0, &memory(19)), (vec!["MemoryPressure"], vec![]));
        assert_eq!(at(&mut manager, 20, &memory(20)).1, [""; 0]);
        assert_eq!(at(&mut manager, 25, &memory(19)).1, [""; 0]);
        assert_eq!(at(&mut manager, 50, &memory(19)).1, [""; 0]);
        assert_eq!(at(&mut manager, 55, &memory(19)).1, ["memory.available"]);
    }

    #[test]
    fn a_minimum_to_reclaim_counts_only_once_the_threshold_was_met() {
        let mut manager = manager("imagefs.available<10%", "", "", "imagefs.available=5%");
        let disk = |left| [(Signal::ImageFsAvailable, left)];
        assert_eq!(at(&mut manager, 0, &disk(12)).1, [""; 0]);
        assert_eq!(at(&mut manager, 1, &disk(9)).1, ["imagefs.available"]);
        assert_eq!(at(&mut manager, 2, &disk(12)).1, ["imagefs.available"]);
        assert_eq!(at(&mut manager, 3, &disk(15)).1, [""; 0]);
        assert_eq!(at(&mut manager, 4, &disk(12)).1, [""; 0]);
    }

    #[test]
    fn memory_comes_first_and_what_cannot_be_measured_crosses_nothing() {
        let mut manager = manager("nodefs.available<10%,memory.available<10%,pid.available<10%", "", "", "");
        let left = [(Signal::NodeFsAvailable, 1), (Signal::MemoryAvailable, 1)];
        let (pressures, due) = at(&mut manager, 0, &left);
        assert_eq!(
            (pressures, due),
            (vec!["MemoryPressure", "DiskPressure"], vec!["memory.available", "nodefs.available"])
        );
    }
}
