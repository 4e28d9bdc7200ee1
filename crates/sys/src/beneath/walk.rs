//! Walks a tree that others may change meanwhile.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, Stat, fstat, openat};
use rustix::io::Errno;

use super::{Directory, Links, Mounts, READ, is_dots, resolve};
use crate::{Context, Result};

/// So many directories of one branch are open at a time.
const OPEN_MAX: usize = 32;

/// What is done on the way. An error ends the walk.
pub trait Visit {
    /// Something that was no directory when the walk came by, in an opened directory. Its owner
    /// may have put something else under the name since.
    ///
    /// # Errors
    /// Whatever shall end the walk.
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno>;

    /// A directory, after everything in it; the root of the walk comes last.
    ///
    /// # Errors
    /// Whatever shall end the walk.
    fn directory(&mut self, directory: BorrowedFd<'_>) -> std::result::Result<(), Errno>;
}

/// Walks everything below a directory and then the directory itself, without following links or
/// going onto other mounts. Memory grows by a few bytes with each level of depth, open files not
/// at all. What vanishes meanwhile is left out.
///
/// # Errors
/// What the visitor says; a directory cannot be read; `STALE`: deep down, a directory that was
/// being walked has been moved away.
pub fn walk(root: &Directory, visitor: &mut impl Visit) -> Result<()> {
    go(root, visitor).on("walk through", root.path())
}

/// A directory on the branch: what it is, and how far it was read.
struct Level {
    device: u64,
    inode: u64,
    offset: i64,
    /// `None`: closed for now, to be found again by `..` of its child.
    entries: Option<Dir>,
}

impl Level {
    fn new(fd: OwnedFd) -> std::result::Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Level { device: stat.st_dev, inode: stat.st_ino, offset: 0, entries: Some(Dir::new(fd)?) })
    }

    fn is(&self, stat: &Stat) -> bool {
        (stat.st_dev, stat.st_ino) == (self.device, self.inode)
    }
}

fn go(root: &Directory, visitor: &mut impl Visit) -> std::result::Result<(), Errno> {
    let top = resolve(root.as_fd(), Path::new("."), READ, Links::Refused, Mounts::Stay)?;
    let mut levels = vec![Level::new(top)?];
    while let Some(level) = levels.last_mut() {
        let Some(entries) = level.entries.as_mut() else { return Err(Errno::STALE) };
        let Some(entry) = entries.read() else {
            visitor.directory(entries.fd()?)?;
            leave(&mut levels)?;
            continue;
        };
        let entry = entry?;
        level.offset = entry.offset();
        if is_dots(entry.file_name()) {
            continue;
        }
        if let Some(opened) = step(entries.fd()?, entry.file_name(), entry.file_type(), visitor)? {
            levels.push(Level::new(opened)?);
            if let Some(far) = levels.len().checked_sub(OPEN_MAX + 1) {
                levels[far].entries = None;
            }
        }
    }
    Ok(())
}

/// Visits what is no directory, opens what is one.
fn step(
    at: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    visitor: &mut impl Visit,
) -> std::result::Result<Option<OwnedFd>, Errno> {
    if matches!(kind, FileType::Directory | FileType::Unknown) {
        let path = Path::new(OsStr::from_bytes(name.to_bytes()));
        match resolve(at, path, READ, Links::Refused, Mounts::Stay) {
            Ok(opened) => return Ok(Some(opened)),
            // Gone, or another mount, which is not part of this tree.
            Err(Errno::NOENT | Errno::XDEV) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    match visitor.entry(at, name) {
        Ok(()) | Err(Errno::NOENT | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Back to the directory above. One that was closed is found by `..`, which is no link and not to
/// be forged: either it is the directory that was there on the way down, or the walk ends.
fn leave(levels: &mut Vec<Level>) -> std::result::Result<(), Errno> {
    let Some(left) = levels.pop() else { return Ok(()) };
    let Some(above) = levels.last_mut().filter(|above| above.entries.is_none()) else { return Ok(()) };
    let below = left.entries.as_ref().ok_or(Errno::STALE)?;
    let found = openat(below.fd()?, "..", READ, Mode::empty())?;
    if !above.is(&fstat(&found)?) {
        return Err(Errno::STALE);
    }
    let mut entries = Dir::new(found)?;
    entries.seek(above.offset)?;
    above.entries = Some(entries);
    Ok(())
}
