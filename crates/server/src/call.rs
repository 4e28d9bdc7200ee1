//! One request for a resource, with all that its handlers need to know of it.

use std::sync::Arc;
use std::time::Duration;

use api::kinds::{Kind, Subresource};
use api::status::Status;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt;
use jiff::Timestamp;
use store::Entry;
use tokio::time::timeout;
use wire::{Body, Response};

use crate::auth::{Attributes, User};
use crate::inflight::Guest;
use crate::negotiate::{Accepted, media_type};
use crate::object;
use crate::path::Target;
use crate::query::Query;
use crate::respond::Dress;
use crate::state::State;
use crate::view;

/// The largest body upstream reads.
pub(crate) const BODY_MAX: usize = 3 * 1024 * 1024;

/// A body of which nothing came for so long is not waited for any longer.
const BODY_PAUSE: Duration = Duration::from_secs(10);

/// A request that was understood and is permitted.
#[derive(Debug)]
pub(crate) struct Call {
    /// The server.
    pub(crate) state: Arc<State>,
    /// What is asked.
    pub(crate) target: Target,
    /// Its resource.
    pub(crate) resource: Arc<Kind>,
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
        object::key(&self.resource, &self.target.namespace, &self.target.name)
    }

    /// The subresource that is asked for, if it is one.
    pub(crate) fn subresource(&self) -> Option<&Subresource> {
        self.resource.subresource(&self.target.subresource)
    }

    /// The object that is asked for; 404 when there is none.
    pub(crate) async fn current(&self) -> Result<Arc<Entry>, Status> {
        let found = self.state.get(&self.key()).await?;
        found.ok_or_else(|| self.not_found())
    }

    /// Whether the user may do something else with the object than what was asked.
    pub(crate) fn authorize(&self, verb: &str) -> Result<(), Status> {
        let target = &self.target;
        self.state.auth.authorize(&Attributes {
            namespace: &target.namespace,
            name: &target.name,
            ..Attributes::resource(&self.user, verb, &target.group, &target.version, &target.resource)
        })
    }

    /// The same for the subresource that was asked.
    pub(crate) fn authorize_subresource(&self, verb: &str) -> Result<(), Status> {
        let target = &self.target;
        self.state.auth.authorize(&Attributes {
            namespace: &target.namespace,
            name: &target.name,
            subresource: &target.subresource,
            ..Attributes::resource(&self.user, verb, &target.group, &target.version, &target.resource)
        })
    }

    /// The 404 of the object that is asked for.
    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.resource, &self.target.name)
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
        let json = view::object(&self.resource, stored, self.accepted.shape, self.include(), self.now);
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

/// Reads a body, up to the limit, as long as it keeps coming.
pub(crate) async fn read_body(mut body: Body, mut guest: Option<&mut Guest>) -> Result<Bytes, Status> {
    // What is announced is made room for at once: a buffer that grows is there twice.
    let announced = body.size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let mut read = BytesMut::with_capacity(announced.unwrap_or(0).min(BODY_MAX));
    while let Some(frame) = timeout(BODY_PAUSE, body.frame()).await.map_err(|_| too_slow())? {
        let frame = frame.map_err(|err| Status::bad_request(format!("failed to read the body: {err}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > BODY_MAX {
            return Err(Status::too_large(format!("limit is {BODY_MAX}")));
        }
        if let Some(guest) = &mut guest {
            guest.keep(data.len())?;
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

fn too_slow() -> Status {
    Status::timeout("request did not complete within the allowed duration", 0)
}
