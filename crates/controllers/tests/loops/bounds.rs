//! How many Pods a Deployment allows, over all that was seen in the order in which it happened.
//!
//! Pods that run at once are not the measure: a ReplicaSet that was told to let its Pods go takes its time, and
//! the next one does not wait for it. What holds at every instant is that the ReplicaSets together are never
//! asked for more than is allowed, and that none of them has more Pods than it was ever asked for.

use std::collections::BTreeMap;

use client::{ListOptions, WatchEvent};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;

/// Of the object after which nobody looks any more.
pub(crate) const THE_END: &str = "the-end";

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

/// A Pod, or a ReplicaSet, at one version.
#[derive(Debug)]
pub(crate) struct Seen {
    version: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// By name, with the uid of its owner; without: it is gone, or nobody's.
    Pod(String, Option<String>),
    /// By uid, with what it is asked for; without: it is gone.
    Set(String, Option<i32>),
}

fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().unwrap().parse().unwrap()
}

impl Seen {
    pub(crate) fn pod(metadata: &ObjectMeta, gone: bool) -> Self {
        let owner = metadata.owner_references.iter().flatten().next().map(|owner| owner.uid.clone());
        let what = What::Pod(metadata.name.clone().unwrap(), owner.filter(|_| !gone));
        Self { version: version(metadata), what }
    }
}

/// What the ReplicaSets are asked for, from now on.
pub(crate) async fn sizes(cluster: &Cluster) -> JoinHandle<Vec<Seen>> {
    let mut watch = cluster.client.watch::<ReplicaSet>("default", &ListOptions::default(), "").await.unwrap();
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(event) = watch.next().await {
            let (set, gone) = match event.unwrap() {
                WatchEvent::Added(set) | WatchEvent::Modified(set) => (set, false),
                WatchEvent::Deleted(set) => (set, true),
                WatchEvent::Bookmark { .. } => continue,
            };
            if set.metadata.name.as_deref() == Some(THE_END) {
                break;
            }
            let size = set.spec.and_then(|spec| spec.replicas).filter(|_| !gone);
            let what = What::Set(set.metadata.uid.clone().unwrap(), size);
            all.push(Seen { version: version(&set.metadata), what });
        }
        all
    })
}

/// Ends what [`sizes`] began.
pub(crate) async fn end(cluster: &Cluster, sizes: JoinHandle<Vec<Seen>>) -> Vec<Seen> {
    let last = json!({"metadata": {"name": THE_END}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"app": THE_END}}, "template": {"metadata": {"labels": {"app": THE_END}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post(SETS, last).await;
    sizes.await.unwrap()
}

/// All ReplicaSets together are asked for `most` at the most.
pub(crate) fn hold(pods: Vec<Seen>, sets: Vec<Seen>, most: i32) {
    let mut all: Vec<Seen> = pods.into_iter().chain(sets).collect();
    all.sort_by_key(|seen| seen.version);
    let (mut owners, mut asked, mut largest) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for seen in &all {
        match &seen.what {
            What::Set(uid, size) => {
                asked.insert(uid, size.unwrap_or(0));
                let largest = largest.entry(uid).or_insert(0);
                *largest = size.unwrap_or(0).max(*largest);
                let together: i32 = asked.values().sum();
                assert!(together <= most, "{together} Pods were asked for at version {}", seen.version);
            }
            What::Pod(name, None) => drop(owners.remove(name)),
            What::Pod(name, Some(owner)) => {
                owners.insert(name, owner);
                let count = i32::try_from(owners.values().filter(|other| **other == owner).count()).unwrap();
                let allowed = largest.get(owner).copied().unwrap_or(0);
                assert!(count <= allowed, "{count} Pods of one that was asked for {allowed} at the most");
            }
        }
    }
}
