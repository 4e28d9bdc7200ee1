//! What is counted of placing, under upstream's names.

use telemetry::{Counter, Family, Histogram};

/// Upstream's: from a millisecond, doubled each time.
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

pub(crate) static ATTEMPTS: Family<Counter> = Family::new(
    "scheduler_schedule_attempts_total",
    "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled.",
    &["result", "profile"],
);
pub(crate) static DURATION: Family<Histogram> = Family::histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "Scheduling attempt latency in seconds (scheduling algorithm)",
    &["result", "profile"],
    SECONDS,
);
pub(crate) static PREEMPTIONS: Family<Counter> = Family::new(
    "scheduler_preemption_attempts_total",
    "Total preemption attempts in the cluster till now",
    &[],
);
/// Upstream's one profile.
pub(crate) const PROFILE: &str = "default-scheduler";

/// Writes them all.
pub fn write_metrics(out: &mut String) {
    ATTEMPTS.write(out);
    DURATION.write(out);
    PREEMPTIONS.write(out);
}
