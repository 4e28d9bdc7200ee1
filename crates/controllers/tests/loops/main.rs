//! The loops of the controllers against a real server in this process, over a store in a temporary directory.

#![allow(clippy::disallowed_methods, reason = "a test owns what it starts")]
#![allow(clippy::print_stdout)]

mod autoscalers;
mod bounds;
mod certificates;
mod claims;
mod cluster;
mod cluster_roles;
mod collector;
mod cron_jobs;
mod daemon_set;
mod disruption;
mod faults;
mod hostile_world;
mod jobs;
mod mirroring;
mod registered_kind;
mod service_addresses;
mod stateful_set;
mod surfaces;
mod tokens;
mod way;
mod workloads;
