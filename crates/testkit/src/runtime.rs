//! A container runtime made of maps: containers run until the test ends them.
//!
//! Creating, starting and stopping answer at once; a container ends when the test says so,
//! or when it is stopped. Logs are real files in CRI format, so that readers can be tested.
//! It does not run programs: `exec_sync` answers what the test has put there, `exec`,
//! `attach` and `port_forward` say that they are not available.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use runtime::{
    AttachOptions, Collected, Collection, ContainerConfig, ContainerState, ContainerStats, ContainerStatus,
    Credentials, DiskUse, Error, Event, ExecOptions, ExecOutput, Image, Measured, MemoryUse, PodsMemory,
    Resources, Runtime, SandboxConfig, SandboxSnapshot, SandboxStatus, SandboxUpdate, Streams, Traffic,
};
use tokio::sync::{mpsc, watch};

/// Events that wait for their reader.
const EVENTS: usize = 1024;

/// The runtime.
#[derive(Debug)]
pub struct FakeRuntime {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    images: BTreeMap<String, Image>,
    exec: HashMap<Vec<String>, ExecOutput>,
    events: Option<mpsc::Sender<Event>>,
    calls: Vec<String>,
    /// Calls of these names fail, or panic, so many times.
    failing: HashMap<&'static str, u32>,
    panicking: HashMap<&'static str, u32>,
    /// Memory in use by the names of containers.
    memory: HashMap<String, u64>,
    count: u32,
}

impl Inner {
    /// Panics if the test has asked for it.
    fn panics(&mut self, call: &str) {
        if let Some(left) = self.panicking.get_mut(call).filter(|left| **left > 0) {
            *left -= 1;
            panic!("{call} panics, as the test wants it");
        }
    }
}

#[derive(Clone, Debug)]
struct Sandbox {
    status: SandboxStatus,
    logs: PathBuf,
}

#[derive(Clone, Debug)]
struct Container {
    status: ContainerStatus,
    config: ContainerConfig,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl FakeRuntime {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts an image there, so that it need not be pulled.
    pub fn add_image(&self, reference: &str) {
        let image = Image {
            id: format!("sha256:{:064x}", reference.len()),
            repo_tags: vec![reference.into()],
            repo_digests: Vec::new(),
            size: 1000,
            user: String::new(),
            stop_signal: String::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: String::new(),
            volumes: Vec::new(),
            layers: Vec::new(),
            pinned: false,
        };
        self.lock().images.insert(reference.into(), image);
    }

    /// From now on the container of this name uses so much memory.
    pub fn use_memory(&self, container: &str, bytes: u64) {
        self.lock().memory.insert(container.into(), bytes);
    }

    /// What a command answers in any container.
    pub fn answer_exec(&self, command: &[&str], output: ExecOutput) {
        let command = command.iter().map(|word| word.to_string()).collect();
        self.lock().exec.insert(command, output);
    }

    /// The next calls of this name fail: `snapshot`.
    pub fn fail(&self, call: &'static str, times: u32) {
        self.lock().failing.insert(call, times);
    }

    /// The next calls of this name panic: `run_sandbox`, `create`, `terminate` and `stop_sandbox` before
    /// they have done anything, `start` when the program runs already.
    pub fn panic(&self, call: &'static str, times: u32) {
        self.lock().panicking.insert(call, times);
    }

    /// Ends the running container of this name, or the sandbox with all in it (`None`), and no
    /// event tells it.
    pub fn lose(&self, container: Option<&str>) {
        let mut inner = self.lock();
        let events = inner.events.take();
        let running: Vec<String> = inner
            .containers
            .values()
            .filter(|one| container.is_none_or(|name| one.config.name == name))
            .map(|one| one.status.id.clone())
            .collect();
        running.iter().for_each(|id| end(&mut inner, id, 137));
        if container.is_none() {
            inner.sandboxes.values_mut().for_each(|sandbox| sandbox.status.ready = false);
        }
        inner.events = events;
        drop(inner);
        self.change();
    }

    /// Tells the node that events were lost.
    pub fn overflow(&self) {
        if let Some(events) = &self.lock().events {
            // The queue is longer than any test's list of events.
            let _ = events.try_send(Event::Overflow);
        }
    }

    /// What was called, in order: `run_sandbox p`, `start c/0`, `stop c`, ...
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// The configuration of the newest container of this name.
    pub fn config(&self, container: &str) -> Option<ContainerConfig> {
        let inner = self.lock();
        let named = inner.containers.values().filter(|one| one.config.name == container);
        named.max_by_key(|one| one.config.attempt).map(|one| one.config.clone())
    }

    /// How many sandboxes and containers there are.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.sandboxes.len(), inner.containers.len())
    }

    /// Ends the running container of this name.
    pub fn exit(&self, container: &str, code: i32) {
        let mut inner = self.lock();
        let running = inner
            .containers
            .values()
            .find(|one| one.config.name == container && one.status.state == ContainerState::Running);
        let Some(id) = running.map(|one| one.status.id.clone()) else { return };
        end(&mut inner, &id, code);
        drop(inner);
        self.change();
    }

    /// Returns once a running container of this name is there with this restart number.
    pub async fn running(&self, container: &str, attempt: u32) {
        let mut changed = self.changed.subscribe();
        loop {
            let runs = self.lock().containers.values().any(|one| {
                let same = one.config.name == container && one.config.attempt == attempt;
                same && one.status.state == ContainerState::Running
            });
            // The sender lives as long as we do.
            if runs || changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Marks a container as ended and tells it.
fn end(inner: &mut Inner, id: &str, code: i32) {
    let Some(container) = inner.containers.get_mut(id) else { return };
    let status = &mut container.status;
    if status.state != ContainerState::Running {
        return;
    }
    status.state = ContainerState::Exited;
    status.exit_code = code;
    status.finished_at = Some(Timestamp::now());
    status.reason = if code == 0 { "Completed" } else { "Error" }.into();
    let event = Event::ContainerExited { pod_uid: status.pod.uid.clone(), container_id: id.into() };
    if let Some(events) = &inner.events {
        // The queue is longer than any test's list of exits.
        let _ = events.try_send(event);
    }
}

/// What an update sets.
fn changed(limits: &Resources) -> String {
    format!("shares={} quota={} memory={}", limits.cpu_shares, limits.cpu_quota, limits.memory_limit)
}

fn missing(what: &'static str, id: &str) -> Error {
    Error::NotFound { what, id: id.into() }
}

fn unavailable(what: &str) -> Error {
    Error::host(what.to_string(), "the fake runtime runs no programs")
}

fn answer<'a, T: Send + 'a>(result: Result<T, Error>) -> BoxFuture<'a, Result<T, Error>> {
    futures_util::future::ready(result).boxed()
}

impl Runtime for FakeRuntime {
    fn run_sandbox(&self, config: SandboxConfig) -> BoxFuture<'_, Result<SandboxStatus, Error>> {
        let mut inner = self.lock();
        inner.calls.push(format!("run_sandbox {}", config.pod.name));
        inner.panics("run_sandbox");
        let existing = inner.sandboxes.values().find(|one| one.status.ready && one.status.pod == config.pod);
        if let Some(existing) = existing {
            return answer(Ok(existing.status.clone()));
        }
        inner.count += 1;
        let last = u8::try_from(inner.count % 250 + 2).unwrap_or(2);
        let status = SandboxStatus {
            id: format!("{:064x}", inner.count),
            pod: config.pod,
            ready: true,
            ips: vec![IpAddr::V4(Ipv4Addr::new(10, 42, 0, last))],
            created_at: Timestamp::now(),
            resources: config.resources,
            labels: config.labels,
            annotations: config.annotations,
        };
        let sandbox = Sandbox { status: status.clone(), logs: config.log_directory };
        inner.sandboxes.insert(status.id.clone(), sandbox);
        answer(Ok(status))
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        inner.calls.push("stop_sandbox".into());
        inner.panics("stop_sandbox");
        let mine: Vec<String> = inner
            .containers
            .values()
            .filter(|one| one.status.sandbox_id == id)
            .map(|one| one.status.id.clone())
            .collect();
        mine.iter().for_each(|container| end(&mut inner, container, 137));
        if let Some(sandbox) = inner.sandboxes.get_mut(id) {
            sandbox.status.ready = false;
        }
        drop(inner);
        self.change();
        answer(Ok(()))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        inner.calls.push("remove_sandbox".into());
        inner.sandboxes.remove(id);
        inner.containers.retain(|_, one| one.status.sandbox_id != id);
        drop(inner);
        self.change();
        answer(Ok(()))
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, Error>> {
        answer(Ok(self.lock().sandboxes.values().map(|sandbox| sandbox.status.clone()).collect()))
    }

    fn snapshot<'a>(
        &'a self,
        pod_uid: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<SandboxSnapshot>, Error>> {
        let mut inner = self.lock();
        if let Some(left) = inner.failing.get_mut("snapshot").filter(|left| **left > 0) {
            *left -= 1;
            return answer(Err(Error::host("failed to look", "told to fail")));
        }
        let asked =
            inner.sandboxes.values().filter(|one| pod_uid.is_none_or(|uid| one.status.pod.uid == uid));
        let snapshot = asked.map(|one| SandboxSnapshot {
            sandbox: one.status.clone(),
            containers: inner
                .containers
                .values()
                .filter(|container| container.status.sandbox_id == one.status.id)
                .map(|container| container.status.clone())
                .collect(),
        });
        answer(Ok(snapshot.collect()))
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a str,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<String, Error>> {
        let mut inner = self.lock();
        inner.calls.push(format!("create {}/{}", config.name, config.attempt));
        inner.panics("create");
        let existing = inner.containers.values().find(|one| {
            let status = &one.status;
            status.sandbox_id == sandbox && (&status.name, status.attempt) == (&config.name, config.attempt)
        });
        if let Some(existing) = existing {
            return answer(Ok(existing.status.id.clone()));
        }
        let Some(owner) = inner.sandboxes.get(sandbox).cloned() else {
            return answer(Err(missing("sandbox", sandbox)));
        };
        inner.count += 1;
        let id = format!("{:064x}", inner.count);
        let log_path = owner.logs.join(&config.log_path);
        let directory = log_path.parent().map(std::fs::create_dir_all).transpose();
        let line = format!("{} stdout F hello from {}\n", Timestamp::now(), config.name);
        if let Err(err) = directory.and_then(|_| std::fs::write(&log_path, line)) {
            return answer(Err(Error::host("failed to write a log", err)));
        }
        let status = ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox.into(),
            pod: owner.status.pod,
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            pid: None,
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
            exit_code: 0,
            oom_killed: false,
            reason: String::new(),
            message: String::new(),
            image: config.image.clone(),
            image_id: config.image.clone(),
            log_path,
            user: None,
            resources: config.resources.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        inner.containers.insert(id.clone(), Container { status, config });
        answer(Ok(id))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        let Some(container) = inner.containers.get_mut(id) else {
            return answer(Err(missing("container", id)));
        };
        container.status.state = ContainerState::Running;
        container.status.started_at = Some(Timestamp::now());
        let call = format!("start {}/{}", container.config.name, container.config.attempt);
        inner.calls.push(call);
        inner.panics("start");
        drop(inner);
        self.change();
        answer(Ok(()))
    }

    fn terminate_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        let Some(name) = inner.containers.get(id).map(|one| one.config.name.clone()) else {
            return answer(Err(missing("container", id)));
        };
        inner.calls.push(format!("terminate {name}"));
        inner.panics("terminate");
        end(&mut inner, id, 143);
        drop(inner);
        self.change();
        answer(Ok(()))
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        let Some(name) = inner.containers.get(id).map(|one| one.config.name.clone()) else {
            return answer(Err(missing("container", id)));
        };
        inner.calls.push(format!("stop {name} {}s", grace.as_secs()));
        end(&mut inner, id, 143);
        drop(inner);
        self.change();
        answer(Ok(()))
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.lock().containers.remove(id);
        answer(Ok(()))
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, Error>> {
        answer(Ok(self.lock().containers.values().map(|one| one.status.clone()).collect()))
    }

    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus, Error>> {
        let found = self.lock().containers.get(id).map(|one| one.status.clone());
        answer(found.ok_or_else(|| missing("container", id)))
    }

    fn exec_sync<'a>(
        &'a self,
        _id: &'a str,
        command: Vec<String>,
        _timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>> {
        let output = self.lock().exec.get(&command).cloned();
        let message = format!("exec: {:?}: executable file not found in $PATH", command.first());
        answer(output.ok_or(Error::Start { message }))
    }

    fn exec<'a>(&'a self, _id: &'a str, _options: ExecOptions) -> BoxFuture<'a, Result<Streams, Error>> {
        answer(Err(unavailable("exec")))
    }

    fn attach<'a>(&'a self, _id: &'a str, _options: AttachOptions) -> BoxFuture<'a, Result<Streams, Error>> {
        answer(Err(unavailable("attach")))
    }

    fn port_forward<'a>(
        &'a self,
        _sandbox: &'a str,
        _port: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, Error>> {
        answer(Err(unavailable("port-forward")))
    }

    fn events(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.lock().events = Some(sender);
        receiver
    }

    fn image_status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, Error>> {
        let inner = self.lock();
        let found = inner
            .images
            .values()
            .find(|image| image.id == reference || image.repo_tags.iter().any(|tag| tag == reference));
        answer(Ok(found.cloned()))
    }

    fn may_use_image<'a>(
        &'a self,
        _reference: &'a str,
        _credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<bool, Error>> {
        answer(Ok(true))
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, Error>> {
        answer(Ok(self.lock().images.values().cloned().collect()))
    }

    fn pull_image<'a>(
        &'a self,
        reference: &'a str,
        _credentials: Vec<Credentials>,
    ) -> BoxFuture<'a, Result<Image, Error>> {
        answer(Err(Error::Pull { message: format!("{reference}: not found"), unreachable: false }))
    }

    fn remove_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.lock().images.remove(reference);
        answer(Ok(()))
    }

    fn mount_image<'a>(
        &'a self,
        image: &'a str,
        _pod_uid: &'a str,
        target: &'a Path,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        inner.calls.push(format!("mount_image {name}"));
        // Nothing is mounted: the directory is there, and empty.
        let known = inner.images.values().any(|one| one.id == image);
        let made = std::fs::create_dir_all(target).map_err(|err| Error::host("failed to mount", err));
        answer(if known { made } else { Err(missing("image", image)) })
    }

    fn update_sandbox<'a>(&'a self, id: &'a str, update: SandboxUpdate) -> BoxFuture<'a, Result<(), Error>> {
        // Nothing is limited here: what was asked is what there is.
        let mut inner = self.lock();
        inner.calls.push(format!("update_sandbox {}", changed(&update.resources)));
        let Some(sandbox) = inner.sandboxes.get_mut(id) else { return answer(Err(missing("sandbox", id))) };
        sandbox.status.resources = sandbox.status.resources.updated(&update.resources);
        answer(Ok(()))
    }

    fn update_container<'a>(&'a self, id: &'a str, limits: Resources) -> BoxFuture<'a, Result<(), Error>> {
        let mut inner = self.lock();
        let Some(container) = inner.containers.get_mut(id) else {
            return answer(Err(missing("container", id)));
        };
        container.status.resources = container.status.resources.updated(&limits);
        let call = format!("update {} {}", container.config.name, changed(&limits));
        inner.calls.push(call);
        answer(Ok(()))
    }

    fn memory_use<'a>(&'a self, sandbox: &'a str) -> BoxFuture<'a, Result<MemoryUse, Error>> {
        // A sandbox uses what its containers use.
        let inner = self.lock();
        let used = |name: &str| inner.memory.get(name).copied().unwrap_or(0);
        let running = inner
            .containers
            .values()
            .filter(|one| one.status.sandbox_id == sandbox && one.status.state == ContainerState::Running);
        let containers: BTreeMap<String, u64> =
            running.map(|one| (one.status.id.clone(), used(&one.config.name))).collect();
        answer(Ok(MemoryUse { sandbox: containers.values().sum(), containers }))
    }

    fn pods_memory(&self) -> BoxFuture<'_, Result<Option<PodsMemory>, Error>> {
        answer(Ok(None))
    }

    fn collect_images(&self, _wanted: Collection) -> BoxFuture<'_, Result<Collected, Error>> {
        // No image here takes any room.
        answer(Ok(Collected::default()))
    }

    fn written<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<BTreeMap<String, DiskUse>, Error>> {
        let inner = self.lock();
        let mine = inner.containers.values().filter(|one| one.status.pod.uid == pod_uid);
        let running = mine.filter(|one| one.status.state == ContainerState::Running);
        // No program runs that could write.
        answer(Ok(running.map(|one| (one.config.name.clone(), DiskUse::default())).collect()))
    }

    fn stats(&self, _: Measured) -> BoxFuture<'_, Result<Vec<ContainerStats>, Error>> {
        let inner = self.lock();
        let running = inner.containers.values().filter(|one| one.status.state == ContainerState::Running);
        let stats = running.map(|one| ContainerStats {
            id: one.status.id.clone(),
            memory_working_set: inner.memory.get(&one.config.name).copied().unwrap_or(0),
            ..ContainerStats::default()
        });
        answer(Ok(stats.collect()))
    }

    fn traffic(&self) -> BoxFuture<'_, Result<Vec<Traffic>, Error>> {
        answer(Ok(Vec::new()))
    }
}
