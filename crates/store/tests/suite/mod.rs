//! What every implementation of the store must do.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{Delete, Durability, Error, EventKind, Expect, Put, Range, Store};

/// Text followed by `@` and its revision.
pub(crate) fn stamp(value: &Bytes, revision: u64) -> Bytes {
    let end = value.iter().position(|byte| *byte == b'@').unwrap_or(value.len());
    let mut stamped = value[..end].to_vec();
    stamped.extend_from_slice(format!("@{revision}").as_bytes());
    stamped.into()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let limited = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime.block_on(limited).expect("answers within a minute")
}

pub(crate) fn put(key: &str, value: &'static str) -> Put {
    Put {
        key: key.into(),
        value: Bytes::from_static(value.as_bytes()),
        expect: Some(Expect::Absent),
        durability: Durability::Now,
    }
}

fn replace(key: &str, value: &'static str) -> Put {
    Put { expect: None, ..put(key, value) }
}

fn delete(key: &str, expect: Expect) -> Delete {
    Delete { key: key.into(), expect, durability: Durability::Now }
}

fn under(prefix: &str) -> Range {
    Range { prefix: prefix.into(), ..Range::default() }
}

fn write_all(store: &Arc<dyn Store>, keys: &[&str]) {
    for key in keys {
        block_on(store.put(put(key, "old"))).expect("written");
    }
}

/// Runs every case on a fresh store; the first of the pair keeps its place alive.
pub(crate) fn run(make: impl Fn() -> (Box<dyn Any>, Arc<dyn Store>)) {
    let cases: [fn(&Arc<dyn Store>); 9] = [
        revisions_grow_by_one_and_are_stamped,
        writes_compare,
        ranges_are_ordered_and_bounded_and_count_what_remains,
        the_past_can_be_read,
        a_watch_delivers_what_came_after_in_order_once,
        a_watch_of_a_key_sees_only_that_key,
        a_watch_can_begin_in_the_past,
        compaction_ends_what_can_be_told,
        one_of_many_writers_wins,
    ];
    for case in cases {
        let (place, store) = make();
        case(&store);
        drop((store, place));
    }
}

fn revisions_grow_by_one_and_are_stamped(store: &Arc<dyn Store>) {
    let start = store.revision();
    let first = block_on(store.put(put("/a/1", "x"))).expect("written");
    let second = block_on(store.put(put("/a/2", "y"))).expect("written");
    assert_eq!((first.revision, second.revision), (start + 1, start + 2));
    assert_eq!(second.value, Bytes::from(format!("y@{}", start + 2)));
    assert_eq!(store.revision(), start + 2);
    let change = Put { expect: Some(Expect::Revision(start + 1)), ..put("/a/1", "z") };
    let changed = block_on(store.put(change)).expect("written");
    assert_eq!((changed.create_revision, changed.revision), (start + 1, start + 3));
    let gone = block_on(store.delete(delete("/a/1", Expect::Present))).expect("removed");
    assert_eq!((gone.revision, &gone.value), (start + 4, &Bytes::from(format!("z@{}", start + 4))));
    assert!(block_on(store.get("/a/1")).expect("read").is_none());
}

fn writes_compare(store: &Arc<dyn Store>) {
    let first = block_on(store.put(put("/a/1", "x"))).expect("written");
    let revision = store.revision();
    for expect in [Expect::Absent, Expect::Revision(first.revision + 1)] {
        let answer = block_on(store.put(Put { expect: Some(expect), ..put("/a/1", "y") }));
        let Err(Error::Conflict(Some(current))) = answer else { panic!("{answer:?}") };
        assert_eq!(current.revision, first.revision);
    }
    let missing = Put { expect: Some(Expect::Present), ..put("/a/2", "y") };
    assert!(matches!(block_on(store.put(missing)), Err(Error::Conflict(None))));
    let gone = block_on(store.delete(delete("/a/2", Expect::Present)));
    assert!(matches!(gone, Err(Error::Conflict(None))));
    let other = block_on(store.delete(delete("/a/1", Expect::Revision(first.revision + 1))));
    assert!(matches!(other, Err(Error::Conflict(Some(_)))));
    assert_eq!(store.revision(), revision, "a refused write takes no revision");
    block_on(store.put(replace("/a/2", "y"))).expect("whatever it is");
}

fn ranges_are_ordered_and_bounded_and_count_what_remains(store: &Arc<dyn Store>) {
    write_all(store, &["/a/c", "/a/a", "/b/a", "/a/b", "/ab/x", "/a/b/deep"]);
    let keys = |range: Range| {
        let page = block_on(store.range(range)).expect("read");
        let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.to_string()).collect();
        (keys, page.remaining)
    };
    let all = ["/a/a", "/a/b", "/a/b/deep", "/a/c"].map(str::to_owned);
    assert_eq!(keys(under("/a/")), (all.to_vec(), 0));
    assert_eq!(keys(Range { limit: 2, ..under("/a/") }), (all[..2].to_vec(), 2));
    assert_eq!(keys(Range { limit: 2, after: Some("/a/b".into()), ..under("/a/") }), (all[2..].to_vec(), 0));
}

fn the_past_can_be_read(store: &Arc<dyn Store>) {
    write_all(store, &["/a/1", "/a/2", "/a/3"]);
    let then = store.revision();
    block_on(store.put(replace("/a/1", "new"))).expect("written");
    block_on(store.delete(delete("/a/2", Expect::Present))).expect("removed");
    block_on(store.put(put("/a/4", "new"))).expect("written");
    let page = block_on(store.range(Range { revision: Some(then), ..under("/a/") })).expect("read");
    let read: Vec<_> = page.entries.iter().map(|entry| (&*entry.key, &entry.value[..3])).collect();
    assert_eq!(read, [("/a/1", &b"old"[..]), ("/a/2", b"old"), ("/a/3", b"old")]);
    assert_eq!(page.revision, then);
    let future = Range { revision: Some(then + 100), ..under("/a/") };
    assert!(matches!(block_on(store.range(future)), Err(Error::Future { .. })));
}

fn a_watch_delivers_what_came_after_in_order_once(store: &Arc<dyn Store>) {
    let start = store.revision();
    let mut watch = block_on(store.watch("/a/", start)).expect("watches");
    write_all(store, &["/a/1", "/b/1"]);
    block_on(store.put(replace("/a/1", "y"))).expect("written");
    block_on(store.delete(delete("/a/1", Expect::Present))).expect("removed");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in block_on(watch.next()).expect("delivers") {
            let before = event.previous.as_ref().map(|entry| entry.revision - start);
            seen.push((event.kind, event.entry.revision - start, before));
        }
    }
    let (put, delete) = (EventKind::Put, EventKind::Delete);
    assert_eq!(seen, [(put, 1, None), (put, 3, Some(1)), (delete, 4, Some(3))]);
    assert_eq!(watch.progress(), start + 4);
    write_all(store, &["/b/2"]);
    assert_eq!(watch.progress(), start + 5, "other keys move a watcher that has seen all its own");
    write_all(store, &["/a/2", "/b/3"]);
    assert_eq!(watch.progress(), start + 5, "what is not delivered yet is not told as seen");
}

fn a_watch_of_a_key_sees_only_that_key(store: &Arc<dyn Store>) {
    let mut watch = block_on(store.watch("/a/1", store.revision())).expect("watches");
    write_all(store, &["/a/11", "/a/1/deep", "/a/1"]);
    let events = block_on(watch.next()).expect("delivers");
    let keys: Vec<_> = events.iter().map(|event| &*event.entry.key).collect();
    assert_eq!(keys, ["/a/1"]);
}

fn a_watch_can_begin_in_the_past(store: &Arc<dyn Store>) {
    let start = store.revision();
    write_all(store, &["/a/1", "/a/2", "/a/3"]);
    let mut watch = block_on(store.watch("/a/", start + 1)).expect("watches");
    let events = block_on(watch.next()).expect("delivers");
    let keys: Vec<_> = events.iter().map(|event| &*event.entry.key).collect();
    assert_eq!(keys, ["/a/2", "/a/3"]);
    let future = block_on(store.watch("/a/", start + 100)).err();
    assert!(matches!(future, Some(Error::Future { .. })));
}

fn compaction_ends_what_can_be_told(store: &Arc<dyn Store>) {
    let start = store.revision();
    write_all(store, &["/a/1", "/a/2", "/a/3"]);
    block_on(store.compact(start + 2)).expect("compacts");
    let watch = block_on(store.watch("/a/", start + 1)).err();
    assert!(matches!(watch, Some(Error::Compacted { .. })));
    let past = Range { revision: Some(start + 1), ..under("/a/") };
    assert!(matches!(block_on(store.range(past)), Err(Error::Compacted { .. })));
    let mut watch = block_on(store.watch("/a/", start + 2)).expect("watches");
    assert_eq!(&*block_on(watch.next()).expect("delivers")[0].entry.key, "/a/3");
    assert!(matches!(block_on(store.compact(start + 100)), Err(Error::Future { .. })));
}

fn one_of_many_writers_wins(store: &Arc<dyn Store>) {
    let first = block_on(store.put(put("/a/1", "x"))).expect("written");
    let write = |store: Arc<dyn Store>| {
        let expect = Some(Expect::Revision(first.revision));
        std::thread::spawn(move || block_on(store.put(Put { expect, ..put("/a/1", "y") })).is_ok())
    };
    let threads: Vec<_> = (0..8).map(|_| write(Arc::clone(store))).collect();
    let won = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|won| *won).count();
    assert_eq!(won, 1);
}
