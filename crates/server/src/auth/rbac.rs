//! RBAC: bindings and roles, parsed once and kept until one of them changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use api::field::go_quote;
use api::kinds::{Kind, find};
use api::rbac::{Action, aggregate, allows};
use bytes::Bytes;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use serde::de::DeserializeOwned;

use super::user::service_account_name;
use super::{Attributes, Decision, Lookup, User};

const GROUP: &str = "rbac.authorization.k8s.io";

fn resource(plural: &str) -> &'static Kind {
    find(GROUP, "v1", plural).expect("the RBAC resources are in the table")
}

/// The parsed policy, made anew after each change.
#[derive(Default)]
pub(super) struct Rbac {
    /// Counts changes; a policy is current while its number is this one.
    generation: AtomicU64,
    policy: RwLock<Option<(u64, Arc<Policy>)>>,
}

impl Rbac {
    pub(super) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The policy of now. The generation is read before the objects: a change in between
    /// makes one more reading, never a stale policy.
    pub(super) fn policy(&self, lookup: &dyn Lookup) -> Arc<Policy> {
        let generation = self.generation.load(Ordering::Acquire);
        let kept = self.policy.read().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some((of, policy)) = kept
            && of == generation
        {
            return policy;
        }
        let policy = Arc::new(Policy::read(lookup));
        *self.policy.write().unwrap_or_else(|e| e.into_inner()) = Some((generation, policy.clone()));
        policy
    }
}

type Rules = Arc<[PolicyRule]>;

/// One binding with the rules of its role; a role that is missing is an error to report.
struct Bound {
    name: String,
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    role: RoleRef,
    subjects: Vec<Subject>,
    rules: Result<Rules, String>,
}

/// All bindings with their roles' rules.
pub(super) struct Policy {
    cluster: Vec<Bound>,
    namespaced: HashMap<String, Vec<Bound>>,
    cluster_roles: HashMap<String, Rules>,
    roles: HashMap<(String, String), Rules>,
}

fn parse<T: DeserializeOwned>(objects: Vec<Bytes>) -> Vec<T> {
    // What does not parse was not let in by validation; it grants nothing.
    objects.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect()
}

impl Policy {
    fn read(lookup: &dyn Lookup) -> Self {
        let list = |plural| lookup.list(resource(plural));
        let mut policy = Self {
            cluster: Vec::new(),
            namespaced: HashMap::new(),
            cluster_roles: cluster_roles(parse(list("clusterroles"))),
            roles: parse::<Role>(list("roles")).into_iter().map(role_rules).collect(),
        };
        for b in parse::<ClusterRoleBinding>(list("clusterrolebindings")) {
            let rules = policy.rules(&b.role_ref, "");
            let name = b.metadata.name.unwrap_or_default();
            let subjects = b.subjects.unwrap_or_default();
            policy.cluster.push(Bound { name, namespace: String::new(), role: b.role_ref, subjects, rules });
        }
        for b in parse::<RoleBinding>(list("rolebindings")) {
            let namespace = b.metadata.namespace.unwrap_or_default();
            let rules = policy.rules(&b.role_ref, &namespace);
            let name = b.metadata.name.unwrap_or_default();
            let subjects = b.subjects.unwrap_or_default();
            let bound = Bound { name, namespace: namespace.clone(), role: b.role_ref, subjects, rules };
            policy.namespaced.entry(namespace).or_default().push(bound);
        }
        policy
    }

    /// The rules of the role that a binding in this namespace refers to.
    pub(super) fn rules(&self, role: &RoleRef, namespace: &str) -> Result<Rules, String> {
        let (found, kind) = match role.kind.as_str() {
            "Role" => (self.roles.get(&(namespace.to_owned(), role.name.clone())), "role"),
            _ => (self.cluster_roles.get(&role.name), "clusterrole"),
        };
        found.cloned().ok_or_else(|| format!("{kind}.{GROUP} {} not found", go_quote(&role.name)))
    }

    fn bindings(&self, namespace: &str) -> impl Iterator<Item = &Bound> {
        let namespaced = if namespace.is_empty() { None } else { self.namespaced.get(namespace) };
        self.cluster.iter().chain(namespaced.into_iter().flatten())
    }

    /// All rules that apply to the user in the namespace, and what could not be resolved.
    pub(super) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for bound in self.bindings(namespace).filter(|b| subject(b, user).is_some()) {
            match &bound.rules {
                Ok(more) => rules.extend(more.iter().cloned()),
                Err(error) => errors.push(error.clone()),
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
            match &bound.rules {
                Ok(rules) if rules.iter().any(|rule| allows(rule, action)) => {
                    return Decision::Allow(format!("RBAC: allowed by {}", describe(bound, subject)));
                }
                Ok(_) => {}
                Err(error) => errors.push(error.clone()),
            }
        }
        Decision::NoOpinion(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }
}

/// Aggregated roles get the rules of those they select, whether or not a controller has
/// written them into the object yet. Two rounds: `admin` takes `edit`, which takes `view`.
fn cluster_roles(mut roles: Vec<ClusterRole>) -> HashMap<String, Rules> {
    for _ in 0..3 {
        let aggregated: Vec<_> = roles.iter().map(|role| aggregate(role, &roles)).collect();
        for (role, rules) in roles.iter_mut().zip(aggregated) {
            if rules.is_some() {
                role.rules = rules;
            }
        }
    }
    let pair = |r: ClusterRole| (r.metadata.name.unwrap_or_default(), r.rules.unwrap_or_default().into());
    roles.into_iter().map(pair).collect()
}

fn role_rules(role: Role) -> ((String, String), Rules) {
    let key = (role.metadata.namespace.unwrap_or_default(), role.metadata.name.unwrap_or_default());
    (key, role.rules.unwrap_or_default().into())
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
