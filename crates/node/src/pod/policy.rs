//! Which ended containers start again.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::spec::{Role, restart_policy};

/// Whether a container that ended with `exit_code` is to be started again.
pub fn restarts(pod: &Pod, container: &Container, role: Role, exit_code: i32) -> bool {
    match role {
        Role::Ephemeral => false,
        Role::Sidecar => true,
        Role::Init if exit_code == 0 => false,
        Role::Init | Role::Main => {
            rule_matches(container, exit_code).unwrap_or_else(|| policy_restarts(pod, container, exit_code))
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

/// `Some(true)` when a rule of the container says restart; rules that do not match say nothing.
fn rule_matches(container: &Container, exit_code: i32) -> Option<bool> {
    let rules = container.restart_policy_rules.as_ref()?;
    let matched = rules.iter().filter_map(|rule| rule.exit_codes.as_ref()).any(|codes| {
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        if codes.operator == "NotIn" { !listed } else { listed }
    });
    matched.then_some(true)
}
