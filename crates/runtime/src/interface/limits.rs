//! What a Pod and its containers may use.

/// Limits of a cgroup. Zero or `None`: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// cgroup v1 cpu.shares (2 to 262144).
    pub cpu_shares: u64,
    /// CFS quota in microseconds a period; 0: none.
    pub cpu_quota: i64,
    /// CFS period in microseconds.
    pub cpu_period: u64,
    /// Bytes; 0: none.
    pub memory_limit: i64,
    /// Processes; 0: none.
    pub pids_limit: i64,
    /// From -1000 to 1000; set on the container's process.
    pub oom_score_adj: i32,
    /// cpuset.cpus; empty: all.
    pub cpuset_cpus: String,
}

impl Resources {
    /// These limits after an update: what is zero (or empty) in it stays as it is.
    #[must_use]
    pub fn updated(&self, update: &Resources) -> Resources {
        fn or<T: Default + PartialEq + Clone>(new: &T, old: &T) -> T {
            if *new == T::default() { old.clone() } else { new.clone() }
        }
        Resources {
            cpu_shares: or(&update.cpu_shares, &self.cpu_shares),
            cpu_quota: or(&update.cpu_quota, &self.cpu_quota),
            cpu_period: or(&update.cpu_period, &self.cpu_period),
            memory_limit: or(&update.memory_limit, &self.memory_limit),
            pids_limit: or(&update.pids_limit, &self.pids_limit),
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: or(&update.cpuset_cpus, &self.cpuset_cpus),
        }
    }
}

/// New limits of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxUpdate {
    /// Limits of the Pod's own cgroup.
    pub resources: Resources,
    /// CPU that the Pod asks for now, in thousandths; `None`: as before.
    pub cpu_request: Option<u64>,
}
