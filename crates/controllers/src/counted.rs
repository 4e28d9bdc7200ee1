//! What is counted of the work queues, under upstream's names.

use telemetry::{Counter, Family, Gauge, Histogram};

/// Upstream's: from a hundredth of a microsecond, ten times each.
const SECONDS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

pub(crate) static ADDS: Family<Counter> =
    Family::new("workqueue_adds_total", "Total number of adds handled by workqueue", &["name"]);
pub(crate) static DEPTH: Family<Gauge> =
    Family::new("workqueue_depth", "Current depth of workqueue", &["name"]);
pub(crate) static RETRIES: Family<Counter> =
    Family::new("workqueue_retries_total", "Total number of retries handled by workqueue", &["name"]);
pub(crate) static WORK: Family<Histogram> = Family::histogram(
    "workqueue_work_duration_seconds",
    "How long in seconds processing an item from workqueue takes.",
    &["name"],
    SECONDS,
);

/// Writes them all.
pub fn write_metrics(out: &mut String) {
    ADDS.write(out);
    DEPTH.write(out);
    RETRIES.write(out);
    WORK.write(out);
}
