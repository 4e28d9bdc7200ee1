//! Materialised views: what is worked out from many objects and kept current by their changes, so that a
//! question neither lists nor parses.
//!
//! ```text
//! question ─► read what the store published since the last one ─► apply it ─► answer
//! ```
//!
//! The reading is part of the question: a view is as new as a get would be, an answer never misses a write
//! that was answered before, and there is neither a task that could lag nor a writer that must tell it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use futures_util::FutureExt;
use store::{Answer, Error, Event, EventKind, Range, Store, Watch};

/// What is worked out from the objects of some collections.
pub(crate) trait View: Default {
    /// The object of this key is new, or another one now.
    fn put(&mut self, key: &Arc<str>, object: &Bytes);

    /// There is no object of this key any more.
    fn remove(&mut self, key: &str);

    /// Called after some changes, before anybody asks.
    fn settle(&mut self) {}
}

/// A view and how far it has come.
pub(crate) struct Materialized<V> {
    store: Arc<dyn Store>,
    prefixes: Vec<String>,
    /// One for each prefix; none before the first question, and none when the history that the view had
    /// not seen is gone. Taken before `view`.
    watches: Mutex<Vec<Box<dyn Watch>>>,
    view: RwLock<V>,
}

impl<V> fmt::Debug for Materialized<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Materialized").field("prefixes", &self.prefixes).finish_non_exhaustive()
    }
}

impl<V: View> Materialized<V> {
    /// Of the objects below these prefixes of keys, which are read at the first question.
    pub(crate) fn new(store: Arc<dyn Store>, prefixes: Vec<String>) -> Self {
        Self { store, prefixes, watches: Mutex::default(), view: RwLock::default() }
    }

    /// The view as of now. An error says that it is not known what is there.
    pub(crate) fn read(&self) -> Result<RwLockReadGuard<'_, V>, Error> {
        self.catch_up()?;
        Ok(self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn catch_up(&self) -> Result<(), Error> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if !watches.is_empty() {
            match news(&mut watches) {
                Ok(events) if events.is_empty() => return Ok(()),
                Ok(events) => {
                    apply(&mut *self.view.write().unwrap_or_else(PoisonError::into_inner), &events);
                    return Ok(());
                }
                // Nobody asked for so long that changes were forgotten: all is read again.
                Err(_) => watches.clear(),
            }
        }
        let mut view = V::default();
        let mut begun = Vec::new();
        for prefix in &self.prefixes {
            begun.push(self.begin(prefix, &mut view)?);
        }
        view.settle();
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        *watches = begun;
        Ok(())
    }

    /// Reads what is there below a prefix, and watches it from then on.
    fn begin(&self, prefix: &str, view: &mut V) -> Result<Box<dyn Watch>, Error> {
        let page = at_once(self.store.range(Range { prefix: prefix.to_owned(), ..Range::default() }))?;
        page.entries.iter().for_each(|entry| view.put(&entry.key, &entry.value));
        at_once(self.store.watch(prefix, page.revision))
    }
}

/// The store answers reads from memory, so its futures are ready when they are made.
fn at_once<T>(answer: Answer<'_, T>) -> Result<T, Error> {
    answer.now_or_never().unwrap_or(Err(Error::Closed))
}

/// What was published and not read yet.
fn news(watches: &mut [Box<dyn Watch>]) -> Result<Vec<Arc<Event>>, Error> {
    let mut events = Vec::new();
    for watch in watches {
        while let Some(more) = watch.next().now_or_never() {
            events.extend(more?);
        }
    }
    Ok(events)
}

fn apply(view: &mut impl View, events: &[Arc<Event>]) {
    for event in events {
        match event.kind {
            EventKind::Put => view.put(&event.entry.key, &event.entry.value),
            EventKind::Delete => view.remove(&event.entry.key),
        }
    }
    view.settle();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use store::{Delete, Durability, Embedded, Expect, History, Put};

    use super::*;

    /// The values by key, how many were ever read, and whether it was settled.
    #[derive(Default)]
    struct Values {
        held: BTreeMap<String, Bytes>,
        read: usize,
        settled: usize,
    }

    impl View for Values {
        fn put(&mut self, key: &Arc<str>, object: &Bytes) {
            self.held.insert(key.to_string(), object.clone());
            self.read += 1;
        }

        fn remove(&mut self, key: &str) {
            self.held.remove(key);
        }

        fn settle(&mut self) {
            self.settled += 1;
        }
    }

    fn open(history: History) -> (tempfile::TempDir, Arc<Embedded>) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(directory.path(), |value, _| value.clone(), history).expect("opens");
        (directory, Arc::new(store))
    }

    async fn put(store: &Embedded, key: &str, value: &'static str) {
        let durability = Durability::Within(std::time::Duration::from_secs(60));
        let put =
            Put { key: key.into(), value: Bytes::from_static(value.as_bytes()), expect: None, durability };
        store.put(put).await.expect("written");
    }

    fn held(view: &Materialized<Values>) -> (String, usize) {
        let view = view.read().expect("current");
        let held = view.held.iter().map(|(key, value)| format!("{key}={} ", String::from_utf8_lossy(value)));
        (held.collect(), view.read)
    }

    #[tokio::test]
    async fn each_question_sees_all_that_was_written_and_reads_each_change_once() {
        let (_directory, store) = open(History::default());
        put(&store, "/a/x", "1").await;
        put(&store, "/c/x", "1").await;
        let view = Materialized::new(store.clone(), vec!["/a/".to_owned(), "/b/".to_owned()]);
        assert_eq!(held(&view), ("/a/x=1 ".to_owned(), 1));
        put(&store, "/b/y", "1").await;
        put(&store, "/a/x", "2").await;
        assert_eq!(held(&view), ("/a/x=2 /b/y=1 ".to_owned(), 3));
        assert_eq!(held(&view), ("/a/x=2 /b/y=1 ".to_owned(), 3), "nothing new, nothing read");
        assert_eq!(view.read().expect("current").settled, 2);
        let key = Arc::from("/a/x");
        let delete = Delete { key, expect: Expect::Present, durability: Durability::Now };
        store.delete(delete).await.expect("removed");
        assert_eq!(held(&view).0, "/b/y=1 ");
    }

    #[tokio::test]
    async fn a_view_that_nobody_asked_for_too_long_is_made_anew() {
        let few = History { events_max: 4, ..History::default() };
        let (_directory, store) = open(few);
        let view = Materialized::new(store.clone(), vec!["/a/".to_owned()]);
        put(&store, "/a/x", "1").await;
        put(&store, "/a/gone", "1").await;
        assert_eq!(held(&view).1, 2);
        let key = Arc::from("/a/gone");
        let delete = Delete { key, expect: Expect::Present, durability: Durability::Now };
        store.delete(delete).await.expect("removed");
        for value in ["2", "3", "4", "5", "6"] {
            put(&store, "/a/x", value).await;
        }
        assert_eq!(held(&view), ("/a/x=6 ".to_owned(), 1), "the removal is in no history any more");
    }
}
