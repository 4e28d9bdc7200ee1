//! Version 2: one tree; controllers are passed down level by level.

use std::path::Path;

use rustix::io::Errno;

use super::files::{self, keyed, make_directory, number, read, write};
use super::{Level, Resources, Stats, Version};
use crate::{Error, Result};

/// Controllers without which Pods are neither limited nor counted.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
/// Controllers that are passed down where there are any.
const WELCOME: [&str; 2] = ["cpuset", "io"];
/// Where the processes go that are in the way at the root of a cgroup namespace. Other programs
/// that run as the first of a container and make groups have given it this name.
const FORMER_ROOT: &str = "init";
/// How often processes that have come meanwhile are moved away.
const ROUNDS: u32 = 10;

/// Makes the group and what is missing above it. Where version 1 holds the controllers the tree
/// is used without any.
pub(super) fn create(root: &Path, path: &str, controllers: Version) -> Result<()> {
    make(root, &root.join(path), controllers)
}

/// From below, for nearly always only the last directory is missing.
fn make(root: &Path, directory: &Path, controllers: Version) -> Result<()> {
    let Some(parent) = directory.parent().filter(|_| directory != root) else { return Ok(()) };
    let fit = match controllers {
        Version::V1 => parent == root || parent.is_dir(),
        Version::V2 => to_enable(parent, &NEEDED).is_empty(),
    };
    if !fit {
        make(root, parent, controllers)?;
        if controllers == Version::V2 {
            pass_controllers_down(root, parent)?;
        }
    }
    make_directory(directory)
}

/// Enables for the children of `directory` what it has itself, all at once: when some took and
/// others did not, the groups below could become threaded ones, which take no process.
fn pass_controllers_down(root: &Path, directory: &Path) -> Result<()> {
    let available = read(&directory.join("cgroup.controllers")).unwrap_or_default();
    let lacking: Vec<&str> = NEEDED.into_iter().filter(|name| !has(&available, name)).collect();
    if !lacking.is_empty() {
        let what = lacking.join(", ");
        return Err(Error::new(
            format!("use the cgroup controllers {what} in {}", directory.display()),
            Errno::NODEV,
        ));
    }
    let needed = to_enable(directory, &NEEDED);
    let welcome: Vec<&str> =
        to_enable(directory, &WELCOME).into_iter().filter(|name| has(&available, name)).collect();
    if needed.is_empty() && welcome.is_empty() {
        return Ok(());
    }
    match enable(root, directory, &[needed.as_slice(), &welcome].concat()) {
        Err(_) if needed.is_empty() => Ok(()),
        Err(_) if !welcome.is_empty() => enable(root, directory, &needed),
        done => done,
    }
}

/// Those that the children of `directory` do not have.
fn to_enable<'a>(directory: &Path, wanted: &[&'a str]) -> Vec<&'a str> {
    let enabled = read(&directory.join("cgroup.subtree_control")).unwrap_or_default();
    wanted.iter().copied().filter(|name| !has(&enabled, name)).collect()
}

fn has(list: &str, name: &str) -> bool {
    list.split(' ').any(|item| item == name)
}

/// A group with processes in it cannot pass controllers down, unless it is the kernel's own root.
/// The root of a cgroup namespace only looks like one: inside a container its processes, ours
/// among them, have to move into a child first.
fn enable(root: &Path, directory: &Path, names: &[&str]) -> Result<()> {
    let control = directory.join("cgroup.subtree_control");
    let line: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
    let line = line.join(" ");
    let mut rounds = ROUNDS;
    loop {
        match write(&control, &line) {
            Err(error) if error.errno == Errno::BUSY && directory == root && rounds > 0 => {
                rounds -= 1;
                move_processes(root, &root.join(FORMER_ROOT))?;
            }
            done => return done,
        }
    }
}

/// Processes of other PID namespaces read as 0 and cannot be named; they stay, and with them
/// the error.
fn move_processes(from: &Path, to: &Path) -> Result<()> {
    make_directory(to)?;
    let processes = read(&from.join("cgroup.procs")).unwrap_or_default();
    for process in processes.lines().filter(|process| *process != "0") {
        match write(&to.join("cgroup.procs"), process) {
            // It has ended meanwhile.
            Err(error) if error.errno == Errno::SRCH => {}
            done => done?,
        }
    }
    Ok(())
}

/// What a container's group is, whatever its limits are. A kernel without swap has no file for it.
pub(super) fn prepare_container(directory: &Path) -> Result<()> {
    for (file, value) in [("memory.swap.max", "0"), ("memory.oom.group", "1")] {
        match write(&directory.join(file), value) {
            Err(error) if error.errno == Errno::NOENT => {}
            done => done?,
        }
    }
    Ok(())
}

pub(super) fn limit(directory: &Path, resources: &Resources) -> Result<()> {
    if resources.cpu_shares > 0 {
        let weight = weight(resources.cpu_shares, resources.level);
        write(&directory.join("cpu.weight"), &weight.to_string())?;
    }
    if resources.cpu_quota != 0 {
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".into() };
        write(&directory.join("cpu.max"), &format!("{quota} {period}"))?;
    }
    if resources.memory_limit > 0 {
        write(&directory.join("memory.max"), &resources.memory_limit.to_string())?;
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

/// `cpu.weight` of `cpu.shares`.
pub(super) fn weight(shares: u64, level: Level) -> u64 {
    let shares = shares.clamp(2, 262_144);
    match level {
        Level::Pod => 1 + (shares - 2) * 9999 / 262_142,
        Level::Container => container_weight(shares),
    }
}

/// The curve that runtimes use since runc 1.4 (1024 shares give 100, the default weight), through
/// (2, 1), (1024, 100) and (262144, 10000). The kubelet has kept the straight line for its groups.
fn container_weight(shares: u64) -> u64 {
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

/// A group that dies whole counts each process as killed, and itself once (Linux 5.17).
pub(super) fn oom_kills(directory: &Path) -> Option<u64> {
    let events = read(&directory.join("memory.events"))?;
    let whole = files::number_of(&events, "oom_group_kill").filter(|kills| *kills > 0);
    whole.or_else(|| files::number_of(&events, "oom_kill"))
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
