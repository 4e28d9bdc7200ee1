//! Strategic merge patch: Kubernetes' merge that knows the keys of lists.
//!
//! The rules are those of upstream's strategicpatch package with the options a server
//! uses (parallel lists merged, unmatched nulls ignored):
//!
//! - objects merge, `null` removes, other values replace;
//! - lists with patch strategy `merge` are merged: objects by their merge key, scalars
//!   as a set; other lists are replaced;
//! - `$patch: replace | delete` on an object or list item, `$retainKeys`,
//!   `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>` direct it.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{does_not_fit, go_format, plain_error};
use crate::schema::{Field, Struct, Type};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

const BAD_ORDER: &str = "invalid patch format of setElementOrder list";
const BAD_RETAIN: &str = "invalid patch format of retainKeys";
const BAD_DELETE: &str = "invalid patch format of primitive list";

type Object = Map<String, Value>;

/// Applies `patch` to an object of `schema`'s kind.
pub(super) fn apply(schema: &Struct, patch: Object, current: &Value) -> Result<Value, Status> {
    let original = match current {
        Value::Object(map) => map.clone(),
        _ => Object::new(),
    };
    merge_map(original, patch, Type::Struct(schema)).map(Value::Object)
}

/// How the field `name` of a value of type `ty` is patched.
struct Rule<'s> {
    ty: Type<'s>,
    merge: bool,
    merge_key: &'static str,
}

fn rule<'s>(ty: Type<'s>, name: &str) -> Rule<'s> {
    let free = |ty| Rule { ty, merge: false, merge_key: "" };
    match ty {
        Type::Struct(schema) => match schema.field(name) {
            Some(Field { ty, merge, merge_key, .. }) => Rule { ty: ty.get(), merge: *merge, merge_key },
            None => free(Type::Any),
        },
        Type::Map(map) => free(map.value.get()),
        _ => free(Type::Any),
    }
}

fn item_type(ty: Type<'_>) -> Type<'_> {
    match ty {
        Type::List(list) => list.item.get(),
        _ => Type::Any,
    }
}

fn merge_map(mut original: Object, mut patch: Object, ty: Type<'_>) -> Result<Object, Status> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(bad_directive(&directive, patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered(&mut original, &mut patch, ty)?;
    for (key, value) in patch {
        let (key, deleting) = match key.strip_prefix(DELETE_FROM) {
            Some(name) => (name.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let rule = rule(ty, &key);
        let merged = match (original.remove(&key), value) {
            (None, _) if deleting => continue,
            (None, value) => match without_directives(value) {
                Some(value) => value,
                None => continue,
            },
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(merge_map(old, new, rule.ty)?),
            (Some(Value::Array(old)), Value::Array(new)) if rule.merge || deleting => {
                Value::Array(merge_list(old, new, &rule, deleting)?)
            }
            (Some(old), _) if deleting => old,
            (Some(_), value) => match without_directives(value) {
                Some(value) => value,
                None => continue,
            },
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// `$retainKeys` lists the fields that stay: all others of the original go.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Status> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else { return Err(Status::bad_request(BAD_RETAIN)) };
    let list: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    let retained = |key: &str| list.contains(key);
    let stray = patch.iter().any(|(key, value)| !value.is_null() && !key.starts_with('$') && !retained(key));
    if stray {
        return Err(Status::bad_request(BAD_RETAIN));
    }
    original.retain(|key, _| retained(key));
    Ok(())
}

/// The lists that come with a `$setElementOrder/`: merged, then put in that order.
fn merge_ordered(original: &mut Object, patch: &mut Object, ty: Type<'_>) -> Result<(), Status> {
    let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in orders {
        let name = &directive[ELEMENT_ORDER.len()..];
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(Status::bad_request(BAD_ORDER));
        };
        let rule = rule(ty, name);
        let patch_list = patch.remove(name).map(list_of).transpose()?;
        let original_list = match original.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some(list_of(value.clone())?),
        };
        if let Some(list) = &patch_list {
            check_order(list, &order, rule.merge_key)?;
        }
        let merged = match (&original_list, patch_list) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(new)) => new,
                _ => continue,
            },
            (Some(old), Some(new)) if rule.merge => merge_list(old.clone(), new, &rule, false)?,
            (Some(_), Some(new)) => new,
        };
        let server_order = original_list.unwrap_or_default();
        let sorted = in_order(merged, &order, &server_order, rule.merge_key);
        original.insert(name.to_owned(), Value::Array(sorted));
    }
    Ok(())
}

fn list_of(value: Value) -> Result<Vec<Value>, Status> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(Status::bad_request(BAD_ORDER)),
    }
}

/// The patch's own items must stand in the order list, in the same order.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Status> {
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !merge_key.is_empty() && item.get(merge_key).is_none() {
            return Err(no_merge_key(item, merge_key));
        }
        if !rest.any(|entry| same(entry, item, merge_key)) {
            return Err(plain_error(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                go_format(&Value::Array(patch.to_vec())),
                go_format(&Value::Array(order.to_vec())),
            )));
        }
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    rule: &Rule<'_>,
    deleting: bool,
) -> Result<Vec<Value>, Status> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let objects = original.iter().chain(&patch).filter(|item| item.is_object()).count();
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(does_not_fit());
    }
    if objects == 0 {
        return Ok(merge_scalars(original, patch, deleting));
    }
    if objects < original.len() + patch.len() {
        return Err(Status::bad_request(BAD_DELETE));
    }
    if rule.merge_key.is_empty() {
        return Err(plain_error("cannot merge lists without merge key".into()));
    }
    merge_objects(original, patch, rule)
}

fn merge_scalars(original: Vec<Value>, patch: Vec<Value>, deleting: bool) -> Vec<Value> {
    if deleting {
        let gone: HashSet<String> = patch.iter().map(Value::to_string).collect();
        return original.into_iter().filter(|item| !gone.contains(&item.to_string())).collect();
    }
    let mut seen = HashSet::new();
    let merged =
        original.iter().chain(&patch).filter(|item| seen.insert(item.to_string())).cloned().collect();
    in_order(merged, &patch, &original, "")
}

fn merge_objects(original: Vec<Value>, patch: Vec<Value>, rule: &Rule<'_>) -> Result<Vec<Value>, Status> {
    let server_order = original.clone();
    let mut merged = original;
    let mut plain = Vec::new();
    let mut gone = HashSet::new();
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("replace") => replace = true,
            Some("delete") => {
                gone.insert(
                    identity(&item, rule.merge_key).ok_or_else(|| no_merge_key(&item, rule.merge_key))?,
                );
            }
            Some("merge") => {
                return Err(plain_error("merging lists cannot yet be specified in the patch".into()));
            }
            Some(_) => {
                return Err(bad_directive(&item[DIRECTIVE], item.as_object().cloned().unwrap_or_default()));
            }
        }
    }
    if replace {
        return Ok(plain);
    }
    merged.retain(|old| identity(old, rule.merge_key).is_none_or(|key| !gone.contains(&key)));
    let ty = item_type(rule.ty);
    let order = plain.clone();
    let mut at = positions(&merged, rule.merge_key);
    for item in plain {
        merge_item(&mut merged, &mut at, item, ty, rule.merge_key)?;
    }
    Ok(in_order(merged, &order, &server_order, rule.merge_key))
}

/// Merges an item into the one of its key, or appends it; `at` says where each key stands.
fn merge_item(
    merged: &mut Vec<Value>,
    at: &mut HashMap<String, usize>,
    item: Value,
    ty: Type<'_>,
    merge_key: &str,
) -> Result<(), Status> {
    let key = identity(&item, merge_key).ok_or_else(|| no_merge_key(&item, merge_key))?;
    let old = at.get(&key).and_then(|at| merged.get_mut(*at));
    match (old, item) {
        (Some(Value::Object(old)), Value::Object(item)) => *old = merge_map(std::mem::take(old), item, ty)?,
        (_, item) => {
            if let Some(item) = without_directives(item) {
                at.entry(key).or_insert(merged.len());
                merged.push(item);
            }
        }
    }
    Ok(())
}

/// What makes two list entries the same item: the merge key's value, or a scalar's own. As text,
/// so that it can be looked up.
fn identity(item: &Value, merge_key: &str) -> Option<String> {
    if merge_key.is_empty() { Some(item.to_string()) } else { item.get(merge_key).map(Value::to_string) }
}

/// Where each item stands first.
fn positions(list: &[Value], merge_key: &str) -> HashMap<String, usize> {
    let mut first = HashMap::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        if let Some(key) = identity(item, merge_key) {
            first.entry(key).or_insert(at);
        }
    }
    first
}

/// Items that the patch names come in its order; the others keep the server's; where
/// both are known to the server, its order decides who comes first.
fn in_order(items: Vec<Value>, order: &[Value], server_order: &[Value], merge_key: &str) -> Vec<Value> {
    let (order, server_order) = (positions(order, merge_key), positions(server_order, merge_key));
    let (mut server_only, mut patched, mut behind) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let key = identity(&item, merge_key);
        let at = |list: &HashMap<String, usize>| key.as_ref().and_then(|key| list.get(key)).copied();
        match at(&order) {
            Some(place) => patched.push((place, at(&server_order), item)),
            None => {
                let server = at(&server_order);
                // Whoever the server does not know stays behind the one before it.
                behind = server.unwrap_or(behind);
                server_only.push((behind, server, item));
            }
        }
    }
    patched.sort_by_key(|(place, ..)| *place);
    server_only.sort_by_key(|(place, ..)| *place);
    let mut left = server_only.into_iter().peekable();
    let mut right = patched.into_iter().peekable();
    let mut out = Vec::new();
    loop {
        let server_first = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, Some(l), _)), Some((_, Some(r), _))) => l < r,
            (Some(_), Some(_)) => false,
        };
        let next = if server_first { left.next() } else { right.next() };
        out.extend(next.map(|(.., item)| item));
    }
}

/// Whether two list entries are the same item: by merge key, or by value for scalars.
fn same(a: &Value, b: &Value, merge_key: &str) -> bool {
    if merge_key.is_empty() {
        return a == b;
    }
    matches!((a.get(merge_key), b.get(merge_key)), (Some(a), Some(b)) if a == b)
}

/// What a part of a patch leaves when nothing is there to merge with; `None` when it
/// was a deletion.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut map) => {
            if map.remove(DIRECTIVE).is_some_and(|directive| directive == "delete") {
                return None;
            }
            map.retain(|key, value| {
                !value.is_null()
                    && key != RETAIN_KEYS
                    && !key.starts_with(ELEMENT_ORDER)
                    && !key.starts_with(DELETE_FROM)
            });
            let entries = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(entries.collect()))
        }
        // An item that is only `$patch: replace` says nothing about a list that is new.
        Value::Array(items) => Some(Value::Array(
            items
                .into_iter()
                .filter(|item| !is_bare_directive(item))
                .filter_map(without_directives)
                .collect(),
        )),
        other => Some(other),
    }
}

fn is_bare_directive(item: &Value) -> bool {
    item.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(DIRECTIVE))
}

fn no_merge_key(item: &Value, merge_key: &str) -> Status {
    plain_error(format!("map: {} does not contain declared merge key: {merge_key}", go_format(item)))
}

fn bad_directive(directive: &Value, patch: Object) -> Status {
    let (directive, patch) = (go_format(directive), go_format(&Value::Object(patch)));
    plain_error(format!("unknown patch type: {directive} in map: {patch}"))
}
