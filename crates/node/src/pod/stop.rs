//! Taking a Pod down: endpoints, mains, sidecars, sandbox, volumes, files, object.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::event::{Action, PreStop, Record};
use super::probe::ProbeKind;
use super::spec::{self, Role};
use super::start;
use super::state::{
    Container, Endpoints, Kill, Phase, PodState, Progress, Sandbox, Stage, Termination, Verdict, until,
};
use super::step::{Actions, RETRY, after, record};

/// Every stop gets at least this long (upstream's minimum grace period).
pub const MINIMUM_GRACE: SignedDuration = SignedDuration::from_secs(2);
/// Longest wait for proxies to confirm that they send nothing new.
pub const WITHDRAW_AT_MOST: Duration = Duration::from_secs(5);

/// When the Pod is too old, if it has a limit.
pub fn active_deadline(state: &PodState) -> Option<Timestamp> {
    let seconds = spec::spec(&state.pod).active_deadline_seconds?;
    Some(after(state.start_time, SignedDuration::from_secs(seconds)))
}

/// Ends an active Pod that is too old or has nothing left to run.
pub(super) fn end_if_over(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    if !state.may_start_containers() {
        return;
    }
    let own = spec::grace_period_seconds(&state.pod);
    if active_deadline(state).is_some_and(|deadline| deadline <= now) {
        let message = "Pod was active on the node longer than the specified deadline";
        actions.push(Action::Record(Record::pod_normal("DeadlineExceeded", message.into())));
        state.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message: message.into() });
        begin(state, own, now, actions);
    } else if has_run_out(state) {
        begin(state, own, now, actions);
    }
}

/// Whether all mains have ended for good, or an init container has failed for good.
fn has_run_out(state: &PodState) -> bool {
    let init_failed =
        (0..state.containers.len()).any(|at| start::has_failed(state, at)) && !state.is_initialized();
    let mut mains =
        (0..state.containers.len()).filter(|at| state.containers[*at].role == Role::Main).peekable();
    let some = mains.peek().is_some();
    init_failed || some && mains.all(|at| has_ended(state, at))
}

fn has_ended(state: &PodState, at: usize) -> bool {
    let container = &state.containers[at];
    matches!(container.phase, Phase::Idle { .. })
        && container.exited.is_some()
        && !start::wants_restart(state, at)
}

/// Begins a stop, or shortens one that is under way.
pub(super) fn begin(state: &mut PodState, grace_seconds: i64, now: Timestamp, actions: &mut Actions) {
    let deadline = after(now, SignedDuration::from_secs(grace_seconds.max(0)));
    if let Stage::Terminating(termination) = &mut state.stage {
        termination.deadline = termination.deadline.min(deadline);
        if grace_seconds <= 0 {
            termination.endpoints = Endpoints::Withdrawn;
        }
    }
    if !state.may_start_containers() {
        return;
    }
    for container in &mut state.containers {
        leave(container, actions);
    }
    let endpoints =
        if grace_seconds > 0 && serves(state) { Endpoints::Withdrawing } else { Endpoints::Withdrawn };
    if endpoints == Endpoints::Withdrawing {
        // Half of the grace at most: the program wants the other half for itself.
        let at_most = WITHDRAW_AT_MOST.min(until(now, deadline) / 2);
        actions.push(Action::WithdrawEndpoints { at_most });
    }
    state.stage = Stage::Terminating(Termination { deadline, endpoints });
}

/// What must not go on once a Pod ends: pulls, and probes that could restart something.
fn leave(container: &mut Container, actions: &mut Actions) {
    match container.phase {
        Phase::Pulling => {
            container.phase = Phase::Idle { retry_at: None };
            actions.push(Action::CancelImage { container: container.name.clone() });
        }
        Phase::PostStart(_) | Phase::Running(_) | Phase::Stopping(..) => {
            stop_killing_probes(container, actions)
        }
        Phase::Idle { .. } | Phase::Starting => {}
    }
}

fn stop_killing_probes(container: &Container, actions: &mut Actions) {
    for kind in [ProbeKind::Startup, ProbeKind::Liveness] {
        actions.push(Action::StopProbe { container: container.name.clone(), kind });
    }
}

/// Whether a Service may be sending connections: the Pod goes away while it is ready.
fn serves(state: &PodState) -> bool {
    let leaving = state.pod.metadata.deletion_timestamp.is_some() || state.verdict.is_some();
    let mut mains = state.containers.iter().filter(|container| container.role == Role::Main);
    leaving
        && mains.any(|container| state.spec_of(&container.name).is_some_and(|spec| container.is_ready(&spec)))
}

/// Stops one container.
pub(super) fn kill(
    state: &mut PodState,
    at: usize,
    message: String,
    grace_seconds: Option<i64>,
    now: Timestamp,
    actions: &mut Actions,
) {
    let own = grace_seconds.unwrap_or_else(|| spec::grace_period_seconds(&state.pod));
    let deadline = after(now, SignedDuration::from_secs(own).max(MINIMUM_GRACE));
    kill_by(&mut state.containers[at], deadline, message, now, actions);
}

fn kill_by(
    container: &mut Container,
    deadline: Timestamp,
    message: String,
    now: Timestamp,
    actions: &mut Actions,
) {
    let (Phase::PostStart(run) | Phase::Running(run)) = &container.phase else { return };
    let run = run.clone();
    record(container, actions, "Killing", message);
    stop_killing_probes(container, actions);
    actions.push(Action::KillContainer {
        container: container.name.clone(),
        id: run.id.clone(),
        grace: until(now, deadline),
        hook: PreStop::Run,
    });
    container.phase = Phase::Stopping(run, Kill { deadline, retry_at: None });
}

/// The runtime could not stop it: try again.
pub(super) fn kill_failed(
    container: &mut Container,
    id: &str,
    message: &str,
    now: Timestamp,
    actions: &mut Actions,
) {
    let Phase::Stopping(run, kill) = &mut container.phase else { return };
    if run.id == id {
        kill.retry_at = Some(after(now, RETRY));
        let text = format!(
            "error killing pod: failed to \"KillContainer\" for {:?} with KillContainerError: {message:?}",
            container.name
        );
        actions.push(Action::Record(Record::pod_warning("FailedKillPod", text)));
    }
}

/// Takes a Pod that is not active any more as far down as it can go now.
pub(super) fn advance(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    loop {
        let before = state.stage.clone();
        match &mut state.stage {
            Stage::Active | Stage::Gone => {}
            Stage::Terminating(_) => {
                stop_containers(state, now, actions);
                if !state.has_containers() && release(state, now, actions) {
                    state.stage = Stage::Terminated;
                }
            }
            Stage::Terminated => {
                if state.removed_from_api || state.pod.metadata.deletion_timestamp.is_some() {
                    actions.push(Action::RemovePod);
                    state.stage = Stage::Removing { retry_at: None, underway: true };
                }
            }
            Stage::Removing { retry_at, underway } => {
                if retry_at.is_some_and(|at| at <= now) && !*underway {
                    (*retry_at, *underway) = (None, true);
                    actions.push(Action::RemovePod);
                }
            }
            Stage::Deleting { retry_at } => {
                if state.removed_from_api {
                    state.stage = Stage::Gone;
                } else if retry_at.is_some_and(|at| at <= now) {
                    *retry_at = None;
                    actions.push(Action::DeleteObject);
                }
            }
        }
        if state.stage == before {
            return;
        }
    }
}

/// Mains first, all at once; then the sidecars from the last to the first.
fn stop_containers(state: &mut PodState, now: Timestamp, actions: &mut Actions) {
    let Stage::Terminating(termination) = &mut state.stage else { return };
    let overdue = termination.deadline <= now;
    if overdue {
        termination.endpoints = Endpoints::Withdrawn;
    }
    if termination.endpoints == Endpoints::Withdrawing {
        return;
    }
    let deadline = termination.deadline.max(after(now, MINIMUM_GRACE));
    let mut later_gone = true;
    for sidecars in [false, true] {
        for container in
            state.containers.iter_mut().rev().filter(|one| (one.role == Role::Sidecar) == sidecars)
        {
            if !sidecars || later_gone || overdue {
                let message = format!("Stopping container {}", container.name);
                kill_by(container, deadline, message, now, actions);
            }
            hasten(container, deadline, now, actions);
            later_gone &= !(sidecars && container.phase.holds_process());
        }
        later_gone &= sidecars || !state.has_containers_but_sidecars();
    }
}

/// Shortens a stop that is under way, or repeats one that failed.
fn hasten(container: &mut Container, deadline: Timestamp, now: Timestamp, actions: &mut Actions) {
    let Phase::Stopping(run, kill) = &mut container.phase else { return };
    let failed = kill.retry_at.is_some_and(|at| at <= now);
    if deadline >= kill.deadline && !failed {
        return;
    }
    kill.deadline = kill.deadline.min(deadline);
    kill.retry_at = None;
    let grace = until(now, kill.deadline).max(Duration::from_secs(u64::from(failed)));
    let (container, id) = (container.name.clone(), run.id.clone());
    actions.push(Action::KillContainer { container, id, grace, hook: PreStop::Skip });
}

/// Stops the sandbox, then unmounts the volumes; true when both are gone.
fn release(state: &mut PodState, now: Timestamp, actions: &mut Actions) -> bool {
    match &mut state.sandbox {
        Sandbox::Creating { .. } => return false,
        Sandbox::Absent { .. } => state.sandbox = Sandbox::Stopped { ips: Vec::new() },
        Sandbox::Ready { id, ips, .. } => {
            actions.push(Action::StopSandbox { id: id.clone() });
            state.sandbox =
                Sandbox::Stopping { id: std::mem::take(id), ips: std::mem::take(ips), retry_at: None };
        }
        Sandbox::Stopping { id, retry_at, .. } => {
            if retry_at.is_some_and(|at| at <= now) {
                *retry_at = None;
                actions.push(Action::StopSandbox { id: id.clone() });
            }
        }
        Sandbox::Stopped { .. } => {}
    }
    matches!(state.sandbox, Sandbox::Stopped { .. }) && release_volumes(state, now, actions)
}

fn release_volumes(state: &mut PodState, now: Timestamp, actions: &mut Actions) -> bool {
    match state.volumes {
        // A failed mount may have left some of the volumes behind; a Pod that never tried has none.
        Progress::Absent { retry_at: None } => state.volumes = Progress::Released,
        Progress::Absent { .. } | Progress::Present => {
            state.volumes = Progress::Releasing;
            actions.push(Action::UnmountVolumes);
        }
        Progress::Stuck { retry_at } if retry_at <= now => {
            state.volumes = Progress::Releasing;
            actions.push(Action::UnmountVolumes);
        }
        Progress::Stuck { .. } | Progress::Underway | Progress::Releasing | Progress::Released => {}
    }
    state.volumes == Progress::Released
}

/// Proxies have confirmed, or the wait is over.
pub(super) fn endpoints_withdrawn(state: &mut PodState) {
    if let Stage::Terminating(termination) = &mut state.stage {
        termination.endpoints = Endpoints::Withdrawn;
    }
}

/// The sandbox was stopped.
pub(super) fn sandbox_stopped(
    state: &mut PodState,
    result: Result<(), String>,
    now: Timestamp,
    actions: &mut Actions,
) {
    let Sandbox::Stopping { ips, retry_at, .. } = &mut state.sandbox else { return };
    match result {
        Ok(()) => state.sandbox = Sandbox::Stopped { ips: std::mem::take(ips) },
        Err(message) => {
            *retry_at = Some(after(now, RETRY));
            let text = format!(
                "error killing pod: failed to \"KillPodSandbox\" with KillPodSandboxError: {message:?}"
            );
            actions.push(Action::Record(Record::pod_warning("FailedKillPod", text)));
        }
    }
}

/// The volumes were unmounted.
pub(super) fn volumes_unmounted(state: &mut PodState, result: Result<(), String>, now: Timestamp) {
    if state.volumes == Progress::Releasing {
        state.volumes = match result {
            Ok(()) => Progress::Released,
            Err(_) => Progress::Stuck { retry_at: after(now, RETRY) },
        };
    }
}

/// Nothing of the Pod is left on the node.
pub(super) fn removed(state: &mut PodState, result: Result<(), String>, now: Timestamp) {
    if let Stage::Removing { retry_at, underway } = &mut state.stage {
        *underway = false;
        match result {
            // `advance` asks for the deletion: a first try is a try that is due.
            Ok(()) => state.stage = Stage::Deleting { retry_at: Some(now) },
            Err(_) => *retry_at = Some(after(now, RETRY)),
        }
    }
}

/// The API was asked to delete the object; its watch tells when it is gone.
pub(super) fn object_deleted(state: &mut PodState, result: Result<(), String>, now: Timestamp) {
    if let (Stage::Deleting { retry_at }, Err(_)) = (&mut state.stage, result) {
        *retry_at = Some(after(now, SignedDuration::from_secs(1)));
    }
}

impl PodState {
    fn has_containers_but_sidecars(&self) -> bool {
        self.containers
            .iter()
            .any(|container| container.role != Role::Sidecar && container.phase.holds_process())
    }
}
