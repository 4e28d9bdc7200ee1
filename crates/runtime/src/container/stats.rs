//! What containers use, read from their cgroups.

use super::Container;
use crate::interface::{ContainerStats, Measured};

/// Current use of a container. Reads files: call it where blocking is allowed.
pub(crate) fn stats(
    hierarchy: &sys::cgroup::Hierarchy,
    container: &Container,
    measured: Measured,
) -> ContainerStats {
    let used = hierarchy.group(&container.cgroup).stats();
    ContainerStats {
        id: container.id().to_owned(),
        cpu_nanoseconds: used.cpu_nanoseconds,
        memory_working_set: used.memory_working_set,
        pids: used.pids,
        rootfs_bytes: (measured == Measured::All).then(|| layer(container)),
    }
}

/// Bytes that a container has written to its root. A layer that vanishes while it is walked uses nothing.
pub(crate) fn layer(container: &Container) -> u64 {
    sys::disk::usage(&container.directory.join("upper")).map_or(0, |usage| usage.bytes)
}
