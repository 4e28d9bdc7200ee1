//! The file: a picture of every key, then a log of what was written since, one `fdatasync` a commit.
//!
//! Reads never touch it, so it needs no index: it is read once, at open. When the log has outgrown the
//! picture, the file is written anew from memory and put in place by a rename, which is also the only
//! way on after a failed sync: the kernel marks the pages of one as clean whether they reached the disk
//! or not (fsync(2)), so a file that failed once is never trusted again, whatever it says later.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::frame::{self, Frame, HeaderError, Kind, Scan, Writer};
use crate::interface::{Entry, Error, EventKind};

/// Log that is kept whatever the size of the picture.
const LOG_MIN: u64 = 8 << 20;
/// What is written at once when the file is written anew.
const CHUNK: usize = 256 << 10;

/// Where the file is. A trait so that tests can put a disk underneath that loses, tears or refuses writes.
pub(crate) trait Medium: Send + 'static {
    /// The whole file, or `None` when there is none yet.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// Writes at the end of the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to a length, durably.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Writes another file beside this one, durably. After an error this one is as it was.
    fn prepare(&mut self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()>;
    /// Puts the other file in the place of this one, durably. After an error it is one or the other.
    fn install(&mut self) -> io::Result<()>;
}

/// The medium of a real directory.
#[derive(Debug)]
pub(crate) struct InDirectory {
    path: PathBuf,
    file: Option<File>,
    prepared: Option<File>,
}

impl InDirectory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, prepared: None }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Medium for InDirectory {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut file = match OpenOptions::new().read(true).append(true).open(&self.path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0));
        file.read_to_end(&mut bytes)?;
        self.file = Some(file);
        Ok(Some(bytes))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let file = self.file()?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn prepare(&mut self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // What an earlier try left behind is of no use to anybody.
        let _ = fs::remove_file(&new);
        let mut file = options.append(true).create_new(true).open(&new)?;
        write(&mut file).and_then(|()| file.sync_all()).inspect_err(|_| {
            // Its blocks may be what is missing.
            let _ = fs::remove_file(&new);
        })?;
        self.prepared = Some(file);
        Ok(())
    }

    fn install(&mut self) -> io::Result<()> {
        fs::rename(self.path.with_extension("new"), &self.path)?;
        self.file = self.prepared.take();
        let directory = self.path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        File::open(directory)?.sync_all()
    }
}

/// A row as the next commit will write it: the entry, or its removal at the entry's revision.
pub(crate) type Row = (EventKind, Arc<Entry>);

/// The counters that are kept beside the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) revision: u64,
    pub(crate) ceiling: u64,
}

/// Why a file could not be opened.
#[derive(Debug)]
pub(crate) enum Unreadable {
    Io(io::Error),
    Header(HeaderError),
    Damaged(Vec<frame::Damage>),
}

impl From<io::Error> for Unreadable {
    fn from(err: io::Error) -> Self {
        Unreadable::Io(err)
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) counters: Counters,
    pub(crate) entries: Vec<Entry>,
}

/// Reads a file's bytes: what is whole of it, and what the pass over it found.
pub(crate) fn read(bytes: &[u8]) -> Result<(Contents, Scan), HeaderError> {
    let mut latest: HashMap<&str, Frame<'_>> = HashMap::new();
    let mut counters = Counters::default();
    let scan = frame::scan(bytes, |frame| {
        match frame.kind {
            Kind::Put => drop(latest.insert(frame.key, frame)),
            Kind::Remove => drop(latest.remove(frame.key)),
            Kind::Ceiling | Kind::Closed => return counters.ceiling = frame.revision,
            Kind::Sealed => {}
        }
        counters.revision = counters.revision.max(frame.revision);
    })?;
    let entry = |(key, frame): (&str, Frame<'_>)| {
        let value = Bytes::copy_from_slice(frame.value);
        Entry::new(Arc::from(key), value, frame.create_revision, frame.revision)
    };
    let mut entries: Vec<_> = latest.into_iter().map(entry).collect();
    entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok((Contents { counters, entries }, scan))
}

/// Writes a whole file: the picture, its seal, and whether it was closed in order.
pub(crate) fn write_picture(
    entries: &[Arc<Entry>],
    counters: Counters,
    closed: bool,
    out: &mut dyn Write,
) -> io::Result<(Writer, u64)> {
    let (mut writer, mut length) = (Writer::default(), 0);
    let mut chunk = frame::header().to_vec();
    let mut flush = |chunk: &mut Vec<u8>| {
        length += chunk.len() as u64;
        out.write_all(chunk).map(|()| chunk.clear())
    };
    for entry in entries {
        writer.push(&mut chunk, put(entry), false);
        if chunk.len() >= CHUNK {
            flush(&mut chunk)?;
        }
    }
    let sealed =
        Frame { create_revision: entries.len() as u64, ..Frame::note(Kind::Sealed, counters.revision) };
    writer.push(&mut chunk, sealed, false);
    let last = if closed { Kind::Closed } else { Kind::Ceiling };
    writer.push(&mut chunk, Frame::note(last, counters.ceiling), true);
    flush(&mut chunk)?;
    Ok((writer, length))
}

fn put(entry: &Entry) -> Frame<'_> {
    Frame {
        kind: Kind::Put,
        key: &entry.key,
        value: &entry.value,
        create_revision: entry.create_revision,
        revision: entry.revision,
    }
}

pub(crate) struct Disk {
    medium: Box<dyn Medium>,
    writer: Writer,
    /// Up to here everything was acknowledged.
    length: u64,
    /// What the file had when it was last written anew.
    picture: u64,
    ceiling: u64,
    /// Nothing failed since the file was written.
    trusted: bool,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("length", &self.length)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the file, or makes an empty one. One that was not closed in order is written anew: its
    /// last pages may stand in memory only, and whoever wrote them may have been told that they failed.
    pub(crate) fn open(mut medium: Box<dyn Medium>) -> Result<(Self, Contents), Unreadable> {
        let bytes = medium.read()?;
        let Some(bytes) = bytes else {
            let mut disk = Self::untrusted(medium);
            disk.rewrite(&[], Counters::default())?;
            return Ok((disk, Contents::default()));
        };
        let (contents, scan) = read(&bytes).map_err(Unreadable::Header)?;
        if !scan.damage.is_empty() {
            return Err(Unreadable::Damaged(scan.damage));
        }
        let mut disk = Self::untrusted(medium);
        if scan.closed && scan.end == bytes.len() {
            disk.writer = Writer::after(scan.next_sequence);
            (disk.length, disk.picture) = (bytes.len() as u64, bytes.len() as u64);
            (disk.ceiling, disk.trusted) = (contents.counters.ceiling, true);
            return Ok((disk, contents));
        }
        drop(bytes);
        let entries: Vec<_> = contents.entries.into_iter().map(Arc::new).collect();
        disk.rewrite(&entries, contents.counters)?;
        let entries = entries.into_iter().filter_map(Arc::into_inner).collect();
        Ok((disk, Contents { entries, ..contents }))
    }

    fn untrusted(medium: Box<dyn Medium>) -> Self {
        Self { medium, writer: Writer::default(), length: 0, picture: 0, ceiling: 0, trusted: false }
    }

    /// Whether commits may be tried; otherwise the file has to be written anew first.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether the file holds so much of the past that it should be written anew.
    pub(crate) fn is_outgrown(&self) -> bool {
        self.length > LOG_MIN + 2 * self.picture
    }

    /// Writes the rows durably. After an error they count as not written.
    pub(crate) fn commit<'a>(&mut self, rows: impl Iterator<Item = &'a Row>, ceiling: u64) -> io::Result<()> {
        let (mut bytes, mut writer) = (Vec::new(), self.writer);
        let mut begins = true;
        if ceiling != self.ceiling {
            writer.push(&mut bytes, Frame::note(Kind::Ceiling, ceiling), true);
            begins = false;
        }
        for (kind, entry) in rows {
            let frame = match kind {
                EventKind::Put => put(entry),
                EventKind::Delete => Frame { key: &entry.key, ..Frame::note(Kind::Remove, entry.revision) },
            };
            writer.push(&mut bytes, frame, std::mem::take(&mut begins));
        }
        self.append(&bytes)?;
        (self.writer, self.ceiling) = (writer, ceiling);
        Ok(())
    }

    /// Says that the next open need not look at what came before.
    pub(crate) fn close(&mut self, revision: u64) -> io::Result<()> {
        let (mut bytes, mut writer) = (Vec::new(), self.writer);
        writer.push(&mut bytes, Frame::note(Kind::Closed, revision), true);
        self.append(&bytes)?;
        (self.writer, self.ceiling) = (writer, revision);
        Ok(())
    }

    /// Whether so many bytes can be written, found out by writing and taking them back.
    pub(crate) fn probe(&mut self, bytes: usize) -> io::Result<()> {
        let length = self.length;
        let tried = self.append(&vec![0; bytes]);
        self.length = length;
        tried.and_then(|()| self.take_back())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.trusted {
            return Err(io::Error::other("the file failed before"));
        }
        if let Err(err) = self.medium.append(bytes) {
            // Nothing of it was acknowledged, and nothing that was is touched by taking it back.
            let _ = self.take_back();
            return Err(err);
        }
        self.medium.sync().inspect_err(|_| self.trusted = false)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<()> {
        let cut = self.medium.cut(self.length);
        cut.inspect_err(|_| self.trusted = false)
    }

    /// Writes the file anew from memory.
    pub(crate) fn rewrite(&mut self, entries: &[Arc<Entry>], counters: Counters) -> io::Result<()> {
        let mut done = (Writer::default(), 0);
        let write = &mut |out: &mut dyn Write| {
            done = write_picture(entries, counters, false, out)?;
            Ok(())
        };
        self.medium.prepare(write).inspect_err(|_| {
            // The old file is as good as it was; it may grow as much again before the next try.
            self.picture = self.length;
        })?;
        self.medium.install().inspect_err(|_| self.trusted = false)?;
        (self.writer, self.length) = done;
        (self.picture, self.ceiling, self.trusted) = (self.length, counters.ceiling, true);
        Ok(())
    }
}

/// What a caller of the store is told about a failure of the disk.
pub(crate) fn explain(err: io::Error) -> Error {
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::Full
        }
        _ => Error::Disk(Arc::new(err)),
    }
}
