//! What is left of Pods that nobody knows: their sandboxes, logs and directories are taken down.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use runtime::SandboxSnapshot;

use super::Dispatcher;
use super::statics::Orphan;
use crate::container::config::log_directory;
use crate::shared::Shared;
use crate::volumes::{self, PodDirectory};
use crate::worker::remove_logs;

impl Dispatcher {
    /// Pods that have left a directory.
    pub(super) fn directories(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.shared.config.pods_directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Takes down what no Pod of the API or of a file owns.
    pub(super) fn remove_orphans(&mut self, found: Vec<SandboxSnapshot>, directories: &[String]) {
        let mut known: BTreeSet<String> =
            self.pods.list().iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        known.extend(self.shared.workers().keys().cloned());
        known.extend(self.orphans.values().map(|orphan| orphan.uid.clone()));
        known.extend(self.statics.uids());
        let mut orphans: HashMap<String, Vec<SandboxSnapshot>> =
            directories.iter().map(|uid| (uid.clone(), Vec::new())).collect();
        for one in found {
            orphans.entry(one.sandbox.pod.uid.clone()).or_default().push(one);
        }
        for (uid, sandboxes) in orphans.into_iter().filter(|(uid, _)| !known.contains(uid)) {
            let orphan = Orphan::of(&uid, &sandboxes);
            let task = self.workers.spawn(remove_orphan(Arc::clone(&self.shared), uid, sandboxes));
            self.orphans.insert(task.id(), orphan);
        }
    }
}

async fn remove_orphan(shared: Arc<Shared>, uid: String, sandboxes: Vec<SandboxSnapshot>) {
    tracing::info!(%uid, "removing a Pod that the API does not know");
    let mut logs = Vec::new();
    for SandboxSnapshot { sandbox, .. } in sandboxes {
        let stopped = shared.runtime.stop_sandbox(&sandbox.id).await;
        if let Err(error) = stopped.and(shared.runtime.remove_sandbox(&sandbox.id).await) {
            tracing::warn!(%uid, %error, "an orphaned sandbox could not be removed; it is tried again at the next audit");
            return;
        }
        let mut pod = Pod::default();
        pod.metadata.name = Some(sandbox.pod.name);
        pod.metadata.namespace = Some(sandbox.pod.namespace);
        pod.metadata.uid = Some(sandbox.pod.uid);
        logs.push(log_directory(&shared.config.logs_directory, &pod));
    }
    let files = move || {
        let directory = PodDirectory::new(&shared.config.pods_directory, &uid);
        let links = shared.config.log_links_directory.as_deref();
        logs.iter().try_for_each(|logs| remove_logs(logs, links))?;
        volumes::remove_directory(&*shared.mounts, &directory)
    };
    match runtime::on_own_thread((), files).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "files of an orphaned Pod could not be removed"),
        Err(error) => tracing::warn!(%error, "files of an orphaned Pod could not be removed"),
    }
}
