//! ClusterRoles with an aggregationRule have the rules of those that it selects: `admin`, `edit` and `view`,
//! which whoever adds kinds extends by a label.

use client::{Client, Error, Informer, Patch, PatchKind};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::{Context, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

/// Owns the rules of all that it fills in.
const MANAGER: &str = "clusterrole-aggregation-controller";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let roles = context.informers.of::<ClusterRole>();
    let known = roles.clone();
    // Which role takes from which is not kept: there are few, and any change may concern each of them.
    let controller = Controller::new(MANAGER).watches(&roles, move |_| {
        let aggregating = known.filter(|role| role.aggregation_rule.is_some());
        aggregating.iter().filter_map(|role| role.metadata.name.clone()).collect()
    });
    let client = context.client.clone();
    controller.run(tasks, context.shutdown.clone(), move |name| {
        let (client, roles) = (client.clone(), roles.clone());
        async move { sync(&client, &roles, &name).await }
    });
}

async fn sync(client: &Client, roles: &Informer<ClusterRole>, name: &str) -> Result<Next, Error> {
    let Some(role) = roles.get("", name) else { return Ok(Next::Done) };
    let all = roles.filter(|_| true);
    let Some(rules) = wanted(&role, all.iter().map(|role| &**role)) else { return Ok(Next::Done) };
    let body = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": rules});
    let apply = Patch { field_manager: MANAGER, force: true, ..Patch::new(PatchKind::Apply, body) };
    unless_gone(client.patch::<ClusterRole>("", name, &apply).await)?;
    Ok(Next::Done)
}

/// The rules that the role should have, unless it has them.
fn wanted<'a>(role: &ClusterRole, all: impl Iterator<Item = &'a ClusterRole>) -> Option<Vec<PolicyRule>> {
    // An apply does not create it anew while it goes.
    let stays = role.metadata.deletion_timestamp.is_none();
    let rules = api::rbac::aggregate(role, all)?;
    (stays && role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn role(value: Value) -> ClusterRole {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_role_is_written_only_when_its_rules_are_others() {
        let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        let taken = role(json!({"metadata": {"name": "a", "labels": {"v": "1"}}, "rules": pods}));
        let selectors = json!({"clusterRoleSelectors": [{"matchLabels": {"v": "1"}}]});
        let all = |rules: Value| {
            role(json!({"metadata": {"name": "all"}, "aggregationRule": selectors, "rules": rules}))
        };
        let wish = |rules: Value, others: &[ClusterRole]| wanted(&all(rules), others.iter());
        assert_eq!(wish(json!([]), std::slice::from_ref(&taken)), taken.rules.clone());
        assert_eq!(wish(pods.clone(), std::slice::from_ref(&taken)), None);
        assert_eq!(wish(pods, &[]), Some(Vec::new()), "who takes from nobody has no rules");
        assert_eq!(wish(Value::Null, &[]), None);
        assert_eq!(wanted(&taken, [].iter()), None, "and one that does not aggregate keeps its own");
    }
}
