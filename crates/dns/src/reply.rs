//! From the bytes of a query to the bytes of a reply, or to what must be asked elsewhere.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use crate::{Answer, Zone, answer};

/// What fits into one packet on every path (the DNS flag day of 2020).
const PACKET_MAX: u16 = 1232;
/// Bytes of a header; what is shorter cannot even be refused.
const HEADER: usize = 12;

/// How a query came: it limits the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Packet,
    Stream,
}

/// What to do with a query.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Send this.
    Now(Vec<u8>),
    /// Send on the query as it came, and what comes back.
    Forward(Box<Message>),
    /// Ask for another name and put its records behind these aliases.
    Alias(Box<Message>, Vec<Record>, Name),
    /// It is no query: say nothing.
    Nothing,
}

/// Decides what to do with the bytes of a query.
pub(crate) fn reply(zone: &Zone, bytes: &[u8], way: Way) -> Reply {
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        Err(_) if bytes.len() < HEADER || bytes[2] & 0x80 != 0 => return Reply::Nothing,
        Err(_) => {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            let refusal = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return Reply::Now(refusal.to_vec().unwrap_or_default());
        }
    };
    if request.metadata.message_type != MessageType::Query {
        return Reply::Nothing;
    }
    let refuse = |code| Reply::Now(encode(&request, response(&request, code), way));
    if request.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = &request.queries[..] else { return refuse(ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    let mut message = response(&request, ResponseCode::NoError);
    message.metadata.authoritative = true;
    match answer(zone, query) {
        Answer::Records(records, additional) => {
            message.answers = turn(records, request.metadata.id);
            message.additionals = additional;
        }
        Answer::NoData(soa) => message.authorities.push(*soa),
        Answer::NoName(soa) => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.authorities.push(*soa);
        }
        Answer::Alias(records, name) => return Reply::Alias(Box::new(request), records, *name),
        Answer::Forward => return Reply::Forward(Box::new(request)),
    }
    Reply::Now(encode(&request, message, way))
}

/// The reply when nobody can be asked.
pub(crate) fn failure(request: &Message, way: Way) -> Vec<u8> {
    encode(request, response(request, ResponseCode::ServFail), way)
}

/// The query for the name that an alias leads to.
pub(crate) fn query_for(request: &Message, name: &Name) -> Option<Vec<u8>> {
    let kind = request.queries.first()?.query_type();
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    query.to_vec().ok()
}

/// Aliases, and behind them what was found out about the last of them.
pub(crate) fn with_alias(request: &Message, aliases: Vec<Record>, found: &[u8], way: Way) -> Vec<u8> {
    let Ok(found) = Message::from_vec(found) else { return failure(request, way) };
    let mut message = response(request, found.metadata.response_code);
    message.answers = aliases;
    message.answers.extend(found.answers);
    message.authorities = found.authorities;
    encode(request, message, way)
}

fn response(request: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PACKET_MAX);
        message.set_edns(edns);
    }
    message
}

/// Clients take the first address: each should take another one.
fn turn(mut records: Vec<Record>, by: u16) -> Vec<Record> {
    let aliases = records.iter().take_while(|record| record.record_type() == RecordType::CNAME).count();
    let rest = &mut records[aliases..];
    if !rest.is_empty() {
        rest.rotate_left(usize::from(by) % rest.len());
    }
    records
}

/// The bytes, with as many records as fit: many programs never ask again by TCP.
fn encode(request: &Message, mut message: Message, way: Way) -> Vec<u8> {
    let limit = match way {
        Way::Packet => usize::from(request.max_payload().clamp(512, PACKET_MAX)),
        Way::Stream => usize::from(u16::MAX),
    };
    let fits = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    // Nobody needs these: who wants them asks.
    message.additionals.clear();
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    let answers = std::mem::take(&mut message.answers);
    let mut best = message.truncate();
    message.metadata.truncation = true;
    let (mut fitting, mut too_many) = (0, answers.len());
    while fitting + 1 < too_many {
        let middle = fitting.midpoint(too_many);
        message.answers = answers[..middle].to_vec();
        if fits(&message).is_some() {
            fitting = middle;
            best.clone_from(&message);
        } else {
            too_many = middle;
        }
    }
    best.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests;
