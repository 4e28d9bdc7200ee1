//! Reads a tar entry by entry without letting it choose how much memory that takes.
//!
//! The reader of the tar crate keeps long names, PAX records and maps of sparse files whole, as
//! long as their headers say they are. It cannot be told a limit; but all of that is read while
//! the next entry is looked for, and then the source lets only so much through.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, Entry};

/// What describes one entry: Go's reader, which all other tools here use, takes 1 MiB too.
const DESCRIPTION_MAX: u64 = 1 << 20;

/// The source, with what may still be read of it.
pub(super) struct Gate<R> {
    source: R,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Gate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.left.get() else { return self.source.read(buffer) };
        if left == 0 && !buffer.is_empty() {
            let reason = format!("headers of an entry are longer than {DESCRIPTION_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.source.read(&mut buffer[..length])?;
        self.left.set(Some(left - read as u64));
        Ok(read)
    }
}

/// Calls `visit` with each entry; what it leaves unread of one is passed over. `broken` makes an
/// error of what is wrong with the archive at the entry of that number.
pub(super) fn for_each<R: Read, E>(
    source: R,
    broken: impl Fn(usize, io::Error) -> E,
    mut visit: impl FnMut(&mut Entry<'_, Gate<R>>) -> Result<(), E>,
) -> Result<(), E> {
    let left = Rc::new(Cell::new(None));
    let mut archive = Archive::new(Gate { source, left: left.clone() });
    let mut entries = archive.entries().map_err(|error| broken(0, error))?;
    for number in 0.. {
        left.set(Some(DESCRIPTION_MAX));
        let next = entries.next();
        left.set(None);
        let Some(entry) = next else { break };
        let mut entry = entry.map_err(|error| broken(number, error))?;
        visit(&mut entry)?;
        // Else the look for the next one would have to go over it.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| broken(number, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry that describes the one behind it, as long as asked.
    fn described(kind: tar::EntryType, length: u64) -> impl Read {
        let mut header = tar::Header::new_gnu();
        header.set_path("description").unwrap();
        header.set_entry_type(kind);
        header.set_size(length);
        header.set_cksum();
        let body = io::repeat(b'x').take(length.next_multiple_of(512));
        let mut last = tar::Header::new_gnu();
        last.set_path("file").unwrap();
        last.set_size(0);
        last.set_cksum();
        let last = io::Cursor::new([last.as_bytes().as_slice(), &[0; 1024]].concat());
        io::Cursor::new(header.as_bytes().to_vec()).chain(body).chain(last)
    }

    fn read(source: impl Read) -> Result<usize, String> {
        let mut count = 0;
        for_each(
            source,
            |_, error| error.to_string(),
            |_| {
                count += 1;
                Ok(())
            },
        )?;
        Ok(count)
    }

    #[test]
    fn descriptions_are_taken_up_to_a_length_and_never_read_beyond() {
        let kinds = [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader];
        for kind in kinds {
            assert_eq!(read(described(kind, 100_000)), Ok(1), "{kind:?}");
            let error = read(described(kind, 1 << 40)).unwrap_err();
            assert!(error.contains("longer than 1048576 bytes"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn a_body_that_nobody_reads_may_have_any_length() {
        assert_eq!(read(described(tar::EntryType::Regular, 5 << 20)), Ok(2));
        assert_eq!(read(described(tar::EntryType::XGlobalHeader, 5 << 20)), Ok(2));
    }
}
