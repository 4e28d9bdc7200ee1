//! What is counted of commits.

use telemetry::{Counter, Family, Histogram};

/// Those of etcd's own `etcd_disk_wal_fsync_duration_seconds`: from a millisecond, doubled each time.
const SECONDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

pub(crate) static COMMIT: Family<Histogram> = Family::histogram(
    "monopod_store_commit_duration_seconds",
    "How long it took to make a group of writes durable.",
    &[],
    SECONDS,
);
pub(crate) static FAILED: Family<Counter> =
    Family::new("monopod_store_failed_commits_total", "Groups of writes that the disk did not take.", &[]);
pub(crate) static REWRITES: Family<Counter> = Family::new(
    "monopod_store_rewrites_total",
    "How often the file was written anew, which makes it small.",
    &[],
);

/// Writes them all.
pub fn write_metrics(out: &mut String) {
    COMMIT.write(out);
    FAILED.write(out);
    REWRITES.write(out);
}
