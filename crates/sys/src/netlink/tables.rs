//! Hearing that somebody has deleted an nftables table: `nft flush ruleset` takes all, and a restart of the
//! service of that name does it.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, netlink};

use super::message::{ANSWER_MAX, Socket, next_attribute, next_message};
use crate::{Context, Result};

/// `NFNLGRP_NFTABLES`, the seventh group, as a bit.
const GROUP: u32 = 1 << 6;
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETED_TABLE: u16 = SUBSYSTEM | 2;
/// The end of a transaction.
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const TABLE_NAME: u16 = 1;

/// Hears of one table, by its name in whatever family. Of the network namespace that it was opened in.
#[derive(Debug)]
pub struct TableWatch {
    socket: Socket,
    name: String,
    /// Within the transaction that is being told: a table may be deleted and made again by one.
    deleted: bool,
}

impl TableWatch {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel has no nftables, or no permission.
    pub fn open(name: impl Into<String>) -> Result<Self> {
        let socket = Socket::open(Some(netlink::NETFILTER), SocketFlags::NONBLOCK)?;
        socket.join(GROUP)?;
        Ok(TableWatch { socket, name: name.into(), deleted: false })
    }

    /// Reads all that has come, without waiting, and says whether a transaction has left the table deleted.
    /// What was lost because nobody read for long counts as one that did.
    ///
    /// # Errors
    /// The kernel's.
    pub fn was_deleted(&mut self) -> Result<bool> {
        let mut bytes = vec![0; ANSWER_MAX];
        let mut found = false;
        loop {
            match self.socket.receive(&mut bytes) {
                Ok(got) => found |= self.read(&bytes[..got]),
                Err(Errno::AGAIN) => return Ok(found),
                Err(Errno::NOBUFS) => found = true,
                Err(errno) => return Err(errno).attempt(|| "hear of nftables"),
            }
        }
    }

    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while let Some(message) = next_message(&mut bytes) {
            match message.kind {
                DELETED_TABLE if self.is_meant(message.body) => self.deleted = true,
                NEW_TABLE if self.is_meant(message.body) => self.deleted = false,
                NEW_GENERATION => found |= std::mem::take(&mut self.deleted),
                _ => {}
            }
        }
        found
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
    fn a_deleted_table_is_heard_of_and_a_replaced_one_is_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            namespace::unshare(Namespaces::NETWORK).unwrap();
            let mut watch = TableWatch::open("ours").unwrap();
            let replace = "table ip ours\ndelete table ip ours\ntable ip ours {\n  chain c {\n  }\n}\n";
            nft(replace);
            nft(replace);
            nft("table ip other\n");
            nft("delete table ip other\n");
            assert!(!watch.was_deleted().unwrap());
            nft("delete table ip ours\n");
            assert!(watch.was_deleted().unwrap());
            assert!(!watch.was_deleted().unwrap());
            nft(replace);
            nft("flush ruleset\n");
            assert!(watch.was_deleted().unwrap());
        })
        .join()
        .unwrap();
    }
}
