//! What containers use, read from their cgroups.

use super::Container;
use crate::interface::ContainerStats;

/// Current use of a container. Walks the container's own layer: call it where blocking is allowed.
pub(crate) fn stats(hierarchy: &sys::cgroup::Hierarchy, container: &Container) -> ContainerStats {
    let used = hierarchy.group(&container.cgroup).stats();
    ContainerStats {
        id: container.id().to_owned(),
        cpu_nanoseconds: used.cpu_nanoseconds,
        memory_working_set: used.memory_working_set,
        pids: used.pids,
        // A layer that vanishes while it is walked uses nothing.
        rootfs_bytes: sys::disk::usage(&container.directory.join("upper")).map_or(0, |usage| usage.bytes),
    }
}
