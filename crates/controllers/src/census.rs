//! Who is there, of every kind: each object's name, owners and finalizers, told to
//! those who listen and not kept here.
//!
//! Typed caches of all kinds would hold whole clusters in memory; owners and quotas
//! need to hear of everything and to keep next to nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::{self, Kind};
use client::{Client, Error, Watch, WatchEvent, object_path};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is read of an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) deletion_timestamp: Option<String>,
    pub(crate) finalizers: Option<Vec<String>>,
    pub(crate) owner_references: Option<Vec<Owner>>,
}

impl Metadata {
    pub(crate) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().flatten().any(|finalizer| finalizer == name)
    }
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) block_owner_deletion: Option<bool>,
}

/// An object of which only the metadata is read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Partial {
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

/// What is told of a kind.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// An object is there, as new or changed.
    Present(&'a Metadata),
    /// An object is gone.
    Gone(&'a Metadata),
    /// These uids are all there are.
    Complete(&'a HashSet<String>),
}

type Listener = Box<dyn Fn(&'static Kind, &Seen<'_>) + Send + Sync>;

/// Collects listeners, then watches every kind for them.
#[derive(Default)]
pub(crate) struct Census {
    listeners: Vec<Listener>,
}

/// Tells when every kind was seen completely once.
#[derive(Debug, Clone)]
pub(crate) struct Ready(watch::Receiver<usize>);

impl Ready {
    /// Waits until every kind was seen completely. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        // The sender lives as long as its tasks: without them nobody waits any more.
        let _ = self.0.wait_for(|missing| *missing == 0).await;
    }
}

/// How many kinds are still to be seen. Made before the census starts, for its listeners.
pub(crate) fn readiness() -> (watch::Sender<usize>, Ready) {
    let (sender, receiver) = watch::channel(kinds().count());
    (sender, Ready(receiver))
}

/// The kinds whose objects can be listed, watched and deleted, each in the version it is
/// kept in. Events come and go too often, and nobody owns through them.
pub(crate) fn kinds() -> impl Iterator<Item = &'static Kind> {
    let can = |one: &Kind| ["list", "watch", "delete"].iter().all(|verb| one.has_verb(verb));
    kinds::all()
        .iter()
        .map(|one| &**one)
        .filter(move |one| one.is_stored() && one.is_storage() && one.plural != "events" && can(one))
}

impl Census {
    /// Calls `listener` for all that is seen.
    pub(crate) fn listen(&mut self, listener: impl Fn(&'static Kind, &Seen<'_>) + Send + Sync + 'static) {
        self.listeners.push(Box::new(listener));
    }

    /// Watches every kind until `shutdown`.
    pub(crate) fn start(
        self,
        client: &Client,
        missing: watch::Sender<usize>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        let (census, missing) = (Arc::new(self), Arc::new(missing));
        for resource in kinds() {
            let (census, missing) = (census.clone(), missing.clone());
            let (client, shutdown) = (client.clone(), shutdown.clone());
            tasks.spawn(async move {
                // Cancel-safe: a watch that is dropped ends, and nothing else is held.
                shutdown.run_until_cancelled(census.follow(&client, resource, &missing)).await;
            });
        }
    }

    fn tell(&self, resource: &'static Kind, seen: &Seen<'_>) {
        self.listeners.iter().for_each(|listener| listener(resource, seen));
    }

    async fn follow(&self, client: &Client, resource: &'static Kind, missing: &watch::Sender<usize>) {
        let mut position = Position { version: None, counted: false };
        let mut pause = PAUSE_MIN;
        loop {
            match self.follow_once(client, resource, &mut position, missing).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    tracing::debug!(kind = &*resource.kind, %error, "watch failed");
                    position.version = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// One watch, from all there is or from where the one before ended.
    async fn follow_once(
        &self,
        client: &Client,
        resource: &'static Kind,
        position: &mut Position,
        missing: &watch::Sender<usize>,
    ) -> Result<(), Error> {
        let mut watch: Watch<Partial> = client.watch_path(position.path(resource)).await?;
        let mut initial = position.version.is_none().then(HashSet::new);
        while let Some(event) = watch.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    initial.iter_mut().for_each(|uids| {
                        uids.insert(object.metadata.uid.clone());
                    });
                    self.tell(resource, &Seen::Present(&object.metadata));
                    position.version = initial.is_none().then_some(object.metadata.resource_version);
                }
                WatchEvent::Deleted(object) => {
                    initial.iter_mut().for_each(|uids| {
                        uids.remove(&object.metadata.uid);
                    });
                    self.tell(resource, &Seen::Gone(&object.metadata));
                    position.version = initial.is_none().then_some(object.metadata.resource_version);
                }
                WatchEvent::Bookmark { resource_version, initial_events_end } => {
                    if initial_events_end && let Some(uids) = initial.take() {
                        self.tell(resource, &Seen::Complete(&uids));
                        if !std::mem::replace(&mut position.counted, true) {
                            missing.send_modify(|missing| *missing = missing.saturating_sub(1));
                        }
                    }
                    position.version = initial.is_none().then_some(resource_version);
                }
            }
        }
        Ok(())
    }
}

/// How far a kind was followed.
struct Position {
    version: Option<String>,
    /// Whether the kind was seen completely once.
    counted: bool,
}

impl Position {
    fn path(&self, resource: &Kind) -> String {
        let path = object_path(&resource.group, &resource.version, &resource.plural, "", "");
        let from = match &self.version {
            Some(version) => format!("resourceVersion={version}"),
            None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        };
        format!("{path}?watch=true&allowWatchBookmarks=true&{from}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_followed_once() {
        let kinds: Vec<_> = kinds().map(|one| (&*one.group, &*one.plural)).collect();
        let mut unique = kinds.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), kinds.len());
        assert!(kinds.contains(&("", "pods")) && kinds.contains(&("apps", "replicasets")));
        assert!(!kinds.iter().any(|(_, plural)| *plural == "events"));
    }

    #[test]
    fn metadata_is_read_whatever_else_an_object_has() {
        let text = r#"{"kind":"Pod","metadata":{"name":"a","uid":"u","finalizers":null,"ownerReferences":[{"kind":"X","uid":"o","controller":true}],"managedFields":[{}]},"spec":{}}"#;
        let object: Partial = serde_json::from_str(text).unwrap();
        assert_eq!((object.metadata.name.as_str(), object.metadata.has_finalizer("a")), ("a", false));
        assert_eq!(object.metadata.owner_references.unwrap()[0].uid, "o");
    }
}
