//! The table of resources: every kind this API serves, with what the generic paths
//! of the server need to know of it.
//!
//! Names, scopes, verbs, short names and categories are those of a Kubernetes 1.36 server
//! with no alpha or beta group switched on. The order of [`GROUP_VERSIONS`] and within it
//! of [`all`] is the order of discovery.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use crate::schema::{self, Struct};

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod lasting;
mod metrics;
mod networking;
mod node;
mod policy;
mod rbac;
mod registry;
mod resource;
mod rules;
mod scheduling;
mod storage;

use lasting::EVENTS_WITHIN;
pub use lasting::{Deletion, Durability, Lifetime};
pub use metrics::metrics;
pub use registry::{Conflict, Kinds};
use rules::Rules;
pub use rules::{Addressed, Answered};
pub(crate) use rules::{Generation, Object};

/// A name that is written in this program or was read from a definition.
pub type Name = Cow<'static, str>;

/// A group and version, as discovery orders them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupVersion {
    /// The API group, empty for core.
    pub group: Name,
    /// The version.
    pub version: Name,
}

impl GroupVersion {
    /// The form of `apiVersion`: `v1`, `apps/v1`.
    pub fn api_version(&self) -> Name {
        match &*self.group {
            "" => self.version.clone(),
            group => Name::Owned(format!("{group}/{}", self.version)),
        }
    }
}

/// The group-versions of the kinds that are built in; groups by upstream's priority, the preferred
/// version of each first.
pub static GROUP_VERSIONS: &[GroupVersion] = &[
    gv("", "v1"),
    gv("apiregistration.k8s.io", "v1"),
    gv("apps", "v1"),
    gv("events.k8s.io", "v1"),
    gv("authentication.k8s.io", "v1"),
    gv("authorization.k8s.io", "v1"),
    gv("autoscaling", "v2"),
    gv("autoscaling", "v1"),
    gv("batch", "v1"),
    gv("certificates.k8s.io", "v1"),
    gv("networking.k8s.io", "v1"),
    gv("policy", "v1"),
    gv("rbac.authorization.k8s.io", "v1"),
    gv("storage.k8s.io", "v1"),
    gv("admissionregistration.k8s.io", "v1"),
    gv("apiextensions.k8s.io", "v1"),
    gv("scheduling.k8s.io", "v1"),
    gv("coordination.k8s.io", "v1"),
    gv("node.k8s.io", "v1"),
    gv("discovery.k8s.io", "v1"),
    gv("flowcontrol.apiserver.k8s.io", "v1"),
    gv("resource.k8s.io", "v1"),
];

const fn gv(group: &'static str, version: &'static str) -> GroupVersion {
    GroupVersion { group: Cow::Borrowed(group), version: Cow::Borrowed(version) }
}

/// A subresource: what follows an object's name in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: &'static str,
    /// The group of [`Subresource::kind`]; only said in discovery when it is another one.
    pub group: Name,
    /// The version of [`Subresource::kind`].
    pub version: Name,
    /// The kind it takes and gives.
    pub kind: Name,
    /// Sorted.
    pub verbs: &'static [&'static str],
}

/// A field that selectors may name, and where its value is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectableField {
    /// As written in a selector: `spec.nodeName`.
    pub name: Name,
    /// JSON pointers, tried in order until one finds something.
    pub pointers: Vec<Name>,
    /// The value when the field is absent: empty, `false` or `0`.
    pub absent: &'static str,
}

/// Where the schema of a kind is.
enum Schema {
    /// In the tables of this program.
    Embedded(&'static Struct),
    /// Here, with its OpenAPI definition.
    Own(Struct, Value),
}

impl fmt::Debug for Schema {
    /// By its name, and the definition that tells it from others of that name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(schema) => f.write_str(&schema.name),
            Self::Own(schema, definition) => write!(f, "{} {definition}", schema.name),
        }
    }
}

/// One resource in one version: its names, and what the generic paths of the server need to know of it.
#[derive(Debug)]
pub struct Kind {
    /// The API group, empty for core.
    pub group: Name,
    /// The version.
    pub version: Name,
    /// The kind: `Pod`.
    pub kind: Name,
    /// The plural of paths: `pods`.
    pub plural: Name,
    /// The singular kubectl accepts: `pod`.
    pub singular: Name,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What kubectl accepts besides: `po`.
    pub short_names: Vec<Name>,
    /// Sets of resources it belongs to: `all`.
    pub categories: Vec<Name>,
    /// Sorted.
    pub verbs: &'static [&'static str],
    /// Sorted by name.
    pub subresources: Vec<Subresource>,
    /// Besides `metadata.name` and `metadata.namespace`, which every kind has.
    pub selectable_fields: Vec<SelectableField>,
    /// The group and version under which objects are kept. The same object may be served
    /// by several resources (events, horizontalpodautoscalers).
    pub stored: GroupVersion,
    /// Whether PUT to a missing name creates the object.
    pub create_on_update: bool,
    /// Whether PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// What a deletion waits for.
    pub deletion: Deletion,
    /// Whether the deletion that removes an object is answered with it, and not with a Status.
    pub deletion_answers_object: bool,
    /// Whether dependents outlive their owner unless told otherwise, for the sake of old clients.
    pub orphans_by_default: bool,
    /// What who deletes without a word on dependents is warned of.
    pub orphan_warning: Option<&'static str>,
    /// When writes must be durable.
    pub durability: Durability,
    /// How long objects are kept that nobody deletes; most for ever.
    pub lifetime: Option<Lifetime>,
    /// Who answers what is asked of it.
    pub answered: Answered,
    /// What it has to do with the addresses and ports that the server gives out.
    pub addressed: Option<Addressed>,
    pub(crate) rules: Rules,
    api_version: Name,
    schema: Schema,
    /// The kind of [`Kind::stored`], unless that is this one.
    storage: Option<Arc<Kind>>,
    /// Of a kind that is stored: what selectors may ask in any version that its objects are served in.
    noted_fields: Vec<SelectableField>,
}

impl Kind {
    /// The form of `apiVersion`: `v1`, `apps/v1`.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The group and the kind, which name it in all its versions.
    pub fn group_kind(&self) -> (&str, &str) {
        (&self.group, &self.kind)
    }

    /// The group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion { group: self.group.clone(), version: self.version.clone() }
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the verb is served on the resource itself.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether objects are kept: reviews and bindings are answered and forgotten, and what is measured
    /// is made by nobody.
    pub fn is_stored(&self) -> bool {
        self.has_verb("get") && self.has_verb("create")
    }

    /// Whether status is written through its subresource only.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The kind under whose name objects are kept: itself, but for events of
    /// `events.k8s.io` and old versions.
    pub fn storage(&self) -> &Kind {
        self.storage.as_deref().unwrap_or(self)
    }

    /// Whether objects are kept in this version.
    pub fn is_storage(&self) -> bool {
        self.storage.is_none()
    }

    /// The type of its objects.
    pub fn schema(&self) -> &Struct {
        match &self.schema {
            Schema::Embedded(schema) => schema,
            Schema::Own(schema, _) => schema,
        }
    }

    /// The OpenAPI definition of its objects, unless it is among those of the build. References are
    /// those of OpenAPI v2.
    pub fn definition(&self) -> Option<&Value> {
        match &self.schema {
            Schema::Embedded(_) => None,
            Schema::Own(_, definition) => Some(definition),
        }
    }

    /// The name of the OpenAPI definition of a list of its objects.
    pub fn list_definition(&self) -> Option<Name> {
        match &self.schema {
            Schema::Embedded(_) => {
                schema::kind(&self.api_version, &format!("{}List", self.kind)).map(|list| list.name.clone())
            }
            Schema::Own(schema, _) => Some(Name::Owned(format!("{}List", schema.name))),
        }
    }

    /// The type of what a subresource takes and gives.
    pub fn schema_of(&self, part: &Subresource) -> Option<&Struct> {
        if (&part.group, &part.version, &part.kind) == (&self.group, &self.version, &self.kind) {
            return Some(self.schema());
        }
        let gv = GroupVersion { group: part.group.clone(), version: part.version.clone() };
        schema::kind(&gv.api_version(), &part.kind)
    }

    /// What selectors may ask of stored objects, whatever version they are asked in.
    pub fn noted_fields(&self) -> &[SelectableField] {
        &self.noted_fields
    }
}

/// The kinds that are built in.
pub fn built_in() -> &'static Arc<Kinds> {
    static BUILT_IN: LazyLock<Arc<Kinds>> = LazyLock::new(|| {
        let groups = [
            core::kinds(),
            apps::kinds(),
            autoscaling::kinds(),
            batch::kinds(),
            policy::kinds(),
            admissionregistration::kinds(),
            apiextensions::kinds(),
            apiregistration::kinds(),
            authentication::kinds(),
            authorization::kinds(),
            certificates::kinds(),
            coordination::kinds(),
            discovery::kinds(),
            events::kinds(),
            flowcontrol::kinds(),
            networking::kinds(),
            node::kinds(),
            rbac::kinds(),
            resource::kinds(),
            scheduling::kinds(),
            storage::kinds(),
        ];
        Arc::new(Kinds::of(groups.into_iter().flatten().collect()))
    });
    &BUILT_IN
}

/// All kinds that are built in, in the order of discovery.
pub fn all() -> &'static [Arc<Kind>] {
    built_in().all()
}

/// The built-in kind of a path: `find("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    built_in().find(group, version, plural).map(|kind| &**kind)
}

/// The built-in kind whose objects say this apiVersion and kind: `by_kind("apps/v1", "Deployment")`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    built_in().by_kind(api_version, kind).map(|kind| &**kind)
}

// The building blocks of the table.

const READ_WRITE: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION_DELETE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ_ONLY: &[&str] = &["get", "list"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const UPDATE: &[&str] = &["update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const PART: &[&str] = &["get", "patch", "update"];

/// How a kind is declared: by its names, and then by what differs from most.
impl Kind {
    /// A kind whose objects live in no namespace.
    pub fn cluster(
        group: impl Into<Name>,
        version: impl Into<Name>,
        kind: impl Into<Name>,
        plural: impl Into<Name>,
        singular: impl Into<Name>,
    ) -> Self {
        let stored = GroupVersion { group: group.into(), version: version.into() };
        let (api_version, kind) = (stored.api_version(), kind.into());
        Self {
            group: stored.group.clone(),
            version: stored.version.clone(),
            schema: schema_of(&stored, &kind),
            api_version,
            kind,
            plural: plural.into(),
            singular: singular.into(),
            namespaced: false,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: READ_WRITE,
            subresources: Vec::new(),
            selectable_fields: Vec::new(),
            stored,
            create_on_update: false,
            unconditional_update: true,
            deletion: Deletion::AtOnce,
            deletion_answers_object: false,
            orphans_by_default: false,
            orphan_warning: None,
            durability: Durability::Now,
            lifetime: None,
            answered: Answered::FromStore,
            addressed: None,
            rules: Rules::default(),
            storage: None,
            noted_fields: Vec::new(),
        }
    }

    /// A kind whose objects live in namespaces.
    pub fn namespaced(
        group: impl Into<Name>,
        version: impl Into<Name>,
        kind: impl Into<Name>,
        plural: impl Into<Name>,
        singular: impl Into<Name>,
    ) -> Self {
        Self { namespaced: true, ..Self::cluster(group, version, kind, plural, singular) }
    }

    /// What kubectl accepts besides.
    pub fn short(self, names: impl IntoIterator<Item = impl Into<Name>>) -> Self {
        Self { short_names: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets of resources it belongs to.
    pub fn category(self, names: impl IntoIterator<Item = impl Into<Name>>) -> Self {
        Self { categories: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Its subresources, sorted by name.
    pub fn subresources(self, subresources: impl Into<Vec<Subresource>>) -> Self {
        Self { subresources: subresources.into(), ..self }
    }

    /// What selectors may name.
    pub fn fields(self, fields: impl Into<Vec<SelectableField>>) -> Self {
        Self { selectable_fields: fields.into(), ..self }
    }

    /// Objects are kept in another version, perhaps of another group.
    pub fn stored_as(self, group: impl Into<Name>, version: impl Into<Name>) -> Self {
        Self { stored: GroupVersion { group: group.into(), version: version.into() }, ..self }
    }

    /// Objects are of this type, which OpenAPI describes by this definition.
    pub fn described(self, schema: Struct, definition: Value) -> Self {
        Self { schema: Schema::Own(schema, definition), ..self }
    }

    /// PUT without a resourceVersion is refused.
    pub fn conditional_update(self) -> Self {
        Self { unconditional_update: false, ..self }
    }

    const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }

    const fn creates_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }
}

/// The embedded schema of a kind; of one that has none every field is kept as it is.
fn schema_of(gv: &GroupVersion, kind: &Name) -> Schema {
    if let Some(schema) = schema::kind(&gv.api_version(), kind) {
        return Schema::Embedded(schema);
    }
    let group = gv.group.rsplit('.').collect::<Vec<_>>().join(".");
    let name = format!("{group}.{}.{kind}", gv.version);
    let schema = Struct::object(name, kind.clone(), Vec::new()).preserving_unknown();
    let definition = json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind": [{"group": gv.group, "version": gv.version, "kind": kind}],
    });
    Schema::Own(schema, definition)
}

fn cluster(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Kind {
    Kind::cluster(group, version, kind, plural, singular)
}

fn namespaced(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Kind {
    Kind::namespaced(group, version, kind, plural, singular)
}

/// A kind that is answered and not kept.
fn review(group: &'static str, kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    cluster(group, "v1", kind, plural, singular).verbs(CREATE).answered(Answered::ByReview)
}

const fn part(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    let (group, version, kind) = (Cow::Borrowed(group), Cow::Borrowed(version), Cow::Borrowed(kind));
    Subresource { name, group, version, kind, verbs }
}

impl Subresource {
    /// The status of a kind, which is read and written as the kind itself.
    pub fn status(group: impl Into<Name>, version: impl Into<Name>, kind: impl Into<Name>) -> Self {
        let (group, version, kind) = (group.into(), version.into(), kind.into());
        Self { name: "status", group, version, kind, verbs: PART }
    }

    /// How many there are to be, as a Scale.
    pub const fn scale() -> Self {
        part("scale", "autoscaling", "v1", "Scale", PART)
    }
}

fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource::status(group, version, kind)
}

fn text<const N: usize>(name: &'static str, pointers: [&'static str; N]) -> SelectableField {
    let pointers = pointers.into_iter().map(Cow::Borrowed).collect();
    SelectableField { name: Cow::Borrowed(name), pointers, absent: "" }
}

fn flag(name: &'static str, pointer: &'static str) -> SelectableField {
    SelectableField { absent: "false", ..text(name, [pointer]) }
}

fn count(name: &'static str, pointer: &'static str) -> SelectableField {
    SelectableField { absent: "0", ..text(name, [pointer]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `kubectl api-resources --sort-by=name` prints a Kubernetes 1.36 server.
    const RECORDED: &str = include_str!("../testdata/surface/api-resources.txt");

    fn is_preferred(kind: &Arc<Kind>) -> bool {
        built_in().preferred(&kind.group, &kind.plural).is_some_and(|preferred| Arc::ptr_eq(preferred, kind))
    }

    #[test]
    fn the_table_has_the_resources_of_a_default_server() {
        let preferred = all().iter().filter(|r| is_preferred(r));
        let mut lines: Vec<String> = preferred
            .map(|r| {
                let names = [r.plural.to_string(), r.short_names.join(","), r.api_version().to_owned()];
                let scope = [r.namespaced.to_string(), r.kind.to_string()];
                names.into_iter().chain(scope).filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" ")
            })
            .collect();
        lines.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()));
        let recorded: Vec<&str> = RECORDED.lines().collect();
        assert_eq!(lines, recorded);
        assert_eq!(all().len(), recorded.len() + 1, "horizontalpodautoscalers come in two versions");
    }

    #[test]
    fn lookups_find_by_path_and_by_kind() {
        assert_eq!(find("apps", "v1", "deployments").unwrap().kind, "Deployment");
        assert_eq!(by_kind("v1", "Pod").unwrap().plural, "pods");
        assert_eq!(by_kind("networking.k8s.io/v1", "Ingress").unwrap().plural, "ingresses");
        assert!(find("", "v1", "widgets").is_none());
        assert!(by_kind("v1", "Deployment").is_none());
    }

    #[test]
    fn verbs_and_subresources_are_sorted_and_stored_versions_exist() {
        for r in all() {
            assert!(r.verbs.is_sorted(), "{}", r.plural);
            assert!(r.subresources.is_sorted_by_key(|s| s.name), "{}", r.plural);
            assert!(!r.is_stored() || r.storage().plural == r.plural, "{}", r.plural);
        }
    }

    #[test]
    fn events_of_both_groups_are_kept_as_core_events() {
        let storage = find("events.k8s.io", "v1", "events").unwrap().storage();
        assert_eq!(storage.api_version(), "v1");
    }
}
