//! Places Pods on nodes: filter, score, preempt, bind.
//!
//! ```text
//! Pods, Nodes, claims ─ watch ─► Snapshot + Queue ─ place() ─┬─ bind ─► Scheduled
//!            ▲                        ▲                      └─ condition, Event,
//!            └── a relevant change ───┴──────────────────────── wait (or preempt)
//! ```
//!
//! Tasks: [`run`] is one loop that reads the informers of Pods, Nodes, claims, volumes
//! and storage classes, and owns the snapshot and the queue. Bindings run
//! beside it in its own set, because they wait for the server (or for a volume);
//! their results come back to the loop as values.
//!
//! The decisions are pure functions of values: [`place`], [`preempt`], the
//! `queue`. Names, messages and numbers are those of kube-scheduler with its
//! default profile. Not here: extenders, dynamic resources.
//!
//! Start reading at [`place`], then `run.rs`.

mod affinity;
mod chosen;
mod counted;
mod cycle;
mod filter;
mod hints;
#[cfg(test)]
mod model;
mod node_info;
mod nodes;
mod pending;
mod place;
mod pod_affinity;
mod preempt;
mod queue;
mod request;
mod run;
mod score;
mod snapshot;
mod spread;
mod terms;
mod volumes;
mod workloads;

pub use counted::write_metrics;
pub use cycle::Cluster;
pub use filter::Reason;
pub use node_info::{NodeInfo, PodInfo};
pub use nodes::Nodes;
pub use place::{Failure, Placement, place};
pub use preempt::{Budget, Preemption, preempt};
pub use request::{HostPort, Resources};
pub use run::run;
pub use terms::Namespaces;
pub use volumes::Volumes;
