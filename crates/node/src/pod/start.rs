//! Bringing a Pod up: volumes, sandbox, init containers in order, then the mains.

use std::time::Duration;

use jiff::SignedDuration;

use super::backoff::go_duration;
use super::clock::{Now, Steady};
use super::event::{Action, Exit, HookReport, ImageError, ImageRef, Pulled, Record};
use super::observe::Instance;
use super::policy;
use super::probe::ProbeKind;
use super::spec::{self, Role};
use super::state::{Container, Phase, PodState, Progress, Run, Sandbox, Start, Waiting, WaitingReason};
use super::step::{self, Actions, PULL_ERROR_SHOWN, RETRY, record, warn};
use super::{resize, stop};
use crate::container::resources;

/// Asks for the next thing that an active Pod misses.
pub(super) fn advance(state: &mut PodState, now: Now, actions: &mut Actions) {
    if !have_volumes(state, now, actions) || !have_sandbox(state, now, actions) {
        return;
    }
    start_ephemeral(state, now, actions);
    if advance_init(state, now, actions) {
        start_mains(state, now, actions);
    }
}

fn have_volumes(state: &mut PodState, now: Now, actions: &mut Actions) -> bool {
    if let Progress::Absent { retry_at } = &state.volumes
        && due(*retry_at, now)
    {
        state.volumes = Progress::Underway;
        actions.push(Action::MountVolumes);
    }
    state.volumes == Progress::Present
}

fn have_sandbox(state: &mut PodState, now: Now, actions: &mut Actions) -> bool {
    if let Sandbox::Absent { attempt, retry_at } = state.sandbox
        && due(retry_at, now)
    {
        if attempt == 0 && retry_at.is_none() {
            let warn = |message| Action::Record(Record::pod_warning("HostPortNotSupported", message));
            actions.extend(spec::host_ports_of_ipv6(&state.pod).into_iter().map(warn));
        }
        state.resize.limits = resources::pod(&state.pod);
        state.sandbox = Sandbox::Creating { attempt };
        actions.push(Action::RunSandbox { attempt });
    }
    matches!(state.sandbox, Sandbox::Ready { .. })
}

pub(super) fn due(retry_at: Option<Steady>, now: Now) -> bool {
    retry_at.is_none_or(|at| at <= now.steady)
}

fn start_ephemeral(state: &mut PodState, now: Now, actions: &mut Actions) {
    for at in 0..state.containers.len() {
        let container = &state.containers[at];
        if container.role == Role::Ephemeral && container.exited.is_none() {
            try_start(state, at, now, actions);
        }
    }
}

/// Walks the init containers; true when the mains may start.
fn advance_init(state: &mut PodState, now: Now, actions: &mut Actions) -> bool {
    let initialized = state.is_initialized();
    for at in 0..state.containers.len() {
        match state.containers[at].role {
            Role::Main | Role::Ephemeral => {}
            Role::Sidecar => {
                try_start(state, at, now, actions);
                if !initialized && !is_up(&state.containers[at]) {
                    return false;
                }
            }
            Role::Init => {
                if initialized || is_complete(state, at) {
                    continue;
                }
                if !has_failed(state, at) {
                    try_start(state, at, now, actions);
                }
                return false;
            }
        }
    }
    true
}

fn is_up(sidecar: &Container) -> bool {
    matches!(sidecar.phase, Phase::Running(_)) && sidecar.probes.started
}

/// Whether the init container has succeeded in the present sandbox.
fn is_complete(state: &PodState, at: usize) -> bool {
    let container = &state.containers[at];
    let here = container.ran_in.is_some() && container.ran_in == state.sandbox.number();
    here && !container.phase.holds_process() && container.exited.as_ref().is_some_and(|exit| exit.code == 0)
}

/// Whether the init container has failed for good.
pub(super) fn has_failed(state: &PodState, at: usize) -> bool {
    let container = &state.containers[at];
    let Some(exit) = &container.exited else { return false };
    let ended =
        container.role == Role::Init && matches!(container.phase, Phase::Idle { .. }) && exit.code != 0;
    ended && !wants_restart(state, at)
}

/// Whether an ended container is to be started again.
pub(super) fn wants_restart(state: &PodState, at: usize) -> bool {
    let container = &state.containers[at];
    let Some(exit) = &container.exited else { return true };
    let Some(spec) = state.spec_of(&container.name) else { return false };
    container.restart_forced || policy::restarts(&state.pod, &spec, container.role, exit.code)
}

/// Mains start one after another: a later one waits while an earlier one is on its way up.
fn start_mains(state: &mut PodState, now: Now, actions: &mut Actions) {
    for at in 0..state.containers.len() {
        if state.containers[at].role != Role::Main {
            continue;
        }
        if wants_restart(state, at) {
            try_start(state, at, now, actions);
        }
        if state.containers[at].phase.is_starting() {
            return;
        }
    }
}

/// Begins a start unless a back-off forbids it.
fn try_start(state: &mut PodState, at: usize, now: Now, actions: &mut Actions) {
    let full_name = spec::full_name(&state.pod);
    let container = &mut state.containers[at];
    let Phase::Idle { retry_at } = container.phase else { return };
    if !due(retry_at, now)
        || waits_for_pull(container, now, actions)
        || waits_for_restart(container, &full_name, now, actions)
    {
        return;
    }
    // What was changed is taken up by this start; a change from now on is another.
    container.restart_forced = false;
    container.phase = Phase::Pulling;
    actions
        .push(Action::EnsureImage { container: container.name.clone(), reference: container.image.clone() });
}

/// After a failed pull: `ErrImagePull` becomes `ImagePullBackOff` until the delay is over.
fn waits_for_pull(container: &mut Container, now: Now, actions: &mut Actions) -> bool {
    let Some(waiting) = &container.waiting else { return false };
    // Only a registry is spared by waiting longer each time; a bad name, or a policy of Never, is looked at
    // anew every ten seconds.
    let pull_failed =
        matches!(waiting.reason, WaitingReason::Image(ImageError::Pull | ImageError::RegistryUnavailable));
    let until = container.pull_backoff.until_since_update();
    let Some(until) = until.filter(|until| pull_failed && *until > now.steady) else {
        return false;
    };
    let text = format!("Back-off pulling image {:?}", container.missing_image);
    let message = format!("{text}: {}: {}", waiting.reason.word(), waiting.message);
    container.phase = Phase::Idle { retry_at: Some(until) };
    container.waiting = Some(Waiting { reason: WaitingReason::ImagePullBackOff, message });
    record(container, actions, "BackOff", text);
    warn(container, actions, "Failed", "Error: ImagePullBackOff".into());
    true
}

/// After an exit: `CrashLoopBackOff` until the delay is over.
fn waits_for_restart(container: &mut Container, pod: &str, now: Now, actions: &mut Actions) -> bool {
    if container.exited.is_none() || container.restart_forced {
        return false;
    }
    let ended = container.ended_at.unwrap_or(now.steady);
    // Counted from the end and not from the start: one that ran for long enough begins anew.
    let Some(until) = container.backoff.until(ended).filter(|until| *until > now.steady) else {
        container.backoff.next(ended, now.steady);
        return false;
    };
    let (delay, name) = (go_duration(container.backoff.delay()), &container.name);
    let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
    let text = format!("Back-off restarting failed container {name} in pod {pod}");
    container.phase = Phase::Idle { retry_at: Some(until) };
    container.waiting = Some(Waiting { reason: WaitingReason::CrashLoopBackOff, message });
    warn(container, actions, "BackOff", text);
    true
}

/// The image is here: on to the container.
pub(super) fn image_ready(
    state: &mut PodState,
    at: usize,
    reference: &str,
    image: ImageRef,
    pulled: Option<Pulled>,
    actions: &mut Actions,
) {
    let active = state.may_start_containers();
    let sandbox = state.sandbox.clone();
    let container = &mut state.containers[at];
    if container.phase != Phase::Pulling || container.image != reference {
        return;
    }
    record(container, actions, "Pulled", pulled_message(&container.image, pulled));
    // The sandbox may have died, or the Pod have been deleted, during the pull.
    let (true, Sandbox::Ready { attempt, id, .. }) = (active, sandbox) else {
        container.phase = Phase::Idle { retry_at: None };
        return;
    };
    container.actuated = state.allocation.of_container(&container.name).cloned();
    let start = Start { attempt: container.next_attempt(), sandbox: attempt };
    container.phase = Phase::Starting(start);
    actions.push(Action::StartContainer {
        container: container.name.clone(),
        attempt: start.attempt,
        sandbox: id,
        image: image.id.clone(),
    });
    container.image_ref = Some(image);
}

pub(super) fn pulled_message(image: &str, pulled: Option<Pulled>) -> String {
    let Some(pulled) = pulled else {
        return format!(
            "Container image {image:?} already present on machine and can be accessed by the pod"
        );
    };
    let text = |duration: std::time::Duration| {
        go_duration(jiff::SignedDuration::from_millis(
            i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
        ))
    };
    format!(
        "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
        text(pulled.took),
        text(pulled.took_with_waiting),
        pulled.size
    )
}

/// There is no image: say so, and try again later.
pub(super) fn image_failed(
    container: &mut Container,
    reference: &str,
    image: String,
    (error, message): (ImageError, String),
    now: Now,
    actions: &mut Actions,
) {
    if container.phase != Phase::Pulling || container.image != reference {
        return;
    }
    let mut wait = RETRY;
    match error {
        ImageError::NeverPull => warn(container, actions, "ErrImageNeverPull", message.clone()),
        ImageError::InvalidName | ImageError::Inspect => {
            warn(container, actions, "InspectFailed", message.clone())
        }
        ImageError::Pull | ImageError::RegistryUnavailable => {
            let text = format!("Failed to pull image {image:?}: {message}");
            warn(container, actions, "Failed", text);
            container.pull_backoff.next(now.steady, now.steady);
            // So that `kubectl get` shows what went wrong before it shows that we wait.
            wait = PULL_ERROR_SHOWN;
        }
    }
    warn(container, actions, "Failed", format!("Error: {}", error.reason()));
    container.phase = Phase::Idle { retry_at: Some(now.after(wait)) };
    container.waiting = Some(Waiting { reason: WaitingReason::Image(error), message });
    container.missing_image = image;
}

/// The program runs: hooks and probes begin.
pub(super) fn container_started(
    state: &mut PodState,
    at: usize,
    attempt: u32,
    run: Run,
    now: Now,
    actions: &mut Actions,
) {
    let Phase::Starting(start) = state.containers[at].phase else { return };
    if start.attempt != attempt {
        return;
    }
    // The news of its end, or of its sandbox's, may have overtaken that of its start.
    let there = matches!(&state.sandbox, Sandbox::Ready { attempt, .. } if *attempt == start.sandbox);
    let ended = state.heard.exit_of(&run.id).or_else(|| (!there).then(|| step::lost(&run, now.time)));
    begin_run(state, at, start, run, now, actions);
    if let Some(exit) = ended {
        step::container_exited(&mut state.containers[at], exit, now, actions);
    }
}

/// An instance that was started and never told: as if it were told now.
pub(super) fn take_over(
    state: &mut PodState,
    at: usize,
    instance: &Instance,
    run: Run,
    sandbox: u32,
    now: Now,
    actions: &mut Actions,
) {
    let container = &mut state.containers[at];
    cancel_pull(container, actions);
    container.image_ref = Some(instance.image.clone());
    state.containers[at].actuated = resize::actuated(state, &instance.name, &instance.resources);
    begin_run(state, at, Start { attempt: instance.attempt, sandbox }, run, now, actions);
}

/// An instance that ran and ended, and neither was told.
pub(super) fn take_end(
    state: &mut PodState,
    at: usize,
    instance: &Instance,
    exit: Exit,
    sandbox: u32,
    now: Now,
    actions: &mut Actions,
) {
    let container = &mut state.containers[at];
    cancel_pull(container, actions);
    container.image_ref = Some(instance.image.clone());
    container.attempt = instance.attempt;
    container.ran_in = Some(sandbox);
    container.phase = Phase::Idle { retry_at: None };
    container.waiting = None;
    container.note_exit(exit, now);
}

fn cancel_pull(container: &Container, actions: &mut Actions) {
    if container.phase == Phase::Pulling {
        actions.push(Action::CancelImage { container: container.name.clone() });
    }
}

fn begin_run(state: &mut PodState, at: usize, start: Start, run: Run, now: Now, actions: &mut Actions) {
    state.changed_at = Some(now.steady);
    let spec = state.spec_of(&state.containers[at].name);
    let container = &mut state.containers[at];
    // Granted while it was being started.
    state.resize.look |= container.actuated.as_ref() != state.allocation.of_container(&container.name);
    record(container, actions, "Started", "Container started".into());
    container.attempt = start.attempt;
    container.ran_in = Some(start.sandbox);
    container.waiting = None;
    container.probes = Default::default();
    let hook = spec.and_then(|spec| spec.lifecycle).is_some_and(|lifecycle| lifecycle.post_start.is_some());
    if hook {
        actions.push(Action::RunPostStart { container: container.name.clone(), id: run.id.clone() });
        container.phase = Phase::PostStart(run);
    } else {
        container.phase = Phase::Running(run);
        begin_probes(state, at, now, actions);
    }
}

/// The hook has ended; its failure ends the container.
pub(super) fn post_start_done(
    state: &mut PodState,
    at: usize,
    id: &str,
    result: Result<HookReport, String>,
    now: Now,
    actions: &mut Actions,
) {
    let container = &mut state.containers[at];
    let Phase::PostStart(run) = &container.phase else { return };
    if run.id != id {
        return;
    }
    container.phase = Phase::Running(run.clone());
    match result {
        Ok(report) => {
            actions.extend(Record::of_hook(container, report).map(Action::Record));
            begin_probes(state, at, now, actions);
        }
        Err(_) => {
            // What the hook said may hold secrets: it is not shown (upstream's rule).
            warn(container, actions, "FailedPostStartHook", "PostStartHook failed".into());
            stop::kill(state, at, "FailedPostStartHook".into(), None, now, actions);
        }
    }
}

/// Starts the startup probe, or what comes after it.
fn begin_probes(state: &mut PodState, at: usize, now: Now, actions: &mut Actions) {
    let Some(spec) = state.spec_of(&state.containers[at].name) else { return };
    if spec.startup_probe.is_none() || state.containers[at].probes.started {
        started(state, at, now, actions);
    } else if state.may_start_containers() {
        start_probe(state, at, ProbeKind::Startup, now, actions);
    }
}

/// Probes of a container that ran before the node did.
pub(super) fn resume_probes(state: &mut PodState, at: usize, now: Now, actions: &mut Actions) {
    if let Phase::Running(_) = state.containers[at].phase {
        begin_probes(state, at, now, actions);
    }
}

/// The container counts as started: liveness and readiness probes begin.
pub(super) fn started(state: &mut PodState, at: usize, now: Now, actions: &mut Actions) {
    let Some(spec) = state.spec_of(&state.containers[at].name) else { return };
    let container = &mut state.containers[at];
    container.probes.started = true;
    if spec.startup_probe.is_some() {
        actions.push(Action::StopProbe { container: container.name.clone(), kind: ProbeKind::Startup });
    }
    if state.may_start_containers() {
        start_probe(state, at, ProbeKind::Liveness, now, actions);
    }
    start_probe(state, at, ProbeKind::Readiness, now, actions);
}

/// Initial delays count from the container's start.
fn start_probe(state: &PodState, at: usize, kind: ProbeKind, now: Now, actions: &mut Actions) {
    let container = &state.containers[at];
    let Some(spec) = state.spec_of(&container.name) else { return };
    let (Phase::Running(run), Some(probe)) = (&container.phase, kind.of(&spec)) else { return };
    let initial = SignedDuration::from_secs(i64::from(probe.initial_delay_seconds.unwrap_or(0)));
    let delay = now.steady.until(now.steady_of(run.started_at).plus(initial));
    let (container, id) = (container.name.clone(), run.id.clone());
    actions.push(Action::StartProbe { container, id, kind, delay });
}

/// A probe whose task has failed goes on after its period.
pub(super) fn repeat_probe(state: &PodState, at: usize, id: &str, kind: ProbeKind, actions: &mut Actions) {
    let container = &state.containers[at];
    let Some(spec) = state.spec_of(&container.name) else { return };
    let (Some(run), Some(probe)) = (container.phase.run(), kind.of(&spec)) else { return };
    let wanted = kind == ProbeKind::Readiness
        || state.may_start_containers() && matches!(container.phase, Phase::Running(_));
    if run.id == id && wanted {
        let seconds = u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1);
        let (container, id) = (container.name.clone(), run.id.clone());
        actions.push(Action::StartProbe { container, id, kind, delay: Duration::from_secs(seconds) });
    }
}

impl Container {
    /// Restart number of the instance that comes next.
    pub fn next_attempt(&self) -> u32 {
        self.attempt + u32::from(self.exited.is_some())
    }
}
