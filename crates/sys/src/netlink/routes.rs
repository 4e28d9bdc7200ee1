//! Hearing that somebody has taken a link, an address or a route away, or has set a parameter of the network.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::message::{ANSWER_MAX, Socket, next_message};
use super::{DELLINK, NEWLINK, parse_link};
use crate::{Context, Result};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE` and `RTNLGRP_IPV4_NETCONF` as bits.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 23;
const DELADDR: u16 = 21;
const DELROUTE: u16 = 25;
const NEWNETCONF: u16 = 80;

/// Hears of what makes a network less than it was. Of the network namespace that it was opened in.
#[derive(Debug)]
pub struct RouteWatch {
    socket: Socket,
    /// How the names of the links begin whose changes count.
    names: Vec<String>,
}

impl RouteWatch {
    /// Begins to listen. Changes of links count if their names begin with one of `names`.
    ///
    /// # Errors
    /// Too many open files.
    pub fn open(names: Vec<String>) -> Result<Self> {
        let socket = Socket::open(None, SocketFlags::NONBLOCK)?;
        socket.join(GROUPS)?;
        Ok(RouteWatch { socket, names })
    }

    /// Reads all that has come, without waiting, and says whether it is a reason to look.
    ///
    /// # Errors
    /// The kernel's.
    pub fn heard(&mut self) -> Result<bool> {
        let mut bytes = vec![0; ANSWER_MAX];
        let mut heard = false;
        loop {
            match self.socket.receive(&mut bytes) {
                Ok(got) => heard |= self.read(&bytes[..got]),
                Err(Errno::AGAIN) => return Ok(heard),
                // What was lost may have been what is waited for.
                Err(Errno::NOBUFS) => heard = true,
                Err(errno) => return Err(errno).attempt(|| "hear of the network"),
            }
        }
    }

    fn read(&self, mut bytes: &[u8]) -> bool {
        let mut heard = false;
        while let Some(message) = next_message(&mut bytes) {
            heard |= match message.kind {
                DELADDR | DELROUTE | NEWNETCONF => true,
                DELLINK | NEWLINK => {
                    let link = parse_link(message.body);
                    link.is_some_and(|link| self.names.iter().any(|name| link.name.starts_with(name)))
                }
                _ => false,
            };
        }
        heard
    }
}

/// For those who wait until there is something to read.
impl AsRawFd for RouteWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{self, Namespaces};
    use crate::netlink::Link;

    #[test]
    fn what_is_taken_away_is_heard_of_and_links_of_others_are_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::spawn(|| {
            namespace::unshare(Namespaces::NETWORK).unwrap();
            let links = Link::open().unwrap();
            let index = links.make_bridge("ours0").unwrap();
            let mut watch = RouteWatch::open(vec!["ours".into()]).unwrap();
            assert!(!watch.heard().unwrap());
            links.add_address(index, [192, 0, 2, 1].into(), 24).unwrap();
            watch.heard().unwrap();
            links.set_up(index).unwrap();
            assert!(watch.heard().unwrap(), "a change of our link");
            links.remove("ours0").unwrap();
            assert!(watch.heard().unwrap(), "its end");
            assert!(!watch.heard().unwrap(), "once");
        })
        .join()
        .unwrap();
    }
}
