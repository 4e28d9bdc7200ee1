//! The loops that make the cluster what its objects say: one module each.
//!
//! ```text
//! informers ─ changes ─► keys ─► work queue ─► reconcile(key): look up ─ decide ─ write
//! ```
//!
//! Tasks: [`run`] runs one for each controller, which turns changes of what it
//! watches into keys and works them off. Everything ends with the shutdown token.
//!
//! - `namespace` empties and finalizes namespaces that are being deleted.
//! - `service_account` keeps `default` and `kube-root-ca.crt` in each namespace.
//! - `service_account_token` fills Secrets with tokens of their accounts.
//! - `certificates` approves kubelets' certificate requests, signs what is approved, and cleans up.
//! - `cluster_role_aggregation` gives ClusterRoles the rules of those that they select.
//! - `node_lifecycle` turns conditions and missing heartbeats into taints.
//! - `taint_eviction` deletes Pods from nodes whose taints they do not bear.
//! - `pod_gc` deletes Pods that nobody will ever finish.
//! - `deployment` leads Deployments from one ReplicaSet to the next.
//! - `replica_set` makes and deletes the Pods of ReplicaSets and ReplicationControllers.
//! - `daemon_set` makes one Pod for each node that a template means.
//! - `stateful_set` makes Pods that keep their names, their order and their volumes.
//! - `horizontal_pod_autoscaler` sets replicas by what Pods use.
//! - `job` runs the Pods of Jobs until enough have succeeded.
//! - `cron_job` begins Jobs when they are due and keeps some of those that have ended.
//! - `ttl_after_finished` deletes Jobs that have been finished for long enough.
//! - `ephemeral_volume` makes the claims of Pods that have them in their own spec.
//! - `volume` binds, provisions and reclaims volumes.
//! - `endpoint_slice` lists the Pods behind each Service.
//! - `endpoint_slice_mirroring` lists the Endpoints that somebody wrote by hand.
//! - `load_balancer` gives Services of that type the addresses of the nodes.
//! - `service_addresses` shows who has which address of Services, and guards the ranges that they come from.
//! - `garbage_collector` deletes what has lost its owners.
//! - `resource_quota` counts what quotas limit.
//! - `disruption` says how many Pods of a budget may be evicted.
//!
//! Owners and quotas hear of every kind through `census`, which keeps nothing.
//!
//! Start reading at [`run`], then `controller.rs` and `workqueue.rs`.

mod batch;
mod census;
mod certificates;
mod cluster_role_aggregation;
mod conditions;
mod context;
mod controller;
mod counted;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod ephemeral_volume;
mod expectations;
mod garbage_collector;
mod history;
mod horizontal_pod_autoscaler;
mod intstr;
mod job;
mod load_balancer;
mod namespace;
mod node_lifecycle;
mod ownership;
mod pod_control;
mod pod_gc;
mod replica_set;
mod resource_quota;
mod run;
mod service_account;
mod service_account_token;
mod service_addresses;
mod stateful_set;
mod taint_eviction;
mod ttl_after_finished;
mod volume;
mod workqueue;

pub use certificates::{Order, Sign};
pub use context::Config;
pub use counted::write_metrics;
pub use run::run;
