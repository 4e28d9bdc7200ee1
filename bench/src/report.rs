//! Figures with their names: one table for people, one JSON for programs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
    load: f64,
}

impl Report {
    pub(crate) fn new() -> Self {
        Report { figures: Vec::new() }
    }

    /// Keeps the samples of one figure and says them at once.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        let figure = Figure { name: name.into(), unit, values, load: load() };
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    /// Writes the JSON and prints the table once more, whole.
    pub(crate) fn publish(&self) -> Result<()> {
        println!(
            "\n{:<52} {:>10} {:>10} {:>10} {:>10}  {:<8} {:>4} {:>5}",
            "figure", "p50", "p99", "min", "max", "unit", "n", "load"
        );
        self.figures.iter().for_each(|figure| println!("{}", figure.line()));
        let dir =
            PathBuf::from(std::env::var_os("MONOPOD_BENCH_RESULTS").unwrap_or_else(|| "target/bench".into()));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("results.json");
        let all: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        std::fs::write(&file, serde_json::to_vec_pretty(&json!({"figures": all}))?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("\n{}", file.display());
        Ok(())
    }
}

impl Figure {
    fn line(&self) -> String {
        format!(
            "{:<52} {:>10.2} {:>10.2} {:>10.2} {:>10.2}  {:<8} {:>4} {:>5.2}",
            self.name,
            percentile(&self.values, 50.0),
            percentile(&self.values, 99.0),
            percentile(&self.values, 0.0),
            percentile(&self.values, 100.0),
            self.unit,
            self.values.len(),
            self.load
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "n": self.values.len(), "load": self.load,
            "p50": percentile(&self.values, 50.0), "p99": percentile(&self.values, 99.0),
            "min": percentile(&self.values, 0.0), "max": percentile(&self.values, 100.0),
        })
    }
}

/// Nearest rank over sorted values.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 50.0), percentile(&values, 99.0), percentile(&values, 100.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(percentile(&[7.0], 0.0), 7.0);
    }
}
