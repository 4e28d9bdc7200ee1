//! The embedded schema of every kind: fields, Go types, merge keys, list kinds.
//!
//! The tables are made at build time from `openapi/definitions.json` and lie in the
//! executable's read-only pages, so looking something up costs neither memory nor
//! time to load. Field names are sorted: a lookup is a binary search.
//!
//! A kind that is registered while the program runs brings a schema of its own, made of
//! the same types: their names are text of either sort, and what a field holds is a
//! reference into the tables or shared ([`Held`]). Whoever walks a schema sees [`Type`]s only.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::kinds::Name;

/// A Go struct of the API: an object with named fields.
#[derive(Debug, Clone)]
pub struct Struct {
    /// The name in OpenAPI documents, such as `io.k8s.api.core.v1.Container`.
    pub name: Name,
    /// The Go type without its package, as decoding errors name it: `Container`.
    pub go: Name,
    /// Applied and owned as one (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// All fields, sorted by name; inlined structs are flattened.
    pub fields: Cow<'static, [Field]>,
    /// Fields that are not among them are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// The numbers of the fields in protobuf.
    pub(crate) numbers: Numbers,
}

/// To which field of a [`Struct`] the numbers of a protobuf message belong; both lists are sorted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    /// Number, and the place in [`Struct::fields`].
    pub(crate) fields: &'static [(u16, u16)],
    /// Messages around fields of the same object: Go structs embedded in this one.
    pub(crate) embedded: &'static [(u16, &'static Numbers)],
}

/// One field of a [`Struct`].
#[derive(Debug, Clone)]
pub struct Field {
    /// The JSON name.
    pub name: Name,
    /// The Go type with the pointer taken off, as decoding errors name it: `v1.PullPolicy`.
    pub go: Name,
    /// What it holds.
    pub ty: Held,
    /// A Go pointer: absent and zero differ.
    pub pointer: bool,
    /// When encoding leaves it out.
    pub omit: Omit,
    /// Strategic merge key of a list of objects, or "".
    pub merge_key: &'static str,
    /// Patch strategy `merge`: a list is merged, not replaced, by a strategic patch.
    pub merge: bool,
    /// Patch strategy `retainKeys`: a patch names the fields that stay.
    pub retain_keys: bool,
    /// Applied and owned as one at this place, whatever its type says.
    pub atomic: bool,
    /// Applied and owned field by field at this place, though its type is atomic elsewhere.
    pub granular: bool,
    /// `null` is a value (`nullable`), not absence.
    pub nullable: bool,
    /// The value when it is absent. Built-in kinds have rules for that (`crate::defaults`).
    pub default: Option<Arc<Value>>,
}

/// When Go's encoder leaves a field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omit {
    /// Never: an absent value appears as its zero (`""`, `0`, `null` for lists).
    Never,
    /// `omitempty`: nil pointers, zero scalars, empty lists and maps; never a struct.
    Empty,
    /// `omitzero`: zero times too.
    Zero,
}

/// The type of a value.
#[derive(Debug, Clone, Copy)]
pub enum Type<'s> {
    /// true or false.
    Bool,
    /// A 32-bit signed integer.
    Int32,
    /// A 64-bit signed integer.
    Int64,
    /// A 64-bit float.
    Float,
    /// Text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// metav1.Time: RFC 3339, whole seconds, UTC.
    Time,
    /// metav1.MicroTime: RFC 3339 with six digits, UTC.
    MicroTime,
    /// resource.Quantity, kept in canonical form.
    Quantity,
    /// intstr.IntOrString.
    IntOrString,
    /// Any JSON: RawExtension, FieldsV1, apiextensions' JSON.
    Any,
    /// An object with named fields.
    Struct(&'s Struct),
    /// A list.
    List(&'s List),
    /// An object with free keys.
    Map(&'s MapOf),
}

/// A type as a schema keeps it.
#[derive(Debug, Clone)]
pub enum Held {
    /// A plain type, or one of the embedded tables.
    Static(Type<'static>),
    /// An object with named fields, of a schema that was made at run time.
    Struct(Arc<Struct>),
    /// A list of such a schema.
    List(Arc<List>),
    /// An object with free keys of such a schema.
    Map(Arc<MapOf>),
}

impl Held {
    /// The type.
    pub fn get(&self) -> Type<'_> {
        match self {
            Held::Static(ty) => *ty,
            Held::Struct(schema) => Type::Struct(schema),
            Held::List(list) => Type::List(list),
            Held::Map(map) => Type::Map(map),
        }
    }
}

/// A list type.
#[derive(Debug)]
pub struct List {
    /// What each item is.
    pub item: Held,
    /// How appliers share it.
    pub kind: ListKind,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Owned and replaced as one; also what a list without a mark is.
    Atomic,
    /// Scalars, each owned by its value.
    Set,
    /// Objects, each owned by these keys.
    Map(Cow<'static, [Name]>),
}

/// A map with text keys.
#[derive(Debug)]
pub struct MapOf {
    /// What each value is.
    pub value: Held,
    /// Owned and replaced as one.
    pub atomic: bool,
}

impl Struct {
    /// The field of this JSON name; names are case-sensitive.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some(&self.fields[at])
    }

    /// The type of a whole object with these fields, which is not among the embedded: apiVersion, kind
    /// and metadata are added.
    pub fn object(name: impl Into<Name>, go: impl Into<Name>, fields: Vec<Field>) -> Self {
        let every = kind("v1", "ConfigMap").expect("it has a schema");
        let common = ["apiVersion", "kind", "metadata"];
        let common = common.iter().filter_map(|name| every.field(name)).cloned();
        Self { name: name.into(), go: go.into(), ..Self::part(common.chain(fields).collect()) }
    }

    /// The type of a part of such an object. Of two fields of one name the first counts.
    pub fn part(mut fields: Vec<Field>) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields.dedup_by(|a, b| a.name == b.name);
        Self {
            name: Name::Borrowed(""),
            go: Name::Borrowed(""),
            atomic: false,
            fields: fields.into(),
            preserve_unknown: false,
            numbers: Numbers { fields: &[], embedded: &[] },
        }
    }

    /// The same, which keeps fields that it does not name.
    pub fn preserving_unknown(self) -> Self {
        Self { preserve_unknown: true, ..self }
    }
}

impl Field {
    /// A field that may be absent, as those of custom kinds are.
    pub fn optional(name: impl Into<Name>, ty: Held) -> Self {
        Self {
            name: name.into(),
            go: Name::Borrowed(""),
            ty,
            pointer: true,
            omit: Omit::Empty,
            merge_key: "",
            merge: false,
            retain_keys: false,
            atomic: false,
            granular: false,
            nullable: false,
            default: None,
        }
    }
}

/// The type of a kind, such as (`apps/v1`, `Deployment`).
pub fn kind(api_version: &str, kind: &str) -> Option<&'static Struct> {
    let at = KINDS.binary_search_by(|entry| (entry.0, entry.1).cmp(&(api_version, kind))).ok()?;
    Some(KINDS[at].2)
}

/// Every (apiVersion, kind) that has a schema, sorted.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static Struct)> {
    KINDS.iter().copied()
}

include!(concat!(env!("OUT_DIR"), "/schema_tables.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    fn path(api_version: &str, name: &str, fields: &[&str]) -> &'static Field {
        let mut here = kind(api_version, name).expect("the kind has a schema");
        let mut found = None;
        for field in fields {
            let next = here.field(field).expect("the field exists");
            found = Some(next);
            here = match next.ty.get() {
                Type::Struct(inner) => inner,
                Type::List(List { item: Held::Static(Type::Struct(inner)), .. }) => inner,
                _ => here,
            };
        }
        found.expect("a path names a field")
    }

    #[test]
    fn containers_are_merged_by_name_and_ports_are_keyed_differently_by_apply() {
        let containers = path("v1", "Pod", &["spec", "containers"]);
        assert_eq!((containers.merge_key, containers.merge), ("name", true));
        let ports = path("v1", "Pod", &["spec", "containers", "ports"]);
        assert_eq!(ports.merge_key, "containerPort");
        let Type::List(list) = ports.ty.get() else { panic!("ports is a list") };
        assert_eq!(list.kind, ListKind::Map(["containerPort".into(), "protocol".into()].to_vec().into()));
    }

    #[test]
    fn volumes_and_the_deployment_strategy_retain_keys() {
        assert!(path("v1", "Pod", &["spec", "volumes"]).retain_keys);
        assert!(path("apps/v1", "Deployment", &["spec", "strategy"]).retain_keys);
        assert!(path("v1", "Pod", &["metadata", "finalizers"]).merge);
    }

    #[test]
    fn go_types_tell_pointers_and_named_strings() {
        let policy = path("v1", "Pod", &["spec", "containers", "imagePullPolicy"]);
        assert_eq!((&*policy.go, policy.pointer, policy.omit), ("v1.PullPolicy", false, Omit::Empty));
        assert!(path("apps/v1", "Deployment", &["spec", "replicas"]).pointer);
        assert_eq!(path("v1", "Pod", &["metadata", "creationTimestamp"]).omit, Omit::Zero);
    }

    #[test]
    fn fields_of_every_struct_are_sorted() {
        for (_, _, schema) in kinds() {
            assert!(schema.fields.is_sorted_by(|a, b| a.name < b.name), "{}", schema.name);
        }
    }
}
