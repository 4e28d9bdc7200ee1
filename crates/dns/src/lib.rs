//! Names of Services and Pods become answers.
//!
//! ```text
//! Services, EndpointSlices ─ changed? ─► Zone, made when somebody asks
//!                                          │
//! UDP, TCP ─ query ─► answer(&Zone, query) ┼─► records, or SOA with NODATA or NXDOMAIN
//!                                          └─► another name: the node's own resolvers
//! ```
//!
//! The names are those of the [specification] of DNS-based service discovery 1.1.0.
//!
//! Tasks: [`run`] is one loop that takes what comes: packets, connections,
//! changes of the caches. A query that must be asked elsewhere has a task of its
//! own, and there are only so many of them. [`publish`] writes the Service
//! `kube-dns` that leads to the server, once.
//!
//! Not here: a cache of what others answered (the node's resolver has one), IPv6
//! addresses, DNSSEC, zone transfers.
//!
//! Start reading at [`answer`].
//!
//! [specification]: https://github.com/kubernetes/dns/blob/master/docs/specification.md

mod answer;
#[doc(hidden)]
pub mod fuzzing;
mod publish;
mod reply;
mod server;
mod tcp;
mod upstream;
mod zone;

pub use answer::{Answer, answer};
pub use publish::{Listening, publish};
pub use server::{Config, Sockets, run};
pub use zone::Zone;
