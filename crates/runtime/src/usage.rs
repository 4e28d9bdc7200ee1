//! What sandboxes and containers use.

use std::collections::BTreeMap;
use std::time::Duration;

/// Memory in use, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Of the sandbox as a whole.
    pub sandbox: u64,
    /// Of its running containers, by their ids.
    pub containers: BTreeMap<String, u64>,
}

/// The memory of all Pods together, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodsMemory {
    /// What they may have.
    pub limit: u64,
    /// What they have that cannot be taken back easily.
    pub working_set: u64,
}

/// What is measured of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// What the kernel counts: cheap.
    CpuAndMemory,
    /// Their layers too, which are walked.
    All,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Container id.
    pub id: String,
    /// Its cgroup's path below the roots of the hierarchies.
    pub cgroup: String,
    /// CPU time since the start, nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory charged, page cache included, bytes.
    pub memory_usage: u64,
    /// Working set, bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Page faults since the start.
    pub page_faults: u64,
    /// Those of them that had to wait for a disk.
    pub major_page_faults: u64,
    /// Processes.
    pub pids: u64,
    /// What is in the container's own layer, if that was measured.
    pub rootfs: Option<DiskUse>,
}

/// What went through the network interface of a sandbox since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sandbox id.
    pub sandbox: String,
    /// The interface's name inside.
    pub interface: String,
    /// What came in.
    pub received: Counters,
    /// What went out.
    pub transmitted: Counters,
}

/// Of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that were given up.
    pub dropped: u64,
}

/// Space on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes allocated.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl DiskUse {
    /// Adds another use to this one.
    pub fn add(&mut self, other: DiskUse) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// How many images are to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Until so many bytes are free; the largest number: all that nobody uses.
    pub bytes: u64,
    /// None that came later than this long ago: its container may be about to be made.
    pub minimum_age: Duration,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Ids of images.
    pub images: Vec<String>,
    /// Bytes that they took.
    pub bytes: u64,
}
