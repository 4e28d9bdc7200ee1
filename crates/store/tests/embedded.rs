//! The suite of every store, on the embedded engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{Delete, Durability, Embedded, Error, Expect, History, OpenError, Put, Store};

mod suite;
use suite::{block_on, put, stamp};

fn open(directory: &std::path::Path) -> Embedded {
    Embedded::open(directory, stamp, History::default()).expect("the directory opens")
}

#[test]
fn passes_the_suite_of_every_store() {
    suite::run(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        (Box::new(directory), Arc::new(store))
    });
}

#[test]
fn what_was_written_is_there_after_opening_again_and_revisions_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path());
    let entry = block_on(first.put(put("/pods/default/a", "one"))).expect("written");
    block_on(first.close()).expect("closed");
    drop(first);
    let second = open(directory.path());
    let again = block_on(second.get("/pods/default/a")).expect("read").expect("there");
    assert_eq!((again.revision, &again.value), (entry.revision, &entry.value));
    assert_eq!(second.revision(), entry.revision);
    let next = block_on(second.put(put("/pods/default/b", "two"))).expect("written");
    assert_eq!(next.revision, entry.revision + 1);
    let old = block_on(second.watch("/pods/", 0)).err();
    assert!(matches!(old, Some(Error::Compacted { .. })), "{old:?}");
}

#[test]
fn lazy_writes_are_on_disk_after_close_and_after_their_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let lazy = |name: &str, within| Put { durability: Durability::Within(within), ..put(name, "beat") };
    let first = open(directory.path());
    block_on(first.put(lazy("/leases/a", Duration::from_millis(10)))).expect("written");
    let copy = tempfile::tempdir().expect("a directory");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // A copy of the file is what a crash would leave.
        std::fs::copy(directory.path().join("store.log"), copy.path().join("store.log")).expect("copied");
        let crashed = Embedded::open(copy.path(), stamp, History::default());
        if crashed.is_ok_and(|store| block_on(store.get("/leases/a")).is_ok_and(|found| found.is_some())) {
            break;
        }
        assert!(Instant::now() < deadline, "the lazy write never reached the disk");
    }
    block_on(first.put(lazy("/leases/b", Duration::from_secs(3600)))).expect("written");
    block_on(first.close()).expect("closed");
    drop(first);
    let second = open(directory.path());
    assert!(block_on(second.get("/leases/b")).expect("read").is_some());
}

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let _first = open(directory.path());
    let second = Embedded::open(directory.path(), stamp, History::default()).err();
    let Some(OpenError::InUse { pid, .. }) = &second else { panic!("{second:?}") };
    assert_eq!(pid, &std::process::id().to_string());
}

#[test]
fn a_file_in_the_way_of_the_directory_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    std::fs::write(&path, "x").expect("written");
    let err = Embedded::open(&path, stamp, History::default()).expect_err("refused");
    assert!(err.to_string().contains(path.to_str().expect("text")), "{err}");
}

#[test]
fn nothing_is_written_after_close() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    block_on(store.close()).expect("closed");
    assert!(matches!(block_on(store.put(put("/a/b", "late"))), Err(Error::Closed)));
    let gone = Delete { key: "/a/b".into(), expect: Expect::Present, durability: Durability::Now };
    assert!(matches!(block_on(store.delete(gone)), Err(Error::Closed)));
}

#[test]
fn a_short_history_answers_compacted_and_cuts_off_the_slow_watcher() {
    let directory = tempfile::tempdir().expect("a directory");
    let history = History { events_max: 4, ..History::default() };
    let store = Embedded::open(directory.path(), stamp, history).expect("opens");
    let start = store.revision();
    let mut slow = block_on(store.watch("/pods/", start)).expect("watches");
    let mut other = block_on(store.watch("/nodes/", start)).expect("watches");
    for number in 0..10 {
        block_on(store.put(put(&format!("/pods/default/{number}"), "x"))).expect("written");
    }
    assert!(matches!(block_on(slow.next()), Err(Error::Lagged)));
    assert!(matches!(block_on(store.watch("/pods/", start)), Err(Error::Compacted { .. })));
    block_on(store.put(put("/nodes/one", "x"))).expect("written");
    let events = block_on(other.next()).expect("a quiet prefix loses nothing to a busy one");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].entry.value, Bytes::from(format!("x@{}", start + 11)));
}
