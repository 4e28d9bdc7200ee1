//! The loops of the controllers against a real server in this process, over a store in a temporary directory.

#![allow(clippy::disallowed_methods, reason = "a test owns what it starts")]

mod autoscalers;
mod cluster;
mod collector;
mod cron_jobs;
mod registered_kind;
mod stateful_set;
mod workloads;
