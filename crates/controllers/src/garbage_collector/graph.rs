//! Who owns whom. Only objects with owners, and those that wait for their dependents,
//! are in it: most objects of a cluster are neither.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use api::kinds::Kind;

use crate::census::{Metadata, Owner, Seen};

/// Upstream's finalizer of objects whose dependents are to stay.
pub(super) const ORPHAN: &str = "orphan";
/// Upstream's finalizer of objects whose dependents go first.
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// An object of the graph.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) resource: Arc<Kind>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) owners: Vec<Owner>,
    pub(super) state: Waits,
}

/// What an object that is being deleted waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// It is not being deleted.
    Not,
    /// For nothing that concerns its dependents.
    Deleting,
    /// Until its dependents have forgotten it.
    Orphaning,
    /// Until the dependents that block it are gone.
    Foreground,
}

impl Waits {
    pub(super) fn of(metadata: &Metadata) -> Self {
        match metadata.deletion_timestamp {
            None => Self::Not,
            Some(_) if metadata.has_finalizer(ORPHAN) => Self::Orphaning,
            Some(_) if metadata.has_finalizer(FOREGROUND) => Self::Foreground,
            Some(_) => Self::Deleting,
        }
    }
}

impl Item {
    fn of(resource: &Arc<Kind>, metadata: &Metadata) -> Self {
        Self {
            resource: resource.clone(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            owners: metadata.owner_references.clone().unwrap_or_default(),
            state: Waits::of(metadata),
        }
    }

    fn matters(&self) -> bool {
        !self.owners.is_empty() || matches!(self.state, Waits::Orphaning | Waits::Foreground)
    }

    /// Whether an owner that goes in the foreground has to wait for this object.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|one| one.uid == owner && one.block_owner_deletion == Some(true))
    }
}

/// All of them, by uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    /// Owner to dependents, for owners in the graph or not.
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Takes in what was seen; answers the uids that are to be looked at.
    pub(super) fn see(&mut self, resource: &Arc<Kind>, seen: &Seen<'_>) -> Vec<String> {
        match seen {
            Seen::Present(metadata) => self.present(resource, metadata),
            Seen::Gone(metadata) => self.gone(&metadata.uid),
            Seen::Complete(uids) => self.complete(resource, uids),
        }
    }

    fn present(&mut self, resource: &Arc<Kind>, metadata: &Metadata) -> Vec<String> {
        let (item, uid) = (Item::of(resource, metadata), &metadata.uid);
        let old = self.take(uid);
        let unchanged = old.as_ref().is_some_and(|old| old.owners == item.owners && old.state == item.state);
        let mut look = Vec::new();
        if !unchanged {
            // An owner that waits may wait for one less now.
            look.extend(old.iter().flat_map(|old| self.waiting_owners(old)));
            look.extend(item.matters().then(|| uid.clone()));
        }
        if item.matters() {
            self.put(uid, item);
        }
        look
    }

    fn gone(&mut self, uid: &str) -> Vec<String> {
        let old = self.take(uid);
        let mut look = self.dependents_of(uid);
        look.extend(old.iter().flat_map(|old| self.waiting_owners(old)));
        look
    }

    fn complete(&mut self, resource: &Arc<Kind>, uids: &HashSet<String>) -> Vec<String> {
        let left = |(uid, item): (&String, &Item)| {
            (Arc::ptr_eq(&item.resource, resource) && !uids.contains(uid)).then(|| uid.clone())
        };
        let gone: Vec<String> = self.items.iter().filter_map(left).collect();
        gone.iter().flat_map(|uid| self.gone(uid)).collect()
    }

    fn put(&mut self, uid: &str, item: Item) {
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        self.items.insert(uid.to_owned(), item);
    }

    fn take(&mut self, uid: &str) -> Option<Item> {
        let item = self.items.remove(uid)?;
        for owner in &item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(item)
    }

    fn waiting_owners(&self, item: &Item) -> Vec<String> {
        let waits = |uid: &String| self.items.get(uid).is_some_and(|item| item.state == Waits::Foreground);
        item.owners.iter().map(|owner| owner.uid.clone()).filter(waits).collect()
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    pub(super) fn get(&self, uid: &str) -> Option<Item> {
        self.items.get(uid).cloned()
    }

    /// The objects that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Item)> {
        let known = |uid: String| self.get(&uid).map(|item| (uid, item));
        self.dependents_of(uid).into_iter().filter_map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> &'static Arc<Kind> {
        api::kinds::built_in().find("", "v1", "pods").expect("in the table")
    }

    fn object(uid: &str, owners: &[&str]) -> Metadata {
        let owner = |uid: &&str| Owner {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(true),
            ..Owner::default()
        };
        Metadata {
            uid: uid.to_owned(),
            owner_references: Some(owners.iter().map(owner).collect()),
            ..Metadata::default()
        }
    }

    fn deleting(uid: &str, finalizer: &str) -> Metadata {
        Metadata {
            deletion_timestamp: Some("now".to_owned()),
            finalizers: Some(vec![finalizer.to_owned()]),
            ..object(uid, &[])
        }
    }

    #[test]
    fn dependents_are_looked_at_when_they_come_and_when_their_owner_goes() {
        let mut graph = Graph::default();
        assert!(graph.see(pods(), &Seen::Present(&object("owner", &[]))).is_empty());
        assert_eq!(graph.see(pods(), &Seen::Present(&object("a", &["owner"]))), ["a"]);
        assert!(graph.see(pods(), &Seen::Present(&object("a", &["owner"]))).is_empty(), "nothing changed");
        assert_eq!(graph.see(pods(), &Seen::Gone(&object("owner", &[]))), ["a"]);
    }

    #[test]
    fn an_object_without_owners_is_not_kept() {
        let mut graph = Graph::default();
        graph.see(pods(), &Seen::Present(&object("a", &["owner"])));
        graph.see(pods(), &Seen::Present(&object("a", &[])));
        assert!(graph.items.is_empty() && graph.dependents.is_empty(), "{graph:?}");
    }

    #[test]
    fn an_owner_that_waits_is_looked_at_when_a_dependent_goes() {
        let mut graph = Graph::default();
        graph.see(pods(), &Seen::Present(&object("a", &["owner"])));
        assert_eq!(graph.see(pods(), &Seen::Present(&deleting("owner", FOREGROUND))), ["owner"]);
        assert!(graph.dependents("owner")[0].1.blocks("owner"));
        assert_eq!(graph.see(pods(), &Seen::Gone(&object("a", &["owner"]))), ["owner"]);
    }

    #[test]
    fn what_went_while_nobody_watched_is_found_by_the_next_list() {
        let mut graph = Graph::default();
        graph.see(pods(), &Seen::Present(&object("a", &["owner"])));
        graph.see(pods(), &Seen::Present(&object("b", &["a"])));
        assert_eq!(graph.see(pods(), &Seen::Complete(&HashSet::from(["b".to_owned()]))), ["b"]);
    }

    #[test]
    fn finalizers_say_what_a_deleted_object_waits_for() {
        assert_eq!(Waits::of(&deleting("a", ORPHAN)), Waits::Orphaning);
        assert_eq!(Waits::of(&deleting("a", FOREGROUND)), Waits::Foreground);
        assert_eq!(Waits::of(&deleting("a", "mine/hold")), Waits::Deleting);
        assert_eq!(Waits::of(&object("a", &[])), Waits::Not);
    }
}
