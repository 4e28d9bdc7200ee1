//! Creating and replacing objects: the one way every kind takes.
//!
//! ```text
//! body ─ decode ─ identity ─ defaults ─ ownership ─ mutate ─ prepare ─ rules ─ validate ─ addresses ─ store
//! ```
//!
//! Mutate and validate are the two phases of [`crate::admission`].

use std::sync::Arc;

use api::convert;
use api::decode::{self, Decoded, FieldValidation};
use api::field::{Error, ErrorList, Path};
use api::kinds::{Kind, by_kind};
use api::meta::Object as _;
use api::status::{GroupKind, Status};
use api::{apply, defaults, names, strategy};
use bytes::Bytes;
use serde_json::Value;
use store::Entry;
use wire::Response;

use crate::admission::{self, Outcome};
use crate::bootstrap::identify;
use crate::call::Call;
use crate::delete;
use crate::object;
use crate::respond::warn;
use crate::service;
use crate::state::{Draft, seconds, store_failed};

/// How often a generated name is tried before the client is told to.
const NAME_TRIES: usize = 8;

/// An object after a write, as the store has it (or would, for a dry run).
#[derive(Debug)]
pub(crate) struct Written {
    /// The encoded object.
    pub(crate) stored: Bytes,
    /// Whether it was created.
    pub(crate) created: bool,
}

/// Who records which field is whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// This write does, as an update of its manager.
    Update,
    /// Server-side apply has already.
    Applied,
}

/// Records who wrote what in `metadata.managedFields`: before admission, for what that adds belongs to
/// nobody, and before the server takes back what this way of writing may not change.
pub(crate) fn track(call: &Call, tracking: Tracking, old: Option<&Value>, new: &mut Value) {
    if tracking == Tracking::Update {
        let (name, kinds) = (manager_name(call), call.state.registry.kinds());
        let manager = manager(call, &name, call.resource.api_version());
        apply::update(apply::Versions::new(&call.resource, &kinds), old, new, manager);
    }
}

/// The name of who writes: the parameter `fieldManager`, or what the client calls itself.
pub(crate) fn manager_name(call: &Call) -> String {
    let agent = call.parts.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    apply::manager_name(call.query.text("fieldManager"), agent.unwrap_or_default())
}

/// Who writes, through what, and when.
pub(crate) fn manager<'a>(call: &'a Call, name: &'a str, api_version: &'a str) -> apply::Manager<'a> {
    apply::Manager { name, api_version, subresource: &call.target.subresource, now: call.now }
}

/// Answers `POST` to a collection.
pub(crate) async fn create(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let Decoded { object, mut warnings } = decode_body(call, body)?;
    let written = create_object(call, object, &mut warnings).await?;
    Ok(answer(call, &written, &warnings))
}

/// Answers `PUT`.
pub(crate) async fn update(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let Decoded { object, mut warnings } = decode_body(call, body)?;
    let written = update_object(call, object, &mut warnings).await?;
    Ok(answer(call, &written, &warnings))
}

/// Answers with a written object and the warnings about it.
pub(crate) fn answer(call: &Call, written: &Written, warnings: &[String]) -> Response {
    let code = if written.created { 201 } else { 200 };
    let mut response = call.object(code, &written.stored);
    warn(response.headers_mut(), warnings);
    response
}

fn decode_body(call: &Call, body: &[u8]) -> Result<Decoded, Status> {
    let media_type = call.media_type();
    decode::decode(&call.resource, body, &media_type, field_validation(call)?)
}

/// The parameter `fieldValidation`.
pub(crate) fn field_validation(call: &Call) -> Result<FieldValidation, Status> {
    let text = call.query.text("fieldValidation");
    FieldValidation::parse(text).ok_or_else(|| {
        let supported = ["Ignore", "Strict", "Warn"];
        let error = Error::not_supported(&Path::new("fieldValidation"), text, &supported);
        let kind = GroupKind { group: "meta.k8s.io", kind: "CreateOptions" };
        Status::invalid(kind, "", &ErrorList(vec![error]))
    })
}

/// Creates an object that was decoded, in the version of the path.
pub(crate) async fn create_object(
    call: &Call,
    object: Value,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    let resource = call.resource.storage();
    let mut object = convert::to_stored(&call.resource, object);
    fit_namespace(call, &mut object)?;
    if !object.meta().resource_version().is_empty() {
        return Err(Status::internal("resourceVersion should not be set on objects to be created"));
    }
    let generated = object.meta().name().is_empty() && !object.meta().generate_name().is_empty();
    let base = object.meta().generate_name().to_owned();
    for _ in 0..NAME_TRIES {
        if generated {
            object.meta_mut().set_name(&names::generate(&base, call.state.random()?));
        }
        match create_named(call, resource, object.clone(), Tracking::Update, warnings).await {
            Err(status) if generated && status.reason == api::status::Reason::AlreadyExists => {
                warnings.clear()
            }
            result => return result,
        }
    }
    Err(Status::generate_name_conflict(&call.resource, object.meta().name()))
}

pub(crate) async fn create_named(
    call: &Call,
    resource: &Kind,
    mut object: Value,
    tracking: Tracking,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    object.meta_mut().set_uid(&call.state.uid()?).set_creation_timestamp(&seconds(call.now));
    defaults::apply(resource, &mut object);
    track(call, tracking, None, &mut object);
    let mut request = admission::Request::create(call, object)?;
    admission::mutate(&mut request).await?;
    let object = &mut request.object;
    call.state.auth.check_escalation(&call.user, resource, object, None)?;
    prepare_create(call, resource, object);
    let errors = strategy::validate_create(resource, object);
    if !errors.is_empty() {
        return Err(Status::invalid(&call.resource, object.meta().name(), &errors));
    }
    warnings.extend(strategy::warnings(resource, object, None));
    let Outcome { warnings: heard, charged } = admission::validate(&request).await?;
    warnings.extend(heard);
    let created = store_new(call, resource, request.object).await;
    if created.is_err() {
        admission::give_back(call, charged).await;
    }
    created
}

/// What the server itself writes into a new object.
fn prepare_create(call: &Call, resource: &Kind, object: &mut Value) {
    strategy::prepare_create(resource, object);
    strategy::stamp(resource, object, &call.user.author());
    strategy::date(resource, object, None, &seconds(call.now));
}

/// Writes an object that was admitted, with the addresses it asks for.
async fn store_new(call: &Call, resource: &Kind, mut object: Value) -> Result<Written, Status> {
    // Held until the object is written; nothing outside is waited for meanwhile.
    let _guard = service::allocate(call, resource, &mut object, None).await?;
    let name = object.meta().name();
    if call.dry_run()? {
        let key = object::key(resource, &call.target.namespace, name);
        if let Some(there) = call.state.get(&key).await? {
            return Err(already_exists(call, name, Some(&there)));
        }
        return Ok(Written { stored: encode_unversioned(&object), created: true });
    }
    match call.state.write(Draft { resource, object: &object, old: None }).await {
        Ok(entry) => {
            furnish(call, resource, name).await?;
            Ok(Written { stored: entry.value.clone(), created: true })
        }
        Err(store::Error::Conflict(there)) => Err(already_exists(call, name, there.as_deref())),
        Err(err) => Err(store_failed(err)),
    }
}

/// Writes what there must be beside a new object; upstream leaves it to controllers, with which the next
/// request would race.
async fn furnish(call: &Call, resource: &Kind, name: &str) -> Result<(), Status> {
    let companions = strategy::companions(resource, name, &call.state.config.authority_pem);
    let written = companions.into_iter().map(|object| furnish_one(call, object));
    // All are written before one that failed is told: the object is there, and will not be created again.
    futures_util::future::join_all(written).await.into_iter().collect()
}

async fn furnish_one(call: &Call, mut object: Value) -> Result<(), Status> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let resource = by_kind(text("apiVersion"), text("kind")).ok_or_else(Status::no_such_resource)?;
    identify(&call.state, resource, &mut object, call.now)?;
    match call.state.write(Draft { resource, object: &object, old: None }).await {
        // Somebody was faster.
        Ok(_) | Err(store::Error::Conflict(_)) => Ok(()),
        Err(err) => Err(store_failed(err)),
    }
}

/// The 409 of a name that is taken; upstream says so when it will be free soon.
fn already_exists(call: &Call, name: &str, there: Option<&Entry>) -> Status {
    let mut status = Status::already_exists(&call.resource, name);
    let going = |entry: &Entry| object::read(&entry.value).is_ok_and(|there| there.meta().is_going());
    if there.is_some_and(going) {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// What a dry run would have made: it has no resourceVersion.
fn encode_unversioned(object: &Value) -> Bytes {
    serde_json::to_vec(object).unwrap_or_default().into()
}

/// The namespace of the path goes into the object; another one in it is an error.
pub(crate) fn fit_namespace(call: &Call, object: &mut Value) -> Result<(), Status> {
    let given = object.meta().namespace();
    if !call.resource.namespaced {
        // A namespace on a cluster-wide object is dropped, as upstream's typed clients expect.
        object.meta_mut().set_namespace("");
        return Ok(());
    }
    if !given.is_empty() && given != call.target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object.meta_mut().set_namespace(&call.target.namespace);
    Ok(())
}

/// Replaces an object that was decoded, in the version of the path.
pub(crate) async fn update_object(
    call: &Call,
    object: Value,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    let mut object = convert::to_stored(&call.resource, object);
    fit_namespace(call, &mut object)?;
    fit_name(call, &mut object)?;
    let given = given_version(call, &object)?;
    loop {
        let Some(old) = call.state.get(&call.key()).await? else {
            return create_on_update(call, object, given, warnings).await;
        };
        check_version(call, given, &old)?;
        match replace(call, object.clone(), &old, Tracking::Update, warnings).await? {
            Some(written) => return Ok(written),
            None if given.is_some() => return Err(Status::modified(&call.resource, &call.target.name)),
            // Unconditional: what came in between is overwritten too.
            None => {}
        }
    }
}

async fn create_on_update(
    call: &Call,
    mut object: Value,
    given: Option<u64>,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    if !call.resource.create_on_update || !call.target.subresource.is_empty() {
        return Err(call.not_found());
    }
    if given.is_some() {
        return Err(Status::modified(&call.resource, &call.target.name));
    }
    object.meta_mut().clear_resource_version();
    create_named(call, call.resource.storage(), object, Tracking::Update, warnings).await
}

fn fit_name(call: &Call, object: &mut Value) -> Result<(), Status> {
    let (given, asked) = (object.meta().name(), call.target.name.as_str());
    if given.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if given != asked {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({asked})"
        )));
    }
    Ok(())
}

/// The resourceVersion the client read; `None` when it gives none.
fn given_version(call: &Call, object: &Value) -> Result<Option<u64>, Status> {
    let given = object.meta().resource_version();
    if given.is_empty() || given == "0" {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {given:?}: invalid syntax");
        let error = Error::invalid(&Path::new("metadata").child("resourceVersion"), given, why);
        Status::invalid(&call.resource, &call.target.name, &ErrorList(vec![error]))
    })
}

fn check_version(call: &Call, given: Option<u64>, old: &Entry) -> Result<(), Status> {
    match given {
        Some(given) if given != old.revision => Err(Status::modified(&call.resource, &call.target.name)),
        None if !call.resource.unconditional_update => {
            let path = Path::new("metadata");
            let error = Error::invalid(&path.child("resourceVersion"), 0, "must be specified for an update");
            // Upstream's store knows the resource and not the kind.
            let named = GroupKind { group: &call.resource.group, kind: &call.resource.plural };
            Err(Status::invalid(named, &call.target.name, &ErrorList(vec![error])))
        }
        _ => Ok(()),
    }
}

/// Writes `new` in place of `old`. `None` when the object has changed meanwhile.
pub(crate) async fn replace(
    call: &Call,
    mut new: Value,
    old: &Arc<Entry>,
    tracking: Tracking,
    warnings: &mut Vec<String>,
) -> Result<Option<Written>, Status> {
    let resource = call.resource.storage();
    let before = object::read(&old.value)?;
    let subresource = Some(call.target.subresource.as_str()).filter(|name| !name.is_empty());
    check_uid(call, &new, &before)?;
    defaults::apply(resource, &mut new);
    track(call, tracking, Some(&before), &mut new);
    let mut request = admission::Request::update(call, new, &before)?;
    admission::mutate(&mut request).await?;
    let new = &mut request.object;
    call.state.auth.check_escalation(&call.user, resource, new, Some(&before))?;
    prepare_update(call, resource, new, &before);
    apply::keep_times(&before, new);
    let errors = strategy::validate_update(resource, subresource, new, &before);
    if !errors.is_empty() {
        return Err(Status::invalid(&call.resource, &call.target.name, &errors));
    }
    warnings.extend(strategy::warnings(resource, new, Some(&before)));
    let Outcome { warnings: heard, charged } = admission::validate(&request).await?;
    warnings.extend(heard);
    let written = store_changed(call, request.object, &before, old).await;
    if !matches!(written, Ok(Some(_))) {
        admission::give_back(call, charged).await;
    }
    written
}

/// What the server itself keeps of a changed object, and writes into it.
fn prepare_update(call: &Call, resource: &Kind, new: &mut Value, old: &Value) {
    let subresource = Some(call.target.subresource.as_str()).filter(|name| !name.is_empty());
    strategy::prepare_update(resource, subresource, new, old);
    strategy::date(resource, new, Some(old), &seconds(call.now));
}

/// Writes a change that was admitted, with the addresses it asks for.
async fn store_changed(
    call: &Call,
    mut new: Value,
    before: &Value,
    old: &Arc<Entry>,
) -> Result<Option<Written>, Status> {
    // Held until the object is written; nothing outside is waited for meanwhile.
    let _guard = service::allocate(call, call.resource.storage(), &mut new, Some(before)).await?;
    put(call, &new, old).await
}

/// A patch may carry the name and the version it was made for.
pub(crate) fn check_patched(call: &Call, new: &Value, old: &Entry) -> Result<(), Status> {
    if new.meta().name() != call.target.name {
        let given = new.meta().name();
        let asked = call.target.name.as_str();
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({asked})"
        )));
    }
    match given_version(call, new)? {
        Some(given) if given != old.revision => Err(Status::modified(&call.resource, &call.target.name)),
        _ => Ok(()),
    }
}

fn check_uid(call: &Call, new: &Value, old: &Value) -> Result<(), Status> {
    let (given, stored) = (new.meta().uid(), old.meta().uid());
    if given.is_empty() || given == stored {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {stored}");
    Err(Status::conflict(&call.resource, &call.target.name, why))
}

/// Writes a prepared object, unless nothing changed: then the version stays. An
/// object whose deletion waited for its last finalizer goes instead.
pub(crate) async fn put(call: &Call, new: &Value, old: &Arc<Entry>) -> Result<Option<Written>, Status> {
    let resource = call.resource.storage();
    let encoded = object::encode(resource, new);
    if object::same(&encoded, &old.value) {
        return Ok(Some(Written { stored: old.value.clone(), created: false }));
    }
    if call.dry_run()? {
        let stored = object::stamp(&encoded, old.revision);
        return Ok(Some(Written { stored, created: false }));
    }
    let written = if delete::is_released(resource, new) {
        let stored = object::stamp(&encoded, old.revision);
        call.state.remove(resource, old).await.map(|_| stored)
    } else {
        let draft = Draft { resource, object: new, old: Some(old) };
        call.state.write(draft).await.map(|entry| entry.value.clone())
    };
    match written {
        Ok(stored) => Ok(Some(Written { stored, created: false })),
        Err(store::Error::Conflict(_)) => Ok(None),
        Err(err) => Err(store_failed(err)),
    }
}
