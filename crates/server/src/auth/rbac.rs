//! RBAC: bindings and roles, each parsed when it changes.

use std::collections::{BTreeMap, HashMap};
use std::mem::take;
use std::sync::Arc;

use api::field::go_quote;
use api::rbac::{Action, aggregate, allows};
use bytes::Bytes;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use super::user::service_account_name;
use super::{Attributes, Decision, User};
use crate::materialized::View;

const GROUP: &str = "rbac.authorization.k8s.io";
/// Below it are all keys of the group.
pub(super) const PREFIX: &str = "/rbac.authorization.k8s.io/";

/// A binding, without what nobody asks of it.
#[derive(Debug)]
struct Bound {
    name: String,
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// All bindings and roles.
#[derive(Debug, Default)]
pub(super) struct Policy {
    /// By namespace (empty for ClusterRoleBindings) and name.
    bindings: HashMap<String, BTreeMap<String, Bound>>,
    /// By namespace and name.
    roles: HashMap<(String, String), Vec<PolicyRule>>,
    cluster_roles: BTreeMap<String, ClusterRole>,
    /// The rules of those that take them from others, whether or not a controller has written
    /// them into the object yet.
    aggregated: HashMap<String, Vec<PolicyRule>>,
    /// A ClusterRole changed since the aggregation.
    unsettled: bool,
}

impl View for Policy {
    fn put(&mut self, key: &Arc<str>, object: &Bytes) {
        self.remove(key);
        let Some((plural, namespace, name)) = parts(key) else { return };
        match plural {
            "clusterroles" => {
                let Some(role) = parse::<ClusterRole>(object) else { return };
                let metadata = ObjectMeta {
                    name: role.metadata.name,
                    labels: role.metadata.labels,
                    ..ObjectMeta::default()
                };
                self.cluster_roles.insert(name.to_owned(), ClusterRole { metadata, ..role });
            }
            "roles" => {
                let Some(role) = parse::<Role>(object) else { return };
                self.roles.insert((namespace.to_owned(), name.to_owned()), role.rules.unwrap_or_default());
            }
            "clusterrolebindings" => {
                let Some(binding) = parse::<ClusterRoleBinding>(object) else { return };
                self.bind(namespace, name, binding.role_ref, binding.subjects);
            }
            "rolebindings" => {
                let Some(binding) = parse::<RoleBinding>(object) else { return };
                self.bind(namespace, name, binding.role_ref, binding.subjects);
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: &str) {
        let Some((plural, namespace, name)) = parts(key) else { return };
        match plural {
            "clusterroles" => {
                self.cluster_roles.remove(name);
                self.unsettled = true;
            }
            "roles" => {
                self.roles.remove(&(namespace.to_owned(), name.to_owned()));
            }
            "clusterrolebindings" | "rolebindings" => {
                let Some(bindings) = self.bindings.get_mut(namespace) else { return };
                bindings.remove(name);
                if bindings.is_empty() {
                    self.bindings.remove(namespace);
                }
            }
            _ => {}
        }
    }

    /// Aggregates anew. A role may aggregate one that aggregates: `admin` takes `edit`, which takes `view`.
    fn settle(&mut self) {
        if !take(&mut self.unsettled) {
            return;
        }
        let mut roles: Vec<ClusterRole> = self.cluster_roles.values().cloned().collect();
        for _ in 0..3 {
            let aggregated: Vec<_> = roles.iter().map(|role| aggregate(role, &roles)).collect();
            for (role, rules) in roles.iter_mut().zip(aggregated) {
                if rules.is_some() {
                    role.rules = rules;
                }
            }
        }
        let aggregated = roles.into_iter().filter(|role| role.aggregation_rule.is_some());
        self.aggregated = aggregated
            .map(|role| (role.metadata.name.unwrap_or_default(), role.rules.unwrap_or_default()))
            .collect();
    }
}

/// Plural, namespace and name of a key below [`PREFIX`].
fn parts(key: &str) -> Option<(&str, &str, &str)> {
    let (plural, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    Some((plural, namespace, name))
}

/// What does not parse was not let in by validation; it grants nothing.
fn parse<T: DeserializeOwned>(object: &Bytes) -> Option<T> {
    serde_json::from_slice(object).ok()
}

impl Policy {
    fn bind(&mut self, namespace: &str, name: &str, role: RoleRef, subjects: Option<Vec<Subject>>) {
        let subjects = subjects.unwrap_or_default();
        let bound = Bound { name: name.to_owned(), namespace: namespace.to_owned(), role, subjects };
        self.bindings.entry(namespace.to_owned()).or_default().insert(name.to_owned(), bound);
    }

    /// The rules of the role that a binding in this namespace refers to; a role that is missing is an
    /// error to report.
    pub(super) fn rules(&self, role: &RoleRef, namespace: &str) -> Result<&[PolicyRule], String> {
        let name = &role.name;
        let (found, kind) = match role.kind.as_str() {
            "Role" => (self.roles.get(&(namespace.to_owned(), name.clone())).map(Vec::as_slice), "role"),
            _ => (self.cluster_rules(name), "clusterrole"),
        };
        found.ok_or_else(|| format!("{kind}.{GROUP} {} not found", go_quote(name)))
    }

    fn cluster_rules(&self, name: &str) -> Option<&[PolicyRule]> {
        let own = self.cluster_roles.get(name)?;
        let aggregated = self.aggregated.get(name).map(Vec::as_slice);
        Some(aggregated.unwrap_or_else(|| own.rules.as_deref().unwrap_or_default()))
    }

    fn bindings(&self, namespace: &str) -> impl Iterator<Item = &Bound> {
        let namespaced = if namespace.is_empty() { None } else { self.bindings.get(namespace) };
        self.bindings.get("").into_iter().chain(namespaced).flat_map(BTreeMap::values)
    }

    /// All rules that apply to the user in the namespace, and what could not be resolved.
    pub(super) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for bound in self.bindings(namespace).filter(|b| subject(b, user).is_some()) {
            match self.rules(&bound.role, &bound.namespace) {
                Ok(more) => rules.extend(more.iter().cloned()),
                Err(error) => errors.push(error),
            }
        }
        (rules, errors)
    }

    pub(super) fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let a = attributes;
        let action = match a.resource {
            "" => Action::Path { verb: a.verb, path: a.path },
            resource => Action::Resource {
                verb: a.verb,
                group: a.group,
                resource,
                subresource: a.subresource,
                name: a.name,
            },
        };
        let mut errors = Vec::new();
        for bound in self.bindings(a.namespace) {
            let Some(subject) = subject(bound, a.user) else { continue };
            match self.rules(&bound.role, &bound.namespace) {
                Ok(rules) if rules.iter().any(|rule| allows(rule, action)) => {
                    return Decision::Allow(format!("RBAC: allowed by {}", describe(bound, subject)));
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        Decision::NoOpinion(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }
}

/// The subject of the binding that the user is.
fn subject<'a>(bound: &'a Bound, user: &User) -> Option<&'a Subject> {
    bound.subjects.iter().find(|s| match s.kind.as_str() {
        "User" => s.name == user.name,
        "Group" => user.in_group(&s.name),
        "ServiceAccount" => {
            let namespace = s.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&bound.namespace);
            !namespace.is_empty() && user.name == service_account_name(namespace, &s.name)
        }
        _ => false,
    })
}

/// `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`
fn describe(bound: &Bound, subject: &Subject) -> String {
    let q = go_quote;
    let binding = match bound.namespace.as_str() {
        "" => format!("ClusterRoleBinding {}", q(&bound.name)),
        namespace => format!("RoleBinding {}", q(&format!("{}/{namespace}", bound.name))),
    };
    let whom = match subject.kind.as_str() {
        "ServiceAccount" => {
            let namespace =
                subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&bound.namespace);
            q(&format!("{}/{namespace}", subject.name))
        }
        _ => q(&subject.name),
    };
    format!("{binding} of {} {} to {} {whom}", bound.role.kind, q(&bound.role.name), subject.kind)
}
