//! How much a directory holds.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

use crate::{Context, Result};

/// What a directory tree takes on its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated, as du(1) counts them.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Walks a directory tree without following links or leaving its file system. A file with
/// several names is counted with each of them; what vanishes meanwhile is left out.
///
/// # Errors
/// The directory itself cannot be read.
pub fn usage(directory: &Path) -> Result<Usage> {
    let root = rustix::fs::open(directory, DIRECTORY, Mode::empty()).on("open", directory)?;
    let device = rustix::fs::fstat(&root).on("stat", directory)?.st_dev;
    let mut usage = Usage::default();
    // Names, not descriptors: a directory may hold more directories than a process open files.
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(next) = waiting.pop() {
        // Nothing on the way may have become a link since its parent was read.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        if let Ok(opened) = openat2(&root, &next, DIRECTORY, Mode::empty(), resolve) {
            walk(&opened, &next, device, &mut usage, &mut waiting);
        }
    }
    Ok(usage)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn walk(directory: &OwnedFd, path: &Path, device: u64, usage: &mut Usage, waiting: &mut Vec<PathBuf>) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != device {
            continue;
        }
        usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        usage.inodes += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            waiting.push(path.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_are_counted() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("a")).unwrap();
        std::fs::write(home.path().join("a/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", home.path().join("a/out")).unwrap();
        let usage = usage(home.path()).unwrap();
        assert_eq!(usage.inodes, 3);
        assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
    }
}
