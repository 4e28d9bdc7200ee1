//! Taking a Pod down: endpoints, mains, sidecars, sandbox, volumes, files, object.

use client::Retry;
use jiff::{SignedDuration, Timestamp};

use super::clock::{Now, Steady};
use super::event::{Action, HookReport, Record};
use super::probe::ProbeKind;
use super::spec::{self, Role};
use super::start::{self, due};
use super::state::{
    Cause, Container, Endpoints, Kill, Phase, PodState, Progress, Run, Sandbox, Stage, StopStep, Termination,
    Verdict,
};
use super::step::{Actions, RETRY, record, warn};

/// Every stop gets at least this long (upstream's minimum grace period).
pub const MINIMUM_GRACE: SignedDuration = SignedDuration::from_secs(2);

/// When the Pod is too old, if it has a limit.
pub fn active_deadline(state: &PodState) -> Option<Timestamp> {
    let seconds = spec::spec(&state.pod).active_deadline_seconds?;
    let limit = SignedDuration::from_secs(seconds);
    Some(state.start_time.saturating_add(limit).unwrap_or(Timestamp::MAX))
}

/// Ends an active Pod that is too old or has nothing left to run.
pub(super) fn end_if_over(state: &mut PodState, now: Now, actions: &mut Actions) {
    if !state.may_start_containers() {
        return;
    }
    let own = spec::grace_period_seconds(&state.pod);
    // By the clock on the wall, which is what the start in the status was written by.
    if active_deadline(state).is_some_and(|deadline| deadline <= now.time) {
        let message = "Pod was active on the node longer than the specified deadline";
        actions.push(Action::Record(Record::pod_normal("DeadlineExceeded", message.into())));
        state.verdict = Some(Verdict { cause: Cause::DeadlineExceeded, message: message.into() });
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
    // `all` of none would be true: a Pod without mains, which the API refuses, must not look ended here.
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
pub(super) fn begin(state: &mut PodState, grace_seconds: i64, now: Now, actions: &mut Actions) {
    let deadline = now.after(SignedDuration::from_secs(grace_seconds.max(0)));
    if let Stage::Terminating(termination) = &mut state.stage {
        // Grace only shrinks: whoever deletes again may be in more of a hurry, never in less.
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
    // Before anything is told to end: a program that still gets new connections loses them.
    let endpoints =
        if grace_seconds > 0 && serves(state) { Endpoints::Withdrawing } else { Endpoints::Withdrawn };
    if endpoints == Endpoints::Withdrawing {
        // Half of the grace at most: the program wants the other half for itself.
        let at_most = now.steady.until(deadline) / 2;
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
        Phase::Idle { .. } | Phase::Starting(_) => {}
    }
}

fn stop_killing_probes(container: &Container, actions: &mut Actions) {
    for kind in [ProbeKind::Startup, ProbeKind::Liveness] {
        actions.push(Action::StopProbe { container: container.name.clone(), kind });
    }
}

/// Whether a Service may be sending connections: the Pod goes away while its programs run. Whether it is ready
/// says too little: what proxies have been told may be older than the last probe, by a daemon's life even, and
/// some Services lead to Pods that are not. Who is led to by none has nothing to wait for.
fn serves(state: &PodState) -> bool {
    // One that has run out by itself answers nobody any more.
    let leaving = state.pod.metadata.deletion_timestamp.is_some() || state.verdict.is_some();
    let mut mains = state.containers.iter().filter(|container| container.role == Role::Main);
    leaving && mains.any(|container| container.phase.holds_process())
}

/// What is on its way up stays where it is.
pub(super) fn cancel_start(container: &mut Container, actions: &mut Actions) {
    if container.phase == Phase::Pulling {
        leave(container, actions);
    }
}

/// Ends a container that runs: the signal, without its hook, and the least time that there is for it. False:
/// it does not run, or is being stopped already.
pub(super) fn end_at_once(state: &mut PodState, at: usize, now: Now, actions: &mut Actions) -> bool {
    let container = &mut state.containers[at];
    let (Phase::PostStart(run) | Phase::Running(run)) = &container.phase else { return false };
    let run = run.clone();
    let message = format!("Container {} will be restarted with all of the Pod", container.name);
    record(container, actions, "Killing", message);
    stop_killing_probes(container, actions);
    terminate(container, run, now.steady, now, actions);
    true
}

/// Stops one container.
pub(super) fn kill(
    state: &mut PodState,
    at: usize,
    message: String,
    grace_seconds: Option<i64>,
    now: Now,
    actions: &mut Actions,
) {
    let own = grace_seconds.unwrap_or_else(|| spec::grace_period_seconds(&state.pod));
    kill_by(state, at, now.after(SignedDuration::from_secs(own)), message, now, actions);
}

/// Begins the stop: the hook if there is one and time for it, else the signal.
fn kill_by(
    state: &mut PodState,
    at: usize,
    deadline: Steady,
    message: String,
    now: Now,
    actions: &mut Actions,
) {
    let spec = state.spec_of(&state.containers[at].name);
    let hook = spec.and_then(|spec| spec.lifecycle).is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
    let container = &mut state.containers[at];
    let (Phase::PostStart(run) | Phase::Running(run)) = &container.phase else { return };
    let run = run.clone();
    record(container, actions, "Killing", message);
    stop_killing_probes(container, actions);
    // Without time left the hook would begin only to be broken off.
    if hook && deadline > now.steady {
        actions.push(Action::RunPreStop { container: container.name.clone(), id: run.id.clone() });
        container.phase = Phase::Stopping(run, Kill { step: StopStep::PreStop, deadline });
    } else {
        terminate(container, run, deadline, now, actions);
    }
}

/// The signal, and at least two seconds for it: also after a hook that took all the time there
/// was (upstream's one-time extension).
fn terminate(container: &mut Container, run: Run, deadline: Steady, now: Now, actions: &mut Actions) {
    actions.push(Action::TerminateContainer { container: container.name.clone(), id: run.id.clone() });
    let deadline = deadline.max(now.after(MINIMUM_GRACE));
    container.phase = Phase::Stopping(run, Kill { step: StopStep::Terminate { retry_at: None }, deadline });
}

/// Takes each stop that is under way to its next step when it is time for it.
pub(super) fn advance_kills(state: &mut PodState, now: Now, actions: &mut Actions) {
    for container in &mut state.containers {
        let name = container.name.clone();
        let Phase::Stopping(run, kill) = &mut container.phase else { continue };
        let over = kill.deadline <= now.steady;
        let id = run.id.clone();
        match &mut kill.step {
            StopStep::PreStop if over => {
                // The hook's time is the program's: upstream counts both against one grace period.
                actions.push(Action::CancelPreStop { container: name });
                let (run, deadline) = (run.clone(), kill.deadline);
                terminate(container, run, deadline, now, actions);
            }
            StopStep::Terminate { .. } if over => {
                kill.step = StopStep::Kill { retry_at: None };
                actions.push(Action::KillContainer { container: name, id });
            }
            StopStep::Terminate { retry_at } if retry_at.is_some() && due(*retry_at, now) => {
                *retry_at = None;
                actions.push(Action::TerminateContainer { container: name, id });
            }
            StopStep::Kill { retry_at } if retry_at.is_some() && due(*retry_at, now) => {
                *retry_at = None;
                actions.push(Action::KillContainer { container: name, id });
            }
            StopStep::PreStop | StopStep::Terminate { .. } | StopStep::Kill { .. } => {}
        }
    }
}

/// The hook has ended: now the signal.
pub(super) fn pre_stop_done(
    container: &mut Container,
    id: &str,
    result: Result<HookReport, String>,
    now: Now,
    actions: &mut Actions,
) {
    let Phase::Stopping(run, Kill { step: StopStep::PreStop, deadline }) = &container.phase else { return };
    if run.id != id {
        return;
    }
    match result {
        Ok(report) => actions.extend(Record::of_hook(container, report).map(Action::Record)),
        // A hook that fails changes nothing: the program is to end, with its help or without.
        Err(_) => warn(container, actions, "FailedPreStopHook", "PreStopHook failed".into()),
    }
    let (run, deadline) = (run.clone(), *deadline);
    terminate(container, run, deadline, now, actions);
}

/// The runtime could not stop it: try again.
pub(super) fn kill_failed(
    container: &mut Container,
    id: &str,
    message: &str,
    now: Now,
    actions: &mut Actions,
) {
    let Phase::Stopping(run, kill) = &mut container.phase else { return };
    if run.id != id {
        return;
    }
    match &mut kill.step {
        // The hook is not the runtime's to stop; its own end is told.
        StopStep::PreStop => return,
        StopStep::Terminate { retry_at } | StopStep::Kill { retry_at } => {
            *retry_at = Some(now.after(RETRY));
        }
    }
    let text = format!(
        "error killing pod: failed to \"KillContainer\" for {:?} with KillContainerError: {message:?}",
        container.name
    );
    actions.push(Action::Record(Record::pod_warning("FailedKillPod", text)));
}

/// Takes a Pod that is not active any more as far down as it can go now.
pub(super) fn advance(state: &mut PodState, now: Now, actions: &mut Actions) {
    loop {
        let before = state.stage.clone();
        match &mut state.stage {
            Stage::Active | Stage::Gone => {}
            Stage::Terminating(_) => {
                stop_containers(state, now, actions);
                // The sandbox is the containers' ground: it goes when none stands on it.
                if !state.has_containers() && release(state, now, actions) {
                    state.stage = Stage::Terminated;
                    // It went for what it had: upstream leaves not even the logs of those.
                    if state.is_evicted() {
                        actions.push(Action::RemoveContents);
                    }
                }
            }
            Stage::Terminated => {
                // A Pod that has ended by itself stays, with its logs, until somebody deletes it.
                if state.removed_from_api || state.pod.metadata.deletion_timestamp.is_some() {
                    actions.push(Action::RemovePod);
                    state.stage = Stage::Removing { retry_at: None, underway: true };
                }
            }
            Stage::Removing { retry_at, underway } => {
                if retry_at.is_some_and(|at| at <= now.steady) && !*underway {
                    (*retry_at, *underway) = (None, true);
                    actions.push(Action::RemovePod);
                }
            }
            Stage::Deleting { retry_at } => {
                if state.removed_from_api {
                    state.stage = Stage::Gone;
                } else if retry_at.is_some_and(|at| at <= now.steady) {
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
fn stop_containers(state: &mut PodState, now: Now, actions: &mut Actions) {
    let Stage::Terminating(termination) = &mut state.stage else { return };
    let deadline = termination.deadline;
    let overdue = deadline <= now.steady;
    if overdue {
        termination.endpoints = Endpoints::Withdrawn;
    }
    if termination.endpoints == Endpoints::Withdrawing {
        return;
    }
    // Sidecars serve the mains to their end, and each those that were started after it.
    let mut later_gone = true;
    for sidecars in [false, true] {
        for at in (0..state.containers.len()).rev() {
            if (state.containers[at].role == Role::Sidecar) != sidecars {
                continue;
            }
            if !sidecars || later_gone || overdue {
                let message = format!("Stopping container {}", state.containers[at].name);
                kill_by(state, at, deadline, message, now, actions);
            }
            hasten(&mut state.containers[at], deadline, now);
            later_gone &= !(sidecars && state.containers[at].phase.holds_process());
        }
        later_gone &= sidecars || !state.has_containers_but_sidecars();
    }
    advance_kills(state, now, actions);
}

/// Shortens a stop that is under way.
fn hasten(container: &mut Container, deadline: Steady, now: Now) {
    if let Phase::Stopping(_, kill) = &mut container.phase {
        let least = match kill.step {
            StopStep::PreStop => deadline,
            StopStep::Terminate { .. } | StopStep::Kill { .. } => deadline.max(now.after(MINIMUM_GRACE)),
        };
        kill.deadline = kill.deadline.min(least);
    }
}

/// Stops the sandbox, then unmounts the volumes; true when both are gone.
fn release(state: &mut PodState, now: Now, actions: &mut Actions) -> bool {
    match &mut state.sandbox {
        Sandbox::Creating { .. } => return false,
        Sandbox::Absent { .. } => state.sandbox = Sandbox::Stopped { ips: Vec::new() },
        Sandbox::Ready { id, ips, .. } => {
            actions.push(Action::StopSandbox { id: id.clone() });
            state.sandbox =
                Sandbox::Stopping { id: std::mem::take(id), ips: std::mem::take(ips), retry_at: None };
        }
        Sandbox::Stopping { id, retry_at, .. } => {
            if retry_at.is_some_and(|at| at <= now.steady) {
                *retry_at = None;
                actions.push(Action::StopSandbox { id: id.clone() });
            }
        }
        Sandbox::Stopped { .. } => {}
    }
    matches!(state.sandbox, Sandbox::Stopped { .. }) && release_volumes(state, now, actions)
}

fn release_volumes(state: &mut PodState, now: Now, actions: &mut Actions) -> bool {
    match state.volumes {
        // A failed mount may have left some of the volumes behind; a Pod that never tried has none.
        Progress::Absent { retry_at: None } => state.volumes = Progress::Released,
        Progress::Absent { .. } | Progress::Present => {
            state.volumes = Progress::Releasing;
            actions.push(Action::UnmountVolumes);
        }
        Progress::Stuck { retry_at } if retry_at <= now.steady => {
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
    stopped: &str,
    result: Result<(), String>,
    now: Now,
    actions: &mut Actions,
) {
    let Sandbox::Stopping { id, ips, retry_at } = &mut state.sandbox else { return };
    if id != stopped {
        return;
    }
    match result {
        Ok(()) => {
            state.sandbox = Sandbox::Stopped { ips: std::mem::take(ips) };
            state.changed_at = Some(now.steady);
        }
        Err(message) => {
            *retry_at = Some(now.after(RETRY));
            // The kubelet's words, in which tools look for a Pod that cannot be torn down.
            let text = format!(
                "error killing pod: failed to \"KillPodSandbox\" with KillPodSandboxError: {message:?}"
            );
            actions.push(Action::Record(Record::pod_warning("FailedKillPod", text)));
        }
    }
}

/// The volumes were unmounted.
pub(super) fn volumes_unmounted(state: &mut PodState, result: Result<(), String>, now: Now) {
    if state.volumes == Progress::Releasing {
        state.volumes = match result {
            Ok(()) => Progress::Released,
            Err(_) => Progress::Stuck { retry_at: now.after(RETRY) },
        };
    }
}

/// Nothing of the Pod is left on the node.
pub(super) fn removed(state: &mut PodState, result: Result<(), String>, now: Now) {
    if let Stage::Removing { retry_at, underway } = &mut state.stage {
        *underway = false;
        match result {
            // `advance` asks for the deletion: a first try is a try that is due.
            Ok(()) => state.stage = Stage::Deleting { retry_at: Some(now.steady) },
            Err(_) => *retry_at = Some(now.after(RETRY)),
        }
    }
}

/// The API was asked to delete the object; its watch tells when it is gone.
pub(super) fn object_deleted(state: &mut PodState, result: Result<(), Retry>, now: Now) {
    if let (Stage::Deleting { retry_at }, Err(retry)) = (&mut state.stage, result) {
        let pause = match retry {
            Retry::Now => SignedDuration::from_secs(1),
            Retry::After(pause) => SignedDuration::try_from(pause).unwrap_or(RETRY),
            // Nobody tells when it would be allowed, and it must go one day.
            Retry::WaitForChange | Retry::Never => RETRY,
        };
        *retry_at = Some(now.after(pause));
    }
}

impl PodState {
    fn has_containers_but_sidecars(&self) -> bool {
        self.containers
            .iter()
            .any(|container| container.role != Role::Sidecar && container.phase.holds_process())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_object_is_asked_for_again_when_the_server_wants_it() {
        let now = Now { time: Timestamp::UNIX_EPOCH, steady: Steady::new(SignedDuration::from_secs(100)) };
        let asked_again = |retry| {
            let mut state = PodState::admitted(Arc::default(), now.time);
            state.stage = Stage::Deleting { retry_at: None };
            object_deleted(&mut state, Err(retry), now);
            match state.stage {
                Stage::Deleting { retry_at } => retry_at,
                other => panic!("{other:?}"),
            }
        };
        let pause = std::time::Duration::from_secs(30);
        assert_eq!(asked_again(Retry::After(pause)), Some(now.after(SignedDuration::from_secs(30))));
        assert_eq!(asked_again(Retry::Now), Some(now.after(SignedDuration::from_secs(1))));
        assert_eq!(asked_again(Retry::Never), Some(now.after(RETRY)), "it must go one day");
    }
}
