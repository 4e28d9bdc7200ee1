//! What the API shows of static Pods: a Pod of the same name for each, which changes nothing here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Changes, DeleteOptions, Informer};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::sync::watch as latest;

use super::Wanted;
use crate::pod::spec::{self, HASH, MIRROR};
use crate::shared::Shared;
use crate::worker::Message;

/// Pause after the API did not do what it was asked for.
const PAUSE: Duration = Duration::from_secs(5);

/// A Pod's namespace and name.
type Name = (String, String);

/// Whether a Pod of the API only shows one of a file.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    spec::annotation(pod, MIRROR).is_some()
}

/// The mirror of a static Pod among the Pods of the API, if it shows this very content.
pub(crate) fn of(pods: &Informer<Pod>, pod: &Pod) -> Option<Arc<Pod>> {
    let (namespace, name) = spec::name(pod);
    pods.get(namespace, name).filter(|mirror| shows(mirror, pod))
}

fn shows(mirror: &Pod, pod: &Pod) -> bool {
    spec::annotation(mirror, MIRROR).is_some_and(|hash| spec::annotation(pod, HASH) == Some(hash))
}

/// Keeps the mirrors for ever.
pub(crate) async fn keep(shared: Arc<Shared>, pods: Informer<Pod>, mut wanted: latest::Receiver<Wanted>) {
    // Before these are known everything would look superfluous, or missing. An error: the node is going down.
    if wanted.wait_for(Option::is_some).await.is_err() {
        return;
    }
    pods.synced().await;
    shared.nodes.synced().await;
    let (mut changes, mut nodes) = (pods.subscribe(), shared.nodes.subscribe());
    loop {
        let known = wanted.borrow_and_update().clone().unwrap_or_default();
        let done = reconcile(&shared, &pods, &known).await;
        let pause = async {
            match done {
                true => std::future::pending().await,
                false => tokio::time::sleep(PAUSE).await,
            }
        };
        // Cancel-safe: what is lost is only that something has changed, and everything is looked at.
        tokio::select! {
            change = next_mirror(&mut changes) => if change.is_none() { return },
            node = nodes.next() => if node.is_none() { return },
            new = wanted.changed() => if new.is_err() { return },
            () = shared.statics.notified() => {}
            () = pause => {}
        }
    }
}

/// Waits for a change of a mirror. Cancel-safe: those of other Pods are nobody's loss.
async fn next_mirror(changes: &mut Changes<Pod>) -> Option<()> {
    loop {
        if is_mirror(changes.next().await?.object()) {
            return Some(());
        }
    }
}

/// One round; false: something could not be done.
async fn reconcile(shared: &Shared, pods: &Informer<Pod>, wanted: &[Arc<Pod>]) -> bool {
    let running: Vec<Arc<Pod>> = {
        let workers = shared.workers();
        workers.values().map(|worker| Arc::clone(&worker.pod)).filter(|pod| spec::is_static(pod)).collect()
    };
    let mirrors = pods.list().into_iter().filter(|pod| is_mirror(pod)).collect();
    let plan = plan(&running, wanted, mirrors);
    for (uid, mirror) in plan.shown {
        link(shared, &uid, mirror).await;
    }
    let mut done = true;
    for mirror in plan.superfluous {
        done &= delete(shared, &mirror).await;
    }
    let Some(node) = shared.nodes.get("", &shared.config.node_name) else { return done };
    if node.metadata.deletion_timestamp.is_none() {
        for pod in plan.missing {
            done &= create(shared, &pod, &node).await;
        }
    }
    done
}

/// What is to be done about mirrors.
#[derive(Default)]
struct Plan {
    /// By the UID of the static Pod.
    shown: Vec<(String, Arc<Pod>)>,
    superfluous: Vec<Arc<Pod>>,
    missing: Vec<Arc<Pod>>,
}

/// Decides, as upstream's `tryReconcileMirrorPods` and `deleteOrphanedMirrorPods` together.
fn plan(running: &[Arc<Pod>], wanted: &[Arc<Pod>], mirrors: Vec<Arc<Pod>>) -> Plan {
    let named = |pods: &[Arc<Pod>]| -> BTreeMap<Name, Arc<Pod>> {
        pods.iter().map(|pod| (owned(spec::name(pod)), Arc::clone(pod))).collect()
    };
    let (mut plan, mut missing, wanted) = (Plan::default(), named(running), named(wanted));
    // One that is on its way out is shown as long as it is there, and not anew.
    missing.retain(|name, pod| wanted.get(name).is_some_and(|one| one.metadata.uid == pod.metadata.uid));
    let running = named(running);
    for mirror in mirrors {
        let name = owned(spec::name(&mirror));
        let going = mirror.metadata.deletion_timestamp.is_some();
        match running.get(&name) {
            Some(pod) if shows(&mirror, pod) && !going => {
                missing.remove(&name);
                plan.shown.push((pod.metadata.uid.clone().unwrap_or_default(), mirror));
            }
            // Deleted by hand, or of another content: another takes its place.
            Some(_) if missing.contains_key(&name) => plan.superfluous.push(mirror),
            Some(_) => {}
            // Its Pod is about to begin.
            None if wanted.contains_key(&name) => {}
            None => plan.superfluous.push(mirror),
        }
    }
    plan.missing = missing.into_values().collect();
    plan
}

fn owned((namespace, name): (&str, &str)) -> Name {
    (namespace.to_owned(), name.to_owned())
}

/// Tells a worker where its status is to go.
async fn link(shared: &Shared, uid: &str, mirror: Arc<Pod>) {
    let inbox = {
        let mut workers = shared.workers();
        let Some(worker) = workers.get_mut(uid) else { return };
        if worker.mirror == mirror.metadata.uid {
            return;
        }
        worker.mirror.clone_from(&mirror.metadata.uid);
        worker.inbox.clone()
    };
    // A closed inbox means that the Pod is gone.
    let _ = inbox.send(Message::Mirrored(mirror)).await;
}

async fn create(shared: &Shared, pod: &Pod, node: &Node) -> bool {
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(MIRROR.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: shared.config.node_name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    let (namespace, name) = spec::name(pod);
    match shared.client.create(namespace, &mirror).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(namespace, name, %error, "a static Pod cannot be shown in the API");
            false
        }
    }
}

async fn delete(shared: &Shared, mirror: &Pod) -> bool {
    let (namespace, name) = spec::name(mirror);
    let uid = mirror.metadata.uid.as_deref().unwrap_or_default();
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
    match shared.client.delete::<Pod>(namespace, name, &options).await {
        Ok(()) => true,
        Err(error) if error.is_not_found() || error.is_conflict() => true,
        Err(error) => {
            tracing::warn!(namespace, name, %error, "what shows a static Pod in the API cannot be deleted");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str, annotations: serde_json::Value) -> Arc<Pod> {
        let metadata = json!({"namespace": "d", "name": name, "uid": uid, "annotations": annotations});
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    fn of_file(name: &str, hash: &str) -> Arc<Pod> {
        pod(name, hash, json!({"kubernetes.io/config.source": "file", HASH: hash}))
    }

    fn mirror(name: &str, uid: &str, hash: &str) -> Arc<Pod> {
        pod(name, uid, json!({HASH: hash, MIRROR: hash}))
    }

    fn deleted(mirror: &Pod) -> Arc<Pod> {
        let mut pod = serde_json::to_value(mirror).unwrap();
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Shown, superfluous and missing, by UID.
    fn planned(running: Vec<Arc<Pod>>, wanted: Vec<Arc<Pod>>, mirrors: Vec<Arc<Pod>>) -> [Vec<String>; 3] {
        let plan = plan(&running, &wanted, mirrors);
        let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap();
        let shown = plan.shown.iter().map(|(of, mirror)| format!("{of} by {}", uid(mirror)));
        let of = |pods: &[Arc<Pod>]| pods.iter().map(uid).collect();
        [shown.collect(), of(&plan.superfluous), of(&plan.missing)]
    }

    fn expect(plan: [Vec<String>; 3], shown: &[&str], superfluous: &[&str], missing: &[&str]) {
        assert_eq!(
            plan.each_ref().map(|list| list.iter().map(String::as_str).collect::<Vec<_>>()),
            [shown.to_vec(), superfluous.to_vec(), missing.to_vec()]
        );
    }

    #[test]
    fn each_static_pod_has_one_mirror_of_its_content() {
        let all = || vec![of_file("web", "h2")];
        let old = || vec![of_file("web", "h1")];
        let (right, stale) = (mirror("web", "m1", "h2"), mirror("web", "m1", "h1"));
        let stale = || vec![Arc::clone(&stale)];
        expect(planned(all(), all(), vec![]), &[], &[], &["h2"]);
        expect(planned(all(), all(), vec![Arc::clone(&right)]), &["h2 by m1"], &[], &[]);
        // Deleted by hand: it makes room, and another comes. Or it is of the content before.
        expect(planned(all(), all(), vec![deleted(&right)]), &[], &["m1"], &["h2"]);
        expect(planned(all(), all(), stale()), &[], &["m1"], &["h2"]);
        // As long as the old one goes it is shown, and nothing is made.
        expect(planned(old(), all(), stale()), &["h1 by m1"], &[], &[]);
        expect(planned(old(), vec![], vec![deleted(&stale()[0])]), &[], &[], &[]);
        // Between the two, and at the very end.
        expect(planned(vec![], all(), stale()), &[], &[], &[]);
        expect(planned(vec![], vec![], stale()), &[], &["m1"], &[]);
    }
}
