//! One set of informers for a process: each object is decoded once, kept once, and told to all who ask.
//!
//! ```text
//! Informers ─ of::<Pod>() ─► Informer ─┬─ get, list, by_index    what is there, as Arc<Pod>
//!     │ the first asks                 ├─ subscribe ─► Changes   each reader at its own pace
//!     ▼                                └─ synced                 the first list is in
//! reflector: list, watch ─► store (objects, indexes) ─► queues of the readers
//! ```
//!
//! Upstream calls these the SharedInformerFactory, the SharedIndexInformer with its Lister, and the Reflector.
//! An informer begins with the first who asks for it and ends with the last who holds it or its changes.

mod changes;
pub mod index;
mod reflector;
mod store;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::changes::{Change, Changes};
pub use self::index::Index;
use self::store::Store;
use crate::{Client, ListOptions, Object};

/// `namespace/name`, or the name alone for cluster-scoped kinds.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The key of an object.
pub fn key_of<K: Object>(object: &K) -> String {
    let metadata = object.metadata();
    key(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// A part of a kind, for those who need no more.
#[derive(Debug)]
pub struct Part<K> {
    namespace: String,
    field: Option<(Index<K>, String)>,
}

impl<K: Object> Part<K> {
    /// The objects that have `value` in a field; the index is named after it.
    pub fn field(index: Index<K>, value: &str) -> Self {
        Self { namespace: String::new(), field: Some((index, value.to_owned())) }
    }

    /// The objects of a namespace.
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), field: None }
    }

    /// One object.
    pub fn object(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..Self::field(index::by_name(), name) }
    }

    fn has(&self, object: &K) -> bool {
        let namespace = object.metadata().namespace.as_deref().unwrap_or_default();
        (self.namespace.is_empty() || self.namespace == namespace)
            && self.field.as_ref().is_none_or(|(index, value)| (index.values)(object).contains(value))
    }

    /// A name that somebody writes into a Pod may have in it what separates the terms of a selector.
    fn selector(&self) -> String {
        let escaped = |value: &str| value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
        let of = |(index, value): &(Index<K>, String)| format!("{}={}", index.name, escaped(value));
        self.field.as_ref().map(of).unwrap_or_default()
    }
}

/// A kind, namespace and field selector that an informer is for.
type Asked = (TypeId, String, String);

/// The informers of a process. Cheap to clone; all clones are one set.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    shutdown: CancellationToken,
    known: Mutex<HashMap<Asked, Weak<dyn Any + Send + Sync>>>,
    // Unbounded: one for each informer that begins.
    begin: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informers").field("client", &self.shared.client).finish_non_exhaustive()
    }
}

impl Informers {
    /// An empty set that reads by `client`. Its reflectors run in a task of `tasks`, which ends with
    /// `shutdown`, or by the panic of one of them.
    pub fn spawn(client: Client, tasks: &mut JoinSet<()>, shutdown: CancellationToken) -> Self {
        let (begin, begun) = mpsc::unbounded_channel();
        tasks.spawn(drive(begun, shutdown.clone()));
        Self { shared: Arc::new(Shared { client, shutdown, known: Mutex::default(), begin }) }
    }

    /// The informer of all objects of a kind.
    pub fn of<K: Object>(&self) -> Informer<K> {
        Informer { handle: self.handle("", String::new()), part: None }
    }

    /// The informer of a part of a kind. While somebody has the informer of all, that one serves
    /// this part too, and the objects are decoded once.
    pub fn part<K: Object>(&self, part: Part<K>) -> Informer<K> {
        if let Some(handle) = self.known::<K>(&asked::<K>("", String::new())) {
            return Informer { handle, part: Some(Arc::new(part)) };
        }
        Informer { handle: self.handle(&part.namespace, part.selector()), part: None }
    }

    fn known<K: Object>(&self, asked: &Asked) -> Option<Arc<Handle<K>>> {
        let known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(asked).and_then(Weak::upgrade)?.downcast().ok()
    }

    fn handle<K: Object>(&self, namespace: &str, selector: String) -> Arc<Handle<K>> {
        let asked = asked::<K>(namespace, selector);
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&asked).and_then(Weak::upgrade);
        if let Some(handle) = found.and_then(|found| found.downcast().ok()) {
            return handle;
        }
        known.retain(|_, informer| informer.strong_count() > 0);
        let handle = Arc::new(self.begin(&asked));
        let weak: Weak<Handle<K>> = Arc::downgrade(&handle);
        known.insert(asked, weak);
        handle
    }

    fn begin<K: Object>(&self, (_, namespace, selector): &Asked) -> Handle<K> {
        let (store, stop) = (Arc::<Store<K>>::default(), self.shared.shutdown.child_token());
        let which = ListOptions { field_selector: selector.clone(), ..ListOptions::default() };
        let reflect =
            reflector::run(self.shared.client.clone(), namespace.clone(), which, store.clone(), stop.clone());
        // Without a receiver all has been shut down.
        let _ = self.shared.begin.send(reflect.boxed());
        Handle { store, _stop: stop.drop_guard() }
    }
}

fn asked<K: Object>(namespace: &str, selector: String) -> Asked {
    (TypeId::of::<K>(), namespace.to_owned(), selector)
}

/// Runs the reflectors, and goes down with any of them.
async fn drive(mut begun: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    loop {
        // Each arm is cancel-safe: channel and set keep what was not taken.
        tokio::select! {
            reflector = begun.recv() => match reflector {
                Some(reflector) => drop(tasks.spawn(reflector)),
                None => break,
            },
            Some(ended) = tasks.join_next() => crate::tasks::resume(ended),
            () = shutdown.cancelled() => break,
        }
    }
    crate::tasks::finish(tasks).await;
}

/// What keeps an informer going.
#[derive(Debug)]
struct Handle<K> {
    store: Arc<Store<K>>,
    _stop: DropGuard,
}

/// The objects of a kind, or of a part of it, as they are now, and their changes. Cheap to clone.
///
/// They are without `metadata.managedFields`, and shared: whoever wants to change one sends a patch.
#[derive(Debug)]
pub struct Informer<K> {
    handle: Arc<Handle<K>>,
    /// What of the objects this is of, where the store has more.
    part: Option<Arc<Part<K>>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), part: self.part.clone() }
    }
}

impl<K: Object> Informer<K> {
    fn shows(&self, object: &K) -> bool {
        self.part.as_ref().is_none_or(|part| part.has(object))
    }

    /// Returns once all objects that there were at the beginning are known. Cancel-safe.
    pub async fn synced(&self) {
        // An error means that the sender is gone, and we hold it.
        let _ = self.handle.store.synced().subscribe().wait_for(|synced| *synced).await;
    }

    /// Are all objects known that there were at the beginning?
    pub fn is_synced(&self) -> bool {
        *self.handle.store.synced().borrow()
    }

    /// The newest resourceVersion that is known of these objects: a write that was answered with it or
    /// an older one is among them. They are one row of numbers for all kinds of a cluster.
    pub fn revision(&self) -> u64 {
        self.handle.store.revision()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.handle.store.get(&key(namespace, name)).filter(|object| self.shows(object))
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        match self.part.as_deref() {
            Some(Part { namespace, field: Some((index, value)) }) if namespace.is_empty() => {
                self.handle.store.by_index(*index, value)
            }
            _ => self.filter(|_| true),
        }
    }

    /// The objects that `keep` is true for, in no order. Looks at each of them: prefer an index.
    pub fn filter(&self, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.handle.store.filter(|object| self.shows(object) && keep(object))
    }

    /// The objects that are found under `value`, in no order.
    pub fn by_index(&self, index: Index<K>, value: &str) -> Vec<Arc<K>> {
        let mut found = self.handle.store.by_index(index, value);
        found.retain(|object| self.shows(object));
        found
    }

    /// What is there now as [`Change::Added`], then every change.
    pub fn subscribe(&self) -> Changes<K> {
        Changes::new(self.handle.store.subscribe(), self.part.clone(), self.handle.clone())
    }
}

#[cfg(test)]
mod tests;
