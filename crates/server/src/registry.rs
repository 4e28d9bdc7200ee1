//! The kinds that this server serves. They come and go while it runs; a request is answered by the
//! snapshot that it found.

use std::sync::{Arc, Mutex, PoisonError};

use api::discovery::Discovery;
use api::kinds::{self, Conflict, Kind, Kinds};
use tokio::sync::watch;

/// What is served, and a way to hear of changes.
#[derive(Debug)]
pub struct Registry {
    served: watch::Sender<Arc<Kinds>>,
    /// Where clients reach the server: discovery says it.
    address: String,
    /// The documents of the snapshot that they were made of.
    discovery: Mutex<Option<(Arc<Kinds>, Arc<Discovery>)>>,
}

impl Registry {
    /// Of the kinds that are built in, and what is measured.
    pub(crate) fn new(address: String) -> Self {
        let first = kinds::built_in().with(kinds::metrics()).expect("these names are free");
        let served = watch::Sender::new(Arc::new(first));
        Self { served, address, discovery: Mutex::default() }
    }

    /// Serves a resource in all its versions, in place of what was registered under its name before.
    pub fn register(&self, versions: Vec<Kind>) -> Result<(), Conflict> {
        self.change(|kinds| kinds.with(versions))
    }

    /// Serves a resource no more. Its objects stay in the store: whoever withdraws a kind for good
    /// deletes them before.
    pub fn withdraw(&self, group: &str, plural: &str) {
        // Taking away conflicts with nothing.
        let _ = self.change(|kinds| Ok(kinds.without(group, plural)));
    }

    /// Changes are made one after another: each begins with what the one before left.
    fn change(&self, change: impl FnOnce(&Kinds) -> Result<Kinds, Conflict>) -> Result<(), Conflict> {
        let mut result = Ok(());
        self.served.send_if_modified(|served| match change(served) {
            Ok(kinds) => {
                *served = Arc::new(kinds);
                true
            }
            Err(conflict) => {
                result = Err(conflict);
                false
            }
        });
        result
    }

    /// What is served now.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.served.borrow().clone()
    }

    /// What is served, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Kinds>> {
        self.served.subscribe()
    }

    /// The discovery documents, made at the first question after a change.
    pub(crate) fn discovery(&self) -> Arc<Discovery> {
        let kinds = self.kinds();
        let mut made = self.discovery.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, documents)) if Arc::ptr_eq(of, &kinds) => documents.clone(),
            _ => {
                let documents = Arc::new(Discovery::new(&kinds, &self.address));
                *made = Some((kinds, documents.clone()));
                documents
            }
        }
    }
}
