//! Measures a whole Monopod from outside, as its users meet it: over HTTPS.
//!
//! Every figure comes from the program itself, started here on a data directory
//! of its own, and is printed as medians with the load of the machine beside
//! them. `README.md` beside this file says what each figure means.
//!
//! Start reading at [`main`]; [`instance`] starts the program, [`connection`] speaks to it.

#![allow(clippy::disallowed_methods, reason = "it starts what it measures")]
#![allow(clippy::print_stdout)]

mod api;
mod connection;
mod hostile;
mod ingress;
mod instance;
mod pods;
mod probes;
mod process;
mod report;
mod scheduling;
mod startup;
mod steady;
mod watch;
mod workloads;

use anyhow::Result;
use clap::Parser;

use crate::report::Report;

/// Which figures to take.
#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures Monopod as a whole system")]
struct Options {
    /// startup, pods, burst, steady, probes, workloads, api, watch, ingress, scheduling, hostile; none: all
    which: Vec<String>,
    /// Starts measured by "startup"
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Pods created and deleted one after another by "pods"
    #[arg(long, default_value_t = 30)]
    sequence: usize,
    /// Pods created at once by "burst"
    #[arg(long, default_value_t = 50)]
    burst: usize,
    /// Pods of the Deployment of "workloads"
    #[arg(long, default_value_t = 100)]
    replicas: usize,
    /// Seconds that "steady" looks at an idle instance
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Seconds for each operation and number of connections of "api"
    #[arg(long, default_value_t = 3)]
    api_seconds: u64,
    /// Seconds of "ingress"
    #[arg(long, default_value_t = 5)]
    ingress_seconds: u64,
    /// Watchers of "watch"
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Silent connections of "hostile"
    #[arg(long, default_value_t = 10_000)]
    silent: usize,
    /// Seconds of each flood of "hostile"
    #[arg(long, default_value_t = 5)]
    flood_seconds: u64,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.which.is_empty() || self.which.iter().any(|wanted| wanted == name)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut report = Report::new();
    if options.wants("startup") {
        startup::measure(&mut report, options.starts).await?;
    }
    if ["pods", "burst", "steady"].iter().any(|name| options.wants(name)) {
        pods::measure(&mut report, &options).await?;
    }
    if options.wants("probes") {
        probes::measure(&mut report).await?;
    }
    if options.wants("workloads") {
        workloads::measure(&mut report, options.replicas).await?;
    }
    if options.wants("api") || options.wants("watch") {
        api::measure(&mut report, &options).await?;
    }
    if options.wants("ingress") {
        ingress::measure(&mut report, options.ingress_seconds).await?;
    }
    if options.wants("scheduling") {
        scheduling::measure(&mut report).await?;
    }
    if options.wants("hostile") {
        hostile::measure(&mut report, options.silent, options.flood_seconds).await?;
    }
    report.publish()
}
