//! Deletes what has lost its owners, lets owners wait for their dependents, and makes
//! dependents forget owners that leave them behind.
//!
//! ```text
//! census ─► graph ─► uid ─► owners there? ─ all gone ─► delete
//!                                         └ some gone ─► forget those
//! ```
//!
//! The graph only says where to look; every decision is made on what the server
//! answers then, and deletions carry the uid and version they were decided on.

mod graph;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::kinds::{Kind, Kinds};
use client::{Client, Error, object_path};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::graph::{FOREGROUND, Graph, Item, ORPHAN, Waits};
use crate::census::{Census, Metadata, Owner, Partial, Ready};
use crate::context::{Context, unless_gone};
use crate::controller::Controller;
use crate::workqueue::{Keys, Next};

struct Collector {
    client: Client,
    kinds: watch::Receiver<Arc<Kinds>>,
    graph: Mutex<Graph>,
    ready: Ready,
    keys: Keys,
}

pub(crate) fn spawn(context: &Context, census: &mut Census, ready: Ready, tasks: &mut JoinSet<()>) {
    let client = context.client.named("generic-garbage-collector");
    let kinds = context.kinds.clone();
    let controller = Controller::new("garbage-collector");
    let keys = controller.keys();
    let collector = Arc::new(Collector { client, kinds, graph: Mutex::default(), ready, keys });
    let shared = collector.clone();
    controller.run(tasks, context.shutdown.clone(), move |uid| {
        let collector = shared.clone();
        async move { collector.collect(&uid).await }
    });
    census.listen(move |resource, seen| {
        let look = collector.graph().see(resource, seen);
        look.into_iter().for_each(|uid| collector.look(uid));
    });
}

/// What becomes of an owner reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The owner is there.
    Solid,
    /// The owner is gone, or another object has its name.
    Dangling,
    /// The owner is going after its dependents.
    Waiting,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, uid: String) {
        // Without a receiver the controller has ended, and so has this.
        let _ = self.keys.send(uid);
    }

    /// Upstream's attemptToDeleteItem and attemptToOrphan.
    async fn collect(&self, uid: &str) -> Result<Next, Error> {
        // An owner is not let go before all that could depend on it was seen.
        self.ready.clone().wait().await;
        let Some(item) = self.graph().get(uid) else { return Ok(Next::Done) };
        match item.state {
            Waits::Orphaning => self.orphan(uid, &item).await?,
            Waits::Foreground => self.wait_for_dependents(uid, &item).await?,
            Waits::Deleting => {}
            Waits::Not => self.check_owners(uid, &item).await?,
        }
        Ok(Next::Done)
    }

    /// The object as it is now, unless it is gone.
    async fn live(&self, uid: &str, item: &Item) -> Result<Option<Metadata>, Error> {
        let live = read(&self.client, &path_of(item)).await?;
        Ok(live.filter(|live| live.uid == uid))
    }

    async fn orphan(&self, uid: &str, item: &Item) -> Result<(), Error> {
        let dependents = self.graph().dependents(uid);
        for (dependent, item) in dependents {
            self.forget_owners(&dependent, &item, &[uid]).await?;
        }
        self.release(uid, item, ORPHAN).await
    }

    async fn wait_for_dependents(&self, uid: &str, item: &Item) -> Result<(), Error> {
        let mut blocking = self.graph().dependents(uid);
        blocking.retain(|(_, item)| item.blocks(uid));
        if blocking.is_empty() {
            return self.release(uid, item, FOREGROUND).await;
        }
        for (dependent, item) in blocking {
            if item.state == Waits::Not {
                self.look(dependent);
            }
        }
        Ok(())
    }

    /// Takes one of the two finalizers off.
    async fn release(&self, uid: &str, item: &Item, finalizer: &str) -> Result<(), Error> {
        let Some(live) = self.live(uid, item).await? else { return Ok(()) };
        let mut finalizers = live.finalizers.unwrap_or_default();
        let before = finalizers.len();
        finalizers.retain(|one| one != finalizer);
        if finalizers.len() == before {
            return Ok(());
        }
        let body = json!({"metadata": {"resourceVersion": live.resource_version, "finalizers": finalizers}});
        self.patch(item, "application/merge-patch+json", &body).await
    }

    /// Makes a dependent forget owners.
    async fn forget_owners(&self, uid: &str, item: &Item, owners: &[&str]) -> Result<(), Error> {
        let gone: Vec<Value> = owners.iter().map(|owner| json!({"$patch": "delete", "uid": owner})).collect();
        let body = json!({"metadata": {"ownerReferences": gone, "uid": uid}});
        self.patch(item, "application/strategic-merge-patch+json", &body).await
    }

    /// Makes owners that wait not wait for this one.
    async fn unblock_owners(&self, uid: &str, item: &Item, owners: &[Owner]) -> Result<(), Error> {
        let free = owners.iter().map(|owner| json!({"uid": owner.uid, "blockOwnerDeletion": false}));
        let free: Vec<Value> = free.collect();
        let body = json!({"metadata": {"ownerReferences": free, "uid": uid}});
        self.patch(item, "application/strategic-merge-patch+json", &body).await
    }

    async fn patch(&self, item: &Item, media: &str, body: &Value) -> Result<(), Error> {
        let body = body.to_string().into_bytes().into();
        unless_gone(self.client.raw(Method::PATCH, &path_of(item), media, body).await)
    }

    async fn check_owners(&self, uid: &str, item: &Item) -> Result<(), Error> {
        let standings = self.standings(item, &item.owners).await?;
        if !standings.is_empty() && standings.iter().all(|one| *one == Standing::Solid) {
            return Ok(());
        }
        // Something is to be done: by what the object says now, not by what it said.
        let Some(live) = self.live(uid, item).await? else { return Ok(()) };
        if Waits::of(&live) != Waits::Not {
            return Ok(());
        }
        let owners = live.owner_references.clone().unwrap_or_default();
        let standings = self.standings(item, &owners).await?;
        if owners.is_empty() {
            return Ok(());
        }
        if standings.contains(&Standing::Solid) {
            let lost = owners.iter().zip(&standings).filter(|(_, standing)| **standing != Standing::Solid);
            let lost: Vec<&str> = lost.map(|(owner, _)| owner.uid.as_str()).collect();
            return if lost.is_empty() { Ok(()) } else { self.forget_owners(uid, item, &lost).await };
        }
        let dependents = self.graph().dependents(uid);
        let waits = |(_, dependent): &(String, Item)| dependent.state == Waits::Foreground;
        if standings.contains(&Standing::Waiting) && dependents.iter().any(waits) && blocks_owners(&owners) {
            // Perhaps a circle, in which each would wait for the next for ever. Upstream cuts it here as well;
            // the change brings the object back.
            return self.unblock_owners(uid, item, &owners).await;
        }
        self.delete(item, &live, policy(&live, &standings, !dependents.is_empty())).await
    }

    async fn standings(&self, item: &Item, owners: &[Owner]) -> Result<Vec<Standing>, Error> {
        let mut standings = Vec::with_capacity(owners.len());
        for owner in owners {
            standings.push(self.standing(item, owner).await?);
        }
        Ok(standings)
    }

    async fn standing(&self, item: &Item, owner: &Owner) -> Result<Standing, Error> {
        // Of a kind that is not served nothing can be said; and nobody in a namespace
        // owns what is in none.
        let kinds = self.kinds.borrow().clone();
        let Some(kind) = kinds.by_kind(&owner.api_version, &owner.kind) else {
            return Ok(Standing::Solid);
        };
        if kind.namespaced && item.namespace.is_empty() {
            tracing::debug!(
                name = item.name,
                owner = owner.name,
                "the owner of a cluster-wide object has a namespace"
            );
            return Ok(Standing::Solid);
        }
        let live = read(&self.client, &path(kind, &item.namespace, &owner.name)).await?;
        Ok(match live.filter(|live| live.uid == owner.uid) {
            None => Standing::Dangling,
            Some(live) if Waits::of(&live) == Waits::Foreground => Standing::Waiting,
            Some(_) => Standing::Solid,
        })
    }

    async fn delete(&self, item: &Item, live: &Metadata, policy: &str) -> Result<(), Error> {
        let body = json!({
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": policy,
            "preconditions": {"uid": live.uid, "resourceVersion": live.resource_version},
        });
        tracing::debug!(
            kind = &*item.resource.kind,
            name = item.name,
            policy,
            "deleting what has lost its owners"
        );
        let body = body.to_string().into_bytes().into();
        unless_gone(self.client.raw(Method::DELETE, &path_of(item), "application/json", body).await)
    }
}

fn blocks_owners(owners: &[Owner]) -> bool {
    owners.iter().any(|owner| owner.block_owner_deletion == Some(true))
}

/// How an object without a solid owner is deleted: as its finalizers ask, and before its
/// own dependents only if nobody waits for them.
fn policy(live: &Metadata, standings: &[Standing], has_dependents: bool) -> &'static str {
    if standings.contains(&Standing::Waiting) && has_dependents {
        "Foreground"
    } else if live.has_finalizer(ORPHAN) {
        "Orphan"
    } else if live.has_finalizer(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    }
}

async fn read(client: &Client, path: &str) -> Result<Option<Metadata>, Error> {
    match client.raw(Method::GET, path, "", Default::default()).await {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
        Ok(body) => serde_json::from_slice(&body)
            .map(|object: Partial| Some(object.metadata))
            .map_err(|source| Error::Decode { path: path.to_owned(), source }),
    }
}

fn path(resource: &Kind, namespace: &str, name: &str) -> String {
    let namespace = if resource.namespaced { namespace } else { "" };
    object_path(&resource.group, &resource.version, &resource.plural, namespace, name)
}

fn path_of(item: &Item) -> String {
    path(&item.resource, &item.namespace, &item.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_goes_before_its_dependents_unless_somebody_waits_or_it_asks() {
        let plain = Metadata::default();
        let asks = Metadata { finalizers: Some(vec![ORPHAN.to_owned()]), ..Metadata::default() };
        assert_eq!(policy(&plain, &[Standing::Dangling], true), "Background");
        assert_eq!(policy(&plain, &[Standing::Waiting], true), "Foreground");
        assert_eq!(policy(&plain, &[Standing::Waiting], false), "Background");
        assert_eq!(policy(&asks, &[Standing::Dangling], true), "Orphan");
    }

    #[test]
    fn the_owner_of_an_object_is_looked_for_in_its_namespace_or_in_none() {
        let node = api::kinds::by_kind("v1", "Node").expect("known");
        let pod = api::kinds::by_kind("v1", "Pod").expect("known");
        assert_eq!(path(node, "a", "n"), "/api/v1/nodes/n");
        assert_eq!(path(pod, "a", "n"), "/api/v1/namespaces/a/pods/n");
    }
}
