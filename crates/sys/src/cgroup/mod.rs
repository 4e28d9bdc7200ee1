//! cgroups, version 1 and 2, behind one [`Group`].
//!
//! Version 1 machines are taken as hybrid: each controller in its own tree, and beside them a
//! version 2 tree without controllers, used for what version 1 lacks: kill everything at once,
//! and the notice that a group is empty.
//!
//! Layout of paths is the caller's (`kubepods/burstable/pod<uid>/<container>`); this module
//! makes what is missing above a group, and removes only what it is told to.

mod device;
mod files;
mod v1;
mod v2;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Context, Error, Result};
pub use device::{Access, DeviceKind, DeviceRule};

/// How long [`Group::remove`] waits for killed processes to leave a group.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// Limits of a cgroup, in version 1's units. A field at zero (or empty): no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU weight as version 1's cpu.shares (2 to 262144).
    pub cpu_shares: u64,
    /// CPU time a period, microseconds.
    pub cpu_quota: i64,
    /// The period, microseconds; 0: 100 000.
    pub cpu_period: u64,
    /// Memory, bytes.
    pub memory_limit: i64,
    /// Processes and threads.
    pub pids_limit: i64,
    /// CPUs as in `0-2,7`; empty: all.
    pub cpuset_cpus: String,
    /// NUMA nodes as in `0`; empty: all.
    pub cpuset_mems: String,
    /// Whose limits they are.
    pub level: Level,
}

/// The kubelet sets the groups of Pods and those above, the runtime the groups of containers; they
/// write the same wish in different numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// A container: no swap, and on version 2 it dies whole when one of its processes must die for
    /// memory (upstream's `singleProcessOOMKill: false`, its default there).
    #[default]
    Container,
    /// A Pod, or a group above it: its memory limit is a sum of others' and kills only one of them.
    Pod,
}

/// What a group uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time since the group was made, nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory charged, page cache included, bytes.
    pub memory_usage: u64,
    /// Memory that cannot be taken back easily: usage without inactive file pages, bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Page faults since the group was made.
    pub page_faults: u64,
    /// Major page faults since the group was made.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// The cgroup trees of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Version 1 trees; empty on a pure version 2 machine.
    v1: Vec<v1::Tree>,
    /// The version 2 tree: with the controllers, or beside version 1 without.
    unified: Option<PathBuf>,
}

/// Which version holds the controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Version 1 (hybrid or pure).
    V1,
    /// Version 2.
    V2,
}

/// When the kernel kills for memory, this descriptor becomes readable (version 1) or has a
/// priority event (version 2: poll for `PRI`, edge-triggered).
#[derive(Debug)]
pub struct OomWatch {
    /// To poll.
    pub fd: OwnedFd,
    /// Which of the two.
    pub version: Version,
}

impl OomWatch {
    /// Takes the notice, so that the next one is seen. Then compare [`Group::oom_kills`]: version 1
    /// also notifies when the group goes away, and both before the counter moves.
    pub fn clear(&self) {
        if self.version == Version::V1 {
            // Nothing to read only means that nothing happened.
            let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }
}

impl Hierarchy {
    /// The trees that this process sees.
    ///
    /// # Errors
    /// /proc is not readable, or no usable cgroup tree is mounted.
    pub fn detect() -> Result<Self> {
        let mountinfo =
            fs::read_to_string("/proc/self/mountinfo").on("read", Path::new("/proc/self/mountinfo"))?;
        Self::parse(&mountinfo)
            .ok_or_else(|| Error::new("find a cgroup mount with controllers", Errno::NOENT))
    }

    /// The trees named by the text of a mountinfo file.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut found = Hierarchy { v1: Vec::new(), unified: None };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
            if root.contains("/..") {
                continue;
            }
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) if found.unified.is_none() => found.unified = Some(point.into()),
                (Some("cgroup"), Some(options)) => {
                    found.v1.extend(v1::Tree::new(point.into(), options));
                }
                _ => {}
            }
        }
        let usable = found.unified.is_some() || found.v1.iter().any(|tree| tree.has("memory"));
        usable.then_some(found)
    }

    /// A pure version 2 tree at a directory; tests use a fake one.
    pub fn unified_at(root: impl Into<PathBuf>) -> Self {
        Hierarchy { v1: Vec::new(), unified: Some(root.into()) }
    }

    /// Which version holds the controllers.
    pub fn version(&self) -> Version {
        if self.v1.is_empty() { Version::V2 } else { Version::V1 }
    }

    /// What a container with a group sees under /sys/fs/cgroup: directory, kind of file system,
    /// options. An empty directory is /sys/fs/cgroup itself.
    pub fn views(&self, group: &str) -> Vec<(String, &'static str, Vec<String>)> {
        if self.version() == Version::V2 {
            return vec![(String::new(), "cgroup2", Vec::new())];
        }
        // In a tree without a group of its own it would see those of others.
        let own = self.v1.iter().filter(|tree| tree.root.join(group).is_dir());
        let trees = own.filter_map(|tree| {
            let name = tree.root.file_name()?.to_string_lossy().into_owned();
            Some((name, "cgroup", tree.controllers().to_vec()))
        });
        trees.collect()
    }

    /// The group at `path`, relative to the roots. Nothing is made yet.
    pub fn group(&self, path: &str) -> Group {
        let path = path.trim_matches('/').to_owned();
        assert!(
            !path.is_empty() && !path.split('/').any(|p| p == ".."),
            "a cgroup path names a group: {path:?}"
        );
        Group { hierarchy: self.clone(), path }
    }
}

/// True for a path that [`Hierarchy::group`] takes: relative names, and at least one.
pub fn is_path(path: &str) -> bool {
    let path = path.trim_matches('/');
    path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// One cgroup, in all trees that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    hierarchy: Hierarchy,
    path: String,
}

impl Group {
    /// Path relative to the roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the group and what is missing above it, and sets its limits. What exists is kept.
    ///
    /// # Errors
    /// A directory cannot be made or a limit not be set.
    pub fn create(&self, resources: &Resources) -> Result<()> {
        // In all of them: in a tree where a container had no group of its own it would see all
        // groups of the machine.
        for tree in &self.hierarchy.v1 {
            match tree.create(&self.path) {
                Err(error) if tree.is_needed() => return Err(error),
                _ => {}
            }
        }
        if let Some(root) = &self.hierarchy.unified {
            v2::create(root, &self.path, self.hierarchy.version())?;
            if self.hierarchy.version() == Version::V2 && resources.level == Level::Container {
                v2::prepare_container(&root.join(&self.path))?;
            }
        }
        self.update(resources)
    }

    /// Sets limits; fields at zero stay as they are.
    ///
    /// # Errors
    /// The kernel refuses a value (for example memory below what is in use).
    pub fn update(&self, resources: &Resources) -> Result<()> {
        match (self.hierarchy.version(), &self.hierarchy.unified) {
            (Version::V2, Some(root)) => v2::limit(&root.join(&self.path), resources),
            _ => v1::limit(&self.hierarchy.v1, &self.path, resources),
        }
    }

    /// Allows only these devices. A privileged container is not restricted: do not call it.
    ///
    /// # Errors
    /// The kernel refuses the rules.
    pub fn allow_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        match (self.hierarchy.version(), &self.hierarchy.unified) {
            (Version::V2, Some(root)) => device::attach_program(&root.join(&self.path), rules),
            _ => v1::allow_devices(&self.hierarchy.v1, &self.path, rules),
        }
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// The group is not there, or the process is gone.
    pub fn attach(&self, pid: i32) -> Result<()> {
        let pid = pid.to_string();
        for directory in self.directories() {
            files::write(&directory.join("cgroup.procs"), &pid)?;
        }
        Ok(())
    }

    /// Moves a process into the group, and in the version 2 tree to where a process of the group
    /// is: there a group with controllers of its own below takes none itself (`BUSY`).
    ///
    /// # Errors
    /// As [`Group::attach`]; that process is not in the group.
    pub fn attach_beside(&self, pid: i32, other: i32) -> Result<()> {
        let unified = self.main_directory().filter(|_| self.hierarchy.unified.is_some());
        for directory in self.directories() {
            let nested = unified.as_ref() == Some(&directory);
            let directory = if nested { self.unified_of(other)? } else { directory };
            files::write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// As [`Group::open_for_clone`], where a process of the group is.
    ///
    /// # Errors
    /// That process is not in the group.
    pub fn open_for_clone_beside(&self, other: i32) -> Result<Option<OwnedFd>> {
        match self.hierarchy.version() {
            Version::V2 => files::open_directory(&self.unified_of(other)?).map(Some),
            Version::V1 => Ok(None),
        }
    }

    /// Where a process is in the version 2 tree; it must be the group or one below it.
    fn unified_of(&self, pid: i32) -> Result<PathBuf> {
        let attempt = || format!("find process {pid} below cgroup {}", self.path);
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).attempt(attempt)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let inside =
            path.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let root = self.hierarchy.unified.as_ref().filter(|_| inside && is_path(path));
        root.map(|root| root.join(path)).ok_or_else(|| Error::new(attempt(), Errno::NOENT))
    }

    /// The group's directory for `CLONE_INTO_CGROUP`; `None` where version 1 holds the
    /// controllers and the process must be moved by [`Group::attach`].
    ///
    /// # Errors
    /// The group is not there.
    pub fn open_for_clone(&self) -> Result<Option<OwnedFd>> {
        match (self.hierarchy.version(), &self.hierarchy.unified) {
            (Version::V2, Some(root)) => files::open_directory(&root.join(&self.path)).map(Some),
            _ => Ok(None),
        }
    }

    /// Processes of the group and of the groups below it. A group that is gone has none.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(directory) = self.main_directory() {
            files::collect_pids(&directory, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends a signal to every process of the group; those that are gone meanwhile are fine.
    ///
    /// # Errors
    /// The list of processes cannot be read.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL && self.kill_at_once() {
            return Ok(());
        }
        for pid in self.pids()? {
            let _ = crate::process::kill(pid, signal);
        }
        Ok(())
    }

    /// `cgroup.kill` in the version 2 tree, the only way that no fork can escape (Linux 5.14).
    fn kill_at_once(&self) -> bool {
        let Some(root) = &self.hierarchy.unified else { return false };
        files::write(&root.join(&self.path).join("cgroup.kill"), "1").is_ok()
    }

    /// Kills what is in the group and removes it with all groups below, waiting until the killed
    /// processes have left. A group that is gone is fine. What lies above stays.
    ///
    /// # Errors
    /// Processes do not leave within two seconds (they hang in the kernel).
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        for directory in self.directories() {
            self.remove_tree(&directory, deadline)?;
        }
        Ok(())
    }

    fn remove_tree(&self, directory: &Path, deadline: Instant) -> Result<()> {
        let mut pause = Duration::from_micros(200);
        loop {
            match files::remove_tree(directory) {
                Err(error) if error.errno == Errno::BUSY && Instant::now() < deadline => {
                    self.signal_all(libc::SIGKILL)?;
                    // Version 1 has no event for "empty", and rmdir stays busy for a moment
                    // after the last process is gone: asking again is all there is.
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                done => return done,
            }
        }
    }

    /// How often the kernel has killed for memory in the group; 0 when it is gone. A group that
    /// dies whole was killed once.
    pub fn oom_kills(&self) -> u64 {
        match self.hierarchy.version() {
            Version::V1 => self
                .v1_directory("memory")
                .and_then(|directory| files::keyed(&directory.join("memory.oom_control"), "oom_kill")),
            Version::V2 => self.main_directory().and_then(|directory| v2::oom_kills(&directory)),
        }
        .unwrap_or(0)
    }

    /// Watches for kills for memory.
    ///
    /// # Errors
    /// The group has no memory controller.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        match self.hierarchy.version() {
            Version::V1 => {
                let directory = self
                    .v1_directory("memory")
                    .ok_or_else(|| Error::new("watch memory: no memory cgroup", Errno::NOENT))?;
                Ok(OomWatch { fd: v1::oom_eventfd(&directory)?, version: Version::V1 })
            }
            Version::V2 => {
                let file = self
                    .main_directory()
                    .ok_or_else(|| Error::new("watch memory: no cgroup", Errno::NOENT))?
                    .join("memory.events");
                Ok(OomWatch { fd: files::open_read(&file)?, version: Version::V2 })
            }
        }
    }

    /// What the group uses now; zeros for what is not accounted.
    pub fn stats(&self) -> Stats {
        match (self.hierarchy.version(), &self.hierarchy.unified) {
            (Version::V2, Some(root)) => v2::stats(&root.join(&self.path)),
            _ => v1::stats(&self.hierarchy.v1, &self.path),
        }
    }

    /// True while the group is there.
    pub fn exists(&self) -> bool {
        self.main_directory().is_some_and(|directory| directory.is_dir())
    }

    /// The directory that says best what is in the group.
    fn main_directory(&self) -> Option<PathBuf> {
        match &self.hierarchy.unified {
            Some(root) => Some(root.join(&self.path)),
            None => self.v1_directory("memory"),
        }
    }

    fn v1_directory(&self, controller: &str) -> Option<PathBuf> {
        let tree = self.hierarchy.v1.iter().find(|tree| tree.has(controller))?;
        Some(tree.root.join(&self.path))
    }

    /// All directories of the group, the version 2 one first: killing works there.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let v1 = self.hierarchy.v1.iter();
        let v1 = v1.filter(|tree| tree.is_needed() || tree.root.join(&self.path).is_dir());
        let v1 = v1.map(|tree| &tree.root);
        self.hierarchy.unified.iter().chain(v1).map(|root| root.join(&self.path))
    }
}

#[cfg(test)]
mod tests;
