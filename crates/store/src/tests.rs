//! The committer on a disk that lies: it forgets what was not synced, refuses
//! writes when it is full, and fails in the middle of a commit.
//!
//! Fault model: a write is either on disk whole or not at all, in any order, until
//! a sync; a crash keeps what was synced and an arbitrary subset of what was not.
//! Synced data does not rot.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use redb::StorageBackend;

use crate::embedded::Embedded;
use crate::interface::{Delete, Durability, Error, Expect, Put, Range, Store};
use crate::memory::History;

/// The disk: what is synced, and what is only written.
#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    written: Vec<u8>,
    /// Writes since the last sync, as (offset, data).
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Bytes the file may have.
    room: Option<usize>,
    /// Writes and syncs until one fails.
    fails_in: Option<u32>,
}

impl Platter {
    fn count_down(&mut self) -> io::Result<()> {
        match &mut self.fails_in {
            Some(0) => Err(io::Error::other("the disk failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Loses power: of what was not synced, the writes whose bit is set survive.
    fn crash(&mut self, survivors: u64) {
        let mut disk = self.synced.clone();
        for (index, (offset, data)) in self.unsynced.drain(..).enumerate() {
            let end = offset + data.len();
            if survivors >> (index % 64) & 1 == 1 && end <= disk.len() {
                disk[offset..end].copy_from_slice(&data);
            }
        }
        self.written.clone_from(&disk);
        self.synced = disk;
        self.fails_in = None;
    }
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    fn platter(&self) -> std::sync::MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Embedded, redb::Error> {
        let disk = self.clone();
        let medium = move |builder: &redb::Builder| builder.create_with_backend(disk.clone());
        Embedded::open_medium(Box::new(medium), stamp, History::default(), None)
    }

    /// The state after a crash now, on a disk of its own.
    fn after_crash(&self, survivors: u64) -> Self {
        let mut platter = self.platter();
        let mut copy = Platter {
            synced: platter.synced.clone(),
            written: Vec::new(),
            unsynced: platter.unsynced.clone(),
            room: None,
            fails_in: None,
        };
        copy.crash(survivors);
        // The running store goes on as if nothing had happened.
        platter.fails_in = None;
        Self(Arc::new(Mutex::new(copy)))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (platter, start) = (self.platter(), offset as usize);
        let end = start + out.len();
        let data = platter.written.get(start..end).ok_or_else(|| io::Error::other("read past the end"))?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.platter();
        platter.count_down()?;
        if platter.room.is_some_and(|room| len as usize > room) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        platter.written.resize(len as usize, 0);
        // The length of a file is metadata that the file system keeps in order.
        platter.synced.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter();
        platter.count_down()?;
        platter.unsynced.clear();
        platter.synced = platter.written.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.platter();
        platter.count_down()?;
        let (start, end) = (offset as usize, offset as usize + data.len());
        if end > platter.written.len() {
            return Err(io::Error::other("write past the end"));
        }
        platter.written[start..end].copy_from_slice(data);
        platter.unsynced.push((start, data.to_vec()));
        Ok(())
    }
}

fn stamp(value: &Bytes, _revision: u64) -> Bytes {
    value.clone()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let limited = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime.block_on(limited).expect("answers within a minute")
}

fn put(key: &str, value: Vec<u8>) -> Put {
    Put { key: key.into(), value: value.into(), expect: None, durability: Durability::Now }
}

fn contents(store: &Embedded) -> BTreeMap<String, Vec<u8>> {
    let range = Range { prefix: "/".into(), ..Range::default() };
    let page = block_on(store.range(range)).expect("read");
    page.entries.iter().map(|entry| (entry.key.to_string(), entry.value.to_vec())).collect()
}

/// Tries to write until the store has found its disk again.
fn put_until_taken(store: &Embedded, write: &Put) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while block_on(store.put(write.clone())).is_err() {
        assert!(std::time::Instant::now() < deadline, "the store never came back");
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_refuses_writes_reads_go_on_and_room_heals_it() {
    let disk = Disk::default();
    let store = disk.open().expect("opens");
    block_on(store.put(put("/a/kept", vec![1; 100]))).expect("written");
    let size = disk.platter().written.len();
    disk.platter().room = Some(size);
    let mut refused = None;
    for number in 0..2_000 {
        if let Err(err) = block_on(store.put(put(&format!("/a/{number:05}"), vec![7; 16_384]))) {
            refused = Some(err);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Full)), "{refused:?}");
    let before = contents(&store);
    assert_eq!(before.get("/a/kept"), Some(&vec![1; 100]));
    disk.platter().room = None;
    put_until_taken(&store, &put("/a/after", vec![2; 16_384]));
    drop(store);
    let again = disk.open().expect("opens");
    let mut expected = before;
    expected.insert("/a/after".into(), vec![2; 16_384]);
    assert_eq!(contents(&again), expected);
}

#[test]
fn memory_and_file_agree_after_a_failure_anywhere_in_a_commit() {
    for fails_in in 0..40 {
        let disk = Disk::default();
        let store = disk.open().expect("opens");
        block_on(store.put(put("/a/first", vec![1]))).expect("written");
        disk.platter().fails_in = Some(fails_in);
        let answer = block_on(store.put(put("/a/second", vec![2])));
        disk.platter().fails_in = None;
        put_until_taken(&store, &put("/a/third", vec![3]));
        let seen = contents(&store);
        assert!(seen.contains_key("/a/first") && seen.contains_key("/a/third"));
        assert!(answer.is_err() || seen.contains_key("/a/second"), "an acknowledged write is gone");
        drop(store);
        assert_eq!(contents(&disk.open().expect("opens")), seen, "failing at {fails_in}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_loses_no_acknowledged_write_and_revisions_never_repeat(
        writes in prop::collection::vec((0..6_u8, any::<u8>(), any::<bool>(), any::<bool>()), 1..30),
        survivors in any::<u64>(),
    ) {
        let disk = Disk::default();
        let store = disk.open().expect("opens");
        // The first write of a store is durable in any case: it reserves revisions for lazy ones.
        let mut last = block_on(store.put(put("/k/0", vec![0]))).expect("written").revision;
        let mut model = BTreeMap::from([("/k/0".to_owned(), vec![0])]);
        let mut durable = model.clone();
        for (key, value, remove, lazy) in writes {
            let durability = if lazy { Durability::Within(Duration::from_secs(3_600)) } else { Durability::Now };
            let key = format!("/k/{key}");
            let mut written = true;
            if remove {
                let delete = Delete { key: key.as_str().into(), expect: Expect::Present, durability };
                let gone = block_on(store.delete(delete));
                written = gone.is_ok();
                prop_assert_eq!(written, model.remove(&key).is_some());
                last = gone.map_or(last, |entry| entry.revision);
            } else {
                let write = Put { durability, ..put(&key, vec![value]) };
                last = block_on(store.put(write)).expect("written").revision;
                model.insert(key, vec![value]);
            }
            if written && !lazy {
                // It took the lazy ones before it along.
                durable.clone_from(&model);
            }
        }
        prop_assert_eq!(&contents(&store), &model);
        let crashed = disk.after_crash(survivors).open().expect("opens after a crash");
        prop_assert!(crashed.revision() >= last, "{} was given out", last);
        let found = contents(&crashed);
        prop_assert_eq!(found, durable);
    }
}
