//! Bodies made of pieces, most of which are kept beside stored objects, plain and compressed.
//!
//! ```text
//! fresh ─ kept ─ fresh ─ kept ─ …       plain: one after another
//!                                       gzip:  stored block ─ kept deflated blocks ─ stored block ─ …
//! ```
//!
//! A list of a thousand objects is mostly the same bytes as the list before. DEFLATE (RFC 1951) lets blocks
//! that end at a whole byte stand in any order, so each object is compressed once a revision, by itself,
//! and an answer only strings the blocks together; what is new in it is little and goes in uncompressed.

use std::sync::OnceLock;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};

/// A piece as whole blocks of DEFLATE, ended at a byte and none of them the last.
pub(crate) type Packed = Box<[u8]>;

/// The gzip header (RFC 1952): deflate, no name, no time, any system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty stored block that says it is the last.
const END: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// A body on its way.
#[derive(Debug, Default)]
pub(crate) struct Pieces<'a> {
    fresh: Vec<u8>,
    kept: Vec<Kept<'a>>,
    kept_len: usize,
}

#[derive(Debug)]
struct Kept<'a> {
    /// How much of what is fresh comes before it.
    after: usize,
    plain: &'a [u8],
    packed: &'a OnceLock<Packed>,
}

impl<'a> Pieces<'a> {
    /// Where bytes are written that are kept nowhere.
    pub(crate) fn fresh(&mut self) -> &mut Vec<u8> {
        &mut self.fresh
    }

    /// Adds a piece with the place where its compressed form is kept.
    pub(crate) fn keep(&mut self, plain: &'a [u8], packed: &'a OnceLock<Packed>) {
        self.kept_len += plain.len();
        self.kept.push(Kept { after: self.fresh.len(), plain, packed });
    }

    /// The length of the body as it is.
    pub(crate) fn len(&self) -> usize {
        self.fresh.len() + self.kept_len
    }

    /// The body as it is.
    pub(crate) fn plain(self) -> Bytes {
        if self.kept.is_empty() {
            return self.fresh.into();
        }
        let (mut out, mut from) = (Vec::with_capacity(self.len()), 0);
        for piece in &self.kept {
            out.extend_from_slice(&self.fresh[from..piece.after]);
            out.extend_from_slice(piece.plain);
            from = piece.after;
        }
        out.extend_from_slice(&self.fresh[from..]);
        out.into()
    }

    /// The body as gzip.
    pub(crate) fn gzip(&self) -> Bytes {
        let mut gzip = Gzip::new(self.fresh.len() + self.kept_len / 3);
        let mut from = 0;
        for piece in &self.kept {
            gzip.store(&self.fresh[from..piece.after]);
            gzip.add(piece);
            from = piece.after;
        }
        gzip.store(&self.fresh[from..]);
        gzip.end()
    }
}

struct Gzip {
    out: Vec<u8>,
    crc: Crc,
    /// Made when something has to be compressed: mostly nothing has.
    deflate: Option<Compress>,
}

impl Gzip {
    fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(&HEADER);
        Self { out, crc: Crc::new(), deflate: None }
    }

    /// Bytes that are not worth the time.
    fn store(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        for block in bytes.chunks(usize::from(u16::MAX)) {
            let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
            self.out.push(0);
            self.out.extend_from_slice(&len.to_le_bytes());
            self.out.extend_from_slice(&(!len).to_le_bytes());
            self.out.extend_from_slice(block);
        }
    }

    fn add(&mut self, piece: &Kept<'_>) {
        let deflate = &mut self.deflate;
        let packed = piece.packed.get_or_init(|| pack(deflate, piece.plain));
        if packed.is_empty() {
            return self.store(piece.plain);
        }
        self.crc.update(piece.plain);
        self.out.extend_from_slice(packed);
    }

    fn end(mut self) -> Bytes {
        self.out.extend_from_slice(&END);
        self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.out.into()
    }
}

/// Compresses a piece; nothing when it would not become smaller.
fn pack(deflate: &mut Option<Compress>, plain: &[u8]) -> Packed {
    let deflate = deflate.get_or_insert_with(|| Compress::new(Compression::default(), false));
    deflate.reset();
    let mut packed = Vec::with_capacity(plain.len());
    let done = deflate.compress_vec(plain, &mut packed, FlushCompress::Sync);
    let whole = deflate.total_in() == plain.len() as u64 && packed.len() < packed.capacity();
    if done.is_ok() && whole { packed.into() } else { Packed::default() }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
        plain
    }

    proptest! {
        #[test]
        fn gzip_and_plain_say_the_same(parts in proptest::collection::vec((any::<bool>(), any::<u8>(), 0usize..70_000, any::<bool>()), 0..6)) {
            let parts: Vec<(bool, Vec<u8>)> = parts.into_iter().map(|(kept, seed, len, noise)| {
                let byte = |n: usize| if noise { (n.wrapping_mul(2_654_435_761) >> 7) as u8 ^ seed } else { seed };
                (kept, (0..len).map(byte).collect())
            }).collect();
            let packed: Vec<OnceLock<Packed>> = parts.iter().map(|_| OnceLock::new()).collect();
            for _ in 0..2 {
                let mut pieces = Pieces::default();
                for ((kept, bytes), packed) in parts.iter().zip(&packed) {
                    if *kept { pieces.keep(bytes, packed) } else { pieces.fresh().extend_from_slice(bytes) }
                }
                let whole: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                prop_assert_eq!(pieces.len(), whole.len());
                prop_assert_eq!(unpacked(&pieces.gzip()), whole.clone());
                prop_assert_eq!(pieces.plain(), whole);
            }
        }
    }

    #[test]
    fn a_piece_is_compressed_once_and_becomes_smaller() {
        let (bytes, packed) =
            (br#"{"a":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}"#.repeat(20), OnceLock::new());
        let mut pieces = Pieces::default();
        pieces.keep(&bytes, &packed);
        assert!(pieces.gzip().len() < bytes.len() / 4);
        let first = packed.get().map(|packed| packed.as_ptr());
        pieces.gzip();
        assert_eq!(packed.get().map(|packed| packed.as_ptr()), first);
    }
}
