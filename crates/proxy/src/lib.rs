//! Services and NetworkPolicies become nftables rules of this node.
//!
//! ```text
//! Services, EndpointSlices ─ watch ─► ruleset() ─┬─► delta() ─► netlink, one transaction: who is behind Services
//! NetworkPolicies, Pods ─── watch ─► compile() ─┘   change() ─► nft, one transaction: all else
//!
//! packet ─ address.protocol.port ─► chain of the Service ─ random ─► DNAT to a Pod ─► its policies
//! ```
//!
//! Tasks: [`run`] is one loop. It reads its caches, computes the whole table as
//! a value, and changes it in one transaction when it is another one than before; what
//! changes meanwhile is in the next one. What the table leads to is told
//! by [`Programmed`], so that a Pod is only stopped when nobody is sent to it, and only started when the
//! policies that select it hold.
//!
//! The table `monopod-<instance>` is ours alone; [`cleanup`] deletes it, and when others do, it is programmed
//! again. Flows that lead to Pods of before are forgotten after each change (`flows.rs`, `forget.rs`). Not
//! here: the masquerading of what leaves the Pod network, which is the runtime's as it owns the bridge.
//!
//! Start reading at [`ruleset`], and for policies at [`policy::compile`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "a test owns what it starts"))]

mod delta;
mod flows;
mod forget;
mod health_check;
mod outer;
pub mod policy;
mod programmed;
mod render;
mod ruleset;
mod run;

pub use outer::{Host, Refusal};
pub use programmed::Programmed;
pub use render::table_name;
pub use ruleset::{Entry, Family, Instance, Match, Protocol, Range, Ruleset, Target, ruleset};
pub use run::{Error, cleanup, run};
