//! A process that is killed in the middle of writes loses none that it was told of.

#![allow(clippy::disallowed_methods, reason = "a test owns what it starts")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use store::{Durability, Embedded, Expect, History, Put, Store};

fn stamp(value: &Bytes, _revision: u64) -> Bytes {
    value.clone()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

const DIRECTORY: &str = "STORE_TEST_DIRECTORY";
const WRITERS: usize = 8;
/// Acknowledgements after which the writer is killed, in each round.
const ROUNDS: [usize; 4] = [1, 40, 200, 500];

fn open(directory: &Path) -> Embedded {
    Embedded::open(directory, stamp, History::default()).expect("opens")
}

/// Not a test of its own: what the killed process does. Without its directory it does nothing.
#[test]
fn writer() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let store = Arc::new(open(Path::new(&directory)));
    let write = |writer: usize, store: Arc<Embedded>| {
        std::thread::spawn(move || {
            for number in 0.. {
                let key = format!("/w/{writer}/{}-{number}", std::process::id());
                let value = Bytes::from(vec![b'v'; 700]);
                let put = Put {
                    key: key.as_str().into(),
                    value,
                    expect: Some(Expect::Absent),
                    durability: Durability::Now,
                };
                let entry = block_on(store.put(put)).expect("written");
                // One write to the pipe is whole or not there, also when the process is killed.
                let line = format!("ACK {key} {}\n", entry.revision);
                std::io::stderr().write_all(line.as_bytes()).expect("told");
            }
        })
    };
    let threads: Vec<_> = (0..WRITERS).map(|writer| write(writer, Arc::clone(&store))).collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

#[test]
fn no_acknowledged_write_is_lost_to_kill_9() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for acks in ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut round = 0;
        for line in lines.map_while(Result::ok) {
            let Some(rest) = line.strip_prefix("ACK ") else { continue };
            let (key, revision) = rest.split_once(' ').expect("key and revision");
            acknowledged.push((key.to_owned(), revision.parse().expect("a number")));
            round += 1;
            if round == acks {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("ended");
        let store = open(directory.path());
        for (key, revision) in &acknowledged {
            let entry = block_on(store.get(key)).expect("read");
            let found = entry.as_ref().map(|entry| entry.revision);
            assert_eq!(found, Some(*revision), "{key} of {} acknowledged", acknowledged.len());
        }
    }
}
