//! What happens to a Pod, and what is to be done about it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::Retry;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::allocation::Allocation;
use super::observe::{Because, Observed};
use super::probe::{Outcome, ProbeKind};
use super::resize::{Decision, Step};
use super::state::Cause;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The runtime was asked what it has of the Pod.
    Observed(Observed),
    /// The API has a new version of the Pod; the first one too.
    PodChanged(Arc<Pod>),
    /// The API has no such Pod any more. The grace it was deleted with, if it was deleted by force.
    PodRemoved {
        /// `deletionGracePeriodSeconds` of its last version.
        grace_period_seconds: Option<i64>,
    },
    /// The node's own checks refused the Pod.
    Refused {
        /// Word for status and event.
        reason: String,
        /// Sentence for both.
        message: String,
    },
    /// The node needs what the Pod uses.
    Evicted {
        /// Evicted or preempted.
        cause: Cause,
        /// Sentence.
        message: String,
        /// Overrides the Pod's own grace when shorter.
        grace_period_seconds: Option<i64>,
    },
    /// All volumes are in place.
    VolumesMounted,
    /// At least one volume is not.
    VolumesFailed {
        /// Sentence for the event.
        message: String,
    },
    /// A ConfigMap, Secret or claim that the Pod names has changed: what failed for it may work now.
    SourcesChanged,
    /// The sandbox is up.
    SandboxReady {
        /// Its number.
        attempt: u32,
        /// Its id.
        id: String,
        /// Its addresses.
        ips: Vec<IpAddr>,
    },
    /// The sandbox could not be made.
    SandboxFailed {
        /// Its number.
        attempt: u32,
        /// Why.
        message: String,
    },
    /// The sandbox's holder is gone, and all its containers with it.
    SandboxDied {
        /// Its id.
        id: String,
    },
    /// The image is not here; the download begins.
    PullStarted {
        /// Container.
        container: String,
        /// The image.
        image: String,
    },
    /// The image of a volume that the container mounts is here.
    VolumeImageReady {
        /// Container.
        container: String,
        /// The image.
        image: String,
        /// How it came, when it had to be pulled.
        pulled: Option<Pulled>,
    },
    /// The image is here.
    ImageReady {
        /// Container.
        container: String,
        /// What was asked for.
        reference: String,
        /// The image.
        image: ImageRef,
        /// How it came, when it had to be pulled.
        pulled: Option<Pulled>,
    },
    /// The image, or that of a volume which the container mounts, is not here and could not be brought.
    ImageFailed {
        /// Container.
        container: String,
        /// What was asked for.
        reference: String,
        /// Which it is.
        image: String,
        /// What went wrong.
        error: ImageError,
        /// In words.
        message: String,
    },
    /// The container exists.
    ContainerCreated {
        /// Container.
        container: String,
        /// Its id.
        id: String,
    },
    /// The program has been executed.
    ContainerStarted {
        /// Container.
        container: String,
        /// Restart number.
        attempt: u32,
        /// Its id.
        id: String,
        /// When.
        started_at: Timestamp,
        /// UID, GID, groups of the first process, when the runtime says so.
        user: Option<(u32, u32, Vec<u32>)>,
    },
    /// It could not be made or started.
    ContainerFailed {
        /// Container.
        container: String,
        /// Restart number.
        attempt: u32,
        /// How far it came.
        failure: StartFailure,
        /// In words.
        message: String,
    },
    /// The postStart hook has ended.
    PostStartDone {
        /// Container.
        container: String,
        /// Its id.
        id: String,
        /// `Err`: what the hook said.
        result: Result<HookReport, String>,
    },
    /// The container's process has ended.
    ContainerExited {
        /// Container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// The preStop hook has ended; the stop goes on whatever came of it.
    PreStopDone {
        /// Container.
        container: String,
        /// Its id.
        id: String,
        /// `Err`: what the hook said.
        result: Result<HookReport, String>,
    },
    /// The container could not be told to stop, or not be killed.
    KillFailed {
        /// Container.
        container: String,
        /// Its id.
        id: String,
        /// Why.
        message: String,
    },
    /// A probe has run once.
    Probed {
        /// Container.
        container: String,
        /// Id of the instance that was probed.
        id: String,
        /// Which probe.
        kind: ProbeKind,
        /// What came of it.
        outcome: Outcome,
    },
    /// The task that ran a probe again and again has failed.
    ProbeLost {
        /// Container.
        container: String,
        /// Id of the instance that was probed.
        id: String,
        /// Which probe.
        kind: ProbeKind,
    },
    /// No proxy sends new connections to the Pod any more, or we waited long enough.
    EndpointsWithdrawn,
    /// The sandbox is stopped, or could not be.
    SandboxStopped {
        /// Its id.
        id: String,
        /// `Err`: why not.
        result: Result<(), String>,
    },
    /// The volumes are unmounted, or could not be.
    VolumesUnmounted(Result<(), String>),
    /// Sandboxes, containers, logs and directories of the Pod are removed, or could not be.
    Removed(Result<(), String>),
    /// The node has looked whether there is room for the Pod in the size that it wishes.
    ResizeDecided(Decision),
    /// What was granted is on the node's disk, or could not be written.
    AllocationKept(Result<(), String>),
    /// The cgroups are written, or could not be.
    Resized(Result<(), String>),
    /// The API was asked to delete the object, or could not be: whether and when to ask again.
    ObjectDeleted(Result<(), Retry>),
    /// Time has passed.
    Tick,
}

/// What is to be done. Each may be done twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put all volumes in place.
    MountVolumes,
    /// Make the sandbox.
    RunSandbox {
        /// How many there were before.
        attempt: u32,
    },
    /// See that the image is here, by the container's pull policy.
    EnsureImage {
        /// Container.
        container: String,
        /// The image as the spec names it.
        reference: String,
    },
    /// The image is not needed any more.
    CancelImage {
        /// Container.
        container: String,
    },
    /// Create and start the container.
    StartContainer {
        /// Container.
        container: String,
        /// Restart number.
        attempt: u32,
        /// Sandbox id.
        sandbox: String,
        /// Image id.
        image: String,
    },
    /// Run the postStart hook.
    RunPostStart {
        /// Container.
        container: String,
        /// Its id.
        id: String,
    },
    /// Run the probe again and again from now on.
    StartProbe {
        /// Container.
        container: String,
        /// Its id.
        id: String,
        /// Which.
        kind: ProbeKind,
        /// From now to the first run.
        delay: Duration,
    },
    /// Stop the probe.
    StopProbe {
        /// Container.
        container: String,
        /// Which.
        kind: ProbeKind,
    },
    /// Wait until no proxy sends new connections to the Pod, at most so long.
    WithdrawEndpoints {
        /// Longest wait.
        at_most: Duration,
    },
    /// Run the preStop hook.
    RunPreStop {
        /// Container.
        container: String,
        /// Its id.
        id: String,
    },
    /// Wait for the preStop hook no longer.
    CancelPreStop {
        /// Container.
        container: String,
    },
    /// Send the container its stop signal; its end is an event.
    TerminateContainer {
        /// Container.
        container: String,
        /// Its id.
        id: String,
    },
    /// Kill all its processes.
    KillContainer {
        /// Container.
        container: String,
        /// Its id.
        id: String,
    },
    /// Remove what an ended Pod has left on the node; its object stays.
    RemoveContents,
    /// Remove an ended container that nobody will ask about any more.
    RemoveContainer {
        /// Its id.
        id: String,
    },
    /// Stop the sandbox.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Unmount all volumes and remove what they kept.
    UnmountVolumes,
    /// Remove sandboxes, containers, logs and directories.
    RemovePod,
    /// Ask the node for the size that the spec wishes, or say that it wishes no other.
    AskResize,
    /// Write down what was granted.
    KeepAllocation {
        /// That.
        allocation: Allocation,
    },
    /// Write the cgroups, one step after the other.
    ResizePod {
        /// Sandbox id.
        sandbox: String,
        /// In this order.
        steps: Vec<Step>,
    },
    /// Delete the object in the API: grace 0, this UID only, after the last status is written.
    DeleteObject,
    /// Tell the user.
    Record(Record),
    /// Say in the log that an observation showed what no event had told.
    Report {
        /// What the observation was made for.
        because: Because,
        /// Sentence.
        found: String,
    },
}

/// What a hook did beside its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookReport {
    /// HTTPS was answered in plain HTTP.
    pub fell_back_to_http: bool,
}

/// An Event for the user, about the Pod or one container of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Normal or Warning.
    pub warning: bool,
    /// Word.
    pub reason: &'static str,
    /// Word that is not known beforehand (refusals); wins over `reason`.
    pub reason_text: Option<String>,
    /// Sentence.
    pub message: String,
    /// `spec.containers{name}`; `None`: the Pod.
    pub field_path: Option<String>,
}

/// An image as the status names it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ImageRef {
    /// Id for the runtime.
    pub id: String,
    /// `status.image`.
    pub name: String,
    /// `status.imageID`: a digest reference, or the id when the image has none.
    pub image_id: String,
}

/// How an image was pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The download.
    pub took: Duration,
    /// With the time in the queue.
    pub took_with_waiting: Duration,
    /// Bytes.
    pub size: u64,
}

/// Why there is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Absent, and the policy is Never.
    NeverPull,
    /// The reference cannot be parsed.
    InvalidName,
    /// The image store cannot be asked.
    Inspect,
    /// The registry refused.
    Pull,
    /// The registry cannot be reached.
    RegistryUnavailable,
}

impl ImageError {
    /// The waiting reason.
    pub fn reason(self) -> &'static str {
        match self {
            ImageError::NeverPull => "ErrImageNeverPull",
            ImageError::InvalidName => "InvalidImageName",
            ImageError::Inspect => "ImageInspectError",
            ImageError::Pull => "ErrImagePull",
            ImageError::RegistryUnavailable => "RegistryUnavailable",
        }
    }
}

/// How far a container came before it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// Its configuration could not be made: no such ConfigMap, root forbidden.
    Config,
    /// The runtime could not create it.
    Create,
    /// The program could not be executed.
    Run {
        /// Id of the container that never ran.
        id: String,
        /// When.
        at: Timestamp,
        /// 128, or 127.
        exit_code: i32,
    },
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Container id.
    pub id: String,
    /// 128+n for a signal.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// When it was started; `None`: it never was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}
