//! Runs the fuzz targets (`fuzz/`) under libFuzzer, on the toolchain that builds everything else.
//!
//! The driver is one program for all targets; the flags below are what `cargo fuzz` gives for coverage.
//! There is no address sanitizer: it would need another toolchain, and the parsers have no unsafe code.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host::{ensure_packages, root, run, target};

const HOST: &str = "x86_64-unknown-linux-gnu";

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
/// A process that takes more is a finding; an honest run stays below 200.
const MEMORY_MEBIBYTES_MAX: u32 = 2048;

/// Fuzzes the named targets, or all, for so many seconds each.
pub(crate) fn fuzz(seconds: u32, names: &[String]) -> Result<()> {
    let known = targets()?;
    let unknown = names.iter().find(|name| !known.contains(name));
    ensure!(unknown.is_none(), "no target {unknown:?}; there are {}", known.join(", "));
    ensure_packages(&[("g++", "g++")])?;
    let driver = build()?;
    let mut broken = Vec::new();
    for name in known.iter().filter(|name| names.is_empty() || names.contains(name)) {
        println!("== {name}");
        if run_one(&driver, name, seconds).is_err() {
            broken.push(name.as_str());
        }
    }
    ensure!(
        broken.is_empty(),
        "{} broke; the inputs are in {}: mend, and keep each in fuzz/corpus/TARGET/",
        broken.join(", "),
        artifacts().display()
    );
    Ok(())
}

/// The targets by their folders; a test compares those with the table.
fn targets() -> Result<Vec<String>> {
    let corpus = corpus();
    let folders = std::fs::read_dir(&corpus).with_context(|| corpus.display().to_string())?;
    let mut names = folders
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn corpus() -> PathBuf {
    root().join("fuzz/corpus")
}

fn artifacts() -> PathBuf {
    target().join("fuzz/artifacts")
}

fn build() -> Result<PathBuf> {
    let driver = root().join("fuzz/driver");
    let out = target().join("fuzz");
    // The same versions as the program's; the fuzzer's own library is all that comes to them.
    std::fs::copy(root().join("Cargo.lock"), driver.join("Cargo.lock")).context("copy Cargo.lock")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--target", HOST, "--target-dir"])
        .arg(&out)
        .current_dir(driver)
        .env("RUSTFLAGS", FLAGS);
    run(&mut cargo)?;
    Ok(out.join(HOST).join("debug/fuzz-driver"))
}

fn run_one(driver: &Path, name: &str, seconds: u32) -> Result<()> {
    let found = target().join("fuzz/corpus").join(name);
    let broken = artifacts().join(name);
    for folder in [&found, &broken] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    run(Command::new(driver)
        .env("FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MEBIBYTES_MAX}"))
        .arg(format!("-artifact_prefix={}/", broken.display()))
        .args(["-verbosity=0", "-print_final_stats=1"])
        // What is found goes into the first, the kept inputs are read from the second.
        .arg(&found)
        .arg(corpus().join(name)))
}
