//! Version 1: one tree per controller (or per few).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};

use super::device::DeviceRule;
use super::files::{self, make_directory, number, read, write};
use super::{Level, Resources, Stats};
use crate::{Context, Result};

/// A mounted version 1 tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    controllers: Vec<String>,
}

impl Tree {
    /// `options` are the super-block options of mountinfo; named trees (systemd's) are not ours.
    pub(super) fn new(root: PathBuf, options: &str) -> Option<Self> {
        const KNOWN: [&str; 8] =
            ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];
        let controllers: Vec<String> =
            options.split(',').filter(|option| KNOWN.contains(option)).map(str::to_owned).collect();
        (!controllers.is_empty()).then_some(Tree { root, controllers })
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    pub(super) fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Trees without which containers are not limited or counted. In the others a container has a
    /// group so that it sees that one only, where the machine lets us make it.
    pub(super) fn is_needed(&self) -> bool {
        ["cpu", "cpuacct", "memory", "devices", "pids"].iter().any(|controller| self.has(controller))
    }

    /// Makes the group and what is missing above it.
    pub(super) fn create(&self, path: &str) -> Result<()> {
        // Nearly always only the last directory is missing.
        let leaf = self.root.join(path);
        if make_directory(&leaf).is_ok() {
            return self.furnish(&leaf);
        }
        let mut directory = self.root.clone();
        for part in path.split('/') {
            directory.push(part);
            make_directory(&directory)?;
            self.furnish(&directory)?;
        }
        Ok(())
    }

    /// Makes a new group one that takes processes.
    fn furnish(&self, directory: &Path) -> Result<()> {
        match directory.parent() {
            Some(parent) if self.has("cpuset") => inherit_cpuset(parent, directory),
            _ => Ok(()),
        }
    }
}

/// A new cpuset is empty and refuses processes until both lists are filled.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = child.join(file);
        if read(&own).is_some_and(|text| text.is_empty())
            && let Some(value) = read(&parent.join(file))
        {
            write(&own, &value)?;
        }
    }
    Ok(())
}

pub(super) fn limit(trees: &[Tree], path: &str, resources: &Resources) -> Result<()> {
    let directory =
        |controller: &str| trees.iter().find(|tree| tree.has(controller)).map(|tree| tree.root.join(path));
    if let Some(cpu) = directory("cpu") {
        limit_cpu(&cpu, resources)?;
    }
    if let Some(memory) = directory("memory").filter(|_| resources.memory_limit > 0) {
        limit_memory(&memory, resources.memory_limit, resources.level)?;
    }
    if let Some(pids) = directory("pids").filter(|_| resources.pids_limit > 0) {
        write(&pids.join("pids.max"), &resources.pids_limit.to_string())?;
    }
    if let Some(cpuset) = directory("cpuset") {
        for (file, value) in
            [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)]
        {
            if !value.is_empty() {
                write(&cpuset.join(file), value)?;
            }
        }
    }
    Ok(())
}

fn limit_cpu(cpu: &Path, resources: &Resources) -> Result<()> {
    if resources.cpu_shares > 0 {
        let shares = resources.cpu_shares.clamp(2, 262_144);
        write(&cpu.join("cpu.shares"), &shares.to_string())?;
    }
    if resources.cpu_quota != 0 {
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        write(&cpu.join("cpu.cfs_period_us"), &period.to_string())?;
        write(&cpu.join("cpu.cfs_quota_us"), &resources.cpu_quota.to_string())?;
    }
    Ok(())
}

/// Memory, and for a container memory with swap at the same value: it gets no swap, as upstream's
/// default (`NoSwap`) says. The second must never be below the first, so which is written
/// first depends on whether the limit grows.
fn limit_memory(memory: &Path, limit: i64, level: Level) -> Result<()> {
    let plain = memory.join("memory.limit_in_bytes");
    let with_swap = memory.join("memory.memsw.limit_in_bytes");
    let text = limit.to_string();
    if !with_swap.exists() {
        return write(&plain, &text);
    }
    if write(&plain, &text).is_ok() {
        return if level == Level::Container { write(&with_swap, &text) } else { Ok(()) };
    }
    write(&with_swap, &text)?;
    write(&plain, &text)
}

pub(super) fn allow_devices(trees: &[Tree], path: &str, rules: &[DeviceRule]) -> Result<()> {
    let Some(tree) = trees.iter().find(|tree| tree.has("devices")) else { return Ok(()) };
    let directory = tree.root.join(path);
    write(&directory.join("devices.deny"), "a")?;
    let lines: Vec<String> = rules.iter().map(ToString::to_string).collect();
    files::write_each(&directory.join("devices.allow"), &lines)
}

/// An eventfd that the kernel signals when the group runs out of memory.
pub(super) fn oom_eventfd(memory: &Path) -> Result<OwnedFd> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).attempt(|| "eventfd")?;
    let control = files::open_read(&memory.join("memory.oom_control"))?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    write(&memory.join("cgroup.event_control"), &line)?;
    Ok(event)
}

pub(super) fn stats(trees: &[Tree], path: &str) -> Stats {
    let directory = |controller: &str| {
        trees.iter().find(|tree| tree.has(controller)).map(|tree| tree.root.join(path)).unwrap_or_default()
    };
    let memory = directory("memory");
    let detail = read(&memory.join("memory.stat")).unwrap_or_default();
    let total = |key: &str| files::number_of(&detail, key).unwrap_or(0);
    let usage = number(&memory.join("memory.usage_in_bytes")).unwrap_or(0);
    Stats {
        cpu_nanoseconds: number(&directory("cpuacct").join("cpuacct.usage")).unwrap_or(0),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(total("total_inactive_file")),
        memory_rss: total("total_rss"),
        page_faults: total("total_pgfault"),
        major_page_faults: total("total_pgmajfault"),
        pids: number(&directory("pids").join("pids.current")).unwrap_or(0),
    }
}
