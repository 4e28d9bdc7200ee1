//! Which ended containers start again.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::spec::{Role, restart_policy};

/// A rule by which all containers of the Pod start again.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether a container that ended with `exit_code` is to be started again.
pub fn restarts(pod: &Pod, container: &Container, role: Role, exit_code: i32) -> bool {
    match role {
        Role::Ephemeral => false,
        Role::Sidecar => true,
        Role::Init if exit_code == 0 => false,
        Role::Init | Role::Main => {
            rule(container, exit_code).is_some() || policy_restarts(pod, container, exit_code)
        }
    }
}

/// Whether a failure of this container is followed by a restart.
pub fn restarts_on_failure(pod: &Pod, container: &Container, role: Role) -> bool {
    role == Role::Sidecar || policy_restarts(pod, container, 1)
}

fn policy_restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    match container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether the end of a container with `exit_code` has all of its Pod start again.
pub fn restarts_all(container: &Container, role: Role, exit_code: i32) -> bool {
    role != Role::Ephemeral && rule(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether an end of the container can have all of its Pod start again.
pub fn has_restart_all(container: &Container) -> bool {
    container.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL)
}

/// The first rule that matches; all there are say that something is started again.
fn rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            if codes.operator == "NotIn" { !listed } else { listed }
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides_and_without_one_the_policy() {
        let rule = |action: &str, operator: &str, codes: &[i32]| json!({"action": action, "exitCodes": {"operator": operator, "values": codes}});
        let rules = [rule("Restart", "In", &[1, 2]), rule(RESTART_ALL, "NotIn", &[0, 3])];
        let container = json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules});
        let container: Container = serde_json::from_value(container).unwrap();
        let decided = |code| {
            let one = restarts(&Pod::default(), &container, Role::Main, code);
            (one, restarts_all(&container, Role::Main, code))
        };
        assert_eq!(
            [0, 1, 2, 3, 4].map(decided),
            [(false, false), (true, false), (true, false), (false, false), (true, true)]
        );
        assert!(has_restart_all(&container) && !restarts_all(&container, Role::Ephemeral, 4));
    }
}
