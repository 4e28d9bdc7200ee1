//! User namespaces: root of a Pod who is nobody on the node.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::mount::{Attributes, Depth, Detached};
use crate::process;
use crate::{Context, Errno, Error, Result};

/// Ids of a user namespace, of users and of groups alike: 0 inside is `first` outside, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What 0 inside is outside.
    pub first: u32,
    /// How many there are.
    pub length: u32,
}

impl IdRange {
    /// What an id inside is outside; `None`: there is none of that number.
    pub fn outside(self, id: u32) -> Option<u32> {
        self.first.checked_add(id).filter(|_| id < self.length)
    }
}

/// Makes a user namespace below that of this process. It lasts as long as its descriptor, what was
/// made by a process in it, and mounts with its ids.
///
/// # Errors
/// The kernel makes none (`user.max_user_namespaces`), or no permission.
pub fn make(range: IdRange) -> Result<OwnedFd> {
    // The first process of a namespace is only needed to say of which one the ids are set.
    let waiting = process::Waiting::in_new_user_namespace()?;
    let about = format!("/proc/{}", waiting.pid());
    for file in ["uid_map", "gid_map"] {
        let path = format!("{about}/{file}");
        fs::write(&path, format!("0 {} {}\n", range.first, range.length)).on("write", &path)?;
    }
    super::open(format!("{about}/ns/user"))
}

/// Moves the calling thread into a user namespace and makes it root there, with all that root of
/// that namespace may do, and no more.
///
/// # Errors
/// No permission, or there are more threads.
pub fn enter_as_root(namespace: BorrowedFd<'_>) -> Result<()> {
    super::enter(namespace)?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_groups(&[]).attempt(|| "setgroups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt(|| "setgid 0")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt(|| "setuid 0")
}

/// Tries what Pods in user namespaces need of this host: the namespace, and mounts with its ids of a
/// tmpfs (which Secrets are on) and of a directory (where layers of images and other volumes are).
///
/// # Errors
/// What this host has not, by name.
pub fn probe(range: IdRange, directory: &Path) -> Result<()> {
    let namespace = make(range)?;
    let mapped =
        |mount: Detached, what: &Path| mount.map_ids(namespace.as_fd()).map_err(|error| error.about(what));
    mapped(Detached::new("tmpfs", &[], Attributes::NONE)?, Path::new("a tmpfs, possible from Linux 6.3"))?;
    mapped(Detached::bind(directory, Depth::This)?, directory)
}

/// Does something as a user other than root, and is root again: some parameters of the kernel are only
/// for the root of their namespace.
///
/// # Errors
/// No permission, or what is done fails.
pub fn acting_as<T>(user: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if user == u32::MAX {
        return Err(Error::new("act as no user", Errno::INVAL));
    }
    let become_effectively = |user: u32| {
        let (root, user) = (Uid::from_raw(0), Uid::from_raw(user));
        rustix::thread::set_thread_res_uid(root, user, root).attempt(|| format!("act as user {user:?}"))
    };
    become_effectively(user)?;
    let done = work();
    become_effectively(0)?;
    done
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const RANGE: IdRange = IdRange { first: 655_360, length: 65_536 };

    #[test]
    fn ids_beyond_the_range_are_nobodys() {
        let shown = [0, 1000, 65_535, 65_536].map(|id| RANGE.outside(id));
        assert_eq!(shown, [Some(655_360), Some(656_360), Some(720_895), None]);
        assert_eq!(IdRange { first: u32::MAX, length: 2 }.outside(1), None);
    }

    #[test]
    fn a_mount_shows_the_files_of_root_as_those_of_the_namespaces_root() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("of root"), "").unwrap();
        let namespace = make(RANGE).unwrap();
        let mount = Detached::bind(home.path(), Depth::This).unwrap();
        mount.map_ids(namespace.as_fd()).unwrap();
        let name = rustix::fs::statat(&mount, "of root", rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!((name.st_uid, name.st_gid), (RANGE.first, RANGE.first));
        assert_eq!(
            fs::metadata(home.path().join("of root")).unwrap().uid(),
            0,
            "only this mount shows it so"
        );
    }

    #[test]
    fn a_file_system_without_mapped_mounts_is_told_by_name() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let error = probe(RANGE, Path::new("/proc/sys")).unwrap_err();
        assert!(error.to_string().contains("MOUNT_ATTR_IDMAP on /proc/sys"), "{error}");
    }
}
