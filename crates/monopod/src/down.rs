//! Takes an instance down: every Pod stopped, everything it made on this host removed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use node::volumes::{HostMounts, Mounts};
use sys::beneath::Directory;

use crate::instance::{self, canonical, need_root};
use crate::say;

/// A daemon that has been told to stop ends well within this.
const DAEMON_PATIENCE: Duration = Duration::from_secs(30);

/// Stops the daemon if it runs, removes what the instance owns, and with `purge` its data.
pub(crate) fn run(data_dir: &Path, purge: bool) -> Result<()> {
    need_root("down", "it removes mounts, cgroups and links")?;
    let data_dir = canonical(data_dir);
    if !data_dir.exists() {
        return say(&format!("{} does not exist: nothing to do", data_dir.display()));
    }
    let state = data_dir.join("state");
    // First: it would make again what is taken away under it.
    stop_daemon(&state)?;
    let removed = crate::up::remove_everything(&data_dir)?;
    removed.iter().try_for_each(|what| say(&format!("removed {what}")))?;
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

fn stop_daemon(state: &Path) -> Result<()> {
    if !state.exists() {
        return Ok(());
    }
    let Some(pid) = instance::running(state)? else { return Ok(()) };
    // The number is its holder's as long as the lock is held, which was seen just now.
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("the lock names no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot stop the daemon")?;
    let asked = Instant::now();
    while instance::running(state)?.is_some() {
        ensure!(asked.elapsed() < DAEMON_PATIENCE, "process {} does not stop", pid.as_raw_nonzero());
        // The lock is released by the kernel at the process's end; it cannot be waited for without taking it.
        std::thread::sleep(Duration::from_millis(5));
    }
    say("stopped the daemon")
}
