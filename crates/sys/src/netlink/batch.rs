//! A change of one nftables table, made of messages of our own and all of it or nothing.
//!
//! It knows what changes while the rest of a table stays: elements of its maps and sets, and chains of the few
//! rules that lead packets on. Whole tables are written by `nft`, which knows all.

use std::net::IpAddr;

use rustix::net::{SocketFlags, netlink, sockopt};

use super::NESTED;
use super::message::{ACK, Builder, CREATE, EXCL, Socket, octets, u16_at};
use crate::{Context, Result};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
/// Of all families; the subsystem, in the order of the network.
const WHOLE: [u8; 4] = [0, 0, 0, 10];
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const APPEND: u16 = 0x800;

/// The first two of all messages name the table and what of it is meant, chains apart.
const TABLE: u16 = 1;
const NAME: u16 = 2;
const CHAIN_NAME: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const ELEMENTS: u16 = 3;
const ELEMENTS_SET_ID: u16 = 4;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
/// One of a list, and the value of a datum.
const ONE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const DROP: u32 = 0;
const GOTO: u32 = (-4_i32).cast_unsigned();

/// `ANONYMOUS`, `CONSTANT` and `MAP`.
const CHOICES_FLAGS: u32 = 0x1 | 0x2 | 0x8;
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;
/// What `nft list` needs to know of numbers: the key's are the machine's own, the data's are not.
const CHOICES_USERDATA: [u8; 12] = [0, 4, 1, 0, 0, 0, 1, 4, 0, 0, 0, 0];

/// An element is some forty bytes, and an attribute at most 64 KiB.
const ELEMENTS_AT_ONCE: usize = 500;

/// What the kernel names itself; within a batch the number tells such maps apart.
const CHOICES: &str = "__map%d";

/// The longest comment that `nft` writes and shows, with its end.
const COMMENT_MAX: usize = 128;

/// The families of tables with addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFamily {
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// Part of the key of an element. Each begins at a whole word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An address.
    Address(IpAddr),
    /// A transport protocol, by its number.
    Protocol(u8),
    /// A port.
    Port(u16),
}

/// What an element of a verdict map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The packet is dropped.
    Drop,
    /// It goes on in that chain and does not come back.
    Goto(&'a str),
}

/// A statement of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement<'a> {
    /// Only packets of this transport protocol.
    IsProtocol(u8),
    /// Only packets whose sender is not of this range.
    IsNotFrom(IpAddr, u8),
    /// Sets these bits of the packet's mark.
    Mark(u32),
    /// Leads the connection to one of these, at random; all of the table's family.
    LeadTo(&'a [(IpAddr, u16)]),
}

/// Messages that become one transaction. All are about tables of one name, which each family may have.
#[derive(Debug)]
pub struct Batch {
    table: String,
    family: TableFamily,
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    messages: u32,
    maps: u32,
}

impl Batch {
    /// An empty one, which begins with the table of IPv4.
    pub fn new(table: impl Into<String>) -> Self {
        let (table, family) = (table.into(), TableFamily::Ip);
        let mut batch = Batch { table, family, bytes: Vec::new(), last: 0, messages: 0, maps: 0 };
        batch.push(Builder::new(BATCH_BEGIN, 0).header(&WHOLE));
        batch
    }

    /// What follows is about the table of this family.
    pub fn turn_to(&mut self, family: TableFamily) {
        self.family = family;
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.messages == 1
    }

    /// How large it is; the kernel takes a transaction in one piece.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Makes a chain; one that is there is fine.
    pub fn add_chain(&mut self, name: &str) {
        let message = self.message(NEWCHAIN, CREATE).name(CHAIN_NAME, name);
        self.push(message);
    }

    /// Deletes a chain without rules to which nothing leads.
    pub fn delete_chain(&mut self, name: &str) {
        let message = self.message(DELCHAIN, 0).name(CHAIN_NAME, name);
        self.push(message);
    }

    /// Deletes the rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        let message = self.message(DELRULE, 0).name(NAME, name);
        self.push(message);
    }

    /// Adds a rule to the end of a chain. Of a comment that is too long the end is left out.
    pub fn add_rule(&mut self, chain: &str, statements: &[Statement<'_>], comment: &str) {
        let maps: Vec<u32> = statements.iter().map(|statement| self.choices(statement)).collect();
        let family = self.family;
        let message =
            self.message(NEWRULE, CREATE | APPEND).name(NAME, chain).nest(nested(RULE_EXPRESSIONS), |list| {
                let each = statements.iter().zip(&maps);
                each.fold(list, |list, (statement, map)| encode(list, statement, *map, family))
            });
        self.push(match comment {
            "" => message,
            comment => message.attribute(RULE_USERDATA, &userdata(comment)),
        });
    }

    /// Adds elements to a map of verdicts, or to a set.
    pub fn add_elements<'a>(
        &mut self,
        to: &str,
        elements: impl IntoIterator<Item = (Vec<Field>, Option<Verdict<'a>>)>,
    ) {
        self.elements(NEWSETELEM, CREATE, to, elements);
    }

    /// Deletes elements that are there.
    pub fn delete_elements(&mut self, from: &str, keys: impl IntoIterator<Item = Vec<Field>>) {
        self.elements(DELSETELEM, 0, from, keys.into_iter().map(|key| (key, None)));
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        elements: impl IntoIterator<Item = (Vec<Field>, Option<Verdict<'a>>)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let some = elements.by_ref().take(ELEMENTS_AT_ONCE);
            let message = self.message(kind, flags).name(NAME, set).nest(nested(ELEMENTS), |list| {
                some.fold(list, |list, (key, verdict)| {
                    list.nest(nested(ONE), |element| {
                        let element =
                            element.nest(nested(ELEMENT_KEY), |data| data.attribute(ONE, &joined(&key)));
                        match verdict {
                            None => element,
                            Some(verdict) => {
                                element.nest(nested(ELEMENT_DATA), |data| decided(data, verdict))
                            }
                        }
                    })
                })
            });
            self.push(message);
        }
    }

    /// The map from which a rule with several targets takes one; its number in this batch.
    fn choices(&mut self, statement: &Statement<'_>) -> u32 {
        let Statement::LeadTo(targets) = statement else { return 0 };
        if targets.len() < 2 {
            return 0;
        }
        self.maps += 1;
        let (id, family) = (self.maps, self.family);
        let (address_type, address_length) = match family {
            TableFamily::Ip => (TYPE_IPV4, 4),
            TableFamily::Ip6 => (TYPE_IPV6, 16),
        };
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let map = self
            .message(NEWSET, CREATE | EXCL)
            .name(NAME, CHOICES)
            .be(SET_FLAGS, CHOICES_FLAGS)
            .be(SET_KEY_TYPE, TYPE_INTEGER)
            .be(SET_KEY_LENGTH, 4)
            .be(SET_DATA_TYPE, address_type << TYPE_BITS | TYPE_PORT)
            .be(SET_DATA_LENGTH, address_length + 4)
            .be(SET_ID, id)
            .nest(nested(SET_DESCRIPTION), |description| description.be(ONE, count))
            .attribute(SET_USERDATA, &CHOICES_USERDATA);
        self.push(map);
        let mut numbered = (0_u32..).zip(*targets).peekable();
        while numbered.peek().is_some() {
            let some = numbered.by_ref().take(ELEMENTS_AT_ONCE);
            let message = self
                .message(NEWSETELEM, CREATE)
                .name(NAME, CHOICES)
                .be(ELEMENTS_SET_ID, id)
                .nest(nested(ELEMENTS), |list| {
                    some.fold(list, |list, (number, target)| choice(list, number, *target))
                });
            self.push(message);
        }
        id
    }

    fn message(&self, kind: u16, flags: u16) -> Builder {
        let header = [self.family as u8, 0, 0, 0];
        Builder::new(SUBSYSTEM << 8 | kind, flags).header(&header).name(TABLE, &self.table)
    }

    fn push(&mut self, message: Builder) {
        self.messages += 1;
        self.last = self.bytes.len();
        self.bytes.extend(message.numbered(self.messages));
    }

    /// Makes the change. Blocks as long as the kernel takes.
    ///
    /// # Errors
    /// Something in the table is not as it was believed to be, or it is gone: then nothing was changed.
    pub fn commit(mut self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // Whether all went well is known when the last one is answered, or the beginning is.
        let flags = self.last + 6;
        let asking = u16_at(&self.bytes, flags).unwrap_or_default() | ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&asking.to_ne_bytes());
        let last = self.messages;
        self.push(Builder::new(BATCH_END, 0).header(&WHOLE));
        let attempt = || format!("change nftables table {}", self.table);
        let socket = Socket::open(Some(netlink::NETFILTER), SocketFlags::NONBLOCK)?;
        // A batch is one message to the kernel. Who may not have more room hears that it is too large.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, self.bytes.len() * 2 + (64 << 10));
        socket.transact(&self.bytes, 1, last).attempt(attempt)
    }
}

fn nested(kind: u16) -> u16 {
    kind | NESTED
}

/// A key, or a datum of several fields: each begins at a whole word.
fn joined(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        match field {
            Field::Address(address) => bytes.extend(octets(*address)),
            Field::Protocol(number) => bytes.push(*number),
            Field::Port(port) => bytes.extend(port.to_be_bytes()),
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn decided(data: Builder, verdict: Verdict<'_>) -> Builder {
    data.nest(nested(DATA_VERDICT), |inner| match verdict {
        Verdict::Drop => inner.be(VERDICT_CODE, DROP),
        Verdict::Goto(chain) => inner.be(VERDICT_CODE, GOTO).name(VERDICT_CHAIN, chain),
    })
}

fn choice(list: Builder, number: u32, (address, port): (IpAddr, u16)) -> Builder {
    let target = joined(&[Field::Address(address), Field::Port(port)]);
    list.nest(nested(ONE), |element| {
        element
            .nest(nested(ELEMENT_KEY), |data| data.number(ONE, number))
            .nest(nested(ELEMENT_DATA), |data| data.attribute(ONE, &target))
    })
}

fn userdata(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(COMMENT_MAX - 1);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let length = u8::try_from(end + 1).unwrap_or(u8::MAX);
    [&[0, length], &comment.as_bytes()[..end], &[0]].concat()
}

const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
/// The words of the first register, and those after it.
const WORD_0: u32 = 8;
const META_MARK: u32 = 3;
const META_PROTOCOL: u32 = 16;

/// The statement as what the kernel does, on its first registers.
fn encode(list: Builder, statement: &Statement<'_>, map: u32, family: TableFamily) -> Builder {
    match statement {
        Statement::IsProtocol(number) => {
            let list = load_meta(list, META_PROTOCOL);
            compare(list, EQUAL, &[*number])
        }
        Statement::IsNotFrom(network, bits) => is_not_from(list, *network, *bits),
        Statement::Mark(bits) => {
            let list = load_meta(list, META_MARK);
            let list = bitwise(list, &(!bits).to_ne_bytes(), &bits.to_ne_bytes());
            expression(list, "meta", |meta| meta.be(2, META_MARK).be(3, REGISTER_1))
        }
        Statement::LeadTo(targets) => lead(list, targets, map, family),
    }
}

fn expression(list: Builder, name: &str, inner: impl FnOnce(Builder) -> Builder) -> Builder {
    list.nest(nested(ONE), |one| one.name(1, name).nest(nested(2), inner))
}

fn load_meta(list: Builder, key: u32) -> Builder {
    expression(list, "meta", |meta| meta.be(1, REGISTER_1).be(2, key))
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

fn compare(list: Builder, how: u32, with: &[u8]) -> Builder {
    expression(list, "cmp", |cmp| {
        cmp.be(1, REGISTER_1).be(2, how).nest(nested(3), |data| data.attribute(ONE, with))
    })
}

fn bitwise(list: Builder, mask: &[u8], xor: &[u8]) -> Builder {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    expression(list, "bitwise", |bitwise| {
        bitwise
            .be(1, REGISTER_1)
            .be(2, REGISTER_1)
            .be(3, length)
            .nest(nested(4), |data| data.attribute(ONE, mask))
            .nest(nested(5), |data| data.attribute(ONE, xor))
    })
}

/// As `nft` writes it: of a range that ends with a byte only the bytes before are looked at.
fn is_not_from(list: Builder, network: IpAddr, bits: u8) -> Builder {
    const NETWORK_HEADER: u32 = 1;
    let bytes = octets(network);
    let offset = if network.is_ipv4() { 12 } else { 8 };
    let whole = bits > 0 && bits.is_multiple_of(8);
    let length = if whole { usize::from(bits / 8).min(bytes.len()) } else { bytes.len() };
    let mut list = expression(list, "payload", |payload| {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        payload.be(1, REGISTER_1).be(2, NETWORK_HEADER).be(3, offset).be(4, length)
    });
    if !whole {
        let ones = |byte: usize| usize::from(bits).saturating_sub(byte * 8).min(8);
        let mask: Vec<u8> =
            (0..length).map(|byte| !0xff_u8.checked_shr(ones(byte) as u32).unwrap_or(0)).collect();
        list = bitwise(list, &mask, &vec![0; length]);
    }
    compare(list, NOT_EQUAL, &bytes[..length])
}

fn lead(list: Builder, targets: &[(IpAddr, u16)], map: u32, family: TableFamily) -> Builder {
    if let [(address, port)] = targets {
        let list = immediate(list, REGISTER_1, &octets(*address));
        let list = immediate(list, REGISTER_2, &port.to_be_bytes());
        return translate(list, REGISTER_2, family);
    }
    let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let list = expression(list, "numgen", |numgen| numgen.be(1, REGISTER_1).be(2, count).be(3, 1).be(4, 0));
    let list = expression(list, "lookup", |lookup| {
        lookup.name(1, CHOICES).be(2, REGISTER_1).be(3, REGISTER_1).be(4, map)
    });
    let address_words = if family == TableFamily::Ip { 1 } else { 4 };
    translate(list, WORD_0 + address_words, family)
}

fn immediate(list: Builder, register: u32, value: &[u8]) -> Builder {
    expression(list, "immediate", |immediate| {
        immediate.be(1, register).nest(nested(2), |data| data.attribute(ONE, value))
    })
}

/// To the address in the first register, and the port in that one.
fn translate(list: Builder, port: u32, family: TableFamily) -> Builder {
    const DESTINATION: u32 = 1;
    const WITH_PORTS: u32 = 2;
    expression(list, "nat", |nat| {
        nat.be(1, DESTINATION).be(2, family as u32).be(3, REGISTER_1).be(5, port).be(7, WITH_PORTS)
    })
}

#[cfg(test)]
mod tests;
