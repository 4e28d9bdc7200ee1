//! The objects of an informer, by key and by index, and those who hear of their changes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use tokio::sync::watch;

use super::changes::Queue;
use super::{Index, key_of};
use crate::{Object, Unreadable};

/// Kept current by a reflector, read by everybody.
#[derive(Debug)]
pub(super) struct Store<K> {
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
}

#[derive(Debug)]
struct State<K> {
    objects: HashMap<Arc<str>, Arc<K>>,
    /// Those that were asked for, each from its first question on.
    indexes: Vec<Indexed<K>>,
    readers: Vec<Weak<Queue<K>>>,
    /// The newest version that this state has.
    revision: u64,
    ended: bool,
}

#[derive(Debug)]
struct Indexed<K> {
    index: Index<K>,
    keys: HashMap<String, BTreeSet<Arc<str>>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        let state = State {
            objects: HashMap::new(),
            indexes: Vec::new(),
            readers: Vec::new(),
            revision: 0,
            ended: false,
        };
        Self { state: RwLock::new(state), synced: watch::Sender::new(false) }
    }
}

impl<K: Object> Store<K> {
    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn synced(&self) -> &watch::Sender<bool> {
        &self.synced
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub(super) fn filter(&self, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.read().objects.values().filter(|object| keep(object)).cloned().collect()
    }

    pub(super) fn by_index(&self, index: Index<K>, value: &str) -> Vec<Arc<K>> {
        if let Some(found) = self.read().find(index, value) {
            return found;
        }
        let mut state = self.write();
        state.begin(index);
        state.find(index, value).unwrap_or_default()
    }

    pub(super) fn subscribe(&self) -> Arc<Queue<K>> {
        let mut state = self.write();
        let queue = Arc::new(Queue::of(state.objects.iter()));
        state.readers.push(Arc::downgrade(&queue));
        if state.ended {
            queue.end();
        }
        queue
    }

    pub(super) fn put(&self, object: K) {
        self.write().put(object);
    }

    pub(super) fn remove(&self, last: K) {
        self.write().remove(&key_of(&last), Some(last));
    }

    /// An object that cannot be read was changed or deleted.
    pub(super) fn pass_over(&self, object: &Unreadable) {
        let mut state = self.write();
        if object.deleted || !state.is_known(object) {
            state.remove(&object.to_string(), None);
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.read().revision
    }

    pub(super) fn replace(&self, objects: Vec<K>, unreadable: &[Unreadable], version: Option<&str>) {
        let mut state = self.write();
        state.reach(version);
        state.replace(objects, unreadable);
        drop(state);
        self.synced.send_replace(true);
    }

    pub(super) fn end(&self) {
        let mut state = self.write();
        state.ended = true;
        state.tell(Queue::end);
    }
}

impl<K: Object> State<K> {
    fn tell(&mut self, tell: impl Fn(&Queue<K>)) {
        self.readers.retain(|reader| reader.upgrade().map(|queue| tell(&queue)).is_some());
    }

    /// Before the readers are told: who hears of a change and looks finds it.
    fn reach(&mut self, version: Option<&str>) {
        let version = version.and_then(|version| version.parse().ok()).unwrap_or(0);
        self.revision = self.revision.max(version);
    }

    fn put(&mut self, object: K) {
        self.reach(object.metadata().resource_version.as_deref());
        let key = key_of(&object);
        let known = self.objects.get_key_value(&*key);
        if known.is_some_and(|(_, old)| old.metadata().resource_version == object.metadata().resource_version)
        {
            return;
        }
        let (key, new) = (known.map_or_else(|| key.into(), |(key, _)| key.clone()), Arc::new(object));
        let old = self.objects.insert(key.clone(), new.clone());
        for indexed in &mut self.indexes {
            indexed.change(&key, old.as_deref(), Some(&new));
        }
        self.tell(|queue| queue.put(&key, old.as_ref(), &new));
    }

    fn remove(&mut self, key: &str, last: Option<K>) {
        self.reach(last.as_ref().and_then(|last| last.metadata().resource_version.as_deref()));
        let Some((key, known)) = self.objects.remove_entry(key) else { return };
        for indexed in &mut self.indexes {
            indexed.change(&key, Some(&known), None);
        }
        let last = last.map_or_else(|| known.clone(), Arc::new);
        self.tell(|queue| queue.remove(&key, &known, &last));
        if self.objects.capacity() / 4 > self.objects.len() {
            self.objects.shrink_to(self.objects.len() * 2);
        }
    }

    /// Whether this very object is known, and not another of its name.
    fn is_known(&self, object: &Unreadable) -> bool {
        let known = self.objects.get(&*object.to_string());
        known.is_some_and(|known| known.metadata().uid.as_deref() == Some(&*object.uid))
    }

    /// Replaces what is known by what was listed. An object that is there and cannot be read stays as
    /// it was when it could: to take it for gone would end what it stands for.
    fn replace(&mut self, objects: Vec<K>, unreadable: &[Unreadable]) {
        let kept = unreadable.iter().filter(|object| self.is_known(object)).map(Unreadable::to_string);
        let listed: HashSet<String> = objects.iter().map(key_of).chain(kept).collect();
        let gone = self.objects.keys().filter(|key| !listed.contains(&***key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.remove(&key, None);
        }
        objects.into_iter().for_each(|object| self.put(object));
    }

    fn find(&self, index: Index<K>, value: &str) -> Option<Vec<Arc<K>>> {
        let indexed = self.indexes.iter().find(|indexed| indexed.index.name == index.name)?;
        let keys = indexed.keys.get(value).into_iter().flatten();
        Some(keys.filter_map(|key| self.objects.get(key)).cloned().collect())
    }

    fn begin(&mut self, index: Index<K>) {
        // Somebody may have asked the same between the two locks.
        if self.indexes.iter().any(|indexed| indexed.index.name == index.name) {
            return;
        }
        let mut indexed = Indexed { index, keys: HashMap::new() };
        for (key, object) in &self.objects {
            indexed.change(key, None, Some(object));
        }
        self.indexes.push(indexed);
    }
}

impl<K> Indexed<K> {
    fn change(&mut self, key: &Arc<str>, old: Option<&K>, new: Option<&K>) {
        let before = old.map(self.index.values).unwrap_or_default();
        let after = new.map(self.index.values).unwrap_or_default();
        if before == after {
            return;
        }
        for value in before {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
        for value in after {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }
}
