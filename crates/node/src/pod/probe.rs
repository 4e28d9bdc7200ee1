//! What results of a probe mean: thresholds, not sockets.

use k8s_openapi::api::core::v1::{Container, Probe};

/// Which of the three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Holds the other two back until it succeeds once.
    Startup,
    /// Its failure restarts the container.
    Liveness,
    /// Its failure takes the Pod out of Services.
    Readiness,
}

impl ProbeKind {
    /// The word that begins the event.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// This probe of the container, if it has one.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What came of one run of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Success,
    /// It succeeded, but the user should hear of something (a redirect to another host).
    Warning(String),
    /// It failed: what it said.
    Failure(String),
    /// It could not be run: says nothing about the container.
    Error(String),
}

/// Counts equal results in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracker {
    last: Option<bool>,
    run: i32,
    result: Option<bool>,
}

impl Tracker {
    /// Notes one result; returns the probe's result when a threshold is reached by it.
    pub fn note(&mut self, probe: &Probe, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        if self.run < threshold {
            return None;
        }
        self.result = Some(success);
        self.result
    }

    /// The last result that reached its threshold.
    pub fn result(&self) -> Option<bool> {
        self.result
    }

    /// As after a success: for a container adopted while its status said so.
    pub fn succeeded() -> Self {
        Self { last: Some(true), run: 1, result: Some(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_counts_only_after_its_threshold_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut tracker = Tracker::default();
        let notes: Vec<_> = [false, false, true, false, false, false, true, true]
            .into_iter()
            .map(|success| tracker.note(&probe, success))
            .collect();
        assert_eq!(notes, [None, None, None, None, None, Some(false), None, Some(true)]);
    }
}
