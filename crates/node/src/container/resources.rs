//! From quantities to the numbers of a cgroup, by the kubelet's formulas.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::{QosClass, Resources};

use crate::pod::qos;
use crate::pod::spec::{is_critical, spec};

/// Period of the CPU quota in microseconds.
const PERIOD: u64 = 100_000;
/// Smallest quota the kernel takes.
const QUOTA_MIN: i64 = 1_000;
/// Fewest and most shares the kernel takes.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
/// The limits of one container.
pub fn container(pod: &Pod, resources: Option<&ResourceRequirements>, node_memory: i64) -> Resources {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let mut cgroup = numbers(requests, limits);
    let memory = amount(requests, "memory").map_or(0, |amount| amount.value());
    cgroup.oom_score_adj = oom_score_adj(pod, memory, node_memory);
    cgroup
}

/// The limits of the Pod's own cgroup: the sums, where every container has a limit.
pub fn pod(pod: &Pod) -> Resources {
    let spec = spec(pod);
    let (requests, mut limits) = (qos::requests(spec), qos::limits(spec));
    for name in ["cpu", "memory"] {
        let own = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let has = |resources: Option<&ResourceRequirements>| {
            amount(resources.and_then(|one| one.limits.as_ref()), name).is_some()
        };
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .all(|one| has(one.resources.as_ref()));
        if !all && amount(own, name).is_none() {
            limits.remove(name);
        }
    }
    numbers(Some(&requests), Some(&limits))
}

/// What the Pod asks for in sum, in thousandths of a CPU.
pub fn cpu_request(pod: &Pod) -> u64 {
    let asked = amount(Some(&qos::requests(spec(pod))), "cpu");
    asked.map_or(0, |amount| amount.milli_value().max(0).unsigned_abs())
}

fn numbers(
    requests: Option<&BTreeMap<String, Quantity>>,
    limits: Option<&BTreeMap<String, Quantity>>,
) -> Resources {
    let limit = amount(limits, "cpu").map_or(0, |amount| amount.milli_value());
    // Upstream: no request but a limit means the limit.
    let request = amount(requests, "cpu").map_or(limit, |amount| amount.milli_value());
    let shares = (request.saturating_mul(1024) / 1000).clamp(*SHARES.start(), *SHARES.end());
    let quota = if limit > 0 { (limit * 100).max(QUOTA_MIN) } else { 0 };
    Resources {
        cpu_shares: shares.unsigned_abs(),
        cpu_quota: quota,
        cpu_period: if quota > 0 { PERIOD } else { 0 },
        memory_limit: amount(limits, "memory").map_or(0, |amount| amount.value()),
        ..Resources::default()
    }
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    list?.get(name)?.0.parse().ok()
}

fn oom_score_adj(pod: &Pod, memory_request: i64, node_memory: i64) -> i32 {
    // Such a Pod has the score of a Guaranteed one.
    if is_critical(pod) {
        return -997;
    }
    match qos::class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let score = 1000 - 1000_i128 * i128::from(memory_request) / i128::from(node_memory.max(1));
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resources: serde_json::Value) -> Resources {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
        .unwrap();
        let own = spec(&pod).containers[0].resources.clone();
        container(&pod, own.as_ref(), 1 << 30)
    }

    #[test]
    fn numbers_follow_the_kubelets_formulas() {
        let burstable = of(
            serde_json::json!({"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}),
        );
        assert_eq!((burstable.cpu_shares, burstable.cpu_quota, burstable.oom_score_adj), (10, 0, 750));
        assert_eq!(burstable.memory_limit, 512 << 20);
        let guaranteed = of(
            serde_json::json!({"requests": {"cpu": "500m", "memory": "1Mi"}, "limits": {"cpu": "500m", "memory": "1Mi"}}),
        );
        assert_eq!(
            (guaranteed.cpu_shares, guaranteed.cpu_quota, guaranteed.cpu_period),
            (512, 50_000, 100_000)
        );
        assert_eq!(guaranteed.oom_score_adj, -997);
        let nothing = of(serde_json::json!({}));
        assert_eq!((nothing.cpu_shares, nothing.cpu_quota, nothing.oom_score_adj), (2, 0, 1000));
        assert_eq!(of(serde_json::json!({"limits": {"cpu": "1m"}})).cpu_quota, 1000);
    }

    #[test]
    fn a_pod_asks_for_the_sum_of_its_containers() {
        let asks = |cpu: &str| serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"spec": {"containers": [asks("250m"), asks("1.5"), {"name": "d"}]}}),
        )
        .unwrap();
        assert_eq!((cpu_request(&pod), super::pod(&pod).cpu_shares), (1750, 1792));
        assert_eq!(cpu_request(&Pod::default()), 0);
    }
}
