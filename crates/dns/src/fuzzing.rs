//! A door for the fuzz targets (`fuzz/`): what reads the packets of strangers.

use crate::Zone;
use crate::reply::{Reply, Way, failure, query_for, reply, with_alias};

/// Answers a query, and what a resolver elsewhere said of it.
pub fn message(zone: &Zone, query: &[u8], elsewhere: &[u8]) {
    for way in [Way::Packet, Way::Stream] {
        match reply(zone, query, way) {
            Reply::Now(bytes) => assert!(bytes.len() <= usize::from(u16::MAX), "a reply fits its length"),
            Reply::Forward(request) => drop(failure(&request, way)),
            Reply::Alias(request, records, name) => {
                drop((query_for(&request, &name), with_alias(&request, records, elsewhere, way)));
            }
            Reply::Nothing => {}
        }
    }
}
