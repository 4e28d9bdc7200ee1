//! Group ownership of volumes by fsGroup.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Gid, Mode, Stat, fchmod, fchown, fstat};
use sys::beneath::{Directory, Item, Visit, walk};
use sys::{Errno, Error, Result};

/// Whether containers may write to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The group gets rw.
    ReadWrite,
    /// The group gets r.
    ReadOnly,
}

/// When a volume's files are looked at (`fsGroupChangePolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangePolicy {
    /// At each mount.
    Always,
    /// Only when its root does not belong to the group as it should. The root is changed last, so
    /// a root that is right means that all below it was made right once.
    OnRootMismatch,
}

/// Gives everything below `root` to the group: g+rw (or g+r), directories g+x and setgid. Without
/// following links: the volume may be in use, and its users may exchange what is in it.
///
/// # Errors
/// The tree cannot be read. A file that cannot be changed (a read-only disk) is none, as upstream.
pub fn apply(root: &Directory, group: Option<i64>, access: Access, policy: ChangePolicy) -> Result<()> {
    let Some(group) = group else { return Ok(()) };
    let group = u32::try_from(group).map_err(|_| Error::new(format!("use fsGroup {group}"), Errno::INVAL))?;
    if policy == ChangePolicy::OnRootMismatch && root_is_right(&root.stat()?, group, access) {
        return Ok(());
    }
    let mut grant = Grant { group, access, failed: None };
    walk(root, &mut grant)?;
    if let Some(errno) = grant.failed {
        let cause = sys::errno_words(errno).to_string();
        tracing::warn!(volume = %root.path().display(), group, cause, "files that keep their group or mode");
    }
    Ok(())
}

/// Upstream's `requiresPermissionChange`, answered the other way round.
fn root_is_right(stat: &Stat, group: u32, access: Access) -> bool {
    let wanted = mask(access) | 0o2110;
    stat.st_gid == group && stat.st_mode & wanted == wanted
}

fn mask(access: Access) -> u32 {
    match access {
        Access::ReadWrite => 0o660,
        Access::ReadOnly => 0o440,
    }
}

struct Grant {
    group: u32,
    access: Access,
    failed: Option<Errno>,
}

/// What has to be done to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    owner: bool,
    mode: Option<u32>,
}

impl Grant {
    fn change(&self, stat: &Stat) -> Change {
        let owner = stat.st_gid != self.group;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A link has no mode of its own.
        if kind == FileType::Symlink {
            return Change { owner, mode: None };
        }
        let mask = mask(self.access) | if kind == FileType::Directory { 0o2110 } else { 0 };
        let mode = stat.st_mode & 0o7777;
        // A change of owner takes set-id bits away.
        Change { owner, mode: (owner || mode | mask != mode).then_some(mode | mask) }
    }

    fn note(&mut self, done: std::result::Result<(), Errno>) {
        if let Err(errno) = done {
            self.failed = Some(errno);
        }
    }
}

impl Visit for Grant {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
        let item = Item::take(directory, name)?;
        let change = self.change(item.stat());
        if change.owner {
            self.note(item.set_owner(None, Some(self.group)));
        }
        if let Some(mode) = change.mode {
            self.note(item.set_mode(mode));
        }
        Ok(())
    }

    fn directory(&mut self, directory: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        let change = self.change(&fstat(directory)?);
        if change.owner {
            self.note(fchown(directory, None, Some(Gid::from_raw(self.group))));
        }
        if let Some(mode) = change.mode {
            self.note(fchmod(directory, Mode::from_raw_mode(mode)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const GROUP: u32 = 4711;

    #[test]
    fn a_group_gets_everything_but_what_links_lead_to() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let before = fs::metadata(outside.path()).unwrap();
        fs::create_dir(home.path().join("d")).unwrap();
        fs::write(home.path().join("d/f"), "").unwrap();
        fs::set_permissions(home.path().join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink(outside.path(), home.path().join("d/link")).unwrap();
        let root = Directory::open(home.path()).unwrap();
        apply(&root, Some(GROUP.into()), Access::ReadWrite, ChangePolicy::Always).unwrap();
        let shown = |name: &str| {
            let meta = fs::symlink_metadata(home.path().join(name)).unwrap();
            (meta.gid(), meta.mode() & 0o7777)
        };
        assert_eq!(shown("d/f"), (GROUP, 0o660));
        assert_eq!((shown("d"), shown("").1 & 0o2070), ((GROUP, 0o2775), 0o2070));
        assert_eq!(shown("d/link").0, GROUP, "the link itself is the volume's");
        let after = fs::metadata(outside.path()).unwrap();
        assert_eq!((before.gid(), before.mode()), (after.gid(), after.mode()));
    }

    #[test]
    fn a_right_root_is_believed_only_when_the_policy_says_so() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let root = Directory::open(home.path()).unwrap();
        let policy = ChangePolicy::OnRootMismatch;
        apply(&root, Some(GROUP.into()), Access::ReadWrite, policy).unwrap();
        fs::write(home.path().join("late"), "").unwrap();
        std::os::unix::fs::chown(home.path().join("late"), None, Some(0)).unwrap();
        let group_of_late = || fs::metadata(home.path().join("late")).unwrap().gid();
        apply(&root, Some(GROUP.into()), Access::ReadWrite, policy).unwrap();
        assert_eq!(group_of_late(), 0);
        apply(&root, Some(GROUP.into()), Access::ReadWrite, ChangePolicy::Always).unwrap();
        assert_eq!(group_of_late(), GROUP);
        assert!(apply(&root, Some(-1), Access::ReadWrite, policy).is_err());
    }
}
