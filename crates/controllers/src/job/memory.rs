//! What was written and may not be seen yet: acting on what the cache shows would count a Pod twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::backoff::Failures;
use super::pod::{is_tracked, uid};

/// Of one Job, by its UID. Lost with the process, which then reads everything anew.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Pods that no longer have the finalizer.
    pub(super) released: HashSet<String>,
    pub(super) failures: Option<Failures>,
    /// The version of the Job that was written last.
    version: u64,
}

impl Memory {
    /// Forgets the releases that the cache shows by now.
    pub(super) fn compare(&mut self, pods: &[Arc<Pod>]) {
        let tracked: HashMap<&str, bool> = pods.iter().map(|pod| (uid(pod), is_tracked(pod))).collect();
        self.released.retain(|uid| tracked.get(uid.as_str()) == Some(&true));
    }

    pub(super) fn writes(&mut self, version: u64) {
        self.version = version;
    }

    /// Whether the cache shows the Job from before the last write: what was counted since, it does not know.
    pub(super) fn is_behind(&self, version: u64) -> bool {
        version < self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_released_pod_is_remembered_until_it_is_seen_without_the_finalizer() {
        let pod = |finalizers: &[&str]| {
            let pod = json!({"metadata": {"uid": "a", "finalizers": finalizers}});
            [Arc::new(serde_json::from_value(pod).unwrap())]
        };
        let mut memory = Memory { released: ["a".to_owned()].into(), ..Memory::default() };
        memory.compare(&pod(&[super::super::pod::FINALIZER]));
        assert_eq!(memory.released.len(), 1);
        memory.compare(&pod(&[]));
        assert!(memory.released.is_empty());
    }

    #[test]
    fn a_job_from_before_the_last_write_is_not_acted_on() {
        let mut memory = Memory::default();
        memory.writes(7);
        assert_eq!((memory.is_behind(6), memory.is_behind(7)), (true, false));
    }
}
