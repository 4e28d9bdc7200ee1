//! What a field means when it is not given: upstream's defaulting of every kind.
//!
//! [`apply`] runs on a decoded object, before admission and validation, on creates and updates alike.
//! It also writes what Go writes for a struct that is not a pointer (`resources: {}`, `status: {}`), so that
//! an object reads the same from us as from upstream. The rules are `SetDefaults_*` of each group's `v1`.

pub(crate) mod apps;
pub(crate) mod core;
pub(crate) mod other;
pub(crate) mod pod;
pub(crate) mod volume;

use serde_json::{Map, Value};

use crate::kinds::{Kind, Object};
use crate::quantity::Quantity;
use crate::schema::Type;

/// Fills in what `object` leaves open.
pub fn apply(resource: &Kind, object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        (resource.rules.defaults)(fields);
    }
    if resource.definition().is_some() {
        of_schema(Type::Struct(resource.schema()), object);
    }
}

/// Fills in the defaults that a schema of the kind's own says, also below what it fills in.
fn of_schema(ty: Type<'_>, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(schema), Value::Object(object)) => {
            for field in &*schema.fields {
                if let Some(default) = &field.default {
                    object.entry(&*field.name).or_insert_with(|| Value::clone(default));
                }
                object.get_mut(&*field.name).into_iter().for_each(|value| of_schema(field.ty.get(), value));
            }
        }
        (Type::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|item| of_schema(list.item.get(), item));
        }
        (Type::Map(map), Value::Object(entries)) => {
            entries.values_mut().for_each(|value| of_schema(map.value.get(), value));
        }
        _ => {}
    }
}

/// Whether a value is Go's zero value of a type without pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Sets a field whose Go type is a pointer: only absence means "not given".
fn set(object: &mut Object, name: &str, value: impl Into<Value>) {
    if object.get(name).is_none_or(Value::is_null) {
        object.insert(name.to_owned(), value.into());
    }
}

/// Sets a field whose Go type has a zero value: empty text and 0 mean "not given" too.
fn set_zero(object: &mut Object, name: &str, value: impl Into<Value>) {
    if object.get(name).is_none_or(is_zero) {
        object.insert(name.to_owned(), value.into());
    }
}

/// The object in a field, made when it is absent.
fn ensure<'a>(object: &'a mut Object, name: &str) -> &'a mut Object {
    let value = object.entry(name.to_owned()).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object on the line before")
}

/// The object in a field, if it is there.
fn child<'a>(object: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    object.get_mut(name).and_then(Value::as_object_mut)
}

/// The objects in a list.
fn items<'a>(object: &'a mut Object, name: &str) -> impl Iterator<Item = &'a mut Object> {
    let list = object.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn text<'a>(object: &'a Object, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or("")
}

/// Rounds the amounts of a resource list up to thousandths and writes them canonically
/// (`SetDefaults_ResourceList`).
fn resource_list(object: &mut Object, name: &str) {
    let Some(list) = child(object, name) else { return };
    for amount in list.values_mut() {
        let Ok(mut quantity) = Quantity::from_json(amount) else { continue };
        quantity.round_up(-3);
        *amount = Value::String(quantity.to_string());
    }
}

/// Copies what `to` lacks from `from`, as "requests default to limits" does. `to` is made if it is absent.
fn fill_from(object: &mut Object, to: &str, from: &str) {
    let Some(source) = object.get(from).and_then(Value::as_object).cloned() else { return };
    let target = ensure(object, to);
    for (key, value) in source {
        target.entry(key).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Applies the defaults to an object of the kind it names.
    pub(super) fn defaulted(mut object: Value) -> Value {
        let (api_version, kind) =
            (object["apiVersion"].as_str().unwrap_or("v1"), object["kind"].as_str().unwrap_or(""));
        let resource = crate::kinds::by_kind(api_version, kind).expect("a known kind");
        apply(resource, &mut object);
        object
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        for object in [
            json!({"kind": "Pod", "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "x",
                "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1500m"}},
                "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": []}}}}),
            json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {"containers": []}}}}),
            json!({"kind": "Service", "spec": {"ports": [{"port": 80}]}}),
        ] {
            let once = defaulted(object);
            assert_eq!(defaulted(once.clone()), once);
        }
    }
}
