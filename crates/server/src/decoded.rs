//! Small collections that are asked for as a whole at each write of something else, kept decoded: the ranges
//! and quotas of a namespace, the classes of the cluster, the budgets of evictions.
//!
//! They are views (`materialized.rs`): an object is parsed when it changes, and not by each Pod that is created
//! under it. Only what somebody asks for is kept, from its first question on.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use api::kinds::Kind;
use api::status::Status;
use bytes::Bytes;
use serde_json::Value;
use store::Store;

use crate::materialized::{Materialized, View};
use crate::object;
use crate::state::store_failed;

/// What is kept of an object.
pub(crate) trait Form {
    /// Of an object as it is stored.
    fn of(object: Value) -> Self;
}

impl Form for Value {
    fn of(object: Value) -> Self {
        object
    }
}

/// The objects of a collection, by the beginning of their keys that those of one namespace share.
#[derive(Debug)]
pub(crate) struct Decoded<T>(HashMap<String, Folder<T>>);

/// By key; what could not be read is there as the reason why.
type Folder<T> = BTreeMap<Arc<str>, Result<Arc<T>, Status>>;

impl<T> Default for Decoded<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Form> View for Decoded<T> {
    fn put(&mut self, key: &Arc<str>, object: &Bytes) {
        let form = object::read(object).map(|object| Arc::new(T::of(object)));
        match self.0.get_mut(folder(key)) {
            Some(there) => drop(there.insert(key.clone(), form)),
            None => drop(self.0.insert(folder(key).to_owned(), [(key.clone(), form)].into())),
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(there) = self.0.get_mut(folder(key)) else { return };
        there.remove(key);
        if there.is_empty() {
            self.0.remove(folder(key));
        }
    }
}

impl<T> Decoded<T> {
    /// Those of one namespace, or of a kind that is in none, in the order of their keys. One that cannot be
    /// read is an error: it may be the range or the quota that would refuse.
    fn below(&self, prefix: &str) -> Result<Vec<Arc<T>>, Status> {
        self.0.get(prefix).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }
}

/// A key without the name at its end.
fn folder(key: &str) -> &str {
    key.rfind('/').map_or("", |slash| &key[..=slash])
}

impl<T: Form> Materialized<Decoded<T>> {
    /// All objects of the kind in a namespace, or of one that is in none.
    pub(crate) fn all(&self, kind: &Kind, namespace: &str) -> Result<Vec<Arc<T>>, Status> {
        self.read().map_err(store_failed)?.below(&object::prefix(kind, namespace))
    }
}

/// The collections that were asked for.
pub(crate) struct Collections {
    store: Arc<dyn Store>,
    views: Mutex<HashMap<String, Arc<Materialized<Decoded<Value>>>>>,
}

impl fmt::Debug for Collections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collections").finish_non_exhaustive()
    }
}

impl Collections {
    /// Of this store.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, views: Mutex::default() }
    }

    /// All objects of a kind in one namespace, or of one that is in none.
    pub(crate) fn all(&self, kind: &Kind, namespace: &str) -> Result<Vec<Arc<Value>>, Status> {
        self.view(object::prefix(kind, "")).all(kind, namespace)
    }

    fn view(&self, prefix: String) -> Arc<Materialized<Decoded<Value>>> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |prefix: &String| Arc::new(Materialized::new(self.store.clone(), vec![prefix.clone()]));
        views.entry(prefix).or_insert_with_key(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use api::meta::Object as _;
    use store::{Delete, Durability, Embedded, Expect, History, Put};

    use super::*;

    fn kind(group: &str, plural: &str) -> &'static Kind {
        api::kinds::find(group, "v1", plural).expect("in the table")
    }

    async fn put(store: &Embedded, kind: &Kind, namespace: &str, value: &str) {
        let key = object::key(kind, namespace, "a");
        let value = Bytes::from(value.to_owned());
        let put = Put { key, value, expect: None, durability: Durability::Now };
        store.put(put).await.expect("written");
    }

    #[tokio::test]
    async fn each_namespace_has_its_own_objects_and_an_unreadable_one_is_an_error_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(directory.path(), |value, _| value.clone(), History::default());
        let store = Arc::new(store.expect("opens"));
        let collections = Collections::new(store.clone());
        let (quotas, classes) = (kind("", "resourcequotas"), kind("storage.k8s.io", "storageclasses"));
        let uids = |kind, namespace: &str| {
            let all = collections.all(kind, namespace);
            all.map(|all| all.iter().map(|object| object.meta().uid().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(uids(quotas, "n"), Ok(vec![]));
        put(&store, quotas, "n", r#"{"metadata": {"uid": "1"}}"#).await;
        put(&store, quotas, "nn", r#"{"metadata": {"uid": "2"}}"#).await;
        put(&store, classes, "", r#"{"metadata": {"uid": "3"}}"#).await;
        assert_eq!(uids(quotas, "n"), Ok(vec!["1".to_owned()]));
        assert_eq!(uids(classes, ""), Ok(vec!["3".to_owned()]));
        let first = collections.all(quotas, "n").expect("readable");
        let again = collections.all(quotas, "n").expect("readable");
        assert!(Arc::ptr_eq(&first[0], &again[0]), "what did not change is not parsed again");
        put(&store, quotas, "n", "{").await;
        assert!(uids(quotas, "n").is_err());
        assert_eq!(uids(quotas, "nn"), Ok(vec!["2".to_owned()]));
        let key = object::key(quotas, "n", "a");
        let delete = Delete { key, expect: Expect::Present, durability: Durability::Now };
        store.delete(delete).await.expect("removed");
        assert_eq!(uids(quotas, "n"), Ok(vec![]));
    }
}
