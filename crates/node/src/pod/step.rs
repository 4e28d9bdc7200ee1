//! One event in, the next state and what to do out.
//!
//! A step has two halves. `note` writes the fact into the state; `advance` then looks
//! at the whole and decides what is missing. What has been asked for is in the state, so
//! that nothing is asked for twice, and what failed carries the time of the next try.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

use super::event::{Action, Event, Exit, Record, StartFailure};
use super::probe::{Outcome, ProbeKind};
use super::spec::{self, Role};
use super::state::{Container, Phase, PodState, Progress, Run, Sandbox, Stage, Verdict, Waiting};
use super::{start, stop};

/// Wait after something the node itself could not do (upstream's Pod sync back-off).
pub const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// What [`step`] is to do, in order.
pub type Actions = Vec<Action>;

/// Takes one event.
pub fn step(mut state: PodState, event: Event, now: Timestamp) -> (PodState, Actions) {
    let mut actions = Actions::new();
    note(&mut state, event, now, &mut actions);
    advance(&mut state, now, &mut actions);
    (state, actions)
}

/// When the state wants a [`Event::Tick`], if nothing happens before.
pub fn wakes_at(state: &PodState, now: Timestamp) -> Option<Timestamp> {
    let stage = match &state.stage {
        Stage::Active => stop::active_deadline(state),
        Stage::Terminating(termination) => state.has_containers().then_some(termination.deadline),
        Stage::Removing { retry_at, .. } | Stage::Deleting { retry_at } => *retry_at,
        Stage::Terminated | Stage::Gone => None,
    };
    let sandbox = match &state.sandbox {
        Sandbox::Absent { retry_at, .. } | Sandbox::Stopping { retry_at, .. } => *retry_at,
        Sandbox::Creating { .. } | Sandbox::Ready { .. } | Sandbox::Stopped { .. } => None,
    };
    let volumes = match &state.volumes {
        Progress::Absent { retry_at } => *retry_at,
        Progress::Stuck { retry_at } => Some(*retry_at),
        Progress::Underway | Progress::Present | Progress::Releasing | Progress::Released => None,
    };
    let containers = state.containers.iter().filter_map(|container| match &container.phase {
        Phase::Idle { retry_at } if state.may_start_containers() => *retry_at,
        Phase::Stopping(_, kill) => kill.retry_at,
        _ => None,
    });
    // What is due already waits for another event, not for the clock.
    containers.chain(stage).chain(sandbox).chain(volumes).filter(|at| *at > now).min()
}

/// Looks at the whole and asks for what is missing.
fn advance(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    if let Stage::Active = state.stage {
        stop::end_if_over(state, now, actions);
    }
    match state.stage {
        Stage::Active => {
            start::advance(state, now, actions);
            // A start that cannot be (a failed init container) may have ended the Pod.
            stop::end_if_over(state, now, actions);
            if !state.may_start_containers() {
                stop::advance(state, now, actions);
            }
        }
        Stage::Terminating(_) | Stage::Terminated | Stage::Removing { .. } | Stage::Deleting { .. } => {
            stop::advance(state, now, actions);
        }
        Stage::Gone => {}
    }
}

/// Writes a fact into the state.
fn note(state: &mut PodState, event: Event, now: Timestamp, actions: &mut Actions) {
    match event {
        Event::Tick => {}
        Event::PodChanged(pod) => pod_changed(state, pod, now, actions),
        Event::PodRemoved { grace_period_seconds } => {
            state.removed_from_api = true;
            let grace = match grace_period_seconds {
                Some(seconds) => seconds,
                None => spec::grace_period_seconds(&state.pod),
            };
            stop::begin(state, grace, now, actions);
        }
        Event::Refused { reason, message } => {
            let record = Record::pod_warning("", message.clone()).with_reason(reason.clone());
            actions.push(Action::Record(record));
            state.verdict = Some(Verdict { reason, message });
            stop::begin(state, 0, now, actions);
        }
        Event::Evicted { reason, message, grace_period_seconds } => {
            let own = spec::grace_period_seconds(&state.pod);
            let grace = grace_period_seconds.map_or(own, |seconds| seconds.min(own));
            if state.may_start_containers() {
                actions.push(Action::Record(
                    Record::pod_warning("", message.clone()).with_reason(reason.clone()),
                ));
                state.verdict = Some(Verdict { reason, message });
            }
            stop::begin(state, grace, now, actions);
        }
        Event::VolumesMounted => set_if(&mut state.volumes, &Progress::Underway, Progress::Present),
        Event::VolumesFailed { message } => {
            if state.volumes == Progress::Underway {
                state.volumes = Progress::Absent { retry_at: Some(after(now, RETRY)) };
                actions.push(Action::Record(Record::pod_warning("FailedMount", message)));
            }
        }
        Event::SourcesChanged => retry_now(state),
        Event::SandboxReady { id, ips } => {
            if let Sandbox::Creating { attempt } = state.sandbox {
                state.sandbox = Sandbox::Ready { attempt, id, ips };
            }
        }
        Event::SandboxFailed { message } => sandbox_failed(state, message, now, actions),
        Event::SandboxDied { id } => sandbox_died(state, &id, now, actions),
        Event::SandboxStopped(result) => stop::sandbox_stopped(state, result, now, actions),
        Event::VolumesUnmounted(result) => stop::volumes_unmounted(state, result, now),
        Event::Removed(result) => stop::removed(state, result, now),
        Event::ObjectDeleted(result) => stop::object_deleted(state, result, now),
        Event::EndpointsWithdrawn => stop::endpoints_withdrawn(state),
        Event::PullStarted { container } => {
            with(state, &container, |state, at| {
                let image = state.containers[at].image.clone();
                record(&state.containers[at], actions, "Pulling", format!("Pulling image {image:?}"));
            });
        }
        Event::ImageReady { container, image, pulled } => {
            with(state, &container, |state, at| start::image_ready(state, at, image, pulled, actions));
        }
        Event::ImageFailed { container, error, message } => {
            with(state, &container, |state, at| {
                start::image_failed(&mut state.containers[at], error, message, now, actions)
            });
        }
        Event::ContainerCreated { container, .. } => {
            with(state, &container, |state, at| {
                record(&state.containers[at], actions, "Created", "Container created".into())
            });
        }
        Event::ContainerStarted { container, id, started_at, user } => {
            let run = Run { id, started_at, user };
            with(state, &container, |state, at| start::container_started(state, at, run, actions));
        }
        Event::ContainerFailed { container, failure, message } => {
            with(state, &container, |state, at| container_failed(state, at, failure, message, now, actions));
        }
        Event::PostStartDone { container, id, result } => {
            with(state, &container, |state, at| start::post_start_done(state, at, &id, result, now, actions));
        }
        Event::ContainerExited { container, exit } => {
            with(state, &container, |state, at| container_exited(&mut state.containers[at], exit, actions));
        }
        Event::PreStopFailed { container } => {
            with(state, &container, |state, at| {
                warn(&state.containers[at], actions, "FailedPreStopHook", "PreStopHook failed".into());
            });
        }
        Event::KillFailed { container, id, message } => {
            with(state, &container, |state, at| {
                stop::kill_failed(&mut state.containers[at], &id, &message, now, actions)
            });
        }
        Event::Probed { container, id, kind, outcome } => {
            with(state, &container, |state, at| probed(state, at, &id, (kind, outcome), now, actions));
        }
    }
}

/// Calls `act` with the index of the container, if there is one of that name.
fn with(state: &mut PodState, name: &str, act: impl FnOnce(&mut PodState, usize)) {
    if let Some(at) = state.containers.iter().position(|container| container.name == name) {
        act(state, at);
    }
}

fn set_if<T: PartialEq>(place: &mut T, expected: &T, value: T) {
    if place == expected {
        *place = value;
    }
}

/// `now` plus a wait.
pub fn after(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// A new version: new ephemeral containers, another image, a deletion.
fn pod_changed(state: &mut PodState, pod: Arc<Pod>, now: Timestamp, actions: &mut Actions) {
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let grace = pod.metadata.deletion_grace_period_seconds;
    state.pod = pod;
    for (role, spec) in spec::containers(&Arc::clone(&state.pod)) {
        if state.container_mut(&spec.name).is_none() {
            state.containers.push(Container::new(role, &spec));
        }
    }
    if deleted {
        let grace = grace.unwrap_or_else(|| spec::grace_period_seconds(&state.pod));
        stop::begin(state, grace, now, actions);
    } else if state.may_start_containers() {
        restart_changed(state, now, actions);
    }
}

/// A container whose image was changed is stopped and started again, whatever the policy.
fn restart_changed(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    for at in 0..state.containers.len() {
        let Some(spec) = state.spec_of(&state.containers[at].name) else { continue };
        let image = spec.image.unwrap_or_default();
        let container = &mut state.containers[at];
        if container.image == image || container.role == Role::Ephemeral {
            continue;
        }
        container.image = image;
        container.backoff = Default::default();
        container.pull_backoff = Default::default();
        match container.phase {
            Phase::Idle { .. } => container.phase = Phase::Idle { retry_at: None },
            Phase::Pulling => {
                container.phase = Phase::Idle { retry_at: None };
                actions.push(Action::CancelImage { container: container.name.clone() });
            }
            // What is being started is seen to be outdated when it runs.
            Phase::Starting => container.restart_forced = true,
            Phase::PostStart(_) | Phase::Running(_) => {
                container.restart_forced = true;
                let message = format!("Container {} definition changed, will be restarted", container.name);
                stop::kill(state, at, message, None, now, actions);
            }
            Phase::Stopping(..) => container.restart_forced = true,
        }
    }
}

/// What failed because something was missing is tried again at once.
fn retry_now(state: &mut PodState) {
    if let Progress::Absent { retry_at } = &mut state.volumes {
        *retry_at = None;
    }
    for container in &mut state.containers {
        let config =
            container.waiting.as_ref().is_some_and(|waiting| waiting.reason == "CreateContainerConfigError");
        if let (true, Phase::Idle { retry_at }) = (config, &mut container.phase) {
            *retry_at = None;
        }
    }
}

fn sandbox_failed(state: &mut PodState, message: String, now: Timestamp, actions: &mut Actions) {
    if let Sandbox::Creating { attempt } = state.sandbox {
        state.sandbox = Sandbox::Absent { attempt, retry_at: Some(after(now, RETRY)) };
        let message = format!("Failed to create pod sandbox: {message}");
        actions.push(Action::Record(Record::pod_warning("FailedCreatePodSandBox", message)));
    }
}

/// Nothing of the Pod runs any more: a Pod that is wanted gets a new sandbox.
fn sandbox_died(state: &mut PodState, died: &str, now: Timestamp, actions: &mut Actions) {
    let Sandbox::Ready { attempt, id, ips } = &state.sandbox else { return };
    if id != died {
        return;
    }
    let (attempt, id, ips) = (*attempt, id.clone(), ips.clone());
    for container in &mut state.containers {
        let Some(run) = container.phase.run().cloned() else { continue };
        container_exited(container, lost(&run, now), actions);
    }
    if state.may_start_containers() {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        actions.push(Action::Record(Record::pod_normal("SandboxChanged", message.into())));
        state.sandbox = Sandbox::Absent { attempt: attempt + 1, retry_at: None };
    } else {
        state.sandbox = Sandbox::Ready { attempt, id, ips };
    }
}

/// The exit of a container that vanished.
pub fn lost(run: &Run, now: Timestamp) -> Exit {
    Exit {
        id: run.id.clone(),
        code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
        started_at: Some(run.started_at),
        finished_at: now,
    }
}

fn container_failed(
    state: &mut PodState,
    at: usize,
    failure: StartFailure,
    message: String,
    now: Timestamp,
    actions: &mut Actions,
) {
    let number = state.sandbox.number();
    let container = &mut state.containers[at];
    if container.phase != Phase::Starting {
        return;
    }
    warn(container, actions, "Failed", format!("Error: {message}"));
    container.phase = Phase::Idle { retry_at: Some(after(now, RETRY)) };
    let reason = match failure {
        StartFailure::Config => "CreateContainerConfigError",
        StartFailure::Create => "CreateContainerError",
        StartFailure::Run { id, at, exit_code } => {
            let exit = Exit {
                id,
                code: exit_code,
                reason: "StartError".into(),
                message: message.clone(),
                started_at: None,
                finished_at: at,
            };
            container.attempt = container.next_attempt();
            container.previous = container.exited.replace(exit);
            container.ran_in = number;
            container.phase = Phase::Idle { retry_at: None };
            "RunContainerError"
        }
    };
    container.waiting = Some(Waiting { reason, message });
    if container.exited.is_some() && !start::wants_restart(state, at) {
        state.containers[at].waiting = None;
    }
}

/// The instance has ended; whether another follows is decided by `advance`.
fn container_exited(container: &mut Container, exit: Exit, actions: &mut Actions) {
    let Some(run) = container.phase.run() else { return };
    if run.id != exit.id {
        return;
    }
    for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
        actions.push(Action::StopProbe { container: container.name.clone(), kind });
    }
    container.phase = Phase::Idle { retry_at: None };
    container.waiting = None;
    container.probes = Default::default();
    if let Some(old) = container.previous.take() {
        actions.push(Action::RemoveContainer { id: old.id });
    }
    container.previous = container.exited.replace(exit);
}

/// Counts one probe result and acts when a threshold is reached.
fn probed(
    state: &mut PodState,
    at: usize,
    id: &str,
    (kind, outcome): (ProbeKind, Outcome),
    now: Timestamp,
    actions: &mut Actions,
) {
    let container = &state.containers[at];
    let Phase::Running(run) = &container.phase else { return };
    let Some(spec) = state.spec_of(&container.name) else { return };
    let (true, Some(probe)) = (run.id == id, kind.of(&spec)) else { return };
    let word = kind.word();
    let success = match outcome {
        Outcome::Success => true,
        Outcome::Warning(message) => {
            warn(container, actions, "ProbeWarning", format!("{word} probe warning: {message}"));
            true
        }
        Outcome::Failure(message) => {
            warn(container, actions, "Unhealthy", format!("{word} probe failed: {message}"));
            false
        }
        Outcome::Error(message) => {
            let text = format!("{word} probe errored and resulted in unknown state: {message}");
            warn(container, actions, "Unhealthy", text);
            return;
        }
    };
    let reached = state.containers[at].probes.tracker(kind).note(probe, success);
    match (kind, reached) {
        (_, None) | (ProbeKind::Readiness, _) | (ProbeKind::Liveness, Some(true)) => {}
        (ProbeKind::Startup, Some(true)) => start::started(state, at, actions),
        (ProbeKind::Startup | ProbeKind::Liveness, Some(false)) => {
            if state.may_start_containers() {
                let grace = probe.termination_grace_period_seconds;
                let message = format!("Container {} failed {} probe", spec.name, word.to_lowercase());
                let restart =
                    super::policy::restarts_on_failure(&state.pod, &spec, state.containers[at].role);
                let message = if restart { format!("{message}, will be restarted") } else { message };
                stop::kill(state, at, message, grace, now, actions);
            }
        }
    }
}

/// A Normal event about a container.
pub fn record(container: &Container, actions: &mut Actions, reason: &'static str, message: String) {
    actions.push(Action::Record(Record::container(container, false, reason, message)));
}

/// A Warning event about a container.
pub fn warn(container: &Container, actions: &mut Actions, reason: &'static str, message: String) {
    actions.push(Action::Record(Record::container(container, true, reason, message)));
}

impl Record {
    /// Normal, about the Pod.
    pub fn pod_normal(reason: &'static str, message: String) -> Self {
        Self { warning: false, reason, reason_text: None, message, field_path: None }
    }

    /// Warning, about the Pod.
    pub fn pod_warning(reason: &'static str, message: String) -> Self {
        Self { warning: true, ..Self::pod_normal(reason, message) }
    }

    /// With a reason that is only known now.
    fn with_reason(self, reason: String) -> Self {
        Self { reason_text: Some(reason), ..self }
    }

    fn container(container: &Container, warning: bool, reason: &'static str, message: String) -> Self {
        let field_path = Some(spec::field_path(container.role, &container.name));
        Self { warning, reason, reason_text: None, message, field_path }
    }

    /// The word.
    pub fn reason(&self) -> &str {
        self.reason_text.as_deref().unwrap_or(self.reason)
    }
}
