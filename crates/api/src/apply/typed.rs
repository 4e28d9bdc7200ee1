//! Objects as trees with a schema: which fields one has, how two differ, how an
//! applied one merges into a live one, and how fields are taken out.
//!
//! These are upstream's structured-merge-diff rules: granular structs and maps are
//! walked, list maps are walked by key and sets by value, all else is a leaf.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::set::Set;
use crate::schema::{ListKind, Struct, Type};

/// How two objects differ.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Comparison {
    pub(super) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// The granular shape of a type; `None` for leaves.
#[derive(Clone, Copy)]
enum Shape<'s> {
    Struct(&'s Struct),
    Map(Type<'s>),
    List(Type<'s>, &'s ListKind),
}

fn shape(ty: Type<'_>) -> Option<Shape<'_>> {
    match ty {
        Type::Struct(schema) if !schema.atomic => Some(Shape::Struct(schema)),
        Type::Map(map) if !map.atomic => Some(Shape::Map(map.value.get())),
        Type::List(list) if list.kind != ListKind::Atomic => Some(Shape::List(list.item.get(), &list.kind)),
        _ => None,
    }
}

/// The shape of a type whose place says more than it does.
fn granular(ty: Type<'_>) -> Option<Shape<'_>> {
    match ty {
        Type::Struct(schema) => Some(Shape::Struct(schema)),
        Type::Map(map) => Some(Shape::Map(map.value.get())),
        other => shape(other),
    }
}

impl<'s> Shape<'s> {
    /// The type of a field, and whether it is granular there.
    fn child(self, name: &str) -> Child<'s> {
        match self {
            Shape::Struct(schema) => match schema.field(name) {
                Some(field) if field.atomic => Child { shape: None, named: true },
                Some(field) if field.granular => Child { shape: granular(field.ty.get()), named: true },
                Some(field) => Child { shape: shape(field.ty.get()), named: true },
                None => Child { shape: None, named: false },
            },
            Shape::Map(ty) | Shape::List(ty, _) => Child { shape: shape(ty), named: false },
        }
    }
}

struct Child<'s> {
    shape: Option<Shape<'s>>,
    /// A field of a struct, not a key of a map.
    named: bool,
}

/// The fields that an object has, as a manager would own them. List items without their keys are
/// passed over: what a client applies is checked when it is read, the rest was accepted before.
pub(super) fn fields(object: &Value, schema: &Struct) -> Set {
    let mut set = Set::default();
    collect(object, Some(Shape::Struct(schema)), &mut set);
    set.member = false;
    set
}

fn collect(value: &Value, shape: Option<Shape<'_>>, set: &mut Set) {
    match (shape, value) {
        (None, _) => set.member = true,
        (Some(shape @ (Shape::Struct(_) | Shape::Map(_))), Value::Object(map)) => {
            for (key, item) in map {
                let child = shape.child(key);
                let inner = set.children.entry(format!("f:{key}")).or_default();
                collect(item, child.shape, inner);
                let empty = item.is_null() || item.as_object().is_some_and(Map::is_empty);
                inner.member |= empty || !child.named;
            }
        }
        (Some(Shape::List(ty, kind)), Value::Array(_)) => {
            for (element, items) in index(Some(value), kind) {
                let inner = set.children.entry(element).or_default();
                // Items that share a key are owned together: nobody could tell whose field is whose.
                if let [item] = items.as_slice() {
                    collect(item, self::shape(ty), inner);
                }
                inner.member = true;
            }
        }
        _ => {}
    }
}

/// How `new` differs from `old`.
pub(super) fn compare(old: &Value, new: &Value, schema: &Struct) -> Comparison {
    let mut out = Comparison::default();
    out.compare(Some(old), Some(new), Some(Shape::Struct(schema)));
    out
}

impl Comparison {
    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Option<Shape<'_>>) {
        if old == new {
            return;
        }
        let Some(shape) = shape.filter(|_| !(is_empty(old) && is_empty(new))) else {
            return self.leaf(old, new);
        };
        match shape {
            Shape::List(ty, kind) => {
                // Both sides were decoded and validated; items without keys have no identity.
                let (old, new) = (index(old, kind), index(new, kind));
                for element in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                    let (old, new) = (old.get(element), new.get(element));
                    let items = |of: Option<&'_ Vec<_>>| of.map_or(&[][..], Vec::as_slice).to_vec();
                    self.items(element, &items(old), &items(new), self::shape(ty));
                }
            }
            Shape::Struct(_) | Shape::Map(_) => {
                let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                for (key, value) in old.into_iter().flatten() {
                    let other = new.and_then(|new| new.get(key));
                    if other != Some(value) {
                        self.descend(format!("f:{key}"), Some(value), other, shape.child(key).shape);
                    }
                }
                for (key, value) in new.into_iter().flatten() {
                    if !old.is_some_and(|old| old.contains_key(key)) {
                        self.descend(format!("f:{key}"), None, Some(value), shape.child(key).shape);
                    }
                }
            }
        }
        match (old, new) {
            (None, _) => self.added.member = true,
            (_, None) => self.removed.member = true,
            _ => {}
        }
    }

    /// Compares what stands at an element. The sets grow from the leaves, so that a long element is
    /// written once and not for each path through it.
    fn descend(
        &mut self,
        element: String,
        old: Option<&Value>,
        new: Option<&Value>,
        shape: Option<Shape<'_>>,
    ) {
        let mut inner = Comparison::default();
        inner.compare(old, new, shape);
        let into = [&mut self.added, &mut self.modified, &mut self.removed];
        for (set, inner) in into.into_iter().zip([inner.added, inner.modified, inner.removed]) {
            if !inner.is_empty() {
                set.children.insert(element.clone(), inner);
            }
        }
    }

    /// Compares the items of one key. Those that share it stand for one value: structured-merge-diff's
    /// markers of duplicates.
    fn items(&mut self, element: &str, old: &[&Value], new: &[&Value], shape: Option<Shape<'_>>) {
        let mark = |set: &mut Set| set.children.entry(element.to_owned()).or_default().member = true;
        match (old, new) {
            ([] | [_], [] | [_]) => {
                self.descend(element.to_owned(), old.first().copied(), new.first().copied(), shape);
            }
            ([_, _, ..], [_, _, ..]) if old == new => {}
            ([_, _, ..], [_, _, ..]) => mark(&mut self.modified),
            ([_, _, ..], _) => {
                self.descend(element.to_owned(), None, new.first().copied(), shape);
                mark(&mut self.removed);
            }
            (_, [_, _, ..]) => {
                self.descend(element.to_owned(), old.first().copied(), None, shape);
                mark(&mut self.added);
            }
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.added.member = true,
            (Some(_), None) => self.removed.member = true,
            (Some(old), Some(new)) if old != new => self.modified.member = true,
            _ => {}
        }
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// The items of a list by their keys; more than one where they share it.
fn index<'a>(value: Option<&'a Value>, kind: &ListKind) -> BTreeMap<String, Vec<&'a Value>> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut index = BTreeMap::<String, Vec<&Value>>::new();
    for item in items {
        if let Ok(element) = element(item, kind) {
            index.entry(element).or_default().push(item);
        }
    }
    index
}

/// The path element of a list item; the error is structured-merge-diff's.
pub(super) fn element(item: &Value, kind: &ListKind) -> Result<String, String> {
    let ListKind::Map(keys) = kind else { return Ok(format!("v:{item}")) };
    let mut found = Map::new();
    for key in &**keys {
        let value = match item.get(&**key) {
            Some(value) if !value.is_null() => value.clone(),
            // The only key with a default in the schemas: ports default to TCP.
            _ if key == "protocol" => "TCP".into(),
            // The only key that may be absent: of a device that is not shared.
            _ if key == "shareID" => continue,
            _ => {
                return Err(format!(
                    "associative list with keys has an element that omits key field \"{key}\" \
                     (and doesn't have default value)"
                ));
            }
        };
        found.insert(key.to_string(), value);
    }
    Ok(format!("k:{}", Value::Object(found)))
}

/// The live object with the applied one laid over it.
pub(super) fn merge(live: &Value, applied: &Value, schema: &Struct) -> Value {
    merge_values(Some(live), Some(applied), Some(Shape::Struct(schema))).unwrap_or(Value::Null)
}

fn merge_values(live: Option<&Value>, applied: Option<&Value>, shape: Option<Shape<'_>>) -> Option<Value> {
    let (Some(old), Some(new)) = (live, applied) else { return applied.or(live).cloned() };
    match (shape, old, new) {
        (Some(shape @ (Shape::Struct(_) | Shape::Map(_))), Value::Object(old), Value::Object(new)) => {
            let mut out = Map::new();
            for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let merged = merge_values(old.get(key), new.get(key), shape.child(key).shape);
                out.extend(merged.map(|value| (key.clone(), value)));
            }
            Some(Value::Object(out))
        }
        (Some(Shape::List(ty, kind)), Value::Array(old), Value::Array(new)) => {
            Some(Value::Array(merge_lists(old, new, ty, kind)))
        }
        _ => Some(new.clone()),
    }
}

/// Items in the order of the applied list; those that only the live one has keep their
/// place relative to their neighbours.
fn merge_lists(old: &[Value], new: &[Value], ty: Type<'_>, kind: &ListKind) -> Vec<Value> {
    let key = |item: &Value| element(item, kind).unwrap_or_default();
    let old: Vec<(String, &Value)> = old.iter().map(|item| (key(item), item)).collect();
    let new: Vec<(String, &Value)> = new.iter().map(|item| (key(item), item)).collect();
    let (in_old, in_new) = (positions(&old), positions(&new));
    let mut out = Vec::new();
    let (mut left, mut right) = (0, 0);
    while left < old.len() || right < new.len() {
        if let Some((key, item)) = old.get(left) {
            match in_new.get(key.as_str()) {
                None => {
                    out.push((*item).clone());
                    left += 1;
                    continue;
                }
                Some(at) if *at < right => {
                    left += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        let (key, item) = &new[right];
        let live = in_old.get(key.as_str()).map(|at| old[*at].1);
        out.extend(merge_values(live, Some(item), shape(ty)));
        right += 1;
    }
    out
}

/// Where each key stands first.
fn positions<'a>(list: &'a [(String, &Value)]) -> HashMap<&'a str, usize> {
    let mut first = HashMap::with_capacity(list.len());
    for (at, (key, _)) in list.iter().enumerate() {
        first.entry(key.as_str()).or_insert(at);
    }
    first
}

/// The object without the members of `set`. Containers that become empty become null,
/// which decoding drops.
pub(super) fn remove(object: &Value, set: &Set, schema: &Struct) -> Value {
    remove_from(object, set, Some(Shape::Struct(schema)))
}

fn remove_from(value: &Value, set: &Set, shape: Option<Shape<'_>>) -> Value {
    match (shape, value) {
        (Some(shape @ (Shape::Struct(_) | Shape::Map(_))), Value::Object(map)) if !map.is_empty() => {
            let mut out = Map::new();
            for (key, item) in map {
                let kept = without(item, set.children.get(&format!("f:{key}")), shape.child(key).shape);
                out.extend(kept.map(|item| (key.clone(), item)));
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        (Some(Shape::List(ty, kind)), Value::Array(items)) if !items.is_empty() => {
            let kept: Vec<Value> = items
                .iter()
                .filter_map(|item| {
                    let subset = element(item, kind).ok().and_then(|element| set.children.get(&element));
                    without(item, subset, self::shape(ty))
                })
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        _ => value.clone(),
    }
}

fn without(item: &Value, subset: Option<&Set>, shape: Option<Shape<'_>>) -> Option<Value> {
    match subset {
        Some(subset) if subset.member => None,
        Some(subset) => Some(remove_from(item, subset, shape)),
        None => Some(item.clone()),
    }
}

/// The set with every struct field on the way to a member made a member too. Ownership
/// does not list those, but taking fields out must.
pub(super) fn with_named_fields(set: &Set, schema: &Struct) -> Set {
    name_fields(set, Some(Shape::Struct(schema)))
}

fn name_fields(set: &Set, shape: Option<Shape<'_>>) -> Set {
    let mut out = Set { member: set.member, children: BTreeMap::new() };
    for (element, child) in &set.children {
        let inner = match (shape, element.strip_prefix("f:")) {
            (Some(shape), Some(name)) => shape.child(name),
            (Some(Shape::List(ty, _)), None) => Child { shape: self::shape(ty), named: false },
            _ => Child { shape: None, named: false },
        };
        let mut named = name_fields(child, inner.shape);
        named.member |= inner.named;
        out.children.insert(element.clone(), named);
    }
    out
}
