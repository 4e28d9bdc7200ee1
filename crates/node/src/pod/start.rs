//! Bringing a Pod up: volumes, sandbox, init containers in order, then the mains.

use jiff::Timestamp;

use super::backoff::go_duration;
use super::event::{Action, ImageError, ImageRef, Pulled};
use super::policy;
use super::probe::ProbeKind;
use super::spec::{self, Role};
use super::state::{Container, Phase, PodState, Progress, Run, Sandbox, Waiting};
use super::step::{Actions, PULL_ERROR_SHOWN, RETRY, after, record, warn};
use super::stop;

/// Asks for the next thing that an active Pod misses.
pub(super) fn advance(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    if !have_volumes(state, now, actions) || !have_sandbox(state, now, actions) {
        return;
    }
    start_ephemeral(state, now, actions);
    if advance_init(state, now, actions) {
        start_mains(state, now, actions);
    }
}

fn have_volumes(state: &mut PodState, now: Timestamp, actions: &mut Actions) -> bool {
    if let Progress::Absent { retry_at } = &state.volumes
        && due(*retry_at, now)
    {
        state.volumes = Progress::Underway;
        actions.push(Action::MountVolumes);
    }
    state.volumes == Progress::Present
}

fn have_sandbox(state: &mut PodState, now: Timestamp, actions: &mut Actions) -> bool {
    if let Sandbox::Absent { attempt, retry_at } = state.sandbox
        && due(retry_at, now)
    {
        state.sandbox = Sandbox::Creating { attempt };
        actions.push(Action::RunSandbox { attempt });
    }
    matches!(state.sandbox, Sandbox::Ready { .. })
}

fn due(retry_at: Option<Timestamp>, now: Timestamp) -> bool {
    retry_at.is_none_or(|at| at <= now)
}

fn start_ephemeral(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    for at in 0..state.containers.len() {
        let container = &state.containers[at];
        if container.role == Role::Ephemeral && container.exited.is_none() {
            try_start(state, at, now, actions);
        }
    }
}

/// Walks the init containers; true when the mains may start.
fn advance_init(state: &mut PodState, now: Timestamp, actions: &mut Actions) -> bool {
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
fn start_mains(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
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
fn try_start(state: &mut PodState, at: usize, now: Timestamp, actions: &mut Actions) {
    let full_name = spec::full_name(&state.pod);
    let container = &mut state.containers[at];
    let Phase::Idle { retry_at } = container.phase else { return };
    if !due(retry_at, now)
        || waits_for_pull(container, now, actions)
        || waits_for_restart(container, &full_name, now, actions)
    {
        return;
    }
    container.restart_forced = false;
    container.phase = Phase::Pulling;
    actions.push(Action::EnsureImage { container: container.name.clone() });
}

/// After a failed pull: `ErrImagePull` becomes `ImagePullBackOff` until the delay is over.
fn waits_for_pull(container: &mut Container, now: Timestamp, actions: &mut Actions) -> bool {
    let Some(waiting) = &container.waiting else { return false };
    let pull_failed = matches!(waiting.reason, "ErrImagePull" | "RegistryUnavailable");
    let Some(until) = container.pull_backoff.until_since_update().filter(|until| pull_failed && *until > now)
    else {
        return false;
    };
    let text = format!("Back-off pulling image {:?}", container.image);
    let message = format!("{text}: {}: {}", waiting.reason, waiting.message);
    container.phase = Phase::Idle { retry_at: Some(until) };
    container.waiting = Some(Waiting { reason: "ImagePullBackOff", message });
    record(container, actions, "BackOff", text);
    warn(container, actions, "Failed", "Error: ImagePullBackOff".into());
    true
}

/// After an exit: `CrashLoopBackOff` until the delay is over.
fn waits_for_restart(container: &mut Container, pod: &str, now: Timestamp, actions: &mut Actions) -> bool {
    let Some(exit) = &container.exited else { return false };
    if container.restart_forced {
        return false;
    }
    let ended = exit.finished_at;
    let Some(until) = container.backoff.until(ended).filter(|until| *until > now) else {
        container.backoff.next(ended, now);
        return false;
    };
    let (delay, name) = (go_duration(container.backoff.delay()), &container.name);
    let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
    let text = format!("Back-off restarting failed container {name} in pod {pod}");
    container.phase = Phase::Idle { retry_at: Some(until) };
    container.waiting = Some(Waiting { reason: "CrashLoopBackOff", message });
    warn(container, actions, "BackOff", text);
    true
}

/// The image is here: on to the container.
pub(super) fn image_ready(
    state: &mut PodState,
    at: usize,
    image: ImageRef,
    pulled: Option<Pulled>,
    actions: &mut Actions,
) {
    let active = state.may_start_containers();
    let sandbox = state.sandbox.clone();
    let container = &mut state.containers[at];
    if container.phase != Phase::Pulling {
        return;
    }
    record(container, actions, "Pulled", pulled_message(&container.image, pulled));
    let (true, Sandbox::Ready { id, .. }) = (active, sandbox) else {
        container.phase = Phase::Idle { retry_at: None };
        return;
    };
    container.phase = Phase::Starting;
    actions.push(Action::StartContainer {
        container: container.name.clone(),
        attempt: container.next_attempt(),
        sandbox: id,
        image: image.id.clone(),
    });
    container.image_ref = Some(image);
}

fn pulled_message(image: &str, pulled: Option<Pulled>) -> String {
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
    error: ImageError,
    message: String,
    now: Timestamp,
    actions: &mut Actions,
) {
    if container.phase != Phase::Pulling {
        return;
    }
    let mut wait = RETRY;
    match error {
        ImageError::NeverPull => warn(container, actions, "ErrImageNeverPull", message.clone()),
        ImageError::InvalidName | ImageError::Inspect => {
            warn(container, actions, "InspectFailed", message.clone())
        }
        ImageError::Pull | ImageError::RegistryUnavailable => {
            let text = format!("Failed to pull image {:?}: {message}", container.image);
            warn(container, actions, "Failed", text);
            container.pull_backoff.next(now, now);
            wait = PULL_ERROR_SHOWN;
        }
    }
    warn(container, actions, "Failed", format!("Error: {}", error.reason()));
    container.phase = Phase::Idle { retry_at: Some(after(now, wait)) };
    container.waiting = Some(Waiting { reason: error.reason(), message });
}

/// The program runs: hooks and probes begin.
pub(super) fn container_started(state: &mut PodState, at: usize, run: Run, actions: &mut Actions) {
    let number = state.sandbox.number();
    let Some(spec) = state.spec_of(&state.containers[at].name) else { return };
    let container = &mut state.containers[at];
    if container.phase != Phase::Starting {
        return;
    }
    record(container, actions, "Started", "Container started".into());
    container.attempt = container.next_attempt();
    container.ran_in = number;
    container.waiting = None;
    container.probes = Default::default();
    let hook = spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    if hook {
        actions.push(Action::RunPostStart { container: container.name.clone(), id: run.id.clone() });
        container.phase = Phase::PostStart(run);
    } else {
        container.phase = Phase::Running(run);
        begin_probes(state, at, actions);
    }
}

/// The hook has ended; its failure ends the container.
pub(super) fn post_start_done(
    state: &mut PodState,
    at: usize,
    id: &str,
    result: Result<(), String>,
    now: Timestamp,
    actions: &mut Actions,
) {
    let container = &mut state.containers[at];
    let Phase::PostStart(run) = &container.phase else { return };
    if run.id != id {
        return;
    }
    container.phase = Phase::Running(run.clone());
    match result {
        Ok(()) => begin_probes(state, at, actions),
        Err(_) => {
            // What the hook said may hold secrets: it is not shown (upstream's rule).
            warn(container, actions, "FailedPostStartHook", "PostStartHook failed".into());
            stop::kill(state, at, "FailedPostStartHook".into(), None, now, actions);
        }
    }
}

/// Starts the startup probe, or what comes after it.
pub(super) fn begin_probes(state: &mut PodState, at: usize, actions: &mut Actions) {
    let container = &state.containers[at];
    let Some(spec) = state.spec_of(&container.name) else { return };
    if spec.startup_probe.is_some() && !container.probes.started {
        start_probe(container, ProbeKind::Startup, actions);
    } else {
        started(state, at, actions);
    }
}

/// The container counts as started: liveness and readiness probes begin.
pub(super) fn started(state: &mut PodState, at: usize, actions: &mut Actions) {
    let Some(spec) = state.spec_of(&state.containers[at].name) else { return };
    let container = &mut state.containers[at];
    container.probes.started = true;
    if spec.startup_probe.is_some() {
        actions.push(Action::StopProbe { container: container.name.clone(), kind: ProbeKind::Startup });
    }
    for kind in [ProbeKind::Liveness, ProbeKind::Readiness] {
        if kind.of(&spec).is_some() {
            start_probe(container, kind, actions);
        }
    }
}

fn start_probe(container: &Container, kind: ProbeKind, actions: &mut Actions) {
    if let Phase::Running(run) = &container.phase {
        actions.push(Action::StartProbe {
            container: container.name.clone(),
            id: run.id.clone(),
            kind,
            started_at: run.started_at,
        });
    }
}

impl Container {
    /// Restart number of the instance that comes next.
    pub fn next_attempt(&self) -> u32 {
        self.attempt + u32::from(self.exited.is_some())
    }
}
