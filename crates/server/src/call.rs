//! One request for a resource, with all that its handlers need to know of it.

use std::sync::Arc;

use api::resource::{Resource, Subresource};
use api::status::Status;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http_body_util::BodyExt;
use jiff::Timestamp;
use store::Entry;
use wire::{Body, Response};

use crate::auth::User;
use crate::negotiate::{Accepted, media_type};
use crate::object;
use crate::path::Target;
use crate::query::Query;
use crate::respond::Dress;
use crate::state::State;
use crate::view;

/// The largest body upstream reads.
pub(crate) const BODY_MAX: usize = 3 * 1024 * 1024;

/// A request that was understood and is permitted.
#[derive(Debug)]
pub(crate) struct Call {
    /// The server.
    pub(crate) state: Arc<State>,
    /// What is asked.
    pub(crate) target: Target,
    /// Its resource.
    pub(crate) resource: &'static Resource,
    /// The query parameters.
    pub(crate) query: Query,
    /// The rest of the request but for its body.
    pub(crate) parts: Parts,
    /// Who asks.
    pub(crate) user: User,
    /// The form of the answer.
    pub(crate) accepted: Accepted,
    /// When the request came.
    pub(crate) now: Timestamp,
}

impl Call {
    /// The key of the object that is asked for.
    pub(crate) fn key(&self) -> Arc<str> {
        object::key(self.resource, &self.target.namespace, &self.target.name)
    }

    /// The subresource that is asked for, if it is one.
    pub(crate) fn subresource(&self) -> Option<&'static Subresource> {
        self.resource.subresource(&self.target.subresource)
    }

    /// The object that is asked for; 404 when there is none.
    pub(crate) async fn current(&self) -> Result<Arc<Entry>, Status> {
        let found = self.state.get(&self.key()).await?;
        found.ok_or_else(|| self.not_found())
    }

    /// The 404 of the object that is asked for.
    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.resource, &self.target.name)
    }

    /// The media type the body says it has.
    pub(crate) fn media_type(&self) -> String {
        media_type(&self.parts.headers)
    }

    /// How the answer is written.
    pub(crate) fn dress(&self) -> Dress {
        Dress::of(&self.parts, &self.query, self.accepted.format)
    }

    /// Answers an object in the form that was asked for.
    pub(crate) fn object(&self, code: u16, stored: &Bytes) -> Response {
        let json = view::object(self.resource, stored, self.accepted.shape, self.include(), self.now);
        self.dress().json(code, json)
    }

    /// Answers JSON of a kind that is not the resource's own (Scale, Status).
    pub(crate) fn value(&self, code: u16, value: &impl serde::Serialize) -> Result<Response, Status> {
        let json = serde_json::to_vec(value).map_err(Status::internal)?;
        Ok(self.dress().json(code, json.into()))
    }

    /// What the rows of a table carry of their objects.
    pub(crate) fn include(&self) -> view::Include {
        match self.query.text("includeObject") {
            "None" => view::Include::None,
            "Object" => view::Include::Object,
            _ => view::Include::Metadata,
        }
    }

    /// Whether the request is only to be tried.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut asked = false;
        for value in self.query.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                let path = api::field::Path::new("dryRun");
                let error = api::field::Error::not_supported(&path, value, &["All"]);
                let errors = api::field::ErrorList(vec![error]);
                let kind = api::status::GroupKind { group: "meta.k8s.io", kind: "CreateOptions" };
                return Err(Status::invalid(kind, "", &errors));
            }
            asked = true;
        }
        Ok(asked)
    }
}

/// Reads a body, up to the limit.
pub(crate) async fn read_body(mut body: Body) -> Result<Bytes, Status> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|err| Status::bad_request(format!("failed to read the body: {err}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > BODY_MAX {
            return Err(Status::too_large(format!("limit is {BODY_MAX}")));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}
