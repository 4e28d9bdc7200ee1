//! Who is there, of every kind: each object's name, owners and finalizers, told to
//! those who listen and not kept here.
//!
//! Typed caches of all kinds would hold whole clusters in memory; owners and quotas
//! need to hear of everything and to keep next to nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::{Kind, Kinds};
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

type Listener = Box<dyn Fn(&Arc<Kind>, &Seen<'_>) + Send + Sync>;

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

/// How much is still to be seen: at first what kinds there are. Made before the census starts, for
/// its listeners.
pub(crate) fn readiness() -> (watch::Sender<usize>, Ready) {
    let (sender, receiver) = watch::channel(1);
    (sender, Ready(receiver))
}

/// The kinds whose objects can be listed, watched and deleted, each in the version it is
/// kept in. Events come and go too often, and nobody owns through them.
pub(crate) fn followed(kinds: &Kinds) -> impl Iterator<Item = &Arc<Kind>> {
    let can = |one: &Kind| ["list", "watch", "delete"].iter().all(|verb| one.has_verb(verb));
    kinds
        .all()
        .iter()
        .filter(move |one| one.is_stored() && one.is_storage() && one.plural != "events" && can(one))
}

/// A kind that is watched, and how to stop that.
struct Followed {
    kind: Arc<Kind>,
    withdrawn: CancellationToken,
}

impl Census {
    /// Calls `listener` for all that is seen.
    pub(crate) fn listen(&mut self, listener: impl Fn(&Arc<Kind>, &Seen<'_>) + Send + Sync + 'static) {
        self.listeners.push(Box::new(listener));
    }

    /// Watches every kind until `shutdown`, also those that are registered meanwhile.
    pub(crate) fn start(
        self,
        client: &Client,
        kinds: watch::Receiver<Arc<Kinds>>,
        missing: watch::Sender<usize>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        let (client, shutdown) = (client.clone(), shutdown.clone());
        tasks.spawn(async move {
            // Cancel-safe: the watches are owned by what is dropped, and nothing else is held.
            shutdown.run_until_cancelled(Arc::new(self).run(client, kinds, Arc::new(missing))).await;
        });
    }

    async fn run(
        self: Arc<Self>,
        client: Client,
        mut kinds: watch::Receiver<Arc<Kinds>>,
        missing: Arc<watch::Sender<usize>>,
    ) {
        let (mut tasks, mut following) = (JoinSet::new(), Vec::new());
        let served = kinds.borrow_and_update().clone();
        self.adapt(&served, &mut following, &mut tasks, &client, &missing);
        missing.send_modify(|missing| *missing = missing.saturating_sub(1));
        while kinds.changed().await.is_ok() {
            let served = kinds.borrow_and_update().clone();
            self.adapt(&served, &mut following, &mut tasks, &client, &missing);
            while tasks.try_join_next().is_some() {}
        }
        // Nobody is left who could register or withdraw.
        while tasks.join_next().await.is_some() {}
    }

    /// Stops to watch what is not served any more, and begins with what is new.
    fn adapt(
        self: &Arc<Self>,
        served: &Kinds,
        following: &mut Vec<Followed>,
        tasks: &mut JoinSet<()>,
        client: &Client,
        missing: &Arc<watch::Sender<usize>>,
    ) {
        following.retain(|one| {
            let kept = served.serves(&one.kind);
            if !kept {
                one.withdrawn.cancel();
            }
            kept
        });
        for kind in followed(served) {
            if following.iter().any(|one| Arc::ptr_eq(&one.kind, kind)) {
                continue;
            }
            let withdrawn = CancellationToken::new();
            following.push(Followed { kind: kind.clone(), withdrawn: withdrawn.clone() });
            missing.send_modify(|missing| *missing += 1);
            let (census, client, kind) = (self.clone(), client.clone(), kind.clone());
            let missing = missing.clone();
            tasks.spawn(async move { census.follow_until(&client, &kind, &missing, withdrawn).await });
        }
    }

    fn tell(&self, kind: &Arc<Kind>, seen: &Seen<'_>) {
        self.listeners.iter().for_each(|listener| listener(kind, seen));
    }

    /// Watches a kind until it is withdrawn: then nothing of it is there any more.
    async fn follow_until(
        &self,
        client: &Client,
        kind: &Arc<Kind>,
        missing: &watch::Sender<usize>,
        withdrawn: CancellationToken,
    ) {
        let mut position = Position { version: None, counted: false };
        // Cancel-safe: a watch that is dropped ends, and what was told is told.
        withdrawn.run_until_cancelled(self.follow(client, kind, &mut position, missing)).await;
        position.count(missing);
        self.tell(kind, &Seen::Complete(&HashSet::new()));
    }

    async fn follow(
        &self,
        client: &Client,
        resource: &Arc<Kind>,
        position: &mut Position,
        missing: &watch::Sender<usize>,
    ) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.follow_once(client, resource, position, missing).await {
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
        resource: &Arc<Kind>,
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
                        position.count(missing);
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
    /// Counts the kind as seen.
    fn count(&mut self, missing: &watch::Sender<usize>) {
        if !std::mem::replace(&mut self.counted, true) {
            missing.send_modify(|missing| *missing = missing.saturating_sub(1));
        }
    }

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
        let kinds: Vec<_> = followed(api::kinds::built_in()).map(|one| (&*one.group, &*one.plural)).collect();
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
