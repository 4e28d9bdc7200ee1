//! Images on this node: content, unpacked layers, names.
//!
//! ```text
//! registry ──pull──┐                       ┌── blobs/sha256/…   manifests, configurations, layers as they came
//! archive ──import─┼─► ingest/… ─verified─►┼── layers/<diff id>/fs   each layer unpacked once, read-only
//! archive ◄─export─┘                       └── index.json         names → images, replaced by rename
//!                                              leases/<holder>    who uses which image
//!                                              uses/<image>       when it was used last
//! ```
//!
//! Everything works with and without a running daemon: what two processes may do at once is
//! decided by file locks (`store`), and a reader notices a new `index.json` by itself.
//! A layer's directory depends on its own tar only, never on the layers below, so it is shared
//! by all images that have it.
//!
//! Start reading at [`ImageStore`].

mod access;
mod archive;
mod digest;
mod entries;
mod error;
mod export;
#[doc(hidden)]
pub mod fuzzing;
mod lease;
mod manifest;
mod reference;
mod registry;
mod store;
mod tag;
mod unpack;

pub use archive::ImportOptions;
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use manifest::{Descriptor, Platform};
pub use reference::{Reference, ReferenceError};
pub use registry::{Progress, Proxies, PullEvent, Registries, Silent};
pub use store::{ImageStore, Pruned, Removed};
pub use unpack::Limits;

pub(crate) use access::fingerprint;
pub(crate) use digest::{Hasher, hex};
pub(crate) use manifest::DOCUMENT_SIZE_MAX;

#[cfg(test)]
pub(crate) mod tests;
