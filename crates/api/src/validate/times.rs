//! Times that a typed reader cannot do without.
//!
//! Go writes a time that nobody set as `null`, and reads it back; other typed clients, this program's
//! own among them, have no time for `null` in a required field, and one such object would make the
//! whole list unreadable to them. Upstream refuses it in most places (a condition's
//! `lastTransitionTime` "must be set"); here it is refused in all.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::schema::{self, Field, Omit, Struct, Type};

/// Adds an error for each required time that an object of `schema`'s type lacks.
pub(crate) fn required(schema: &Struct, object: &Value, errors: &mut ErrorList) {
    if holders().contains(&*schema.name) {
        fields(schema, object, None, errors);
    }
}

fn is_required(field: &Field) -> bool {
    // An Event of before events.k8s.io has no `eventTime`, and every reader knows that.
    field.name != "eventTime"
        && matches!(field.ty.get(), Type::Time | Type::MicroTime)
        && !field.pointer
        && field.omit == Omit::Never
}

/// The types that hold a required time at any depth.
fn holders() -> &'static HashSet<&'static str> {
    static HOLDERS: OnceLock<HashSet<&'static str>> = OnceLock::new();
    HOLDERS.get_or_init(|| {
        let mut holders = HashSet::new();
        // What refers to itself needs one more round for each level, until nothing is added.
        loop {
            let before = holders.len();
            let mut seen = HashSet::new();
            for (.., schema) in schema::kinds() {
                search(schema, &mut seen, &mut holders);
            }
            if holders.len() == before {
                return holders;
            }
        }
    })
}

fn search(
    schema: &'static Struct,
    seen: &mut HashSet<&'static str>,
    holders: &mut HashSet<&'static str>,
) -> bool {
    if seen.insert(&schema.name) {
        let mut holds = false;
        for field in &*schema.fields {
            let inner = structure(field.ty.get()).is_some_and(|inner| search(inner, seen, holders));
            holds |= inner || is_required(field);
        }
        if holds {
            holders.insert(&schema.name);
        }
    }
    holders.contains(&*schema.name)
}

/// The struct in a type, below lists and maps.
fn structure(ty: Type<'_>) -> Option<&Struct> {
    match ty {
        Type::Struct(schema) => Some(schema),
        Type::List(list) => structure(list.item.get()),
        Type::Map(map) => structure(map.value.get()),
        _ => None,
    }
}

fn fields(schema: &Struct, object: &Value, path: Option<&Path<'_>>, errors: &mut ErrorList) {
    let Value::Object(map) = object else { return };
    for field in &*schema.fields {
        let path = path.map_or(Path::new(&field.name), |path| path.child(&field.name));
        let value = map.get(&*field.name).unwrap_or(&Value::Null);
        if is_required(field) {
            if value.is_null() {
                errors.push(Error::required(&path, "must be set"));
            }
        } else if structure(field.ty.get()).is_some_and(|inner| holders().contains(&*inner.name)) {
            values(field.ty.get(), value, &path, errors);
        }
    }
}

fn values(ty: Type<'_>, value: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    match (ty, value) {
        (Type::Struct(schema), Value::Object(_)) => fields(schema, value, Some(path), errors),
        (Type::List(list), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                values(list.item.get(), item, &path.index(index), errors);
            }
        }
        (Type::Map(map), Value::Object(entries)) => {
            for (key, entry) in entries {
                values(map.value.get(), entry, &path.key(key), errors);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(api_version: &str, kind: &str, object: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        required(schema::kind(api_version, kind).expect("it has a schema"), &object, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_condition_without_its_time_is_refused_wherever_one_can_be() {
        let status = json!({"status": {"conditions": [{"type": "a", "lastTransitionTime": null}, {"type": "b"},
            {"type": "c", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}});
        for (version, kind) in [("v1", "Service"), ("policy/v1", "PodDisruptionBudget")] {
            let found = errors(version, kind, status.clone());
            assert_eq!(
                found,
                [
                    "status.conditions[0].lastTransitionTime: Required value: must be set",
                    "status.conditions[1].lastTransitionTime: Required value: must be set"
                ]
            );
        }
        // A Pod's conditions are of another type, in which the time may be absent.
        assert!(errors("v1", "Pod", status).is_empty());
        assert_eq!(errors("events.k8s.io/v1", "Event", json!({"series": {"count": 2}})).len(), 1);
    }
}
