//! Sub-paths of volumes, opened so that no link of a container leads out of the volume.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, OFlags, fstat, statat};
use rustix::io::Errno;
use sys::beneath::{self, Directory, Links};

use super::Mounts;

/// Binds `sub` of the volume to `target` and returns `target`. A missing directory is made.
///
/// What is bound there from an earlier start stays when it still is what the path leads to. A
/// ConfigMap that has changed since shows another file: then that one is bound anew (upstream's
/// rule since kubernetes#89629).
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
        if is_same(&found, target)? {
            return Ok(target.to_path_buf());
        }
        mounts.unmount_below(target)?;
    }
    make_target(&found, target)?;
    mounts.bind(found.as_fd(), target)?;
    Ok(target.to_path_buf())
}

fn is_same(found: &OwnedFd, target: &Path) -> io::Result<bool> {
    let (found, bound) = (fstat(found)?, statat(CWD, target, AtFlags::SYMLINK_NOFOLLOW)?);
    Ok((found.st_dev, found.st_ino) == (bound.st_dev, bound.st_ino))
}

/// Opens without following a link out of the volume; the kernel does the check, so that a
/// container that moves links about meanwhile gains nothing.
fn open(volume: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let root = Directory::open(volume).map_err(error)?;
    match look(&root, sub) {
        Err(Errno::NOENT) => {
            make_directories(&root, sub)?;
            Ok(look(&root, sub)?)
        }
        done => Ok(done?),
    }
}

/// Also onto what the host has mounted below: the volume may be a directory of the host.
fn look(root: &Directory, path: &Path) -> rustix::io::Result<OwnedFd> {
    root.lookup(path, OFlags::PATH | OFlags::CLOEXEC, Links::Beneath, beneath::Mounts::Cross)
}

/// Makes what is missing below the part that is there, with the volume's own mode, as upstream:
/// whoever may write to the volume may write there.
fn make_directories(root: &Directory, sub: &Path) -> io::Result<()> {
    let mode = root.stat().map_err(error)?.st_mode & 0o7777;
    let parts: Vec<&Path> = sub.components().map(|part| Path::new(part.as_os_str())).collect();
    let prefix = |length: usize| [Path::new(".")].iter().chain(&parts[..length]).collect::<PathBuf>();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = (0..parts.len()).rev().find_map(|length| {
        let found = root.lookup(prefix(length), flags, Links::Beneath, beneath::Mounts::Cross);
        (!matches!(found, Err(Errno::NOENT))).then_some((length, found))
    });
    let Some((length, found)) = there else { return Err(Errno::NOENT.into()) };
    let mut at = Directory::of(found?, root.path().join(prefix(length)));
    for name in parts[length..].iter().filter(|name| **name != Path::new(".")) {
        at = at.make_directory(name, mode).map_err(error)?;
    }
    Ok(())
}

fn error(error: sys::Error) -> io::Error {
    io::Error::other(error)
}

/// A bind mount needs something of the same type to lie on.
fn make_target(found: &OwnedFd, target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let directory = FileType::from_raw_mode(fstat(found)?.st_mode) == FileType::Directory;
    if fs::symlink_metadata(target).is_ok_and(|there| there.is_dir() != directory) {
        beneath::remove_tree(target).map_err(error)?;
    }
    if directory {
        fs::create_dir_all(target)
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::fd::BorrowedFd;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Mutex;

    use super::*;

    /// Mounts that are links to what would be bound.
    #[derive(Default)]
    struct Bound(Mutex<RefCell<Vec<String>>>);

    impl Bound {
        fn say(&self, what: &str, target: &Path) {
            let name = target.file_name().unwrap().to_string_lossy();
            self.0.lock().unwrap().borrow_mut().push(format!("{what} {name}"));
        }

        fn said(&self) -> Vec<String> {
            self.0.lock().unwrap().take()
        }
    }

    impl Mounts for Bound {
        fn tmpfs(&self, _: &Path, _: Option<u64>) -> io::Result<()> {
            Ok(())
        }

        fn hugetlbfs(&self, _: &Path, _: Option<u64>, _: Option<u64>) -> io::Result<()> {
            unreachable!("nothing is mounted here")
        }

        fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
            use std::os::fd::AsRawFd;
            self.say("bind", target);
            fs::remove_file(target)?;
            fs::hard_link(fs::read_link(format!("/proc/self/fd/{}", source.as_raw_fd()))?, target)
        }

        fn is_mounted(&self, target: &Path) -> bool {
            target.exists()
        }

        fn unmount_below(&self, target: &Path) -> io::Result<()> {
            self.say("unmount", target);
            fs::remove_file(target)
        }
    }

    #[test]
    fn a_key_that_has_changed_is_bound_anew_at_the_next_start() {
        let home = tempfile::tempdir().unwrap();
        let (volume, target) = (home.path().join("v"), home.path().join("sub/0"));
        for version in ["..one", "..two"] {
            fs::create_dir_all(volume.join(version)).unwrap();
            fs::write(volume.join(version).join("key"), version).unwrap();
        }
        symlink("..one", volume.join("..data")).unwrap();
        symlink("..data/key", volume.join("key")).unwrap();
        let mounts = Bound::default();
        bind(&mounts, &volume, "key", &target).unwrap();
        bind(&mounts, &volume, "key", &target).unwrap();
        assert_eq!(mounts.said(), ["bind 0"], "what is right stays");
        fs::remove_file(volume.join("..data")).unwrap();
        symlink("..two", volume.join("..data")).unwrap();
        bind(&mounts, &volume, "key", &target).unwrap();
        assert_eq!(mounts.said(), ["unmount 0", "bind 0"]);
        assert_eq!(fs::read_to_string(&target).unwrap(), "..two");
    }

    #[test]
    fn missing_directories_are_as_open_as_the_volume_and_never_outside() {
        let home = tempfile::tempdir().unwrap();
        let (volume, outside) = (home.path().join("v"), home.path().join("outside"));
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        symlink(&outside, volume.join("out")).unwrap();
        symlink("real", volume.join("inner")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        open(&volume, Path::new("inner/a/b")).unwrap();
        open(&volume, Path::new("./c")).unwrap();
        for made in ["real/a", "real/a/b", "c"] {
            let mode = fs::metadata(volume.join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o777, "{made}");
        }
        for path in ["out/x", "out", "dangling/x"] {
            assert!(open(&volume, Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!volume.join("nowhere").exists());
    }
}
