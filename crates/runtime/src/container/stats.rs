//! What containers use, read from their cgroups.

use super::Container;
use crate::native::Inner;
use crate::usage::{ContainerStats, DiskUse, Measured};

/// Current use of all containers that run. Reads files: call it where blocking is allowed.
pub(crate) fn of_all(inner: &Inner, measured: Measured) -> Vec<ContainerStats> {
    let running = inner.all().into_iter().flat_map(|s| s.containers()).filter(|c| c.is_running());
    running.map(|container| stats(&inner.hierarchy, &container, measured)).collect()
}

fn stats(hierarchy: &sys::cgroup::Hierarchy, container: &Container, measured: Measured) -> ContainerStats {
    let used = hierarchy.group(&container.cgroup).stats();
    ContainerStats {
        id: container.id().to_owned(),
        cgroup: container.cgroup.clone(),
        cpu_nanoseconds: used.cpu_nanoseconds,
        memory_usage: used.memory_usage,
        memory_working_set: used.memory_working_set,
        memory_rss: used.memory_rss,
        page_faults: used.page_faults,
        major_page_faults: used.major_page_faults,
        pids: used.pids,
        rootfs: (measured == Measured::All).then(|| layer(container)),
    }
}

/// What a container has written to its root. A layer that vanishes while it is walked uses nothing.
pub(crate) fn layer(container: &Container) -> DiskUse {
    sys::disk::usage(&container.directory.join("upper"))
        .map_or(DiskUse::default(), |usage| DiskUse { bytes: usage.bytes, inodes: usage.inodes })
}
