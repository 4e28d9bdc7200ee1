//! The handler: from a request to those who answer it.

use std::sync::Arc;
use std::time::Duration;

use api::resource;
use api::status::Status;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use store::Store;
use tokio::task::JoinHandle;
use wire::websocket::Messages;
use wire::{Body, Handler, Request, Response};

use crate::auth::{Attributes, KeyError, User};
use crate::call::{Call, read_body};
use crate::config::Config;
use crate::info;
use crate::negotiate::{self, Accepted, Format, Shape};
use crate::path::{self, Route, Target};
use crate::query::Query;
use crate::respond::Dress;
use crate::state::State;
use crate::subresource::connect::{self, Stream};
use crate::subresource::{self, binding, eviction, proxy, scale};
use crate::{bootstrap, delete, expiry, list, patch, socket, watch, write};

/// How long a request may take that is not a watch or a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The API server.
#[derive(Debug)]
pub struct Server {
    state: Arc<State>,
    expiry: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl Server {
    /// Starts to serve a store. When it answers, the objects of a fresh cluster
    /// are there.
    pub async fn start(store: Arc<dyn Store>, config: Config) -> Result<Arc<Self>, StartError> {
        let state = Arc::new(State::new(store, config)?);
        bootstrap::furnish(&state, Timestamp::now()).await?;
        let expiry = tokio::spawn(expiry::run(Arc::downgrade(&state)));
        Ok(Arc::new(Self { state, expiry }))
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key for ServiceAccount tokens is no key.
    #[error("failed to read the key that signs ServiceAccount tokens")]
    Key(#[from] KeyError),
    /// What a fresh cluster holds could not be written.
    #[error("failed to write what a fresh cluster holds")]
    Bootstrap(#[from] Status),
}

impl Handler for Server {
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        Box::pin(handle(Arc::clone(&self.state), request))
    }
}

async fn handle(state: Arc<State>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let watching = query.flag("watch");
    let error = Dress::of(&parts, &query, error_format(&parts.headers));
    let user = match state.auth.authenticate(&mut parts, Timestamp::now()) {
        Ok(user) => user,
        Err(status) => return error.status(&status),
    };
    let answered = match path::parse(&parts.method, parts.uri.path(), watching) {
        Route::Resource(target) => resource(state, parts, query, user, target, body).await,
        Route::Other => info::answer(&state, &parts, &query, &user).await,
    };
    answered.unwrap_or_else(|status| error.status(&status))
}

/// Errors are written as objects are, in JSON when nothing fits.
fn error_format(headers: &HeaderMap) -> Format {
    negotiate::accept(headers, false).map_or(Format::Json, |accepted| accepted.format)
}

async fn resource(
    state: Arc<State>,
    parts: Parts,
    query: Query,
    user: User,
    target: Target,
    body: Body,
) -> Result<Response, Status> {
    authorize(&state, &user, &target, query.text("fieldSelector"))?;
    let resource = resource::find(&target.group, &target.version, &target.resource)
        .ok_or_else(Status::no_such_resource)?;
    let accepted = accepted(&parts, &target)?;
    let now = Timestamp::now();
    let mut call = Call { state, target, resource, query, parts, user, accepted, now };
    check_served(&call)?;
    if is_socket(&call) {
        // Whoever opens a stream acts on the Pod, by whatever method it is asked for.
        authorize(&call.state, &call.user, &Target { verb: "create", ..call.target.clone() }, "")?;
    }
    match (call.target.verb, call.target.subresource.as_str()) {
        ("watch", "") => {
            let handshake = socket::handshake(&mut call);
            let lines = watch::watch(&call).await?;
            socket::upgrade(handshake, lines, Messages::Lines)
        }
        (_, "log") => {
            let handshake = socket::handshake(&mut call);
            let log = connect::connect(&mut call, Stream::Log, body).await?;
            socket::upgrade(handshake, log, Messages::Parts)
        }
        (_, "exec") => connect::connect(&mut call, Stream::Exec, body).await,
        (_, "attach") => connect::connect(&mut call, Stream::Attach, body).await,
        (_, "portforward") => connect::connect(&mut call, Stream::PortForward, body).await,
        (_, "proxy") => proxy::proxy(&mut call, body).await,
        _ => tokio::time::timeout(REQUEST_TIMEOUT, object(&call, body)).await.unwrap_or_else(|_| {
            Err(Status::timeout("request did not complete within the allowed duration", 0))
        }),
    }
}

fn authorize(state: &State, user: &User, target: &Target, field_selector: &str) -> Result<(), Status> {
    state.auth.authorize(&Attributes {
        namespace: &target.namespace,
        subresource: &target.subresource,
        name: if target.name.is_empty() { selected_name(field_selector) } else { &target.name },
        field_selector,
        ..Attributes::resource(user, target.verb, &target.group, &target.version, &target.resource)
    })
}

/// A list or watch of one name is authorised as a request for it (upstream's request info).
fn selected_name(field_selector: &str) -> &str {
    let name = field_selector.split(',').find_map(|term| term.strip_prefix("metadata.name="));
    name.unwrap_or_default().trim_start_matches('=')
}

/// Whether this is a WebSocket to a running container.
fn is_socket(call: &Call) -> bool {
    call.target.verb == "get" && matches!(call.target.subresource.as_str(), "exec" | "attach" | "portforward")
}

fn accepted(parts: &Parts, target: &Target) -> Result<Accepted, Status> {
    match target.verb {
        "list" | "deletecollection" => negotiate::accept(&parts.headers, true),
        _ if matches!(target.subresource.as_str(), "" | "status" | "scale") => {
            negotiate::accept(&parts.headers, false)
        }
        _ => Ok(negotiate::accept(&parts.headers, false)
            .unwrap_or(Accepted { format: Format::Json, shape: Shape::Object })),
    }
}

/// 404 for what no kind has, 405 for what this kind does not do.
fn check_served(call: &Call) -> Result<(), Status> {
    let target = &call.target;
    let verbs = if target.subresource.is_empty() {
        call.resource.verbs
    } else {
        call.subresource().ok_or_else(Status::no_such_resource)?.verbs
    };
    if call.resource.namespaced && target.namespace.is_empty() && !matches!(target.verb, "list" | "watch") {
        return Err(Status::no_such_resource());
    }
    if !call.resource.namespaced && !target.namespace.is_empty() && call.resource.kind != "Namespace" {
        return Err(Status::no_such_resource());
    }
    let on_collection = matches!(target.verb, "list" | "watch" | "create" | "deletecollection");
    let fits = !target.subresource.is_empty() || on_collection == target.name.is_empty();
    if fits && verbs.contains(&target.verb) { Ok(()) } else { Err(Status::method_not_allowed()) }
}

async fn object(call: &Call, body: Body) -> Result<Response, Status> {
    let body = match call.parts.method {
        Method::GET | Method::HEAD => bytes::Bytes::new(),
        _ => read_body(body).await?,
    };
    match (call.target.verb, call.target.subresource.as_str()) {
        ("get", "" | "status" | "ephemeralcontainers" | "resize" | "approval") => {
            Ok(call.object(200, &call.current().await?.value))
        }
        ("list", "") => list::list(call).await,
        ("create", "") if call.resource.plural == "bindings" => binding::bind(call, &body).await,
        ("create", "") if !call.resource.is_stored() => subresource::review(call, &body),
        ("create", "") => write::create(call, &body).await,
        ("create", "binding") => binding::bind(call, &body).await,
        ("create", "eviction") => eviction::evict(call, &body).await,
        ("create", "token") => subresource::token(call, &body),
        ("get", "scale") => scale::get(call).await,
        ("update", "scale") => scale::update(call, &body).await,
        ("patch", "scale") => scale::patch(call, &body).await,
        ("update", "" | "status" | "finalize" | "ephemeralcontainers" | "resize" | "approval") => {
            write::update(call, &body).await
        }
        ("patch", "" | "status" | "ephemeralcontainers" | "resize" | "approval") => {
            patch::patch(call, &body).await
        }
        ("delete", "") => delete::delete(call, &body).await,
        ("deletecollection", "") => delete::delete_collection(call, &body).await,
        _ => Err(Status::method_not_allowed()),
    }
}
