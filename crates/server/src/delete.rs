//! Deleting: grace, finalizers, preconditions, propagation, as upstream's generic
//! registry decides it.

use std::sync::Arc;

use api::decode::{self, FieldValidation};
use api::field::{Error, ErrorList, Path};
use api::kinds::{Deletion, Kind};
use api::meta::Object as _;
use api::status::{GroupKind, GroupResource, Status};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::Entry;
use wire::Response;

use crate::admission;
use crate::call::Call;
use crate::list::{self, ListOptions, Listed};
use crate::object;
use crate::respond::warn;
use crate::state::{Draft, seconds, store_failed};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What becomes of the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// metav1.DeleteOptions, from the body or the query.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds of grace; `None` for what the object itself asks for.
    pub(crate) grace: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    version: Option<String>,
    /// Whether an object that cannot be read goes without a look at it.
    ignore_read_error: bool,
    /// Whether the deletion is only to be tried.
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the options of a request; those of the body win.
    pub(crate) fn parse(call: &Call, body: &[u8]) -> Result<Self, Status> {
        let options = if body.is_empty() { from_query(call)? } else { decode_options(call, body)? };
        Self::read(&options)
    }

    /// Reads options out of a DeleteOptions object.
    pub(crate) fn read(options: &Value) -> Result<Self, Status> {
        let errors = check(options);
        if !errors.is_empty() {
            let kind = GroupKind { group: "meta.k8s.io", kind: "DeleteOptions" };
            return Err(Status::invalid(kind, "", &errors));
        }
        let propagation = match (options["propagationPolicy"].as_str(), options["orphanDependents"].as_bool())
        {
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            _ => None,
        };
        let precondition = |name: &str| options["preconditions"][name].as_str().map(str::to_owned);
        Ok(Self {
            grace: options["gracePeriodSeconds"].as_i64(),
            propagation,
            uid: precondition("uid"),
            version: precondition("resourceVersion"),
            ignore_read_error: options["ignoreStoreReadErrorWithClusterBreakingPotential"] == true,
            dry_run: options["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
        })
    }
}

/// Go's typed clients send the options in the version of the group they talk to, others under
/// the name that the options have of their own.
fn decode_options(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let media_type = call.media_type();
    let read = |version: &str, body: &[u8]| {
        decode::decode_kind(version, "DeleteOptions", body, &media_type, FieldValidation::Ignore)
    };
    let is_own = |given: &Value| *given == "meta.k8s.io/v1" || *given == call.resource.api_version();
    let under_own_name = || {
        let mut options: Value = serde_json::from_slice(body).ok()?;
        let given = options.get_mut("apiVersion").filter(|given| is_own(given))?;
        *given = "v1".into();
        read("v1", &serde_json::to_vec(&options).ok()?).ok()
    };
    let decoded = read("v1", body).or_else(|refused| {
        let of_group = read(call.resource.api_version(), body).ok();
        of_group.or_else(under_own_name).ok_or(refused)
    });
    Ok(decoded?.object)
}

fn from_query(call: &Call) -> Result<Value, Status> {
    let query = &call.query;
    let mut options = json!({});
    if let Some(grace) = query.number("gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = grace.into();
    }
    if query.has("propagationPolicy") {
        options["propagationPolicy"] = query.text("propagationPolicy").into();
    }
    if query.has("orphanDependents") {
        options["orphanDependents"] = query.flag("orphanDependents").into();
    }
    let dry_run: Vec<_> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
    options["dryRun"] = json!(dry_run);
    Ok(options)
}

/// Upstream's ValidateDeleteOptions.
fn check(options: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let policy = options["propagationPolicy"].as_str();
    let path = Path::new("propagationPolicy");
    if options["orphanDependents"].is_boolean() && policy.is_some() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(Error::invalid(&path, policy.unwrap_or_default(), why));
    }
    if let Some(policy) = policy
        && !matches!(policy, "Background" | "Foreground" | "Orphan")
    {
        let supported = ["Background", "Foreground", "Orphan"];
        errors.push(Error::not_supported(&path, policy, &supported));
    }
    let dry_run = options["dryRun"].as_array().into_iter().flatten();
    for value in dry_run.filter_map(Value::as_str).filter(|value| *value != "All") {
        errors.push(Error::not_supported(&Path::new("dryRun"), value, &["All"]));
    }
    errors
}

/// What deleting an object means for what is stored.
#[derive(Debug, PartialEq)]
enum Decision {
    /// It goes.
    Remove,
    /// It is changed: marked as being deleted, and waits.
    Mark(Box<Value>),
    /// Nothing: its deletion is under way already.
    Leave,
}

/// Decides what a deletion does: upstream's BeforeDelete and
/// updateForGracefulDeletionAndFinalizers.
fn decide(resource: &Kind, stored: &Value, options: &DeleteOptions, now: Timestamp) -> Decision {
    let mut object = stored.clone();
    if matches!(resource.deletion, Deletion::Emptied) {
        return decide_namespace(object, options, now);
    }
    let graceful = match grace(resource, &mut object, options, now) {
        Grace::Pending => return Decision::Leave,
        Grace::Given(seconds) => Some(seconds),
        Grace::None => None,
    };
    let finalizers = finalizers_for(resource, &object, options);
    let waits = !finalizers.is_empty();
    object.meta_mut().set_finalizers(finalizers);
    match graceful {
        Some(seconds) if seconds > 0 || waits => Decision::Mark(Box::new(object)),
        None if waits => {
            mark(&mut object, now);
            // Asked for again, it has nothing to wait for that it did not wait for before. A write would
            // be news to those who ask because of the last one.
            if object == *stored { Decision::Leave } else { Decision::Mark(Box::new(object)) }
        }
        _ => Decision::Remove,
    }
}

enum Grace {
    /// The kind knows no grace, or the object has used it up.
    None,
    /// So many seconds, written into the object.
    Given(i64),
    /// Its deletion is under way and this request does not shorten it.
    Pending,
}

fn grace(resource: &Kind, object: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    let Deletion::Graceful(seconds_for) = resource.deletion else { return Grace::None };
    if let Some(begun) = object.meta().deletion_timestamp().map(str::to_owned) {
        let granted = object.meta().deletion_grace_period_seconds();
        if granted == 0 {
            return Grace::None;
        }
        let Some(asked) = options.grace.map(|asked| if asked < 0 { 1 } else { asked }) else {
            return Grace::Pending;
        };
        if asked >= granted {
            return Grace::Pending;
        }
        let begun = begun.parse().unwrap_or(now);
        let until = later(begun, asked.saturating_sub(granted));
        set_deletion(object, until, asked);
        return Grace::Given(asked);
    }
    let seconds = seconds_for(object, options.grace);
    set_deletion(object, later(now, seconds), seconds);
    count_generation(object);
    Grace::Given(seconds)
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}

fn set_deletion(object: &mut Value, at: Timestamp, grace: i64) {
    object.meta_mut().set_deletion_timestamp(&seconds(at)).set_deletion_grace_period_seconds(grace);
}

fn count_generation(object: &mut Value) {
    let generation = object.meta().generation();
    if generation > 0 {
        object.meta_mut().set_generation(generation + 1);
    }
}

/// Marks an object that waits for its finalizers: upstream's markAsDeleting.
fn mark(object: &mut Value, now: Timestamp) {
    if object.meta().is_going() {
        object.meta_mut().set_deletion_grace_period_seconds(0);
        return;
    }
    count_generation(object);
    set_deletion(object, now, 0);
}

/// The finalizers the object has from now on: the garbage collector's two are put on
/// or taken off as the propagation asks.
fn finalizers_for(resource: &Kind, object: &Value, options: &DeleteOptions) -> Vec<String> {
    let mut finalizers = finalizers_of(object);
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    let policy = options.propagation.unwrap_or_else(|| {
        if has(ORPHAN) {
            Propagation::Orphan
        } else if has(FOREGROUND) {
            Propagation::Foreground
        } else if resource.orphans_by_default {
            Propagation::Orphan
        } else {
            Propagation::Background
        }
    });
    let wanted = match policy {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    finalizers
        .retain(|finalizer| wanted == Some(finalizer) || (finalizer != ORPHAN && finalizer != FOREGROUND));
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|finalizer| finalizer == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

/// A namespace is Terminating until its controller has emptied it.
fn decide_namespace(mut namespace: Value, options: &DeleteOptions, now: Timestamp) -> Decision {
    let held = namespace["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if !namespace.meta().is_going() {
        namespace.meta_mut().set_deletion_timestamp(&seconds(now));
        namespace["status"]["phase"] = "Terminating".into();
        if options.propagation == Some(Propagation::Orphan) {
            let mut finalizers = finalizers_of(&namespace);
            finalizers.retain(|finalizer| finalizer != ORPHAN);
            finalizers.push(ORPHAN.to_owned());
            namespace.meta_mut().set_finalizers(finalizers);
        }
        return Decision::Mark(Box::new(namespace));
    }
    if held || namespace.meta().is_held() { Decision::Leave } else { Decision::Remove }
}

fn finalizers_of(object: &Value) -> Vec<String> {
    object.meta().finalizers().map(str::to_owned).collect()
}

/// Whether an object that was just changed has nothing left to wait for: its deletion has
/// begun, no finalizer holds it, its grace is used up.
pub(crate) fn is_released(resource: &Kind, object: &Value) -> bool {
    let meta = object.meta();
    let is_full = || object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    meta.is_going()
        && !meta.is_held()
        && meta.deletion_grace_period_seconds() == 0
        && !(matches!(resource.deletion, Deletion::Emptied) && is_full())
}

/// An object after its deletion was asked for.
struct Deleted {
    stored: Bytes,
    gone: bool,
}

/// Whether the steps of admission are asked about a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Asked,
    /// An eviction was admitted, and its deletion is a part of it.
    Done,
}

/// Deletes one object, however often it changes meanwhile.
async fn delete_entry(
    call: &Call,
    key: &str,
    options: &DeleteOptions,
    admission: Admission,
) -> Result<Deleted, Status> {
    loop {
        let name = key.rsplit('/').next().unwrap_or_default();
        let Some(entry) = call.state.get(key).await? else {
            return Err(Status::not_found(&call.resource, name));
        };
        if let Some(deleted) = try_delete(call, &entry, options, admission).await? {
            return Ok(deleted);
        }
    }
}

async fn try_delete(
    call: &Call,
    entry: &Arc<Entry>,
    options: &DeleteOptions,
    admission: Admission,
) -> Result<Option<Deleted>, Status> {
    let resource = call.resource.storage();
    let decision = match object::read(&entry.value) {
        Ok(object) => {
            check_preconditions(call, &object, options)?;
            if admission == Admission::Asked {
                admission::admit(admission::Request::delete(call, &object)?).await?;
            }
            decide(resource, &object, options, call.now)
        }
        Err(_) if options.ignore_read_error => {
            call.authorize("unsafe-delete-ignore-read-errors")?;
            Decision::Remove
        }
        Err(unreadable) => return Err(unreadable),
    };
    if options.dry_run || call.dry_run()? {
        let gone = decision == Decision::Remove;
        let stored = match decision {
            Decision::Mark(marked) => object::stamp(&object::encode(resource, &marked), entry.revision),
            _ => entry.value.clone(),
        };
        return Ok(Some(Deleted { stored, gone }));
    }
    let done = match decision {
        Decision::Leave => return Ok(Some(Deleted { stored: entry.value.clone(), gone: false })),
        Decision::Remove => {
            let removed = call.state.remove(resource, entry).await;
            removed.map(|removed| Deleted { stored: removed.value.clone(), gone: true })
        }
        Decision::Mark(marked) => {
            let written = call.state.write(Draft { resource, object: &marked, old: Some(entry) }).await;
            written.map(|written| Deleted { stored: written.value.clone(), gone: false })
        }
    };
    match done {
        Ok(deleted) => Ok(Some(deleted)),
        Err(store::Error::Conflict(_)) => Ok(None),
        Err(err) => Err(store_failed(err)),
    }
}

fn check_preconditions(call: &Call, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let kind = GroupResource { group: &call.resource.group, resource: &call.resource.kind };
    let conflict = |why: String| Err(Status::conflict(kind, object.meta().name(), why));
    let (uid, version) = (object.meta().uid(), object.meta().resource_version());
    match (&options.uid, &options.version) {
        (Some(given), _) if given != uid => conflict(format!(
            "the UID in the precondition ({given}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        )),
        (_, Some(given)) if given != version => conflict(format!(
            "the ResourceVersion in the precondition ({given}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        )),
        _ => Ok(()),
    }
}

/// Answers `DELETE` of an object.
pub(crate) async fn delete(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let options = DeleteOptions::parse(call, body)?;
    let deleted = delete_entry(call, &call.key(), &options, Admission::Asked).await?;
    let mut response = if deleted.gone && !call.resource.deletion_answers_object {
        // Upstream names the object's uid; one that cannot be read has none to be named.
        let object = object::read(&deleted.stored).unwrap_or_default();
        call.value(200, &Status::deleted(&call.resource, &call.target.name, object.meta().uid()))?
    } else {
        call.object(200, &deleted.stored)
    };
    if let Some(words) = call.resource.orphan_warning.filter(|_| options.propagation.is_none()) {
        warn(response.headers_mut(), &[words.to_owned()]);
    }
    Ok(response)
}

/// Deletes the Pod of an eviction that was admitted and counted.
pub(crate) async fn delete_evicted(call: &Call, options: &DeleteOptions) -> Result<(), Status> {
    delete_entry(call, &call.key(), options, Admission::Done).await.map(drop)
}

/// Answers `DELETE` of a collection: with the list of what was deleted.
pub(crate) async fn delete_collection(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let delete_options = DeleteOptions::parse(call, body)?;
    let options = ListOptions::parse(call, false)?;
    let listed = list::collect(call, &options).await?;
    for entry in &listed.entries {
        match delete_entry(call, &entry.key, &delete_options, Admission::Asked).await {
            Err(status) if status.code() != 404 => return Err(status),
            // Gone already, which is what was asked for.
            _ => {}
        }
    }
    Ok(list::render(call, &Listed { entries: listed.entries, metadata: listed.metadata }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pods() -> &'static Kind {
        api::kinds::find("", "v1", "pods").expect("in the table")
    }

    fn decided(object: &Value, options: Value) -> Decision {
        decide(pods(), object, &DeleteOptions::read(&options).expect("options"), NOW)
    }

    fn running() -> Value {
        json!({"metadata": {"name": "a", "generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}})
    }

    #[test]
    fn a_running_pod_gets_its_grace() {
        let Decision::Mark(pod) = decided(&running(), json!({})) else { panic!("not marked") };
        assert_eq!(pod["metadata"]["deletionTimestamp"], "1970-01-01T00:00:30Z");
        assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(pod["metadata"]["generation"], 2);
    }

    #[test]
    fn unscheduled_finished_and_forced_pods_go_at_once() {
        let mut unscheduled = running();
        unscheduled["spec"]["nodeName"] = "".into();
        let mut finished = running();
        finished["status"]["phase"] = "Succeeded".into();
        assert_eq!(decided(&unscheduled, json!({})), Decision::Remove);
        assert_eq!(decided(&finished, json!({})), Decision::Remove);
        assert_eq!(decided(&running(), json!({"gracePeriodSeconds": 0})), Decision::Remove);
    }

    #[test]
    fn a_second_deletion_only_shortens() {
        let Decision::Mark(pod) = decided(&running(), json!({})) else { panic!("not marked") };
        assert_eq!(decided(&pod, json!({})), Decision::Leave);
        assert_eq!(decided(&pod, json!({"gracePeriodSeconds": 40})), Decision::Leave);
        let Decision::Mark(shorter) = decided(&pod, json!({"gracePeriodSeconds": 5})) else {
            panic!("not marked")
        };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "1970-01-01T00:00:05Z");
        assert_eq!(shorter["metadata"]["generation"], 2, "the generation counts the first deletion only");
        assert_eq!(decided(&pod, json!({"gracePeriodSeconds": 0})), Decision::Remove);
    }

    #[test]
    fn finalizers_keep_an_object() {
        let maps = api::kinds::find("", "v1", "configmaps").expect("in the table");
        let map = json!({"metadata": {"name": "a", "finalizers": ["me/hold"]}});
        let options = DeleteOptions::read(&json!({"propagationPolicy": "Foreground"})).expect("options");
        let Decision::Mark(marked) = decide(maps, &map, &options, NOW) else { panic!("not marked") };
        assert_eq!(marked["metadata"]["finalizers"], json!(["me/hold", FOREGROUND]));
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert!(!is_released(maps, &marked));
        let mut free = *marked;
        free.meta_mut().set_finalizers(Vec::new());
        assert!(is_released(maps, &free));
        assert_eq!(decide(maps, &json!({"metadata": {}}), &DeleteOptions::default(), NOW), Decision::Remove);
    }

    #[test]
    fn asking_again_for_what_waits_already_writes_nothing() {
        let mut pod = running();
        pod["metadata"]["finalizers"] = json!(["me/hold"]);
        pod["spec"]["nodeName"] = "".into();
        let at_once = json!({"gracePeriodSeconds": 0});
        let Decision::Mark(marked) = decided(&pod, at_once.clone()) else { panic!("not marked") };
        assert_eq!(decided(&marked, at_once), Decision::Leave);
        let foreground = json!({"propagationPolicy": "Foreground"});
        assert!(matches!(decided(&marked, foreground), Decision::Mark(_)), "that is something new");
    }

    #[test]
    fn contradicting_options_are_refused() {
        let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
        assert_eq!(DeleteOptions::read(&both).map_err(|status| status.code()).err(), Some(422));
        let unknown = json!({"propagationPolicy": "Sometimes"});
        assert_eq!(DeleteOptions::read(&unknown).map_err(|status| status.code()).err(), Some(422));
    }
}
