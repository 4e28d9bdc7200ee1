//! The Pod network of this node: a bridge, an address for each sandbox, ports of the node.
//!
//! ```text
//!  sandbox: eth0 10.42.0.7/32 ── veth ──┐
//!  sandbox: eth0 10.42.0.8/32 ── veth ──┼── bridge mp<instance> 10.42.0.1/24 ── node
//! ```
//!
//! Sandboxes reach each other through the node, not across the bridge: what was translated on the way
//! (Services, host ports) is translated back there, with `br_netfilter` and without.
//!
//! One nftables table of our own, `monopod-<instance>-ports`: it masquerades what leaves the
//! Pod network and leads host ports to Pods. Services are the proxy's, in its own table.
//! The table is a value ([`ports::ruleset`]) and is replaced in one transaction.
//!
//! The shim makes the veth pair, the peer straight in the sandbox's namespace: moving it there
//! would cost 30 ms.

pub(crate) mod addresses;
pub(crate) mod audit;
pub(crate) mod bridge;
pub(crate) mod ports;
mod traffic;

pub(crate) use addresses::Addresses;
pub use addresses::Subnet;
pub use bridge::range_taken;
pub(crate) use traffic::traffic;
