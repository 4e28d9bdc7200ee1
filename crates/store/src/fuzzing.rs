//! A door for the fuzz targets (`fuzz/`): what reads the store's file.

use crate::disk;
use crate::frame::{self, Frame, Kind, Writer};

/// Reads the bytes of a file; answers with how many entries are whole.
pub fn file(bytes: &[u8]) -> usize {
    disk::read(bytes).map_or(0, |(contents, _)| contents.entries.len())
}

/// Reads a file made of frames whose checksums are right, with one byte of it changed: random bytes
/// alone would never pass the first checksum. Each frame takes three bytes of `recipe` and what the
/// third says of its value.
pub fn frames(at: u16, change: u8, mut recipe: &[u8]) -> usize {
    let (mut writer, mut bytes) = (Writer::default(), frame::header().to_vec());
    let mut revision = 0;
    while let Some(([kind, key, length], rest)) = recipe.split_first_chunk::<3>().map(|(a, b)| (*a, b)) {
        let (value, rest) = rest.split_at(rest.len().min(length.into()));
        recipe = rest;
        revision += u64::from(kind >> 4);
        let kinds = [Kind::Put, Kind::Remove, Kind::Ceiling, Kind::Sealed, Kind::Closed];
        let key = format!("/{}", key % 16);
        let frame = Frame {
            kind: kinds[usize::from(kind) % kinds.len()],
            key: &key,
            value,
            create_revision: revision,
            revision,
        };
        writer.push(&mut bytes, frame, kind & 8 == 0);
    }
    if let Some(byte) = bytes.get_mut(usize::from(at)) {
        *byte ^= change;
    }
    file(&bytes)
}
