//! From what metrics propose to what is asked of the target: not back and forth, not faster than the
//! behaviour allows, and within the bounds.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Upstream's `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWNSCALE_STABILIZATION: i32 = 300;
/// Without a behaviour there is no more than twice as much at once, or this.
const SCALE_UP_MIN: i32 = 4;

/// What was proposed and done lately. Upstream keeps it in memory too: who begins anew may scale a little
/// sooner than the behaviour says.
#[derive(Debug, Default)]
pub(super) struct History {
    recommendations: VecDeque<(Timestamp, i32)>,
    added: VecDeque<(Timestamp, i32)>,
    removed: VecDeque<(Timestamp, i32)>,
}

/// A number of replicas that is asked for within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) min: i32,
    pub(super) max: i32,
}

/// A decision with upstream's reasons.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) replicas: i32,
    /// Reason and message of AbleToScale.
    pub(super) able: (&'static str, &'static str),
    /// Status, reason and message of ScalingLimited.
    pub(super) limited: (bool, &'static str, &'static str),
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl History {
    /// What there is when the autoscaler is first seen counts as proposed.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, current));
        }
    }

    /// Decides on a proposal.
    pub(super) fn decide(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        proposed: i32,
        now: Timestamp,
    ) -> Decision {
        let rules = behavior.map(Rules::of);
        let stable = self.stabilize(rules.as_ref(), bounds.current, proposed, now);
        let able = match () {
            () if stable == proposed => ("ReadyForNewScale", "recommended size matches current size"),
            () if rules.is_some() && proposed >= bounds.current => (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            ),
            () => (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            ),
        };
        let (replicas, (reason, message)) = match &rules {
            Some(rules) => self.limit(rules, bounds, stable, now),
            None => limit_without_rules(bounds, stable),
        };
        Decision { replicas, able, limited: (replicas != stable, reason, message) }
    }

    /// Notes that the target was scaled.
    pub(super) fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        // Without a behaviour nobody asks for it.
        let Some(rules) = behavior.map(Rules::of) else { return };
        let (changes, rules) =
            if to > from { (&mut self.added, &rules.up) } else { (&mut self.removed, &rules.down) };
        forget(changes, rules.longest_period(), now);
        changes.push_back((now, (to - from).abs()));
    }

    /// The mildest of the recent proposals in the direction that this one goes.
    fn stabilize(&mut self, rules: Option<&Rules>, current: i32, proposed: i32, now: Timestamp) -> i32 {
        let (up_window, down_window) = match rules {
            Some(rules) => (rules.up.window, rules.down.window),
            None => (0, DOWNSCALE_STABILIZATION),
        };
        forget(&mut self.recommendations, up_window.max(down_window), now);
        let within = |window: i32| {
            let recent = self.recommendations.iter().filter(move |(at, _)| is_within(*at, window, now));
            recent.map(|(_, replicas)| *replicas)
        };
        let stable = match rules {
            None => within(down_window).fold(proposed, i32::max),
            Some(_) => {
                let lowest = within(up_window).fold(proposed, i32::min);
                let highest = within(down_window).fold(proposed, i32::max);
                current.max(lowest).min(highest)
            }
        };
        self.recommendations.push_back((now, proposed));
        stable
    }

    fn limit(
        &self,
        rules: &Rules,
        bounds: Bounds,
        wanted: i32,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let Bounds { current, min, max } = bounds;
        let at_start = |policy: &HPAScalingPolicy| {
            let changed = |changes: &VecDeque<(Timestamp, i32)>| -> i32 {
                let recent = changes.iter().filter(|(at, _)| is_within(*at, policy.period_seconds, now));
                recent.fold(0, |sum, (_, count)| sum.saturating_add(*count))
            };
            current.saturating_sub(changed(&self.added)).saturating_add(changed(&self.removed))
        };
        if wanted > current {
            let rate = rules.up.choose(current, policy_choice_up(&rules.up), |policy| {
                let start = at_start(policy);
                if policy.type_ == "Pods" {
                    start.saturating_add(policy.value)
                } else {
                    grown(start, policy.value)
                }
            });
            let (most, why) =
                if max > rate.max(current) { (rate.max(current), UP_LIMIT) } else { (max, TOO_MANY) };
            if wanted > most {
                return (most, why);
            }
        } else if wanted < current {
            let rate = rules.down.choose(current, !policy_choice_up(&rules.down), |policy| {
                let start = at_start(policy);
                if policy.type_ == "Pods" {
                    start.saturating_sub(policy.value)
                } else {
                    shrunk(start, policy.value)
                }
            });
            let (least, why) =
                if min < rate.min(current) { (rate.min(current), DOWN_LIMIT) } else { (min, TOO_FEW) };
            if wanted < least {
                return (least, why);
            }
        }
        (wanted, WITHIN)
    }
}

fn limit_without_rules(bounds: Bounds, wanted: i32) -> (i32, (&'static str, &'static str)) {
    let Bounds { current, min, max } = bounds;
    let rate = current.saturating_mul(2).max(SCALE_UP_MIN);
    let (most, why) = if max > rate { (rate, UP_LIMIT) } else { (max, TOO_MANY) };
    match wanted {
        wanted if wanted < min => (min, TOO_FEW),
        wanted if wanted > most => (most, why),
        wanted => (wanted, WITHIN),
    }
}

fn is_within(at: Timestamp, seconds: i32, now: Timestamp) -> bool {
    now.duration_since(at) < SignedDuration::from_secs(seconds.into())
}

fn forget(changes: &mut VecDeque<(Timestamp, i32)>, seconds: i32, now: Timestamp) {
    changes.retain(|(at, _)| is_within(*at, seconds, now));
}

/// Rounded up, or one could never be more.
fn grown(start: i32, percent: i32) -> i32 {
    (f64::from(start) * (1.0 + f64::from(percent) / 100.0)).ceil() as i32
}

fn shrunk(start: i32, percent: i32) -> i32 {
    (f64::from(start) * (1.0 - f64::from(percent) / 100.0)) as i32
}

/// A behaviour with what upstream assumes where it says nothing.
struct Rules {
    up: Rule,
    down: Rule,
}

struct Rule {
    window: i32,
    select: String,
    policies: Vec<HPAScalingPolicy>,
}

impl Rules {
    fn of(behavior: &HorizontalPodAutoscalerBehavior) -> Self {
        let policy =
            |type_: &str, value| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 };
        let percent = || policy("Percent", 100);
        Self {
            up: Rule::of(behavior.scale_up.as_ref(), 0, vec![policy("Pods", 4), percent()]),
            down: Rule::of(behavior.scale_down.as_ref(), DOWNSCALE_STABILIZATION, vec![percent()]),
        }
    }
}

impl Rule {
    fn of(rules: Option<&HPAScalingRules>, window: i32, policies: Vec<HPAScalingPolicy>) -> Self {
        let rules = rules.cloned().unwrap_or_default();
        Self {
            window: rules.stabilization_window_seconds.unwrap_or(window),
            select: rules.select_policy.unwrap_or_else(|| "Max".to_owned()),
            policies: rules.policies.unwrap_or(policies),
        }
    }

    fn longest_period(&self) -> i32 {
        self.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or_default()
    }

    /// What the policies allow together.
    fn choose(&self, current: i32, highest: bool, each: impl Fn(&HPAScalingPolicy) -> i32) -> i32 {
        if self.select == "Disabled" {
            return current;
        }
        let allowed = self.policies.iter().map(each);
        let chosen = if highest { allowed.max() } else { allowed.min() };
        chosen.unwrap_or(current)
    }
}

/// Whether the policy of the greatest change counts.
fn policy_choice_up(rule: &Rule) -> bool {
    rule.select != "Min"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn bounds(current: i32) -> Bounds {
        Bounds { current, min: 1, max: 100 }
    }

    fn behavior(value: serde_json::Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn without_a_behaviour_it_doubles_at_most_and_goes_down_after_five_minutes() {
        let mut history = History::default();
        history.begin(3, at(0));
        let up = history.decide(None, bounds(3), 50, at(0));
        assert_eq!((up.replicas, up.limited), (6, (true, UP_LIMIT.0, UP_LIMIT.1)));
        let mut history = History::default();
        history.begin(6, at(0));
        let down = history.decide(None, bounds(6), 2, at(10));
        assert_eq!((down.replicas, down.able.0), (6, "ScaleDownStabilized"));
        let later = history.decide(None, bounds(6), 2, at(310));
        assert_eq!((later.replicas, later.able.0), (2, "ReadyForNewScale"));
    }

    #[test]
    fn a_rate_counts_what_was_added_in_its_period() {
        let behavior =
            behavior(json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}));
        let mut history = History::default();
        let decide = |history: &mut History, current, second| {
            let decision = history.decide(Some(&behavior), bounds(current), 50, at(second));
            history.scaled(Some(&behavior), current, decision.replicas, at(second));
            decision.replicas
        };
        assert_eq!(decide(&mut history, 3, 0), 5);
        assert_eq!(decide(&mut history, 5, 30), 5, "two were added in this minute");
        assert_eq!(decide(&mut history, 5, 61), 7);
    }

    #[test]
    fn a_direction_can_be_forbidden_and_the_smallest_change_chosen() {
        let off =
            behavior(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
        let decision = History::default().decide(Some(&off), bounds(5), 1, at(0));
        assert_eq!((decision.replicas, decision.limited.1), (5, "ScaleDownLimit"));
        let policies = json!([{"type": "Pods", "value": 1, "periodSeconds": 15}, {"type": "Percent", "value": 50, "periodSeconds": 15}]);
        let least = behavior(
            json!({"scaleDown": {"selectPolicy": "Min", "stabilizationWindowSeconds": 0, "policies": policies}}),
        );
        assert_eq!(History::default().decide(Some(&least), bounds(10), 1, at(0)).replicas, 9);
    }

    #[test]
    fn a_window_upwards_takes_the_lowest_of_the_recent_proposals() {
        let slow = behavior(json!({"scaleUp": {"stabilizationWindowSeconds": 60}}));
        let mut history = History::default();
        history.begin(2, at(0));
        let first = history.decide(Some(&slow), bounds(2), 4, at(1));
        assert_eq!((first.replicas, first.able.0), (2, "ScaleUpStabilized"));
        let second = history.decide(Some(&slow), bounds(2), 4, at(61));
        assert_eq!((second.replicas, second.able.0), (4, "ReadyForNewScale"));
    }

    proptest! {
        #[test]
        fn whatever_is_proposed_stays_within_the_bounds_and_between_now_and_the_proposals(
            steps in prop::collection::vec((0i64..90, 0i32..40), 1..30),
            with_rules: bool,
        ) {
            let rules = behavior(json!({"scaleUp": {"stabilizationWindowSeconds": 30}, "scaleDown": {"stabilizationWindowSeconds": 60}}));
            let rules = with_rules.then_some(&rules);
            let (mut history, mut current, mut time) = (History::default(), 5, 0);
            history.begin(current, at(0));
            for (wait, proposed) in steps {
                time += wait;
                let bounds = Bounds { current, min: 2, max: 20 };
                let decision = history.decide(rules, bounds, proposed, at(time));
                prop_assert!((2..=20).contains(&decision.replicas), "{decision:?}");
                if proposed >= current {
                    prop_assert!(decision.replicas >= current.min(20), "a proposal of more never takes away: {decision:?}");
                }
                if decision.replicas > current {
                    prop_assert!(decision.replicas <= (2 * current).max(current + 4), "{decision:?}");
                }
                history.scaled(rules, current, decision.replicas, at(time));
                current = decision.replicas;
            }
        }
    }
}
