//! The embedded schema of every kind: fields, Go types, merge keys, list kinds.
//!
//! The tables are made at build time from `openapi/definitions.json` and lie in the
//! executable's read-only pages, so looking something up costs neither memory nor
//! time to load. Field names are sorted: a lookup is a binary search.

/// A Go struct of the API: an object with named fields.
#[derive(Debug)]
pub struct Struct {
    /// The name in OpenAPI documents, such as `io.k8s.api.core.v1.Container`.
    pub name: &'static str,
    /// The Go type without its package, as decoding errors name it: `Container`.
    pub go: &'static str,
    /// Applied and owned as one (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// All fields, sorted by name; inlined structs are flattened.
    pub fields: &'static [Field],
    /// The numbers of the fields in protobuf.
    pub(crate) numbers: Numbers,
}

/// To which field of a [`Struct`] the numbers of a protobuf message belong; both lists are sorted.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Number, and the place in [`Struct::fields`].
    pub(crate) fields: &'static [(u16, u16)],
    /// Messages around fields of the same object: Go structs embedded in this one.
    pub(crate) embedded: &'static [(u16, &'static Numbers)],
}

/// One field of a [`Struct`].
#[derive(Debug)]
pub struct Field {
    /// The JSON name.
    pub name: &'static str,
    /// The Go type with the pointer taken off, as decoding errors name it: `v1.PullPolicy`.
    pub go: &'static str,
    /// What it holds.
    pub ty: Type,
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
pub enum Type {
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
    Struct(&'static Struct),
    /// A list.
    List(&'static List),
    /// An object with free keys.
    Map(&'static MapOf),
}

/// A list type.
#[derive(Debug)]
pub struct List {
    /// What each item is.
    pub item: Type,
    /// How appliers share it.
    pub kind: ListKind,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Owned and replaced as one; also what a list without a mark is.
    Atomic,
    /// Scalars, each owned by its value.
    Set,
    /// Objects, each owned by these keys.
    Map(&'static [&'static str]),
}

/// A map with text keys.
#[derive(Debug)]
pub struct MapOf {
    /// What each value is.
    pub value: Type,
    /// Owned and replaced as one.
    pub atomic: bool,
}

impl Struct {
    /// The field of this JSON name; names are case-sensitive.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let at = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        Some(&self.fields[at])
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
            here = match next.ty {
                Type::Struct(inner) => inner,
                Type::List(List { item: Type::Struct(inner), .. }) => inner,
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
        let Type::List(list) = ports.ty else { panic!("ports is a list") };
        assert_eq!(list.kind, ListKind::Map(&["containerPort", "protocol"]));
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
        assert_eq!((policy.go, policy.pointer, policy.omit), ("v1.PullPolicy", false, Omit::Empty));
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
