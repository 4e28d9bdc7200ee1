//! What the runtime has of a Pod, and what follows from it.
//!
//! ```text
//! first    what runs is taken over, what ended is remembered, the API's status fills the gaps
//! later    ends nobody told of are found, what runs unknown is taken over or stopped
//! ```
//!
//! An observation may be older than what the machine knows: answers overtake each other. So only
//! what cannot change any more counts always (an end is an end). What is *missing* counts
//! only if nothing has come into being since the question was asked.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use runtime::Resources;

use super::backoff::Backoff;
use super::clock::{Now, Steady};
use super::event::{Action, Exit, ImageRef};
use super::probe::Tracker;
use super::state::{
    Cause, Container, Endpoints, Phase, PodState, Progress, Run, Sandbox, Stage, Termination, Verdict,
};
use super::status::was_sent_away;
use super::step::{self, Actions};
use super::{resize, restart_all, start};

/// Why the runtime was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The Pod is taken up: it is new, or the node or its worker has begun anew.
    TakenUp,
    /// Events were lost.
    EventsLost,
    /// A task of the Pod has failed, and what it did is not known.
    TaskLost,
    /// It is time to look.
    Audit,
}

/// All that the runtime has of a Pod.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Why it was asked.
    pub because: Because,
    /// When it was asked: what it tells is not older.
    pub asked_at: Steady,
    /// Its sandboxes, dead ones too.
    pub sandboxes: Vec<SeenSandbox>,
}

/// One sandbox of the Pod.
#[derive(Clone, Debug)]
pub struct SeenSandbox {
    /// Its number.
    pub attempt: u32,
    /// Its id.
    pub id: String,
    /// Whether it is up; a sandbox that is not never is again.
    pub ready: bool,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Limits of the Pod's own cgroup.
    pub resources: Resources,
    /// What was started in it.
    pub instances: Vec<Instance>,
}

/// One instance of a container. Those that were never started are not told: they are made again.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Container name.
    pub name: String,
    /// Restart number.
    pub attempt: u32,
    /// Image.
    pub image: ImageRef,
    /// Its limits.
    pub resources: Resources,
    /// Running, or how it ended.
    pub state: Result<Run, Exit>,
}

impl Instance {
    fn id(&self) -> &str {
        self.state.as_ref().map_or_else(|exit| &exit.id, |run| &run.id)
    }
}

impl Observed {
    /// The instances of a container with the sandboxes they ran in, the first started first.
    fn instances<'a>(&'a self, name: &'a str) -> Vec<(&'a SeenSandbox, &'a Instance)> {
        let all =
            self.sandboxes.iter().flat_map(|sandbox| sandbox.instances.iter().map(move |one| (sandbox, one)));
        let mut mine: Vec<_> = all.filter(|(_, one)| one.name == name).collect();
        mine.sort_by_key(|(sandbox, one)| (sandbox.attempt, one.attempt));
        mine
    }

    fn sandbox(&self, id: &str) -> Option<&SeenSandbox> {
        self.sandboxes.iter().find(|sandbox| sandbox.id == id)
    }
}

/// Ends that were told before their beginning was known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    exits: Vec<Exit>,
    sandboxes: Vec<String>,
}

/// Beginnings follow within milliseconds: what is older belongs to nothing that is still to come.
const HEARD_AT_MOST: usize = 32;

impl Heard {
    pub(super) fn exit(&mut self, exit: Exit) {
        note(&mut self.exits, exit);
    }

    pub(super) fn sandbox(&mut self, id: String) {
        note(&mut self.sandboxes, id);
    }

    pub(super) fn exit_of(&self, id: &str) -> Option<Exit> {
        self.exits.iter().find(|exit| exit.id == id).cloned()
    }

    pub(super) fn has_sandbox(&self, id: &str) -> bool {
        self.sandboxes.iter().any(|one| one == id)
    }
}

fn note<T: PartialEq>(list: &mut Vec<T>, what: T) {
    if list.contains(&what) {
        return;
    }
    if list.len() == HEARD_AT_MOST {
        list.remove(0);
    }
    list.push(what);
}

/// Takes an observation in.
pub(super) fn observed(state: &mut PodState, seen: &Observed, now: Now, actions: &mut Actions) {
    if state.observed {
        reconcile(state, seen, now, actions);
    } else {
        take_up(state, seen, now, actions);
    }
}

/// The first look: whatever runs goes on running.
fn take_up(state: &mut PodState, seen: &Observed, now: Now, actions: &mut Actions) {
    state.observed = true;
    let last = seen.sandboxes.iter().map(|sandbox| sandbox.attempt).max();
    let ready = seen.sandboxes.iter().filter(|one| one.ready && !state.heard.has_sandbox(&one.id));
    let ready = ready.max_by_key(|sandbox| sandbox.attempt);
    state.sandbox = match ready {
        Some(one) => Sandbox::Ready { attempt: one.attempt, id: one.id.clone(), ips: one.ips.clone() },
        None => Sandbox::Absent { attempt: last.map_or(0, |attempt| attempt + 1), retry_at: None },
    };
    if last.is_some() {
        // Somebody may have mounted them: they are mounted again, or unmounted.
        state.volumes = Progress::Absent { retry_at: Some(now.steady) };
    }
    state.resize.look = true;
    state.resize.limits = ready.map(|one| one.resources.clone()).unwrap_or_default();
    for at in 0..state.containers.len() {
        take_up_container(state, at, seen, now);
    }
    stop_strays(state, seen, actions);
    take_up_restart(state);
    end_as_reported(state, now);
    step::heed_deletion(state, now, actions);
    for at in 0..state.containers.len() {
        start::resume_probes(state, at, now, actions);
    }
}

/// Starting over goes on where the API says that it was; an end that the API has seen was heeded then.
fn take_up_restart(state: &mut PodState) {
    let pod = std::sync::Arc::clone(&state.pod);
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let under_way = { conditions }.any(|one| one.type_ == restart_all::CONDITION && one.status == "True");
    state.restarting_all = under_way;
    for container in &mut state.containers {
        let told = reported(&pod, &container.name).and_then(|status| status.container_id.as_deref());
        let known =
            container.exited.as_ref().is_some_and(|exit| told.is_some_and(|id| bare_id(id) == exit.id));
        let ended = reported(&pod, &container.name).and_then(|status| status.state.as_ref());
        let ended = ended.is_some_and(|state| state.running.is_none());
        container.restart_heeded = known && ended && !under_way;
    }
}

/// A Pod that had ended stays ended: its terminal phase is in the API.
fn end_as_reported(state: &mut PodState, now: Now) {
    let Some(status) = &state.pod.status else { return };
    if !state.may_start_containers() || !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return;
    }
    if let (Some(reason), Some(message)) = (&status.reason, &status.message) {
        // A Pod that was refused for want of room has the word of one that was evicted.
        let cause = match Cause::of_reason(reason) {
            Cause::Refused(_) if was_sent_away(status) => Cause::Evicted,
            cause => cause,
        };
        state.verdict = Some(Verdict { cause, message: message.clone() });
    }
    state.stage = Stage::Terminating(Termination { deadline: now.steady, endpoints: Endpoints::Withdrawn });
}

fn take_up_container(state: &mut PodState, at: usize, seen: &Observed, now: Now) {
    let here = state.sandbox.number().filter(|_| matches!(state.sandbox, Sandbox::Ready { .. }));
    let spec = state.spec_of(&state.containers[at].name);
    let last = seen.instances(&state.containers[at].name).last().map(|(_, one)| one.resources.clone());
    let given = last.and_then(|seen| resize::actuated(state, &state.containers[at].name, &seen));
    let (pod, heard) = (std::sync::Arc::clone(&state.pod), &state.heard);
    let container = &mut state.containers[at];
    let status = reported(&pod, &container.name);
    let name = container.name.clone();
    let mine = seen.instances(&name);
    for (sandbox, instance) in &mine {
        container.actuated.clone_from(&given);
        container.attempt = instance.attempt;
        container.image_ref = Some(instance.image.clone());
        container.ran_in = Some(sandbox.attempt);
        let end = match &instance.state {
            Err(exit) => Some(remembered(status, exit.clone())),
            Ok(run) if Some(sandbox.attempt) != here => Some(step::lost(run, now.time)),
            Ok(run) => heard.exit_of(&run.id),
        };
        match (end, &instance.state) {
            (Some(exit), _) => container.note_exit(exit, now),
            (None, Ok(run)) => container.phase = Phase::Running(run.clone()),
            (None, Err(_)) => {}
        }
    }
    let known: Vec<&str> = mine.iter().map(|(_, one)| one.id()).collect();
    if let Some(status) = status {
        container.take_up_report(status, &known, now);
    }
    container.take_up_waits(status, now);
    if let Phase::Running(run) = &container.phase {
        let about =
            status.filter(|status| status.container_id.as_deref().is_some_and(|id| bare_id(id) == run.id));
        let startup = spec.is_some_and(|spec| spec.startup_probe.is_some());
        // A postStart hook that was cut off is not run again, as with the kubelet: the container counts
        // as what the runtime says it is. Only a startup probe can hold it back.
        let started = !startup || about.is_some_and(|status| status.started == Some(true));
        container.probes.started = started;
        container.probes.startup = if started { Tracker::succeeded() } else { Tracker::default() };
        if about.is_some_and(|status| status.ready) {
            container.probes.readiness = Tracker::succeeded();
        }
    }
}

impl Container {
    /// Notes how the instance that was the latest has ended.
    pub(super) fn note_exit(&mut self, exit: Exit, now: Now) {
        self.ended_at = Some(now.steady_of(exit.finished_at));
        self.restart_heeded = false;
        self.previous = self.exited.replace(exit);
    }

    /// The API's status knows the names of images, and ends of which nothing is left on the node.
    /// It may be older than what is there: then it says nothing about the present.
    fn take_up_report(&mut self, status: &ContainerStatus, known: &[&str], now: Now) {
        let told = u32::try_from(status.restart_count).unwrap_or_default();
        let newer = known.is_empty() || told > self.attempt;
        if newer && self.phase.run().is_none() {
            self.take_up_reported_ends(status, known, now);
        }
        if let Some(image) = &mut self.image_ref
            && !status.image_id.is_empty()
        {
            // The API knows the names under which the image was asked for.
            image.name.clone_from(&status.image);
            image.image_id.clone_from(&status.image_id);
        }
        // A start that failed leaves no instance, but it has been counted and told.
        self.attempt = self.attempt.max(told);
    }

    fn take_up_reported_ends(&mut self, status: &ContainerStatus, known: &[&str], now: Now) {
        let id = |id: &Option<String>| id.as_deref().map(bare_id).unwrap_or_default();
        let ended = [&status.last_state, &status.state];
        let ended = ended.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
        for terminated in ended {
            let id = id(&terminated.container_id);
            if known.contains(&id.as_str()) {
                continue;
            }
            let exit = Exit {
                id,
                code: terminated.exit_code,
                reason: terminated.reason.clone().unwrap_or_default(),
                message: terminated.message.clone().unwrap_or_default(),
                started_at: terminated.started_at.as_ref().map(|time| time.0),
                finished_at: terminated.finished_at.as_ref().map_or(now.time, |time| time.0),
            };
            self.note_exit(exit, now);
        }
        let running = status.state.as_ref().and_then(|state| state.running.as_ref());
        if let Some(running) = running.filter(|_| !known.contains(&id(&status.container_id).as_str())) {
            let started_at = running.started_at.as_ref().map_or(now.time, |time| time.0);
            let run = Run { id: id(&status.container_id), started_at, user: None };
            self.note_exit(step::lost(&run, now.time), now);
        }
        if self.exited.is_some() && self.image_ref.is_none() {
            let (name, image_id) = (status.image.clone(), status.image_id.clone());
            self.image_ref = Some(ImageRef { id: String::new(), name, image_id });
        }
    }

    /// The back-off as it must have been.
    fn take_up_waits(&mut self, status: Option<&ContainerStatus>, now: Now) {
        let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref());
        let backs_off = waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
        let tries = self.attempt + u32::from(self.phase.run().is_none() && backs_off);
        self.backoff = Backoff::resumed(tries.min(self.attempt), self.ended_at.unwrap_or(now.steady));
    }
}

/// A later look: finds what no event has told.
fn reconcile(state: &mut PodState, seen: &Observed, now: Now, actions: &mut Actions) {
    let complete = state.changed_at.is_none_or(|changed| changed < seen.asked_at);
    let before = actions.len();
    let mut found = Vec::new();
    reconcile_sandbox(state, seen, complete, now, &mut found, actions);
    for at in 0..state.containers.len() {
        find_end(state, at, seen, complete, now, &mut found, actions);
        find_instance(state, at, seen, complete, now, &mut found, actions);
    }
    if complete && stop_strays(state, seen, actions) {
        found.push("a sandbox of the Pod ran unknown".into());
    }
    let reports = found.into_iter().map(|found| Action::Report { because: seen.because, found });
    // Said first: what follows from it comes after.
    actions.splice(before..before, reports.collect::<Vec<_>>());
}

fn reconcile_sandbox(
    state: &mut PodState,
    seen: &Observed,
    complete: bool,
    now: Now,
    found: &mut Vec<String>,
    actions: &mut Actions,
) {
    match &state.sandbox {
        Sandbox::Ready { id, .. } => {
            let gone = seen.sandbox(id).map_or(complete, |sandbox| !sandbox.ready);
            let id = id.clone();
            if gone && step::sandbox_died(state, &id, now, actions) {
                found.push("its sandbox had died".into());
            }
        }
        // The answer of the action may be lost, or on its way: then it finds that it is no news.
        Sandbox::Creating { attempt } | Sandbox::Absent { attempt, .. } if state.may_start_containers() => {
            let later = || seen.sandboxes.iter().filter(|one| one.attempt >= *attempt);
            let dead = |one: &SeenSandbox| !one.ready || state.heard.has_sandbox(&one.id);
            if let Some(one) = later().find(|one| !dead(one)) {
                state.sandbox =
                    Sandbox::Ready { attempt: one.attempt, id: one.id.clone(), ips: one.ips.clone() };
                state.resize.look = true;
                state.resize.limits = one.resources.clone();
                state.changed_at = Some(now.steady);
                found.push("its sandbox was up".into());
            } else if let (Some(last), Sandbox::Absent { attempt, .. }) =
                (later().map(|one| one.attempt).max(), &mut state.sandbox)
            {
                // It was made and has died, and neither was told: its number is taken.
                *attempt = last + 1;
            }
        }
        Sandbox::Creating { .. }
        | Sandbox::Absent { .. }
        | Sandbox::Stopping { .. }
        | Sandbox::Stopped { .. } => {}
    }
}

/// The instance that is believed to run has ended.
fn find_end(
    state: &mut PodState,
    at: usize,
    seen: &Observed,
    complete: bool,
    now: Now,
    found: &mut Vec<String>,
    actions: &mut Actions,
) {
    let container = &mut state.containers[at];
    let Some(run) = container.phase.run().cloned() else { return };
    let mine = seen.instances(&container.name);
    let exit = match mine.iter().find(|(_, one)| one.id() == run.id) {
        Some((_, Instance { state: Err(exit), .. })) => exit.clone(),
        None if complete => step::lost(&run, now.time),
        _ => return,
    };
    found.push(format!("container {} had ended with {}", container.name, exit.code));
    step::container_exited(container, exit, now, actions);
}

/// Something of the container runs, or has run, that the machine does not know.
fn find_instance(
    state: &mut PodState,
    at: usize,
    seen: &Observed,
    complete: bool,
    now: Now,
    found: &mut Vec<String>,
    actions: &mut Actions,
) {
    let name = state.containers[at].name.clone();
    let number = state.sandbox.number();
    for (sandbox, instance) in seen.instances(&name) {
        let container = &state.containers[at];
        let known = [&container.exited, &container.previous]
            .into_iter()
            .flatten()
            .any(|exit| exit.id == instance.id());
        let ours = container.phase.run().is_some_and(|run| run.id == instance.id());
        if known || ours || state.heard.exit_of(instance.id()).is_some() {
            continue;
        }
        let next = container.next_attempt();
        let wanted = container.phase.run().is_none() && instance.attempt >= next;
        match &instance.state {
            Ok(run) if wanted && sandbox.ready && Some(sandbox.attempt) == number => {
                found.push(format!("container {name} was running"));
                start::take_over(state, at, instance, run.clone(), sandbox.attempt, now, actions);
            }
            Ok(run) if complete && sandbox.ready => {
                found.push(format!("another instance of container {name} was running"));
                actions.push(Action::KillContainer { container: name.clone(), id: run.id.clone() });
            }
            Err(exit) if wanted => {
                found.push(format!("container {name} had run and ended with {}", exit.code));
                start::take_end(state, at, instance, exit.clone(), sandbox.attempt, now, actions);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Stops sandboxes of the Pod that are up beside its own; true when there were any.
fn stop_strays(state: &PodState, seen: &Observed, actions: &mut Actions) -> bool {
    let ours = |one: &SeenSandbox| match &state.sandbox {
        Sandbox::Ready { id, .. } | Sandbox::Stopping { id, .. } => *id == one.id,
        Sandbox::Creating { attempt } | Sandbox::Absent { attempt, .. } => *attempt == one.attempt,
        Sandbox::Stopped { .. } => false,
    };
    let before = actions.len();
    let strays = seen.sandboxes.iter().filter(|one| one.ready && !ours(one));
    actions.extend(strays.map(|one| Action::StopSandbox { id: one.id.clone() }));
    actions.len() > before
}

/// The id without the runtime's name.
fn bare_id(id: &str) -> String {
    id.rsplit("://").next().unwrap_or(id).to_string()
}

/// The status the API has of a container.
fn reported<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|one| one.name == name)
}

/// The exit, with the termination message the API still knows of it.
fn remembered(status: Option<&ContainerStatus>, mut exit: Exit) -> Exit {
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
