//! Sets of fields, in the form of FieldsV1.
//!
//! A path element is kept as it is written: `f:spec`, `k:{"name":"c"}`, `v:"x"`. A node
//! may be a member itself (written `.` when it also has children) and may have children.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Whether the path that leads here belongs to the set.
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, Set>,
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Set::is_empty)
    }

    pub(super) fn insert(&mut self, path: &[String]) {
        let mut node = self;
        for element in path {
            node = node.children.entry(element.clone()).or_default();
        }
        node.member = true;
    }

    /// A set of paths written as `f:metadata/f:name`.
    pub(super) fn of(paths: &[&str]) -> Set {
        let mut set = Set::default();
        for path in paths {
            set.insert(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        }
        set
    }

    pub(super) fn union(mut self, other: &Set) -> Set {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Set) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().add(child);
        }
    }

    pub(super) fn intersection(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            if let Some(other) = other.children.get(element) {
                out.keep(element, child.intersection(other));
            }
        }
        out
    }

    /// Without the members of `other`; what lies beneath them stays.
    pub(super) fn difference(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            match other.children.get(element) {
                Some(other) => out.keep(element, child.difference(other)),
                None => out.keep(element, child.clone()),
            }
        }
        out
    }

    /// Without the members of `other` and all that lies beneath them.
    pub(super) fn recursive_difference(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, child) in &self.children {
            match other.children.get(element) {
                Some(other) if other.member => {}
                Some(other) => out.keep(element, child.recursive_difference(other)),
                None => out.keep(element, child.clone()),
            }
        }
        out
    }

    /// The members at or beneath these places, written as `f:spec/*/f:resources`.
    pub(super) fn within(&self, places: &[&str]) -> Set {
        let leads_to = |place: &str, path: &[String]| {
            let mut path = path.iter();
            place
                .split('/')
                .all(|wanted| path.next().is_some_and(|element| wanted == "*" || wanted == element))
        };
        let mut out = Set::default();
        for path in self.paths() {
            if places.iter().any(|place| leads_to(place, &path)) {
                out.insert(&path);
            }
        }
        out
    }

    fn keep(&mut self, element: &str, child: Set) {
        if !child.is_empty() {
            self.children.insert(element.to_owned(), child);
        }
    }

    /// Every member's path, in order.
    pub(super) fn paths(&self) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
        if self.member {
            out.push(path.clone());
        }
        for (element, child) in &self.children {
            path.push(element.clone());
            child.collect(path, out);
            path.pop();
        }
    }

    /// The FieldsV1 form.
    pub(super) fn to_fields(&self) -> Value {
        let mut map = Map::new();
        for (element, child) in &self.children {
            let mut fields = child.to_fields();
            if child.member && !child.children.is_empty() {
                fields["."] = Value::Object(Map::new());
            }
            map.insert(element.clone(), fields);
        }
        Value::Object(map)
    }

    /// Reads the FieldsV1 form; anything else is `None`. Recurses no deeper than bodies may nest.
    pub(super) fn from_fields(fields: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (element, inner) in fields.as_object()? {
            if element == "." {
                set.member = true;
                continue;
            }
            if !["f:", "k:", "v:", "i:"].iter().any(|prefix| element.starts_with(prefix)) {
                return None;
            }
            let mut child = Self::from_fields(inner)?;
            child.member |= child.children.is_empty();
            set.children.insert(element.clone(), child);
        }
        Some(set)
    }
}

/// A path as people read it: `.spec.containers[name="c"].image`.
pub(super) fn display(path: &[String]) -> String {
    path.iter().map(|element| display_element(element)).collect()
}

pub(crate) fn display_element(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "k:" => match serde_json::from_str::<Map<String, Value>>(rest) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{rest}]"),
        },
        "v:" => format!("[={rest}]"),
        "i:" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_survive_a_round_trip() {
        let fields = json!({
            "f:data": {".": {}, "f:a": {}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}},
            "f:metadata": {"f:finalizers": {"v:\"x\"": {}}}
        });
        assert_eq!(Set::from_fields(&fields).unwrap().to_fields(), fields);
        assert_eq!(Set::from_fields(&json!({"data": {}})), None);
    }

    #[test]
    fn differences_spare_or_take_what_lies_beneath() {
        let set = Set::of(&["f:a", "f:a/f:b", "f:c"]);
        let other = Set::of(&["f:a"]);
        assert_eq!(set.difference(&other), Set::of(&["f:a/f:b", "f:c"]));
        assert_eq!(set.recursive_difference(&other), Set::of(&["f:c"]));
        assert_eq!(set.intersection(&Set::of(&["f:a/f:b"])), Set::of(&["f:a/f:b"]));
    }

    #[test]
    fn what_lies_within_places_is_found_whatever_items_are_between() {
        let set = Set::of(&["f:s/f:c/k:a", "f:s/f:c/k:a/f:r", "f:s/f:c/k:a/f:r/f:cpu", "f:s/f:x"]);
        let found = set.within(&["f:s/f:c/*/f:r"]);
        assert_eq!(found, Set::of(&["f:s/f:c/k:a/f:r", "f:s/f:c/k:a/f:r/f:cpu"]));
    }

    #[test]
    fn paths_are_shown_as_upstream_shows_them() {
        let path = |parts: &[&str]| display(&parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(path(&["f:data", "f:shared"]), ".data.shared");
        let key = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
        assert_eq!(path(&["f:ports", key, "f:name"]), ".ports[containerPort=80,protocol=\"TCP\"].name");
        assert_eq!(path(&["f:finalizers", "v:\"x\""]), ".finalizers[=\"x\"]");
    }
}
