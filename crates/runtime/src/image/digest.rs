//! Content digests: `sha256:…`, checked by whoever reads or writes content.

use std::fmt;
use std::io::{self, Read, Write};

use ring::digest::{Context, SHA256, SHA512};

/// A checked `algorithm:hex` digest. Only SHA-256 and SHA-512 exist in practice
/// and only these are accepted, so a digest is always safe as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest, in the words of opencontainers/go-digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not `algorithm:hex`.
    #[error("invalid checksum digest format")]
    Format,
    /// Not SHA-256 or SHA-512.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// Too many or too few digits for the algorithm.
    #[error("invalid checksum digest length")]
    Length,
}

impl Digest {
    /// Parses and checks `text`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm),
        };
        if hex.len() != length {
            return Err(DigestError::Length);
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Format);
        }
        Ok(Digest(text.to_owned()))
    }

    /// The SHA-256 digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(content);
        hasher.finish()
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A hasher of this digest's algorithm.
    pub(crate) fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" {
            Hasher { algorithm: "sha512", context: Context::new(&SHA512) }
        } else {
            Hasher::sha256()
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Digest::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// A running digest.
pub(crate) struct Hasher {
    algorithm: &'static str,
    context: Context,
}

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Hasher { algorithm: "sha256", context: Context::new(&SHA256) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let hex = hex(self.context.finish().as_ref());
        Digest(format!("{}:{hex}", self.algorithm))
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(DIGITS[usize::from(n)])).collect()
}

/// Passes bytes through and keeps their digest and number.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    length: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T, hasher: Hasher) -> Self {
        Hashing { inner, hasher, length: 0 }
    }

    /// What the bytes go to or come from.
    pub(crate) fn inner(&self) -> &T {
        &self.inner
    }

    /// Bytes passed so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all that passed, and how much it was.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.length)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count(&buffer[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.count(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_could_leave_the_store_is_refused() {
        assert_eq!(Digest::parse("sha256:../../etc/passwd"), Err(DigestError::Length));
        assert_eq!(Digest::parse(&format!("sha256:{}", "/".repeat(64))), Err(DigestError::Format));
        assert_eq!(Digest::parse(&format!("sha256:{}", "A".repeat(64))), Err(DigestError::Format));
        assert_eq!(Digest::parse("md5:d41d8cd98f00b204e9800998ecf8427e"), Err(DigestError::Algorithm));
        assert_eq!(Digest::parse("latest"), Err(DigestError::Format));
    }

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert_eq!(Digest::parse(empty).map(|d| d.hex().len()), Ok(64));
    }
}
