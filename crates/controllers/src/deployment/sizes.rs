//! How large each ReplicaSet of a Deployment may be: numbers in, numbers out.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::intstr::{Round, scaled};

/// The bounds of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// How many there should be.
    pub(super) replicas: i32,
    /// How many there may be more.
    pub(super) surge: i32,
    /// How many may be unavailable.
    pub(super) unavailable: i32,
}

/// A ReplicaSet, as far as sizes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) replicas: i32,
    pub(super) available: i32,
}

impl Bounds {
    /// What the spec says: percentages of surge are rounded up, of unavailability down, and both may not
    /// be nothing, or no step could ever be made.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy
            .filter(|strategy| strategy.type_.as_deref() != Some("Recreate"))
            .and_then(|strategy| strategy.rolling_update.as_ref());
        let Some(rolling) = rolling else { return Self { replicas, surge: 0, unavailable: 0 } };
        let share = |value: Option<&IntOrString>, round| {
            value.map_or(0, |value| scaled(value, replicas, round)).max(0)
        };
        let surge = share(rolling.max_surge.as_ref(), Round::Up);
        let unavailable = share(rolling.max_unavailable.as_ref(), Round::Down);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    /// The most Pods that there may be.
    pub(super) fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    fn least_available(self) -> i32 {
        self.replicas - self.unavailable
    }

    /// How large the new ReplicaSet may be now.
    pub(super) fn new_size(self, new: i32, all: i32) -> i32 {
        if new > self.replicas {
            return self.replicas;
        }
        let room = self.most().saturating_sub(all);
        if room <= 0 { new } else { new + room.min(self.replicas - new) }
    }

    /// The new sizes of the old ReplicaSets, eldest first. Those of their Pods that are not available go
    /// first: nobody misses them.
    pub(super) fn old_sizes(self, new: Set, old: &[Set]) -> Vec<i32> {
        let mut sizes: Vec<i32> = old.iter().map(|set| set.replicas).collect();
        let all = sizes.iter().sum::<i32>() + new.replicas;
        // A new Pod that is not available yet holds one that is.
        let mut may_go = all - self.least_available() - (new.replicas - new.available);
        if may_go <= 0 {
            return sizes;
        }
        for (size, set) in sizes.iter_mut().zip(old) {
            let idle = (*size - set.available).clamp(0, may_go);
            (*size, may_go) = (*size - idle, may_go - idle);
        }
        let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
        let mut surplus = (available - self.least_available()).max(0);
        for size in &mut sizes {
            let gone = (*size).min(surplus);
            (*size, surplus) = (*size - gone, surplus - gone);
        }
        sizes
    }

    /// Sizes in proportion after the Deployment's size has changed in the middle of a rollout; the largest
    /// gets what rounding leaves. `most_before`: the most Pods that each was reckoned with.
    pub(super) fn proportional(self, sets: &[Proportion]) -> Vec<i32> {
        let all: i32 = sets.iter().map(|set| set.replicas).sum();
        let allowed = if self.replicas > 0 { self.most() } else { 0 };
        let to_add = allowed - all;
        let mut added = 0;
        let mut sizes = Vec::with_capacity(sets.len());
        for set in sets {
            let part = set.part(self, to_add - added);
            let part = if set.replicas == 0 || to_add == 0 || to_add == added {
                0
            } else if to_add > 0 {
                part.min(to_add - added)
            } else {
                part.max(to_add - added)
            };
            added += part;
            sizes.push(set.replicas + part);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        sizes
    }
}

/// A ReplicaSet in the middle of a rollout whose Deployment changes its size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proportion {
    pub(super) replicas: i32,
    /// The most Pods there might have been of the whole Deployment, when it was sized last.
    pub(super) most_before: i32,
}

impl Proportion {
    /// What of the change is this one's.
    fn part(self, bounds: Bounds, left: i32) -> i32 {
        if bounds.replicas == 0 {
            return -self.replicas;
        }
        if self.most_before <= 0 {
            return left;
        }
        let (replicas, before) = (i64::from(self.replicas), i64::from(self.most_before));
        // Rounded to the nearest.
        let size = (replicas * i64::from(bounds.most()) * 2 + before) / (before * 2);
        i32::try_from(size - replicas).unwrap_or(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rollout_of_four_within_the_defaults_goes_in_upstreams_steps() {
        let bounds = Bounds { replicas: 4, surge: 1, unavailable: 1 };
        let set = |replicas, available| Set { replicas, available };
        assert_eq!(bounds.new_size(0, 4), 1);
        assert_eq!(bounds.old_sizes(set(1, 0), &[set(4, 4)]), [3]);
        assert_eq!(bounds.new_size(1, 4), 2);
        assert_eq!(bounds.old_sizes(set(2, 0), &[set(3, 3)]), [3], "none may go before one has come");
        assert_eq!(bounds.old_sizes(set(2, 1), &[set(3, 3)]), [2]);
        assert_eq!(bounds.old_sizes(set(1, 0), &[set(4, 2)]), [3], "broken ones go first");
        assert_eq!(bounds.old_sizes(set(4, 4), &[set(1, 0), set(0, 0)]), [0, 0]);
    }

    #[test]
    fn a_size_that_changes_in_the_middle_is_shared_in_proportion() {
        let bounds = Bounds { replicas: 15, surge: 3, unavailable: 2 };
        // The example of the documentation: 10 with a surge of 3, 8 old and 5 new, to 15.
        let set = |replicas| Proportion { replicas, most_before: 13 };
        assert_eq!(bounds.proportional(&[set(8), set(5)]), [11, 7]);
        let none = Bounds { replicas: 0, ..bounds };
        assert_eq!(none.proportional(&[set(8), set(5)]), [0, 0]);
    }

    #[test]
    fn percentages_of_surge_are_rounded_up_and_of_unavailability_down() {
        let of = |replicas: i32, surge: &str, unavailable: &str| {
            let deployment: Deployment = serde_json::from_value(serde_json::json!({"spec": {
                "replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate":
                    {"maxSurge": surge, "maxUnavailable": unavailable}},
            }}))
            .unwrap();
            let bounds = Bounds::of(&deployment);
            (bounds.surge, bounds.unavailable)
        };
        assert_eq!(of(2, "25%", "25%"), (1, 0));
        assert_eq!(of(10, "25%", "25%"), (3, 2));
        assert_eq!(of(10, "0%", "0%"), (0, 1));
        assert_eq!(of(2, "0%", "300%"), (0, 2));
    }

    proptest! {
        /// From any state, whatever becomes available or breaks meanwhile, a rollout stays within its
        /// bounds and reaches its end.
        #[test]
        fn a_rollout_keeps_its_bounds_and_ends(
            replicas in 0..12i32,
            surge in 0..4i32,
            unavailable in 0..4i32,
            old in proptest::collection::vec(0..8i32, 0..4),
            chances in proptest::collection::vec(0..3u8, 400),
        ) {
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable }.min(replicas);
            let bounds = Bounds { replicas, surge, unavailable };
            let mut new = Set { replicas: 0, available: 0 };
            let mut old: Vec<Set> = old.iter().map(|n| Set { replicas: *n, available: *n }).collect();
            for chance in chances.into_iter().chain([2; 400]) {
                let all = new.replicas + old.iter().map(|set| set.replicas).sum::<i32>();
                let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
                let size = bounds.new_size(new.replicas, all);
                prop_assert!(size <= new.replicas || all - new.replicas + size <= bounds.most());
                if size != new.replicas {
                    new.replicas = size;
                } else {
                    let sizes = bounds.old_sizes(new, &old);
                    for (set, size) in old.iter_mut().zip(sizes) {
                        prop_assert!(size <= set.replicas && size >= 0);
                        let idle = set.replicas - set.available;
                        // The ReplicaSet takes the unready first.
                        set.available -= (set.replicas - size - idle).max(0);
                        set.replicas = size;
                    }
                    let left = new.available + old.iter().map(|set| set.available).sum::<i32>();
                    let least = bounds.replicas - bounds.unavailable;
                    prop_assert!(left >= available.min(least), "{left} of {available} are left");
                }
                match chance {
                    0 => new.available = (new.available - 1).max(0),
                    1 => {}
                    _ => new.available = (new.available + 1).min(new.replicas),
                }
            }
            prop_assert_eq!(new, Set { replicas, available: replicas });
            prop_assert!(old.iter().all(|set| set.replicas == 0));
        }

        #[test]
        fn proportional_sizes_add_up(
            replicas in 0..100i32,
            surge in 0..10i32,
            sets in proptest::collection::vec((1..50i32, 0..100i32), 1..5),
        ) {
            let bounds = Bounds { replicas, surge, unavailable: 0 };
            let mut sets: Vec<Proportion> = sets
                .into_iter()
                .map(|(replicas, more)| Proportion { replicas, most_before: replicas + more })
                .collect();
            sets.sort_by_key(|set| -set.replicas);
            let sizes = bounds.proportional(&sets);
            prop_assert!(sizes.iter().all(|size| *size >= 0));
            let wanted = if replicas == 0 { 0 } else { bounds.most() };
            prop_assert!(sizes.iter().sum::<i32>() == wanted || sizes[0] == 0);
        }
    }
}
