//! Directories as somebody makes them who wants out: of images, of volumes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// A directory in which each name can be made anything. What stood there goes, without being
/// followed.
pub(crate) struct Hostile(PathBuf);

impl Hostile {
    /// The directory of that name, made where it is missing.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        fs::create_dir_all(&path).unwrap();
        Hostile(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn place(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        sys::beneath::remove_tree(&path).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(crate) fn link(self, name: &str, target: impl AsRef<Path>) -> Self {
        symlink(target, self.place(name)).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.place(name), text).unwrap();
        self
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        fs::create_dir(self.place(name)).unwrap();
        self
    }

    pub(crate) fn fifo(self, name: &str) -> Self {
        mknodat(CWD, self.place(name), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        self
    }

    pub(crate) fn character_device(self, name: &str, major: u32, minor: u32) -> Self {
        let device = makedev(major, minor);
        mknodat(CWD, self.place(name), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
            .unwrap();
        self
    }
}
