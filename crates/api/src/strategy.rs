//! What a kind adds to the generic paths of the server: what is prepared and what is refused on writes.
//!
//! ```text
//! create: defaults ─ prepare_create ─ (admission) ─ validate_create ─ warnings
//! update: defaults ─ prepare_update ─ (admission) ─ validate_update ─ warnings
//! ```
//!
//! The functions of this module are the strategies of upstream's registries. They know no clock and no store;
//! what needs another object (classes, limits, accounts) is handed in.

pub mod admission;
mod apps;
mod certificates;
mod cluster;
mod config;
mod endpoints;
mod pod;
mod prepare;
mod quota;
pub mod resources;
mod service;
mod storage;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kinds::Kind;
use crate::validate::meta::{object_meta, object_meta_update};
use crate::validate::times;
use crate::validate::view::View;
use crate::validate::{NameRule, name_is_dns_label, name_is_dns_subdomain, name_is_path_segment};

pub use prepare::{prepare_create, prepare_update};

/// The rule for names of a kind.
pub fn name_rule(resource: &Kind) -> NameRule {
    match resource.group_kind() {
        ("", "Namespace" | "Service") => name_is_dns_label,
        ("rbac.authorization.k8s.io", _) => name_is_path_segment,
        _ => name_is_dns_subdomain,
    }
}

/// Everything that is wrong with an object that is to be created. Its name has been generated already.
pub fn validate_create(resource: &Kind, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(object, resource.namespaced, name_rule(resource), &mut errors);
    match resource.group_kind() {
        ("", "Pod") => pod::validate_create(object, &mut errors),
        (group, kind) => validate_object(group, kind, View::new(object), None, &mut errors),
    }
    readable(resource, object, &mut errors);
    errors
}

/// What no typed reader can do without is there.
fn readable(resource: &Kind, object: &Value, errors: &mut ErrorList) {
    times::required(resource.schema(), object, errors);
}

/// Everything that is wrong with changing `old` into `new`, through a subresource or the object itself.
pub fn validate_update(resource: &Kind, subresource: Option<&str>, new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(new, old, &mut errors);
    let (view, before) = (View::new(new), View::new(old));
    match (&*resource.group, &*resource.kind, subresource) {
        ("", "Pod", _) => pod::validate_update(subresource, new, old, &mut errors),
        ("", "PersistentVolumeClaim", Some("status")) => storage::claim_status(view, &mut errors),
        ("", "Namespace", Some("status")) => cluster::namespace_status(view, &mut errors),
        ("", "Node", Some("status")) => cluster::node(view, Some(before), &mut errors),
        ("certificates.k8s.io", "CertificateSigningRequest", _) => {
            certificates::validate_update(subresource, new, old, &mut errors);
        }
        (_, _, Some("status")) => {}
        (group, kind, _) => validate_object(group, kind, view, Some(before), &mut errors),
    }
    readable(resource, new, &mut errors);
    errors
}

/// The rules of a kind besides those of metadata; `old` is there on updates.
fn validate_object(group: &str, kind: &str, new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    match (group, kind) {
        ("", "ConfigMap") => config::config_map(new, old, errors),
        ("", "Secret") => config::secret(new, old, errors),
        ("", "PersistentVolume") => storage::volume(new, old, errors),
        ("", "PersistentVolumeClaim") => storage::claim(new, old, errors),
        ("", "Namespace") => cluster::namespace(new, errors),
        ("", "Node") => cluster::node(new, old, errors),
        ("", "Service") => service::validate(new, old, errors),
        ("", "Endpoints") => endpoints::endpoints(new, errors),
        ("discovery.k8s.io", "EndpointSlice") => endpoints::slice(new, old, errors),
        ("", "LimitRange") => quota::limit_range(new, errors),
        ("", "ResourceQuota") => quota::resource_quota(new, old, errors),
        ("", "PodTemplate" | "ReplicationController") | ("apps" | "batch", _) => {
            apps::validate(kind, new, old, errors)
        }
        _ => cluster::other(group, kind, new, old, errors),
    }
}

/// The texts of the `Warning` headers for an object that was accepted.
pub fn warnings(resource: &Kind, object: &Value) -> Vec<String> {
    match resource.group_kind() {
        ("", "Pod") => pod::warnings(object),
        ("", "Endpoints") => {
            vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
        }
        (_, kind) => apps::warnings(kind, object),
    }
}
