//! The program as its users meet it: started, driven with kubectl, crashed, removed.
//!
//! Each test has an instance of its own: a temporary data directory, a free port,
//! names made from them. Dropping the instance takes it down, also when a test fails.
//!
//! `cargo xtask test e2e` sets what these tests need: MONOPOD (the program), KUBECTL,
//! MONOPOD_TEST_IMAGES (the folder of test images).
//!
//! Start reading at [`harness::Instance`].

#![allow(clippy::print_stdout, missing_docs, unreachable_pub)]

mod adoption;
mod archives;
mod bad_input;
mod certificates;
mod churn;
mod claims;
mod commands;
mod containers;
mod contents;
mod crash;
mod cron_jobs;
mod daemon_set;
mod data;
mod escape;
mod fields;
mod full_disk;
mod harness;
mod helm;
mod host;
mod hostile_clients;
mod hostile_volumes;
mod image_volumes;
mod images;
mod ingress;
mod installing;
mod jobs;
mod kubectl;
mod limits;
mod network;
mod network_policy;
mod on_call;
mod once;
mod one_pod;
mod owners;
mod postgres;
mod pressure;
mod resize;
mod scheduling;
mod seeds;
mod service_accounts;
mod service_kinds;
mod services;
mod side_by_side;
mod stateful_set;
mod static_pods;
mod storage_limits;
mod stories;
mod streams;
mod taking_down;
mod timeline;
mod usage;
mod users;
mod volumes;
mod watchers;
mod workloads;
mod zero_loss;
