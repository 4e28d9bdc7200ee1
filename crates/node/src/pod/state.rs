//! What the node knows of one Pod.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};

use super::backoff::Backoff;
use super::event::{Exit, ImageRef};
use super::probe::{ProbeKind, Tracker};
use super::spec::{self, Role};

/// One Pod on this node.
#[derive(Clone, Debug)]
pub struct PodState {
    /// Latest version; the spec that counts.
    pub pod: Arc<Pod>,
    /// The API has forgotten the object.
    pub removed_from_api: bool,
    /// Where it is in its life.
    pub stage: Stage,
    /// `status.startTime`.
    pub start_time: Timestamp,
    /// Volumes.
    pub volumes: Progress,
    /// Sandbox.
    pub sandbox: Sandbox,
    /// In the order of the spec: init, mains, ephemeral.
    pub containers: Vec<Container>,
    /// Reason and message of the whole Pod, when it was ended by the node.
    pub verdict: Option<Verdict>,
}

/// Where a Pod is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Its containers are wanted.
    Active,
    /// Its containers are being stopped.
    Terminating(Termination),
    /// Nothing of it runs; the object stays until somebody deletes it.
    Terminated,
    /// What it left on the node is being removed.
    Removing {
        /// Try again then, after a failure.
        retry_at: Option<Timestamp>,
        /// Whether the removal is under way.
        underway: bool,
    },
    /// The API is being asked to delete the object.
    Deleting {
        /// Try again then, after a failure.
        retry_at: Option<Timestamp>,
    },
    /// Nothing is left, here or in the API.
    Gone,
}

/// A stop that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Termination {
    /// Then KILL. Only ever moves towards the past.
    pub deadline: Timestamp,
    /// Whether proxies still send connections.
    pub endpoints: Endpoints,
}

/// Whether proxies still send new connections to a Pod that is going away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// They may: containers are not told yet.
    Withdrawing,
    /// They do not.
    Withdrawn,
}

/// Why the node ended the Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
}

/// Something that is put in place and taken away again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there. `retry_at`: it failed, try again then.
    Absent {
        /// Try again then.
        retry_at: Option<Timestamp>,
    },
    /// Being put in place.
    Underway,
    /// In place.
    Present,
    /// Being taken away.
    Releasing,
    /// Could not be taken away.
    Stuck {
        /// Try again then.
        retry_at: Timestamp,
    },
    /// Taken away, and not wanted any more.
    Released,
}

/// The sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// None yet, or the last has died.
    Absent {
        /// Number of the next.
        attempt: u32,
        /// Try again then, after a failure.
        retry_at: Option<Timestamp>,
    },
    /// Being made.
    Creating {
        /// Its number.
        attempt: u32,
    },
    /// Up.
    Ready {
        /// Its number.
        attempt: u32,
        /// Its id.
        id: String,
        /// Its addresses.
        ips: Vec<IpAddr>,
    },
    /// Being stopped; `retry_at`: that failed.
    Stopping {
        /// Its id.
        id: String,
        /// Its addresses: the status keeps them.
        ips: Vec<IpAddr>,
        /// Try again then.
        retry_at: Option<Timestamp>,
    },
    /// Stopped.
    Stopped {
        /// Its addresses: the status keeps them.
        ips: Vec<IpAddr>,
    },
}

/// One container of the Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Name.
    pub name: String,
    /// What it is to the Pod.
    pub role: Role,
    /// The image of the spec that the current instance was started with.
    pub image: String,
    /// Restart number of the current or latest instance.
    pub attempt: u32,
    /// What goes on.
    pub phase: Phase,
    /// Shown while it does not run.
    pub waiting: Option<Waiting>,
    /// How the latest instance ended.
    pub exited: Option<Exit>,
    /// How the one before it ended.
    pub previous: Option<Exit>,
    /// Number of the sandbox in which an instance was last started.
    pub ran_in: Option<u32>,
    /// Start again whatever the policy says: its definition has changed.
    pub restart_forced: bool,
    /// The image of the current or latest instance.
    pub image_ref: Option<ImageRef>,
    /// Waits between restarts.
    pub backoff: Backoff,
    /// Waits between pulls.
    pub pull_backoff: Backoff,
    /// Results of its probes.
    pub probes: Probes,
}

/// What goes on with a container.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Nothing; not before `retry_at`.
    Idle {
        /// Not before.
        retry_at: Option<Timestamp>,
    },
    /// The image is looked for or pulled.
    Pulling,
    /// It is being created and started.
    Starting,
    /// It runs, its postStart hook too.
    PostStart(Run),
    /// It runs.
    Running(Run),
    /// It runs and has been told to stop.
    Stopping(Run, Kill),
}

/// A running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Container id.
    pub id: String,
    /// When the program was executed.
    pub started_at: Timestamp,
    /// UID, GID, groups of its first process.
    pub user: Option<(u32, u32, Vec<u32>)>,
}

/// A stop of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Then KILL. Only ever moves towards the past.
    pub deadline: Timestamp,
    /// The runtime failed to stop it: try again then.
    pub retry_at: Option<Timestamp>,
}

/// Why a container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Word.
    pub reason: &'static str,
    /// Sentence.
    pub message: String,
}

/// Results of the probes of the running instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// postStart is done and the startup probe has succeeded.
    pub started: bool,
    /// Startup.
    pub startup: Tracker,
    /// Liveness.
    pub liveness: Tracker,
    /// Readiness.
    pub readiness: Tracker,
}

impl Probes {
    /// The counter of one probe.
    pub fn tracker(&mut self, kind: ProbeKind) -> &mut Tracker {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        }
    }
}

/// What is already running, seen when the node starts.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The Pod's ready sandbox: number, id, addresses.
    pub sandbox: Option<(u32, String, Vec<IpAddr>)>,
    /// Number for the next sandbox when none is ready.
    pub next_sandbox: u32,
    /// Instances by name; all of them, ended ones too.
    pub instances: Vec<Instance>,
}

/// One instance of a container, seen when the node starts.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Container name.
    pub name: String,
    /// Restart number.
    pub attempt: u32,
    /// Image.
    pub image: ImageRef,
    /// Running, or how it ended.
    pub state: Result<Run, Exit>,
}

impl PodState {
    /// A Pod of which nothing exists on the node yet.
    pub fn admitted(pod: Arc<Pod>, now: Timestamp) -> Self {
        let start_time =
            pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(now, |time| time.0);
        let containers = spec::containers(&pod).map(|(role, spec)| Container::new(role, &spec)).collect();
        Self {
            pod,
            removed_from_api: false,
            stage: Stage::Active,
            start_time,
            volumes: Progress::Absent { retry_at: None },
            sandbox: Sandbox::Absent { attempt: 0, retry_at: None },
            containers,
            verdict: None,
        }
    }

    /// A Pod whose parts may already run: the node was started again. What runs goes on running.
    pub fn adopted(pod: Arc<Pod>, observed: Observed, now: Timestamp) -> Self {
        let mut state = Self::admitted(pod, now);
        let next = observed.next_sandbox;
        state.sandbox = match observed.sandbox {
            Some((attempt, id, ips)) => Sandbox::Ready { attempt, id, ips },
            None => Sandbox::Absent { attempt: next, retry_at: None },
        };
        let number = state.sandbox.number();
        let pod = Arc::clone(&state.pod);
        for container in &mut state.containers {
            container.adopt(&pod, &observed.instances, number, now);
        }
        state.adopt_terminal_phase();
        state
    }

    /// A Pod that had ended stays ended: its terminal phase is in the API.
    fn adopt_terminal_phase(&mut self) {
        let Some(status) = &self.pod.status else { return };
        if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return;
        }
        if let (Some(reason), Some(message)) = (&status.reason, &status.message) {
            self.verdict = Some(Verdict { reason: reason.clone(), message: message.clone() });
        }
        let deadline = self.start_time;
        self.stage = Stage::Terminating(Termination { deadline, endpoints: Endpoints::Withdrawn });
    }

    /// The container of this name.
    pub fn container_mut(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.name == name)
    }

    /// Whether containers may still be started.
    pub fn may_start_containers(&self) -> bool {
        matches!(self.stage, Stage::Active)
    }

    /// Whether a process of the Pod runs, or may be about to.
    pub fn has_containers(&self) -> bool {
        self.containers.iter().any(|container| container.phase.holds_process())
    }

    /// Whether this worker has nothing more to do, ever.
    pub fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }

    /// Whether nothing of it runs any more.
    pub fn is_terminated(&self) -> bool {
        !matches!(self.stage, Stage::Active | Stage::Terminating(_))
    }

    /// Whether a main container has been started in the present sandbox: init containers are over then.
    pub fn is_initialized(&self) -> bool {
        let number = self.sandbox.number();
        self.containers.iter().any(|container| {
            container.role == Role::Main && container.ran_in.is_some_and(|ran| Some(ran) == number)
        })
    }

    /// The spec of a container.
    pub fn spec_of(&self, name: &str) -> Option<ContainerSpec> {
        spec::container(&self.pod, name).map(|(_, spec)| spec)
    }

    /// The UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

impl Sandbox {
    /// Number of the sandbox that is there or comes next.
    pub fn number(&self) -> Option<u32> {
        match self {
            Sandbox::Absent { attempt, .. }
            | Sandbox::Creating { attempt }
            | Sandbox::Ready { attempt, .. } => Some(*attempt),
            Sandbox::Stopping { .. } | Sandbox::Stopped { .. } => None,
        }
    }

    /// Addresses of the Pod, kept after the end.
    pub fn ips(&self) -> &[IpAddr] {
        match self {
            Sandbox::Ready { ips, .. } | Sandbox::Stopping { ips, .. } | Sandbox::Stopped { ips } => ips,
            Sandbox::Absent { .. } | Sandbox::Creating { .. } => &[],
        }
    }
}

impl Container {
    /// One that was never started.
    pub fn new(role: Role, spec: &ContainerSpec) -> Self {
        Self {
            name: spec.name.clone(),
            role,
            image: spec.image.clone().unwrap_or_default(),
            attempt: 0,
            phase: Phase::Idle { retry_at: None },
            waiting: None,
            exited: None,
            previous: None,
            ran_in: None,
            restart_forced: false,
            image_ref: None,
            backoff: Backoff::default(),
            pull_backoff: Backoff::default(),
            probes: Probes::default(),
        }
    }

    /// Takes over what was observed of it.
    fn adopt(&mut self, pod: &Pod, instances: &[Instance], sandbox: Option<u32>, now: Timestamp) {
        let mut mine: Vec<&Instance> = instances.iter().filter(|one| one.name == self.name).collect();
        mine.sort_by_key(|one| one.attempt);
        let status = reported(pod, &self.name);
        for instance in &mine {
            self.attempt = instance.attempt;
            self.image_ref = Some(instance.image.clone());
            self.ran_in = sandbox;
            match &instance.state {
                Ok(run) => self.phase = Phase::Running(run.clone()),
                Err(exit) => {
                    self.previous = self.exited.replace(remembered(status, exit.clone()));
                }
            }
        }
        if mine.is_empty() {
            self.adopt_report(status, now);
        } else if let (Some(image), Some(status)) = (&mut self.image_ref, status)
            && !status.image_id.is_empty()
        {
            // The API knows the names under which the image was asked for.
            image.name.clone_from(&status.image);
            image.image_id.clone_from(&status.image_id);
        }
        if let Phase::Running(_) = self.phase {
            let started = status.and_then(|status| status.started).unwrap_or(false);
            let ready = status.is_some_and(|status| status.ready);
            self.probes.started = started;
            self.probes.startup = if started { Tracker::succeeded() } else { Tracker::default() };
            self.probes.readiness = if ready { Tracker::succeeded() } else { Tracker::default() };
        }
        // A start that failed leaves no instance, but it has been counted and told.
        let told = status.map_or(0, |status| u32::try_from(status.restart_count).unwrap_or_default());
        self.attempt = self.attempt.max(told);
        let ended = self.exited.as_ref().map_or(now, |exit| exit.finished_at);
        let tries = if self.phase.run().is_some() {
            self.attempt
        } else {
            self.attempt + u32::from(self.waiting_for_restart(status))
        };
        self.backoff = Backoff::resumed(tries.min(self.attempt), ended);
    }

    /// Nothing of it is left on the node: what the API has been told is all there is.
    fn adopt_report(&mut self, status: Option<&k8s_openapi::api::core::v1::ContainerStatus>, now: Timestamp) {
        let Some(status) = status else { return };
        let id = |id: &Option<String>| id.as_deref().map(bare_id).unwrap_or_default();
        let states = [&status.state, &status.last_state];
        let mut ended =
            states.into_iter().flatten().filter_map(|state| state.terminated.as_ref()).map(|terminated| {
                Exit {
                    id: id(&terminated.container_id),
                    code: terminated.exit_code,
                    reason: terminated.reason.clone().unwrap_or_default(),
                    message: terminated.message.clone().unwrap_or_default(),
                    started_at: terminated.started_at.as_ref().map(|time| time.0),
                    finished_at: terminated.finished_at.as_ref().map_or(now, |time| time.0),
                }
            });
        let running = status.state.as_ref().and_then(|state| state.running.as_ref());
        self.attempt = u32::try_from(status.restart_count).unwrap_or_default();
        self.exited = ended.next();
        self.previous = ended.next();
        if let Some(running) = running {
            let started_at = running.started_at.as_ref().map_or(now, |time| time.0);
            let run = Run { id: id(&status.container_id), started_at, user: None };
            self.previous = self.exited.replace(super::step::lost(&run, now));
        }
        if self.exited.is_some() {
            let image =
                ImageRef { id: String::new(), name: status.image.clone(), image_id: status.image_id.clone() };
            self.image_ref = Some(image);
        }
    }

    fn waiting_for_restart(&self, status: Option<&k8s_openapi::api::core::v1::ContainerStatus>) -> bool {
        let waiting =
            status.and_then(|status| status.state.as_ref()).and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
    }

    /// Whether it is started and, if it has a readiness probe, that probe succeeds.
    pub fn is_ready(&self, spec: &ContainerSpec) -> bool {
        match self.role {
            Role::Init => {
                self.exited.as_ref().is_some_and(|exit| exit.code == 0) && !self.phase.holds_process()
            }
            Role::Ephemeral => false,
            Role::Main | Role::Sidecar => {
                let running = matches!(self.phase, Phase::Running(_) | Phase::Stopping(..));
                let probed = spec.readiness_probe.is_none() || self.probes.readiness.result() == Some(true);
                running && self.probes.started && probed
            }
        }
    }
}

/// The id without the runtime's name.
fn bare_id(id: &str) -> String {
    id.rsplit("://").next().unwrap_or(id).to_string()
}

/// The status the API has of a container.
fn reported<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|one| one.name == name)
}

/// The exit, with the termination message the API still knows of it.
fn remembered(status: Option<&k8s_openapi::api::core::v1::ContainerStatus>, mut exit: Exit) -> Exit {
    let states = status.into_iter().flat_map(|status| [&status.state, &status.last_state]);
    let known = states.flatten().filter_map(|state| state.terminated.as_ref());
    for terminated in known {
        let same = terminated.container_id.as_deref().is_some_and(|id| id.ends_with(&exit.id));
        if let (true, Some(message)) = (same, &terminated.message) {
            exit.message.clone_from(message);
        }
    }
    exit
}

impl Phase {
    /// The running instance.
    pub fn run(&self) -> Option<&Run> {
        match self {
            Phase::Idle { .. } | Phase::Pulling | Phase::Starting => None,
            Phase::PostStart(run) | Phase::Running(run) | Phase::Stopping(run, _) => Some(run),
        }
    }

    /// Whether a process runs or is about to.
    pub fn holds_process(&self) -> bool {
        match self {
            Phase::Idle { .. } | Phase::Pulling => false,
            Phase::Starting | Phase::PostStart(_) | Phase::Running(_) | Phase::Stopping(..) => true,
        }
    }

    /// Whether it is on its way up: later containers wait for it.
    pub fn is_starting(&self) -> bool {
        matches!(self, Phase::Pulling | Phase::Starting | Phase::PostStart(_))
    }
}

/// A positive duration from `now` to `then`; zero when `then` is past.
pub fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}
