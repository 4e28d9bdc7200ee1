//! A door for the fuzz targets (`fuzz/`): what reads the documents and layers of strangers.

use std::io::{self, Read};
use std::path::Path;

use super::digest::Digest;
use super::manifest::{Document, ImageConfig, Platform};
use super::registry::fuzzing as registry;
use super::unpack::{Limits, decompress, unpack};

/// Reads a manifest or index, and an image configuration.
pub fn documents(content: &[u8]) {
    if let Ok(Document::Index(index)) = Document::parse(content, "") {
        let _ = index.choose(&Platform::host());
    }
    if let Ok(config) = ImageConfig::parse(content) {
        let _ = (config.check_platform(&Platform::host()), config.diff_ids());
    }
}

/// Reads a URL of a mirror, a token server or a redirect.
pub fn registry_url(text: &str) {
    registry::url(text);
}

/// Reads what a registry sends: head, challenges, redirect, token or document.
pub async fn registry_answer(bytes: &[u8]) {
    registry::answer(bytes).await;
}

/// Reads a stream, compressed or not, up to `most` bytes; answers with how many came.
pub fn decompressed(content: &[u8], most: u64) -> u64 {
    let Ok(plain) = decompress(content) else { return 0 };
    io::copy(&mut plain.take(most), &mut io::sink()).unwrap_or(0)
}

/// Unpacks a layer into the empty directory `into`.
pub fn layer(content: &[u8], into: &Path, limits: &Limits) {
    let zeros = format!("sha256:{}", "0".repeat(64));
    let digest = Digest::parse(&zeros).expect("a digest of zeros is one");
    // It never has this digest: what was unpacked stays for the caller to look at.
    let _ = unpack(content, &digest, into, limits);
}
