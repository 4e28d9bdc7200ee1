//! Places in the life of a Pod where a test has the daemon die.
//!
//! Random crashes find the long steps and miss the short ones: between two writes there may be microseconds.
//! So each step says when it is done, and a test ([`die_at`]) has the process killed there. A release build
//! has nothing of it: `pass` is empty there, and no place can be named.

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The sandbox has a directory, which does not say yet what it is.
    SandboxDirectoryMade,
    /// It has a name and an address.
    SandboxRecorded,
    /// Its files are written, and what its containers share is mounted.
    SharedMemoryMounted,
    /// The Pod has its limits.
    PodCgroupMade,
    /// The shim is a process that nobody has spoken to.
    ShimLaunched,
    /// The shim has made the namespaces and the links.
    ShimGreeted,
    /// The node's ports lead to the Pod.
    HostPortsSet,
    /// A container that is not there yet holds its image.
    ImageLeased,
    /// It has a snapshot.
    SnapshotMade,
    /// It has a name.
    ContainerRecorded,
    /// Its process waits for the word to begin.
    ContainerCreated,
    /// Its program runs.
    ContainerStarted,
    /// The shim has forgotten the container.
    ContainerDeleted,
    /// Its files are gone, and it still holds its image.
    ContainerFilesRemoved,
    /// It holds nothing.
    ImageReleased,
    /// Nothing of the Pod runs.
    ShimEnded,
    /// The node's ports lead nowhere.
    HostPortsUnset,
    /// Whatever shim there may be ends.
    ShimDisowned,
    /// The Pod has no limits.
    CgroupsRemoved,
    /// What its containers shared is gone.
    SharedMemoryUnmounted,
    /// What they wrote is gone.
    SnapshotsDiscarded,
    /// Its address is another Pod's to have.
    AddressesReleased,
    /// The sandbox is gone from the disk.
    SandboxFilesRemoved,
}

/// Nothing, where nobody can ask for a death.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) const fn pass(_: Place) {}

#[cfg(debug_assertions)]
pub use armed::die_at;
#[cfg(debug_assertions)]
pub(crate) use armed::pass;

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Place;

    static DIES_AT: OnceLock<Place> = OnceLock::new();

    impl Place {
        /// All of them.
        pub const ALL: [Place; 23] = [
            Place::SandboxDirectoryMade,
            Place::SandboxRecorded,
            Place::SharedMemoryMounted,
            Place::PodCgroupMade,
            Place::ShimLaunched,
            Place::ShimGreeted,
            Place::HostPortsSet,
            Place::ImageLeased,
            Place::SnapshotMade,
            Place::ContainerRecorded,
            Place::ContainerCreated,
            Place::ContainerStarted,
            Place::ContainerDeleted,
            Place::ContainerFilesRemoved,
            Place::ImageReleased,
            Place::ShimEnded,
            Place::HostPortsUnset,
            Place::ShimDisowned,
            Place::CgroupsRemoved,
            Place::SharedMemoryUnmounted,
            Place::SnapshotsDiscarded,
            Place::AddressesReleased,
            Place::SandboxFilesRemoved,
        ];
    }

    /// Has this process killed as soon as it comes to the place.
    pub fn die_at(place: Place) {
        assert!(DIES_AT.set(place).is_ok(), "a process dies once");
    }

    pub(crate) fn pass(place: Place) {
        if DIES_AT.get() == Some(&place) {
            // Nothing is flushed, closed or dropped: as from outside.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}
