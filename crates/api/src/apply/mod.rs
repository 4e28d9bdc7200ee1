//! Server-side apply and the field managers of an object.
//!
//! ```text
//! create, update, patch ─ compare old and new ─ the manager owns what changed
//! apply ─ merge the intent into the live object ─ take out what the manager no longer
//!         applies and nobody else owns ─ conflicts? ─ the manager owns what it applied
//! ```
//!
//! The rules are those of upstream's fieldmanager and structured-merge-diff. A server
//! calls [`update`] after decoding and defaulting and before admission, [`apply`] in
//! place of a patch, and [`keep_times`] last, so that writing what is already there
//! changes nothing.

mod managers;
mod set;
mod typed;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::convert;
use crate::decode::{self, Misfit};
use crate::kinds::{Kind, Kinds};
use crate::schema::{ListKind, Struct};
use crate::status::{Cause, Status};
use managers::{Identity, Managed, Operation};
use set::{Set, display};

pub(crate) use set::display_element;

/// The manager of objects that had none before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The annotation in which `kubectl apply` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that nobody owns: the server sets them or they name the object.
const UNOWNED: &[&str] = &[
    "f:apiVersion",
    "f:kind",
    "f:metadata",
    "f:metadata/f:name",
    "f:metadata/f:namespace",
    "f:metadata/f:creationTimestamp",
    "f:metadata/f:selfLink",
    "f:metadata/f:uid",
    "f:metadata/f:clusterName",
    "f:metadata/f:generation",
    "f:metadata/f:managedFields",
    "f:metadata/f:resourceVersion",
];

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// The name: see [`manager_name`].
    pub name: &'a str,
    /// The apiVersion of the request.
    pub api_version: &'a str,
    /// The subresource that is written, or "".
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
}

/// The query parameter `fieldManager`, or the User-Agent up to its first slash.
pub fn manager_name(parameter: &str, user_agent: &str) -> String {
    const LENGTH_MAX: usize = 128;
    if !parameter.is_empty() {
        return parameter.to_owned();
    }
    let name = user_agent.split('/').next().unwrap_or_default();
    let printable: String = name.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    match printable.chars().take(LENGTH_MAX).collect::<String>() {
        empty if empty.is_empty() => "unknown".to_owned(),
        name => name,
    }
}

/// A kind in all its versions. Who writes owns fields by the names of the version it writes in, and loses
/// them by a write in any other: each compares the objects as it shows them.
#[derive(Debug, Clone, Copy)]
pub struct Versions<'a> {
    request: &'a Kind,
    served: &'a Kinds,
}

impl<'a> Versions<'a> {
    /// Of the kind that is written, in the version of the request.
    pub fn new(request: &'a Kind, served: &'a Kinds) -> Self {
        Self { request, served }
    }

    fn find(self, api_version: &str) -> Option<&'a Kind> {
        match self.request {
            kind if kind.api_version() == api_version => Some(kind),
            kind => self.served.by_kind(api_version, &kind.kind).map(|kind| &**kind),
        }
    }
}

/// Records in `new` who owns what after a create (`old` is `None`), update or patch. Both are in the version
/// that is stored.
///
/// A client may send managedFields: a valid list replaces the old one, a list with one
/// empty entry clears it, and anything else is taken for ignorance and ignored.
pub fn update(versions: Versions<'_>, old: Option<&Value>, new: &mut Value, manager: Manager<'_>) {
    let sent = take_managed(new);
    let mut managed = match Managed::read(&sent) {
        _ if !manager.subresource.is_empty() => managed_of(old),
        _ if managers::is_reset(&sent) => Managed::default(),
        Some(managed) if !managed.is_empty() => managed,
        _ => managed_of(old),
    };
    for version in managed.versions().into_iter().filter(|version| *version != manager.api_version) {
        match versions.find(&version) {
            Some(kind) => {
                Written::shown_by(kind, old, new, manager.subresource).take_from(&mut managed, &version)
            }
            // Of a version that is served no more nobody can say what its fields are.
            None => managed.forget(&version),
        }
    }
    Written::shown_by(versions.request, old, new, manager.subresource).give_to(&mut managed, manager);
    managed.write(new);
}

/// What a write changed and took out, by the names of one version.
struct Written {
    changed: Set,
    removed: Set,
}

impl Written {
    fn between(schema: &Struct, live: &Value, new: &Value, subresource: &str) -> Self {
        let difference = typed::compare(live, new, schema);
        let changed = difference.modified.union(&difference.added);
        Self { changed: written(&changed, subresource), removed: written(&difference.removed, subresource) }
    }

    /// Of objects of the stored version, as another one shows them.
    fn shown_by(kind: &Kind, old: Option<&Value>, new: &Value, subresource: &str) -> Self {
        let live = old.map_or_else(|| Cow::Owned(decode::empty(kind.schema())), |old| shown(kind, old));
        Self::between(kind.schema(), &live, &shown(kind, new), subresource)
    }

    fn take_from(&self, managed: &mut Managed, api_version: &str) {
        managed.take_away(api_version, &self.changed);
        managed.take_away(api_version, &self.removed);
    }

    fn give_to(&self, managed: &mut Managed, manager: Manager<'_>) {
        self.take_from(managed, manager.api_version);
        let owned = self.changed.difference(&self.removed).difference(&Set::of(UNOWNED));
        if !owned.is_empty() {
            managed.add(Identity::new(Operation::Update, manager), &owned, manager);
            managed.cap();
        }
    }
}

/// An object of the stored version in another.
fn shown<'a>(kind: &Kind, stored: &'a Value) -> Cow<'a, Value> {
    if kind.is_storage() {
        return Cow::Borrowed(stored);
    }
    Cow::Owned(convert::to_served(kind, stored.clone()))
}

/// What of these fields a write to this place changes and therefore owns.
fn written(fields: &Set, subresource: &str) -> Set {
    match subresource {
        "resize" => fields.within(RESIZED),
        "ephemeralcontainers" => fields.within(&["f:spec/f:ephemeralContainers"]),
        _ => fields.recursive_difference(&ignored(subresource)),
    }
}

/// Of all else that a resize says nothing is kept.
const RESIZED: &[&str] = &[
    "f:spec/f:resources",
    "f:spec/f:containers/*/f:resources",
    "f:spec/f:containers/*/f:resizePolicy",
    "f:spec/f:initContainers/*/f:resources",
    "f:spec/f:initContainers/*/f:resizePolicy",
];

/// What a write to this place cannot change and therefore does not own.
fn ignored(subresource: &str) -> Set {
    match subresource {
        "" => Set::of(&["f:status"]),
        "status" => Set::of(&["f:spec", "f:metadata/f:deletionTimestamp", "f:metadata/f:ownerReferences"]),
        _ => Set::default(),
    }
}

/// Server-side apply: the live object (`None` when there is none yet) with `intent` laid
/// over it and its managers recorded. The result is not defaulted.
///
/// Conflicts are 409 with one cause for each field, unless `force`. `intent` comes from
/// [`intent`].
pub fn apply(
    schema: &Struct,
    live: Option<&Value>,
    intent: &Value,
    manager: Manager<'_>,
    force: bool,
) -> Result<Value, Status> {
    if !intent["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let empty = decode::empty(schema);
    let object = without_managed(live.unwrap_or(&empty));
    let mut managed = managed_of(live);
    if managed.is_empty() {
        let before = Manager { name: BEFORE_FIRST_APPLY, ..manager };
        Written::between(schema, &empty, &object, manager.subresource).give_to(&mut managed, before);
    }
    let attempt = |force| Attempt { schema, live: &object, intent, manager, force }.run(managed.clone());
    let outcome = match attempt(force) {
        // Fields that kubectl applied from the client before are not in its own way.
        Err(Refusal::Conflicts(conflicts)) if may_upgrade(schema, &object, manager, &conflicts) => {
            attempt(true)
        }
        outcome => outcome,
    };
    outcome.map_err(|refusal| refusal.into_status(intent, manager))
}

/// Reads the body of an apply: only what it says, without zero values. `api_version` is
/// that of the request. What the schema does not know is refused whatever the field
/// validation, because the merge could not place it.
pub fn intent(schema: &Struct, api_version: &str, body: &[u8]) -> Result<Value, Status> {
    let unreadable = |why| Status::bad_request(format!("error decoding YAML: {why}"));
    match decode::intent(schema, body).map_err(unreadable)? {
        Err(Misfit { namespace, name, why }) => {
            Err(untyped((&namespace, &name), api_version, &schema.go, &why))
        }
        Ok(intent) => match intent["apiVersion"].as_str().unwrap_or_default() {
            version if version == api_version => Ok(intent),
            version => Err(Status::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {api_version}"
            ))),
        },
    }
}

/// The path element of a list item, as structured-merge-diff writes it.
pub(crate) fn list_element(item: &Value, kind: &ListKind) -> Result<String, String> {
    typed::element(item, kind)
}

struct Attempt<'a> {
    schema: &'a Struct,
    live: &'a Value,
    intent: &'a Value,
    manager: Manager<'a>,
    force: bool,
}

enum Refusal {
    /// What the merge makes is no object of the kind.
    Unplaceable(String),
    /// Fields of others, with their owners.
    Conflicts(Vec<(Identity, Set)>),
}

impl Attempt<'_> {
    fn run(&self, mut managed: Managed) -> Result<Value, Refusal> {
        let applied = typed::fields(self.intent, self.schema);
        let applied = written(&applied, self.manager.subresource);
        let identity = Identity::new(Operation::Apply, self.manager);
        let last = managed.fields_of(&identity);
        let mut merged = typed::merge(self.live, self.intent, self.schema);
        managed.replace(identity.clone(), applied, self.manager);
        if let Some(last) = last.filter(|last| !last.is_empty()) {
            merged = self.prune(&merged, &managed, &last);
        }
        let merged = decode::canonical(self.schema, &merged, decode::FieldValidation::Ignore)
            .map_err(Refusal::Unplaceable)?
            .object;
        let difference = typed::compare(self.live, &merged, self.schema);
        let changed = difference.modified.clone().union(&difference.added);
        let conflicts = managed.conflicts(&identity, self.manager.api_version, &changed);
        if !self.force && !conflicts.is_empty() {
            return Err(Refusal::Conflicts(conflicts));
        }
        managed.take_away_from_others(&identity, self.manager.api_version, &changed);
        managed.take_away_from_others(&identity, self.manager.api_version, &difference.removed);
        managed.strip(&identity, &Set::of(UNOWNED));
        if difference.is_same() {
            managed.keep_time(&identity);
        }
        let mut object = merged;
        managed.write(&mut object);
        Ok(object)
    }

    /// Takes out what this manager applied last time and applies no more, unless
    /// somebody else owns it.
    fn prune(&self, merged: &Value, managed: &Managed, last: &Set) -> Value {
        let schema = self.schema;
        let named = |set: &Set| typed::with_named_fields(set, schema);
        let all = |value: &Value| typed::fields(value, schema);
        let pruned = typed::remove(merged, &named(last), schema);
        let before = named(&all(merged));
        let owned = named(&managed.all_fields());
        let gone = before.difference(&named(&all(&pruned)).union(&owned));
        let pruned = typed::remove(merged, &gone, schema);
        let dangling = before.difference(&named(&all(&pruned)));
        typed::remove(merged, &dangling.intersection(&named(last)), schema)
    }
}

impl Refusal {
    fn into_status(self, intent: &Value, manager: Manager<'_>) -> Status {
        match self {
            Refusal::Unplaceable(why) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let metadata = &intent["metadata"];
                let named = (&*text(&metadata["namespace"]), &*text(&metadata["name"]));
                untyped(named, manager.api_version, &text(&intent["kind"]), &why)
            }
            Refusal::Conflicts(conflicts) => conflict(&conflicts),
        }
    }
}

fn untyped((namespace, name): (&str, &str), api_version: &str, kind: &str, why: &str) -> Status {
    let slash = if api_version.contains('/') { "" } else { "/" };
    crate::patch::plain_error(format!(
        "failed to create typed patch object ({namespace}/{name}; {slash}{api_version}, Kind={kind}): {why}",
    ))
}

fn conflict(conflicts: &[(Identity, Set)]) -> Status {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (owner, fields) in conflicts {
        lines.push(format!("conflicts with {owner}:"));
        for path in fields.paths() {
            let field = display(&path);
            lines.push(format!("- {field}"));
            let message = format!("conflict with {owner}");
            causes.push(Cause { reason: "FieldManagerConflict".into(), message, field });
        }
    }
    let message = match causes.as_slice() {
        [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    Status::apply_conflict(causes, message)
}

/// Whether all conflicts are about fields that `kubectl apply` set from the client side.
fn may_upgrade(schema: &Struct, live: &Value, manager: Manager<'_>, conflicts: &[(Identity, Set)]) -> bool {
    if manager.name != "kubectl" {
        return false;
    }
    let last = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    let Ok(Ok(last)) = decode::intent(schema, last.as_bytes()) else { return false };
    let mut allowed = typed::fields(&last, schema);
    allowed.insert(&["f:metadata", "f:annotations", &format!("f:{LAST_APPLIED}")].map(str::to_owned));
    conflicts.iter().all(|(_, fields)| fields.difference(&allowed).is_empty())
}

/// Puts the old managedFields back when nothing but their times changed, so that a
/// write which changes nothing is no write. Call it on the final object.
pub fn keep_times(old: &Value, new: &mut Value) {
    let managed = &old["metadata"]["managedFields"];
    if managed.is_array() && *managed != new["metadata"]["managedFields"] && same_but_for_times(old, new) {
        new["metadata"]["managedFields"] = managed.clone();
    }
}

/// Whether two objects differ at most in the times of their managedFields. Compared in
/// place: this runs on every write, and most differ.
fn same_but_for_times(old: &Value, new: &Value) -> bool {
    same_fields(old, new, "metadata", |old, new| {
        same_fields(old, new, "managedFields", |old, new| match (old.as_array(), new.as_array()) {
            (Some(old), Some(new)) => {
                let pairs = old.iter().zip(new);
                old.len() == new.len()
                    && pairs.into_iter().all(|(old, new)| same_fields(old, new, "time", |_, _| true))
            }
            _ => old == new,
        })
    })
}

/// Whether two values are the same where the field `special` of objects is compared by `rule`;
/// what is absent is null there.
fn same_fields(old: &Value, new: &Value, special: &str, rule: impl Fn(&Value, &Value) -> bool) -> bool {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else { return old == new };
    let others =
        |object: &serde_json::Map<String, Value>| object.len() - usize::from(object.contains_key(special));
    others(before) == others(after)
        && rule(&old[special], &new[special])
        && before
            .iter()
            .filter(|(name, _)| *name != special)
            .all(|(name, value)| after.get(name) == Some(value))
}

fn managed_of(object: Option<&Value>) -> Managed {
    let list = object.map(|object| &object["metadata"]["managedFields"]);
    list.and_then(Managed::read).unwrap_or_default()
}

fn take_managed(object: &mut Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.and_then(|metadata| metadata.remove("managedFields")).unwrap_or(json!([]))
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    take_managed(&mut object);
    object
}

#[cfg(test)]
mod tests;
