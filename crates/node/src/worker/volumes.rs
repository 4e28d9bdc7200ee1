//! Reading what volumes show, and putting them in place.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use client::{Informer, Object};
use futures_util::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::start::volumes_sources;
use super::{Files, Message, PodWorker, Refresh, claims, lock, tokens};
use crate::container::fields::Facts;
use crate::pod::event::Event;
use crate::pod::spec::spec;
use crate::pod::state::Progress;
use crate::shared::Shared;
use crate::threads::Threads;
use crate::volumes::payload::{self, Projection};
use crate::volumes::plan::claim_name;
use crate::volumes::{self, Plan, PodDirectory, Source, atomic, plan};

/// On volumes that were made for their claim.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// What the Pod shows, each with a reader of its changes, which wakes the worker.
#[derive(Default)]
pub(crate) struct Held {
    outbox: Option<mpsc::Sender<Message>>,
    held: BTreeSet<String>,
    listeners: JoinSet<()>,
}

impl Held {
    pub(super) fn new(outbox: mpsc::Sender<Message>) -> Self {
        Self { outbox: Some(outbox), ..Self::default() }
    }

    /// Hears of the object until the Pod is gone; `seen` is what was just read of it.
    pub(super) fn hold<K: Object>(
        &mut self,
        informer: &Informer<K>,
        namespace: &str,
        name: &str,
        seen: Option<&K>,
    ) {
        let Some(outbox) = self.outbox.clone() else { return };
        if !self.held.insert(format!("{}/{namespace}/{name}", K::KIND)) {
            return;
        }
        let version = |object: &K| object.metadata().resource_version.clone();
        let (mut changes, mut seen) = (informer.subscribe(), seen.and_then(version));
        self.listeners.spawn(async move {
            while let Some(change) = changes.next().await {
                // A reader hears first of what is there, which is no news unless it has changed since.
                let known = seen.take();
                if known.is_some() && known == version(change.object()) {
                    continue;
                }
                if outbox.send(Message::SourceChanged).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl PodWorker {
    pub(super) fn mount_volumes(&mut self) {
        let job = self.job();
        let lost = Event::VolumesFailed { message: "the task that mounts the volumes panicked".into() };
        self.spawn(lost, async move {
            match job.mount_all().await {
                Ok(()) => Event::VolumesMounted,
                Err(message) => Event::VolumesFailed { message },
            }
        });
    }

    /// Writes files anew after a ConfigMap, a Secret, a label or a token has changed.
    pub(super) fn refresh_files(&mut self) {
        if self.state.volumes != Progress::Present
            || lock(&self.files.plans).values().all(|plan| plan.projections.is_empty())
        {
            return;
        }
        if self.refresh != Refresh::Idle {
            self.refresh = Refresh::Again;
            return;
        }
        self.refresh = Refresh::Underway;
        // One at a time, and one more for all changes that come meanwhile: each writing reads what is newest.
        let (job, outbox) = (self.job(), self.outbox.clone());
        self.tasks.spawn(async move {
            if AssertUnwindSafe(job.refresh_all()).catch_unwind().await.is_err() {
                tracing::error!("the task that writes volumes anew panicked");
            }
            let _ = outbox.send(Message::FilesRefreshed).await;
        });
    }

    pub(super) fn files_refreshed(&mut self) {
        if std::mem::replace(&mut self.refresh, Refresh::Idle) == Refresh::Again {
            self.refresh_files();
        }
    }

    fn job(&self) -> Job {
        Job {
            node: Arc::clone(&self.node),
            pod: Arc::clone(&self.state.pod),
            facts: self.node.facts(&self.state.pod, self.state.sandbox.ips()),
            files: Arc::clone(&self.files),
            directory: self.directory.clone(),
            threads: self.threads.clone(),
        }
    }

    pub(super) fn unmount_volumes(&mut self) {
        let (mounts, directory) = (Arc::clone(&self.node.mounts), self.directory.clone());
        let (files, threads) = (Arc::clone(&self.files), self.threads.clone());
        let lost = Event::VolumesUnmounted(Err("the task that unmounts the volumes panicked".into()));
        self.spawn(lost, async move {
            // Taken until all is unmounted: a writing that is under way ends first, and none begins after.
            let mut released = Arc::clone(&files.released).lock_owned().await;
            *released = true;
            let unmounted = threads.run(move || {
                let unmounted = volumes::unmount_all(&*mounts, &directory);
                drop(released);
                unmounted
            });
            let result = unmounted.await.and_then(|done| done);
            if let Err(error) = &result {
                tracing::warn!(%error, "volumes could not be unmounted; trying again");
            }
            Event::VolumesUnmounted(result)
        });
    }
}

/// A volume is a file system or a device, and its containers must mean the same by it.
fn fits_its_use(pod: &Pod, plan: &Plan) -> Result<(), String> {
    let spec = spec(pod);
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let mounted =
        containers().any(|one| one.volume_mounts.iter().flatten().any(|mount| mount.name == plan.name));
    let device =
        containers().any(|one| one.volume_devices.iter().flatten().any(|device| device.name == plan.name));
    let (name, block) = (&plan.name, matches!(plan.source, Source::Block { .. }));
    if block && mounted {
        return Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts"));
    }
    if !block && device {
        return Err(format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices"));
    }
    Ok(())
}

/// One mounting.
struct Job {
    node: Arc<Shared>,
    pod: Arc<Pod>,
    facts: Facts,
    files: Arc<Files>,
    directory: PodDirectory,
    threads: Threads,
}

impl Job {
    async fn refresh_all(&self) {
        let released = Arc::clone(&self.files.released).lock_owned().await;
        if *released {
            return;
        }
        let plans: Vec<Plan> = lock(&self.files.plans).values().cloned().collect();
        for plan in plans.into_iter().filter(|plan| !plan.projections.is_empty()) {
            // The containers run with the old contents, and the next change or the next token tries again.
            if let Err(error) = self.mount_one(plan).await {
                tracing::warn!(%error, "a volume keeps its old contents");
            }
        }
    }

    async fn mount_all(&self) -> Result<(), String> {
        for volume in spec(&self.pod).volumes.iter().flatten() {
            let setup =
                |cause: String| format!("MountVolume.SetUp failed for volume {:?} : {cause}", volume.name);
            let claimed = self.claimed(volume).await;
            let plan = plan(&self.pod, volume, claimed).map_err(setup)?;
            let mapping = |cause: String| match plan.source {
                Source::Block { .. } => {
                    format!("MapVolume.MapPodDevice failed for volume {:?} : {cause}", volume.name)
                }
                _ => setup(cause),
            };
            fits_its_use(&self.pod, &plan).map_err(mapping)?;
            self.mount_one(plan.clone()).await.map_err(mapping)?;
            // Only what is in place has a plan: containers find their volumes by it.
            lock(&self.files.plans).insert(volume.name.clone(), plan);
        }
        Ok(())
    }

    async fn mount_one(&self, plan: Plan) -> Result<(), String> {
        let files = match plan.source {
            Source::Files { .. } => Some(self.contents(&plan).await?),
            _ => None,
        };
        let (mounts, directory, pod) =
            (Arc::clone(&self.node.mounts), self.directory.clone(), Arc::clone(&self.pod));
        // Nanoseconds make it differ from the last; the form is the kubelet's.
        let stamp = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
        let mount = move || volumes::mount(&*mounts, &directory, &pod, &plan, files.as_ref(), &stamp);
        self.threads.run(mount).await?
    }

    async fn contents(&self, plan: &Plan) -> Result<atomic::Files, String> {
        let needs = plan.needs();
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let sources =
            volumes_sources(&self.node, &self.files, namespace, &needs.config_maps, &needs.secrets).await;
        // Asked of the API only when the one that is held is old: a token is a request and a signature.
        let mut tokens = BTreeMap::new();
        for projection in &plan.projections {
            let Projection::Token { source, .. } = projection else { continue };
            let known = lock(&self.files.tokens).fresh(source, Timestamp::now());
            let token = match known {
                Some(token) => token,
                None => {
                    let (token, renew_at) = tokens::fetch(&self.node, &self.pod, source).await?;
                    lock(&self.files.tokens).keep(source, token.clone(), renew_at);
                    token
                }
            };
            tokens.insert(source.path.clone(), token);
        }
        payload::files(&self.pod, &self.facts, &plan.projections, &sources, &tokens)
    }

    /// What the volume's claim is bound to; `None`: the volume is not a claim.
    async fn claimed(&self, volume: &Volume) -> Option<Result<Source, String>> {
        let name = claim_name(&self.pod, volume)?;
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let bound = self.bound(namespace, &name, volume.ephemeral.is_some()).await;
        let bound = bound.map_err(|cause| format!("error processing PVC {namespace}/{name}: {cause}"));
        Some(bound.and_then(|(source, users)| {
            let free = users == Users::Many || self.takes_alone(&name);
            if free { Ok(source) } else { Err(claims::IN_USE.into()) }
        }))
    }

    fn takes_alone(&self, claim: &str) -> bool {
        let workers = self.node.workers();
        let running = workers.values().filter(|worker| worker.takes_room());
        let running: Vec<Arc<Pod>> = running.map(|worker| Arc::clone(&worker.pod)).collect();
        self.node.claims.take(claim, &self.pod, &running)
    }

    async fn bound(&self, namespace: &str, name: &str, own: bool) -> Result<(Source, Users), String> {
        // Asked of the API, not of a cache: the scheduler bound the Pod after the claim, so it is bound there.
        let claim: PersistentVolumeClaim = self
            .node
            .client
            .get(namespace, name)
            .await
            .map_err(|err| format!("failed to fetch PVC from API server: {err}"))?;
        let owners = claim.metadata.owner_references.iter().flatten();
        if own && !{ owners }.any(|owner| Some(&owner.uid) == self.pod.metadata.uid.as_ref()) {
            let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
            return Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
            ));
        }
        let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty());
        let volume = volume.ok_or("PVC is not bound")?;
        let volume: PersistentVolume = self
            .node
            .client
            .get("", &volume)
            .await
            .map_err(|err| format!("failed to fetch PV {volume:?}: {err}"))?;
        let spec = volume.spec.unwrap_or_default();
        let users = users(spec.access_modes.as_deref().unwrap_or_default());
        if spec.volume_mode.as_deref() == Some("Block") {
            let local = spec.local.ok_or("no block volume plugin matched")?;
            return Ok((Source::Block { path: local.path.into() }, users));
        }
        if let Some(path) = spec.host_path {
            let (named, kind) = (path.path.clone(), path.type_.clone().unwrap_or_default());
            self.threads.run(move || volumes::host_path::check(named.as_ref(), &kind)).await??;
            // A directory made for the claim is the Pod's; any other of the host is the admin's.
            let provisioned = volume.metadata.annotations.as_ref();
            let grouped = provisioned.is_some_and(|all| all.contains_key(PROVISIONED_BY));
            let plugin = "kubernetes.io/host-path";
            return Ok((Source::Claimed { path: path.path.into(), plugin, grouped }, users));
        }
        if let Some(local) = spec.local {
            let plugin = "kubernetes.io/local-volume";
            return Ok((Source::Claimed { path: local.path.into(), plugin, grouped: true }, users));
        }
        Err("the volume is of a kind that this node cannot mount".into())
    }
}

/// Who may use a volume at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    One,
    Many,
}

/// With several modes nobody knows which of them a Pod means.
fn users(modes: &[String]) -> Users {
    if modes == ["ReadWriteOncePod"] { Users::One } else { Users::Many }
}
