//! Whole lives of Pods, played against a world that does at once what it is asked.

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
    sandbox: Option<(u32, String)>,
    sandboxes: u32,
    count: u32,
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
    fn failing(pod: Pod, fail: &[(&'static str, u32)]) -> Self {
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

    fn fails(&mut self, what: &str) -> bool {
        let Some(left) = self.fail.get_mut(what).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
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
                Some(Event::ImageFailed { container, reference, error: ImageError::Pull, message })
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
            Action::StopSandbox { id } => {
                self.log.push("stop sandbox".into());
                self.sandbox = None;
                Some(Event::SandboxStopped { id, result: Ok(()) })
            }
            Action::UnmountVolumes => Some(Event::VolumesUnmounted(Ok(()))),
            Action::RemovePod => {
                self.instances.clear();
                Some(Event::Removed(Ok(())))
            }
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

    /// The node's answer, if the Pod wishes anything.
    pub(super) fn decide(&self) -> Option<Event> {
        let wished = &self.state.wished;
        let allocation = Allocation::of(wished);
        let generation = wished.metadata.generation.unwrap_or_default();
        (!allocation.matches(&self.state.allocation))
            .then(|| Event::ResizeDecided(Decision { generation, allocation, room: self.room.clone() }))
    }

    fn take(&mut self, step: &Step) {
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

    fn start(&mut self, container: String, attempt: u32) -> Event {
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

    fn ended(&mut self, id: &str, code: i32) -> Option<Exit> {
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

    fn advance(&mut self, wait: SignedDuration) {
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
    fn look(&self, because: Because) -> Event {
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
    fn restart_with(&mut self, status: Option<PodStatus>) {
        let mut pod = Pod::clone(&self.state.wished);
        pod.status = status;
        let pod = Arc::new(pod);
        self.state = PodState::admitted(Arc::clone(&pod), self.now.time).granted(self.kept.clone());
        self.event(Event::PodChanged(pod));
        let seen = self.look(Because::TakenUp);
        self.event(seen);
    }

    /// Everything dies: the machine is switched off.
    fn power_off(&mut self) {
        self.sandbox = None;
        let ids: Vec<String> = self.running.values().map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.ended(&id, 255);
        }
    }

    /// What must hold after every event.
    fn check(&self) {
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

    fn condition(&self, kind: &str) -> String {
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

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    container["image"] = "img".into();
    json!({"containers": [container], "terminationGracePeriodSeconds": 30})
}

#[test]
fn a_plain_pod_comes_up_ready_with_upstreams_events_and_conditions() {
    let world = World::new(pod(one(json!({}))));
    assert_eq!(
        world.log,
        [
            "Pulled: Container image \"img\" already present on machine and can be accessed by the pod",
            "start c/0",
            "Started: Container started",
        ]
    );
    assert_eq!(world.phase(), "Running");
    let kinds: Vec<_> = world
        .status
        .conditions
        .iter()
        .flatten()
        .map(|one| (one.type_.as_str(), one.status.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("PodReadyToStartContainers", "True"),
            ("Initialized", "True"),
            ("Ready", "True"),
            ("ContainersReady", "True"),
            ("PodScheduled", "True")
        ]
    );
    assert_eq!(world.shown("c")["containerID"], "monopod://c-1");
}

#[test]
fn init_containers_run_in_order_before_the_mains_and_a_sidecar_stays() {
    let spec = json!({
        "initContainers": [
            {"name": "i1", "image": "img"}, {"name": "side", "image": "img", "restartPolicy": "Always"}, {"name": "i2", "image": "img"}],
        "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}],
    });
    let mut world = World::new(pod(spec));
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["i1"]);
    assert_eq!(
        (world.phase(), &world.shown("a")["state"]["waiting"]["reason"]),
        ("Pending", &json!("PodInitializing"))
    );
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [i1 side i2]"
    );
    world.exit("i1", 0);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["i2", "side"]);
    world.exit("i2", 0);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["a", "b", "side"]);
    assert_eq!((world.phase(), world.condition("Initialized")), ("Running", "True".to_string()));
    world.delete(30);
    let stops: Vec<_> = world.log.iter().filter(|line| line.starts_with("terminate")).collect();
    assert_eq!(stops, ["terminate b", "terminate a", "terminate side"], "sidecars go last");
    assert!(world.state.is_gone());
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 3);
    assert!(world.running.contains_key("c"), "the first restart does not wait");
    world.exit("c", 3);
    let waiting = &world.shown("c")["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(waiting["message"], "back-off 10s restarting failed container=c pod=web_parity(u1)");
    assert_eq!(world.shown("c")["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(world.shown("c")["restartCount"], 1);
    assert!(world.logged("BackOff: Back-off restarting failed container c in pod web_parity(u1)"));
    assert_eq!(world.phase(), "Running");
    world.pass(9);
    assert!(world.running.is_empty());
    world.pass(1);
    assert!(world.running.contains_key("c"));
    world.exit("c", 3);
    world.pass(19);
    assert!(world.running.is_empty(), "now it is 20 seconds");
    world.pass(1);
    assert_eq!(world.shown("c")["restartCount"], 3);
}

#[test]
fn pods_that_do_not_restart_end_by_their_exit_codes() {
    for (policy, code, phase, ready) in [
        ("Never", 0, "Succeeded", "False PodCompleted"),
        ("Never", 7, "Failed", "False PodFailed"),
        ("OnFailure", 0, "Succeeded", "False PodCompleted"),
    ] {
        let mut spec = one(json!({}));
        spec["restartPolicy"] = policy.into();
        let mut world = World::new(pod(spec));
        world.exit("c", code);
        assert_eq!((world.phase(), world.condition("Ready").as_str()), (phase, ready), "{policy} {code}");
        assert_eq!(world.shown("c")["state"]["terminated"]["exitCode"], code);
        assert_eq!(world.condition("PodReadyToStartContainers"), "False");
        assert!(world.logged("stop sandbox") && !world.logged("delete object"), "the object stays");
        world.delete(0);
        assert!(world.state.is_gone());
    }
}

#[test]
fn a_failed_init_container_of_a_never_pod_fails_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
    let mut world = World::new(pod(spec));
    world.exit("i", 1);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.shown("a")["state"]["waiting"]["reason"], "PodInitializing");
    assert!(world.running.is_empty());
}

#[test]
fn a_pull_that_fails_backs_off_in_upstreams_words() {
    let mut world = World::failing(pod(one(json!({}))), &[("image", 1)]);
    assert_eq!(world.shown("c")["state"]["waiting"]["reason"], "ErrImagePull");
    assert!(
        world.logged("Failed: Failed to pull image \"img\": no such image")
            && world.logged("Failed: Error: ErrImagePull")
    );
    world.pass(1);
    let waiting = &world.shown("c")["state"]["waiting"];
    assert_eq!(waiting["reason"], "ImagePullBackOff");
    assert_eq!(waiting["message"], "Back-off pulling image \"img\": ErrImagePull: no such image");
    world.pass(10);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_missing_config_map_is_tried_again_when_it_appears() {
    let mut world = World::failing(pod(one(json!({}))), &[("config", 1)]);
    let waiting = &world.shown("c")["state"]["waiting"];
    assert_eq!(
        (&waiting["reason"], &waiting["message"]),
        (&json!("CreateContainerConfigError"), &json!("configmap \"x\" not found"))
    );
    world.event(Event::SourcesChanged);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_program_that_cannot_be_executed_ends_with_128() {
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    let world = World::failing(pod(spec), &[("start", 1)]);
    let ended = &world.shown("c")["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn probes_gate_each_other_and_a_failed_liveness_probe_restarts() {
    let probe = |failures: i32| json!({"exec": {"command": ["x"]}, "failureThreshold": failures});
    let mut world = World::new(pod(one(json!({
        "startupProbe": probe(3), "livenessProbe": probe(2), "readinessProbe": probe(1)
    }))));
    let probes = |world: &World| -> Vec<ProbeKind> {
        let kinds = world.held.iter().filter_map(|action| match action {
            Action::StartProbe { kind, .. } => Some(*kind),
            _ => None,
        });
        kinds.collect()
    };
    assert_eq!(probes(&world), [ProbeKind::Startup]);
    assert_eq!(
        (&world.shown("c")["started"], world.condition("Ready").as_str()),
        (&json!(false), "False ContainersNotReady containers with unready status: [c]")
    );
    world.probe("c", ProbeKind::Startup, Outcome::Success);
    assert_eq!(probes(&world), [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness]);
    world.probe("c", ProbeKind::Readiness, Outcome::Success);
    assert_eq!(world.condition("Ready"), "True");
    world.probe("c", ProbeKind::Readiness, Outcome::Failure("no".into()));
    assert!(world.logged("Unhealthy: Readiness probe failed: no"));
    assert_eq!(world.condition("Ready"), "False ContainersNotReady containers with unready status: [c]");
    world.probe("c", ProbeKind::Liveness, Outcome::Failure("dead".into()));
    assert!(!world.logged("Killing"));
    world.probe("c", ProbeKind::Liveness, Outcome::Failure("dead".into()));
    assert!(world.logged("Killing: Container c failed liveness probe, will be restarted"));
    assert_eq!(world.shown("c")["restartCount"], 1);
}

#[test]
fn a_failed_post_start_hook_kills_the_container() {
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}});
    let world = World::failing(pod(one(hook)), &[("post", 1)]);
    assert!(
        world.logged("FailedPostStartHook: PostStartHook failed")
            && world.logged("Killing: FailedPostStartHook")
    );
    assert_eq!(world.shown("c")["restartCount"], 1);
}

#[test]
fn the_grace_of_a_deletion_only_shrinks_and_never_below_two_seconds() {
    let mut world = World::new(pod(one(json!({}))));
    world.stubborn = true;
    world.delete(30);
    assert!(world.logged("terminate c") && world.logged("Killing: Stopping container c"));
    world.pass(5);
    world.delete(60);
    world.pass(20);
    world.delete(0);
    world.pass(1);
    assert!(!world.logged("kill c"), "two seconds are the least");
    world.pass(1);
    assert!(world.logged("kill c") && world.state.is_gone());
    assert_eq!(world.log.last().unwrap(), "delete object");
}

#[test]
fn a_stop_goes_from_the_hook_to_the_signal_to_the_kill_each_at_its_time() {
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["x"]}}}});
    let stops = |world: &World| -> Vec<String> {
        let words = ["preStop", "terminate", "kill", "FailedPreStopHook"];
        let mine = world.log.iter().filter(|line| words.iter().any(|word| line.starts_with(word)));
        mine.cloned().collect()
    };
    let mut world = World::failing(pod(one(hook.clone())), &[("pre", 1)]);
    world.stubborn = true;
    world.delete(30);
    assert_eq!(stops(&world), ["preStop c", "FailedPreStopHook: PreStopHook failed", "terminate c"]);
    world.pass(29);
    assert_eq!(stops(&world).len(), 3);
    world.pass(1);
    assert_eq!(stops(&world).last().unwrap(), "kill c");

    let mut world = World::new(pod(one(hook.clone())));
    (world.stubborn, world.slow_hook) = (true, true);
    world.delete(10);
    world.pass(9);
    assert_eq!(stops(&world), ["preStop c"]);
    world.pass(1);
    assert_eq!(stops(&world), ["preStop c", "terminate c"], "the hook has had all the time there was");
    world.pass(1);
    assert_eq!(stops(&world).len(), 2, "the signal gets two seconds all the same");
    world.pass(1);
    assert_eq!(stops(&world).last().unwrap(), "kill c");

    let mut world = World::new(pod(one(hook)));
    world.delete(0);
    assert_eq!(stops(&world), ["terminate c"], "there is no time for the hook");
}

#[test]
fn a_clock_that_is_set_changes_no_wait() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 3);
    world.exit("c", 3);
    world.now.time -= SignedDuration::from_hours(3);
    world.pass(9);
    assert!(world.running.is_empty());
    world.pass(1);
    assert!(world.running.contains_key("c"), "the back-off of ten seconds is over");
    world.stubborn = true;
    world.delete(30);
    world.now.time += SignedDuration::from_hours(9);
    world.pass(29);
    assert!(world.running.contains_key("c"), "the grace is not over");
    world.pass(1);
    assert!(world.state.is_gone());
}

#[test]
fn what_falls_due_between_a_step_and_the_next_look_is_due_at_once() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 3);
    world.exit("c", 3);
    let stepped = world.now;
    world.advance(SignedDuration::from_secs(11));
    assert_eq!(wakes_after(&world.state, stepped), Some(std::time::Duration::from_secs(10)));
}

#[test]
fn a_pod_too_old_fails_with_deadline_exceeded() {
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = 60.into();
    let mut world = World::new(pod(spec));
    world.pass(59);
    assert_eq!(world.phase(), "Running");
    world.pass(1);
    assert_eq!((world.phase(), world.status.reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
    assert!(world.logged("DeadlineExceeded: Pod was active on the node longer than the specified deadline"));
}

#[test]
fn a_refused_pod_fails_without_anything_being_made() {
    let mut world = World::new(pod(one(json!({}))));
    world.log.clear();
    world.running.clear();
    world.status = PodStatus::default();
    world.sandbox = None;
    world.sandboxes = 0;
    world.instances.clear();
    world.state = PodState::admitted(Arc::clone(&world.state.pod), world.now.time);
    world.event(Event::Refused { reason: "NodeAffinity".into(), message: "no".into() });
    let nothing = world.look(Because::TakenUp);
    world.event(nothing);
    assert_eq!((world.phase(), world.status.reason.as_deref()), ("Failed", Some("NodeAffinity")));
    assert_eq!(world.log, ["NodeAffinity: no"]);
}

#[test]
fn a_lost_sandbox_is_made_again_and_init_containers_run_again() {
    let spec = json!({"initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
    let mut world = World::new(pod(spec));
    world.exit("i", 0);
    world.running.clear();
    world.event(Event::SandboxDied { id: "s0".into() });
    assert!(world.logged("SandboxChanged: Pod sandbox changed, it will be killed and re-created."));
    assert!(world.running.contains_key("i"), "{:?}", world.log);
    world.exit("i", 0);
    world.pass(300);
    assert!(world.running.contains_key("a"));
}

#[test]
fn what_runs_goes_on_when_the_node_starts_again() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 1);
    let before = (world.running.clone(), world.shown("c"));
    world.log.clear();
    world.restart();
    assert_eq!((world.running.clone(), world.shown("c")), before);
    assert!(!world.log.iter().any(|line| line.starts_with("start")), "{:?}", world.log);
    world.exit("c", 1);
    assert_eq!(
        world.shown("c")["state"]["waiting"]["reason"],
        "CrashLoopBackOff",
        "the back-off is remembered"
    );
}

#[test]
fn init_containers_run_again_after_the_machine_was_switched_off() {
    let spec = json!({"initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
    let mut world = World::new(pod(spec));
    world.exit("i", 0);
    assert!(world.running.contains_key("a"));
    world.power_off();
    world.restart();
    world.pass(300);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["i"], "the main waits: {:?}", world.log);
    world.exit("i", 0);
    world.pass(300);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(world.shown("a")["restartCount"], 1);
}

#[test]
fn a_container_whose_start_the_api_never_heard_of_is_ready_after_a_restart() {
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}});
    for status in [None, Some("stale")] {
        let mut world = World::new(pod(one(hook.clone())));
        let mut stale = world.status.clone();
        for one in stale.container_statuses.iter_mut().flatten() {
            (one.started, one.ready, one.container_id) = (Some(false), false, Some("monopod://old".into()));
        }
        world.restart_with(status.map(|_| stale));
        assert_eq!((&world.shown("c")["started"], &world.shown("c")["ready"]), (&json!(true), &json!(true)));
        assert_eq!(world.condition("Ready"), "True");
    }
}

#[test]
fn a_startup_probe_that_had_not_succeeded_goes_on_after_a_restart() {
    let probe = json!({"exec": {"command": ["x"]}, "failureThreshold": 3});
    let mut world = World::new(pod(one(json!({"startupProbe": probe}))));
    world.held.clear();
    world.restart();
    assert!(
        matches!(&world.held[..], [Action::StartProbe { kind: ProbeKind::Startup, .. }]),
        "{:?}",
        world.held
    );
    world.probe("c", ProbeKind::Startup, Outcome::Success);
    world.restart();
    assert_eq!(world.shown("c")["started"], true, "a success is remembered by the API");
}

#[test]
fn an_audit_finds_an_exit_and_a_dead_sandbox_that_nobody_told() {
    let mut world = World::new(pod(one(json!({}))));
    let found = |world: &mut World| {
        world.advance(SignedDuration::from_secs(1));
        let seen = world.look(Because::Audit);
        let (_, actions) = step(world.state.clone(), seen.clone(), world.now);
        world.event(seen);
        let reports = actions.into_iter().filter_map(|action| match action {
            Action::Report { found, .. } => Some(found),
            _ => None,
        });
        reports.collect::<Vec<_>>()
    };
    assert_eq!(found(&mut world), [""; 0], "there is nothing to find");
    let id = world.running["c"].0.clone();
    world.ended(&id, 5);
    assert_eq!(found(&mut world), ["container c had ended with 5"]);
    assert_eq!(world.shown("c")["restartCount"], 1);
    world.power_off();
    let lost = found(&mut world);
    assert_eq!(lost, ["its sandbox had died"]);
    assert!(world.logged("SandboxChanged"));
    world.pass(20);
    assert!(world.running.contains_key("c"));
}

#[test]
fn an_observation_older_than_a_start_takes_nothing_away() {
    let mut world = World::new(pod(one(json!({}))));
    let Event::Observed(mut old) = world.look(Because::Audit) else { unreachable!() };
    old.asked_at = world.now.steady;
    old.sandboxes.clear();
    world.event(Event::Observed(old));
    assert_eq!(world.shown("c")["restartCount"], 0);
    assert!(!world.logged("SandboxChanged"));
}

#[test]
fn a_start_whose_answer_was_lost_is_taken_over_not_repeated() {
    let mut world = World::new(pod(one(json!({}))));
    let (id, _) = world.running["c"].clone();
    // As if the task that started it had died: the worker tells a failure and looks.
    let failed = Event::ContainerFailed {
        container: "c".into(),
        attempt: 0,
        failure: StartFailure::Create,
        message: "the task that starts it panicked".into(),
    };
    world.state.containers[0].phase =
        super::state::Phase::Starting(super::state::Start { attempt: 0, sandbox: 0 });
    world.event(failed);
    world.advance(SignedDuration::from_secs(1));
    let seen = world.look(Because::TaskLost);
    world.event(seen);
    assert_eq!(world.shown("c")["containerID"], format!("monopod://{id}"));
    world.pass(60);
    assert_eq!(world.log.iter().filter(|line| line.starts_with("start ")).count(), 1);
}

#[test]
fn nothing_is_done_before_the_runtime_has_said_what_it_has() {
    let pod = Arc::new(pod(one(json!({}))));
    let now = World::new(Pod::clone(&pod)).now;
    let state = PodState::admitted(Arc::clone(&pod), now.time);
    let (state, actions) = step(state, Event::PodChanged(pod), now);
    assert_eq!((actions, wakes_after(&state, now)), (vec![], None));
}
