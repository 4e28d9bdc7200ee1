//! All tests, from the quick to the real: units, real containers, kubectl end to end.

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::helm::helm;
use crate::host::{
    self, build_for_tests, build_release, cargo, ensure_packages, kubectl, need_disk, need_root, target,
};
use crate::{check, flaky, hosts, images};

/// A group of tests by the name it is asked for.
///
/// It returns the tests that passed only when they were tried again.
type Group = (&'static str, fn() -> Result<Vec<String>>);

const GROUPS: [Group; 5] =
    [("check", check), ("unit", unit), ("e2e", end_to_end), ("escape", escape), ("hosts", hosts)];

/// Runs the named groups, or all; says at the end what passed.
pub(crate) fn run(names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !GROUPS.iter().any(|(known, _)| known == name)) {
        bail!("no test group {unknown:?}; there are check, unit, e2e, escape, hosts");
    }
    let chosen =
        GROUPS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name));
    let (mut passed, mut failed, mut flaky) = (0, Vec::new(), Vec::new());
    for (name, group) in chosen {
        println!("== {name}");
        let start = Instant::now();
        match group() {
            Ok(again) => {
                passed += 1;
                flaky.extend(again);
            }
            Err(err) => failed.push(format!("{name}: {err:#}")),
        }
        println!("== {name}: {} s", start.elapsed().as_secs());
    }
    flaky.iter().for_each(|name| println!("FLAKY {name}: passed when it was tried again"));
    failed.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("groups: {passed} passed, {} failed", failed.len());
    ensure!(failed.is_empty(), "tests failed");
    Ok(())
}

fn check() -> Result<Vec<String>> {
    check::run().map(|()| Vec::new())
}

fn hosts() -> Result<Vec<String>> {
    hosts::run().map(|()| Vec::new())
}

/// What stands beside the code, real containers of runtime, shim and node included.
fn unit() -> Result<Vec<String>> {
    need_root("the tests of sys, shim and runtime")?;
    prepare_host()?;
    flaky::run(|| cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"]), &[])
}

/// The program, kubectl, real images.
fn end_to_end() -> Result<Vec<String>> {
    // These tests wait more than they work: more of them at a time than there are processors.
    on_the_program(&["--test-threads", "5", "--skip", "escape::"])
}

/// Hostile Pods and images; alone, so that the host is compared with itself.
fn escape() -> Result<Vec<String>> {
    on_the_program(&["escape::"])
}

fn on_the_program(words: &[&str]) -> Result<Vec<String>> {
    need_root("the end-to-end tests")?;
    need_disk()?;
    prepare_host()?;
    ensure_packages(&[("docker-registry", "docker-registry"), ("curl", "curl")])?;
    let images = images::build_all()?;
    let (program, kubectl, helm) = (build_for_tests("monopod")?, kubectl()?, helm()?);
    let cargo = || {
        let mut command = cargo(&["test", "--quiet", "--workspace", "--test", "e2e", "--no-fail-fast"]);
        command.env("MONOPOD", &program).env("MONOPOD_TEST_IMAGES", &images);
        command.env("KUBECTL", &kubectl).env("HELM", &helm);
        command
    };
    flaky::run(cargo, words)
}

fn prepare_host() -> Result<()> {
    ensure_packages(&[("nft", "nftables"), ("busybox", "busybox-static"), ("ip", "iproute2")])
}

/// The benchmarks, on the release build.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    need_root("the benchmark")?;
    prepare_host()?;
    let images = images::build_all()?;
    let programs = build_release(&["monopod", "bench"])?;
    host::run(
        std::process::Command::new(programs.join("bench"))
            .args(args)
            .env("MONOPOD", programs.join("monopod"))
            .env("MONOPOD_TEST_IMAGES", images)
            .env("MONOPOD_BENCH_RESULTS", target().join("bench")),
    )
}
