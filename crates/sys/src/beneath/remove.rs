//! Removes a tree, whatever its owner has made of it.
//!
//! Not by recursion and not by paths: one pass goes down to [`DEPTH_MAX`] open directories; what is
//! deeper is renamed up to the top of the removal, where a later pass meets it at depth one. So
//! neither the stack, nor memory, nor the number of open files depends on the tree, and what was
//! left when the process was killed is a tree to be removed again.

use std::ffi::{CStr, OsStr};
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, RenameFlags, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::{Directory, Links, Mounts, READ, is_dots, plain, resolve};
use crate::{Context, Error, Result};

/// So many directories of one branch are open at a time.
const DEPTH_MAX: usize = 32;
/// So many where the file system cannot rename a directory.
const DEPTH_UNMOVED_MAX: usize = 512;
/// A directory that somebody keeps filling is given up after so many readings.
const READINGS_MAX: u32 = 1000;
/// Passes over the top that have moved nothing up and still left something.
const IDLE_PASSES_MAX: u32 = 100;

/// Removes what is at a path, a directory with all below it. Nothing there is fine. Only the last
/// name may be somebody else's: the path to it is trusted.
///
/// Links are removed, never followed; what is mounted below is left as it is, and so is the way to
/// it, which is an error (`BUSY`) after all else was removed.
///
/// # Errors
/// The first thing that could not be removed. Doing it again goes on where it ended.
pub fn remove_tree(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("remove {}", path.display()), Errno::INVAL));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match Directory::open(parent) {
        Ok(parent) => parent.remove(name),
        Err(error) if error.errno == Errno::NOENT => Ok(()),
        Err(error) => Err(error),
    }
}

impl Directory {
    /// Removes what has that name in here, as [`remove_tree`] does.
    ///
    /// # Errors
    /// As [`remove_tree`].
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<()> {
        let name = plain(name.as_ref())?;
        let path = || self.path.join(name);
        let opened = match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno @ (Errno::ISDIR | Errno::PERM)) => {
                match self.lookup(name, READ, Links::Refused, Mounts::Stay) {
                    Err(Errno::NOTDIR | Errno::LOOP) => return Err(errno).on("remove", path()),
                    Err(Errno::NOENT) => return Ok(()),
                    // Something is mounted there.
                    Err(Errno::XDEV) => return Err(Errno::BUSY).on("remove", path()),
                    other => other.on("open", path())?,
                }
            }
            Err(errno) => return Err(errno).on("remove", path()),
        };
        Directory { fd: opened, path: path() }.empty()?;
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => other.on("remove", path()),
        }
    }

    /// Removes everything in here, as [`remove_tree`] does, and keeps the directory.
    ///
    /// # Errors
    /// As [`remove_tree`].
    pub fn empty(&self) -> Result<()> {
        let mut removal = Removal::new(self);
        let mut idle = 0;
        while idle < IDLE_PASSES_MAX {
            let pass = removal.pass()?;
            match pass.failure {
                // What else could be done was done: as long as something moves, more may go.
                Some(error) if pass.moved == 0 => return Err(error),
                None if pass.left + pass.moved == 0 => return Ok(()),
                _ => idle = if pass.moved == 0 { idle + 1 } else { 0 },
            }
        }
        Err(Errno::NOTEMPTY).on("remove", &self.path)
    }
}

struct Removal<'a> {
    top: &'a Directory,
    /// Names of what is moved up begin with it; nobody can have made them before.
    prefix: String,
    moves: u64,
}

/// One directory of the branch that is open.
struct Level {
    entries: Dir,
    name: Vec<u8>,
    readings: u32,
    /// Something went in this reading: there may be more that it did not show.
    progress: bool,
    /// Something in it stays.
    stuck: bool,
}

impl Level {
    fn new(fd: OwnedFd, name: &[u8]) -> std::result::Result<Self, Errno> {
        Ok(Level { entries: Dir::new(fd)?, name: name.to_vec(), readings: 0, progress: false, stuck: false })
    }

    fn fd(&self) -> std::result::Result<BorrowedFd<'_>, Errno> {
        self.entries.fd()
    }
}

/// What one pass over the top has done.
#[derive(Default)]
struct Pass {
    moved: u64,
    /// Directories that were not empty in the end though nothing failed in them.
    left: u64,
    failure: Option<Error>,
}

impl Pass {
    fn failed(&mut self, levels: &mut [Level], errno: Errno, path: impl FnOnce() -> PathBuf) {
        if let Some(level) = levels.last_mut() {
            level.stuck = true;
        }
        self.failure.get_or_insert_with(|| Error::new(format!("remove {}", path().display()), errno));
    }
}

impl<'a> Removal<'a> {
    fn new(top: &'a Directory) -> Self {
        // Its keys come from the kernel's randomness.
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Removal { top, prefix: format!(".removing-{random:016x}-"), moves: 0 }
    }

    fn pass(&mut self) -> Result<Pass> {
        let mut pass = Pass::default();
        let top = resolve(self.top.as_fd(), Path::new("."), READ, Links::Refused, Mounts::Stay);
        let top = top.and_then(|fd| Level::new(fd, b"")).on("open", &self.top.path)?;
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            match level.entries.read() {
                Some(Ok(entry)) if is_dots(entry.file_name()) => {}
                Some(Ok(entry)) => {
                    self.entry(&mut levels, entry.file_name(), entry.file_type(), &mut pass);
                }
                Some(Err(errno)) => {
                    let path = self.path(&levels, b"");
                    pass.failed(&mut levels, errno, || path);
                    self.leave(&mut levels, &mut pass);
                }
                None => self.leave(&mut levels, &mut pass),
            }
        }
        Ok(pass)
    }

    /// For messages.
    fn path(&self, levels: &[Level], name: &[u8]) -> PathBuf {
        let names = levels.iter().map(|level| level.name.as_slice()).chain([name]);
        let mut path = self.top.path.clone();
        path.extend(names.filter(|name| !name.is_empty()).map(OsStr::from_bytes));
        path
    }

    /// Removes one entry, or goes down into it.
    fn entry(&mut self, levels: &mut Vec<Level>, name: &CStr, kind: FileType, pass: &mut Pass) {
        // A directory that is gone down into changes when it is left.
        let here = levels.len() - 1;
        match self.try_entry(levels, name, kind, pass) {
            Ok(()) => levels[here].progress = true,
            Err(Errno::NOENT) => {}
            Err(errno) => {
                // What is mounted is not ours to go into.
                let errno = if errno == Errno::XDEV { Errno::BUSY } else { errno };
                let path = self.path(levels, name.to_bytes());
                pass.failed(levels, errno, || path);
            }
        }
    }

    fn try_entry(
        &mut self,
        levels: &mut Vec<Level>,
        name: &CStr,
        kind: FileType,
        pass: &mut Pass,
    ) -> std::result::Result<(), Errno> {
        let depth = levels.len();
        let Some(level) = levels.last() else { return Ok(()) };
        let at = level.fd()?;
        let mut refusal = None;
        if kind != FileType::Directory {
            match unlinkat(at, name, AtFlags::empty()) {
                Err(errno @ (Errno::ISDIR | Errno::PERM)) => refusal = Some(errno),
                other => return other,
            }
        }
        let path = Path::new(OsStr::from_bytes(name.to_bytes()));
        let opened = match resolve(at, path, READ, Links::Refused, Mounts::Stay) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return refusal.map_or_else(|| unlinkat(at, name, AtFlags::empty()), Err);
            }
            // No descriptor is left: up with it, as if it were too deep.
            Err(Errno::MFILE | Errno::NFILE) if depth > 1 => return self.move_up(at, name, pass),
            other => other?,
        };
        if depth >= DEPTH_MAX {
            match self.move_up(at, name, pass) {
                Err(_) if depth < DEPTH_UNMOVED_MAX => {}
                other => return other,
            }
        }
        levels.push(Level::new(opened, name.to_bytes())?);
        Ok(())
    }

    fn move_up(
        &mut self,
        at: BorrowedFd<'_>,
        name: &CStr,
        pass: &mut Pass,
    ) -> std::result::Result<(), Errno> {
        self.moves += 1;
        let fresh = format!("{}{}", self.prefix, self.moves);
        match renameat_with(at, name, &self.top.fd, fresh.as_str(), RenameFlags::NOREPLACE) {
            // Some file systems have no such flag; nothing has that name.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(at, name, &self.top.fd, fresh.as_str())?,
            other => other?,
        }
        pass.moved += 1;
        Ok(())
    }

    /// The directory was read to its end: it goes, or is read again when more came to light.
    fn leave(&self, levels: &mut Vec<Level>, pass: &mut Pass) {
        let [.., parent, level] = levels.as_mut_slice() else {
            if let Some(top) = levels.pop() {
                pass.left += u64::from(top.progress);
            }
            return;
        };
        let removed =
            parent.fd().and_then(|at| unlinkat(at, OsStr::from_bytes(&level.name), AtFlags::REMOVEDIR));
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.stuck => parent.stuck = true,
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.progress && level.readings < READINGS_MAX => {
                (level.progress, level.readings) = (false, level.readings + 1);
                level.entries.rewind();
                return;
            }
            // Somebody fills it, or something else has its name by now: the next pass sees.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => pass.left += 1,
            Err(errno) => {
                let path = self.path(levels, b"");
                levels.pop();
                return pass.failed(levels, errno, || path);
            }
        }
        levels.pop();
    }
}
