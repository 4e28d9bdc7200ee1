//! What authentication and authorisation read: the store, from memory.

use std::sync::Arc;

use api::kinds::{self, Kind};
use api::selector::{FieldSelector, LabelSelector};
use bytes::Bytes;
use futures_util::FutureExt;
use store::{Entry, Range, Store};

use crate::auth::Lookup;
use crate::object::{self, Selection};

/// The store as [`Lookup`] asks it. The store answers reads from memory, so its
/// futures are ready when they are made; one that is not finds nothing, which
/// authorises nobody.
#[derive(Clone)]
pub(crate) struct StoreLookup(pub(crate) Arc<dyn Store>);

impl StoreLookup {
    fn entries(&self, resource: &Kind) -> Vec<Arc<Entry>> {
        let range = Range { prefix: object::prefix(resource, ""), ..Range::default() };
        let page = self.0.range(range).now_or_never();
        page.and_then(Result::ok).map(|page| page.entries).unwrap_or_default()
    }
}

impl Lookup for StoreLookup {
    fn get(&self, resource: &Kind, namespace: &str, name: &str) -> Option<Bytes> {
        let found = self.0.get(&object::key(resource, namespace, name)).now_or_never()?;
        found.ok().flatten().map(|entry| entry.value.clone())
    }

    fn list(&self, resource: &Kind) -> Vec<Bytes> {
        self.entries(resource).iter().map(|entry| entry.value.clone()).collect()
    }

    fn pods_on_node(&self, node: &str) -> Vec<Bytes> {
        let Some(pods) = kinds::find("", "v1", "pods") else { return Vec::new() };
        let Ok(fields) = FieldSelector::parse(pods, &format!("spec.nodeName={node}")) else {
            return Vec::new();
        };
        let selection = Selection { labels: LabelSelector::default(), fields };
        let entries = self.entries(pods);
        let bound = entries.iter().filter(|entry| selection.matches(pods, entry));
        bound.map(|entry| entry.value.clone()).collect()
    }
}
