//! Who is asking.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wire::Identity;

/// The group whose members may do everything.
pub(super) const MASTERS: &str = "system:masters";
/// The group of everybody who has shown credentials.
pub(super) const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who has not.
pub(super) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user without credentials.
pub(super) const ANONYMOUS: &str = "system:anonymous";
const NODES: &str = "system:nodes";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The key of `extra` that says which credential was shown.
pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// A user as authentication found it: `authentication.k8s.io` UserInfo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The name: `kubernetes-admin`, `system:serviceaccount:default:default`.
    pub name: String,
    /// Of a ServiceAccount its uid.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Whatever else the credential said.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user without credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// From what the transport knows: a client certificate, or a room of this process.
    pub fn from_identity(identity: &Identity) -> Self {
        let mut groups = Vec::with_capacity(identity.groups.len() + 1);
        groups.extend(identity.groups.iter().cloned());
        groups.push(AUTHENTICATED.to_owned());
        let mut user = Self { name: identity.user.clone(), groups, ..Self::default() };
        if !identity.certificate_sha256.is_empty() {
            let id = format!("X509SHA256={}", identity.certificate_sha256);
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![id]);
        }
        user
    }

    /// As the rules of kinds see it.
    pub(crate) fn author(&self) -> api::strategy::Author<'_> {
        let Self { name, uid, groups, extra } = self;
        api::strategy::Author { name, uid, groups, extra }
    }

    /// Whether everything is allowed.
    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    /// Whether it is of this group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node this user is the agent of.
    pub fn node(&self) -> Option<&str> {
        self.node_identity().filter(|name| !name.is_empty())
    }

    /// The node that an agent says it is of; empty for an agent that does not say.
    pub fn node_identity(&self) -> Option<&str> {
        let name = self.name.strip_prefix("system:node:")?;
        self.in_group(NODES).then_some(name)
    }

    /// The namespace and name of the ServiceAccount this user is.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        service_account(&self.name)
    }

    /// As reviews show it.
    pub fn to_json(&self) -> Value {
        let mut info = Map::new();
        if !self.name.is_empty() {
            info.insert("username".to_owned(), json!(self.name));
        }
        if !self.uid.is_empty() {
            info.insert("uid".to_owned(), json!(self.uid));
        }
        if !self.groups.is_empty() {
            info.insert("groups".to_owned(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            info.insert("extra".to_owned(), json!(self.extra));
        }
        Value::Object(info)
    }
}

/// The namespace and name in the user name of a ServiceAccount.
pub(super) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    valid.then_some((namespace, name))
}

/// The user name of a ServiceAccount.
pub(super) fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of a ServiceAccount of this namespace.
pub(super) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}
