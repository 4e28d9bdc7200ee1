//! The store on a disk that lies.
//!
//! Fault model:
//! - A write reaches the disk by sectors of 512 bytes, in any order, until a sync. A crash keeps what
//!   was synced and an arbitrary subset of the other sectors; those lost within the file read as zeros.
//! - A sync may fail. The pages it was to write are then clean for the kernel, though they never reached
//!   the disk: reading shows them, a later sync that succeeds does not write them, a crash loses them.
//! - A write may fail for want of room or for any other reason, with a part of it done.
//! - A rename is whole or not at all; when it fails, either may be.
//! - A file that nobody writes may rot: a bit turns over, or its end is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::disk::{Medium, Unreadable};
use crate::embedded::{Embedded, FILE};
use crate::interface::{Delete, Durability, Error, Expect, Put, Range, Store};
use crate::memory::History;
use crate::{OpenError, backup, repair, restore};

const SECTOR: usize = 512;

/// A file as the kernel shows it and as the disk has it.
#[derive(Debug, Clone, Default)]
struct Pages {
    shown: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that a sync would write.
    dirty: BTreeSet<usize>,
}

impl Pages {
    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let from = self.shown.len();
        self.shown.extend_from_slice(bytes);
        self.dirty.extend(from / SECTOR..=(self.shown.len() - 1) / SECTOR);
    }

    fn write_back(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.shown.len());
        if from < to {
            self.durable.resize(self.durable.len().max(to), 0);
            self.durable[from..to].copy_from_slice(&self.shown[from..to]);
        }
    }

    fn sync(&mut self) {
        std::mem::take(&mut self.dirty).into_iter().for_each(|sector| self.write_back(sector));
    }

    fn cut(&mut self, length: usize) {
        self.shown.truncate(length);
        self.durable.truncate(length);
        self.dirty.retain(|sector| sector * SECTOR < length);
    }

    fn crash(&mut self, survivors: u64) {
        for sector in std::mem::take(&mut self.dirty) {
            if survivors >> (sector % 64) & 1 == 1 {
                self.write_back(sector);
            }
        }
        self.shown.clone_from(&self.durable);
    }
}

#[derive(Debug, Clone, Default)]
struct Platter {
    file: Option<Pages>,
    prepared: Option<Pages>,
    /// Bytes the files may have together.
    room: Option<usize>,
    /// Operations until one fails.
    fails_in: Option<u32>,
    /// Whether they go on failing after that.
    stays_broken: bool,
}

impl Platter {
    fn count_down(&mut self) -> io::Result<()> {
        match &mut self.fails_in {
            Some(0) => {
                if !self.stays_broken {
                    self.fails_in = None;
                }
                Err(io::Error::other("the disk failed"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> usize {
        [&self.file, &self.prepared].into_iter().flatten().map(|pages| pages.shown.len()).sum()
    }
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Embedded, Unreadable> {
        Embedded::open_medium(Box::new(self.clone()), stamp, History::default(), None)
    }

    /// What a crash now leaves, on a disk of its own; this one goes on.
    fn after_crash(&self, survivors: u64) -> Self {
        let mut copy = self.platter().clone();
        (copy.fails_in, copy.room, copy.prepared) = (None, None, None);
        copy.file.as_mut().expect("a file").crash(survivors);
        Self(Arc::new(Mutex::new(copy)))
    }

    fn with_file(bytes: &[u8]) -> Self {
        let file = Pages { shown: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() };
        Self(Arc::new(Mutex::new(Platter { file: Some(file), ..Platter::default() })))
    }

    fn bytes(&self) -> Vec<u8> {
        self.platter().file.as_ref().expect("a file").shown.clone()
    }
}

impl Medium for Disk {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.platter().file.as_ref().map(|file| file.shown.clone()))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.platter();
        let broken = platter.count_down();
        let free = platter.room.map_or(usize::MAX, |room| room.saturating_sub(platter.used()));
        let done = if broken.is_err() { bytes.len() / 2 } else { bytes.len().min(free) };
        platter.file.as_mut().expect("a file").append(&bytes[..done]);
        broken?;
        if done < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platter = self.platter();
        let broken = platter.count_down();
        let file = platter.file.as_mut().expect("a file");
        if broken.is_err() {
            file.dirty.clear();
            return broken;
        }
        file.sync();
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut platter = self.platter();
        platter.count_down()?;
        platter.file.as_mut().expect("a file").cut(length as usize);
        Ok(())
    }

    fn prepare(&mut self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut bytes = Vec::new();
        write(&mut bytes)?;
        let mut platter = self.platter();
        platter.count_down()?;
        platter.prepared = None;
        if platter.room.is_some_and(|room| platter.used() + bytes.len() > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        platter.prepared = Some(Pages { shown: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        Ok(())
    }

    fn install(&mut self) -> io::Result<()> {
        let mut platter = self.platter();
        // Whether the rename happened is one thing, whether that was told another.
        let broken = platter.count_down();
        if broken.is_ok() || platter.file.as_ref().is_some_and(|file| file.shown.len() % 2 == 0) {
            platter.file = platter.prepared.take();
        }
        broken
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

/// A few keys with several values, and what is there at the end.
fn some_history(store: &Embedded) -> BTreeMap<String, Vec<u8>> {
    for (key, value) in
        [("/a/1", "one"), ("/a/2", "two"), ("/a/1", "uno"), ("/a/3", "three"), ("/a/1", "eins")]
    {
        block_on(store.put(put(key, value.into()))).expect("written");
    }
    let gone = Delete { key: "/a/2".into(), expect: Expect::Present, durability: Durability::Now };
    block_on(store.delete(gone)).expect("removed");
    block_on(store.put(put("/a/4", vec![b'x'; 2_000]))).expect("written");
    contents(store)
}

#[test]
fn a_full_disk_refuses_writes_reads_go_on_and_room_heals_it() {
    let disk = Disk::default();
    let store = disk.open().expect("opens");
    block_on(store.put(put("/a/kept", vec![1; 100]))).expect("written");
    let size = disk.platter().used();
    disk.platter().room = Some(size + 50_000);
    let mut refused = None;
    for number in 0..2_000 {
        if let Err(err) = block_on(store.put(put(&format!("/a/{number:05}"), vec![7; 16_384]))) {
            refused = Some(err);
            break;
        }
    }
    assert!(matches!(refused, Some(Error::Full)), "{refused:?}");
    assert!(matches!(store.health(), Err(Error::Full)));
    let before = contents(&store);
    assert_eq!(before.get("/a/kept"), Some(&vec![1; 100]));
    disk.platter().room = None;
    put_until_taken(&store, &put("/a/after", vec![2; 16_384]));
    assert!(store.health().is_ok());
    drop(store);
    let again = disk.open().expect("opens");
    let mut expected = before;
    expected.insert("/a/after".into(), vec![2; 16_384]);
    assert_eq!(contents(&again), expected);
}

#[test]
fn a_store_that_nobody_writes_finds_out_that_its_disk_is_well_again() {
    let disk = Disk::default();
    let store = disk.open().expect("opens");
    (disk.platter().fails_in, disk.platter().stays_broken) = (Some(0), true);
    block_on(store.put(put("/a/1", vec![1]))).expect_err("refused");
    assert!(store.health().is_err());
    disk.platter().fails_in = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while store.health().is_err() {
        assert!(std::time::Instant::now() < deadline, "the store never came back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_and_file_agree_after_a_failure_anywhere_in_a_commit() {
    for fails_in in 0..12 {
        for survivors in [0, u64::MAX, 0b1010_1010] {
            let disk = Disk::default();
            let store = disk.open().expect("opens");
            block_on(store.put(put("/a/first", vec![1; 700]))).expect("written");
            disk.platter().fails_in = Some(fails_in);
            let answer = block_on(store.put(put("/a/second", vec![2; 3_000])));
            let crashed = disk.after_crash(survivors).open().expect("opens after a crash");
            let found = contents(&crashed);
            assert!(found.contains_key("/a/first"), "failing at {fails_in}");
            assert!(answer.is_err() || found.contains_key("/a/second"), "an acknowledged write is gone");
            put_until_taken(&store, &put("/a/third", vec![3; 700]));
            disk.platter().fails_in = None;
            let seen = contents(&store);
            assert!(answer.is_err() || seen.contains_key("/a/second"), "an acknowledged write is gone");
            let crashed = disk.after_crash(survivors).open().expect("opens after a crash");
            assert_eq!(contents(&crashed), seen, "failing at {fails_in}");
            drop(store);
            assert_eq!(contents(&disk.open().expect("opens")), seen, "failing at {fails_in}");
        }
    }
}

#[test]
fn pages_lost_by_a_failed_sync_are_not_believed() {
    let disk = Disk::default();
    let store = disk.open().expect("opens");
    // The commit's append succeeds, its sync fails, and later syncs succeed without its pages.
    disk.platter().fails_in = Some(1);
    block_on(store.put(put("/a/lost", vec![1; 2_000]))).expect_err("refused");
    put_until_taken(&store, &put("/a/next", vec![2; 2_000]));
    let crashed = disk.after_crash(0).open().expect("opens after a crash");
    assert_eq!(contents(&crashed), contents(&store));
    assert!(contents(&crashed).contains_key("/a/next"));
}

#[test]
fn a_file_cut_anywhere_is_a_shorter_history_or_refused() {
    let disk = Disk::default();
    let store = disk.open().expect("opens");
    let picture = disk.bytes().len();
    let all = some_history(&store);
    let bytes = disk.bytes();
    for length in 0..bytes.len() {
        let cut = Disk::with_file(&bytes[..length]).open();
        match cut {
            Ok(store) => {
                assert!(length >= picture - 100, "{length}: a part of the picture is missing");
                assert!(contents(&store).len() <= all.len());
            }
            Err(_) => assert!(length < picture, "{length}: a torn tail is no damage"),
        }
    }
    assert_eq!(contents(&Disk::with_file(&bytes).open().expect("whole")), all);
}

#[test]
fn a_bit_that_turned_over_is_noticed_wherever_it_is() {
    let disk = Disk::default();
    let store = disk.open().expect("opens");
    let all = some_history(&store);
    let crashed = disk.bytes();
    block_on(store.close()).expect("closed");
    for bytes in [crashed, disk.bytes()] {
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            if let Ok(store) = Disk::with_file(&rotten).open() {
                assert_eq!(contents(&store), all, "bit {bit} of {}", bytes.len() * 8);
            }
        }
    }
}

#[test]
fn the_file_does_not_grow_for_ever() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path(), stamp, History::default()).expect("opens");
    for number in 0..160_u32 {
        block_on(store.put(put(&format!("/a/{}", number % 3), vec![b'x'; 200_000]))).expect("written");
    }
    let size = std::fs::metadata(directory.path().join(FILE)).expect("there").len();
    assert!(size < 12 << 20, "{size} bytes for 600 KB");
    let all = contents(&store);
    drop(store);
    let again = Embedded::open(directory.path(), stamp, History::default()).expect("opens");
    assert_eq!(contents(&again), all);
}

#[test]
fn what_is_no_store_is_never_taken_for_an_empty_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join(FILE);
    let mut newer = crate::frame::header();
    newer[8] = 9;
    let check = crc32fast::hash(&newer[..12]);
    newer[12..].copy_from_slice(&check.to_le_bytes());
    for (bytes, words) in [
        (&b""[..], "does not begin"),
        (&b"SQLite format 3\0 and so on"[..], "does not begin"),
        (&newer, "a newer monopod"),
    ] {
        std::fs::write(&file, bytes).expect("written");
        let err = Embedded::open(directory.path(), stamp, History::default()).expect_err("refused");
        let OpenError::Foreign { err, .. } = &err else { panic!("{err:?}") };
        assert!(err.to_string().contains(words), "{err}");
        assert_eq!(std::fs::read(&file).expect("there"), bytes, "it is left as it was");
        assert!(repair(directory.path()).is_err(), "there is nothing of ours to repair");
    }
}

#[test]
fn a_repair_keeps_what_is_whole_and_names_what_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(directory.path(), stamp, History::default()).expect("opens");
    let mut all = some_history(&store);
    let old = store.revision();
    block_on(store.close()).expect("closed");
    drop(store);
    assert!(repair(directory.path()).expect("read").is_none(), "a whole file needs none");
    let file = directory.path().join(FILE);
    let mut bytes = std::fs::read(&file).expect("read");
    for value in [&b"eins"[..], b"three"] {
        let at = bytes.windows(value.len()).position(|window| window == value).expect("there");
        bytes[at] ^= 4;
    }
    std::fs::write(&file, &bytes).expect("written");
    let err = Embedded::open(directory.path(), stamp, History::default()).expect_err("refused");
    assert!(err.to_string().contains("is damaged at byte") && err.to_string().contains("1 more"), "{err}");
    let repaired = repair(directory.path()).expect("repaired").expect("damaged");
    let named: Vec<_> = repaired
        .damage
        .iter()
        .map(|damaged| {
            (damaged.part.key.as_ref().map(|(key, _)| key.as_str()), damaged.kept_revision.is_some())
        })
        .collect();
    assert_eq!(named, [(Some("/a/3"), false), (Some("/a/1"), true)]);
    assert_eq!(std::fs::read(repaired.original).expect("kept"), bytes);
    all.remove("/a/3");
    all.insert("/a/1".into(), b"uno".to_vec());
    let store = Embedded::open(directory.path(), stamp, History::default()).expect("opens");
    assert_eq!(contents(&store), all);
    assert!(store.revision() > old);
}

#[test]
fn a_backup_of_a_store_in_use_can_be_restored_elsewhere() {
    let (here, there) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let store = Embedded::open(here.path(), stamp, History::default()).expect("opens");
    let all = some_history(&store);
    let mut image = backup(here.path()).expect("backed up");
    block_on(store.put(put("/a/later", vec![1]))).expect("written");
    let from = std::path::Path::new("backup");
    let restored = restore(there.path(), from, &image).expect("restored");
    assert_eq!(restored.keys, all.len());
    let again = Embedded::open(there.path(), stamp, History::default()).expect("opens");
    assert_eq!(contents(&again), all);
    assert!(again.revision() > store.revision(), "no watcher takes the past for the present");
    drop(again);
    assert!(restore(there.path(), from, &image).is_err(), "a store that is there is not overwritten");
    let middle = image.len() / 2;
    image[middle] ^= 1;
    let empty = tempfile::tempdir().expect("a directory");
    assert!(restore(empty.path(), from, &image).is_err(), "a damaged backup is refused");
    assert!(!empty.path().join(FILE).exists());
}

#[test]
fn whoever_asks_is_told_that_the_committer_died() {
    fn explode(_: &Bytes, _: u64) -> Bytes {
        panic!("for the test")
    }
    let store =
        Embedded::open_medium(Box::new(Disk::default()), explode, History::default(), None).expect("opens");
    assert!(store.health().is_ok());
    block_on(store.put(put("/a/1", vec![1]))).expect_err("nobody is there to answer");
    block_on(store.ended());
    assert!(matches!(store.health(), Err(Error::Closed)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_loses_no_acknowledged_write_and_revisions_never_repeat(
        writes in prop::collection::vec((0..6_u8, 0..1_500_usize, any::<bool>(), any::<bool>(), 0..40_u32), 1..30),
        survivors in any::<u64>(),
    ) {
        let disk = Disk::default();
        let store = disk.open().expect("opens");
        // The first write of a store is durable in any case: it reserves revisions for lazy ones.
        let mut last = block_on(store.put(put("/k/0", vec![0]))).expect("written").revision;
        let mut model = BTreeMap::from([("/k/0".to_owned(), vec![0])]);
        let mut durable = model.clone();
        for (key, size, remove, lazy, fails_in) in writes {
            let durability = if lazy { Durability::Within(Duration::from_secs(3_600)) } else { Durability::Now };
            let key = format!("/k/{key}");
            disk.platter().fails_in = Some(fails_in);
            let answer = if remove {
                let delete = Delete { key: key.as_str().into(), expect: Expect::Present, durability };
                block_on(store.delete(delete))
            } else {
                block_on(store.put(Put { durability, ..put(&key, vec![b'v'; size]) }))
            };
            disk.platter().fails_in = None;
            match answer {
                Ok(entry) => {
                    prop_assert!(entry.revision > last);
                    last = entry.revision;
                    if remove { model.remove(&key) } else { model.insert(key, vec![b'v'; size]) };
                    if !lazy {
                        // It took the lazy ones before it along.
                        durable.clone_from(&model);
                    }
                }
                Err(Error::Conflict(_)) => prop_assert!(remove && !model.contains_key(&key)),
                // A failed write did not happen, for whoever reads from now on.
                Err(_) => put_until_taken(&store, &put("/again", vec![])),
            }
            if store.revision() > last {
                last = store.revision();
                model.insert("/again".to_owned(), vec![]);
                durable.clone_from(&model);
            }
        }
        prop_assert_eq!(&contents(&store), &model);
        let crashed = disk.after_crash(survivors).open().expect("opens after a crash");
        prop_assert!(crashed.revision() >= last, "{} was given out", last);
        let found = contents(&crashed);
        // Lazy writes may have been taken along by a file that was written anew.
        prop_assert!(found == durable || found == model, "{:?}", found.keys());
    }
}
