//! The tasks of this repository: one door for people, the Makefile and CI.
//!
//! `cargo xtask check` looks at the code (format, lints, licences, arrows, docs);
//! `cargo xtask test` runs everything; `cargo xtask demo` shows a Pod running.
//! What a task needs on the host it installs, by name, and says so.
//!
//! Start reading at [`Task`].

#![allow(clippy::disallowed_methods, reason = "it runs the tools of a developer, not programs of a node")]
#![allow(clippy::print_stdout)]

mod arrows;
mod check;
mod conformance;
mod demo;
mod fields;
mod flaky;
mod fuzz;
mod helm;
mod host;
mod hosts;
mod images;
mod limits;
mod openapi;
mod pages;
mod protobuf;
mod ratchet;
mod rootfs;
mod test;
mod tidy;

use anyhow::Result;
use clap::Parser;

/// What to do.
#[derive(Debug, Parser)]
#[command(name = "xtask", about = "The tasks of the Monopod repository")]
enum Task {
    /// Build, start a node, run a Pod, show it; it keeps running.
    Demo {
        /// Data directory of the demo's instance.
        #[arg(long, default_value = "/var/lib/monopod-demo")]
        data_dir: std::path::PathBuf,
    },
    /// Run all checks and tests, or only the named groups.
    Test {
        /// check, unit, e2e, escape, hosts; none: all.
        groups: Vec<String>,
    },
    /// Format, lints, licences, arrows between crates, documentation.
    Check,
    /// Make the test images from Debian packages into target/images.
    Images,
    /// Write docs/limits.md and the README's section from the table of limits.
    Limits,
    /// Write docs/conformance.md from the table of upstream's conformance tests.
    Conformance,
    /// Write docs/fields.md from the table of a Pod's fields and the schema.
    Fields,
    /// Measure (see bench/README.md); the arguments go to the bench program.
    Bench {
        /// Which benchmarks, and their flags.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Make crates/api/openapi/definitions.json from a release's published definitions.
    Openapi {
        /// `api/openapi-spec/swagger.json` of the Kubernetes release.
        definitions: std::path::PathBuf,
    },
    /// Fuzz the parsers of foreign bytes (see fuzz/src/lib.rs), or only the named targets.
    Fuzz {
        /// For how long each.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Which; none: all.
        targets: Vec<String>,
    },
    /// Print the ten longest functions and files.
    Tidy,
    /// Record what got better since xtask/ratchet.txt was written; `check` fails on what got worse.
    Ratchet,
    /// Take the API's protobuf field numbers from the unpacked source of the k8s-pb crate.
    ProtobufNumbers {
        /// Folder of the crate.
        source: std::path::PathBuf,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Demo { data_dir } => demo::run(&data_dir),
        Task::Test { groups } => test::run(&groups),
        Task::Check => check::run(),
        Task::Images => images::build_all().map(|dir| println!("images are in {}", dir.display())),
        Task::Limits => limits::write(),
        Task::Conformance => conformance::write(),
        Task::Fields => fields::write(),
        Task::Bench { args } => test::bench(&args),
        Task::Openapi { definitions } => openapi::run(&definitions, &host::root()),
        Task::Fuzz { seconds, targets } => fuzz::fuzz(seconds, &targets),
        Task::Tidy => tidy::print(),
        Task::Ratchet => ratchet::write(),
        Task::ProtobufNumbers { source } => protobuf::generate(&source),
    }
}
