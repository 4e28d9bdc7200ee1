//! How much a directory holds.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, fstat, statat};
use rustix::io::Errno;

use crate::Result;
use crate::beneath::{Directory, Visit, walk};

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
    let root = Directory::open(directory)?;
    let itself = root.stat()?;
    let mut count = Count { usage: Usage::default(), device: itself.st_dev, root: itself.st_ino };
    // A walk that ended early because the tree was moved about has counted what it met.
    let _ = walk(&root, &mut count);
    Ok(count.usage)
}

struct Count {
    usage: Usage,
    device: u64,
    /// Counts as nothing: it is there when the directory is empty too.
    root: u64,
}

impl Count {
    fn add(&mut self, stat: &rustix::fs::Stat) {
        if stat.st_dev == self.device && stat.st_ino != self.root {
            self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            self.usage.inodes += 1;
        }
    }
}

impl Visit for Count {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
        self.add(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(())
    }

    fn directory(&mut self, directory: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        self.add(&fstat(directory)?);
        Ok(())
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
