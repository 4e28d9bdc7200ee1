//! The handler: from a request to those who answer it.

use std::sync::Arc;
use std::time::Duration;

use api::kinds::{Answered, Kind};
use api::selector::FieldSelector;
use api::status::Status;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use store::Store;
use tokio::task::JoinHandle;
use wire::websocket::Messages;
use wire::{Body, Handler, Identity, Request, Response};

use crate::auth::audit;
use crate::auth::{Attributes, KeyError, User};
use crate::call::{Call, read_body};
use crate::config::Config;
use crate::inflight::{self, Class, Guest};
use crate::info;
use crate::negotiate::{self, Accepted, Format, Shape};
use crate::path::{self, Route, Target};
use crate::query::Query;
use crate::registry::Registry;
use crate::respond::Dress;
use crate::state::State;
use crate::subresource::connect::{self, Stream};
use crate::subresource::{self, binding, eviction, proxy, scale};
use crate::{admission, bootstrap, delete, expiry, list, metrics, patch, requests, socket, watch, write};

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
        #[expect(clippy::disallowed_methods, reason = "the server aborts it when it is dropped")]
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

impl Server {
    /// What is served, which can change.
    pub fn registry(&self) -> &Registry {
        &self.state.registry
    }
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
    let is_room = parts.extensions.get::<Identity>().is_some_and(Identity::is_inside);
    let user = match state.auth.authenticate(&mut parts, Timestamp::now()) {
        Ok(user) => user,
        Err(status) => return error.status(&status),
    };
    let route = path::parse(&parts.method, parts.uri.path(), watching);
    let class = if is_room || user.is_master() { None } else { class(&route, &parts) };
    let watched = audit::Watched::begin(&state, &parts, &user, &route);
    let counting = requests::Counting::begin(&state, &route, class);
    let response = answer(state, (parts, body), query, user, (route, class), error).await;
    counting.end(&response);
    if let Some(watched) = watched {
        watched.end(&response);
    }
    response
}

async fn answer(
    state: Arc<State>,
    (parts, body): (Parts, Body),
    query: Query,
    user: User,
    (route, class): (Route, Option<Class>),
    error: Dress,
) -> Response {
    let answered = match class.map(|class| state.in_flight.admit(class, &user.name)).transpose() {
        Err(status) => Err(status),
        Ok(guest) => match route {
            Route::Resource(target) => resource(state, parts, query, user, target, (guest, body)).await,
            Route::Other => info::answer(&state, &parts, &query, &user)
                .await
                .and_then(|answer| inflight::attend(guest, answer)),
        },
    };
    answered.unwrap_or_else(|status| error.status(&status))
}

/// How a request is counted; health and version are always answered.
fn class(route: &Route, parts: &Parts) -> Option<Class> {
    match route {
        Route::Resource(target) if target.is_long_running() => Some(Class::Stream),
        Route::Resource(_) if matches!(parts.method, Method::GET | Method::HEAD) => Some(Class::Read),
        Route::Resource(_) => Some(Class::Write),
        Route::Other => (!info::is_public(parts.uri.path())).then_some(Class::Read),
    }
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
    (guest, body): (Option<Guest>, Body),
) -> Result<Response, Status> {
    let kinds = state.registry.kinds();
    let resource = kinds.find(&target.group, &target.version, &target.resource);
    // Only these select: to the other verbs a selector means nothing, and must grant nothing.
    let selects = matches!(target.verb, "list" | "watch" | "deletecollection");
    let selector = if selects { query.text("fieldSelector") } else { "" };
    authorize(&state, &user, &target, (resource.map(|kind| &**kind), selector))?;
    let resource = resource.cloned().ok_or_else(Status::no_such_resource)?;
    let accepted = accepted(&parts, &target)?;
    let now = Timestamp::now();
    let mut call = Call { state, target, resource, query, parts, user, accepted, now };
    check_served(&call)?;
    if is_socket(&call) {
        // Whoever opens a stream acts on the Pod, by whatever method it is asked for.
        call.authorize_subresource("create")?;
    }
    if call.target.is_long_running() {
        return long(&mut call, guest, body).await;
    }
    tokio::time::timeout(REQUEST_TIMEOUT, short(call, guest, body))
        .await
        .unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allowed duration", 0)))
}

/// A request whose answer lasts as long as the client likes.
async fn long(call: &mut Call, guest: Option<Guest>, body: Body) -> Result<Response, Status> {
    let stream = match (call.target.verb, call.target.subresource.as_str()) {
        ("watch", "") => {
            let handshake = socket::handshake(call);
            let lines = inflight::attend(guest, watch::watch(call).await?)?;
            return socket::upgrade(handshake, lines, Messages::Lines);
        }
        (_, "log") => {
            let handshake = socket::handshake(call);
            let log = inflight::attend(guest, connect::connect(call, Stream::Log, body).await?)?;
            return socket::upgrade(handshake, log, Messages::Parts);
        }
        (_, "exec") => Some(Stream::Exec),
        (_, "attach") => Some(Stream::Attach),
        (_, "portforward") => Some(Stream::PortForward),
        (_, "proxy") => None,
        _ => return Err(Status::method_not_allowed()),
    };
    admission::admit(admission::Request::connect(call, connect::options(call))?).await?;
    let Some(stream) = stream else {
        return inflight::attend(guest, proxy::proxy(call, body).await?);
    };
    inflight::attend(guest, connect::connect(call, stream, body).await?)
}

fn authorize(
    state: &State,
    user: &User,
    target: &Target,
    (resource, field_selector): (Option<&Kind>, &str),
) -> Result<(), Status> {
    // A list or watch of one name is authorised as a request for it (upstream's request info).
    let selector = resource.and_then(|resource| FieldSelector::parse(resource, field_selector).ok());
    let selected = selector.as_ref().and_then(FieldSelector::exact_name).filter(|name| is_segment(name));
    state.auth.authorize(&Attributes {
        namespace: &target.namespace,
        subresource: &target.subresource,
        name: if target.name.is_empty() { selected.unwrap_or_default() } else { &target.name },
        field_selector,
        ..Attributes::resource(user, target.verb, &target.group, &target.version, &target.resource)
    })
}

/// Upstream's IsValidPathSegmentName: nothing else names an object.
fn is_segment(name: &str) -> bool {
    !matches!(name, "." | "..") && !name.contains(['/', '%'])
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
    if !call.resource.namespaced && target.is_within_namespace {
        return Err(Status::no_such_resource());
    }
    let on_collection = matches!(target.verb, "list" | "watch" | "create" | "deletecollection");
    let fits = !target.subresource.is_empty() || on_collection == target.name.is_empty();
    if fits && verbs.contains(&target.verb) { Ok(()) } else { Err(Status::method_not_allowed()) }
}

/// A request that is answered with one object, or one list of them.
async fn short(call: Call, mut guest: Option<Guest>, body: Body) -> Result<Response, Status> {
    if matches!(call.parts.method, Method::GET | Method::HEAD) {
        return inflight::attend(guest, object(&call, &[]).await?);
    }
    let state = Arc::clone(&call.state);
    let announced = http_body::Body::size_hint(&body).exact();
    let _room = if guest.is_none() { state.in_flight.room(announced).await } else { None };
    let body = read_body(body, guest.as_mut()).await?;
    // A write runs to its end even when the client goes away in its midst: what follows from it
    // (a changed policy, a namespace's account, a budget's count) must follow.
    let write = async move {
        let _turn = call.state.in_flight.turn(body.len()).await;
        inflight::attend(guest, object(&call, &body).await?)
    };
    state.writes.spawn(write).await.unwrap_or_else(|_| {
        Err(Status::internal("This request caused apiserver to panic. Look in the logs for details."))
    })
}

async fn object(call: &Call, body: &[u8]) -> Result<Response, Status> {
    match (call.target.verb, call.target.subresource.as_str()) {
        (_, "") if call.resource.answered != Answered::FromStore => answer_unstored(call, body).await,
        ("get", "" | "status" | "ephemeralcontainers" | "resize" | "approval") => {
            Ok(call.object(200, &call.current().await?.value))
        }
        ("list", "") => list::list(call).await,
        ("create", "") => write::create(call, body).await,
        ("create", "binding") => binding::bind(call, body).await,
        ("create", "eviction") => eviction::evict(call, body).await,
        ("create", "token") => subresource::token(call, body).await,
        ("get", "scale") => scale::get(call).await,
        ("update", "scale") => scale::update(call, body).await,
        ("patch", "scale") => scale::patch(call, body).await,
        ("update", "" | "status" | "finalize" | "ephemeralcontainers" | "resize" | "approval") => {
            write::update(call, body).await
        }
        ("patch", "" | "status" | "ephemeralcontainers" | "resize" | "approval") => {
            patch::patch(call, body).await
        }
        ("delete", "") => delete::delete(call, body).await,
        ("deletecollection", "") => delete::delete_collection(call, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// What is kept nowhere: each such kind has the verbs that its way of answering knows.
async fn answer_unstored(call: &Call, body: &[u8]) -> Result<Response, Status> {
    match call.resource.answered {
        Answered::ByMeasuring => metrics::answer(call).await,
        Answered::ByBinding => binding::bind(call, body).await,
        Answered::ByReview => subresource::review(call, body).await,
        Answered::FromStore => Err(Status::method_not_allowed()),
    }
}
