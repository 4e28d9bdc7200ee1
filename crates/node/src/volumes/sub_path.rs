//! Sub-paths of volumes, opened so that no link of a container leads out of the volume.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Mounts;

/// Binds `sub` of the volume to `target` and returns `target`. A missing directory is made.
pub fn bind(mounts: &dyn Mounts, volume: &Path, sub: &str, target: &Path) -> io::Result<PathBuf> {
    let sub = Path::new(sub);
    if !sub.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("subpath {:?} not within volume path", sub.display().to_string()),
        ));
    }
    let found = open(volume, sub)?;
    if mounts.is_mounted(target) {
        return Ok(target.to_path_buf());
    }
    make_target(&found, target)?;
    mounts.bind(found.as_fd(), target)?;
    Ok(target.to_path_buf())
}

/// Opens without following a link out of the volume; the kernel does the check, so that a
/// container that moves links about meanwhile gains nothing.
fn open(volume: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let root = rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match open_beneath(&root, sub) {
        Err(Errno::NOENT) => {
            make_directories(&root, sub)?;
            Ok(open_beneath(&root, sub)?)
        }
        done => Ok(done?),
    }
}

fn open_beneath(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes each missing part inside the directory that was opened just before.
fn make_directories(root: &OwnedFd, sub: &Path) -> io::Result<()> {
    let mut at = open_beneath(root, Path::new("."))?;
    for part in sub.components() {
        let name = Path::new(part.as_os_str());
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) | Ok(()) => at = open_beneath(&at, name)?,
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// A bind mount needs something of the same type to lie on.
fn make_target(found: &OwnedFd, target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode);
    if kind == rustix::fs::FileType::Directory {
        fs::create_dir_all(target)
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target).map(drop)
    }
}
