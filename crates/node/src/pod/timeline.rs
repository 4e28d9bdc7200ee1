//! The timeline of a Pod: what happened to it, when, and why, as the state machine sees it.
//!
//! Events of the API have seconds and are counted together; these have nanoseconds and are each their own.

use jiff::Timestamp;

use super::event::{Event, Pulled, StartFailure};
use super::probe::ProbeKind;
use super::state::PodState;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What, in a word.
    pub what: String,
    /// To which container; empty: to the Pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// Why, or with what result.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// How long it took, where that is known: so long before `at` it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// What a step changes without an event of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    deleted: bool,
    /// By container: results of the startup, liveness and readiness probes.
    probes: Vec<[Option<bool>; 3]>,
    /// All containers are being ended, to start again.
    restarting_all: bool,
}

impl Marks {
    /// Of a state.
    pub fn of(state: &PodState) -> Self {
        let probes = state.containers.iter().map(|container| {
            let results =
                [&container.probes.startup, &container.probes.liveness, &container.probes.readiness];
            results.map(|tracker| tracker.result())
        });
        Self {
            deleted: state.pod.metadata.deletion_timestamp.is_some(),
            probes: probes.collect(),
            restarting_all: state.restarting_all,
        }
    }

    /// What has changed since `before`.
    pub fn since(&self, before: &Self, state: &PodState, at: Timestamp) -> Vec<Entry> {
        let mut all = Vec::new();
        if self.deleted && !before.deleted {
            let grace = state.pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
            all.push(entry(at, "Deleted", "", format!("grace period {grace} s")));
        }
        if self.restarting_all && !before.restarting_all {
            all.push(entry(at, "RestartingAllContainers", "", "a rule of a container that has ended".into()));
        }
        // Containers are added at the end, and none is ever taken away.
        for (at_index, results) in self.probes.iter().enumerate() {
            let (name, old) = (&state.containers[at_index].name, before.probes.get(at_index).copied());
            let kinds = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
            for ((kind, new), old) in kinds.into_iter().zip(results).zip(old.unwrap_or_default()) {
                let word = match (old, new) {
                    (None | Some(false), Some(true)) => "Passed",
                    (None | Some(true), Some(false)) => "Failed",
                    _ => continue,
                };
                all.push(entry(at, &format!("{}Probe{word}", kind.word()), name, String::new()));
            }
        }
        all
    }
}

fn entry(at: Timestamp, what: &str, container: &str, cause: String) -> Entry {
    Entry { at, what: what.to_owned(), container: container.to_owned(), cause, took_ms: None }
}

fn pulled(entry: Entry, pulled: Option<&Pulled>) -> Entry {
    let Some(pulled) = pulled else { return Entry { cause: format!("{}, present", entry.cause), ..entry } };
    let took_ms = u64::try_from(pulled.took_with_waiting.as_millis()).ok();
    Entry { took_ms, cause: format!("{}, {} bytes pulled", entry.cause, pulled.size), ..entry }
}

/// What an event says of itself; `None`: it is no news to whoever looks back.
pub fn of(event: &Event, state: &PodState, at: Timestamp) -> Option<Entry> {
    let pod = |what: &str, cause: String| Some(entry(at, what, "", cause));
    let one = |what: &str, container: &str, cause: String| Some(entry(at, what, container, cause));
    let done = |result: &Result<(), String>| result.clone().err().unwrap_or_default();
    match event {
        Event::PodRemoved { .. } => pod("Removed", "gone from the API, or its file is".into()),
        Event::Refused { reason, message } => pod("Refused", format!("{reason}: {message}")),
        Event::Evicted { message, .. } => pod("Evicted", message.clone()),
        Event::VolumesMounted => pod("VolumesMounted", String::new()),
        Event::VolumesFailed { message } => pod("VolumesFailed", message.clone()),
        Event::SandboxReady { attempt, ips, .. } => {
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            pod("SandboxReady", format!("number {attempt}, {}", ips.join(" ")))
        }
        Event::SandboxFailed { message, .. } => pod("SandboxFailed", message.clone()),
        Event::SandboxDied { .. } => pod("SandboxDied", String::new()),
        Event::PullStarted { container, image } => one("PullStarted", container, image.clone()),
        Event::VolumeImageReady { container, image, pulled: how } => {
            Some(pulled(entry(at, "ImageReady", container, image.clone()), how.as_ref()))
        }
        Event::ImageReady { container, reference, pulled: how, .. } => {
            Some(pulled(entry(at, "ImageReady", container, reference.clone()), how.as_ref()))
        }
        Event::ImageFailed { container, message, .. } => one("ImageFailed", container, message.clone()),
        Event::ContainerCreated { container, .. } => one("Created", container, String::new()),
        Event::ContainerStarted { container, attempt: 0, started_at, .. } => {
            Some(entry(*started_at, "Started", container, String::new()))
        }
        Event::ContainerStarted { container, attempt, started_at, .. } => {
            let ended = state.containers.iter().find(|one| one.name == *container);
            let ended = ended.and_then(|one| one.exited.as_ref());
            let why =
                ended.map(|exit| format!(", after {} ({})", exit.reason, exit.code)).unwrap_or_default();
            Some(entry(*started_at, "Restarted", container, format!("number {attempt}{why}")))
        }
        Event::ContainerFailed { container, failure, message, .. } => {
            let what = match failure {
                StartFailure::Config => "ConfigFailed",
                StartFailure::Create => "CreateFailed",
                StartFailure::Run { .. } => "StartFailed",
            };
            one(what, container, message.clone())
        }
        Event::PostStartDone { container, result, .. } => one(
            "PostStartDone",
            container,
            result.as_ref().err().map(|_| "failed".into()).unwrap_or_default(),
        ),
        Event::PreStopDone { container, result, .. } => {
            one("PreStopDone", container, result.as_ref().err().map(|_| "failed".into()).unwrap_or_default())
        }
        Event::ContainerExited { container, exit } => {
            let what = format!("{} ({})", exit.reason, exit.code);
            Some(entry(exit.finished_at, "Exited", container, what))
        }
        Event::EndpointsWithdrawn => pod("EndpointsWithdrawn", String::new()),
        Event::SandboxStopped { result, .. } => pod("SandboxStopped", done(result)),
        Event::VolumesUnmounted(result) => pod("VolumesUnmounted", done(result)),
        Event::Removed(result) => pod("NothingLeft", done(result)),
        Event::Resized(result) => pod("Resized", done(result)),
        Event::Observed(_)
        | Event::PodChanged(_)
        | Event::SourcesChanged
        | Event::KillFailed { .. }
        | Event::Probed { .. }
        | Event::ProbeLost { .. }
        | Event::ResizeDecided(_)
        | Event::AllocationKept(_)
        | Event::ObjectDeleted(_)
        | Event::Tick => None,
    }
}
