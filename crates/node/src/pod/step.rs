//! One event in, the next state and what to do out.
//!
//! A step has two halves. `note` writes the fact into the state; `advance` then looks
//! at the whole and decides what is missing. What has been asked for is in the state, so
//! that nothing is asked for twice, and what failed carries the time of the next try.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::clock::{Now, Steady};
use super::event::{Action, Event, Exit, HookReport, Record, StartFailure};
use super::probe::{Outcome, ProbeKind};
use super::spec::{self, Role};
use super::state::{
    Cause, Container, Kill, Phase, PodState, Progress, Run, Sandbox, Stage, StopStep, Verdict, Waiting,
    WaitingReason,
};
use super::{observe, resize, restart_all, start, stop};

/// Wait after something the node itself could not do (upstream's Pod sync back-off).
pub const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

/// What [`step`] is to do, in order.
pub type Actions = Vec<Action>;

/// Takes one event.
pub fn step(mut state: PodState, event: Event, now: Now) -> (PodState, Actions) {
    let mut actions = Actions::new();
    note(&mut state, event, now, &mut actions);
    // Always, and not only after facts that seem to matter: what is missing follows from the whole.
    advance(&mut state, now, &mut actions);
    (state, actions)
}

/// How long after `stepped` the state wants a [`Event::Tick`], if nothing happens before. `stepped`
/// is the time of the last step: what has become due since then is due at once.
pub fn wakes_after(state: &PodState, stepped: Now) -> Option<Duration> {
    if !state.observed {
        return None;
    }
    let waits = waits(state).into_iter().flatten().chain(
        state.containers.iter().flat_map(|container| container_waits(state, container).into_iter().flatten()),
    );
    // What was due already at that step waits for another event, not for the clock.
    let first = waits.filter(|at| *at > stepped.steady).min().map(|at| stepped.steady.until(at));
    // By the clock on the wall: activeDeadlineSeconds counts from a time in the status, which outlives
    // this process, where the steady clock does not.
    let too_old = stop::active_deadline(state).filter(|_| state.may_start_containers());
    let too_old = too_old.filter(|at| *at > stepped.time).map(|at| stepped.until(at));
    first.into_iter().chain(too_old).min()
}

fn waits(state: &PodState) -> [Option<Steady>; 4] {
    let stage = match &state.stage {
        Stage::Terminating(termination) => state.has_containers().then_some(termination.deadline),
        Stage::Removing { retry_at, .. } | Stage::Deleting { retry_at } => *retry_at,
        Stage::Active | Stage::Terminated | Stage::Gone => None,
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
    let resize = state.resize.retry_at.filter(|_| state.may_start_containers());
    [stage, sandbox, volumes, resize]
}

fn container_waits(state: &PodState, container: &Container) -> [Option<Steady>; 2] {
    match &container.phase {
        Phase::Idle { retry_at } if state.may_start_containers() => [*retry_at, None],
        Phase::Stopping(_, kill) => match kill.step {
            StopStep::PreStop => [Some(kill.deadline), None],
            StopStep::Terminate { retry_at } => [Some(kill.deadline), retry_at],
            StopStep::Kill { retry_at } => [retry_at, None],
        },
        _ => [None, None],
    }
}

/// Looks at the whole and asks for what is missing.
fn advance(state: &mut PodState, now: Now, actions: &mut Actions) {
    if !state.observed {
        return;
    }
    // Stops first: they may end by the clock alone, and what they end can begin anew in this same step.
    stop::advance_kills(state, now, actions);
    if let Stage::Active = state.stage {
        stop::end_if_over(state, now, actions);
    }
    // Nothing is started while everything ends.
    let starting_over = matches!(state.stage, Stage::Active) && restart_all::advance(state, now, actions);
    match state.stage {
        Stage::Active if starting_over => {}
        Stage::Active => {
            start::advance(state, now, actions);
            resize::advance(state, now, actions);
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
fn note(state: &mut PodState, event: Event, now: Now, actions: &mut Actions) {
    match event {
        Event::Tick => {}
        Event::Observed(seen) => observe::observed(state, &seen, now, actions),
        Event::PodChanged(pod) => pod_changed(state, pod, now, actions),
        Event::PodRemoved { grace_period_seconds } => {
            state.removed_from_api = true;
            let grace = grace_period_seconds.unwrap_or_else(|| spec::grace_period_seconds(&state.pod));
            stop::begin(state, grace, now, actions);
        }
        Event::Refused { reason, message } => {
            // Ends by the way of all Pods: one that was refused at a restart of the agent may have containers.
            judge(state, Verdict { cause: Cause::Refused(reason), message }, actions);
            stop::begin(state, 0, now, actions);
        }
        Event::Evicted { cause, message, grace_period_seconds } => {
            // A Pod that was going already keeps the reason it was going for.
            if state.may_start_containers() {
                judge(state, Verdict { cause, message }, actions);
            }
            // Pressure on the node may shorten what a Pod grants itself, never lengthen it.
            let own = spec::grace_period_seconds(&state.pod);
            let grace = grace_period_seconds.map_or(own, |seconds| seconds.min(own));
            stop::begin(state, grace, now, actions);
        }
        Event::VolumesMounted => set_if(&mut state.volumes, &Progress::Underway, Progress::Present),
        Event::VolumesFailed { message } => volumes_failed(state, message, now, actions),
        Event::SourcesChanged => retry_now(state),
        Event::SandboxReady { attempt, id, ips } => sandbox_ready(state, attempt, id, ips, now, actions),
        Event::SandboxFailed { attempt, message } => sandbox_failed(state, attempt, message, now, actions),
        Event::SandboxDied { id } => {
            // One that is not known yet is remembered: the answer that made it may still be on its way.
            if !sandbox_died(state, &id, now, actions) {
                state.heard.sandbox(id);
            }
        }
        Event::SandboxStopped { id, result } => stop::sandbox_stopped(state, &id, result, now, actions),
        Event::VolumesUnmounted(result) => stop::volumes_unmounted(state, result, now),
        Event::ResizeDecided(decision) => resize::decided(state, decision, actions),
        Event::AllocationKept(result) => resize::kept(state, result, now, actions),
        Event::Resized(result) => resize::resized(state, result, now, actions),
        Event::Removed(result) => stop::removed(state, result, now),
        Event::ObjectDeleted(result) => stop::object_deleted(state, result, now),
        Event::EndpointsWithdrawn => stop::endpoints_withdrawn(state),
        event @ (Event::PullStarted { .. }
        | Event::VolumeImageReady { .. }
        | Event::ImageReady { .. }
        | Event::ImageFailed { .. }) => note_image(state, event, now, actions),
        Event::ContainerCreated { container, .. } => {
            with(state, &container, |state, at| {
                record(&state.containers[at], actions, "Created", "Container created".into())
            });
        }
        Event::ContainerStarted { container, attempt, id, started_at, user } => {
            let run = Run { id, started_at, user };
            with(state, &container, |state, at| {
                start::container_started(state, at, attempt, run, now, actions)
            });
        }
        Event::ContainerFailed { container, attempt, failure, message } => {
            with(state, &container, |state, at| {
                container_failed(state, at, attempt, failure, message, now, actions)
            });
        }
        Event::PostStartDone { container, id, result } => {
            with(state, &container, |state, at| start::post_start_done(state, at, &id, result, now, actions));
        }
        Event::ContainerExited { container, exit } => {
            with(state, &container, |state, at| {
                if !container_exited(&mut state.containers[at], exit.clone(), now, actions) {
                    state.heard.exit(exit);
                }
            });
        }
        Event::PreStopDone { container, id, result } => {
            with(state, &container, |state, at| {
                stop::pre_stop_done(&mut state.containers[at], &id, result, now, actions)
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
        Event::ProbeLost { container, id, kind } => {
            with(state, &container, |state, at| start::repeat_probe(state, at, &id, kind, actions));
        }
    }
}

fn volumes_failed(state: &mut PodState, message: String, now: Now, actions: &mut Actions) {
    if state.volumes == Progress::Underway {
        state.volumes = Progress::Absent { retry_at: Some(now.after(RETRY)) };
        // Upstream's words for what became of a device and of a file system.
        let device = message.starts_with("MapVolume");
        let reason = if device { "FailedMapVolume" } else { "FailedMount" };
        actions.push(Action::Record(Record::pod_warning(reason, message)));
    }
}

/// Says why the Pod may not run here, and keeps it for its status.
fn judge(state: &mut PodState, verdict: Verdict, actions: &mut Actions) {
    let record =
        Record::pod_warning("", verdict.message.clone()).with_reason(verdict.cause.reason().to_owned());
    actions.push(Action::Record(record));
    state.verdict = Some(verdict);
}

/// Of images.
fn note_image(state: &mut PodState, event: Event, now: Now, actions: &mut Actions) {
    match event {
        Event::PullStarted { container, image } => {
            with(state, &container, |state, at| {
                record(&state.containers[at], actions, "Pulling", format!("Pulling image {image:?}"));
            });
        }
        Event::ImageReady { container, reference, image, pulled } => {
            with(state, &container, |state, at| {
                start::image_ready(state, at, &reference, image, pulled, actions)
            });
        }
        Event::VolumeImageReady { container, image, pulled } => {
            with(state, &container, |state, at| {
                record(&state.containers[at], actions, "Pulled", start::pulled_message(&image, pulled))
            });
        }
        Event::ImageFailed { container, reference, image, error, message } => {
            with(state, &container, |state, at| {
                let container = &mut state.containers[at];
                start::image_failed(container, &reference, image, (error, message), now, actions)
            });
        }
        _ => {}
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

/// A new version: new ephemeral containers, another image, a deletion.
fn pod_changed(state: &mut PodState, pod: Arc<Pod>, now: Now, actions: &mut Actions) {
    state.pod = state.allocation.given_to(&pod);
    state.wished = pod;
    for (role, spec) in spec::containers(&Arc::clone(&state.pod)) {
        if state.container_mut(&spec.name).is_none() {
            state.containers.push(Container::new(role, &spec));
        }
    }
    if !state.observed {
        // Heeded when it is known what there is to stop.
        return;
    }
    heed_deletion(state, now, actions);
    if state.may_start_containers() {
        restart_changed(state, now, actions);
    }
}

/// Begins to stop a Pod that is being deleted.
pub(super) fn heed_deletion(state: &mut PodState, now: Now, actions: &mut Actions) {
    let meta = &state.pod.metadata;
    if meta.deletion_timestamp.is_some() {
        let grace = meta.deletion_grace_period_seconds;
        let grace = grace.unwrap_or_else(|| spec::grace_period_seconds(&state.pod));
        stop::begin(state, grace, now, actions);
    }
}

/// A container whose image was changed is stopped and started again, whatever the policy.
fn restart_changed(state: &mut PodState, now: Now, actions: &mut Actions) {
    for at in 0..state.containers.len() {
        let Some(spec) = state.spec_of(&state.containers[at].name) else { continue };
        let image = spec.image.unwrap_or_default();
        let container = &mut state.containers[at];
        if container.image == image || container.role == Role::Ephemeral {
            continue;
        }
        container.image = image;
        // A new image is a new program: what its forerunner did is not held against it.
        container.backoff = Default::default();
        container.pull_backoff = Default::default();
        match container.phase {
            Phase::Idle { .. } => container.phase = Phase::Idle { retry_at: None },
            Phase::Pulling => {
                container.phase = Phase::Idle { retry_at: None };
                actions.push(Action::CancelImage { container: container.name.clone() });
            }
            // What is being started is seen to be outdated when it runs.
            Phase::Starting(_) => container.restart_forced = true,
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
        let config = container
            .waiting
            .as_ref()
            .is_some_and(|waiting| waiting.reason == WaitingReason::CreateContainerConfigError);
        if let (true, Phase::Idle { retry_at }) = (config, &mut container.phase) {
            *retry_at = None;
        }
    }
}

fn sandbox_ready(
    state: &mut PodState,
    attempt: u32,
    id: String,
    ips: Vec<IpAddr>,
    now: Now,
    actions: &mut Actions,
) {
    if state.sandbox != (Sandbox::Creating { attempt }) {
        return;
    }
    state.changed_at = Some(now.steady);
    let dead = state.heard.has_sandbox(&id);
    // What was granted while it was being made is not in its group.
    state.resize.look = true;
    state.sandbox = Sandbox::Ready { attempt, id: id.clone(), ips };
    if dead {
        sandbox_died(state, &id, now, actions);
    }
}

fn sandbox_failed(state: &mut PodState, of: u32, message: String, now: Now, actions: &mut Actions) {
    if let Sandbox::Creating { attempt } = state.sandbox
        && attempt == of
    {
        state.sandbox = Sandbox::Absent { attempt, retry_at: Some(now.after(RETRY)) };
        let message = format!("Failed to create pod sandbox: {message}");
        actions.push(Action::Record(Record::pod_warning("FailedCreatePodSandBox", message)));
    }
}

/// Nothing of the Pod runs any more: a Pod that is wanted gets a new sandbox. False: it is not
/// the Pod's, or not yet.
pub(super) fn sandbox_died(state: &mut PodState, died: &str, now: Now, actions: &mut Actions) -> bool {
    let Sandbox::Ready { attempt, id, .. } = &state.sandbox else { return false };
    if id != died {
        return false;
    }
    let attempt = *attempt;
    for container in &mut state.containers {
        let Some(run) = container.phase.run().cloned() else { continue };
        container_exited(container, lost(&run, now.time), now, actions);
    }
    if state.may_start_containers() {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        actions.push(Action::Record(Record::pod_normal("SandboxChanged", message.into())));
        state.sandbox = Sandbox::Absent { attempt: attempt + 1, retry_at: None };
    }
    true
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
    attempt: u32,
    failure: StartFailure,
    message: String,
    now: Now,
    actions: &mut Actions,
) {
    let container = &mut state.containers[at];
    let Phase::Starting(start) = container.phase else { return };
    if start.attempt != attempt {
        return;
    }
    warn(container, actions, "Failed", format!("Error: {message}"));
    container.phase = Phase::Idle { retry_at: Some(now.after(RETRY)) };
    let reason = match failure {
        StartFailure::Config => WaitingReason::CreateContainerConfigError,
        StartFailure::Create => WaitingReason::CreateContainerError,
        StartFailure::Run { id, at, exit_code } => {
            let exit = Exit {
                id,
                code: exit_code,
                reason: "StartError".into(),
                message: message.clone(),
                started_at: None,
                finished_at: at,
            };
            container.attempt = attempt;
            container.note_exit(exit, now);
            container.ran_in = Some(start.sandbox);
            container.phase = Phase::Idle { retry_at: None };
            WaitingReason::RunContainerError
        }
    };
    container.waiting = Some(Waiting { reason, message });
    if container.exited.is_some() && !start::wants_restart(state, at) {
        state.containers[at].waiting = None;
    }
}

/// The instance has ended; whether another follows is decided by `advance`. False: it is not
/// the one that runs, or not yet.
pub(super) fn container_exited(
    container: &mut Container,
    exit: Exit,
    now: Now,
    actions: &mut Actions,
) -> bool {
    let Some(run) = container.phase.run() else { return false };
    if run.id != exit.id {
        return false;
    }
    if let Phase::Stopping(_, Kill { step: StopStep::PreStop, .. }) = container.phase {
        actions.push(Action::CancelPreStop { container: container.name.clone() });
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
    container.note_exit(exit, now);
    true
}

/// Counts one probe result and acts when a threshold is reached.
fn probed(
    state: &mut PodState,
    at: usize,
    id: &str,
    (kind, outcome): (ProbeKind, Outcome),
    now: Now,
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
        (ProbeKind::Startup, Some(true)) => start::started(state, at, now, actions),
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

    /// A hook was answered in another way than asked for.
    pub(super) fn of_hook(container: &Container, report: HookReport) -> Option<Self> {
        let text = "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded";
        report
            .fell_back_to_http
            .then(|| Self::container(container, true, "LifecycleHTTPFallback", text.into()))
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
