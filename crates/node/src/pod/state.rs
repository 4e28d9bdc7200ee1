//! What the node knows of one Pod.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceRequirements};

use super::allocation::Allocation;
use super::backoff::Backoff;
use super::clock::Steady;
use super::event::{Exit, ImageError, ImageRef};
use super::observe::Heard;
use super::probe::{ProbeKind, Tracker};
use super::resize::Resize;
use super::spec::{self, Role};

/// One Pod on this node.
#[derive(Clone, Debug)]
pub struct PodState {
    /// Latest version, with the resources that were granted: what counts.
    pub pod: Arc<Pod>,
    /// Latest version as the API has it.
    pub wished: Arc<Pod>,
    /// What the node has set apart for it.
    pub allocation: Allocation,
    /// How far it is on the way to another size.
    pub resize: Resize,
    /// The API has forgotten the object.
    pub removed_from_api: bool,
    /// What the runtime has of it is known. Nothing is done before.
    pub observed: bool,
    /// Ends that were told of what is not known, or not yet.
    pub heard: Heard,
    /// When a sandbox or a container was last seen to come into being: an observation that was
    /// asked for earlier may lack it.
    pub changed_at: Option<Steady>,
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
    /// All containers are being ended, to start again from the first.
    pub restarting_all: bool,
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
        retry_at: Option<Steady>,
        /// Whether the removal is under way.
        underway: bool,
    },
    /// The API is being asked to delete the object.
    Deleting {
        /// Try again then, after a failure.
        retry_at: Option<Steady>,
    },
    /// Nothing is left, here or in the API.
    Gone,
}

/// A stop that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Termination {
    /// Then KILL. Only ever moves towards the past.
    pub deadline: Steady,
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

/// For which of its reasons the node ended a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It needs what the Pod uses, or the Pod has used more than it may.
    Evicted,
    /// It makes room for a critical Pod.
    Preempted,
    /// The Pod was active for longer than it may be.
    DeadlineExceeded,
    /// Its checks refused the Pod, for a reason with this word; or a node of a later release ended it.
    Refused(String),
}

impl Cause {
    /// Whether the Pod would have gone on by itself.
    pub(super) fn is_disruption(&self) -> bool {
        matches!(self, Cause::Evicted | Cause::Preempted)
    }

    /// The word for status and Event.
    pub fn reason(&self) -> &str {
        match self {
            Cause::Evicted => "Evicted",
            Cause::Preempted => "Preempting",
            Cause::DeadlineExceeded => "DeadlineExceeded",
            Cause::Refused(reason) => reason,
        }
    }

    /// Of the word that the status of an ended Pod has, when it was not evicted.
    pub(super) fn of_reason(reason: &str) -> Self {
        match reason {
            reason if reason == Cause::Preempted.reason() => Cause::Preempted,
            reason if reason == Cause::DeadlineExceeded.reason() => Cause::DeadlineExceeded,
            reason => Cause::Refused(reason.to_owned()),
        }
    }
}

/// Why the node ended the Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Makes `status.reason`.
    pub cause: Cause,
    /// `status.message`.
    pub message: String,
}

/// Something that is put in place and taken away again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not there. `retry_at`: it failed, try again then.
    Absent {
        /// Try again then.
        retry_at: Option<Steady>,
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
        retry_at: Steady,
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
        retry_at: Option<Steady>,
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
        retry_at: Option<Steady>,
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
    /// When that was, for waits.
    pub ended_at: Option<Steady>,
    /// How the one before it ended.
    pub previous: Option<Exit>,
    /// Number of the sandbox in which an instance was last started.
    pub ran_in: Option<u32>,
    /// Start again whatever the policy says: its definition has changed.
    pub restart_forced: bool,
    /// Whether its latest end, if that is to restart all, has done so.
    pub restart_heeded: bool,
    /// What the current or latest instance was given; `None`: it is not known.
    pub actuated: Option<ResourceRequirements>,
    /// The image of the current or latest instance.
    pub image_ref: Option<ImageRef>,
    /// Waits between restarts.
    pub backoff: Backoff,
    /// Waits between pulls.
    pub pull_backoff: Backoff,
    /// The image that could not be brought last: its own or that of a volume.
    pub missing_image: String,
    /// Results of its probes.
    pub probes: Probes,
}

/// What goes on with a container.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Nothing; not before `retry_at`.
    Idle {
        /// Not before.
        retry_at: Option<Steady>,
    },
    /// The image is looked for or pulled.
    Pulling,
    /// It is being created and started.
    Starting(Start),
    /// It runs, its postStart hook too.
    PostStart(Run),
    /// It runs.
    Running(Run),
    /// It runs and has been told to stop.
    Stopping(Run, Kill),
}

/// A start that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Restart number of the instance.
    pub attempt: u32,
    /// Number of the sandbox it is started in.
    pub sandbox: u32,
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
    /// How far it is.
    pub step: StopStep,
    /// Then the next step. Only ever moves towards the past, but for the least time that a
    /// program has after its stop signal.
    pub deadline: Steady,
}

/// How far a stop is. Each step may be done again; `retry_at` is set when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStep {
    /// The preStop hook runs.
    PreStop,
    /// The stop signal is sent.
    Terminate {
        /// Send it again then.
        retry_at: Option<Steady>,
    },
    /// KILL is sent.
    Kill {
        /// Send it again then.
        retry_at: Option<Steady>,
    },
}

/// Why a container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Word.
    pub reason: WaitingReason,
    /// Sentence.
    pub message: String,
}

/// The words for a container that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingReason {
    /// There is no image.
    Image(ImageError),
    /// There was no image, and the next try has to wait.
    ImagePullBackOff,
    /// It ended, and the next try has to wait.
    CrashLoopBackOff,
    /// Its configuration could not be made.
    CreateContainerConfigError,
    /// The runtime could not create it.
    CreateContainerError,
    /// The program could not be executed.
    RunContainerError,
    /// All of the Pod starts again.
    RestartingAllContainers,
}

impl WaitingReason {
    /// As the status has it.
    pub fn word(self) -> &'static str {
        match self {
            WaitingReason::Image(error) => error.reason(),
            WaitingReason::ImagePullBackOff => "ImagePullBackOff",
            WaitingReason::CrashLoopBackOff => "CrashLoopBackOff",
            WaitingReason::CreateContainerConfigError => "CreateContainerConfigError",
            WaitingReason::CreateContainerError => "CreateContainerError",
            WaitingReason::RunContainerError => "RunContainerError",
            WaitingReason::RestartingAllContainers => super::restart_all::REASON,
        }
    }
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

impl PodState {
    /// A Pod of which nothing is known but what the API says.
    pub fn admitted(pod: Arc<Pod>, now: Timestamp) -> Self {
        let start_time =
            pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(now, |time| time.0);
        let containers = spec::containers(&pod).map(|(role, spec)| Container::new(role, &spec)).collect();
        let allocation = Allocation::reported(&pod);
        Self {
            wished: Arc::clone(&pod),
            pod: allocation.given_to(&pod),
            allocation,
            resize: Resize::reported(&pod),
            removed_from_api: false,
            observed: false,
            heard: Heard::default(),
            changed_at: None,
            stage: Stage::Active,
            start_time,
            volumes: Progress::Absent { retry_at: None },
            sandbox: Sandbox::Absent { attempt: 0, retry_at: None },
            containers,
            restarting_all: false,
            verdict: None,
        }
    }

    /// The same Pod with what was granted before.
    #[must_use]
    pub fn granted(mut self, allocation: Option<Allocation>) -> Self {
        if let Some(allocation) = allocation {
            self.allocate(allocation);
        }
        self
    }

    /// From now on it has these resources.
    pub(super) fn allocate(&mut self, allocation: Allocation) {
        self.pod = allocation.given_to(&self.wished);
        self.allocation = allocation;
    }

    /// The container of this name.
    pub fn container_mut(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.name == name)
    }

    /// Whether containers may still be started.
    pub fn may_start_containers(&self) -> bool {
        matches!(self.stage, Stage::Active)
    }

    /// Whether the node has sent it away for what it used.
    pub fn is_evicted(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.cause == Cause::Evicted)
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
            ended_at: None,
            previous: None,
            ran_in: None,
            restart_forced: false,
            restart_heeded: false,
            actuated: None,
            image_ref: None,
            backoff: Backoff::default(),
            pull_backoff: Backoff::default(),
            missing_image: String::new(),
            probes: Probes::default(),
        }
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

impl Phase {
    /// The running instance.
    pub fn run(&self) -> Option<&Run> {
        match self {
            Phase::Idle { .. } | Phase::Pulling | Phase::Starting(_) => None,
            Phase::PostStart(run) | Phase::Running(run) | Phase::Stopping(run, _) => Some(run),
        }
    }

    /// Whether a process runs or is about to.
    pub fn holds_process(&self) -> bool {
        match self {
            Phase::Idle { .. } | Phase::Pulling => false,
            Phase::Starting(_) | Phase::PostStart(_) | Phase::Running(_) | Phase::Stopping(..) => true,
        }
    }

    /// Whether it is on its way up: later containers wait for it.
    pub fn is_starting(&self) -> bool {
        matches!(self, Phase::Pulling | Phase::Starting(_) | Phase::PostStart(_))
    }
}
