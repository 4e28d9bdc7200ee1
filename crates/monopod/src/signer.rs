//! Lets the controllers sign certificates with the authority's key, which they never see.

use std::sync::Arc;

use controllers::{Order, Sign};
use jiff::Timestamp;
use wire::pki::Authority;

/// An order in the controllers' words, given to the authority in its own: neither crate may know the other.
pub(crate) fn of(authority: Arc<Authority>) -> Sign {
    Sign::new(move |order: &Order| {
        let order = wire::pki::Order {
            request: &order.request,
            key_usage: order.key_usage,
            extended_key_usages: &order.extended_key_usages,
            not_before: order.not_before,
            not_after: order.not_after,
        };
        let signed = authority.certify(&order, Timestamp::now());
        signed.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    })
}
