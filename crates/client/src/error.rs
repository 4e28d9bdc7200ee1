//! What a request can come back with instead of an object.

use std::time::Duration;

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;

use crate::TransportError;

/// A request that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, in its own words.
    #[error("{}", .0.message.as_deref().unwrap_or("the server refused without a message"))]
    Api(Box<Status>),
    /// The server was not reached, or the connection broke.
    #[error("failed to {method} {path}")]
    Transport {
        /// The HTTP method.
        method: http::Method,
        /// The path asked for.
        path: String,
        /// The cause.
        #[source]
        source: TransportError,
    },
    /// The answer is not what its type promises.
    #[error("failed to decode the answer to {path}")]
    Decode {
        /// The path asked for.
        path: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// One object of the answer is not what its type promises; the others are.
    #[error("failed to decode {object}")]
    Unreadable {
        /// Which.
        object: Box<Unreadable>,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be built from its arguments.
    #[error("failed to build a request for {path}: {reason}")]
    Request {
        /// The path asked for.
        path: String,
        /// Why not.
        reason: String,
    },
}

/// What is known of an object that its type cannot read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of all that had this name.
    pub uid: String,
    /// Its version, to go on watching from.
    pub resource_version: String,
    /// This was its last state.
    pub deleted: bool,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::key(&self.namespace, &self.name))
    }
}

impl Unreadable {
    /// Reads what tells an object from others and nothing else of it, however deep that nests.
    pub(crate) fn of(object: &str) -> Self {
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Metadata {
            namespace: String,
            name: String,
            uid: String,
            resource_version: String,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Named {
            metadata: Metadata,
        }
        let Metadata { namespace, name, uid, resource_version } =
            serde_json::from_str::<Named>(object).unwrap_or_default().metadata;
        Self { namespace, name, uid, resource_version, deleted: false }
    }
}

/// Does trying again help?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Read the object again and repeat at once.
    Now,
    /// Repeat after a pause.
    After(Duration),
    /// Nothing will change until an object does.
    WaitForChange,
    /// The same request will always fail.
    Never,
}

/// The pause when the server names none.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

impl Error {
    /// The Status, when the server answered with one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            _ => None,
        }
    }

    /// The machine-readable reason, `NotFound` for example; empty without one.
    pub fn reason(&self) -> &str {
        self.status().and_then(|status| status.reason.as_deref()).unwrap_or_default()
    }

    /// The HTTP status code, 0 when no answer came.
    pub fn code(&self) -> u16 {
        let code = self.status().and_then(|status| status.code).unwrap_or_default();
        u16::try_from(code).unwrap_or_default()
    }

    /// The object is not there (or its namespace, or its kind).
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Somebody else changed the object first.
    pub fn is_conflict(&self) -> bool {
        self.code() == 409 && !self.is_already_exists()
    }

    /// The name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// The resource version asked for is no longer known.
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }

    /// The namespace is being deleted and takes no new content.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.status().and_then(|s| s.details.as_ref()).and_then(|d| d.causes.as_ref());
        causes
            .is_some_and(|causes| causes.iter().any(|c| c.reason.as_deref() == Some("NamespaceTerminating")))
    }

    /// Whether and when to try again.
    pub fn retry(&self) -> Retry {
        match (self, self.code()) {
            (Self::Transport { .. }, _) => Retry::After(DEFAULT_PAUSE),
            (Self::Decode { .. } | Self::Unreadable { .. } | Self::Request { .. }, _) => Retry::Never,
            (Self::Api(_), 409) if !self.is_already_exists() => Retry::Now,
            (Self::Api(status), 429 | 500..) => Retry::After(pause(status)),
            (Self::Api(_), 408) => Retry::After(DEFAULT_PAUSE),
            (Self::Api(_), 400 | 405 | 406 | 415 | 422) => Retry::Never,
            (Self::Api(_), _) => Retry::WaitForChange,
        }
    }

    /// An answer that is an error: its Status, or one made from the code when
    /// the body is something else (a proxy's page, for example).
    pub(crate) fn from_answer(code: StatusCode, body: &[u8]) -> Self {
        let mut status = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| Status {
            message: Some(String::from_utf8_lossy(body).trim().to_owned()).filter(|text| !text.is_empty()),
            reason: code.canonical_reason().map(|reason| reason.replace(' ', "")),
            status: Some("Failure".into()),
            ..Status::default()
        });
        status.code.get_or_insert(i32::from(code.as_u16()));
        Self::Api(Box::new(status))
    }
}

fn pause(status: &Status) -> Duration {
    let seconds = status.details.as_ref().and_then(|details| details.retry_after_seconds);
    seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map_or(DEFAULT_PAUSE, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: i32, reason: &str) -> Error {
        Error::Api(Box::new(Status { code: Some(code), reason: Some(reason.into()), ..Status::default() }))
    }

    #[test]
    fn a_conflict_is_repeated_at_once_but_a_taken_name_is_not() {
        assert_eq!(api(409, "Conflict").retry(), Retry::Now);
        assert_eq!(api(409, "AlreadyExists").retry(), Retry::WaitForChange);
        assert_eq!(api(422, "Invalid").retry(), Retry::Never);
        assert_eq!(api(503, "ServiceUnavailable").retry(), Retry::After(DEFAULT_PAUSE));
    }

    #[test]
    fn an_answer_that_is_no_status_still_becomes_one() {
        let error = Error::from_answer(StatusCode::BAD_GATEWAY, b"upstream down\n");
        assert_eq!(
            (error.code(), error.reason(), error.to_string().as_str()),
            (502, "BadGateway", "upstream down")
        );
    }
}
