//! Container logs in the format of the Container Runtime Interface, with rotation.
//!
//! ```text
//! 2026-11-21T09:00:00.000000001Z stdout F a whole line
//! 2026-11-21T09:00:00.000000002Z stdout P the first 16 KiB of a longer line
//! 2026-11-21T09:00:00.000000002Z stdout F and its rest
//! ```
//!
//! Writing never stops the container: what a full disk does not take is dropped, and the log goes
//! on where the disk does.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::clock::{Rfc3339, Stamp};
use crate::protocol::{LogSpec, Nanoseconds};

/// Longest piece of a line in one record (containerd's).
pub(crate) const PIECE_MAX: usize = 16 << 10;

/// Records are gathered up to this much before a write.
const BATCH: usize = 32 << 10;

/// Which stream a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// Cuts a stream's bytes into records.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The begin of a line whose end has not come; shorter than [`PIECE_MAX`].
    rest: Vec<u8>,
}

impl Lines {
    /// Calls `record` with each piece and whether it ends its line.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut record: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = PIECE_MAX - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.emit(&window[..end], true, &mut record);
                    bytes = &bytes[end + 1..];
                }
                // A newline right behind a full piece would be an empty record of its own; so
                // would containerd's.
                None if window.len() == room => {
                    self.emit(window, false, &mut record);
                    bytes = &bytes[room..];
                }
                None => {
                    self.rest.extend_from_slice(window);
                    return;
                }
            }
        }
    }

    /// The stream has ended: a last line without end is a part of one, as containerd writes it, so
    /// that readers add no newline that the program has not written.
    pub(crate) fn finish(&mut self, record: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            self.emit(&[], false, record);
        }
    }

    fn emit(&mut self, tail: &[u8], full: bool, mut record: impl FnMut(&[u8], bool)) {
        if self.rest.is_empty() {
            return record(tail, full);
        }
        self.rest.extend_from_slice(tail);
        record(&self.rest, full);
        // Gives the memory back: most programs write whole lines.
        self.rest = Vec::new();
    }
}

/// A container's log file.
#[derive(Debug)]
pub(crate) struct Log {
    spec: LogSpec,
    file: Option<File>,
    size: u64,
    /// The last write was cut short: the next must begin with a line end.
    torn: bool,
    batch: Vec<u8>,
}

impl Log {
    /// Opens the file, at its end if it is there.
    pub(crate) fn open(spec: LogSpec) -> io::Result<Self> {
        if let Some(directory) = spec.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut log = Log { spec, file: None, size: 0, torn: false, batch: Vec::new() };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the path anew: the file was renamed by somebody else.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.flush();
        let file = open_append(&self.spec.path)?;
        self.size = file.metadata()?.len();
        self.torn = false;
        self.file = Some(file);
        Ok(())
    }

    /// Adds a record; it reaches the file at the next [`Log::flush`] at the latest.
    pub(crate) fn record(&mut self, time: Nanoseconds, stream: Stream, piece: &[u8], full: bool) {
        let tag = if full { 'F' } else { 'P' };
        // Writing to memory cannot fail.
        let _ = write!(self.batch, "{} {stream} {tag} ", Rfc3339(time));
        self.batch.extend_from_slice(piece);
        self.batch.push(b'\n');
        let limit = self.spec.max_bytes;
        let grown = self.size + self.batch.len() as u64;
        if self.batch.len() >= BATCH || (limit > 0 && grown >= limit) {
            self.flush();
            if limit > 0 && self.size >= limit {
                self.rotate(time);
            }
        }
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return;
        }
        if self.torn && self.write(b"\n") {
            self.torn = false;
        }
        if !self.torn {
            self.write(&batch);
        }
    }

    /// True if all of it was taken.
    fn write(&mut self, mut bytes: &[u8]) -> bool {
        let Some(file) = &mut self.file else { return false };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(taken) if taken > 0 => {
                    self.size += taken as u64;
                    bytes = &bytes[taken..];
                    self.torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A full or broken disk: the rest is lost, the container goes on.
                _ => return false,
            }
        }
        true
    }

    /// Puts the file aside under a name with the time, and removes the oldest such.
    fn rotate(&mut self, time: Nanoseconds) {
        let old = self.name_aside(time);
        if fs::rename(&self.spec.path, &old).is_err() {
            return;
        }
        match open_append(&self.spec.path) {
            Ok(file) => (self.file, self.size) = (Some(file), 0),
            // Goes on in the renamed file until a new one can be made.
            Err(_) => drop(fs::rename(&old, &self.spec.path)),
        }
        self.prune();
    }

    /// `<log>.<time>`; when the last one is of this second or later (a busy second, a clock set
    /// back), the second behind it: the order of names must be the order of files.
    fn name_aside(&self, mut time: Nanoseconds) -> PathBuf {
        let last = rotated(&self.spec.path).into_iter().max();
        loop {
            let mut name = self.spec.path.clone().into_os_string();
            name.push(format!(".{}", Stamp(time)));
            let path = PathBuf::from(name);
            if last.as_ref().is_none_or(|last| path > *last) {
                return path;
            }
            time += 1_000_000_000;
        }
    }

    fn prune(&self) {
        let keep = (self.spec.max_files.max(1) - 1) as usize;
        let mut old = rotated(&self.spec.path);
        old.sort();
        let surplus = old.len().saturating_sub(keep);
        for path in &old[..surplus] {
            let _ = fs::remove_file(path);
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // As the kubelet and containerd: readable by the group of log collectors.
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// Files beside the log that its rotation has put aside.
fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let ours = |entry: &fs::DirEntry| {
        let file = entry.file_name();
        let stamp = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        stamp.is_some_and(|stamp| stamp.len() >= 15 && stamp.as_bytes()[0].is_ascii_digit())
    };
    entries.flatten().filter(ours).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(chunks: &[&[u8]]) -> Vec<(usize, bool)> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |piece, full| seen.push((piece.len(), full)));
        }
        lines.finish(|piece, full| seen.push((piece.len(), full)));
        seen
    }

    #[test]
    fn lines_are_put_together_from_reads() {
        assert_eq!(pieces(&[b"ab", b"c\nd\n\nlast"]), [(3, true), (1, true), (0, true), (4, false)]);
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let long = vec![b'x'; PIECE_MAX * 2 + 5];
        assert_eq!(pieces(&[&long, b"\n"]), [(PIECE_MAX, false), (PIECE_MAX, false), (5, true)]);
        assert_eq!(pieces(&[&long[..10], &long[..PIECE_MAX]]), [(PIECE_MAX, false), (10, false)]);
    }

    fn small_log(directory: &Path) -> Log {
        let path = directory.join("c/0.log");
        Log::open(LogSpec { path, max_bytes: 200, max_files: 3 }).unwrap()
    }

    #[test]
    fn a_record_is_one_line_of_the_cri_format() {
        let home = tempfile::tempdir().unwrap();
        let mut log = small_log(home.path());
        log.record(1, Stream::Stderr, b"hello", true);
        log.flush();
        let text = fs::read_to_string(home.path().join("c/0.log")).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000000001Z stderr F hello\n");
    }

    #[test]
    fn a_full_log_is_put_aside_and_the_oldest_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let mut log = small_log(home.path());
        for round in 0..10_u64 {
            // Two in each second.
            log.record((60 + round) / 2 * 2_000_000_000, Stream::Stdout, &[b'x'; 200], true);
        }
        log.record(11, Stream::Stdout, b"now", true);
        log.flush();
        let mut names: Vec<_> = fs::read_dir(home.path().join("c"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.19700101-000108", "0.log.19700101-000109"]);
        assert!(fs::read_to_string(home.path().join("c/0.log")).unwrap().ends_with("F now\n"));
    }

    #[test]
    fn a_full_disk_loses_lines_but_tears_none() {
        let home = tempfile::tempdir().unwrap();
        let mut log = small_log(home.path());
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.record(1, Stream::Stdout, b"lost", true);
        log.flush();
        log.torn = true;
        log.reopen().unwrap();
        log.torn = true;
        log.record(2, Stream::Stdout, b"kept", true);
        log.flush();
        let text = fs::read_to_string(home.path().join("c/0.log")).unwrap();
        assert_eq!(text, "\n1970-01-01T00:00:00.000000002Z stdout F kept\n");
    }
}
