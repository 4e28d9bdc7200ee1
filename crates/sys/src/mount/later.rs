//! Attributes and propagation on kernels without `mount_setattr` (before 5.12): `mount` does both,
//! but only to what is in the file tree. So they are noted, and done in the moment the mount is put
//! in place.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change, mount_remount};

use super::{Attributes, Depth, Propagation};
use crate::{Context, Result};

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Later(Cell<Waiting>);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    pub(super) attributes: Option<(Attributes, Depth)>,
    pub(super) propagation: Option<Propagation>,
}

impl Later {
    /// Notes what a kernel could not do at once.
    pub(super) fn unless(&self, done: Result<()>, note: impl FnOnce(&mut Waiting)) -> Result<()> {
        match done {
            Err(error) if error.errno == Errno::NOSYS => {
                let mut waiting = self.0.get();
                note(&mut waiting);
                self.0.set(waiting);
                Ok(())
            }
            done => done,
        }
    }

    /// Does it, now that the mount is in place.
    pub(super) fn apply(&self, mount: &OwnedFd) -> Result<()> {
        let Waiting { attributes, propagation } = self.0.get();
        if let Some(propagation) = propagation {
            let flags = match propagation {
                Propagation::Private => MountPropagationFlags::PRIVATE,
                Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
                Propagation::Shared => MountPropagationFlags::SHARED,
            };
            mount_change(name(mount).as_path(), flags | MountPropagationFlags::REC)
                .attempt(|| "change how mounts travel")?;
        }
        attributes.map_or(Ok(()), |(attributes, depth)| restrict_in_place(mount, attributes, depth))
    }
}

/// A descriptor as a path: it leads to the mount whatever lies on or above it.
fn name(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", mount.as_raw_fd()).into()
}

/// Adds attributes to a mount that is in the tree, and with [`Depth::Recursive`] to those below it.
pub(super) fn restrict_in_place(mount: &OwnedFd, attributes: Attributes, depth: Depth) -> Result<()> {
    remount(&name(mount), mount, attributes)?;
    if depth == Depth::This {
        return Ok(());
    }
    let top = rustix::fs::readlink(name(mount), Vec::new()).attempt(|| "ask where a mount is")?;
    let table = std::fs::read("/proc/thread-self/mountinfo").on("read", "/proc/thread-self/mountinfo")?;
    for below in below(&table, Path::new(OsStr::from_bytes(top.as_bytes()))) {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let opened = rustix::fs::open(&below, flags, rustix::fs::Mode::empty()).on("open", &below)?;
        remount(&name(&opened), &opened, attributes)?;
    }
    Ok(())
}

/// A remount sets all attributes: those that the mount has already are said again.
fn remount(path: &Path, mount: &OwnedFd, attributes: Attributes) -> Result<()> {
    let has = fstatvfs(mount).attempt(|| "ask what a mount does not let happen")?.f_flag;
    let pairs = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let mut flags = MountFlags::BIND;
    for (seen, flag) in pairs {
        flags.set(flag, has.contains(seen));
    }
    // The first four are the same bits in both worlds.
    flags |= MountFlags::from_bits_truncate(u32::try_from(attributes.0).unwrap_or(0));
    mount_remount(path, flags, c"").attempt(|| "remount")
}

/// Mount points below a directory, in the order they were mounted.
fn below(mountinfo: &[u8], top: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped);
    points.filter(|point| point != top && point.starts_with(top)).collect()
}

/// Blanks, tabs, line ends and backslashes are written as octal numbers.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let byte = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::super::{Detached, make_all_private};
    use super::*;
    use crate::Error;
    use crate::namespace::{Namespaces, unshare};

    /// A tree of two mounts as a kernel without `mount_setattr` gets it, put in place by `wait`;
    /// returns what the line of each mount says after its mount point.
    fn lines(wait: fn(&Later)) -> Option<Vec<String>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let (source, target) = (home.path().join("a source"), home.path().join("target"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        let in_thread = move || {
            unshare(Namespaces::MOUNT).unwrap();
            make_all_private().unwrap();
            let tmpfs = || Detached::new("tmpfs", &[], Attributes::NODEV).unwrap();
            tmpfs().attach_at(&source).unwrap();
            std::fs::create_dir(source.join("b c")).unwrap();
            tmpfs().attach_at(&source.join("b c")).unwrap();
            let tree = Detached::bind(&source, Depth::Recursive).unwrap();
            wait(&tree.later);
            tree.attach_at(&target).unwrap();
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let ours = table.lines().filter_map(|line| line.split_once(&format!(" {}", target.display())));
            ours.map(|(_, rest)| rest.split(" - ").next().unwrap().to_owned()).collect()
        };
        Some(std::thread::spawn(in_thread).join().unwrap())
    }

    fn not_now(later: &Later, note: impl FnOnce(&mut Waiting)) {
        later.unless(Err(Error::new("mount_setattr", Errno::NOSYS)), note).unwrap();
    }

    #[test]
    fn attributes_that_had_to_wait_are_added_to_those_there_were() {
        let Some(lines) = lines(|later| {
            not_now(later, |waiting| waiting.attributes = Some((Attributes::READ_ONLY, Depth::This)));
        }) else {
            return;
        };
        assert_eq!(lines, [" ro,nodev,relatime", "/b\\040c rw,nodev,relatime"]);
    }

    #[test]
    fn a_whole_tree_can_wait_for_its_attributes_and_its_propagation() {
        let Some(lines) = lines(|later| {
            let attributes = Attributes::READ_ONLY.and(Attributes::NOEXEC);
            not_now(later, |waiting| waiting.attributes = Some((attributes, Depth::Recursive)));
            not_now(later, |waiting| waiting.propagation = Some(Propagation::Shared));
        }) else {
            return;
        };
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (line, start) in lines.iter().zip([" ", "/b\\040c "]) {
            let wanted = format!("{start}ro,nodev,noexec,relatime shared:");
            assert!(line.starts_with(&wanted), "{line:?} should begin with {wanted:?}");
        }
    }

    #[test]
    fn other_refusals_are_not_put_off() {
        let refused = Later::default().unless(Err(Error::new("mount_setattr", Errno::PERM)), |_| {});
        assert_eq!(refused.unwrap_err().errno, Errno::PERM);
    }
}
