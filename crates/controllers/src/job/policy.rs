//! What a Job's policies say of failed Pods and of succeeded indexes.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

/// What is to follow from the failure of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limits, as it does without a policy.
    Count,
    /// It does not count.
    Ignore,
    /// Its index is not tried again.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// The verdict of the first rule that a failed Pod matches.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let Some(what) = matched(rule, pod, &format!("{namespace}/{name}")) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "Count" => Verdict::Count,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {at}")),
            _ => continue,
        };
    }
    Verdict::Count
}

/// Words for what of a Pod a rule matches.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod, key: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let (container, code) = statuses
            .filter(|status| wanted.container_name.as_ref().is_none_or(|name| *name == status.name))
            .find_map(|status| failed_with(status, wanted).map(|code| (&status.name, code)))?;
        return Some(format!("Container {container} for pod {key} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let condition = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {key} has condition {}", condition.type_))
}

/// The exit code of a container, if the requirement is about it.
fn failed_with(status: &ContainerStatus, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<i32> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = wanted.values.contains(&code);
    let meant = match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (code != 0 && meant).then_some(code)
}

/// Words for the first rule of a success policy that is met.
pub(super) fn succeeded(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    let rules = &policy?.rules;
    if succeeded.is_empty() {
        return None;
    }
    let met = rules.iter().position(|rule| {
        let enough = |number: i32| rule.succeeded_count.is_some_and(|count| number >= count);
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let common = wanted.common(succeeded);
                !wanted.is_empty() && (common == wanted.total() || enough(common))
            }
            None => enough(succeeded.total()),
        }
    });
    met.map(|rule| format!("Matched rules at index {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(rules: Value) -> PodFailurePolicy {
        serde_json::from_value(json!({"rules": rules})).unwrap()
    }

    fn pod() -> Pod {
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let status = |name: &str, state: Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "status": {
            "conditions": [{"type": "DisruptionTarget", "status": "True"}],
            "containerStatuses": [status("a", ended(0)), status("b", ended(42)), status("c", json!({"running": {}}))],
            "initContainerStatuses": [status("i", ended(7))]}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let codes = |action: &str, operator: &str, values: Value, container: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values, "containerName": container}});
        let judge = |rules: Value| judge(Some(&policy(rules)), &pod());
        let none = Value::Null;
        assert_eq!(judge(json!([])), Verdict::Count);
        assert_eq!(judge(json!([codes("Ignore", "In", json!([1]), none.clone())])), Verdict::Count);
        assert_eq!(
            judge(json!([
                codes("Ignore", "In", json!([1]), none.clone()),
                codes("FailJob", "In", json!([42]), none.clone())
            ])),
            Verdict::FailJob(
                "Container b for pod n/p failed with exit code 42 matching FailJob rule at index 1".into()
            )
        );
        assert_eq!(
            judge(json!([codes("FailIndex", "NotIn", json!([42]), none.clone())])),
            Verdict::FailIndex,
            "the init container's 7"
        );
        assert_eq!(judge(json!([codes("Ignore", "NotIn", json!([42]), json!("b"))])), Verdict::Count);
        assert_eq!(
            judge(json!([codes("Ignore", "NotIn", json!([5]), json!("a"))])),
            Verdict::Count,
            "0 is no failure"
        );
    }

    #[test]
    fn a_condition_of_the_pod_decides_too() {
        let condition = |action: &str, status: &str| json!([{"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": status}]}]);
        assert_eq!(judge(Some(&policy(condition("Ignore", "True"))), &pod()), Verdict::Ignore);
        assert_eq!(judge(Some(&policy(condition("Ignore", "False"))), &pod()), Verdict::Count);
        assert_eq!(
            judge(Some(&policy(condition("FailJob", "True"))), &pod()),
            Verdict::FailJob(
                "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0".into()
            )
        );
    }

    #[test]
    fn a_success_policy_is_met_by_indexes_or_their_number() {
        let met = |rules: Value, done: &[i32]| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            succeeded(Some(&policy), 10, &done.iter().copied().collect())
        };
        let leaders = json!([{"succeededIndexes": "0,2-4"}, {"succeededCount": 5}, {"succeededIndexes": "7-9", "succeededCount": 2}]);
        assert_eq!(met(leaders.clone(), &[]), None);
        assert_eq!(met(leaders.clone(), &[0, 2, 3, 9]), None);
        assert_eq!(met(leaders.clone(), &[0, 2, 3, 4]).as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met(leaders.clone(), &[1, 2, 3, 5, 6]).as_deref(), Some("Matched rules at index 1"));
        assert_eq!(met(leaders, &[7, 9]).as_deref(), Some("Matched rules at index 2"));
    }
}
