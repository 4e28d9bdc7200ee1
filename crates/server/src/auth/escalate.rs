//! Nobody may grant what they do not hold: the check of writes to roles and bindings.

use api::field::go_quote;
use api::kinds::Kind;
use api::meta::Object as _;
use api::rbac::{compact, describe, quoted_list, uncovered};
use api::status::Status;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;

use super::{Attributes, Auth, User};

impl Auth {
    /// To be called before a Role, ClusterRole or binding is written: `old` is the object
    /// that is replaced. Writes that leave rules and references as they were are free.
    pub fn check_escalation(
        &self,
        user: &User,
        resource: &Kind,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if resource.group != "rbac.authorization.k8s.io" || user.is_master() {
            return Ok(());
        }
        let (name, namespace) = (new.meta().name(), new.meta().namespace());
        let on = |verb| Attributes {
            namespace,
            name,
            ..Attributes::resource(user, verb, &resource.group, "v1", &resource.plural)
        };
        let unchanged = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
        let wanted = match &*resource.plural {
            "roles" | "clusterroles" => {
                let aggregates = !new["aggregationRule"].is_null() && !unchanged("aggregationRule");
                if unchanged("rules") && !aggregates || self.decide(&on("escalate")).is_allowed() {
                    return Ok(());
                }
                // Whoever aggregates takes in any rule that will ever be there.
                if aggregates { everything() } else { rules(new) }
            }
            _ => {
                if unchanged("roleRef") && unchanged("subjects") || self.may_bind(user, new, namespace) {
                    return Ok(());
                }
                self.rules_of_binding(new, namespace).map_err(|error| {
                    let role: (&str, &str) = (&*resource.group, &*resource.plural);
                    Status::forbidden(role, name, error)
                })?
            }
        };
        self.holds(user, namespace, &wanted).map_err(|why| Status::forbidden(resource, name, why))
    }

    fn may_bind(&self, user: &User, binding: &Value, namespace: &str) -> bool {
        let kind = binding["roleRef"]["kind"].as_str().unwrap_or_default();
        let plural = if kind == "Role" { "roles" } else { "clusterroles" };
        let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
        let base = Attributes::resource(user, "bind", "rbac.authorization.k8s.io", "v1", plural);
        self.decide(&Attributes { namespace, name, ..base }).is_allowed()
    }

    fn rules_of_binding(&self, binding: &Value, namespace: &str) -> Result<Vec<PolicyRule>, String> {
        let role: RoleRef = serde_json::from_value(binding["roleRef"].clone()).map_err(|e| e.to_string())?;
        let policy = self.policy.read().map_err(|unknown| unknown.to_string())?;
        policy.rules(&role, namespace).map(<[_]>::to_vec)
    }

    fn holds(&self, user: &User, namespace: &str, wanted: &[PolicyRule]) -> Result<(), String> {
        let (held, errors) = self.rules_for(user, namespace);
        let missing = uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut texts: Vec<String> = compact(missing).iter().map(describe).collect();
        texts.sort();
        let mut why = format!(
            "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            go_quote(&user.name),
            quoted_list(&user.groups),
            texts.join("\n")
        );
        if !errors.is_empty() {
            why.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
        }
        Err(why)
    }
}

fn rules(role: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(role["rules"].clone()).unwrap_or_default()
}

fn everything() -> Vec<PolicyRule> {
    let all = || vec!["*".to_owned()];
    vec![
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}
