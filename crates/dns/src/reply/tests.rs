//! Whole messages: what fits into them, in which order, and who says so.

use std::sync::Arc;

use serde_json::json;

use super::*;

/// A headless Service `db.shop` with many endpoints.
fn zone(endpoints: u8) -> Zone {
    let service = json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}});
    let endpoints: Vec<_> = (0..endpoints).map(|n| json!({"addresses": [format!("10.42.0.{n}")]})).collect();
    let slice = json!({"metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
                       "addressType": "IPv4", "ports": [], "endpoints": endpoints});
    let services = [Arc::new(serde_json::from_value(service).unwrap())];
    Zone::new("cluster.local", &[], &services, &[Arc::new(serde_json::from_value(slice).unwrap())])
}

fn query(name: &str, id: u16) -> Message {
    let mut query = Message::query();
    query.metadata.id = id;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query
}

fn said(zone: &Zone, query: &Message, way: Way) -> (Message, usize) {
    match reply(zone, &query.to_vec().unwrap(), way) {
        Reply::Now(bytes) => (Message::from_vec(&bytes).unwrap(), bytes.len()),
        other => panic!("{other:?}"),
    }
}

const DB: &str = "db.shop.svc.cluster.local.";

#[test]
fn a_reply_that_does_not_fit_says_so_and_holds_what_fits() {
    let (zone, query) = (zone(200), query(DB, 0));
    let (packet, length) = said(&zone, &query, Way::Packet);
    assert!(length <= 512 && packet.metadata.truncation && packet.answers.len() > 20, "{length}");
    let (stream, _) = said(&zone, &query, Way::Stream);
    assert!(!stream.metadata.truncation);
    assert_eq!(stream.answers.len(), 200);
}

#[test]
fn a_client_that_takes_larger_packets_gets_them() {
    let mut query = query(DB, 0);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    query.set_edns(edns);
    let (packet, length) = said(&zone(200), &query, Way::Packet);
    assert!((513..=1232).contains(&length) && packet.edns.is_some(), "{length}");
}

#[test]
fn each_query_begins_with_another_address() {
    let zone = zone(3);
    let first = |id| said(&zone, &query(DB, id), Way::Packet).0.answers[0].data.to_string();
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        ["10.42.0.0", "10.42.0.1", "10.42.0.2", "10.42.0.0"]
    );
}

#[test]
fn replies_carry_the_question_its_id_and_who_says_so() {
    let (message, _) = said(&zone(1), &query("no.shop.svc.cluster.local.", 77), Way::Packet);
    assert_eq!(message.metadata.id, 77);
    assert_eq!(message.queries.len(), 1);
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(message.authorities.len(), 1);
}

#[test]
fn what_is_no_query_gets_no_reply_and_what_is_broken_is_refused() {
    let zone = zone(0);
    let mut answer = query(DB, 1);
    answer.metadata.message_type = MessageType::Response;
    assert!(matches!(reply(&zone, &answer.to_vec().unwrap(), Way::Packet), Reply::Nothing));
    assert!(matches!(reply(&zone, b"short", Way::Packet), Reply::Nothing));
    let broken = [0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, b'x'];
    let Reply::Now(refusal) = reply(&zone, &broken, Way::Packet) else { panic!("no reply") };
    let refusal = Message::from_vec(&refusal).unwrap();
    assert_eq!((refusal.metadata.id, refusal.metadata.response_code), (9, ResponseCode::FormErr));
}

#[test]
fn what_others_found_stands_behind_the_alias() {
    let query = query("out.shop.svc.cluster.local.", 5);
    let alias = Record::from_rdata(
        Name::from_ascii("out.shop.svc.cluster.local.").unwrap(),
        5,
        hickory_proto::rr::RData::CNAME(hickory_proto::rr::rdata::CNAME(Name::from_ascii("a.").unwrap())),
    );
    let mut found = Message::response(1, OpCode::Query);
    found.metadata.response_code = ResponseCode::NXDomain;
    let bytes = with_alias(&query, vec![alias], &found.to_vec().unwrap(), Way::Packet);
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!((message.metadata.id, message.answers.len()), (5, 1));
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
}
