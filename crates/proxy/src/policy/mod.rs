//! NetworkPolicies: which of this node's Pods are isolated, and who may reach them all the same.
//!
//! ```text
//! NetworkPolicies, Pods, Namespaces ─ compile() ─► Policies ─ render ─► chains, maps and sets of the table
//!
//! packet of a Pod ─ isolated? ─► rules of its policies ─ for a Pod? isolated? ─► rules of its policies
//! ```
//!
//! [`compile`] knows no packets and `render` no objects; between them stand [`Policies`], which can be asked
//! themselves ([`Policies::allows`]). Only Pods of this node are isolated here, for each packet of theirs
//! passes this node.
//!
//! The address that a packet is judged by is the one it goes to: what was addressed to a Service has been
//! led to a Pod by then, and its sender is still the one who sent it.

mod admission;
mod compile;
mod feed;
pub(crate) mod render;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use admission::{Admission, Known};
pub use compile::{Addressed, Dns, Objects, compile};
pub(crate) use feed::Feed;
pub use spans::Span;

use crate::{Family, Protocol};

/// A side of a connection, seen from the Pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the Pod.
    Ingress,
    /// From the Pod.
    Egress,
}

impl Direction {
    pub(crate) const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];
}

/// The UID of a policy.
pub type PolicyUid = Arc<str>;

/// A destination as a whole.
pub type Destination = (IpAddr, Protocol, u16);

/// What all policies together say for the Pods of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Pods that some policy selects in this direction: they get what the rules allow and nothing else.
    pub isolated: BTreeMap<(Direction, IpAddr), Isolated>,
    /// The rules of those policies.
    pub rules: BTreeMap<(Direction, PolicyUid), Vec<Rule>>,
}

/// A Pod that policies select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolated {
    /// `namespace/name`, for those who read the rules.
    pub pod: String,
    /// The policies; what one of them allows is allowed.
    pub policies: BTreeSet<PolicyUid>,
}

/// One rule of a policy: who, and to which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The other side.
    pub peers: Peers,
    /// The ports, by number.
    pub ports: Ports,
    /// Allowed besides: ports by name, which are others for each Pod. Of egress they are of peers already.
    pub exact: BTreeSet<Destination>,
}

/// The other side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Whoever it is.
    Any,
    /// One of these.
    Of {
        /// Addresses of Pods.
        pods: BTreeSet<IpAddr>,
        /// Addresses of blocks; disjoint.
        blocks: Vec<Span<IpAddr>>,
    },
}

/// Ports by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Whatever the protocol is, also one without ports.
    Any,
    /// Those of these protocols; disjoint.
    Of(BTreeMap<Protocol, Vec<Span<u16>>>),
}

impl Peers {
    fn has(&self, address: IpAddr) -> bool {
        match self {
            Peers::Any => true,
            Peers::Of { pods, blocks } => {
                pods.contains(&address) || blocks.iter().any(|block| holds(block, address))
            }
        }
    }
}

impl Ports {
    fn has(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Ports::Any => true,
            Ports::Of(numbers) => {
                numbers.get(&protocol).into_iter().flatten().any(|span| span.contains(port))
            }
        }
    }
}

/// Addresses of different families have an order too, which says nothing here.
fn holds(block: &Span<IpAddr>, address: IpAddr) -> bool {
    Family::of(block.first) == Family::of(address) && block.contains(address)
}

impl Policies {
    /// Whether nobody is isolated.
    pub fn is_empty(&self) -> bool {
        self.isolated.is_empty()
    }

    /// Whether a connection may be made, as far as this node's Pods are concerned.
    pub fn allows(&self, from: IpAddr, to: Destination) -> bool {
        from == to.0
            || Direction::BOTH.into_iter().all(|direction| {
                let pod = if direction == Direction::Ingress { to.0 } else { from };
                self.isolated.get(&(direction, pod)).is_none_or(|isolated| {
                    isolated.policies.iter().any(|policy| self.policy_allows(direction, policy, from, to))
                })
            })
    }

    fn policy_allows(&self, direction: Direction, policy: &PolicyUid, from: IpAddr, to: Destination) -> bool {
        let (address, protocol, port) = to;
        self.rules.get(&(direction, policy.clone())).into_iter().flatten().any(|rule| {
            let by_number = |peer| rule.peers.has(peer) && rule.ports.has(protocol, port);
            let exact = rule.exact.contains(&to);
            match direction {
                Direction::Ingress => by_number(from) || (exact && rule.peers.has(from)),
                Direction::Egress => by_number(address) || exact,
            }
        })
    }

    fn families(&self) -> BTreeSet<Family> {
        self.isolated.keys().map(|(_, address)| Family::of(*address)).collect()
    }

    /// Whether Pods of this family are isolated.
    pub(crate) fn has(&self, family: Family) -> bool {
        self.families().contains(&family)
    }
}
