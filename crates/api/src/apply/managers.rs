//! The list metadata.managedFields.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use super::Manager;
use super::set::Set;

/// The most Update managers that are kept apart.
const UPDATE_MANAGERS_MAX: usize = 10;

/// What the oldest Update managers become when there are too many.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells one entry from another. An applier is the same whatever version it applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    operation: Operation,
    manager: String,
    /// Empty for appliers.
    api_version: String,
    subresource: String,
}

impl Identity {
    pub(super) fn new(operation: Operation, manager: Manager<'_>) -> Identity {
        Identity {
            operation,
            manager: manager.name.to_owned(),
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => manager.api_version.to_owned(),
            },
            subresource: manager.subresource.to_owned(),
        }
    }
}

/// As conflicts name it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.api_version),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    fields: Set,
    api_version: String,
    /// RFC 3339, seconds; compares as time does.
    time: Option<String>,
    /// The time before this operation, in case nothing changed.
    time_before: Option<String>,
}

/// Every manager's entry.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managed(BTreeMap<Identity, Entry>);

/// A list with one empty entry asks to forget all managers.
pub(super) fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([only]) => only.as_object().is_some_and(|entry| entry.values().all(is_blank)),
        _ => false,
    }
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value == ""
}

impl Managed {
    /// Reads a managedFields list; `None` when an entry makes no sense.
    pub(super) fn read(list: &Value) -> Option<Managed> {
        let mut managed = Managed::default();
        for entry in list.as_array()? {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let operation = match entry["operation"].as_str()? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            if entry["fieldsType"] != "FieldsV1" {
                return None;
            }
            let identity = Identity {
                operation,
                manager: text("manager"),
                api_version: if operation == Operation::Apply { String::new() } else { text("apiVersion") },
                subresource: text("subresource"),
            };
            let fields = match &entry["fieldsV1"] {
                Value::Null => Set::default(),
                fields => Set::from_fields(fields)?,
            };
            let time = entry["time"].as_str().map(str::to_owned);
            let entry = Entry { fields, api_version: text("apiVersion"), time_before: time.clone(), time };
            managed.0.insert(identity, entry);
        }
        Some(managed)
    }

    /// Writes the list into the object's metadata, or takes it out when it is empty.
    pub(super) fn write(&self, object: &mut Value) {
        let mut entries: Vec<(&Identity, &Entry)> = self.0.iter().collect();
        entries.sort_by_key(|(identity, entry)| (identity.operation, &entry.time, *identity));
        let list: Vec<Value> =
            entries.into_iter().map(|(identity, entry)| write_entry(identity, entry)).collect();
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if list.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The versions whose names the entries use.
    pub(super) fn versions(&self) -> BTreeSet<String> {
        self.0.values().map(|entry| entry.api_version.clone()).collect()
    }

    /// Drops the entries of a version.
    pub(super) fn forget(&mut self, api_version: &str) {
        self.0.retain(|_, entry| entry.api_version != api_version);
    }

    pub(super) fn fields_of(&self, identity: &Identity) -> Option<Set> {
        self.0.get(identity).map(|entry| entry.fields.clone())
    }

    pub(super) fn all_fields(&self) -> Set {
        self.0.values().fold(Set::default(), |all, entry| all.union(&entry.fields))
    }

    /// Gives fields to an Update manager, beside what it has.
    pub(super) fn add(&mut self, identity: Identity, fields: &Set, manager: Manager<'_>) {
        let before = self.fields_of(&identity).unwrap_or_default();
        self.replace(identity, before.union(fields), manager);
    }

    /// Gives exactly these fields to a manager.
    pub(super) fn replace(&mut self, identity: Identity, fields: Set, manager: Manager<'_>) {
        let time_before = self.0.get(&identity).and_then(|entry| entry.time.clone());
        let time = Some(manager.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let api_version = manager.api_version.to_owned();
        self.0.insert(identity, Entry { fields, api_version, time, time_before });
    }

    /// The time before this operation stands: nothing changed.
    pub(super) fn keep_time(&mut self, identity: &Identity) {
        if let Some(entry) = self.0.get_mut(identity)
            && entry.time_before.is_some()
        {
            entry.time.clone_from(&entry.time_before);
        }
    }

    /// Others that own some of these fields. Entries of other versions of the kind name
    /// fields of another schema and cannot conflict.
    pub(super) fn conflicts(
        &self,
        identity: &Identity,
        api_version: &str,
        fields: &Set,
    ) -> Vec<(Identity, Set)> {
        let others =
            self.0.iter().filter(|(other, entry)| *other != identity && entry.api_version == api_version);
        others
            .map(|(other, entry)| (other.clone(), entry.fields.intersection(fields)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect()
    }

    pub(super) fn take_away(&mut self, api_version: &str, fields: &Set) {
        self.0.retain(|_, entry| {
            if entry.api_version == api_version {
                entry.fields = entry.fields.difference(fields);
            }
            !entry.fields.is_empty()
        });
    }

    pub(super) fn take_away_from_others(&mut self, identity: &Identity, api_version: &str, fields: &Set) {
        self.0.retain(|other, entry| {
            if other != identity && entry.api_version == api_version {
                entry.fields = entry.fields.difference(fields);
            }
            other == identity || !entry.fields.is_empty()
        });
    }

    /// Takes unownable fields from one manager; one without fields goes.
    pub(super) fn strip(&mut self, identity: &Identity, fields: &Set) {
        if let Some(entry) = self.0.get_mut(identity) {
            entry.fields = entry.fields.difference(fields);
            if entry.fields.is_empty() {
                self.0.remove(identity);
            }
        }
    }

    /// Merges the oldest Update managers of a version into one when there are too many.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<Identity> =
            self.0.keys().filter(|identity| identity.operation == Operation::Update).cloned().collect();
        let mut count = updaters.len();
        updaters.sort_by_key(|identity| self.0[identity].time.clone());
        let mut first: BTreeMap<String, Identity> = BTreeMap::new();
        for identity in updaters {
            if count <= UPDATE_MANAGERS_MAX {
                break;
            }
            let version = identity.api_version.clone();
            match first.get(&version).cloned() {
                None => {
                    first.insert(version, identity);
                }
                Some(oldest) => {
                    self.merge_ancient(oldest, &identity);
                    count -= 1;
                }
            }
        }
    }

    fn merge_ancient(&mut self, oldest: Identity, identity: &Identity) {
        let bucket = Identity {
            operation: Operation::Update,
            manager: ANCIENT.to_owned(),
            api_version: identity.api_version.clone(),
            subresource: String::new(),
        };
        if !self.0.contains_key(&bucket)
            && let Some(entry) = self.0.remove(&oldest)
        {
            self.0.insert(bucket.clone(), entry);
        }
        if *identity == bucket {
            return;
        }
        if let Some(merged) = self.0.remove(identity)
            && let Some(entry) = self.0.get_mut(&bucket)
        {
            entry.fields = std::mem::take(&mut entry.fields).union(&merged.fields);
            entry.time = merged.time;
        }
    }
}

fn write_entry(identity: &Identity, entry: &Entry) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.into());
        }
    };
    put("manager", &identity.manager);
    put("operation", identity.operation.as_str());
    put("apiVersion", &entry.api_version);
    put("time", entry.time.as_deref().unwrap_or_default());
    put("fieldsType", "FieldsV1");
    put("subresource", &identity.subresource);
    out.insert("fieldsV1".to_owned(), entry.fields.to_fields());
    Value::Object(out)
}
