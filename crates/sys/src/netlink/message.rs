//! Netlink messages: made, sent, and taken apart.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use crate::{Context, Result};

const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const DUMP: u16 = 0x300;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
/// `NLM_F_MULTI`: a part of a longer answer.
const MULTIPLE: u16 = 2;

/// Room for one answer: the kernel never makes a part of a dump larger than this.
pub(super) const ANSWER_MAX: usize = 32 << 10;
/// A refusal repeats the request, and ours are short.
const ACKNOWLEDGEMENT_MAX: usize = 2 << 10;

/// A message under construction.
#[derive(Debug)]
pub(super) struct Builder(Vec<u8>);

impl Builder {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        Builder(bytes)
    }

    /// `struct ifinfomsg`
    pub(super) fn link(mut self, family: u8, index: u32, flags: u32, mask: u32) -> Self {
        self.0.extend([family, 0, 0, 0]);
        for word in [index, flags, mask] {
            self.0.extend(word.to_ne_bytes());
        }
        self
    }

    /// The family's own header, in whole words.
    pub(super) fn header(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in the order of the network.
    pub(super) fn be(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(super) fn number_unless_0(self, kind: u16, value: u32) -> Self {
        if value == 0 { self } else { self.number(kind, value) }
    }

    pub(super) fn name(self, kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// An attribute that holds others.
    pub(super) fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inner(self.attribute(kind, &[]));
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Whether an acknowledgement or the end mark of a dump will follow the answer.
    fn asks_for_end(&self) -> bool {
        u16_at(&self.0, 6).unwrap_or_default() & (ACK | DUMP) != 0
    }

    /// The bytes of a message that its number tells from others.
    pub(super) fn numbered(mut self, sequence: u32) -> Vec<u8> {
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.finish()
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// `None` as the protocol is rtnetlink, whose number is 0.
    pub(super) fn open(protocol: Option<Protocol>, flags: SocketFlags) -> Result<Self> {
        let flags = flags | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        socket.attempt(|| "open a netlink socket").map(Socket)
    }

    /// Receives what the kernel tells everybody in these groups (a mask of bits).
    pub(super) fn join(&self, groups: u32) -> Result<()> {
        bind(&self.0, &SocketAddrNetlink::new(0, groups)).attempt(|| "listen to a netlink group")
    }

    /// The next bytes that have come.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> std::result::Result<usize, Errno> {
        rustix::io::retry_on_intr(|| recv(self.0.as_fd(), &mut bytes[..], RecvFlags::empty()))
            .map(|(got, _)| got)
    }

    /// Sends a request that is answered by yes or no.
    pub(super) fn ask(&self, request: Builder) -> std::result::Result<(), Errno> {
        self.exchange(request, &mut [0; ACKNOWLEDGEMENT_MAX], |_, _| {})
    }

    /// Sends a request and shows each message of the answer.
    pub(super) fn talk(
        &self,
        request: Builder,
        see: impl FnMut(u16, &[u8]),
    ) -> std::result::Result<(), Errno> {
        self.exchange(request, &mut vec![0; ANSWER_MAX], see)
    }

    /// Sends messages that are all done or none. The kernel answers before it returns: what it refuses, and the
    /// last message, which asks for it; or the first, when it does not even look at the others.
    pub(super) fn transact(&self, messages: &[u8], first: u32, last: u32) -> std::result::Result<(), Errno> {
        let mut result = Ok(());
        self.answers(messages, last, |sequence, answer| {
            result = result.and(answer);
            sequence == first && answer.is_err()
        })?;
        result
    }

    /// Sends requests together, each of which is done for itself, and shows each refusal.
    pub(super) fn ask_all(
        &self,
        requests: Vec<Builder>,
        mut refused: impl FnMut(Errno),
    ) -> std::result::Result<(), Errno> {
        let last = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let mut messages = Vec::new();
        for (number, mut request) in (1..).zip(requests) {
            // Who is not refused need not be answered, but for the last, which says that all were done.
            let flags =
                u16_at(&request.0, 6).unwrap_or_default() & !ACK | if number == last { ACK } else { 0 };
            request.0[6..8].copy_from_slice(&flags.to_ne_bytes());
            messages.extend(request.numbered(number));
        }
        if last == 0 {
            return Ok(());
        }
        self.answers(&messages, last, |_, answer| {
            answer.err().into_iter().for_each(&mut refused);
            false
        })
    }

    /// Sends, and shows the answers by number until that to the last has come, or one is enough.
    fn answers(
        &self,
        messages: &[u8],
        last: u32,
        mut is_enough: impl FnMut(u32, std::result::Result<(), Errno>) -> bool,
    ) -> std::result::Result<(), Errno> {
        sendto(self.0.as_fd(), messages, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut bytes = vec![0; ANSWER_MAX];
        loop {
            let got = self.receive(&mut bytes)?;
            let mut rest = &bytes[..got];
            while let Some(message) = next_message(&mut rest) {
                if message.kind != MESSAGE_ERROR {
                    continue;
                }
                if is_enough(message.sequence, error_of(message.body)) || message.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn exchange(
        &self,
        request: Builder,
        bytes: &mut [u8],
        mut see: impl FnMut(u16, &[u8]),
    ) -> std::result::Result<(), Errno> {
        let single = !request.asks_for_end();
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(self.0.as_fd(), &request.finish(), SendFlags::empty(), &kernel)?;
        loop {
            let got = self.receive(bytes)?;
            let mut rest = &bytes[..got];
            while let Some(message) = next_message(&mut rest) {
                match message.kind {
                    MESSAGE_DONE => return Ok(()),
                    MESSAGE_ERROR => return error_of(message.body),
                    kind => see(kind, message.body),
                }
                // A single answer without ACK has no end mark.
                if single && !message.multiple {
                    return Ok(());
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) struct Message<'a> {
    pub(super) kind: u16,
    multiple: bool,
    sequence: u32,
    pub(super) body: &'a [u8],
}

/// Takes a message off the front.
pub(super) fn next_message<'a>(rest: &mut &'a [u8]) -> Option<Message<'a>> {
    let length = u32_at(rest, 0)? as usize;
    let message = rest.get(..length).filter(|message| message.len() >= 16)?;
    let (kind, flags, sequence) = (u16_at(message, 4)?, u16_at(message, 6)?, u32_at(message, 8)?);
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some(Message { kind, multiple: flags & MULTIPLE != 0, sequence, body: &message[16..] })
}

/// The body of an error message begins with the negative error number; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> std::result::Result<(), Errno> {
    match u32_at(body, 0).unwrap_or(0).cast_signed() {
        0 => Ok(()),
        negative => Err(Errno::from_raw_os_error(-negative)),
    }
}

pub(super) fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::from(u16_at(rest, 0)?);
    let value = rest.get(4..length)?;
    let kind = u16_at(rest, 2)? & 0x3fff;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, value))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|four| IpAddr::from(*four)),
        16 => bytes.first_chunk::<16>().map(|sixteen| IpAddr::from(*sixteen)),
        _ => None,
    }
}
