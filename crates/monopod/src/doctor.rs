//! What this host lacks: everything that `up` and a Pod will do is tried, in namespaces and a cgroup
//! that are gone afterwards. Names in /proc would not say: modules are loaded when they are asked
//! for, and what is there may be forbidden.

mod trials;

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

/// One thing tried.
struct Finding {
    what: &'static str,
    /// `None` when all is well, else what happened.
    problem: Option<String>,
    /// What to do about it.
    remedy: &'static str,
    /// Whether Pods can run without it.
    needed: bool,
}

/// All of it as text.
pub(crate) fn report(data_dir: &Path) -> String {
    let findings = examine(data_dir, rustix::process::geteuid().is_root());
    findings.iter().map(|finding| line(finding) + "\n").collect()
}

/// Prints a line for each thing; fails when something needed is missing.
pub(crate) fn run(data_dir: &Path) -> Result<()> {
    let findings = examine(data_dir, rustix::process::geteuid().is_root());
    for finding in &findings {
        crate::say(&line(finding))?;
    }
    let missing = findings.iter().filter(|finding| finding.needed && finding.problem.is_some()).count();
    ensure!(missing == 0, "{missing} of {} needs are missing", findings.len());
    Ok(())
}

/// One line a thing: what is well is said as well, for a list of faults alone does not show what was tried.
fn line(finding: &Finding) -> String {
    let Finding { what, problem, remedy, needed } = finding;
    match (problem, needed) {
        (None, _) => format!("ok       {what}"),
        (Some(problem), true) => format!("MISSING  {what}: {problem}; {remedy}"),
        (Some(problem), false) => format!("optional {what}: {problem}; {remedy}"),
    }
}

/// Trials that make processes come first: they must be made while there is one thread.
fn examine(data_dir: &Path, root: bool) -> Vec<Finding> {
    let program = sys::command::find("nft").map(drop).ok_or_else(|| "it is not on this host".to_owned());
    let nft = needed("nft", program, "install nftables: apt-get install nftables");
    if !root {
        let what = Err("nothing else can be tried without it".to_owned());
        return vec![needed("root", what, "run monopod doctor as root"), nft];
    }
    let mut findings = vec![
        needed("root", Ok(()), ""),
        needed(
            "processes in namespaces of their own",
            trials::namespaces(),
            "use a kernel from 5.10 on with namespaces; in a container, a privileged one",
        ),
        needed("seccomp filters", trials::seccomp(), "use a kernel built with CONFIG_SECCOMP_FILTER"),
        needed(
            "cgroups with limits of CPU, memory and processes",
            trials::cgroup(),
            "mount cgroup2 at /sys/fs/cgroup, writable and with these controllers, or those of version 1 below it",
        ),
        needed(
            "an overlay of three layers",
            trials::overlay(data_dir),
            "modprobe overlay; have the data directory on ext4, xfs, btrfs or tmpfs",
        ),
        needed("a bridge and veth links", trials::links(), "modprobe -a bridge veth"),
        nft,
    ];
    if findings.iter().all(|finding| finding.what != "nft" || finding.problem.is_none()) {
        findings.push(needed(
            "the rules of Services and host ports",
            trials::rules(),
            "load the kernel modules, or use a kernel built with them",
        ));
    }
    findings.extend(optional());
    findings.push(Finding {
        needed: false,
        ..needed("no swap", no_swap(), "swapoff -a, for containers never get any")
    });
    findings
}

/// Without these Pods and Services work, and the daemon says what does not.
fn optional() -> [Finding; 2] {
    let connections = needed(
        "a list of tracked connections",
        trials::connections(),
        "load the kernel module, or senders of UDP that never pause go on to Pods that have left their Service",
    );
    let frames = needed(
        "the rules of the Pods' bridge",
        trials::frames(),
        "modprobe nft_meta_bridge, or Pods with NET_RAW can send with the addresses of others",
    );
    [connections, frames].map(|finding| Finding { needed: false, ..finding })
}

/// Most things are: without them no Pod can run.
fn needed(what: &'static str, tried: Result<(), String>, remedy: &'static str) -> Finding {
    Finding { what, problem: tried.err(), remedy, needed: true }
}

/// Upstream's kubelet refuses to start with swap; containers here never get any, so it may stay.
fn no_swap() -> Result<(), String> {
    let areas = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().skip(1).count();
    if areas == 0 { Ok(()) } else { Err(format!("{areas} swap areas are on")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_happened_and_what_to_do() {
        let tried = |outcome: Result<(), &str>| needed("x", outcome.map_err(str::to_owned), "do y");
        assert_eq!(line(&tried(Ok(()))), "ok       x");
        assert_eq!(line(&tried(Err("it broke"))), "MISSING  x: it broke; do y");
        let optional = Finding { needed: false, ..tried(Err("it broke")) };
        assert_eq!(line(&optional), "optional x: it broke; do y");
    }

    #[test]
    fn without_root_only_root_and_nft_are_looked_for() {
        let findings = examine(Path::new("/nowhere"), false);
        assert_eq!(findings.iter().map(|finding| finding.what).collect::<Vec<_>>(), ["root", "nft"]);
    }
}
