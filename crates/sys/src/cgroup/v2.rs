//! Version 2: one tree; controllers are passed down level by level.

use std::path::Path;

use super::files::{self, keyed, make_directory, number, read, write};
use super::{Resources, Stats, Version};
use crate::Result;

/// Controllers that containers are limited or counted by.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "io"];

/// Makes the group and what is missing above it. Where version 1 holds the controllers the tree
/// is used without any.
pub(super) fn create(root: &Path, path: &str, controllers: Version) -> Result<()> {
    let mut directory = root.to_path_buf();
    for part in path.split('/') {
        if controllers == Version::V2 {
            pass_controllers_down(&directory);
        }
        directory.push(part);
        make_directory(&directory)?;
    }
    Ok(())
}

/// Enables for the children of `directory` what it has itself. A controller that cannot be
/// enabled is left out: the limit that needs it will say so.
fn pass_controllers_down(directory: &Path) {
    let control = directory.join("cgroup.subtree_control");
    let available = read(&directory.join("cgroup.controllers")).unwrap_or_default();
    let enabled = read(&control).unwrap_or_default();
    let has = |list: &str, name: &str| list.split(' ').any(|item| item == name);
    for name in CONTROLLERS {
        if has(&available, name) && !has(&enabled, name) {
            let _ = write(&control, &format!("+{name}"));
        }
    }
}

pub(super) fn limit(directory: &Path, resources: &Resources) -> Result<()> {
    if resources.cpu_shares > 0 {
        write(&directory.join("cpu.weight"), &weight(resources.cpu_shares).to_string())?;
    }
    if resources.cpu_quota != 0 {
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".into() };
        write(&directory.join("cpu.max"), &format!("{quota} {period}"))?;
    }
    if resources.memory_limit > 0 {
        limit_memory(directory, resources.memory_limit)?;
    }
    if resources.pids_limit > 0 {
        write(&directory.join("pids.max"), &resources.pids_limit.to_string())?;
    }
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() {
            write(&directory.join(file), value)?;
        }
    }
    Ok(())
}

/// No swap (upstream's `NoSwap`), and the whole container dies when one of its processes must
/// (upstream's `singleProcessOOMKill: false`, the default on version 2).
fn limit_memory(directory: &Path, limit: i64) -> Result<()> {
    write(&directory.join("memory.max"), &limit.to_string())?;
    for (file, value) in [("memory.swap.max", "0"), ("memory.oom.group", "1")] {
        let file = directory.join(file);
        if file.exists() {
            write(&file, value)?;
        }
    }
    Ok(())
}

/// `cpu.weight` of `cpu.shares`: the curve that upstream uses since runc 1.4 (1024 shares give
/// 100, the default weight), through (2, 1), (1024, 100) and (262144, 10000).
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        3..262_144 => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // Between 1 and 10000 by construction.
            10f64.powf(exponent).ceil() as u64
        }
        _ => 10_000,
    }
}

pub(super) fn stats(directory: &Path) -> Stats {
    let detail = read(&directory.join("memory.stat")).unwrap_or_default();
    let of = |key: &str| files::number_of(&detail, key).unwrap_or(0);
    let usage = number(&directory.join("memory.current")).unwrap_or(0);
    Stats {
        cpu_nanoseconds: keyed(&directory.join("cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(of("inactive_file")),
        memory_rss: of("anon"),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        pids: number(&directory.join("pids.current")).unwrap_or(0),
    }
}
