//! What this host lacks: each missing kernel feature or program by name, and what to do.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// One thing looked at.
struct Finding {
    what: &'static str,
    /// `None` when all is well, else what to do.
    remedy: Option<String>,
    /// Whether Pods can run without it.
    needed: bool,
}

/// Prints a line for each thing; fails when something needed is missing.
pub(crate) fn run() -> Result<()> {
    let findings = examine();
    for finding in &findings {
        let line = match (&finding.remedy, finding.needed) {
            (None, _) => format!("ok       {}", finding.what),
            (Some(remedy), true) => format!("MISSING  {}: {remedy}", finding.what),
            (Some(remedy), false) => format!("optional {}: {remedy}", finding.what),
        };
        crate::say(&line)?;
    }
    let missing = findings.iter().filter(|finding| finding.needed && finding.remedy.is_some()).count();
    ensure!(missing == 0, "{missing} of {} needs are missing", findings.len());
    Ok(())
}

fn examine() -> Vec<Finding> {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let namespaces = ["net", "pid", "ipc", "uts", "mnt"];
    let all_namespaces = namespaces.iter().all(|name| Path::new("/proc/self/ns").join(name).exists());
    vec![
        needed("root", rustix::process::geteuid().is_root(), "run monopod as root"),
        needed("overlayfs", filesystems.contains("\toverlay"), "load the kernel module: modprobe overlay"),
        needed(
            "namespaces net, pid, ipc, uts, mnt",
            all_namespaces,
            "use a kernel built with CONFIG_NAMESPACES",
        ),
        needed(
            "cgroups",
            cgroups(),
            "mount cgroup2 at /sys/fs/cgroup, or the v1 controllers cpu, memory and pids below it",
        ),
        needed(
            "seccomp filters",
            Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            "use a kernel built with CONFIG_SECCOMP_FILTER",
        ),
        needed("nft", nft().is_some(), "install nftables: apt-get install nftables"),
        needed(
            "nftables in the kernel",
            nft_works(),
            "load the kernel module: modprobe nf_tables nft_chain_nat",
        ),
        needed("bridge and veth links", links(), "load the kernel modules: modprobe bridge veth"),
        optional(
            "iptables rules see bridged packets",
            Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
            "modprobe br_netfilter, for Pods that reach themselves through a Service",
        ),
        optional("no swap", no_swap(), "swapoff -a: memory limits count swap otherwise"),
    ]
}

fn needed(what: &'static str, fine: bool, remedy: &str) -> Finding {
    Finding { what, remedy: (!fine).then(|| remedy.to_owned()), needed: true }
}

fn optional(what: &'static str, fine: bool, remedy: &str) -> Finding {
    Finding { needed: false, ..needed(what, fine, remedy) }
}

fn cgroups() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let v1 = |controller: &str| {
        mounts
            .lines()
            .any(|line| line.contains(" - cgroup ") && line.split([',', ' ']).any(|w| w == controller))
    };
    let v2 =
        fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|list| list.contains("memory"));
    v2 || ["cpu", "memory", "pids"].iter().all(|controller| v1(controller))
}

fn nft() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|dir| dir.join("nft")).find(|file| file.is_file())
}

fn nft_works() -> bool {
    nft().is_some_and(|program| {
        Command::new(program)
            .args(["-c", "add table inet monopod-doctor"])
            .output()
            .is_ok_and(|out| out.status.success())
    })
}

/// Link kinds cannot be listed; the kernel names its bridge and veth support in these places.
fn links() -> bool {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let known = |symbol: &str, module: &str| {
        symbols.contains(symbol) || modules.contains(module) || Path::new("/sys/module").join(module).exists()
    };
    known("br_dev_setup", "bridge") && known("veth_newlink", "veth")
}

fn no_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|table| table.lines().count() <= 1)
}
