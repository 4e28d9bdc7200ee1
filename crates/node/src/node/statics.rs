//! Giving the Pods of the node's own files their workers.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use runtime::SandboxSnapshot;
use tokio::sync::watch;

use super::Dispatcher;
use crate::manifests::{Wanted, mirror};
use crate::pod::event::Event;
use crate::pod::spec;
use crate::worker::Message;

/// Static Pods: those that there are to be, and those that have begun.
pub(super) struct Statics {
    wanted: watch::Receiver<Wanted>,
    /// By UID, as their files had them.
    begun: HashMap<String, Arc<Pod>>,
}

impl Statics {
    pub(super) fn new(wanted: watch::Receiver<Wanted>) -> Self {
        Self { wanted, begun: HashMap::new() }
    }

    /// Whether the files have been read.
    pub(super) fn are_known(&self) -> bool {
        self.wanted.borrow().is_some()
    }

    /// Returns when the files want something else. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            // Who reads them has ended, and the node is about to.
            std::future::pending().await
        }
    }

    pub(super) fn begun(&self, uid: &str) -> Option<Arc<Pod>> {
        self.begun.get(uid).cloned()
    }

    /// Its worker has ended.
    pub(super) fn gone(&mut self, uid: &str) {
        self.begun.remove(uid);
    }

    /// All that are wanted, begun or not.
    pub(super) fn uids(&self) -> Vec<String> {
        let wanted = self.wanted.borrow();
        wanted.iter().flat_map(|pods| pods.iter()).filter_map(|pod| pod.metadata.uid.clone()).collect()
    }
}

/// What is being removed because nobody wants it.
pub(super) struct Orphan {
    pub(super) uid: String,
    /// Namespaces and names it had.
    names: Vec<(String, String)>,
}

impl Orphan {
    pub(super) fn of(uid: &str, sandboxes: &[SandboxSnapshot]) -> Self {
        let name = |one: &SandboxSnapshot| (one.sandbox.pod.namespace.clone(), one.sandbox.pod.name.clone());
        Self { uid: uid.to_owned(), names: sandboxes.iter().map(name).collect() }
    }
}

impl Dispatcher {
    /// Brings the workers in line with the files: what is not wanted any more ends, and what is wanted begins
    /// once nothing else of its name is left.
    pub(super) async fn settle_statics(&mut self) {
        self.claim();
        let Some(wanted) = self.statics.wanted.borrow_and_update().clone() else { return };
        if wanted.is_empty() && self.statics.begun.is_empty() {
            return;
        }
        let outdated = self.statics.begun.iter();
        let outdated = outdated.filter(|(_, pod)| !wanted.iter().any(|one| Arc::ptr_eq(one, pod)));
        let outdated: Vec<String> = outdated.map(|(uid, _)| uid.clone()).collect();
        for uid in outdated {
            self.statics.begun.remove(&uid);
            self.pending.remove(&uid);
            self.send(&uid, Message::Event(Event::PodRemoved { grace_period_seconds: None })).await;
        }
        for pod in wanted.iter() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if self.statics.begun.contains_key(&uid) || self.is_taken(&uid, pod) {
                continue;
            }
            self.statics.begun.insert(uid.clone(), Arc::clone(pod));
            self.take_up(self.as_shown(pod), &uid).await;
        }
        self.shared.statics.notify_one();
    }

    /// A static Pod with the status that the API shows of it: its restarts and its start outlive the daemon.
    pub(super) fn as_shown(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let Some(mirror) = mirror::of(&self.pods, pod) else { return Arc::clone(pod) };
        let mut pod = Pod::clone(pod);
        pod.status.clone_from(&mirror.status);
        Arc::new(pod)
    }

    /// Whether something of the Pod's name, or of its UID, is still on the node: they would share names and
    /// ports, and upstream has one begin after the other, too.
    fn is_taken(&self, uid: &str, pod: &Pod) -> bool {
        let name = spec::name(pod);
        let workers = self.shared.workers();
        let worker = workers.contains_key(uid)
            || workers.values().any(|one| spec::is_static(&one.pod) && spec::name(&one.pod) == name);
        let orphan = self.orphans.values().any(|one| {
            one.uid == uid || one.names.iter().any(|(namespace, own)| (&**namespace, &**own) == name)
        });
        // Whose it is only the API can tell: with its answer it becomes one of the others.
        let unclaimed = self.unclaimed.iter().flatten().map(|one| &one.sandbox.pod);
        let unclaimed = unclaimed.filter(|one| one.uid != uid && !workers.contains_key(&one.uid));
        worker || orphan || unclaimed.into_iter().any(|one| (&*one.namespace, &*one.name) == name)
    }
}
