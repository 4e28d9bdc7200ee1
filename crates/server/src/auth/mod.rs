//! Who is asking, and may they: authentication, authorisation, tokens and reviews.
//!
//! ```text
//! certificate ┐                        ┌ system:masters ─ yes
//! bearer token ├─ User ─ impersonate? ─┼ system:nodes ─── what the node's Pods need
//! nothing      ┘                        └ RBAC ────────── bindings → roles → rules
//! ```
//!
//! A request of `system:masters` costs the copy of a name and a look through its
//! groups. For everybody else RBAC and the way from a node to objects are views
//! (`materialized.rs`): what was written since the last question is read, the rest is there.
//!
//! Nothing here reads a clock or does I/O: the store answers from memory. Start reading at [`Auth`].

pub mod audit;
mod authenticate;
mod bootstrap_token;
mod escalate;
mod graph;
mod impersonate;
mod node;
mod rbac;
mod review;
mod token;
mod user;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use api::status::Status;
use k8s_openapi::api::rbac::v1::PolicyRule;
use store::Store;

use crate::lookup::Lookup;
use crate::materialized::Materialized;

pub(crate) use authenticate::Impersonator;
pub use token::{KeyError, TokenKey};
pub use user::User;

/// A request in the terms of authorisation.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, …; for paths the HTTP method in lower case.
    pub verb: &'a str,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: &'a str,
    /// The API group, empty for core.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The plural; empty for a path that is no resource.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty when the request names no object.
    pub name: &'a str,
    /// The URL's path; used when `resource` is empty.
    pub path: &'a str,
    /// The raw `fieldSelector` of a list, watch or deletecollection.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A path that is no resource.
    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Self {
        Self { path, ..Self::resource(user, verb, "", "", "") }
    }

    /// A resource at cluster scope; fill in more with `..`.
    pub fn resource(
        user: &'a User,
        verb: &'a str,
        group: &'a str,
        version: &'a str,
        resource: &'a str,
    ) -> Self {
        Self {
            user,
            verb,
            namespace: "",
            group,
            version,
            resource,
            subresource: "",
            name: "",
            path: "",
            field_selector: "",
        }
    }

    /// `User "u" cannot get resource "pods" in API group "" in the namespace "n"`
    fn refusal(&self) -> String {
        use api::field::go_quote as q;
        let user = q(&self.user.name);
        if self.resource.is_empty() {
            return format!("User {user} cannot {} path {}", self.verb, q(self.path));
        }
        let resource = match self.subresource {
            "" => q(self.resource),
            part => q(&format!("{}/{part}", self.resource)),
        };
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", q(namespace)),
        };
        format!("User {user} cannot {} resource {resource} in API group {} {place}", self.verb, q(self.group))
    }
}

/// What the authorisers say; nobody says no, they only do not say yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// Nobody allows it; the reason may be empty.
    NoOpinion(String),
}

impl Decision {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    fn reason(self) -> String {
        match self {
            Decision::Allow(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

/// What [`Auth`] is told when it starts.
#[derive(Debug)]
pub struct Settings {
    /// Signs and verifies ServiceAccount tokens.
    pub key: TokenKey,
    /// Issuer of the tokens, also their default audience.
    pub issuer: String,
    /// Where clients find `/openid/v1/jwks`: `https://host:port`.
    pub public_url: String,
    /// Whether requests without credentials are taken as `system:anonymous`.
    pub anonymous: bool,
}

/// Authenticates, authorises and answers the reviews.
pub struct Auth {
    lookup: Lookup,
    settings: Settings,
    policy: Materialized<rbac::Policy>,
    graph: Materialized<graph::Graph>,
    verified: token::Verified,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Auth {
    /// With the objects of `store`.
    pub fn new(settings: Settings, store: Arc<dyn Store>) -> Self {
        Self {
            policy: Materialized::new(store.clone(), vec![rbac::PREFIX.to_owned()]),
            graph: Materialized::new(store.clone(), graph::PREFIXES.map(str::to_owned).to_vec()),
            lookup: Lookup(store),
            settings,
            verified: token::Verified::default(),
        }
    }

    /// Whether the request is allowed; the refusal is the 403 to answer with.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.decide(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(refused(attributes, &reason)),
        }
    }

    /// [`Auth::authorize`] with the reason, for reviews.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_master() {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        if let Some(node) = attributes.user.node() {
            match self.graph.read().map(|graph| node::decide(attributes, node, &graph)) {
                Ok(Decision::NoOpinion(reason)) => reasons.push(reason),
                Ok(allowed @ Decision::Allow(_)) => return allowed,
                Err(unknown) => reasons.push(unknown.to_string()),
            }
        }
        match self.policy.read().map(|policy| policy.decide(attributes)) {
            Ok(Decision::NoOpinion(reason)) => reasons.push(reason),
            Ok(allowed @ Decision::Allow(_)) => return allowed,
            Err(unknown) => reasons.push(unknown.to_string()),
        }
        reasons.retain(|r| !r.is_empty());
        Decision::NoOpinion(reasons.join("\n"))
    }

    /// Single objects, for others who decide from memory.
    pub(crate) fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// The rules that apply to a user in a namespace, and what could not be resolved.
    fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        match self.policy.read() {
            Ok(policy) => policy.rules_for(user, namespace),
            Err(unknown) => (Vec::new(), vec![unknown.to_string()]),
        }
    }

    /// Answers `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self) -> Vec<u8> {
        token::openid_configuration(&self.settings)
    }

    /// Answers `/openid/v1/jwks`; its type is `application/jwk-set+json`.
    pub fn jwks(&self) -> Vec<u8> {
        self.settings.key.jwks()
    }
}

fn refused(attributes: &Attributes<'_>, reason: &str) -> Status {
    let mut why = attributes.refusal();
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Status::forbidden((attributes.group, attributes.resource), attributes.name, why)
}
