//! `metav1.Status`: what every refused request is answered with, in upstream's words.
//!
//! People and programs compare these texts, so each constructor is one function of
//! apimachinery's `api/errors` package and says nothing else than it does.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::field::{ErrorList, go_quote as quote};
use crate::kinds;

/// A resource as messages name it: `pods`, `deployments.apps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupResource<'a> {
    /// The API group, empty for core.
    pub group: &'a str,
    /// The plural name.
    pub resource: &'a str,
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, self.resource, self.group)
    }
}

impl<'a> From<&'a kinds::Kind> for GroupResource<'a> {
    fn from(resource: &'a kinds::Kind) -> Self {
        Self { group: &resource.group, resource: &resource.plural }
    }
}

impl<'a> From<&'a Arc<kinds::Kind>> for GroupResource<'a> {
    fn from(kind: &'a Arc<kinds::Kind>) -> Self {
        Self::from(&**kind)
    }
}

impl<'a> From<(&'a str, &'a str)> for GroupResource<'a> {
    /// From (group, plural).
    fn from((group, resource): (&'a str, &'a str)) -> Self {
        Self { group, resource }
    }
}

/// A kind as messages of validation name it: `Pod`, `Deployment.apps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupKind<'a> {
    /// The API group, empty for core.
    pub group: &'a str,
    /// The kind.
    pub kind: &'a str,
}

impl fmt::Display for GroupKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        qualified(f, self.kind, self.group)
    }
}

impl<'a> From<&'a kinds::Kind> for GroupKind<'a> {
    fn from(resource: &'a kinds::Kind) -> Self {
        Self { group: &resource.group, kind: &resource.kind }
    }
}

impl<'a> From<&'a Arc<kinds::Kind>> for GroupKind<'a> {
    fn from(kind: &'a Arc<kinds::Kind>) -> Self {
        Self::from(&**kind)
    }
}

impl<'a> From<(&'a str, &'a str)> for GroupKind<'a> {
    /// From (group, kind).
    fn from((group, kind): (&'a str, &'a str)) -> Self {
        Self { group, kind }
    }
}

fn qualified(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    f.write_str(name)?;
    if group.is_empty() { Ok(()) } else { write!(f, ".{group}") }
}

/// The machine-readable cause of a Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are upstream's and say what they mean")]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
    StorageReadError,
    /// No reason given, or one this program does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Reason {
    fn is_unknown(&self) -> bool {
        *self == Reason::Unknown
    }
}

/// One of several causes: a field that is wrong, a budget that blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldManagerConflict`, `DisruptionBudget`, …
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field's path: `spec.containers[0].image`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What the Status is about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural of the resource; of `Invalid` the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Why, in parts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again; 0 is not said.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The list metadata of a Status: empty but for an expired continue token,
/// which brings a fresh one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListMeta {
    /// Goes on with an expired list, inconsistently.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

/// A field that always has the same text, and takes no room.
macro_rules! constant {
    ($name:ident, $text:literal) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        struct $name;

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match Cow::<'de, str>::deserialize(deserializer)?.as_ref() {
                    $text => Ok($name),
                    other => Err(serde::de::Error::custom(format_args!("not a Status: {other}"))),
                }
            }
        }
    };
}

constant!(Kind, "Status");
constant!(ApiVersion, "v1");

/// Whether the request was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was.
    Success,
    /// It was not.
    Failure,
}

/// An answer that is not an object: `metav1.Status`, fields in upstream's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    kind: Kind,
    api_version: ApiVersion,
    /// Empty but for an expired continue token.
    #[serde(default)]
    pub metadata: ListMeta,
    /// Whether it went well.
    pub status: Outcome,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "Reason::is_unknown")]
    pub reason: Reason,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// The HTTP status code; 0 is not said and means 200.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// The text of [`Status::conflict`] when the object moved on meanwhile.
pub const OBJECT_MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Status {
    fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind: Kind,
            api_version: ApiVersion,
            metadata: ListMeta::default(),
            status: Outcome::Failure,
            message: message.into(),
            reason,
            details: None,
            code,
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    /// With one more cause.
    #[must_use]
    pub fn with_cause(
        mut self,
        reason: &'static str,
        message: impl Into<String>,
        field: impl Into<String>,
    ) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// With the advice when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// The HTTP status code to answer with.
    pub fn code(&self) -> u16 {
        if self.code == 0 { 200 } else { self.code }
    }

    /// Seconds for the `Retry-After` header.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    /// Whether it says that something went well.
    pub fn is_success(&self) -> bool {
        self.status == Outcome::Success
    }

    /// The JSON the server answers with; a Status always encodes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a Status holds nothing JSON could refuse")
    }

    /// A Status out of an answer's body, if it is one.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Status>(body).ok()
    }

    /// An object was removed: the answer to a delete that leaves nothing to show.
    pub fn deleted<'a>(resource: impl Into<GroupResource<'a>>, name: &str, uid: &str) -> Self {
        let r = resource.into();
        let mut status = Self::new(0, Reason::Unknown, "").about(r.group, r.resource, name);
        status.status = Outcome::Success;
        status.details.get_or_insert_default().uid = uid.to_owned();
        status
    }

    /// A request was carried out and has no object to answer with (binding, eviction): 201.
    pub fn created() -> Self {
        let mut status = Self::new(201, Reason::Unknown, "");
        status.status = Outcome::Success;
        status
    }

    /// `pods "x" not found`
    pub fn not_found<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let r = resource.into();
        Self::new(404, Reason::NotFound, format!("{r} {} not found", quote(name)))
            .about(r.group, r.resource, name)
    }

    /// No such path or resource.
    pub fn no_such_resource() -> Self {
        let mut status = Self::new(404, Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// `pods "x" already exists`
    pub fn already_exists<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let r = resource.into();
        let message = format!("{r} {} already exists", quote(name));
        Self::new(409, Reason::AlreadyExists, message).about(r.group, r.resource, name)
    }

    /// Every generated name was taken.
    pub fn generate_name_conflict<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let r = resource.into();
        let message = format!(
            "{r} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::new(409, Reason::AlreadyExists, message).about(r.group, r.resource, name).with_retry_after(1)
    }

    /// `Operation cannot be fulfilled on pods "x": …`
    pub fn conflict<'a>(resource: impl Into<GroupResource<'a>>, name: &str, why: impl fmt::Display) -> Self {
        let r = resource.into();
        let message = format!("Operation cannot be fulfilled on {r} {}: {why}", quote(name));
        Self::new(409, Reason::Conflict, message).about(r.group, r.resource, name)
    }

    /// The resourceVersion of an update is not the current one.
    pub fn modified<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        Self::conflict(resource, name, OBJECT_MODIFIED)
    }

    /// Server-side apply met fields that others own: causes name field and manager.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        let mut status = Self::new(409, Reason::Conflict, message);
        status.details = Some(Box::new(Details { causes, ..Details::default() }));
        status
    }

    /// `Pod "x" is invalid: …`, with one cause for each error.
    pub fn invalid<'a>(kind: impl Into<GroupKind<'a>>, name: &str, errors: &ErrorList) -> Self {
        let k = kind.into();
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.field.clone() })
            .collect();
        let message = match errors.is_empty() {
            true => format!("{k} {} is invalid", quote(name)),
            false => format!("{k} {} is invalid: {errors}", quote(name)),
        };
        let mut status = Self::new(422, Reason::Invalid, message).about(k.group, k.kind, name);
        status.details.get_or_insert_default().causes = causes;
        status
    }

    /// The request cannot be understood: 400 with this text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// No or bad credentials.
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// `pods "x" is forbidden: …`; the resource's plural may be empty for paths.
    pub fn forbidden<'a>(resource: impl Into<GroupResource<'a>>, name: &str, why: impl fmt::Display) -> Self {
        let r = resource.into();
        let message = match (r.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (_, true) => format!("{r} is forbidden: {why}"),
            _ => format!("{r} {} is forbidden: {why}", quote(name)),
        };
        Self::new(403, Reason::Forbidden, message).about(r.group, r.resource, name)
    }

    /// A namespace that is going away takes no new objects.
    pub fn namespace_terminating<'a>(
        resource: impl Into<GroupResource<'a>>,
        name: &str,
        namespace: &str,
    ) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        Self::forbidden(resource, name, why).with_cause(
            "NamespaceTerminating",
            format!("namespace {namespace} is being terminated"),
            "metadata.namespace",
        )
    }

    /// The resource exists but not with this verb: `create is not supported on resources of kind "pods"`.
    pub fn method_not_supported<'a>(resource: impl Into<GroupResource<'a>>, action: &str) -> Self {
        let r = resource.into();
        let message = format!("{action} is not supported on resources of kind {}", quote(&r.to_string()));
        Self::new(405, Reason::MethodNotAllowed, message).about(r.group, r.resource, "")
    }

    /// The path exists but not with this HTTP method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Self::new(405, Reason::MethodNotAllowed, message);
        status.details = Some(Box::default());
        status
    }

    /// None of the types of `Accept` can be made.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, Reason::NotAcceptable, message)
    }

    /// The body's type cannot be read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// The body is over its limit: `limit is 3145728`.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
    }

    /// The revision or continue token has been compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// A watch asked for a revision that is no longer kept: `too old resource version: 1 (20)`.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// A page was asked for too late; `fresh` goes on from there with newer data.
    pub fn continue_expired(fresh: impl Into<String>) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You can start a new list without the continue parameter, or use the continue token in \
             this response to retrieve the remainder of the results. Continuing with the provided \
             token results in an inconsistent list - objects that were created, modified, or deleted \
             between the time the first chunk was returned and now may show up in the list.",
        );
        status.metadata.continue_token = fresh.into();
        status
    }

    /// A list asked for a revision that is no longer kept.
    pub fn resource_version_expired() -> Self {
        Self::expired("The resourceVersion for the provided list is too old.")
    }

    /// What was there is not any more.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    /// Too busy, or a budget blocks: try again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message).with_retry_after(retry_after_seconds)
    }

    /// `Internal error occurred: …`
    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        let mut status = Self::new(500, Reason::InternalError, format!("Internal error occurred: {text}"));
        status.details.get_or_insert_default().causes.push(Cause { message: text, ..Cause::default() });
        status
    }

    /// The operation could not be finished in time but may be tried again.
    pub fn server_timeout<'a>(
        resource: impl Into<GroupResource<'a>>,
        operation: &str,
        retry_after_seconds: u32,
    ) -> Self {
        let r = resource.into();
        let message = format!(
            "The {operation} operation against {r} could not be completed at this time, please try again."
        );
        let status = Self::new(500, Reason::ServerTimeout, message).about(r.group, r.resource, operation);
        status.with_retry_after(retry_after_seconds)
    }

    /// Not served now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// `Timeout: …`
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    /// A read asked for a revision that has not been made yet.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Self::timeout(message, 1).with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    fn json(status: &Status) -> String {
        String::from_utf8(status.to_json()).unwrap()
    }

    #[test]
    fn a_missing_object_is_answered_in_the_order_and_words_of_upstream() {
        assert_eq!(
            json(&Status::not_found(("", "pods"), "x")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
        );
    }

    #[test]
    fn groups_are_named_with_the_resource() {
        let status = Status::already_exists(("apps", "deployments"), "web");
        assert_eq!(status.message, r#"deployments.apps "web" already exists"#);
        assert_eq!(status.code(), 409);
    }

    #[test]
    fn an_unknown_resource_carries_empty_details() {
        assert!(
            json(&Status::no_such_resource()).ends_with(r#""reason":"NotFound","details":{},"code":404}"#)
        );
    }

    #[test]
    fn a_deletion_is_answered_without_reason_and_code() {
        assert_eq!(
            json(&Status::deleted(("", "configmaps"), "x", "u")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"x","kind":"configmaps","uid":"u"}}"#
        );
    }

    #[test]
    fn forbidden_names_what_is_known() {
        let why = r#"User "u" cannot list resource "pods" in API group "" in the namespace "n""#;
        assert_eq!(
            Status::forbidden(("", "pods"), "", why).message,
            r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "n""#
        );
        assert_eq!(Status::forbidden(("", ""), "", "no").message, "forbidden: no");
    }

    #[test]
    fn a_status_reads_back_what_it_wrote() {
        let status = Status::too_many_requests("slow down", 10).with_cause("DisruptionBudget", "m", "f");
        assert_eq!(Status::from_json(&status.to_json()).unwrap(), status);
        assert!(Status::from_json(br#"{"kind":"Pod","apiVersion":"v1"}"#).is_none());
    }

    #[test]
    fn an_invalid_object_is_named_by_its_kind_with_one_cause_for_each_error() {
        let errors: ErrorList = [
            Error::required(&Path::new("spec").child("containers"), ""),
            Error::invalid(&Path::new("metadata").child("name"), "X", "must be lower case"),
        ]
        .into_iter()
        .collect();
        let status = Status::invalid(("", "Pod"), "X", &errors);
        assert_eq!(
            status.message,
            r#"Pod "X" is invalid: [spec.containers: Required value, metadata.name: Invalid value: "X": must be lower case]"#
        );
        let details = status.details.unwrap();
        assert_eq!(details.causes[0].reason, "FieldValueRequired");
        assert_eq!(details.causes[1].message, r#"Invalid value: "X": must be lower case"#);
        assert_eq!((status.code, details.kind.as_str()), (422, "Pod"));
    }
}
