//! Real Pods: namespaces, cgroups, a bridge, nftables, and shims, which are this very program
//! started again. Needs root and a static busybox; says so when it has not.
//!
//! Every test has a data directory, an instance and a Pod network of its own, and ends by
//! comparing the mounts, links and cgroups of the machine with those before.

#![allow(clippy::disallowed_methods, reason = "a test owns what it starts")]

mod pods {
    pub(crate) mod deaths;
    pub(crate) mod groups;
    pub(crate) mod links;
    pub(crate) mod pulls;
    pub(crate) mod setting;
    pub(crate) mod tests;
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == "shim") {
        shim::main(std::env::args_os().skip(2));
    }
    if arguments.get(1).is_some_and(|a| a == pods::deaths::DIE) {
        pods::deaths::live_until(&arguments[2..]);
        return ExitCode::SUCCESS;
    }
    let tests = pods::tests::ALL;
    if arguments.iter().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| eprintln!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(missing) = pods::setting::missing() {
        eprintln!("pods: skipped: {missing}");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments[1..].iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let good = catch_unwind(AssertUnwindSafe(|| pods::setting::run(*test))).is_ok();
        eprintln!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        if !good {
            failed.push(*name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
