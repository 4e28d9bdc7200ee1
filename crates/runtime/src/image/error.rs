//! What can go wrong with an image.

use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::reference::ReferenceError;

/// Why an image could not be read, stored, unpacked, written or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The reference cannot be parsed.
    #[error("couldn't parse image name {reference:?}: {reason}")]
    Reference {
        /// As given.
        reference: String,
        /// What is wrong with it.
        #[source]
        reason: ReferenceError,
    },
    /// No image of that name is here.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// A document is not what it should be.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// Which document or archive.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest format of 2015.
    #[error(
        "media type {media_type:?} is no longer supported, please rebuild the image as \
         \"application/vnd.docker.distribution.manifest.v2+json\" or \
         \"application/vnd.oci.image.manifest.v1+json\""
    )]
    SchemaOne {
        /// As the registry named it.
        media_type: String,
    },
    /// The image is for another machine.
    #[error("no match for platform in manifest: not found (this machine is {wanted})")]
    Platform {
        /// `linux/amd64`.
        wanted: String,
    },
    /// Content is not what its digest says.
    #[error("unexpected digest of {what}: expected {expected}, got {actual}")]
    Digest {
        /// Which content.
        what: String,
        /// What the document said.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Content has not the length it should have.
    #[error("unexpected size of {what}: expected {expected} bytes, got {actual}")]
    Size {
        /// Which content.
        what: String,
        /// What the document said.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A document names content that is not there.
    #[error("content {digest} of {what} is missing")]
    Missing {
        /// Which image or archive.
        what: String,
        /// The missing content.
        digest: Digest,
    },
    /// A layer tries what a layer may not.
    #[error("refused entry {entry:?} of layer {layer}: {reason}")]
    HostileEntry {
        /// The path in the layer.
        entry: String,
        /// The layer's diff id.
        layer: Digest,
        /// Why.
        reason: &'static str,
    },
    /// More or larger than is allowed.
    #[error("{what} is too large: more than {limit}")]
    TooLarge {
        /// Which part.
        what: String,
        /// The limit with its unit.
        limit: String,
    },
    /// The disk would be as good as full with it. In containerd's words.
    #[error("failed to extract layer {layer}: write {path}: no space left on device", path = path.display())]
    NoSpace {
        /// The layer's diff id.
        layer: Digest,
        /// The file that would not fit.
        path: PathBuf,
    },
    /// The image is used by a container.
    #[error("image {image} is in use by container {container}")]
    InUse {
        /// The image.
        image: String,
        /// The container.
        container: String,
    },
    /// The registry refused, has no such image, or cannot be reached. In containerd's words.
    #[error("{message}")]
    Registry {
        /// The whole text.
        message: String,
        /// True when no connection could be made.
        unreachable: bool,
    },
    /// The pull was given up by whoever asked for it.
    #[error("context canceled")]
    Canceled,
    /// The disk or the kernel failed.
    #[error("failed to {action} {path}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl ImageError {
    /// For `map_err`: an error of the disk with what was being done to which path.
    pub(crate) fn io<E: Into<std::io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| ImageError::Io { action, path, source: source.into() }
    }

    /// The text with its cause, for one line.
    pub fn full_text(&self) -> String {
        match self {
            ImageError::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

impl From<ImageError> for crate::Error {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Reference { reference, reason } => {
                crate::Error::InvalidImageName { reference, reason: reason.to_string() }
            }
            ImageError::NotFound(id) => crate::Error::NotFound { what: "image", id },
            ImageError::Registry { message, unreachable } => crate::Error::Pull { message, unreachable },
            ImageError::Io { action, path, source } => {
                crate::Error::host(format!("failed to {action} {}", path.display()), source)
            }
            other => crate::Error::Pull { message: other.to_string(), unreachable: false },
        }
    }
}
