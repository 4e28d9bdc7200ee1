//! What there is of memory, disks and process numbers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::manager::{Observations, Observed};
use super::threshold::Signal;
use crate::{Config, host};

/// Sizes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// In bytes.
    pub(crate) bytes: Observed,
    /// `None`: it counts none, as btrfs.
    pub(crate) inodes: Option<Observed>,
}

/// Looks at the host.
pub(crate) fn look(config: &Config) -> Observations {
    let mut seen = Observations::new();
    if let Some(used) = host::used() {
        let capacity = used.memory_available.saturating_add(used.memory_working_set);
        seen.insert(Signal::MemoryAvailable, Observed { available: used.memory_available, capacity });
    }
    for (path, bytes, inodes) in [
        (&config.pods_directory, Signal::NodeFsAvailable, Signal::NodeFsInodesFree),
        (&config.images_directory, Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
    ] {
        let Some(found) = file_system(path) else { continue };
        seen.insert(bytes, found.bytes);
        seen.extend(found.inodes.map(|found| (inodes, found)));
    }
    seen.extend(process_numbers().map(|found| (Signal::PidAvailable, found)));
    seen
}

/// Of the file system on which a directory is, or will be.
pub(crate) fn file_system(directory: &Path) -> Option<FileSystem> {
    let stat = rustix::fs::statvfs(existing(directory)).ok()?;
    // One that tells no size (some network mounts) is not full.
    let bytes = Observed {
        // `f_bavail`: what root alone may still write is no room for Pods.
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
        capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
    };
    let inodes = Observed { available: stat.f_ffree, capacity: stat.f_files };
    Some(FileSystem { bytes, inodes: Some(inodes).filter(|inodes| inodes.capacity > 0) })
        .filter(|found| found.bytes.capacity > 0)
}

/// Whether the images have a file system of their own.
pub(crate) fn has_image_fs(config: &Config) -> bool {
    let device = |path: &PathBuf| fs::metadata(existing(path)).map(|metadata| metadata.dev()).ok();
    device(&config.pods_directory) != device(&config.images_directory)
}

fn existing(directory: &Path) -> &Path {
    directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Upstream's: of what the kernel allows, what no process or thread has.
fn process_numbers() -> Option<Observed> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let running = running(&fs::read_to_string("/proc/loadavg").ok()?)?;
    Some(Observed { available: most.saturating_sub(running), capacity: most })
}

/// proc(5): `0.20 0.18 0.12 1/80 11206`, of which the fourth tells how many run and how many there are.
fn running(loadavg: &str) -> Option<u64> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_what_it_has() {
        assert_eq!(running("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        let numbers = process_numbers().unwrap();
        assert!(numbers.available > 0 && numbers.available < numbers.capacity);
        let directory = tempfile::tempdir().unwrap();
        let known = file_system(directory.path()).unwrap();
        // What is not there yet will be on the file system of what is.
        let later = file_system(&directory.path().join("a/b")).unwrap();
        assert_eq!(known.bytes.capacity, later.bytes.capacity);
        assert!(known.bytes.available <= known.bytes.capacity);
    }
}
