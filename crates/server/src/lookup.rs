//! What authentication reads: single objects of the store, from memory.

use std::fmt;
use std::sync::Arc;

use api::kinds::Kind;
use bytes::Bytes;
use futures_util::FutureExt;
use store::Store;

use crate::object;

/// The store, asked for single objects. It answers reads from memory, so its futures are ready when
/// they are made; one that is not finds nothing, which authenticates nobody.
#[derive(Clone)]
pub(crate) struct Lookup(pub(crate) Arc<dyn Store>);

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").finish_non_exhaustive()
    }
}

impl Lookup {
    /// One object as it is stored now; `namespace` is empty for cluster-scoped resources.
    pub(crate) fn get(&self, resource: &Kind, namespace: &str, name: &str) -> Option<Bytes> {
        let found = self.0.get(&object::key(resource, namespace, name)).now_or_never()?;
        found.ok().flatten().map(|entry| entry.value.clone())
    }
}
