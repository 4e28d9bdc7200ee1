//! The table of resources: every kind this API serves, with what the generic paths
//! of the server need to know of it.
//!
//! Names, scopes, verbs, short names and categories are those of a Kubernetes 1.36 server
//! with no alpha or beta group switched on. The order of [`GROUP_VERSIONS`] and within it
//! of [`all`] is the order of discovery.

use std::collections::HashMap;
use std::sync::LazyLock;

mod core;
mod groups;

/// A group and version, as discovery orders them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupVersion {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
}

impl GroupVersion {
    /// The form of `apiVersion`: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// All group-versions; groups by upstream's priority, the preferred version of each first.
pub const GROUP_VERSIONS: &[GroupVersion] = &[
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
    GroupVersion { group, version }
}

/// A subresource: what follows an object's name in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: &'static str,
    /// The group of [`Subresource::kind`]; only said in discovery when it is another one.
    pub group: &'static str,
    /// The version of [`Subresource::kind`].
    pub version: &'static str,
    /// The kind it takes and gives.
    pub kind: &'static str,
    /// Sorted.
    pub verbs: &'static [&'static str],
}

/// A field that selectors may name, and where its value is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectableField {
    /// As written in a selector: `spec.nodeName`.
    pub name: &'static str,
    /// JSON pointers, tried in order until one finds something.
    pub pointers: &'static [&'static str],
    /// The value when the field is absent: empty, `false` or `0`.
    pub absent: &'static str,
}

/// One resource in one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind: `Pod`.
    pub kind: &'static str,
    /// The plural of paths: `pods`.
    pub plural: &'static str,
    /// The singular kubectl accepts: `pod`.
    pub singular: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What kubectl accepts besides: `po`.
    pub short_names: &'static [&'static str],
    /// Sets of resources it belongs to: `all`.
    pub categories: &'static [&'static str],
    /// Sorted.
    pub verbs: &'static [&'static str],
    /// Sorted by name.
    pub subresources: &'static [Subresource],
    /// Besides `metadata.name` and `metadata.namespace`, which every kind has.
    pub selectable_fields: &'static [SelectableField],
    /// The group and version under which objects are kept. The same object may be served
    /// by several resources (events, horizontalpodautoscalers).
    pub stored: GroupVersion,
    /// Whether PUT to a missing name creates the object.
    pub create_on_update: bool,
    /// Whether PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// Whether deletion gives a grace period (Pods).
    pub graceful_delete: bool,
}

impl Resource {
    /// The form of `apiVersion`: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        GroupVersion { group: self.group, version: self.version }.api_version()
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the verb is served on the resource itself.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether objects are kept: reviews and bindings are answered and forgotten.
    pub fn is_stored(&self) -> bool {
        self.has_verb("get") && self.plural != "componentstatuses"
    }

    /// Whether status is written through its subresource only.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The resource under whose name objects are kept: itself, but for events of
    /// `events.k8s.io` and old versions.
    pub fn storage(&self) -> &'static Resource {
        find(self.stored.group, self.stored.version, self.plural).expect("a stored version is in the table")
    }
}

/// All resources in the order of discovery.
pub fn all() -> &'static [Resource] {
    &TABLE.resources
}

/// The resource of a path: `find("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    TABLE.by_plural.get(&(group, version, plural)).map(|i| &TABLE.resources[*i])
}

/// The resource whose objects say this apiVersion and kind: `by_kind("apps/v1", "Deployment")`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    TABLE.by_kind.get(&(group, version, kind)).map(|i| &TABLE.resources[*i])
}

/// The resource in its group's preferred version, for those who know no version (RBAC, quota).
pub fn preferred(group: &str, plural: &str) -> Option<&'static Resource> {
    TABLE.resources.iter().find(|r| r.group == group && r.plural == plural)
}

/// Whether any resource is served in this group and version.
pub fn has_group_version(group: &str, version: &str) -> bool {
    GROUP_VERSIONS.iter().any(|g| g.group == group && g.version == version)
}

type Key = (&'static str, &'static str, &'static str);

struct Table {
    resources: Vec<Resource>,
    by_plural: HashMap<Key, usize>,
    by_kind: HashMap<Key, usize>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let declared = core::RESOURCES.iter().chain(groups::RESOURCES);
    let mut resources: Vec<Resource> = declared.copied().collect();
    let priority = |r: &Resource| {
        let same = |g: &GroupVersion| g.group == r.group && g.version == r.version;
        GROUP_VERSIONS.iter().position(same).expect("a resource's group-version is listed")
    };
    resources.sort_by_key(|r| (priority(r), r.plural));
    let index = |name: fn(&Resource) -> &'static str| {
        resources.iter().enumerate().map(|(i, r)| ((r.group, r.version, name(r)), i)).collect()
    };
    Table { by_plural: index(|r| r.plural), by_kind: index(|r| r.kind), resources }
});

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

const fn cluster(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource {
    Resource {
        group,
        version,
        kind,
        plural,
        singular,
        namespaced: false,
        short_names: &[],
        categories: &[],
        verbs: READ_WRITE,
        subresources: &[],
        selectable_fields: &[],
        stored: gv(group, version),
        create_on_update: false,
        unconditional_update: true,
        graceful_delete: false,
    }
}

const fn namespaced(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource {
    Resource { namespaced: true, ..cluster(group, version, kind, plural, singular) }
}

/// A kind that is answered and not kept.
const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource {
    Resource { verbs: CREATE, ..cluster(group, "v1", kind, plural, singular) }
}

impl Resource {
    const fn short(self, short_names: &'static [&'static str]) -> Self {
        Self { short_names, ..self }
    }

    const fn category(self, categories: &'static [&'static str]) -> Self {
        Self { categories, ..self }
    }

    const fn verbs(self, verbs: &'static [&'static str]) -> Self {
        Self { verbs, ..self }
    }

    const fn sub(self, subresources: &'static [Subresource]) -> Self {
        Self { subresources, ..self }
    }

    const fn fields(self, selectable_fields: &'static [SelectableField]) -> Self {
        Self { selectable_fields, ..self }
    }

    const fn stored_as(self, group: &'static str, version: &'static str) -> Self {
        Self { stored: gv(group, version), ..self }
    }

    const fn creates_on_update(self) -> Self {
        Self { create_on_update: true, ..self }
    }

    const fn conditional_update(self) -> Self {
        Self { unconditional_update: false, ..self }
    }
}

const fn part(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group, version, kind, verbs }
}

const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    part("status", group, version, kind, PART)
}

const SCALE: Subresource = part("scale", "autoscaling", "v1", "Scale", PART);

const fn text(name: &'static str, pointers: &'static [&'static str]) -> SelectableField {
    SelectableField { name, pointers, absent: "" }
}

const fn flag(name: &'static str, pointers: &'static [&'static str]) -> SelectableField {
    SelectableField { name, pointers, absent: "false" }
}

const fn count(name: &'static str, pointers: &'static [&'static str]) -> SelectableField {
    SelectableField { name, pointers, absent: "0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `kubectl api-resources --sort-by=name` prints a Kubernetes 1.36 server.
    const RECORDED: &str = include_str!("../testdata/surface/api-resources.txt");

    #[test]
    fn the_table_has_the_resources_of_a_default_server() {
        let preferred = all().iter().filter(|r| preferred(r.group, r.plural) == Some(r));
        let mut lines: Vec<String> = preferred
            .map(|r| {
                let names = [r.plural.to_owned(), r.short_names.join(","), r.api_version()];
                let scope = [r.namespaced.to_string(), r.kind.to_owned()];
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
