//! What this host lacks: each missing kernel feature or program by name, and what to do.

use std::fs;
use std::path::Path;

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
        needed("nft", sys::command::find("nft").is_some(), "install nftables: apt-get install nftables"),
        nftables(),
        needed("bridge and veth links", links(), "load the kernel modules: modprobe -a bridge veth"),
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

/// Only root's nft may ask the kernel; without either, the line says what to do first.
fn nftables() -> Finding {
    let what = "nftables in the kernel";
    let asked = sys::run("nft", &["-c", "add table inet monopod-doctor"], &[]);
    match asked {
        Err(sys::command::CommandError::Missing { .. }) => needed(what, false, "install nft to find out"),
        Err(_) if !rustix::process::geteuid().is_root() => {
            needed(what, false, "only root can ask: run monopod doctor as root")
        }
        asked => needed(what, asked.is_ok(), "load the kernel modules: modprobe -a nf_tables nft_chain_nat"),
    }
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
