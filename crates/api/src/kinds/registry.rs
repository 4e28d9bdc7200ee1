//! The kinds that are served: a snapshot that never changes. Registering and withdrawing make another.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{GROUP_VERSIONS, GroupVersion, Kind};

/// All kinds that are served at one time.
#[derive(Debug)]
pub struct Kinds {
    /// In the order of discovery.
    all: Vec<Arc<Kind>>,
    group_versions: Vec<GroupVersion>,
    /// Sorted by group, version and plural.
    by_path: Vec<Arc<Kind>>,
    /// Sorted by group, version and kind.
    by_kind: Vec<Arc<Kind>>,
}

/// Why a kind cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Two kinds have one path, or one name.
    #[error("{0} is served already")]
    Served(String),
    /// Objects would be kept in a version that is not among those registered.
    #[error("{0} is kept in a version that is not served")]
    Unstored(String),
}

impl Kinds {
    /// Of the kinds that are built in, which fit each other.
    pub(super) fn of(declared: Vec<Kind>) -> Self {
        Self::new(link(declared).expect("a stored version is in the table"))
            .expect("the table names each kind once")
    }

    /// These and a resource in all its versions, in place of what was registered under its name before.
    pub fn with(&self, versions: Vec<Kind>) -> Result<Self, Conflict> {
        let replaced = |kind: &Arc<Kind>| versions.iter().any(|new| is_same(kind, &new.group, &new.plural));
        let kept: Vec<_> = self.all.iter().filter(|kind| !replaced(kind)).cloned().collect();
        Self::new(kept.into_iter().chain(link(versions)?).collect())
    }

    /// These without a resource, in all its versions.
    pub fn without(&self, group: &str, plural: &str) -> Self {
        let kept = self.all.iter().filter(|kind| !is_same(kind, group, plural)).cloned().collect();
        Self::new(kept).expect("what is left out stands in nobody's way")
    }

    fn new(mut all: Vec<Arc<Kind>>) -> Result<Self, Conflict> {
        all.sort_by(|a, b| priority(a).cmp(&priority(b)).then_with(|| later(a, b)));
        let mut group_versions: Vec<_> = all.iter().map(|kind| kind.group_version()).collect();
        group_versions.dedup();
        let sorted = |name: fn(&Kind) -> &str| {
            let key = |kind: &Arc<Kind>, other: &Arc<Kind>| at(kind, name).cmp(&at(other, name));
            let mut sorted = all.clone();
            sorted.sort_by(key);
            let twice = sorted.windows(2).find(|pair| key(&pair[0], &pair[1]).is_eq());
            match twice {
                Some(pair) => {
                    Err(Conflict::Served(format!("{} in {}", name(&pair[0]), pair[0].api_version())))
                }
                None => Ok(sorted),
            }
        };
        Ok(Self {
            by_path: sorted(|kind| &kind.plural)?,
            by_kind: sorted(|kind| &kind.kind)?,
            group_versions,
            all,
        })
    }

    /// All of them in the order of discovery.
    pub fn all(&self) -> &[Arc<Kind>] {
        &self.all
    }

    /// Their group-versions in the order of discovery; the preferred version of a group is its first.
    pub fn group_versions(&self) -> &[GroupVersion] {
        &self.group_versions
    }

    /// The kind of a path: `find("apps", "v1", "deployments")`.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let wanted = (group, version, plural);
        let found = self.by_path.binary_search_by(|kind| at(kind, |kind| &kind.plural).cmp(&wanted));
        found.ok().map(|index| &self.by_path[index])
    }

    /// The kind whose objects say this apiVersion and kind: `by_kind("apps/v1", "Deployment")`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let wanted = (group, version, kind);
        let found = self.by_kind.binary_search_by(|kind| at(kind, |kind| &kind.kind).cmp(&wanted));
        found.ok().map(|index| &self.by_kind[index])
    }

    /// The kind in its group's preferred version, for those who know no version (RBAC, quota).
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.all.iter().find(|kind| is_same(kind, group, plural))
    }

    /// Whether this very kind is served, and not another that was registered in its place.
    pub fn serves(&self, kind: &Arc<Kind>) -> bool {
        self.find(&kind.group, &kind.version, &kind.plural).is_some_and(|served| Arc::ptr_eq(served, kind))
    }
}

fn is_same(kind: &Kind, group: &str, plural: &str) -> bool {
    kind.group == group && kind.plural == plural
}

fn at(kind: &Kind, name: fn(&Kind) -> &str) -> (&str, &str, &str) {
    (&kind.group, &kind.version, name(kind))
}

/// Makes kinds of declarations: each knows the one its objects are kept as, and that one the fields
/// by which they are selected in any version.
fn link(declared: Vec<Kind>) -> Result<Vec<Arc<Kind>>, Conflict> {
    let (mut stored, served): (Vec<Kind>, Vec<Kind>) =
        declared.into_iter().partition(|kind| kind.stored == kind.group_version());
    for kind in &mut stored {
        let is_form = |form: &&Kind| form.stored == kind.stored && form.plural == kind.plural;
        let others = served.iter().filter(is_form).flat_map(|form| &form.selectable_fields);
        kind.noted_fields = kind.selectable_fields.iter().chain(others).cloned().collect();
        kind.noted_fields.sort_by(|a, b| a.name.cmp(&b.name));
        kind.noted_fields.dedup_by(|a, b| a.name == b.name);
    }
    let mut linked: Vec<Arc<Kind>> = stored.into_iter().map(Arc::new).collect();
    for mut kind in served {
        let storage =
            linked.iter().find(|one| one.group_version() == kind.stored && one.plural == kind.plural);
        let storage = storage
            .ok_or_else(|| Conflict::Unstored(format!("{} in {}", kind.plural, kind.api_version())))?;
        kind.storage = Some(storage.clone());
        linked.push(Arc::new(kind));
    }
    Ok(linked)
}

/// The place of a kind in discovery: groups and versions that are built in stand before all others.
fn priority(kind: &Kind) -> (usize, usize) {
    let place = |same: &dyn Fn(&GroupVersion) -> bool| {
        GROUP_VERSIONS.iter().position(same).unwrap_or(GROUP_VERSIONS.len())
    };
    let group = place(&|gv| gv.group == kind.group);
    (group, place(&|gv| gv.group == kind.group && gv.version == kind.version))
}

/// The order of group-versions of one priority: by group, and a newer version before its elders.
fn later(a: &Kind, b: &Kind) -> Ordering {
    let newer = || rank(&b.version).cmp(&rank(&a.version)).then_with(|| a.version.cmp(&b.version));
    a.group.cmp(&b.group).then_with(newer).then_with(|| a.plural.cmp(&b.plural))
}

/// Upstream's CompareKubeAwareVersionStrings: `v2` is above `v1`, that above `v3beta1`, and that above
/// `v9alpha1`; what does not look like a version is below all that do.
fn rank(version: &str) -> Option<(u8, u64, u64)> {
    let (major, rest) = number(version.strip_prefix('v')?)?;
    let (stage, minor) = match rest {
        "" => return Some((2, major, 0)),
        _ => rest
            .strip_prefix("beta")
            .map(|minor| (1, minor))
            .or(rest.strip_prefix("alpha").map(|minor| (0, minor)))?,
    };
    let (minor, rest) = number(minor)?;
    rest.is_empty().then_some((stage, major, minor))
}

/// The number that a text begins with, and what follows it.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::super::{SelectableField, built_in};
    use super::*;

    fn widget(version: &'static str) -> Kind {
        Kind::namespaced("example.com", version, "Widget", "widgets", "widget")
    }

    fn field(name: &'static str) -> [SelectableField; 1] {
        [SelectableField { name: name.into(), pointers: Vec::new(), absent: "" }]
    }

    #[test]
    fn a_resource_comes_with_its_versions_and_goes() {
        let old = widget("v1beta1").stored_as("example.com", "v1").fields(field("old"));
        let kinds = built_in().with(vec![old, widget("v1").fields(field("new"))]).unwrap();
        let kind = kinds.find("example.com", "v1beta1", "widgets").unwrap();
        assert_eq!((kind.storage().api_version(), kind.is_storage()), ("example.com/v1", false));
        let noted: Vec<_> = kind.storage().noted_fields().iter().map(|field| &*field.name).collect();
        assert_eq!(noted, ["new", "old"], "an object is selected in each version by that version's names");
        assert_eq!(kinds.by_kind("example.com/v1", "Widget").unwrap().plural, "widgets");
        assert_eq!(kinds.group_versions().last().unwrap().api_version(), "example.com/v1beta1");
        let changed = kinds.with(vec![widget("v1")]).unwrap();
        assert!(changed.find("example.com", "v1beta1", "widgets").is_none() && !changed.serves(kind));
        let gone = changed.without("example.com", "widgets");
        assert_eq!(gone.all().len(), built_in().all().len());
        assert!(gone.by_kind("example.com/v1", "Widget").is_none());
    }

    #[test]
    fn one_name_is_served_once_and_a_stored_version_must_be_there() {
        let gadget = Kind::namespaced("example.com", "v1", "Widget", "gadgets", "gadget");
        let kinds = built_in().with(vec![widget("v1")]).unwrap();
        assert_eq!(
            kinds.with(vec![gadget]).unwrap_err(),
            Conflict::Served("Widget in example.com/v1".to_owned())
        );
        let unstored = built_in().with(vec![widget("v1").stored_as("example.com", "v2")]).unwrap_err();
        assert_eq!(unstored, Conflict::Unstored("widgets in example.com/v1".to_owned()));
    }

    #[test]
    fn the_preferred_version_is_the_newest_that_is_ready() {
        let versions = ["foo", "v1alpha1", "v2beta1", "v10", "v2beta3", "v2"];
        let registered = versions.map(widget);
        let kinds = built_in().with(registered.into()).unwrap();
        let of_group = kinds.group_versions().iter().filter(|gv| gv.group == "example.com");
        let order: Vec<_> = of_group.map(|gv| &*gv.version).collect();
        assert_eq!(order, ["v10", "v2", "v2beta3", "v2beta1", "v1alpha1", "foo"]);
    }
}
