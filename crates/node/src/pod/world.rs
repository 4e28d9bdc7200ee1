//! A world that does at once what a Pod's machine asks of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::allocation::Allocation;
use super::clock::{Now, Steady};
use super::event::{Action, Event, Exit, HookReport, ImageError, ImageRef, StartFailure};
use super::observe::{Because, Instance, Observed, SeenSandbox};
use super::probe::{Outcome, ProbeKind};
use super::resize::{Decision, Room, Step};
use super::state::{PodState, Run, Stage};
use super::status::status;
use super::step::{step, wakes_after};
use crate::container::resources;
use runtime::Resources;

/// A runtime made of maps.
pub(super) struct World {
    pub(super) state: PodState,
    pub(super) now: Now,
    pub(super) running: BTreeMap<String, (String, Timestamp)>,
    /// With the number of the sandbox each was started in.
    pub(super) instances: Vec<(u32, Instance)>,
    pub(super) log: Vec<String>,
    pub(super) held: Vec<Action>,
    pub(super) status: PodStatus,
    /// Failures of the next actions of this kind: `image`, `start`, `volumes`, `sandbox`, `post`, `pre`.
    pub(super) fail: BTreeMap<&'static str, u32>,
    /// Containers do not heed the stop signal.
    pub(super) stubborn: bool,
    /// preStop hooks do not end.
    pub(super) slow_hook: bool,
    /// Of the Pod's own group.
    pub(super) limits: Resources,
    /// What the node says to a wish.
    pub(super) room: Room,
    /// What is on the node's disk.
    pub(super) kept: Option<Allocation>,
    pub(super) sandbox: Option<(u32, String)>,
    pub(super) sandboxes: u32,
    pub(super) count: u32,
}

pub(super) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "parity", "uid": "u1", "generation": 1}, "spec": spec
    }))
    .unwrap()
}

impl World {
    pub(super) fn new(pod: Pod) -> Self {
        Self::failing(pod, &[])
    }

    /// A world in which the first actions of these kinds fail.
    pub(super) fn failing(pod: Pod, fail: &[(&'static str, u32)]) -> Self {
        let time = Timestamp::from_second(1_000_000).unwrap();
        let now = Now { time, steady: Steady::new(SignedDuration::from_secs(5_000)) };
        let mut world = Self {
            state: PodState::admitted(Arc::new(pod.clone()), time),
            now,
            running: BTreeMap::new(),
            instances: Vec::new(),
            log: Vec::new(),
            held: Vec::new(),
            status: PodStatus::default(),
            fail: fail.iter().copied().collect(),
            stubborn: false,
            slow_hook: false,
            limits: Resources::default(),
            room: Room::Fits,
            kept: None,
            sandbox: None,
            sandboxes: 0,
            count: 0,
        };
        world.event(Event::PodChanged(Arc::new(pod)));
        let nothing = world.look(Because::TakenUp);
        world.event(nothing);
        world
    }

    /// Gives an event and does all that follows.
    pub(super) fn event(&mut self, event: Event) {
        let (state, actions) = step(self.state.clone(), event, self.now);
        self.state = state;
        self.check();
        let host = ["192.0.2.1".parse().unwrap()];
        self.status = status(&self.state, &self.status, &host, self.now.time);
        for action in actions {
            if let Some(answer) = self.perform(action) {
                self.event(answer);
            }
        }
    }

    pub(super) fn fails(&mut self, what: &str) -> bool {
        let Some(left) = self.fail.get_mut(what).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    pub(super) fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::MountVolumes if self.fails("volumes") => {
                Some(Event::VolumesFailed { message: "no such map".into() })
            }
            Action::MountVolumes => Some(Event::VolumesMounted),
            Action::RunSandbox { attempt } if self.fails("sandbox") => {
                Some(Event::SandboxFailed { attempt, message: "no address".into() })
            }
            Action::RunSandbox { attempt } => {
                let id = format!("s{attempt}");
                self.sandbox = Some((attempt, id.clone()));
                self.limits = resources::pod(&self.state.pod);
                self.sandboxes = attempt + 1;
                Some(Event::SandboxReady { attempt, id, ips: vec!["10.42.0.2".parse().unwrap()] })
            }
            Action::EnsureImage { container, reference } if self.fails("image") => {
                let message = "no such image".to_string();
                let image = reference.clone();
                Some(Event::ImageFailed { container, reference, image, error: ImageError::Pull, message })
            }
            Action::EnsureImage { container, reference } => {
                let image =
                    ImageRef { id: "sha256:1".into(), name: "img".into(), image_id: "sha256:1".into() };
                Some(Event::ImageReady { container, reference, image, pulled: None })
            }
            Action::StartContainer { container, attempt, .. } if self.fails("config") => {
                let message = "configmap \"x\" not found".to_string();
                Some(Event::ContainerFailed { container, attempt, failure: StartFailure::Config, message })
            }
            Action::StartContainer { container, attempt, .. } => Some(self.start(container, attempt)),
            Action::RunPostStart { container, id } => {
                let result = if self.fails("post") { Err("bad".into()) } else { Ok(HookReport::default()) };
                Some(Event::PostStartDone { container, id, result })
            }
            Action::RunPreStop { container, id } => {
                self.log.push(format!("preStop {container}"));
                let result = if self.fails("pre") { Err("bad".into()) } else { Ok(HookReport::default()) };
                (!self.slow_hook).then_some(Event::PreStopDone { container, id, result })
            }
            Action::TerminateContainer { container, id } => {
                self.log.push(format!("terminate {container}"));
                if self.stubborn {
                    return None;
                }
                self.ended(&id, 143).map(|exit| Event::ContainerExited { container, exit })
            }
            Action::KillContainer { container, id } => {
                self.log.push(format!("kill {container}"));
                self.ended(&id, 137).map(|exit| Event::ContainerExited { container, exit })
            }
            Action::RemoveContainer { id } => {
                self.instances.retain(|(_, one)| {
                    one.state.as_ref().map_or_else(|exit| exit.id != id, |run| run.id != id)
                });
                None
            }
            Action::RemoveContents => self.cleared(None),
            Action::StopSandbox { id } => {
                self.log.push("stop sandbox".into());
                self.sandbox = None;
                Some(Event::SandboxStopped { id, result: Ok(()) })
            }
            Action::UnmountVolumes => Some(Event::VolumesUnmounted(Ok(()))),
            Action::RemovePod => self.cleared(Some(Event::Removed(Ok(())))),
            Action::DeleteObject => {
                self.log.push("delete object".into());
                Some(Event::PodRemoved { grace_period_seconds: Some(0) })
            }
            Action::WithdrawEndpoints { .. } => Some(Event::EndpointsWithdrawn),
            Action::AskResize => self.decide(),
            Action::KeepAllocation { .. } if self.fails("keep") => {
                Some(Event::AllocationKept(Err("disk full".into())))
            }
            Action::KeepAllocation { allocation } => {
                self.kept = Some(allocation);
                Some(Event::AllocationKept(Ok(())))
            }
            Action::ResizePod { .. } if self.fails("resize") => Some(Event::Resized(Err("too low".into()))),
            Action::ResizePod { steps, .. } => {
                steps.iter().for_each(|step| self.take(step));
                Some(Event::Resized(Ok(())))
            }
            Action::Record(record) => {
                self.log.push(format!("{}: {}", record.reason(), record.message));
                None
            }
            held => {
                self.held.push(held);
                None
            }
        }
    }

    /// Nothing of the Pod is left on the node.
    fn cleared(&mut self, told: Option<Event>) -> Option<Event> {
        self.instances.clear();
        told
    }

    /// The node's answer, if the Pod wishes anything.
    pub(super) fn decide(&self) -> Option<Event> {
        let wished = &self.state.wished;
        let allocation = Allocation::of(wished);
        let generation = wished.metadata.generation.unwrap_or_default();
        (!allocation.matches(&self.state.allocation))
            .then(|| Event::ResizeDecided(Decision { generation, allocation, room: self.room.clone() }))
    }

    pub(super) fn take(&mut self, step: &Step) {
        self.log.push(format!("{step:?}"));
        match step {
            Step::CheckMemory { .. } => {}
            Step::Pod(update) => self.limits = self.limits.updated(update),
            Step::Container { id, resources } => {
                let mut all = self.instances.iter_mut().map(|(_, one)| one);
                let mine = all.find(|one| one.state.as_ref().is_ok_and(|run| run.id == *id));
                let mine = mine.expect("a container that runs");
                mine.resources = mine.resources.updated(resources);
            }
        }
    }

    pub(super) fn start(&mut self, container: String, attempt: u32) -> Event {
        self.count += 1;
        let id = format!("{container}-{}", self.count);
        assert!(!self.running.contains_key(&container), "a second instance of {container}");
        if self.fails("start") {
            let failure = StartFailure::Run { id, at: self.now.time, exit_code: 128 };
            return Event::ContainerFailed {
                container,
                attempt,
                failure,
                message: "exec: no such file".into(),
            };
        }
        self.running.insert(container.clone(), (id.clone(), self.now.time));
        self.log.push(format!("start {container}/{attempt}"));
        let run = Run { id: id.clone(), started_at: self.now.time, user: None };
        let (name, image) = (container.clone(), ImageRef::default());
        let sandbox = self.sandbox.as_ref().map_or(0, |(attempt, _)| *attempt);
        let own = self.state.spec_of(&name).and_then(|spec| spec.resources);
        let resources = resources::container(&self.state.pod, own.as_ref(), 1);
        self.instances.push((sandbox, Instance { name, attempt, image, resources, state: Ok(run) }));
        Event::ContainerStarted { container, attempt, id, started_at: self.now.time, user: None }
    }

    pub(super) fn ended(&mut self, id: &str, code: i32) -> Option<Exit> {
        let name =
            self.running.iter().find(|(_, (running, _))| running == id).map(|(name, _)| name.clone())?;
        let (_, started_at) = self.running.remove(&name)?;
        let reason = if code == 0 { "Completed" } else { "Error" };
        let exit = Exit {
            id: id.into(),
            code,
            reason: reason.into(),
            message: String::new(),
            started_at: Some(started_at),
            finished_at: self.now.time,
        };
        for (_, instance) in &mut self.instances {
            if instance.state.as_ref().is_ok_and(|run| run.id == id) {
                instance.state = Err(exit.clone());
            }
        }
        Some(exit)
    }

    /// A container ends by itself.
    pub(super) fn exit(&mut self, container: &str, code: i32) {
        let Some((id, _)) = self.running.get(container).cloned() else { return };
        if let Some(exit) = self.ended(&id, code) {
            self.event(Event::ContainerExited { container: container.into(), exit });
        }
    }

    pub(super) fn probe(&mut self, container: &str, kind: ProbeKind, outcome: Outcome) {
        let Some((id, _)) = self.running.get(container).cloned() else { return };
        self.event(Event::Probed { container: container.into(), id, kind, outcome });
    }

    pub(super) fn delete(&mut self, grace: i64) {
        let mut pod = Pod::clone(&self.state.pod);
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now.time));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.event(Event::PodChanged(Arc::new(pod)));
    }

    pub(super) fn advance(&mut self, wait: SignedDuration) {
        self.now = Now { time: self.now.time + wait, steady: self.now.steady.plus(wait) };
    }

    /// Time passes; the clock stops wherever the state wants to be woken.
    pub(super) fn pass(&mut self, seconds: i64) {
        let end = self.now.steady.plus(SignedDuration::from_secs(seconds));
        while let Some(wait) =
            wakes_after(&self.state, self.now).filter(|wait| *wait <= self.now.steady.until(end))
        {
            self.advance(SignedDuration::try_from(wait).unwrap());
            self.event(Event::Tick);
        }
        self.advance(end.since(self.now.steady));
        self.event(Event::Tick);
    }

    /// What the runtime has.
    pub(super) fn look(&self, because: Because) -> Event {
        let sandbox = |attempt: u32| {
            let ready = self.sandbox.as_ref().is_some_and(|(ready, _)| *ready == attempt);
            let mine = self.instances.iter().filter(|(sandbox, _)| *sandbox == attempt);
            SeenSandbox {
                attempt,
                id: format!("s{attempt}"),
                ready,
                ips: vec!["10.42.0.2".parse().unwrap()],
                resources: self.limits.clone(),
                instances: mine.map(|(_, one)| one.clone()).collect(),
            }
        };
        let sandboxes = (0..self.sandboxes).map(sandbox).collect();
        let asked_at = self.now.steady.plus(SignedDuration::from_nanos(1));
        Event::Observed(Observed { because, asked_at, sandboxes })
    }

    /// The node forgets everything and looks at what is there.
    pub(super) fn restart(&mut self) {
        let status = Some(self.status.clone());
        self.restart_with(status);
    }

    /// The same, and the API has this status.
    pub(super) fn restart_with(&mut self, status: Option<PodStatus>) {
        let mut pod = Pod::clone(&self.state.wished);
        pod.status = status;
        let pod = Arc::new(pod);
        self.state = PodState::admitted(Arc::clone(&pod), self.now.time).granted(self.kept.clone());
        self.event(Event::PodChanged(pod));
        let seen = self.look(Because::TakenUp);
        self.event(seen);
    }

    /// Everything dies: the machine is switched off.
    pub(super) fn power_off(&mut self) {
        self.sandbox = None;
        let ids: Vec<String> = self.running.values().map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.ended(&id, 255);
        }
    }

    /// What must hold after every event.
    pub(super) fn check(&self) {
        for container in &self.state.containers {
            if let (Some(run), Some((id, _))) = (container.phase.run(), self.running.get(&container.name)) {
                assert_eq!(&run.id, id, "the state knows another instance of {}", container.name);
            }
        }
        if matches!(self.state.stage, Stage::Terminated | Stage::Gone) {
            assert!(self.running.is_empty(), "terminated, but {:?} run", self.running);
        }
    }

    pub(super) fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or_default()
    }

    pub(super) fn shown(&self, name: &str) -> Value {
        let lists = [&self.status.init_container_statuses, &self.status.container_statuses];
        let found = lists.into_iter().flatten().flatten().find(|one| one.name == name);
        serde_json::to_value(found).unwrap()
    }

    pub(super) fn condition(&self, kind: &str) -> String {
        let all = self.status.conditions.iter().flatten();
        let found = all.clone().find(|one| one.type_ == kind).unwrap();
        format!(
            "{} {} {}",
            found.status,
            found.reason.clone().unwrap_or_default(),
            found.message.clone().unwrap_or_default()
        )
        .trim()
        .to_string()
    }

    pub(super) fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }
}
