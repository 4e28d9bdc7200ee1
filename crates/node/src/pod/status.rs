//! The status of a Pod as the API shows it, from what the node knows.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::event::Exit;
use super::policy;
use super::spec::{self, Role};
use super::state::{Container, Phase, PodState, Sandbox, Stage};
use super::{qos, resize, restart_all};

/// Prefix of container ids: the name of the runtime.
pub const RUNTIME: &str = "monopod://";
/// Condition types that only the node writes, in upstream's order. The first three come and go.
pub const OWNED: [&str; 8] = [
    resize::PENDING,
    resize::IN_PROGRESS,
    restart_all::CONDITION,
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// Condition of a Pod that somebody ends before its time, and its reason when that is the node.
const DISRUPTION: &str = "DisruptionTarget";
const BY_KUBELET: &str = "TerminationByKubelet";

/// Whether a condition is the node's to write.
pub fn is_own(type_: &str, reason: &str) -> bool {
    OWNED.contains(&type_) || (type_, reason) == (DISRUPTION, BY_KUBELET)
}

/// Makes the status. `previous` gives the conditions of others and the times of ours.
pub fn status(
    state: &PodState,
    previous: &core::PodStatus,
    host_ips: &[IpAddr],
    now: Timestamp,
) -> core::PodStatus {
    let generation = state.pod.metadata.generation;
    let statuses = Statuses::of(state);
    let phase = phase(state, previous, &statuses);
    let spec = spec::spec(&state.pod);
    let ips: Vec<IpAddr> = match &state.sandbox {
        _ if spec.host_network == Some(true) => host_ips.to_vec(),
        // Of one that had ended before this daemon began only the status knows.
        Sandbox::Stopped { ips } if ips.is_empty() => pod_ips(previous),
        sandbox => sandbox.ips().to_vec(),
    };
    let conditions = conditions(state, &statuses, previous, phase, now);
    let resources = pod_resources(state);
    core::PodStatus {
        observed_generation: generation,
        phase: Some(phase.into()),
        conditions: Some(conditions),
        reason: state.verdict.as_ref().map(|verdict| verdict.cause.reason().to_owned()),
        message: state.verdict.as_ref().map(|verdict| verdict.message.clone()),
        // The scheduler's to write; a status without it would take it away.
        nominated_node_name: previous.nominated_node_name.clone(),
        host_ip: host_ips.first().map(IpAddr::to_string),
        host_ips: Some(host_ips.iter().map(|ip| core::HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().map(IpAddr::to_string),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| core::PodIP { ip: ip.to_string() }).collect()),
        start_time: Some(Time(state.start_time)),
        // Given once: upstream keeps the class whatever becomes of the resources.
        qos_class: previous.qos_class.clone().or_else(|| Some(qos::word(qos::class(&state.pod)).into())),
        init_container_statuses: non_empty(statuses.init),
        container_statuses: non_empty(statuses.mains),
        ephemeral_container_statuses: non_empty(statuses.ephemeral),
        allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources,
        // The controllers' to write.
        resource_claim_statuses: previous.resource_claim_statuses.clone(),
        ..core::PodStatus::default()
    }
}

fn pod_ips(status: &core::PodStatus) -> Vec<IpAddr> {
    let known = status.pod_ips.iter().flatten();
    known.filter_map(|known| known.ip.parse().ok()).collect()
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// What the containers ask for together: upstream's status of resources at the level of the Pod.
fn pod_resources(state: &PodState) -> Option<core::ResourceRequirements> {
    let spec = spec::spec(&state.pod);
    let (requests, limits) = (qos::requests(spec), qos::limits(spec));
    let any = !requests.is_empty() || !limits.is_empty();
    any.then(|| core::ResourceRequirements {
        requests: (!requests.is_empty()).then_some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        claims: None,
    })
}

/// Container statuses by role.
struct Statuses {
    init: Vec<core::ContainerStatus>,
    mains: Vec<core::ContainerStatus>,
    ephemeral: Vec<core::ContainerStatus>,
}

impl Statuses {
    fn of(state: &PodState) -> Self {
        let mut all = Self { init: Vec::new(), mains: Vec::new(), ephemeral: Vec::new() };
        for container in &state.containers {
            let Some(spec) = state.spec_of(&container.name) else { continue };
            let status = container_status(state, container, &spec);
            match container.role {
                Role::Init | Role::Sidecar => all.init.push(status),
                Role::Main => all.mains.push(status),
                Role::Ephemeral => all.ephemeral.push(status),
            }
        }
        all
    }
}

fn container_status(
    state: &PodState,
    container: &Container,
    spec: &core::Container,
) -> core::ContainerStatus {
    let (current, last) = states(state, container);
    // The id of the last instance stays until another runs: its log is found by it.
    let latest = container.phase.run().map(|run| &run.id).or(container.exited.as_ref().map(|exit| &exit.id));
    // What was pulled for a start that has not come yet is not what ran.
    let image = container.image_ref.as_ref().filter(|_| latest.is_some());
    let running = matches!(container.phase, Phase::Running(_) | Phase::Stopping(..));
    core::ContainerStatus {
        name: container.name.clone(),
        ready: container.is_ready(spec),
        started: started(container, running),
        restart_count: i32::try_from(container.attempt).unwrap_or(i32::MAX),
        image: image.map_or_else(|| container.image.clone(), |image| image.name.clone()),
        image_id: image.map(|image| image.image_id.clone()).unwrap_or_default(),
        container_id: latest.map(|id| format!("{RUNTIME}{id}")),
        state: Some(current),
        last_state: Some(last),
        allocated_resources: spec
            .resources
            .as_ref()
            .filter(|_| running)
            .and_then(|resources| resources.requests.clone()),
        resources: running.then(|| in_effect(container, spec)),
        stop_signal: spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        user: container.phase.run().and_then(|run| run.user.as_ref()).map(user),
        volume_mounts: spec.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mount).collect()),
        ..core::ContainerStatus::default()
    }
}

/// What a running container has: what was granted, or for as long as that is not done what was before.
fn in_effect(container: &Container, spec: &core::Container) -> core::ResourceRequirements {
    container.actuated.clone().or_else(|| spec.resources.clone()).unwrap_or_default()
}

/// Ephemeral containers have no `started`; of others it is false until they run.
fn started(container: &Container, running: bool) -> Option<bool> {
    match container.role {
        Role::Ephemeral => None,
        Role::Init => Some(running),
        Role::Main | Role::Sidecar => Some(running && container.probes.started),
    }
}

fn user((uid, gid, groups): &(u32, u32, Vec<u32>)) -> core::ContainerUser {
    let linux = core::LinuxContainerUser {
        uid: i64::from(*uid),
        gid: i64::from(*gid),
        supplemental_groups: non_empty(groups.iter().map(|group| i64::from(*group)).collect()),
    };
    core::ContainerUser { linux: Some(linux) }
}

fn mount(mount: &core::VolumeMount) -> core::VolumeMountStatus {
    let read_only = mount.read_only == Some(true);
    let recursive = if spec::recursive_read_only(mount) { "Enabled" } else { "Disabled" };
    core::VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| recursive.into()),
        ..core::VolumeMountStatus::default()
    }
}

/// `state` and `lastState`.
fn states(state: &PodState, container: &Container) -> (core::ContainerState, core::ContainerState) {
    let exited = container.exited.as_ref();
    let previous = container.previous.as_ref();
    let none = core::ContainerState::default;
    match &container.phase {
        // What is being stopped runs until it has exited; upstream has no word for what lies between.
        Phase::Running(run) | Phase::Stopping(run, _) => {
            let running = core::ContainerStateRunning { started_at: Some(Time(run.started_at)) };
            let current = core::ContainerState { running: Some(running), ..none() };
            (current, exited.map_or_else(none, terminated))
        }
        Phase::Idle { .. } | Phase::Pulling | Phase::Starting(_) | Phase::PostStart(_) => {
            // A Pod that goes starts nothing again: how a container ended tells more than what it waited for.
            let over = !matches!(state.stage, Stage::Active);
            match (&container.waiting, exited) {
                (Some(shown), _) if !(over && exited.is_some()) => (
                    waiting(shown.reason.word(), shown.message.clone()),
                    exited.map_or_else(none, terminated),
                ),
                (_, Some(exit)) => (terminated(exit), previous.map_or_else(none, terminated)),
                (_, None) => (waiting(default_reason(state, container), String::new()), none()),
            }
        }
    }
}

fn waiting(reason: &str, message: String) -> core::ContainerState {
    let message = (!message.is_empty()).then_some(message);
    let waiting = core::ContainerStateWaiting { reason: Some(reason.into()), message };
    core::ContainerState { waiting: Some(waiting), ..core::ContainerState::default() }
}

/// A Pod with init containers initialises; one without creates.
fn default_reason(state: &PodState, container: &Container) -> &'static str {
    let has_init = state.containers.iter().any(|one| matches!(one.role, Role::Init | Role::Sidecar));
    match container.role {
        Role::Ephemeral => "ContainerCreating",
        Role::Main if state.is_initialized() => "ContainerCreating",
        _ if has_init => "PodInitializing",
        _ => "ContainerCreating",
    }
}

fn terminated(exit: &Exit) -> core::ContainerState {
    // One that never ran has no beginning; upstream shows the epoch then, too.
    let epoch = Timestamp::UNIX_EPOCH;
    let terminated = core::ContainerStateTerminated {
        exit_code: exit.code,
        reason: Some(exit.reason.clone()),
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        started_at: Some(Time(exit.started_at.unwrap_or(epoch))),
        finished_at: Some(Time(exit.finished_at)),
        container_id: Some(format!("{RUNTIME}{}", exit.id)),
        signal: None,
    };
    core::ContainerState { terminated: Some(terminated), ..core::ContainerState::default() }
}

/// The phase by upstream's rules; a terminal phase is never left.
fn phase(state: &PodState, previous: &core::PodStatus, statuses: &Statuses) -> &'static str {
    // Jobs count what has ended, and would count it twice.
    match previous.phase.as_deref() {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ => {}
    }
    // While something of it runs, a refused or evicted Pod is what its containers are.
    if state.verdict.is_some() && (state.is_terminated() || !state.has_containers()) {
        return "Failed";
    }
    let mut count = Count::default();
    for container in &state.containers {
        count.add(state, container, statuses);
    }
    count.phase(state)
}

/// How many containers are what: the numbers by which upstream's getPhase decides.
#[derive(Default)]
struct Count {
    /// Init containers that have not succeeded yet, and sidecars that have not started.
    pending_init: usize,
    /// Init containers that failed for good: nothing after them will run.
    failed_init: usize,
    /// Main containers that have never run.
    waiting: usize,
    running: usize,
    /// Main containers that have ended, be it for a while.
    stopped: usize,
    /// Those of the stopped that ended with 0.
    succeeded: usize,
    /// Those of the stopped that will run again.
    restarting: usize,
}

impl Count {
    fn add(&mut self, state: &PodState, container: &Container, statuses: &Statuses) {
        match container.role {
            // Who looks into a Pod neither keeps it alive nor ends it.
            Role::Ephemeral => {}
            Role::Sidecar => self.pending_init += usize::from(!container.probes.started),
            Role::Init => match &container.exited {
                Some(exit) if exit.code == 0 && !container.phase.holds_process() => {}
                Some(exit)
                    if exit.code != 0
                        && !container.phase.holds_process()
                        && !restarts(state, container, exit) =>
                {
                    self.failed_init += 1;
                }
                _ => self.pending_init += 1,
            },
            Role::Main => self.add_main(state, container, statuses),
        }
    }

    fn add_main(&mut self, state: &PodState, container: &Container, statuses: &Statuses) {
        let shown =
            statuses.mains.iter().find(|one| one.name == container.name).and_then(|one| one.state.as_ref());
        if shown.is_some_and(|shown| shown.running.is_some()) {
            self.running += 1;
        } else if let Some(exit) = &container.exited {
            self.stopped += 1;
            self.succeeded += usize::from(exit.code == 0);
            self.restarting += usize::from(restarts(state, container, exit));
        } else {
            self.waiting += 1;
        }
    }

    fn phase(&self, state: &PodState) -> &'static str {
        let over = state.is_terminated();
        if self.failed_init > 0 {
            return "Failed";
        }
        let nothing_ran = self.running == 0 && self.stopped == 0;
        if over && nothing_ran {
            // Ended before anything could run: upstream calls that failed.
            return "Failed";
        }
        if self.pending_init > 0 && !state.is_initialized() && nothing_ran || self.waiting > 0 && !over {
            return "Pending";
        }
        if self.running > 0 {
            return "Running";
        }
        let all_succeeded = self.stopped == self.succeeded && self.waiting == 0;
        // Between two instances of a container that is restarted the Pod runs: it crashes, it has not ended.
        match (over || self.restarting == 0, all_succeeded) {
            (false, _) => "Running",
            (true, true) => "Succeeded",
            (true, false) => "Failed",
        }
    }
}

fn restarts(state: &PodState, container: &Container, exit: &Exit) -> bool {
    let Some(spec) = state.spec_of(&container.name) else { return false };
    container.restart_forced || policy::restarts(&state.pod, &spec, container.role, exit.code)
}

/// What a condition says.
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn bare(status: bool) -> Self {
        Self { status, reason: None, message: None }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { status: false, reason: Some(reason), message: (!message.is_empty()).then_some(message) }
    }
}

fn conditions(
    state: &PodState,
    statuses: &Statuses,
    previous: &core::PodStatus,
    phase: &str,
    now: Timestamp,
) -> Vec<core::PodCondition> {
    let old = previous.conditions.as_deref().unwrap_or_default();
    // Others write theirs through the API while this status is made; ours may be older than their last.
    let theirs = latest_conditions(state, old).filter(|condition| !OWNED.contains(&condition.type_.as_str()));
    let mut all: Vec<core::PodCondition> = theirs.cloned().collect();
    if let Some(disruption) = disruption(state, old, now)
        && !all.iter().any(|one| one.type_ == DISRUPTION)
    {
        all.push(disruption);
    }
    let containers_ready = containers_ready(state, statuses, phase);
    let ready = ready(state, &containers_ready, &all);
    let sandbox = Verdict::bare(matches!(state.sandbox, Sandbox::Ready { .. }));
    let verdicts = [sandbox, initialized(state, phase), ready, containers_ready, Verdict::bare(true)];
    let [pending, in_progress, restarting, lasting @ ..] = OWNED;
    let sizes = [(pending, size_pending(state)), (in_progress, size_in_progress(state))];
    for (type_, (generation, verdict)) in sizes.into_iter().filter_map(|(type_, size)| Some((type_, size?))) {
        let condition = condition(state, old, type_, verdict, now);
        all.push(core::PodCondition { observed_generation: Some(generation), ..condition });
    }
    if restart_all::is_possible(state) {
        let reason = match phase {
            "Succeeded" => Some("PodCompleted"),
            "Failed" => Some("PodFailed"),
            _ => None,
        };
        let verdict =
            Verdict { status: state.restarting_all && state.may_start_containers(), reason, message: None };
        all.push(condition(state, old, restarting, verdict, now));
    }
    for (type_, verdict) in lasting.into_iter().zip(verdicts) {
        all.push(condition(state, old, type_, verdict, now));
    }
    all
}

/// Whether a status says that its node has sent the Pod away.
pub(super) fn was_sent_away(status: &core::PodStatus) -> bool {
    let mut all = status.conditions.iter().flatten();
    all.any(|one| one.type_ == DISRUPTION && one.reason.as_deref() == Some(BY_KUBELET))
}

/// That the node has sent the Pod away; who else disrupts it says so himself.
fn disruption(state: &PodState, old: &[core::PodCondition], now: Timestamp) -> Option<core::PodCondition> {
    let evicted = state.verdict.as_ref().filter(|verdict| verdict.cause.is_disruption())?;
    let message = Some(evicted.message.clone());
    let verdict = Verdict { status: true, reason: Some(BY_KUBELET), message };
    Some(condition(state, old, DISRUPTION, verdict, now))
}

/// Why a resize waits, and of which generation it is.
fn size_pending(state: &PodState) -> Option<(i64, Verdict)> {
    let pending = state.resize.pending.as_ref().filter(|_| state.may_start_containers())?;
    let message = Some(pending.message.clone());
    Some((pending.generation, Verdict { status: true, reason: Some(pending.wait.reason()), message }))
}

/// What is being done, and of which generation it is.
fn size_in_progress(state: &PodState) -> Option<(i64, Verdict)> {
    let progress = state.resize.progress.as_ref().filter(|_| state.may_start_containers())?;
    let error = (!progress.error.is_empty()).then(|| progress.error.clone());
    let reason = error.as_ref().map(|_| "Error");
    Some((progress.generation, Verdict { status: true, reason, message: error }))
}

/// Conditions of others come from the newest version of the Pod.
fn latest_conditions<'a>(
    state: &'a PodState,
    old: &'a [core::PodCondition],
) -> impl Iterator<Item = &'a core::PodCondition> {
    let newest = state.pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    newest.unwrap_or(old).iter()
}

fn condition(
    state: &PodState,
    old: &[core::PodCondition],
    type_: &str,
    verdict: Verdict,
    now: Timestamp,
) -> core::PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    // The time of the last change, not of the last writing: minReadySeconds is counted from it.
    let same = old.iter().find(|one| one.type_ == type_ && one.status == status);
    core::PodCondition {
        type_: type_.into(),
        status: status.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        observed_generation: state.pod.metadata.generation,
        last_transition_time: same.and_then(|one| one.last_transition_time.clone()).or(Some(Time(now))),
        last_probe_time: None,
    }
}

fn initialized(state: &PodState, phase: &str) -> Verdict {
    let incomplete: Vec<&str> = state
        .containers
        .iter()
        .filter(|container| match container.role {
            Role::Init => container.exited.as_ref().is_none_or(|exit| exit.code != 0),
            Role::Sidecar => !container.probes.started,
            Role::Main | Role::Ephemeral => false,
        })
        .map(|container| container.name.as_str())
        .collect();
    // Its init containers may be long gone from the node, and it cannot have ended well without them.
    if phase == "Succeeded" {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    // When the sandbox was lost, init containers run again, and the condition does not go back: upstream's
    // rule is that a Pod is initialised once and for all when a main container has been started.
    if incomplete.is_empty() || has_started(state) {
        return Verdict::bare(true);
    }
    Verdict::no(
        "ContainersNotInitialized",
        format!("containers with incomplete status: [{}]", incomplete.join(" ")),
    )
}

/// Whether a main container has ever been started.
fn has_started(state: &PodState) -> bool {
    state.containers.iter().any(|container| container.role == Role::Main && container.ran_in.is_some())
}

fn containers_ready(state: &PodState, statuses: &Statuses, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", String::new()),
        "Failed" => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    // Init containers are over before anybody can be ready; sidecars serve beside the main ones.
    let counted = |name: &str| {
        state.containers.iter().any(|one| one.name == name && matches!(one.role, Role::Main | Role::Sidecar))
    };
    let all = statuses.init.iter().chain(&statuses.mains);
    let unready: Vec<&str> =
        all.filter(|one| counted(&one.name) && !one.ready).map(|one| one.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::bare(true);
    }
    Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
}

fn ready(state: &PodState, containers: &Verdict, theirs: &[core::PodCondition]) -> Verdict {
    if !containers.status {
        return Verdict { status: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = spec::spec(&state.pod).readiness_gates.iter().flatten();
    let messages: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match theirs.iter().find(|condition| condition.type_ == *name) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {name:?} does not exist."))
                }
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if messages.is_empty() {
        Verdict::bare(true)
    } else {
        Verdict::no("ReadinessGatesNotReady", messages.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_says_how_deep_it_is_read_only() {
        let shown = |read_only: bool, mode: Option<&str>| {
            let asked = core::VolumeMount {
                read_only: Some(read_only),
                recursive_read_only: mode.map(str::to_owned),
                ..core::VolumeMount::default()
            };
            mount(&asked).recursive_read_only
        };
        assert_eq!(shown(false, None), None);
        for (mode, expected) in [
            (None, "Disabled"),
            (Some("Disabled"), "Disabled"),
            (Some("IfPossible"), "Enabled"),
            (Some("Enabled"), "Enabled"),
        ] {
            assert_eq!(shown(true, mode).as_deref(), Some(expected), "{mode:?}");
        }
    }
}
