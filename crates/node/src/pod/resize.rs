//! Resizing a running Pod.
//!
//! ```text
//! spec ≠ allocation      AskResize ──▶ deferred, infeasible: the condition PodResizePending says so
//!                                 ──▶ room: KeepAllocation, then the condition PodResizeInProgress
//! allocation ≠ cgroups   ResizePod, or a restart where the container's resizePolicy wants it
//! all the same           ResizeCompleted
//! ```
//!
//! What was granted is on the node's disk before any cgroup is written: a daemon that dies in between goes on with
//! it, whatever else the node has taken on since. What the cgroups hold is never believed but observed.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodCondition, ResourceRequirements};
use runtime::Resources;
use serde::Serialize;

use super::allocation::{Allocation, RESIZABLE, differs, same};
use super::clock::{Now, Steady};
use super::event::{Action, Record};
use super::spec::spec;
use super::start::due;
use super::state::{Phase, PodState, Sandbox};
use super::step::{Actions, RETRY};
use super::stop;
use crate::container::resources;
use plan::Change;

mod plan;
#[cfg(test)]
mod tests;

pub use plan::Step;

/// Condition of a resize that was not granted.
pub const PENDING: &str = "PodResizePending";
/// Condition of one that was granted and is not done.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// The node's answer to a wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Generation of the Pod that wishes.
    pub generation: i64,
    /// What it wishes.
    pub allocation: Allocation,
    /// Whether there is room.
    pub room: Room,
}

/// Whether the node has room for a Pod of another size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Fits,
    /// Others have it now.
    Deferred(String),
    /// There never will be.
    Infeasible(String),
}

/// Where the resizing of a Pod is.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// What the node was asked for.
    asked: Option<Allocation>,
    /// Granted, and not yet kept.
    granted: Option<Granted>,
    /// Not granted.
    pub(super) pending: Option<Pending>,
    /// Granted, and not yet done.
    pub(super) progress: Option<InProgress>,
    /// Limits of the Pod's own cgroup as they were last set.
    pub(super) limits: Resources,
    /// What the cgroups hold may be something else than what was granted.
    pub(super) look: bool,
    underway: Option<Underway>,
    pub(super) retry_at: Option<Steady>,
}

#[derive(Clone, Debug)]
struct Granted {
    generation: i64,
    allocation: Allocation,
    /// It is being written.
    keeping: bool,
}

/// Why a resize waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) generation: i64,
    pub(super) wait: Wait,
    pub(super) message: String,
}

/// For how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until somebody gives room back.
    Deferred,
    /// For ever: the node is too small.
    Infeasible,
}

impl Wait {
    /// The reason in the Pod's condition.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Wait::Deferred => "Deferred",
            Wait::Infeasible => "Infeasible",
        }
    }

    /// The reason of the Event.
    fn event(self) -> &'static str {
        match self {
            Wait::Deferred => "ResizeDeferred",
            Wait::Infeasible => "ResizeInfeasible",
        }
    }

    fn of_reason(reason: Option<&str>) -> Self {
        if reason == Some(Wait::Infeasible.reason()) { Wait::Infeasible } else { Wait::Deferred }
    }
}

/// A resize that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InProgress {
    pub(super) generation: i64,
    /// Why it could not be done yet; empty: nothing has failed.
    pub(super) error: String,
}

/// What an action sets.
#[derive(Clone, Debug)]
struct Underway {
    pod: Resources,
    containers: Vec<(String, String, ResourceRequirements)>,
}

impl Resize {
    /// As the API knows it: a node that begins anew goes on there.
    pub(super) fn reported(pod: &Pod) -> Self {
        let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let find = |kind: &str| all.clone().find(|one| one.type_ == kind && one.status == "True");
        let generation = |one: &PodCondition| one.observed_generation.unwrap_or_default();
        let message = |one: &PodCondition| one.message.clone().unwrap_or_default();
        let pending = find(PENDING).map(|one| Pending {
            generation: generation(one),
            wait: Wait::of_reason(one.reason.as_deref()),
            message: message(one),
        });
        let progress =
            find(IN_PROGRESS).map(|one| InProgress { generation: generation(one), error: message(one) });
        Self { pending, progress, ..Self::default() }
    }
}

/// Does what is to be done for the size of an active Pod.
pub(super) fn advance(state: &mut PodState, now: Now, actions: &mut Actions) {
    ask(state, actions);
    keep(state, now, actions);
    actuate(state, now, actions);
}

/// Asks the node for what the spec wishes, once for each wish.
fn ask(state: &mut PodState, actions: &mut Actions) {
    let same_object = std::sync::Arc::ptr_eq(&state.pod, &state.wished);
    if state.resize.granted.is_some()
        || same_object && state.resize.asked.is_none() && state.resize.pending.is_none()
    {
        return;
    }
    let wish = Allocation::of(&state.wished);
    if wish.matches(&state.allocation) {
        state.resize.pending = None;
        if state.resize.asked.take().is_some() {
            actions.push(Action::AskResize);
        }
    } else if state.resize.asked.as_ref() != Some(&wish) {
        state.resize.asked = Some(wish);
        actions.push(Action::AskResize);
    }
}

/// Takes the node's answer.
pub(super) fn decided(state: &mut PodState, decision: Decision, actions: &mut Actions) {
    if !state.may_start_containers() {
        return;
    }
    let Decision { generation, allocation, room } = decision;
    let (wait, message) = match room {
        Room::Fits => {
            state.resize.granted = Some(Granted { generation, allocation, keeping: false });
            return;
        }
        Room::Deferred(message) => (Wait::Deferred, message),
        Room::Infeasible(message) => (Wait::Infeasible, message),
    };
    let pending = Pending { generation, wait, message };
    // An answer to an older wish is of no use, and one that is known is no news.
    if state.resize.asked != Some(allocation) || state.resize.pending.as_ref() == Some(&pending) {
        return;
    }
    let title = format!("Pod resize {}", wait.reason());
    let text = summary(&state.wished, generation, &title, &pending.message);
    actions.push(Action::Record(Record::pod_warning(wait.event(), text)));
    state.resize.pending = Some(pending);
}

fn keep(state: &mut PodState, now: Now, actions: &mut Actions) {
    let retry_at = state.resize.retry_at;
    if let Some(granted) = state.resize.granted.as_mut().filter(|one| !one.keeping)
        && due(retry_at, now)
    {
        granted.keeping = true;
        actions.push(Action::KeepAllocation { allocation: granted.allocation.clone() });
    }
}

/// What was granted is on the disk, or could not be written.
pub(super) fn kept(state: &mut PodState, result: Result<(), String>, now: Now, actions: &mut Actions) {
    let Some(mut granted) = state.resize.granted.take().filter(|one| one.keeping) else { return };
    if let Err(message) = result {
        granted.keeping = false;
        state.resize.granted = Some(granted);
        failed(state, message, now, actions);
        return;
    }
    let generation = granted.generation;
    state.allocate(granted.allocation);
    state.resize = Resize {
        progress: Some(InProgress { generation, error: String::new() }),
        limits: std::mem::take(&mut state.resize.limits),
        look: true,
        underway: state.resize.underway.take(),
        ..Resize::default()
    };
    let text = summary(&state.pod, generation, "Pod resize started", "");
    actions.push(Action::Record(Record::pod_normal("ResizeStarted", text)));
}

fn actuate(state: &mut PodState, now: Now, actions: &mut Actions) {
    let Sandbox::Ready { id, .. } = &state.sandbox else { return };
    let sandbox = id.clone();
    let looks = state.resize.look || state.resize.progress.is_some();
    if !looks || state.resize.underway.is_some() || !due(state.resize.retry_at, now) {
        return;
    }
    restart_where_wanted(state, now, actions);
    let changes = changes(state);
    let wanted = resources::pod(&state.pod);
    let steps = plan::steps(&state.resize.limits, &wanted, &changes);
    if steps.is_empty() {
        complete(state, &changes, actions);
        return;
    }
    let containers = changes.into_iter().filter_map(|one| {
        let granted = state.allocation.of_container(&one.name)?.clone();
        Some((one.name, one.id, granted))
    });
    state.resize.underway = Some(Underway { pod: wanted, containers: containers.collect() });
    state.resize.retry_at = None;
    let generation = state.pod.metadata.generation.unwrap_or_default();
    state.resize.progress.get_or_insert(InProgress { generation, error: String::new() });
    actions.push(Action::ResizePod { sandbox, steps });
}

/// Containers that want to be started anew to be of another size.
fn restart_where_wanted(state: &mut PodState, now: Now, actions: &mut Actions) {
    for at in 0..state.containers.len() {
        let container = &state.containers[at];
        let (Phase::PostStart(_) | Phase::Running(_)) = container.phase else { continue };
        let (Some(wanted), Some(have)) =
            (state.allocation.of_container(&container.name), &container.actuated)
        else {
            continue;
        };
        if state.spec_of(&container.name).is_some_and(|spec| wants_restart(&spec, have, wanted)) {
            let message = format!("Container {} resize requires restart", container.name);
            state.containers[at].restart_forced = true;
            stop::kill(state, at, message, None, now, actions);
        }
    }
}

fn wants_restart(spec: &ContainerSpec, have: &ResourceRequirements, wanted: &ResourceRequirements) -> bool {
    let policies = spec.resize_policy.iter().flatten();
    policies.filter(|policy| policy.restart_policy == "RestartContainer").any(|policy| {
        RESIZABLE.contains(&policy.resource_name.as_str()) && differs(have, wanted, &policy.resource_name)
    })
}

/// Running containers that are not of the size that was granted. Those that are being stopped are left alone.
fn changes(state: &PodState) -> Vec<Change> {
    let running = state.containers.iter().filter_map(|container| {
        let (Phase::PostStart(run) | Phase::Running(run)) = &container.phase else { return None };
        let wanted = state.allocation.of_container(&container.name)?;
        let have = container.actuated.as_ref();
        if have.is_some_and(|have| same(have, wanted)) {
            return None;
        }
        let numbers = |of| resources::container(&state.pod, Some(of), 1);
        Some(Change {
            name: container.name.clone(),
            id: run.id.clone(),
            // Of one that is not known everything is set.
            now: have.map(numbers).unwrap_or_default(),
            wanted: numbers(wanted),
        })
    });
    running.collect()
}

/// Nothing is left to be written.
fn complete(state: &mut PodState, changes: &[Change], actions: &mut Actions) {
    // They differ in what no cgroup knows: requests of memory, or amounts below the kernel's least.
    for change in changes {
        let granted = state.allocation.of_container(&change.name).cloned();
        if let Some(container) = state.container_mut(&change.name) {
            container.actuated = granted;
        }
    }
    if state.containers.iter().any(|container| container.restart_forced) {
        return;
    }
    state.resize.look = false;
    if let Some(InProgress { generation, .. }) = state.resize.progress.take() {
        let text = summary(&state.pod, generation, "Pod resize completed", "");
        actions.push(Action::Record(Record::pod_normal("ResizeCompleted", text)));
    }
}

/// The cgroups are written, or could not be.
pub(super) fn resized(state: &mut PodState, result: Result<(), String>, now: Now, actions: &mut Actions) {
    let Some(Underway { pod, containers }) = state.resize.underway.take() else { return };
    if let Err(message) = result {
        failed(state, message, now, actions);
        return;
    }
    state.resize.limits = pod;
    for (name, id, granted) in containers {
        if let Some(container) = state.container_mut(&name)
            && container.phase.run().is_some_and(|run| run.id == id)
        {
            container.actuated = Some(granted);
        }
    }
    if let Some(progress) = &mut state.resize.progress {
        progress.error.clear();
    }
}

fn failed(state: &mut PodState, message: String, now: Now, actions: &mut Actions) {
    state.resize.retry_at = Some(now.after(RETRY));
    let generation = state.pod.metadata.generation.unwrap_or_default();
    let progress = state.resize.progress.get_or_insert(InProgress { generation, error: String::new() });
    if progress.error == message {
        return;
    }
    progress.error.clone_from(&message);
    let text = summary(&state.pod, progress.generation, "Pod resize error", &message);
    actions.push(Action::Record(Record::pod_warning("ResizeError", text)));
}

/// What a container that runs was given, as far as its cgroup shows it: the first that fits of what was granted,
/// what the status tells and what the spec wishes.
pub(super) fn actuated(state: &PodState, name: &str, seen: &Resources) -> Option<ResourceRequirements> {
    let granted = state.allocation.of_container(name)?;
    let status = state.wished.status.iter().flat_map(|status| {
        let all = [&status.init_container_statuses, &status.container_statuses];
        all.into_iter().flatten().flatten()
    });
    let told = status.filter(|one| one.name == name).filter_map(|one| one.resources.as_ref());
    let wished = spec(&state.wished).containers.iter().filter(|one| one.name == name);
    let wished = wished.filter_map(|one| one.resources.as_ref());
    let fits = |one: &&ResourceRequirements| {
        let numbers = resources::container(&state.pod, Some(one), 1);
        (numbers.cpu_shares, numbers.cpu_quota, numbers.memory_limit)
            == (seen.cpu_shares, seen.cpu_quota, seen.memory_limit)
    };
    std::iter::once(granted).chain(told).chain(wished).find(fits).cloned()
}

/// `prefix: {…}`: the sizes of the containers, as upstream tells them.
fn summary(pod: &Pod, generation: i64, prefix: &str, error: &str) -> String {
    #[derive(Serialize)]
    struct One<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    struct All<'a> {
        #[serde(rename = "initContainers", skip_serializing_if = "Vec::is_empty")]
        init: Vec<One<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<One<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    fn one(container: &ContainerSpec) -> One<'_> {
        One { name: &container.name, resources: container.resources.clone().unwrap_or_default() }
    }
    let spec = spec(pod);
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let all = All {
        init: sidecars.map(one).collect(),
        containers: spec.containers.iter().map(one).collect(),
        generation,
        error,
    };
    serde_json::to_string(&all).map_or_else(|_| prefix.into(), |text| format!("{prefix}: {text}"))
}
