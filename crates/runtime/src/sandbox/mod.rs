//! A sandbox: what the containers of a Pod share, and the shim that holds it.

pub(crate) mod adopt;
pub(crate) mod branches;
pub(crate) mod forward;
pub(crate) mod hold;
pub(crate) mod image_volume;
pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod update;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use shim::protocol::{ContainerState, Event as ShimEvent, ExecState, Nanoseconds};
use tokio::sync::{oneshot, watch};

use crate::clock::timestamp;
use crate::container::{Container, Life};
use crate::events::Events;
use crate::interface::{Error, Event, NamespaceMode, Resources, SandboxConfig, SandboxStatus};
use crate::layout::{read_json, remove_directory};
use crate::link::{Link, Listener};
use crate::peer::Peer;

/// How long a caller waits for a lost connection to be made again.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// What is on disk about a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: SandboxConfig,
    /// Its addresses, one of a family; none with the node's network. Written before they are used: the file is
    /// the reservation.
    #[serde(default, alias = "address", deserialize_with = "one_or_many")]
    pub(crate) addresses: Vec<IpAddr>,
    /// It has ended, and the addresses may be another's. They are still told as those that it had.
    #[serde(default)]
    pub(crate) released: bool,
    pub(crate) created_at: Nanoseconds,
}

/// Releases before this one wrote one address, or null.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Many(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::Many(addresses) => addresses,
        Form::One(address) => address.into_iter().collect(),
    })
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is known of its shim yet.
    New,
    /// Its shim lives.
    Ready,
    /// It is being stopped by us: the end of its shim is no news.
    Stopping,
    /// Its shim is gone.
    NotReady,
}

/// A sandbox of this node.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) record: SandboxRecord,
    pub(crate) directory: PathBuf,
    phase: watch::Sender<Phase>,
    link: watch::Sender<Option<Arc<Link>>>,
    /// The shim, whose namespaces are the sandbox's.
    peer: Mutex<Option<Arc<Peer>>>,
    /// A shim has said what it knows.
    observed: AtomicBool,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    execs: Mutex<HashMap<String, oneshot::Sender<i32>>>,
    /// Limits of its own group and the CPU it asks for, which may change while it runs.
    limits: Mutex<(Resources, u64)>,
    /// Shim, cgroups and mounts are gone, for good: a sandbox does not come back.
    taken_down: AtomicBool,
    /// Its addresses have been given back.
    released: AtomicBool,
    events: Arc<Events>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord, directory: PathBuf, events: Arc<Events>) -> Arc<Self> {
        Arc::new(Sandbox {
            released: AtomicBool::new(record.released),
            limits: Mutex::new((record.config.resources.clone(), record.config.cpu_request)),
            record,
            directory,
            phase: watch::Sender::new(Phase::New),
            link: watch::Sender::new(None),
            peer: Mutex::default(),
            observed: AtomicBool::new(false),
            containers: Mutex::default(),
            execs: Mutex::default(),
            taken_down: AtomicBool::new(false),
            events,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// As it is to stand on disk now.
    pub(crate) fn current_record(&self) -> SandboxRecord {
        let mut record = self.record.clone();
        (record.config.resources, record.config.cpu_request) = locked(&self.limits).clone();
        record.released = self.released.load(Ordering::Acquire);
        record
    }

    pub(crate) fn set_limits(&self, resources: Resources, cpu_request: u64) {
        *locked(&self.limits) = (resources, cpu_request);
    }

    pub(crate) fn pod_uid(&self) -> &str {
        &self.record.config.pod.uid
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    pub(crate) fn has_own_network(&self) -> bool {
        self.record.config.network != NamespaceMode::Node
    }

    /// What `hostname` says in it.
    pub(crate) fn hostname(&self) -> String {
        if self.has_own_network() {
            return self.record.config.hostname.clone();
        }
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    /// The connection to its shim; an error when there is none, or none now.
    pub(crate) fn link(&self) -> Result<Arc<Link>, Error> {
        self.link.borrow().clone().ok_or_else(|| {
            let why = if self.is_ready() { "its shim does not answer" } else { "its shim is gone" };
            Error::host(format!("sandbox {:?} is not running", self.id()), why)
        })
    }

    /// Waits until a lost connection has been made again, or is of no use, and not for long.
    pub(crate) async fn reconnected(&self) {
        let (mut link, mut phase) = (self.link.subscribe(), self.phase.subscribe());
        let again = async {
            // Cancel-safe: both only look. The senders live in `self`, so the channels cannot close.
            tokio::select! {
                _ = link.wait_for(Option::is_some) => {}
                _ = phase.wait_for(|phase| *phase == Phase::NotReady) => {}
            }
        };
        let _ = tokio::time::timeout(RECONNECT_PATIENCE, again).await;
    }

    /// Its shim's process, if there was one.
    pub(crate) fn peer(&self) -> Option<Arc<Peer>> {
        locked(&self.peer).clone()
    }

    /// A process says that it is its shim; false when it is another than the one known.
    pub(crate) fn meet(&self, peer: Peer) -> bool {
        let mut known = locked(&self.peer);
        let same = known.as_ref().is_none_or(|known| known.pid() == peer.pid() && !known.has_ended());
        if known.is_none() {
            *known = Some(Arc::new(peer));
        }
        same
    }

    /// Waits for the end of its shim's process; for ever when none is known.
    pub(crate) async fn peer_ended(&self) {
        match self.peer() {
            Some(peer) => peer.ended().await,
            None => std::future::pending().await,
        }
    }

    /// There is a shim that can be spoken to.
    pub(crate) fn attach(&self, link: Arc<Link>) {
        self.link.send_replace(Some(link));
    }

    /// The connection is gone; the shim need not be.
    pub(crate) fn lose_connection(&self) {
        self.link.send_replace(None);
    }

    /// Its shim has answered and all of it is in place. Not when it is being stopped.
    pub(crate) fn become_ready(&self) {
        self.phase.send_if_modified(|phase| {
            let new = *phase == Phase::New;
            if new {
                *phase = Phase::Ready;
            }
            new
        });
    }

    /// Waits until it is known whether it has a shim.
    pub(crate) async fn settled(&self) -> Phase {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`, so the channel cannot close before.
        phase.wait_for(|phase| *phase != Phase::New).await.map_or(Phase::NotReady, |phase| *phase)
    }

    /// Its shim lives and does not say anything: what it wrote down last is taken for what is.
    pub(crate) fn trust_records(&self) {
        if !self.observed.load(Ordering::Acquire) {
            for state in shim::read_states(&self.directory).unwrap_or_default() {
                if let Some(container) = self.container(&state.id) {
                    container.life.send_replace(Life::of(&state));
                }
            }
        }
        self.become_ready();
    }

    /// Nothing of it is left but files.
    pub(crate) fn is_taken_down(&self) -> bool {
        self.taken_down.load(Ordering::Acquire)
    }

    /// Its shim, cgroups and mounts have been removed.
    pub(crate) fn note_taken_down(&self) {
        self.taken_down.store(true, Ordering::Release);
    }

    /// The addresses that are to be given back now: each once, as another sandbox may have them afterwards.
    pub(crate) fn release(&self) -> &[IpAddr] {
        if self.released.swap(true, Ordering::AcqRel) { &[] } else { &self.record.addresses }
    }

    /// We are about to end it; false when it is not running.
    pub(crate) fn begin_to_stop(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            let ready = *phase == Phase::Ready;
            if ready {
                *phase = Phase::Stopping;
            }
            ready
        })
    }

    /// Waits until the end of the shim has been noticed.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`, so the channel cannot close before.
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::NotReady).await;
    }

    pub(crate) fn container_directory(&self, id: &str) -> PathBuf {
        self.directory.join("containers").join(id)
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        locked(&self.containers).values().cloned().collect()
    }

    pub(crate) fn container(&self, id: &str) -> Option<Arc<Container>> {
        locked(&self.containers).get(id).cloned()
    }

    pub(crate) fn find(&self, name: &str, attempt: u32) -> Option<Arc<Container>> {
        let same = |c: &&Arc<Container>| c.record.config.name == name && c.record.config.attempt == attempt;
        locked(&self.containers).values().find(same).cloned()
    }

    pub(crate) fn add(&self, container: Arc<Container>) {
        locked(&self.containers).insert(container.id().to_owned(), container);
    }

    pub(crate) fn forget(&self, id: &str) {
        locked(&self.containers).remove(id);
    }

    /// The exit code of an exec that is about to be asked for.
    pub(crate) fn expect_exec(&self, id: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        locked(&self.execs).insert(id.to_owned(), sender);
        receiver
    }

    pub(crate) fn forget_exec(&self, id: &str) {
        locked(&self.execs).remove(id);
    }

    /// Takes over what the shim says of its containers and commands. Gives those that only it knows.
    ///
    /// What the shim has told since it said this may have been heard before: an end stays one.
    pub(crate) fn observe(&self, states: &[ContainerState], execs: &[ExecState]) -> Vec<String> {
        let first = !self.observed.swap(true, Ordering::AcqRel) && *self.phase.borrow() == Phase::New;
        for container in self.containers() {
            match states.iter().find(|state| state.id == container.id()) {
                _ if container.is_over() => {}
                Some(ContainerState { started_at, exit: Some(exit), .. }) if !first => {
                    container.life.send_modify(|life| life.started_at = *started_at);
                    container.end(exit.clone());
                    self.tell_exit(container.id());
                }
                Some(state) => drop(container.life.send_replace(Life::of(state))),
                // A daemon was killed before the shim heard of it, or after it had forgotten it.
                None if first => self.drop_unmade(&container),
                None => {
                    container.lose();
                    self.tell_exit(container.id());
                }
            }
        }
        // Who waits for one that has ended meanwhile learns that its code is lost.
        locked(&self.execs).retain(|id, _| execs.iter().any(|exec| exec.id == *id));
        let unknown = states.iter().filter(|state| self.container(&state.id).is_none());
        unknown.map(|state| state.id.clone()).collect()
    }

    /// Removes the files of a container that no shim knows; its lease ends with the stale ones.
    fn drop_unmade(&self, container: &Container) {
        self.forget(container.id());
        if let Err(error) = remove_directory(&container.directory) {
            tracing::warn!(%error, "cannot remove a container that was not made");
        }
    }

    /// The shim is gone: what it wrote down last is what there is to know.
    pub(crate) fn read_last_words(&self) {
        for container in self.containers() {
            if container.is_over() {
                continue;
            }
            let file = self.directory.join(format!("{}.state", container.id()));
            let exit = read_json::<ContainerState>(&file).and_then(|state| {
                container.life.send_modify(|life| life.started_at = state.started_at);
                state.exit
            });
            let ended = match exit {
                Some(exit) => container.end(exit),
                None => container.lose(),
            };
            if ended {
                self.tell_exit(container.id());
            }
        }
    }

    fn tell_exit(&self, container: &str) {
        self.events.put(Event::ContainerExited {
            pod_uid: self.pod_uid().to_owned(),
            container_id: container.to_owned(),
        });
    }

    /// Its shim is dead.
    pub(crate) fn close(&self) {
        self.lose_connection();
        locked(&self.execs).clear();
        self.read_last_words();
        let before = self.phase.send_replace(Phase::NotReady);
        if before == Phase::Ready {
            let pod = &self.record.config.pod;
            tracing::warn!(pod = format!("{}/{}", pod.namespace, pod.name), "the shim of a sandbox has died");
            self.events.put(Event::SandboxDied {
                pod_uid: self.pod_uid().to_owned(),
                sandbox_id: self.id().to_owned(),
            });
        }
    }

    pub(crate) fn status(&self) -> SandboxStatus {
        let config = &self.record.config;
        SandboxStatus {
            id: self.record.id.clone(),
            pod: config.pod.clone(),
            ready: self.is_ready(),
            ips: self.record.addresses.clone(),
            created_at: timestamp(self.record.created_at).unwrap_or_default(),
            resources: locked(&self.limits).0.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }
    }
}

impl Listener for Sandbox {
    fn event(&self, event: ShimEvent) {
        match event {
            ShimEvent::ContainerExited { id, exit } => {
                let Some(container) = self.container(&id) else { return };
                if container.end(exit) {
                    self.tell_exit(&id);
                }
            }
            // Told with the exit: a kill of one process of several need not end the container.
            ShimEvent::ContainerOom { id } => {
                let (pod, container) = (&self.record.config.pod, self.container(&id));
                let container = container.map_or(id, |container| container.record.config.name.clone());
                let pod = format!("{}/{}", pod.namespace, pod.name);
                tracing::info!(pod, container, "a process was killed for memory");
            }
            ShimEvent::ExecExited { id, code, .. } => {
                if let Some(waiter) = locked(&self.execs).remove(&id) {
                    // Whoever ran it may have left.
                    let _ = waiter.send(code);
                }
            }
        }
    }
}

/// Name of a sandbox's own file.
pub(crate) fn record_file(directory: &Path) -> PathBuf {
    directory.join("config.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_releases_with_one_address_are_read() {
        #[derive(Deserialize)]
        struct Addressed {
            #[serde(default, alias = "address", deserialize_with = "one_or_many")]
            addresses: Vec<IpAddr>,
        }
        let read = |text: &str| serde_json::from_str::<Addressed>(text).unwrap().addresses;
        let one: IpAddr = "10.42.0.7".parse().unwrap();
        assert_eq!(read(r#"{"address": "10.42.0.7"}"#), [one]);
        assert_eq!(read(r#"{"addresses": ["10.42.0.7", "fd00::7"]}"#), [one, "fd00::7".parse().unwrap()]);
        assert_eq!((read(r#"{"address": null}"#), read("{}")), (vec![], vec![]));
    }
}
