//! The groups above those of the Pods, with the numbers that the kubelet gives them.
//!
//! ```text
//! monopod-<instance>       weight of all the node's processors
//! ├── shims
//! └── kubepods             the same, and what the node can allocate of memory and process ids
//!     ├── pod<uid>         Guaranteed
//!     ├── burstable        as much weight as its Pods have asked for in sum
//!     └── besteffort       the least
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sys::cgroup::{Group, Hierarchy, Level, Resources};

use crate::config::Reserved;
use crate::interface::{Error, QosClass, SandboxConfig};
use crate::layout::Layout;
use crate::usage::PodsMemory;

/// Fewest and most shares of version 1, in which weights are thought.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// What Pods can have of this node (the kubelet's `enforceNodeAllocatable: [pods]`): all but what is reserved,
/// and some process numbers. Eviction thresholds do not count here: they must be reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocatable {
    pub(crate) milli_cpu: u64,
    pub(crate) memory: u64,
    pub(crate) pids: u64,
}

impl Allocatable {
    /// All that the kernel has, and of its process numbers what the host can spare.
    pub(crate) fn of_this_host() -> Self {
        let system = rustix::system::sysinfo();
        Allocatable {
            milli_cpu: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64) * 1000,
            memory: system.totalram * u64::from(system.mem_unit),
            pids: for_pods(["pid_max", "threads-max"].into_iter().filter_map(kernel_limit).min()),
        }
    }

    /// The rest, when something is reserved.
    pub(crate) fn without(self, reserved: Reserved) -> Self {
        Allocatable {
            milli_cpu: self.milli_cpu.saturating_sub(reserved.milli_cpu),
            memory: self.memory.saturating_sub(reserved.memory),
            pids: self.pids.saturating_sub(reserved.pids),
        }
    }

    /// The most process numbers of one Pod. The kubelet's default (`podPidsLimit: -1`) lets one Pod
    /// have all, so that its neighbours cannot start a process any more, and their probes fail.
    pub(crate) fn pids_of_a_pod(self) -> i64 {
        i64::try_from(self.pids / 4 * 3).unwrap_or(0)
    }
}

/// A tenth stays with the host, for whoever must log in and end what has taken the others.
fn for_pods(of_kernel: Option<u64>) -> u64 {
    of_kernel.map_or(0, |all| all - (all / 10).clamp(256.min(all / 2), 4096))
}

fn kernel_limit(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
}

/// Shares of a thousandth of a processor each.
pub(crate) fn shares(milli_cpu: u64) -> u64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(*SHARES.start(), *SHARES.end())
}

fn weight_only(milli_cpu: u64) -> Resources {
    Resources { cpu_shares: shares(milli_cpu), level: Level::Pod, ..Resources::default() }
}

fn all_pods(host: Allocatable) -> Resources {
    Resources {
        memory_limit: i64::try_from(host.memory).unwrap_or(0),
        pids_limit: i64::try_from(host.pids).unwrap_or(0),
        ..weight_only(host.milli_cpu)
    }
}

/// The groups of one instance.
#[derive(Debug)]
pub(crate) struct Branches {
    host: Allocatable,
    all: Group,
    groups: [(Group, Resources); 4],
    burstable: Group,
    requests: Mutex<Requests>,
}

/// What Burstable Pods have asked for, by their UIDs.
#[derive(Debug, Default)]
struct Requests {
    milli_cpu: BTreeMap<String, u64>,
    /// Last weight written: most Pods that come and go change nothing.
    shares: u64,
}

impl Branches {
    /// Makes the groups; those of an earlier daemon get today's numbers.
    pub(crate) fn make(hierarchy: &Hierarchy, layout: &Layout, host: Allocatable) -> Result<Self, Error> {
        let burstable = hierarchy.group(&layout.branch(QosClass::Burstable));
        let all = hierarchy.group(&layout.branch(QosClass::Guaranteed));
        let groups = [
            (hierarchy.group(&layout.cgroup_root()), weight_only(host.milli_cpu)),
            (all.clone(), all_pods(host)),
            (hierarchy.group(&layout.branch(QosClass::BestEffort)), weight_only(0)),
            (burstable.clone(), weight_only(0)),
        ];
        let requests = Mutex::new(Requests { shares: shares(0), ..Requests::default() });
        let branches = Branches { host, groups, all, burstable, requests };
        branches.make_again()?;
        Ok(branches)
    }

    /// Whether all of them are there: one without Pods can be removed by anybody.
    pub(crate) fn are_there(&self) -> bool {
        self.groups.iter().all(|(group, _)| group.exists())
    }

    /// Makes what is missing of them.
    pub(crate) fn make_again(&self) -> Result<(), Error> {
        let mut groups = self.groups.iter();
        groups.try_for_each(|(group, resources)| {
            group.create(resources).map_err(|e| Error::host("failed to make a cgroup", e))
        })
    }

    /// What all Pods together may have of the memory, and have.
    pub(crate) fn memory(&self) -> PodsMemory {
        PodsMemory { limit: self.host.memory, working_set: self.all.stats().memory_working_set }
    }

    /// The most process numbers of one Pod.
    pub(crate) fn pids_of_a_pod(&self) -> i64 {
        self.host.pids_of_a_pod()
    }

    /// A Pod is about to run, or runs already. What fails is a matter of fairness, not of the Pod.
    pub(crate) fn pod_came(&self, config: &SandboxConfig) {
        if config.qos == QosClass::Burstable {
            self.change(|requests| {
                requests.insert(config.pod.uid.clone(), config.cpu_request);
            });
        }
    }

    /// A Pod has ended.
    pub(crate) fn pod_went(&self, uid: &str) {
        self.change(|requests| {
            requests.remove(uid);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, u64>)) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut requests.milli_cpu);
        let resources = weight_only(requests.milli_cpu.values().sum());
        if resources.cpu_shares == requests.shares {
            return;
        }
        match self.burstable.update(&resources) {
            Ok(()) => requests.shares = resources.cpu_shares,
            Err(error) => tracing::warn!(%error, "Burstable Pods do not get the weight they ask for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_above_pods_have_the_kubelets_numbers() {
        let host = Allocatable { milli_cpu: 2000, memory: 4 << 30, pids: 32_768 };
        let all = all_pods(host);
        assert_eq!((all.cpu_shares, all.memory_limit, all.pids_limit), (2048, 4 << 30, 32_768));
        assert_eq!(host.pids_of_a_pod(), 24_576);
        let spared = [Some(400), Some(3000), Some(32_768), Some(4 << 20), None].map(for_pods);
        assert_eq!(spared, [200, 2700, 29_492, (4 << 20) - 4096, 0]);
        assert_eq!([0, 1, 250, 1000, 300_000].map(shares), [2, 2, 256, 1024, 262_144]);
    }

    #[test]
    fn what_is_reserved_is_kept_from_all_pods_together() {
        let host = Allocatable { milli_cpu: 2000, memory: 4 << 30, pids: 1000 };
        let left = host.without(Reserved { milli_cpu: 500, memory: 1 << 30, pids: 2000 });
        assert_eq!(left, Allocatable { milli_cpu: 1500, memory: 3 << 30, pids: 0 });
    }

    #[test]
    fn this_host_has_something_to_allocate() {
        let host = Allocatable::of_this_host();
        assert!(host.milli_cpu > 0 && host.memory > 64 << 20 && host.pids > 100, "{host:?}");
    }
}
