//! Numbers of this process, in the text format of Prometheus.
//!
//! ```text
//!  static FAMILY ── at(&["GET", "pods"]) ── inc, set, observe      (any room, any thread)
//!        └───────── write(&mut text)                               (who is asked for /metrics)
//! ```
//!
//! Each room has its families as statics, under upstream's names, and one function that writes them. There is
//! no registry and no task: what nobody lists is not shown. This crate does not know what is counted, and
//! serves nothing.
//!
//! Start reading at [`Family`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Series of one family at most: labels come from requests, and memory is not theirs to take. What is beyond
/// is counted under the label [`OTHER`].
const SERIES_MAX: usize = 2_000;
/// The value of every label of what is beyond the limit.
const OTHER: &str = "other";
/// A separator of units, which no label has.
const BETWEEN: &str = "\u{1f}";

/// What a series of a family is.
pub trait Metric: Default {
    /// The word of the text format.
    const KIND: &'static str;

    /// Writes the lines of one series. `labels` is `a="b",c="d"`, or nothing.
    fn write(&self, name: &str, labels: &str, buckets: &[f64], out: &mut String);
}

/// Series of one name that differ in the values of their labels.
#[derive(Debug)]
pub struct Family<M> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    /// By the values of the labels, with [`BETWEEN`] between them: one allocation a look-up, not one a label.
    series: Mutex<BTreeMap<String, Arc<M>>>,
}

impl Family<Histogram> {
    /// A family of histograms without series yet; `buckets` are their upper ends, ascending.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        buckets: &'static [f64],
    ) -> Self {
        Self { name, help, labels, buckets, series: Mutex::new(BTreeMap::new()) }
    }

    /// Notes how long something took.
    pub fn observe(&self, values: &[&str], took: Duration) {
        self.note(values, took.as_secs_f64());
    }

    /// Notes a value.
    pub fn note(&self, values: &[&str], value: f64) {
        self.at(values).note(value, self.buckets);
    }
}

impl<M: Metric> Family<M> {
    /// A family of counters or gauges without series yet.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, buckets: &[], series: Mutex::new(BTreeMap::new()) }
    }

    /// The series of these values, in the order of the labels' names.
    pub fn at(&self, values: &[&str]) -> Arc<M> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key = values.join(BETWEEN);
        if let Some(known) = series.get(&key) {
            return Arc::clone(known);
        }
        let key = if series.len() < SERIES_MAX { key } else { vec![OTHER; values.len()].join(BETWEEN) };
        Arc::clone(series.entry(key).or_default())
    }

    /// Writes the family, with its head also when there is nothing in it.
    pub fn write(&self, out: &mut String) {
        let Self { name, help, .. } = self;
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", M::KIND);
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (values, metric) in &*series {
            let labels = self
                .labels
                .iter()
                .zip(values.split(BETWEEN))
                .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
            metric.write(name, &labels.collect::<Vec<_>>().join(","), self.buckets, out);
        }
    }
}

/// Backslash, quote and newline mean something in a label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn line(name: &str, labels: &str, value: impl std::fmt::Display, out: &mut String) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

impl Metric for Counter {
    const KIND: &'static str = "counter";

    fn write(&self, name: &str, labels: &str, _: &[f64], out: &mut String) {
        line(name, labels, self.0.load(Ordering::Relaxed), out);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// One less.
    pub fn dec(&self) {
        self.add(-1.0);
    }

    /// What it is now.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    fn add(&self, more: f64) {
        let sum = |bits| Some((f64::from_bits(bits) + more).to_bits());
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }

    /// Counts one until what is returned is dropped.
    pub fn hold(self: Arc<Self>) -> Held {
        self.inc();
        Held(self)
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";

    fn write(&self, name: &str, labels: &str, _: &[f64], out: &mut String) {
        line(name, labels, f64::from_bits(self.0.load(Ordering::Relaxed)), out);
    }
}

/// One that is counted as long as this lives.
#[derive(Debug)]
pub struct Held(Arc<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How many values were how large.
#[derive(Debug, Default)]
pub struct Histogram(Mutex<Values>);

#[derive(Debug, Default)]
struct Values {
    /// By bucket, each without those of smaller ones.
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn note(&self, value: f64, buckets: &[f64]) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.counts.resize(buckets.len(), 0);
        if let Some(at) = buckets.iter().position(|end| value <= *end) {
            values.counts[at] += 1;
        }
        values.count += 1;
        values.sum += value;
    }
}

impl Metric for Histogram {
    const KIND: &'static str = "histogram";

    fn write(&self, name: &str, labels: &str, buckets: &[f64], out: &mut String) {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let separator = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (at, end) in buckets.iter().enumerate() {
            below += values.counts.get(at).copied().unwrap_or(0);
            let _ = writeln!(out, "{name}_bucket{{{labels}{separator}le=\"{end}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels}{separator}le=\"+Inf\"}} {}", values.count);
        line(&format!("{name}_sum"), labels, values.sum, out);
        line(&format!("{name}_count"), labels, values.count, out);
    }
}

/// Writes one gauge that is read just now.
pub fn write_gauge(name: &str, help: &str, value: f64, out: &mut String) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    line(name, "", value, out);
}

/// Writes one counter that is read just now.
pub fn write_counter(name: &str, help: &str, value: f64, out: &mut String) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    line(name, "", value, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_prometheus_reads_it() {
        let requests: Family<Counter> = Family::new("requests_total", "Requests.", &["verb", "path"]);
        requests.at(&["GET", "a\"b\\c\nd"]).inc();
        requests.at(&["GET", "a\"b\\c\nd"]).add(2);
        let mut text = String::new();
        requests.write(&mut text);
        let expected = "# HELP requests_total Requests.\n# TYPE requests_total counter\n\
                        requests_total{verb=\"GET\",path=\"a\\\"b\\\\c\\nd\"} 3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_buckets_of_a_histogram_hold_all_smaller_ones() {
        let took = Family::histogram("took_seconds", "Time.", &[], &[0.1, 1.0]);
        for value in [0.05, 0.5, 0.5, 7.0] {
            took.note(&[], value);
        }
        let mut text = String::new();
        took.write(&mut text);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let expected = [
            "took_seconds_bucket{le=\"0.1\"} 1",
            "took_seconds_bucket{le=\"1\"} 3",
            "took_seconds_bucket{le=\"+Inf\"} 4",
            "took_seconds_sum 8.05",
            "took_seconds_count 4",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_held_is_counted_until_it_is_dropped_and_labels_are_bounded() {
        let gauge: Family<Gauge> = Family::new("g", "G.", &["a"]);
        let held = gauge.at(&["x"]).hold();
        let mut text = String::new();
        gauge.write(&mut text);
        assert!(text.ends_with("g{a=\"x\"} 1\n"), "{text}");
        drop(held);
        for number in 0..SERIES_MAX + 10 {
            gauge.at(&[&number.to_string()]).set(1.0);
        }
        let mut text = String::new();
        gauge.write(&mut text);
        assert_eq!(text.lines().filter(|line| line.starts_with("g{")).count(), SERIES_MAX + 1);
        assert!(text.contains("g{a=\"x\"} 0\n") && text.contains("g{a=\"other\"} 1\n"), "{text}");
    }
}
