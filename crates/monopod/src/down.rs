//! Takes an instance down: every Pod stopped, everything it made on this host removed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::volumes::{HostMounts, Mounts};
use sys::beneath::Directory;

use crate::instance::{canonical, need_root};
use crate::{processes, say};

/// A daemon that has been told to stop ends well within this.
const DAEMON_PATIENCE: Duration = Duration::from_secs(30);

/// Stops the daemon if it runs, removes what the instance owns, and with `purge` its data.
pub(crate) fn run(data_dir: &Path, purge: bool) -> Result<()> {
    need_root("down", "it removes mounts, cgroups and links")?;
    let data_dir = canonical(data_dir);
    // Also where the directory is gone: the daemon and the Pods may be there without it.
    let stopped = stop_daemon(&data_dir.join("state"))?;
    let removed = crate::up::remove_everything(&data_dir)?;
    removed.iter().try_for_each(|what| say(&format!("removed {what}")))?;
    if !data_dir.exists() {
        return match stopped || !removed.is_empty() {
            true => Ok(()),
            false => say(&format!("{} does not exist: nothing to do", data_dir.display())),
        };
    }
    unmount_volumes(&data_dir, &HostMounts)?;
    if purge {
        remove_data(&data_dir).with_context(|| format!("cannot remove {}", data_dir.display()))?;
        say(&format!("removed {}", data_dir.display()))?;
    }
    Ok(())
}

/// Volumes are the node's, and the node has ended: whoever takes the Pods down unmounts them too.
/// Before anything is deleted, so that `--purge` never walks into what a Pod had mounted from the host.
fn unmount_volumes(data_dir: &Path, mounts: &dyn Mounts) -> Result<()> {
    let pods = data_dir.join("pods");
    mounts.unmount_below(&pods).with_context(|| format!("cannot unmount what is below {}", pods.display()))
}

/// Deletes the data. A directory that is itself a mount point is the user's, and so is one right
/// below it (a disk for the images): it is emptied and stays.
fn remove_data(data_dir: &Path) -> Result<()> {
    let mut keeps = HostMounts.is_mounted(data_dir);
    for entry in std::fs::read_dir(data_dir)? {
        let path = entry?.path();
        if HostMounts.is_mounted(&path) {
            keeps = true;
            Directory::open(&path)?.empty()?;
        } else {
            sys::beneath::remove_tree(&path)?;
        }
    }
    if !keeps {
        sys::beneath::remove_tree(data_dir)?;
    }
    Ok(())
}

/// Says whether there was one. A daemon of a service manager is stopped by that: it would be started again.
fn stop_daemon(state: &Path) -> Result<bool> {
    let Some(daemon) = processes::daemon(state) else { return Ok(false) };
    let unit = unit_of(daemon.pid);
    if let Some(unit) = &unit {
        let stopped = sys::command::run("systemctl", &["stop", unit], b"");
        stopped.with_context(|| format!("cannot stop the service {unit}, which starts the daemon again"))?;
        say(&format!("stopped the service {unit}; `systemctl start {unit}` starts it again"))?;
    }
    let still = || processes::daemon(state).is_some_and(|now| now.pid == daemon.pid);
    // One that is held by a signal could not even end.
    if daemon.stopped().is_some() {
        let pid =
            rustix::process::Pid::from_raw(daemon.pid.cast_signed()).context("no process has that number")?;
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }
    let ended = processes::end(&daemon, DAEMON_PATIENCE, still).context("cannot stop the daemon")?;
    ensure!(
        ended,
        "process {} does not stop; `kill -9 {}` ends it, then run this again",
        daemon.pid,
        daemon.pid
    );
    if unit.is_none() {
        say("stopped the daemon")?;
    }
    Ok(true)
}

/// The unit of systemd that a process is the main part of.
fn unit_of(pid: u32) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unit = unit_in(&groups)?;
    // A program that somebody started from within a service is not the service.
    let main = sys::command::run("systemctl", &["show", "--property=MainPID", "--value", unit], b"").ok()?;
    (String::from_utf8_lossy(&main.stdout).trim() == pid.to_string()).then(|| unit.to_owned())
}

/// `0::/system.slice/monopod.service`, and with version 1 the line of `name=systemd`. What is below a unit is
/// no unit of its own: there somebody else starts processes.
fn unit_in(groups: &str) -> Option<&str> {
    let line = |line: &str| line.starts_with("0::") || line.contains(":name=systemd:");
    let mut paths = groups.lines().filter(|text| line(text)).filter_map(|text| text.rsplit(':').next());
    paths.find_map(|path| path.rsplit('/').next().filter(|name| name.ends_with(".service")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_daemon_is_read_from_its_groups() {
        assert_eq!(unit_in("0::/system.slice/monopod.service\n"), Some("monopod.service"));
        let first = "12:pids:/x.service\n1:name=systemd:/system.slice/monopod.service\n0::/\n";
        assert_eq!(unit_in(first), Some("monopod.service"));
        for other in ["0::/user.slice/session-1.scope\n", "0::/\n", "0::/system.slice/ci.service/job\n", ""] {
            assert_eq!(unit_in(other), None, "{other}");
        }
    }
}
