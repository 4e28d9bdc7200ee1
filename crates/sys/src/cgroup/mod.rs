//! cgroups, version 1 and 2.

use serde::{Deserialize, Serialize};

/// Limits of a cgroup, in version 1's units. A field at zero (or empty): no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU weight as version 1's cpu.shares (2 to 262144).
    pub cpu_shares: u64,
    /// CPU time a period, microseconds.
    pub cpu_quota: i64,
    /// The period, microseconds; 0: 100 000.
    pub cpu_period: u64,
    /// Memory, bytes.
    pub memory_limit: i64,
    /// Processes and threads.
    pub pids_limit: i64,
    /// CPUs as in `0-2,7`; empty: all.
    pub cpuset_cpus: String,
    /// NUMA nodes as in `0`; empty: all.
    pub cpuset_mems: String,
}
