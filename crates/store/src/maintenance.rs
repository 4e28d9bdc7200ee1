//! What is done to a store's file from outside: a backup while it is in use, a restore and a repair
//! while it is not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Contents, Counters, InDirectory, Medium, Unreadable};
use crate::embedded::{FILE, OpenError, lock};
use crate::frame::{self, Damage};
use crate::interface::Entry;

/// How far revisions are moved on when a file may not know the last of them: clients that saw later
/// ones are told that theirs are gone (410) and list again, instead of taking the past for the present.
const BUMP: u64 = 1_000_000;

/// The store's contents as a whole file of its own. The store may be in use meanwhile: what was
/// acknowledged before the call is in it, except for lazy writes that have not reached the disk.
///
/// # Errors
/// There is no store, or it is damaged.
pub fn backup(directory: &Path) -> Result<Vec<u8>, OpenError> {
    let path = directory.join(FILE);
    let contents = whole(&path, &read(&path)?)?;
    let mut image = Vec::new();
    let at = |err| OpenError::Directory { path, err };
    write(&contents.entries.into_iter().map(Arc::new).collect::<Vec<_>>(), contents.counters, &mut image)
        .map_err(at)?;
    Ok(image)
}

/// What a store's file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// How many keys.
    pub keys: usize,
    /// The last revision in it.
    pub revision: u64,
    /// The file's size.
    pub bytes: u64,
}

/// Reads a store's file as an open would, and changes nothing. The store may be in use meanwhile.
///
/// # Errors
/// There is no store, or it is damaged, foreign, or of a newer format.
pub fn inspect(directory: &Path) -> Result<Inspected, OpenError> {
    let path = directory.join(FILE);
    let bytes = read(&path)?;
    let contents = whole(&path, &bytes)?;
    let revision = contents.counters.revision;
    Ok(Inspected { keys: contents.entries.len(), revision, bytes: bytes.len() as u64 })
}

/// What a restore put in place.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// How many keys.
    pub keys: usize,
    /// The revision that the store goes on from.
    pub revision: u64,
}

/// Makes a store of what [`backup`] answered. `from` is where it was read, for messages.
///
/// # Errors
/// It is not whole, the directory has a store already, or somebody uses it.
pub fn restore(directory: &Path, from: &Path, image: &[u8]) -> Result<Restored, OpenError> {
    let contents = whole(from, image)?;
    let path = directory.join(FILE);
    let at = |err| OpenError::Directory { path: directory.to_owned(), err };
    fs::create_dir_all(directory).map_err(at)?;
    let _lock = lock(directory)?;
    if path.exists() {
        return Err(at(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let revision = contents.counters.revision.max(contents.counters.ceiling) + BUMP;
    let entries: Vec<_> = contents.entries.into_iter().map(Arc::new).collect();
    put_in_place(&path, &entries, revision).map_err(at)?;
    Ok(Restored { keys: entries.len(), revision })
}

/// What a repair kept and what it could not.
#[derive(Debug)]
pub struct Repaired {
    /// Keys that are there.
    pub kept: usize,
    /// What was not whole, in the order of the file.
    pub damage: Vec<Damaged>,
    /// Where the file as it was is kept.
    pub original: PathBuf,
}

/// A damaged part, and what became of the key in it.
#[derive(Debug)]
pub struct Damaged {
    /// The part.
    pub part: Damage,
    /// The revision the key has now, where it was written before and that value is whole.
    pub kept_revision: Option<u64>,
}

/// Writes the file anew from what is whole of it; `None` when it is whole. The file as it was stays.
///
/// # Errors
/// It is no store of ours, of a newer format, or in use.
pub fn repair(directory: &Path) -> Result<Option<Repaired>, OpenError> {
    let path = directory.join(FILE);
    let at = |err| OpenError::Directory { path: directory.to_owned(), err };
    let _lock = lock(directory)?;
    let mut bytes = read(&path)?;
    let header = bytes.get(..frame::HEADER) == Some(&frame::header()[..]);
    if frame::is_rotten_header(&bytes) {
        bytes[..frame::HEADER].copy_from_slice(&frame::header());
    }
    let (contents, scan) = disk::read(&bytes).map_err(|err| OpenError::of(&path, Unreadable::Header(err)))?;
    if header && scan.damage.is_empty() {
        return Ok(None);
    }
    let original = free_name(directory).map_err(at)?;
    fs::hard_link(&path, &original).map_err(at)?;
    let entries: Vec<_> = contents.entries.into_iter().map(Arc::new).collect();
    put_in_place(&path, &entries, contents.counters.revision.max(contents.counters.ceiling) + BUMP)
        .map_err(at)?;
    let damage = scan.damage.into_iter().map(|part| judge(part, &entries)).collect();
    Ok(Some(Repaired { kept: entries.len(), damage, original }))
}

fn judge(part: Damage, entries: &[Arc<Entry>]) -> Damaged {
    let key = part.key.as_ref().map(|(key, _)| key.as_str());
    let found = key.and_then(|key| entries.binary_search_by(|entry| (*entry.key).cmp(key)).ok());
    Damaged { kept_revision: found.map(|index| entries[index].revision), part }
}

fn free_name(directory: &Path) -> io::Result<PathBuf> {
    let names = (1..1_000).map(|number| directory.join(format!("{FILE}.damaged-{number}")));
    let mut free = names.filter(|name| !name.exists());
    free.next().ok_or_else(|| io::Error::other("there are a thousand damaged files already"))
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    fs::read(path).map_err(|err| OpenError::Directory { path: path.to_owned(), err })
}

fn whole(path: &Path, bytes: &[u8]) -> Result<Contents, OpenError> {
    let (contents, scan) = disk::read(bytes).map_err(|err| OpenError::of(path, Unreadable::Header(err)))?;
    if scan.damage.is_empty() {
        Ok(contents)
    } else {
        Err(OpenError::of(path, Unreadable::Damaged(scan.damage)))
    }
}

fn put_in_place(path: &Path, entries: &[Arc<Entry>], revision: u64) -> io::Result<()> {
    let mut medium = InDirectory::new(path.to_owned());
    medium.prepare(&mut |out| write(entries, Counters { revision, ceiling: revision }, out))?;
    medium.install()
}

fn write(entries: &[Arc<Entry>], counters: Counters, out: &mut dyn io::Write) -> io::Result<()> {
    disk::write_picture(entries, counters, true, out).map(drop)
}
