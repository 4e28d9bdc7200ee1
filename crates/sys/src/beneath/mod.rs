//! Work on files below a directory whose contents are somebody else's: a volume, a snapshot, an
//! image's layer, a container's root.
//!
//! ```text
//!   path that is trusted ──open──▶ Directory ──names below──▶ kernel (openat2)
//!                                      │
//!                     descriptors, never a path put together again
//! ```
//!
//! Whoever owns those files may exchange a directory and a link at any instant. So nothing is
//! looked at by one path and used by another: what was opened is what is worked on, and the kernel
//! refuses a way that leads out (`RESOLVE_BENEATH`), through a link, through a magic link of
//! procfs, or onto another mount, unless the caller asks for it ([`Links`], [`Mounts`]).
//!
//! Start reading at [`Directory::lookup`]; removal is in `remove`, walking in [`walk`].

mod remove;
mod walk;

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmodat, chownat, fchmod, fstat,
    mkdirat, openat, openat2, readlinkat, renameat, symlinkat,
};
use rustix::io::Errno;

use crate::{Context, Error, Result};

pub use remove::remove_tree;
pub use walk::{Visit, walk};

/// Which symbolic links a path below a directory may lead through. Magic ones never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// None at all.
    Refused,
    /// Those that stay below the directory; an absolute one is refused.
    Beneath,
    /// All, with the directory as their root, as a process that is chrooted there sees them.
    Inside,
}

/// Whether a path may lead onto what is mounted below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// It may not.
    Stay,
    /// It may.
    Cross,
}

/// An opened directory, and the way to everything below it.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

impl Directory {
    /// Opens a directory by a path that is trusted: nobody but the host writes to what leads there.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = READ.difference(OFlags::NOFOLLOW);
        let fd = openat(CWD, path, flags, Mode::empty()).on("open", path)?;
        Ok(Directory { fd, path: path.to_owned() })
    }

    /// A directory that is open already, also one opened only as a place (`O_PATH`), and what to
    /// call it.
    pub fn of(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Directory { fd, path: path.into() }
    }

    /// What it is called in messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what a path leads to, as the kernel finds it below this directory. `.` is the
    /// directory itself.
    ///
    /// # Errors
    /// `XDEV`: it leads out, or onto a mount. `LOOP`: through a link. Else what the kernel says.
    pub fn lookup(
        &self,
        path: impl AsRef<Path>,
        flags: OFlags,
        links: Links,
        mounts: Mounts,
    ) -> std::result::Result<OwnedFd, Errno> {
        resolve(self.fd.as_fd(), path.as_ref(), flags, links, mounts)
    }

    /// A directory below, without links and on this mount.
    ///
    /// # Errors
    /// It is not there, is something else, or is mounted.
    pub fn directory(&self, path: impl AsRef<Path>) -> Result<Directory> {
        let path = path.as_ref();
        let fd = self.lookup(path, READ, Links::Refused, Mounts::Stay);
        Ok(Directory { fd: fd.on("open", self.path.join(path))?, path: self.path.join(path) })
    }

    /// A regular file below, to be read, without links and on this mount. Opening it never waits,
    /// whatever stands there.
    ///
    /// # Errors
    /// It is not there, or is something else.
    pub fn file(&self, path: impl AsRef<Path>) -> Result<File> {
        self.file_by(path, Links::Refused, Mounts::Stay)
    }

    /// The same, by a way that may lead through more.
    ///
    /// # Errors
    /// As [`Directory::file`].
    pub fn file_by(&self, path: impl AsRef<Path>, links: Links, mounts: Mounts) -> Result<File> {
        let path = path.as_ref();
        let place = OFlags::PATH | OFlags::CLOEXEC;
        let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = self
            .lookup(path, place, links, mounts)
            .and_then(|place| reopen_regular(&place, || self.lookup(path, read, links, mounts)));
        opened.map(File::from).on("open", self.path.join(path))
    }

    /// Where the link of that name leads; `None` when there is none, or something else.
    ///
    /// # Errors
    /// The directory cannot be searched.
    pub fn read_link(&self, name: impl AsRef<Path>) -> Result<Option<PathBuf>> {
        let name = name.as_ref();
        match readlinkat(&self.fd, plain(name)?, Vec::new()) {
            Ok(target) => Ok(Some(OsStr::from_bytes(target.as_bytes()).into())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno).on("read link", self.path.join(name)),
        }
    }

    /// A directory of that name with exactly this mode: made, or the one that is there with its
    /// mode as it is.
    ///
    /// # Errors
    /// Something else is there, or the disk refuses.
    pub fn make_directory(&self, name: impl AsRef<Path>, mode: u32) -> Result<Directory> {
        let name = name.as_ref();
        let made = match mkdirat(&self.fd, plain(name)?, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno).on("mkdir", self.path.join(name)),
        };
        let directory = self.directory(name)?;
        if made {
            // The umask must not narrow it.
            fchmod(&directory.fd, Mode::from_raw_mode(mode)).on("chmod", &directory.path)?;
        }
        Ok(directory)
    }

    /// A new file of that name, with exactly this mode.
    ///
    /// # Errors
    /// Something is there already, or the disk refuses.
    pub fn make_file(&self, name: impl AsRef<Path>, mode: u32) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&self.fd, plain(name)?, flags, Mode::RUSR | Mode::WUSR);
        let made = made.on("create", self.path.join(name))?;
        fchmod(&made, Mode::from_raw_mode(mode)).on("chmod", self.path.join(name))?;
        Ok(made.into())
    }

    /// Makes the link of that name lead to `target`, by one rename: whoever looks sees what was
    /// there before or the new link. Whatever else stands there goes, and so does what stands
    /// under the name `next`, which the link has until then.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn replace_link(&self, name: &str, target: &Path, next: &str) -> Result<()> {
        self.remove(next)?;
        symlinkat(target, &self.fd, plain(next.as_ref())?).on("link", self.path.join(next))?;
        match renameat(&self.fd, next, &self.fd, plain(name.as_ref())?) {
            // A link cannot be renamed over a directory.
            Err(Errno::ISDIR) => {
                self.remove(name)?;
                renameat(&self.fd, next, &self.fd, name)
            }
            other => other,
        }
        .on("rename", self.path.join(next))
    }

    /// The names in the directory, one by one; what appears or goes meanwhile may be missed.
    /// `visit` gets the name and says whether to go on.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(&self, mut visit: impl FnMut(&OsStr) -> Result<bool>) -> Result<()> {
        let mut entries = Dir::read_from(&self.fd).on("read", &self.path)?;
        while let Some(entry) = entries.read() {
            let entry = entry.on("read", &self.path)?;
            if !is_dots(entry.file_name()) && !visit(OsStr::from_bytes(entry.file_name().to_bytes()))? {
                break;
            }
        }
        Ok(())
    }

    /// What the directory itself is.
    ///
    /// # Errors
    /// None in practice.
    pub fn stat(&self) -> Result<Stat> {
        fstat(&self.fd).on("stat", &self.path)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Directory> for OwnedFd {
    fn from(directory: Directory) -> OwnedFd {
        directory.fd
    }
}

fn resolve(
    at: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    links: Links,
    mounts: Mounts,
) -> std::result::Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::NO_MAGICLINKS;
    resolve |= match links {
        Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        Links::Beneath => ResolveFlags::BENEATH,
        Links::Inside => ResolveFlags::IN_ROOT,
    };
    if mounts == Mounts::Stay {
        resolve |= ResolveFlags::NO_XDEV;
    }
    loop {
        // AGAIN: something was renamed while `..` was being followed; it is no answer.
        match openat2(at, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Opens what was found to be a regular file a moment ago; something else in its place is refused.
fn reopen_regular(
    place: &OwnedFd,
    open: impl FnOnce() -> std::result::Result<OwnedFd, Errno>,
) -> std::result::Result<OwnedFd, Errno> {
    let known = fstat(place)?;
    if FileType::from_raw_mode(known.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let opened = open()?;
    let same = fstat(&opened).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (known.st_dev, known.st_ino));
    if same { Ok(opened) } else { Err(Errno::STALE) }
}

/// One name, so that the call that gets it cannot leave the directory.
fn plain(name: &Path) -> Result<&Path> {
    let bytes = name.as_os_str().as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Error::new(format!("use {name:?} as a name"), Errno::INVAL));
    }
    Ok(name)
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

/// Something below a directory, held in place without being opened for use: what is learnt of it
/// and what is done to it concern the same thing, whatever stands under its name by then.
#[derive(Debug)]
pub struct Item {
    fd: OwnedFd,
    stat: Stat,
}

impl Item {
    /// Takes hold of what has that name in an opened directory; a link is the link itself.
    ///
    /// # Errors
    /// `NOENT`: it is gone. `XDEV`: something is mounted there.
    pub fn take(directory: BorrowedFd<'_>, name: &CStr) -> std::result::Result<Item, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = Path::new(OsStr::from_bytes(name.to_bytes()));
        let fd = resolve(directory, path, flags, Links::Refused, Mounts::Stay)?;
        let stat = fstat(&fd)?;
        Ok(Item { fd, stat })
    }

    /// What it is.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Its type.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Gives it to a user or group, or leaves either.
    ///
    /// # Errors
    /// No permission, or a read-only file system.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> std::result::Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH)
    }

    /// Sets its permission bits. A link has none.
    ///
    /// # Errors
    /// `OPNOTSUPP`: it is a link. Else as [`Item::set_owner`].
    pub fn set_mode(&self, mode: u32) -> std::result::Result<(), Errno> {
        if self.kind() == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        // The kernel takes no chmod of such a descriptor itself before 6.6; its name in this
        // process's own procfs is the same inode, found without a look at any name below.
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
    }
}

#[cfg(test)]
mod tests;
