//! What a kind adds to the generic paths of the server: what is prepared and what is refused on writes.
//!
//! ```text
//! create: defaults ─ prepare_create ─ (admission) ─ validate_create ─ warnings
//! update: defaults ─ prepare_update ─ (admission) ─ validate_update ─ warnings
//! ```
//!
//! The functions of this module are the strategies of upstream's registries. They know no clock and no store;
//! what needs another object (classes, limits, accounts) is handed in.

pub mod addresses;
pub mod admission;
pub(crate) mod apps;
pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod cron_job;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod ingress;
pub(crate) mod job;
pub(crate) mod network_policy;
pub(crate) mod pod;
pub(crate) mod prepare;
pub(crate) mod quota;
pub mod resources;
pub(crate) mod service;
pub(crate) mod storage;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kinds::Kind;
use crate::validate::NameRule;
use crate::validate::meta::{object_meta, object_meta_update};
use crate::validate::times;
use crate::validate::view::View;

pub use prepare::{Author, date, prepare_create, prepare_update, stamp};
pub use service::has_health_check;

/// The rule for names of a kind.
pub fn name_rule(resource: &Kind) -> NameRule {
    resource.rules.name
}

/// Everything that is wrong with an object that is to be created. Its name has been generated already.
pub fn validate_create(resource: &Kind, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(object, resource.namespaced, name_rule(resource), &mut errors);
    (resource.rules.validate)(View::new(object), None, &mut errors);
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
    let rules = &resource.rules;
    match (rules.validate_update, subresource) {
        (Some(validate), _) => validate(subresource, new, old, &mut errors),
        (None, Some("status")) => (rules.validate_status)(view, before, &mut errors),
        (None, _) => (rules.validate)(view, Some(before), &mut errors),
    }
    readable(resource, new, &mut errors);
    errors
}

/// What there must be beside a new object of this name, to be written with it. The certificate of the
/// cluster's authority is PEM.
pub fn companions(resource: &Kind, name: &str, authority_pem: &str) -> Vec<Value> {
    (resource.rules.companions)(name, authority_pem)
}

/// The texts of the `Warning` headers for an object that was accepted.
pub fn warnings(resource: &Kind, object: &Value, old: Option<&Value>) -> Vec<String> {
    (resource.rules.warnings)(object, old)
}
