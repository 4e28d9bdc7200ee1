//! In which order cgroups are written.
//!
//! A Pod's own group must never hold less than its containers are about to have: what grows is widened from
//! the outside in, what shrinks is narrowed from the inside out, memory before cpu (the kubelet's order).

use runtime::Resources;

/// One thing to do. What fails ends the resize; all of it is tried again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Goes on only if less memory is in use than these new limits, in bytes: version 2 of cgroups would
    /// kill, version 1 refuse.
    CheckMemory {
        /// Of the Pod.
        pod: Option<i64>,
        /// Name, id and limit of containers.
        containers: Vec<(String, String, i64)>,
    },
    /// Sets limits of the Pod's own cgroup.
    Pod(Resources),
    /// Sets limits of a container.
    Container {
        /// Its id.
        id: String,
        /// What changes.
        resources: Resources,
    },
}

/// A running container whose limits change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) now: Resources,
    pub(super) wanted: Resources,
}

/// A limit as it counts: none is the highest.
fn limit(value: i64) -> i64 {
    if value <= 0 { i64::MAX } else { value }
}

fn memory(of: &Resources) -> i64 {
    limit(of.memory_limit)
}

fn quota(of: &Resources) -> i64 {
    limit(of.cpu_quota)
}

/// What leads from `now` to `wanted`.
pub(super) fn steps(now: &Resources, wanted: &Resources, changes: &[Change]) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(memory_check(now, wanted, changes));
    let own = Resources { memory_limit: wanted.memory_limit, ..Resources::default() };
    let (before, after) = (memory(wanted) > memory(now), memory(wanted) < memory(now));
    steps.extend((before && own.memory_limit > 0).then(|| Step::Pod(own.clone())));
    steps.extend(of_containers(changes, memory, |wanted| Resources {
        memory_limit: wanted.memory_limit,
        ..Resources::default()
    }));
    steps.extend(after.then_some(Step::Pod(own)));

    let shares = Step::Pod(Resources { cpu_shares: wanted.cpu_shares, ..Resources::default() });
    let own =
        Resources { cpu_quota: wanted.cpu_quota, cpu_period: wanted.cpu_period, ..Resources::default() };
    // Limits grow before requests and shrink after them, so that no request is above its limit.
    steps.extend((quota(wanted) > quota(now) && own.cpu_quota > 0).then(|| Step::Pod(own.clone())));
    steps.extend((wanted.cpu_shares > now.cpu_shares).then(|| shares.clone()));
    let cpu = |of: &Resources| (quota(of), of.cpu_shares);
    steps.extend(of_containers(changes, cpu, |wanted| Resources {
        cpu_shares: wanted.cpu_shares,
        cpu_quota: wanted.cpu_quota,
        cpu_period: wanted.cpu_period,
        ..Resources::default()
    }));
    steps.extend((wanted.cpu_shares < now.cpu_shares).then_some(shares));
    steps.extend((quota(wanted) < quota(now)).then_some(Step::Pod(own)));
    steps
}

/// Those in which `key` differs, what shrinks first: what grows may need its room.
fn of_containers<K: Ord>(
    changes: &[Change],
    key: impl Fn(&Resources) -> K,
    part: impl Fn(&Resources) -> Resources,
) -> Vec<Step> {
    let mut differing: Vec<&Change> =
        changes.iter().filter(|one| key(&one.now) != key(&one.wanted)).collect();
    differing.sort_by_key(|one| key(&one.wanted) > key(&one.now));
    let steps =
        differing.into_iter().map(|one| Step::Container { id: one.id.clone(), resources: part(&one.wanted) });
    // A container that loses a limit keeps what it has: the API does not let limits go.
    steps
        .filter(
            |step| !matches!(step, Step::Container { resources, .. } if *resources == Resources::default()),
        )
        .collect()
}

fn memory_check(now: &Resources, wanted: &Resources, changes: &[Change]) -> Option<Step> {
    let pod = (memory(wanted) < memory(now)).then_some(wanted.memory_limit);
    let shrinking = changes.iter().filter(|one| memory(&one.wanted) < memory(&one.now));
    let containers: Vec<_> =
        shrinking.map(|one| (one.name.clone(), one.id.clone(), one.wanted.memory_limit)).collect();
    (pod.is_some() || !containers.is_empty()).then_some(Step::CheckMemory { pod, containers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(cpu_shares: u64, cpu_quota: i64, memory_limit: i64) -> Resources {
        let cpu_period = if cpu_quota > 0 { 100_000 } else { 0 };
        Resources { cpu_shares, cpu_quota, cpu_period, memory_limit, ..Resources::default() }
    }

    fn change(name: &str, now: Resources, wanted: Resources) -> Change {
        Change { name: name.into(), id: format!("{name}-id"), now, wanted }
    }

    /// One line a step.
    fn told(steps: &[Step]) -> Vec<String> {
        let numbers = |of: &Resources| {
            let part = |name: &str, value: i64| (value != 0).then(|| format!(" {name}={value}"));
            [
                part("memory", of.memory_limit),
                part("quota", of.cpu_quota),
                part("shares", i64::try_from(of.cpu_shares).unwrap()),
            ]
            .into_iter()
            .flatten()
            .collect::<String>()
        };
        let tell = |step: &Step| match step {
            Step::CheckMemory { pod, containers } => {
                let names: Vec<_> =
                    containers.iter().map(|(name, _, limit)| format!("{name}={limit}")).collect();
                format!("check {pod:?} {}", names.join(" "))
            }
            Step::Pod(limits) => format!("pod{}", numbers(limits)),
            Step::Container { id, resources } => format!("{id}{}", numbers(resources)),
        };
        steps.iter().map(tell).collect()
    }

    #[test]
    fn a_pod_that_grows_is_widened_from_the_outside_in() {
        let changes = [change("a", limits(100, 10_000, 10), limits(200, 20_000, 30))];
        let steps = steps(&limits(100, 10_000, 10), &limits(200, 20_000, 30), &changes);
        assert_eq!(
            told(&steps),
            [
                "pod memory=30",
                "a-id memory=30",
                "pod quota=20000",
                "pod shares=200",
                "a-id quota=20000 shares=200"
            ]
        );
    }

    #[test]
    fn a_pod_that_shrinks_is_narrowed_from_the_inside_out_if_it_uses_less() {
        let changes = [change("a", limits(200, 20_000, 30), limits(100, 10_000, 10))];
        let steps = steps(&limits(200, 20_000, 30), &limits(100, 10_000, 10), &changes);
        assert_eq!(
            told(&steps),
            [
                "check Some(10) a=10",
                "a-id memory=10",
                "pod memory=10",
                "a-id quota=10000 shares=100",
                "pod shares=100",
                "pod quota=10000"
            ]
        );
    }

    #[test]
    fn what_one_container_gives_up_is_there_before_another_takes_it() {
        let changes = [
            change("grows", limits(100, 0, 10), limits(100, 0, 20)),
            change("shrinks", limits(100, 0, 20), limits(100, 0, 10)),
        ];
        let steps = steps(&limits(200, 0, 30), &limits(200, 0, 30), &changes);
        assert_eq!(told(&steps), ["check None shrinks=10", "shrinks-id memory=10", "grows-id memory=20"]);
    }

    #[test]
    fn a_first_limit_is_a_narrower_one() {
        let changes = [change("a", limits(2, 0, 0), limits(102, 10_000, 50))];
        let steps = steps(&limits(2, 0, 0), &limits(102, 10_000, 50), &changes);
        assert_eq!(
            told(&steps),
            [
                "check Some(50) a=50",
                "a-id memory=50",
                "pod memory=50",
                "pod shares=102",
                "a-id quota=10000 shares=102",
                "pod quota=10000"
            ]
        );
    }

    #[test]
    fn nothing_is_written_where_nothing_changes() {
        let same = limits(100, 10_000, 10);
        assert_eq!(steps(&same, &same, &[change("a", same.clone(), same.clone())]), []);
    }
}
