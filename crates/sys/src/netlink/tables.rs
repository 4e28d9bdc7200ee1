//! Hearing that somebody has changed an nftables table: `nft flush ruleset` takes all, and a restart of the
//! service of that name does it; `nft flush chain` and `delete rule` leave a table that does less than it should.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, netlink, sockopt};

use super::message::{ANSWER_MAX, Socket, next_attribute, next_message};
use crate::{Context, Result};

/// `NFNLGRP_NFTABLES`, the seventh group, as a bit.
const GROUP: u32 = 1 << 6;
const SUBSYSTEM: u16 = 10 << 8;
/// Tables, chains, rules, sets and elements, made and deleted: `NFT_MSG_NEWTABLE` to `NFT_MSG_DELSETELEM`.
const FIRST_CHANGE: u16 = SUBSYSTEM;
const LAST_CHANGE: u16 = SUBSYSTEM | 14;
/// The end of a transaction.
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
/// Room for what was told and not yet read: some ten thousand elements.
const QUEUE_BYTES: usize = 4 << 20;
/// The first attribute of all of them is the name of the table.
const TABLE_NAME: u16 = 1;

/// Hears of one table, by its name in whatever family. Of the network namespace that it was opened in.
#[derive(Debug)]
pub struct TableWatch {
    socket: Socket,
    name: String,
    /// The transaction that is being told has to do with the table.
    touched: bool,
}

/// What was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Transactions that have changed the table or what is in it, those of the asker too.
    pub transactions: usize,
    /// Something else was lost, because nobody read for long or a transaction was large.
    pub lost: bool,
}

impl TableWatch {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel has no nftables, or no permission.
    pub fn open(name: impl Into<String>) -> Result<Self> {
        let socket = Socket::open(Some(netlink::NETFILTER), SocketFlags::NONBLOCK)?;
        // What a busy neighbour does to his own tables comes here too, and what is lost must be taken for a
        // change of ours. Who may not have more room keeps what he has.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES);
        socket.join(GROUP)?;
        Ok(TableWatch { socket, name: name.into(), touched: false })
    }

    /// Reads all that has come, without waiting. A transaction is told before whoever asked for it has his
    /// answer, so that one who has just made some finds exactly them, unless there were others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn heard(&mut self) -> Result<Heard> {
        let mut bytes = vec![0; ANSWER_MAX];
        let mut heard = Heard::default();
        loop {
            match self.socket.receive(&mut bytes) {
                Ok(got) => heard.transactions += self.read(&bytes[..got]),
                Err(Errno::AGAIN) => return Ok(heard),
                Err(Errno::NOBUFS) => heard.lost = true,
                Err(errno) => return Err(errno).attempt(|| "hear of nftables"),
            }
        }
    }

    fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while let Some(message) = next_message(&mut bytes) {
            match message.kind {
                FIRST_CHANGE..=LAST_CHANGE => self.touched |= self.is_meant(message.body),
                NEW_GENERATION => ended += usize::from(std::mem::take(&mut self.touched)),
                _ => {}
            }
        }
        ended
    }

    fn is_meant(&self, body: &[u8]) -> bool {
        let Some(mut attributes) = body.get(4..) else { return false };
        let mut all = std::iter::from_fn(|| next_attribute(&mut attributes));
        let name = all.find(|(kind, _)| *kind == TABLE_NAME);
        name.is_some_and(|(_, name)| name.strip_suffix(&[0]).unwrap_or(name) == self.name.as_bytes())
    }
}

/// For those who wait until there is something to read.
impl AsRawFd for TableWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{self, Namespaces};

    fn nft(script: &str) {
        crate::command::run("nft", &["-f", "-"], script.as_bytes()).unwrap();
    }

    #[test]
    fn each_transaction_that_changes_the_table_is_heard_of_once() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            namespace::unshare(Namespaces::NETWORK).unwrap();
            let mut watch = TableWatch::open("ours").unwrap();
            let mut count = || {
                let heard = watch.heard().unwrap();
                assert!(!heard.lost);
                heard.transactions
            };
            let replace = "table ip ours\ndelete table ip ours\ntable ip ours {\n  \
                set s {\n    type ipv4_addr\n    elements = { 192.0.2.1 }\n  }\n  \
                chain c {\n    accept\n  }\n}\n";
            nft(replace);
            nft(replace);
            assert_eq!(count(), 2);
            nft("table ip other {\n  chain c {\n    accept\n  }\n}\n");
            nft("delete table ip other\n");
            assert_eq!(count(), 0, "another's");
            let addresses: Vec<String> = (0..=255).map(|n| format!("192.0.2.{n}, 198.51.100.{n}")).collect();
            let elements = addresses.join(", ");
            nft("table ip other {\n  set s {\n    type ipv4_addr\n  }\n}\n");
            for _ in 0..10 {
                nft(&format!("add element ip other s {{ {elements} }}\nflush set ip other s\n"));
            }
            nft("delete table ip other\n");
            assert_eq!(count(), 0, "much of another's, while nobody reads");
            for change in [
                "delete element ip ours s { 192.0.2.1 }\n",
                "flush chain ip ours c\n",
                "delete chain ip ours c\n",
                "delete table ip ours\n",
            ] {
                nft(change);
                assert_eq!((count(), count()), (1, 0), "{change}");
            }
            nft(replace);
            nft("flush ruleset\n");
            assert_eq!(count(), 2);
        })
        .join()
        .unwrap();
    }
}
