//! Services become nftables rules of this node.
//!
//! ```text
//! Services, EndpointSlices ─ watch ─► ruleset() ─► text ─ changed? ─► nft, one transaction
//!
//! packet ─ address.protocol.port ─► chain of the Service ─ random ─► DNAT to a Pod
//! ```
//!
//! Tasks: [`run`] is one loop. It reads two caches, computes the whole table as
//! a value, and replaces it in one transaction when its text has changed; what
//! changes while `nft` runs is in the next one. What the table leads to is told
//! by [`Programmed`], so that a Pod is only stopped when nobody is sent to it.
//!
//! The table `monopod-<instance>` is ours alone; [`cleanup`] deletes it, and when others do, it is programmed
//! again. Flows that lead to Pods of before are forgotten after each change (`flows.rs`). Not
//! here: session affinity, and the masquerading of what leaves the Pod
//! network, which is the runtime's as it owns the bridge.
//!
//! Start reading at [`ruleset`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

mod flows;
mod outer;
mod programmed;
mod render;
mod ruleset;
mod run;

pub use outer::{Host, Refusal};
pub use programmed::Programmed;
pub use ruleset::{Entry, Family, Instance, Match, Protocol, Range, Ruleset, Target, ruleset};
pub use run::{Error, cleanup, run};
