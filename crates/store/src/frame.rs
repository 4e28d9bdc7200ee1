//! The format of the store's file: a header, then frames, each with its own checksums.
//!
//! ```text
//! header   "MONOPOD\n" | version u32 | crc32 of both
//! frame    magic u16 | kind u8 | flags u8 | key length u32 | value length u32
//!          | sequence u64 | create revision u64 | revision u64 | crc32 of the key | crc32 of the head
//!          | key | value | crc32 of the value
//! ```
//!
//! All numbers are little endian. The file begins with a picture of every key, closed by a
//! [`Kind::Sealed`] frame; what follows is the log. Head, key and value have a checksum each, so that
//! of a rotten value the key is still known, and each frame has the number after the one before it, so
//! that a part that went missing is noticed also where what is left looks whole.
//!
//! Pure functions of bytes: what is read and written is [`crate::disk`]'s business.

use std::ops::Range;

/// What every file begins with.
const MAGIC: [u8; 8] = *b"MONOPOD\n";
/// The version of the format that is written, and the newest that is read.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the header.
pub(crate) const HEADER: usize = 16;
/// What every frame begins with.
const FRAME_MAGIC: u16 = 0xf5a7;
/// Bytes of a frame before its key.
const HEAD: usize = 44;
/// Bytes of the head that its checksum covers.
const CHECKED: usize = HEAD - 4;
/// Set on the first frame of each commit.
const BEGINS_COMMIT: u8 = 1;
/// What a disk writes whole. A part of a commit that never reached it is zeros in units of this,
/// which is how etcd's log tells a torn tail from rot, too.
const SECTOR: usize = 512;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key has this value.
    Put,
    /// The key is gone.
    Remove,
    /// Revisions up to this one may have been given out.
    Ceiling,
    /// The picture ends here; the create revision is the number of its keys.
    Sealed,
    /// The store was closed in order. Counts only as the last frame.
    Closed,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Put, Kind::Remove, Kind::Ceiling, Kind::Sealed, Kind::Closed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame, borrowed from the file or on its way into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a str,
    pub(crate) value: &'a [u8],
    pub(crate) create_revision: u64,
    pub(crate) revision: u64,
}

impl Frame<'_> {
    /// A frame that has a revision only.
    pub(crate) fn note(kind: Kind, revision: u64) -> Self {
        Frame { kind, key: "", value: &[], create_revision: 0, revision }
    }
}

/// Writes frames one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Writer {
    /// The number of the next frame.
    sequence: u64,
}

impl Writer {
    /// Goes on after a scan.
    pub(crate) fn after(sequence: u64) -> Self {
        Writer { sequence }
    }

    /// Appends a frame; `begins`: it is the first of a commit.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, frame: Frame<'_>, begins: bool) {
        let start = out.len();
        let (key_length, value_length) = (frame.key.len() as u32, frame.value.len() as u32);
        out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
        out.extend_from_slice(&[frame.kind as u8, if begins { BEGINS_COMMIT } else { 0 }]);
        out.extend_from_slice(&key_length.to_le_bytes());
        out.extend_from_slice(&value_length.to_le_bytes());
        for number in [self.sequence, frame.create_revision, frame.revision] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(frame.key.as_bytes()).to_le_bytes());
        let check = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(frame.key.as_bytes());
        out.extend_from_slice(frame.value);
        out.extend_from_slice(&value_check(frame.value).to_le_bytes());
        self.sequence += 1;
    }
}

/// The beginning of a file.
pub(crate) fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let check = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&check.to_le_bytes());
    header
}

/// Why a file is not one of ours, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too short, or something else altogether.
    #[error("it does not begin as a store of monopod does")]
    Foreign,
    /// A newer program wrote it.
    #[error("a newer monopod wrote it (format {found}, this one knows {VERSION})")]
    Newer {
        /// The version in the header.
        found: u32,
    },
    /// Ours once.
    #[error("its header is damaged")]
    Damaged,
}

fn check_header(bytes: &[u8]) -> Result<(), HeaderError> {
    let header = bytes.get(..HEADER).ok_or(HeaderError::Foreign)?;
    if header[..8] != MAGIC {
        return Err(HeaderError::Foreign);
    }
    if number32(&header[12..]) != crc32fast::hash(&header[..12]) {
        return Err(HeaderError::Damaged);
    }
    match number32(&header[8..]) {
        0..=VERSION => Ok(()),
        found => Err(HeaderError::Newer { found }),
    }
}

/// Whether the file begins as ours do, with something wrong in the few bytes after that.
pub(crate) fn is_rotten_header(bytes: &[u8]) -> bool {
    check_header(bytes) == Err(HeaderError::Damaged)
}

/// A part of the file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where, in bytes from the beginning of the file.
    pub bytes: Range<u64>,
    /// The key and revision whose value is rotten, where that much can still be read.
    pub key: Option<(String, u64)>,
}

/// What a pass over a file found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// In the order of the file; none of them torn.
    pub(crate) damage: Vec<Damage>,
    /// Where the whole part ends: what comes after it was never acknowledged.
    pub(crate) end: usize,
    /// The number the next frame has.
    pub(crate) next_sequence: u64,
    /// The last whole frame says that the store was closed in order, and nothing follows it.
    pub(crate) closed: bool,
}

/// Reads a file and hands over each whole frame, in order.
pub(crate) fn scan<'a>(bytes: &'a [u8], mut each: impl FnMut(Frame<'a>)) -> Result<Scan, HeaderError> {
    check_header(bytes)?;
    let mut found = Scan { end: HEADER, ..Scan::default() };
    let mut sealed = false;
    while found.end < bytes.len() {
        let at = found.end;
        match parse(bytes, at) {
            Ok(whole) if whole.sequence >= found.next_sequence => {
                // Whole, but not the one that belongs here: those in between are missing.
                if whole.sequence > found.next_sequence {
                    found.damage.push(Damage { bytes: at as u64..at as u64, key: None });
                }
                sealed |= whole.frame.kind == Kind::Sealed;
                found.closed = whole.frame.kind == Kind::Closed;
                each(whole.frame);
                (found.end, found.next_sequence) = (whole.end, whole.sequence + 1);
            }
            // Of an earlier time, and not to be believed here.
            Ok(whole) => found.skip(Damage { bytes: at as u64..whole.end as u64, key: None }, None),
            Err(broken) => {
                let end = broken.end.unwrap_or_else(|| next_head(bytes, at + 1));
                if sealed && is_torn(bytes, at..end, broken.cut_off) {
                    break;
                }
                let sequence = broken.sequence.map(|sequence| sequence + 1);
                let sequence = sequence.or_else(|| head(bytes, end).map(|head| head.sequence));
                found.skip(Damage { bytes: at as u64..end as u64, key: broken.key }, sequence);
            }
        }
    }
    if !sealed {
        // A file is put in place whole, so one without its seal was cut later.
        found.damage.push(Damage { bytes: found.end as u64..bytes.len() as u64, key: None });
    }
    Ok(found)
}

impl Scan {
    /// Goes on behind a damaged part; `sequence` of the next frame, where it is known.
    fn skip(&mut self, damage: Damage, sequence: Option<u64>) {
        self.closed = false;
        self.end = damage.bytes.end as usize;
        self.next_sequence = sequence.unwrap_or(self.next_sequence).max(self.next_sequence);
        self.damage.push(damage);
    }
}

/// A head that checks.
struct Head {
    kind: Kind,
    begins: bool,
    key_length: usize,
    value_length: usize,
    sequence: u64,
    create_revision: u64,
    revision: u64,
    key_check: u32,
}

fn head(bytes: &[u8], at: usize) -> Option<Head> {
    let head = bytes.get(at..)?.get(..HEAD)?;
    if head[..2] != FRAME_MAGIC.to_le_bytes()
        || crc32fast::hash(&head[..CHECKED]) != number32(&head[CHECKED..])
    {
        return None;
    }
    let (key_length, value_length) = (number32(&head[4..]) as usize, number32(&head[8..]) as usize);
    Some(Head {
        kind: Kind::from_byte(head[2])?,
        begins: head[3] & BEGINS_COMMIT != 0,
        key_length,
        value_length,
        sequence: number64(&head[12..]),
        create_revision: number64(&head[20..]),
        revision: number64(&head[28..]),
        key_check: number32(&head[36..]),
    })
}

struct Whole<'a> {
    frame: Frame<'a>,
    sequence: u64,
    end: usize,
}

/// A frame that does not check, with what its head says if that does.
#[derive(Default)]
struct Broken {
    key: Option<(String, u64)>,
    sequence: Option<u64>,
    end: Option<usize>,
    /// The file ends before the frame does.
    cut_off: bool,
}

fn parse(bytes: &[u8], at: usize) -> Result<Whole<'_>, Broken> {
    let cut_off = bytes.len() - at < HEAD;
    let head = head(bytes, at).ok_or(Broken { cut_off, ..Broken::default() })?;
    let key_at = at + HEAD;
    let value_at = key_at + head.key_length;
    let end = value_at + head.value_length + 4;
    let key = bytes.get(key_at..value_at).filter(|key| crc32fast::hash(key) == head.key_check);
    let key = key.and_then(|key| std::str::from_utf8(key).ok());
    let checked = bytes.get(value_at..end).map(|rest| rest.split_at(head.value_length));
    match (key, checked) {
        (Some(key), Some((value, check))) if value_check(value) == number32(check) => {
            let (kind, create_revision, revision) = (head.kind, head.create_revision, head.revision);
            Ok(Whole {
                frame: Frame { kind, key, value, create_revision, revision },
                sequence: head.sequence,
                end,
            })
        }
        _ => Err(Broken {
            key: key.map(|key| (key.to_owned(), head.revision)),
            sequence: Some(head.sequence),
            end: Some(end.min(bytes.len())),
            cut_off: end > bytes.len(),
        }),
    }
}

/// Where the next frame with a head that checks begins, or the end.
fn next_head(bytes: &[u8], from: usize) -> usize {
    let magic = FRAME_MAGIC.to_le_bytes();
    let mut at = from;
    while let Some(offset) = bytes.get(at..).and_then(|rest| rest.windows(2).position(|two| two == magic)) {
        at += offset;
        if head(bytes, at).is_some() {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

/// Whether a broken frame is of a commit that never became durable: no later commit begins after it,
/// and it is cut off or has a sector that was never written.
fn is_torn(bytes: &[u8], broken: Range<usize>, cut_off: bool) -> bool {
    let mut next = broken.end;
    while next < bytes.len() {
        match head(bytes, next) {
            Some(head) if head.begins => return false,
            Some(head) => next = next.saturating_add(HEAD + head.key_length + head.value_length + 4),
            None => next = next_head(bytes, next + 1),
        }
    }
    cut_off || has_unwritten_sector(bytes, broken)
}

fn has_unwritten_sector(bytes: &[u8], range: Range<usize>) -> bool {
    let mut from = range.start;
    while from < range.end {
        let to = ((from / SECTOR + 1) * SECTOR).min(range.end);
        if bytes[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

/// Inverted, so that the check of an empty value is not zero: zeros stand for what was never written.
fn value_check(value: &[u8]) -> u32 {
    !crc32fast::hash(value)
}

fn number32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn number64(bytes: &[u8]) -> u64 {
    u64::from(number32(bytes)) | u64::from(number32(&bytes[4..])) << 32
}
