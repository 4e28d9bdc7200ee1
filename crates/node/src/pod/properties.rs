//! Random lives of Pods; what must hold whatever happens.
//!
//! The world here is not kind. Actions lie about until somebody carries them out, answers arrive in
//! any order, twice, or never; containers end and sandboxes die without a word; the node dies
//! between any two of these, its worker panics while its starts go on, and what the API has of the
//! status is as old as the last patch that got through, if one did.
//!
//! What the world does keep: a process that runs, and an end that happened; that a lost answer of a
//! task is told as a failure (the worker catches panics) and followed by a look; that the runtime
//! makes one thing of a Pod at a time.
//!
//! `MONOPOD_LIVES=10000 cargo test -p node --lib random_lives` plays as many lives; lives that broke a
//! rule are kept in `proptest-regressions` and played first.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::allocation::Allocation;
use super::clock::{Now, Steady};
use super::event::{Action, Event};
use super::observe::Because;
use super::probe::{Outcome, ProbeKind};
use super::spec::Role;
use super::state::{Cause, PodState};
use super::status::status;
use super::step::{step, wakes_after};
use super::world::{World, pod};
use crate::container::resources;

mod acting;
mod happening;
mod kernel;
mod lost;

use happening::{Happening, happening};
use kernel::{Kernel, Real};
use lost::lost;

const NAMES: [&str; 5] = ["i", "side", "j", "a", "b"];

fn spec(policy: &str) -> Pod {
    let image =
        |name: &str| json!({"name": name, "image": "img", "resources": {"requests": {"cpu": "100m"}}});
    let mut side = image("side");
    side["restartPolicy"] = "Always".into();
    side["startupProbe"] = json!({"exec": {}, "failureThreshold": 1});
    let (mut a, mut b) = (image("a"), image("b"));
    a["livenessProbe"] = json!({"exec": {}, "failureThreshold": 1});
    a["lifecycle"] = json!({"preStop": {"exec": {}}});
    b["lifecycle"] = json!({"postStart": {"exec": {}}});
    b["readinessProbe"] = json!({"exec": {}});
    if policy != "Never" {
        b["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    }
    pod(json!({
        "restartPolicy": policy,
        "initContainers": [image("i"), side, image("j")],
        "containers": [a, b],
    }))
}

/// Something the worker has under way.
#[derive(Clone, Debug)]
enum Task {
    Act(Action),
    Look(Because),
    /// An action of a worker that is no more: nobody hears its answer.
    Orphaned(Action),
}

/// An answer on its way, and the task it belongs to, if it is of one.
#[derive(Clone, Debug)]
struct Answer {
    event: Event,
    of: Option<Task>,
}

struct Life {
    state: PodState,
    now: Now,
    kernel: Kernel,
    tasks: Vec<Task>,
    answers: Vec<Answer>,
    /// What the node would write, and what the API has.
    wanted: PodStatus,
    written: Option<PodStatus>,
    pod: Pod,
    /// What is on the node's disk.
    kept: Option<Allocation>,
    /// The Pod as it was when this was asked for.
    given: BTreeMap<(String, u32), Arc<Pod>>,
    gone_from_api: bool,
    fail: BTreeMap<&'static str, u32>,
    log: Vec<String>,
    steps: u32,
}

impl Life {
    fn new(pod: Pod) -> Self {
        let time = Timestamp::from_second(1_000_000).unwrap();
        let now = Now { time, steady: Steady::new(SignedDuration::from_secs(5_000)) };
        let mut life = Self {
            state: PodState::admitted(Arc::new(pod.clone()), time),
            now,
            kernel: Kernel::default(),
            tasks: Vec::new(),
            answers: Vec::new(),
            wanted: PodStatus::default(),
            written: None,
            pod,
            kept: None,
            given: BTreeMap::new(),
            gone_from_api: false,
            fail: BTreeMap::new(),
            log: Vec::new(),
            steps: 0,
        };
        life.take_up();
        life
    }

    /// A worker begins, with what the API has.
    fn take_up(&mut self) {
        self.pod.status.clone_from(&self.written);
        let pod = Arc::new(self.pod.clone());
        self.state = PodState::admitted(Arc::clone(&pod), self.now.time).granted(self.kept.clone());
        self.wanted = self.written.clone().unwrap_or_default();
        self.answers.clear();
        self.tasks.push(Task::Look(Because::TakenUp));
        self.event(Event::PodChanged(pod));
    }

    fn event(&mut self, event: Event) {
        self.steps += 1;
        assert!(
            self.steps < 100_000,
            "the machine turns in a circle: {:?}",
            &self.log[self.log.len() - 20..]
        );
        self.log.push(match &event {
            Event::PodChanged(_) => "PodChanged".into(),
            event => format!("{event:?}"),
        });
        let (state, actions) = step(self.state.clone(), event, self.now);
        self.state = state;
        if self.state.observed {
            let host = ["192.0.2.1".parse().unwrap()];
            self.wanted = status(&self.state, &self.wanted, &host, self.now.time);
        }
        for action in actions {
            self.accept(action);
        }
    }

    fn accept(&mut self, action: Action) {
        let cancelled = |task: &Task, image: bool, name: &str| match task {
            Task::Act(Action::EnsureImage { container, .. }) => image && container == name,
            Task::Act(Action::RunPreStop { container, .. }) => !image && container == name,
            _ => false,
        };
        let made = match &action {
            Action::RunSandbox { attempt } => Some((String::new(), *attempt)),
            Action::StartContainer { container, attempt, .. } => Some((container.clone(), *attempt)),
            _ => None,
        };
        self.given.extend(made.map(|key| (key, Arc::clone(&self.state.pod))));
        match action {
            Action::CancelImage { container } => self.tasks.retain(|task| !cancelled(task, true, &container)),
            Action::CancelPreStop { container } => {
                self.tasks.retain(|task| !cancelled(task, false, &container))
            }
            Action::StartProbe { .. } | Action::StopProbe { .. } => {}
            Action::Record(record) => {
                self.log.push(format!("record {}: {}", record.reason(), record.message))
            }
            Action::Report { found, .. } => self.log.push(format!("found: {found}")),
            action => self.tasks.push(Task::Act(action)),
        }
    }

    fn fails(&mut self, what: &str) -> bool {
        let Some(left) = self.fail.get_mut(what).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    /// All containers that can be of another size, of the same.
    fn wish(&mut self, tenths: u8) {
        if self.gone_from_api {
            return;
        }
        let Some(spec) = &mut self.pod.spec else { return };
        let side = spec.init_containers.iter_mut().flatten().filter(|one| one.name == "side");
        for container in spec.containers.iter_mut().chain(side) {
            let requests = container.resources.as_mut().and_then(|resources| resources.requests.as_mut());
            requests.unwrap().insert("cpu".into(), Quantity(format!("{tenths}00m")));
        }
        self.pod.metadata.generation = self.pod.metadata.generation.map(|generation| generation + 1);
        self.pod.status.clone_from(&self.written);
        self.event(Event::PodChanged(Arc::new(self.pod.clone())));
    }

    /// Whether what runs is of the size that is wished.
    fn has_its_size(&self) -> bool {
        let of_containers = ["side", "a", "b"].iter().all(|name| {
            self.kernel.running(name).is_some_and(|one| one.limits == self.size(&self.pod, name))
        });
        let mut up = self.kernel.sandboxes.values().filter(|one| one.up);
        of_containers && up.all(|one| one.limits == resources::pod(&self.pod))
    }

    /// What must hold when a program is executed.
    fn check_start(&self, name: &str, sandbox: u32) {
        assert!(self.kernel.running(name).is_none(), "a second instance of {name}: {:#?}", self.log);
        assert!(!self.has_ended(), "{name} is started in a Pod that has ended: {:#?}", self.log);
        let role = self.state.containers.iter().find(|one| one.name == name).map(|one| one.role);
        if role == Some(Role::Main) {
            for init in ["i", "j"] {
                let done = self.kernel.succeeded.contains(&(sandbox, init.into()));
                assert!(done, "{name} is started in sandbox {sandbox} before {init}: {:#?}", self.log);
            }
        }
    }

    /// Whether the API has been told that the Pod is over.
    fn has_ended(&self) -> bool {
        let phase = self.written.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// A patch gets through: restart counts never fall, and a Pod that is over stays so.
    fn write(&mut self) {
        if !self.state.observed {
            return;
        }
        let phase = self.written.as_ref().and_then(|status| status.phase.clone());
        if self.has_ended() {
            assert_eq!(self.wanted.phase, phase, "a terminal phase was left: {:#?}", self.log);
        }
        for name in NAMES {
            let (before, after) = (count(self.written.as_ref(), name), count(Some(&self.wanted), name));
            assert!(after >= before, "restarts of {name} fell from {before} to {after}: {:#?}", self.log);
        }
        self.written = Some(self.wanted.clone());
    }

    fn hear(&mut self, answer: Answer) {
        self.event(answer.event);
    }

    /// Nobody hears it. Of a task the worker tells the failure, and looks; of the rest nobody says
    /// anything, until somebody looks.
    fn lose(&mut self, answer: Answer) {
        match answer.of {
            // The node keeps who waits, and answers again.
            Some(Task::Act(Action::AskResize)) => self.answers.push(answer),
            Some(Task::Act(action)) => {
                let of = Some(Task::Act(action.clone()));
                self.answers.extend(lost(&action).map(|event| Answer { event, of }));
                self.tasks.push(Task::Look(Because::TaskLost));
            }
            Some(Task::Look(because)) => self.tasks.push(Task::Look(because)),
            // The API's watch lists again.
            None if matches!(answer.event, Event::PodRemoved { .. }) => self.answers.push(answer),
            Some(Task::Orphaned(_)) | None => {}
        }
    }

    fn delete(&mut self, grace: i64) {
        if self.gone_from_api {
            return;
        }
        let old = self.pod.metadata.deletion_grace_period_seconds;
        self.pod.metadata.deletion_timestamp.get_or_insert(Time(self.now.time));
        self.pod.metadata.deletion_grace_period_seconds = Some(old.map_or(grace, |old| old.min(grace)));
        self.pod.status.clone_from(&self.written);
        self.event(Event::PodChanged(Arc::new(self.pod.clone())));
    }

    fn panic(&mut self) {
        let begun = |task: Task| match task {
            Task::Act(action @ (Action::StartContainer { .. } | Action::RunSandbox { .. }))
            | Task::Orphaned(action) => Some(Task::Orphaned(action)),
            Task::Act(_) | Task::Look(_) => None,
        };
        self.tasks = std::mem::take(&mut self.tasks).into_iter().filter_map(begun).collect();
        self.begin_again();
    }

    fn crash(&mut self, done: u32) {
        for (at, task) in std::mem::take(&mut self.tasks).into_iter().enumerate() {
            if done & (1 << (at % 32)) != 0 && !matches!(task, Task::Look(_)) {
                self.carry_out(&task);
            }
        }
        self.tasks.clear();
        self.begin_again();
    }

    fn power_off(&mut self, nothing_is_left: bool) {
        let attempts: Vec<u32> = self.kernel.sandboxes.keys().copied().collect();
        attempts.iter().for_each(|attempt| drop(self.kernel.kill_sandbox(*attempt, self.now.time)));
        if nothing_is_left {
            self.kernel.sandboxes.clear();
            self.kernel.containers.clear();
            self.kernel.succeeded.clear();
        }
        self.tasks.clear();
        self.begin_again();
    }

    /// A new worker, or, when the API has no such Pod, the removal of what is left.
    fn begin_again(&mut self) {
        self.log.push("--- begins again".into());
        if self.gone_from_api {
            let attempts: Vec<u32> = self.kernel.sandboxes.keys().copied().collect();
            attempts.iter().for_each(|attempt| drop(self.kernel.kill_sandbox(*attempt, self.now.time)));
            self.tasks.clear();
            self.answers.clear();
            self.state.stage = super::state::Stage::Gone;
        } else {
            self.take_up();
        }
    }

    fn tick(&mut self, wait: SignedDuration) {
        self.now = Now { time: self.now.time + wait, steady: self.now.steady.plus(wait) };
    }

    fn pass(&mut self, seconds: i64) {
        let end = self.now.steady.plus(SignedDuration::from_secs(seconds));
        while let Some(wait) =
            wakes_after(&self.state, self.now).filter(|wait| *wait <= self.now.steady.until(end))
        {
            self.tick(SignedDuration::try_from(wait).unwrap());
            self.event(Event::Tick);
        }
        self.tick(end.since(self.now.steady));
        self.event(Event::Tick);
    }

    /// Everything under way is carried out and heard, in order.
    fn settle(&mut self) {
        while !self.tasks.is_empty() || !self.answers.is_empty() {
            self.tick(SignedDuration::from_micros(1));
            if self.answers.is_empty() {
                let task = self.tasks.remove(0);
                self.carry_out(&task);
            } else {
                let answer = self.answers.remove(0);
                self.hear(answer);
            }
        }
    }

    fn happen(&mut self, what: &Happening) {
        self.tick(SignedDuration::from_micros(1));
        let pick = |at: usize, length: usize| (length > 0).then(|| at % length.max(1));
        match what {
            Happening::Do(at) | Happening::DoTwice(at) => {
                let Some(at) = pick(*at, self.tasks.len()) else { return };
                let task = self.tasks[at].clone();
                let makes = matches!(
                    task,
                    Task::Act(Action::StartContainer { .. } | Action::RunSandbox { .. }) | Task::Orphaned(_)
                );
                let twice = matches!(what, Happening::DoTwice(_));
                if makes || !twice {
                    self.tasks.remove(at);
                }
                // What makes something is asked for again at once or not at all: who comes after waits.
                if makes && twice {
                    self.carry_out(&task);
                }
                self.carry_out(&task);
            }
            Happening::Hear(at) | Happening::HearAgain(at) | Happening::Lose(at) => {
                let Some(at) = pick(*at, self.answers.len()) else { return };
                let answer = self.answers.remove(at);
                match what {
                    Happening::Lose(_) => return self.lose(answer),
                    Happening::HearAgain(_) => self.answers.push(answer.clone()),
                    _ => {}
                }
                self.hear(answer);
            }
            Happening::Settle => self.settle(),
            Happening::Write => self.write(),
            Happening::Exit(at, code) => {
                let id = self.kernel.running(NAMES[*at]).map(|one| one.id.clone());
                let told = id.and_then(|id| self.kernel.end(&id, *code, self.now.time));
                self.answers.extend(told.map(|event| Answer { event, of: None }));
            }
            Happening::SandboxDies => {
                let up = self.kernel.sandboxes.iter().find(|(_, one)| one.up).map(|(attempt, _)| *attempt);
                let told = up.map(|attempt| self.kernel.kill_sandbox(attempt, self.now.time));
                self.answers.extend(told.into_iter().flatten().map(|event| Answer { event, of: None }));
            }
            Happening::Pass(seconds) => self.pass(*seconds),
            Happening::Probe(at, kind, good) => self.probe(NAMES[*at], *kind, *good),
            Happening::Fail(what) => *self.fail.entry(what).or_default() += 1,
            Happening::Audit => self.tasks.push(Task::Look(Because::Audit)),
            Happening::Panic => self.panic(),
            Happening::Crash(done) => self.crash(*done),
            Happening::PowerOff(nothing_is_left) => self.power_off(*nothing_is_left),
            Happening::Delete(grace) => self.delete(*grace),
            Happening::Wish(tenths) => self.wish(*tenths),
            Happening::Evict => {
                self.event(Event::Evicted {
                    cause: Cause::Evicted,
                    message: "low".into(),
                    grace_period_seconds: None,
                });
            }
        }
    }

    fn probe(&mut self, name: &str, kind: ProbeKind, good: bool) {
        let Some(id) = self.kernel.running(name).map(|one| one.id.clone()) else { return };
        let outcome = if good { Outcome::Success } else { Outcome::Failure("x".into()) };
        let event = Event::Probed { container: name.into(), id, kind, outcome };
        self.answers.push(Answer { event, of: None });
    }

    /// The world becomes kind: nothing fails, and an audit finds what was lost. Init containers
    /// succeed, and so do startup probes.
    fn calm_down(&mut self) {
        self.fail.clear();
        for _ in 0..12 {
            self.settle();
            for init in ["i", "j"] {
                self.happen(&Happening::Exit(if init == "i" { 0 } else { 2 }, 0));
            }
            self.probe("side", ProbeKind::Startup, true);
            self.settle();
            // Time and again the node looks at those who wait for room.
            self.tasks.push(Task::Act(Action::AskResize));
            self.tasks.push(Task::Look(Because::Audit));
            self.settle();
            self.pass(310);
        }
        self.settle();
        self.write();
    }
}

fn count(status: Option<&PodStatus>, name: &str) -> i32 {
    let lists = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
    let mut all = lists.into_iter().flatten().flatten().flatten();
    all.find(|one| one.name == name).map_or(0, |one| one.restart_count)
}

fn lives() -> u32 {
    std::env::var("MONOPOD_LIVES").ok().and_then(|lives| lives.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: lives(), ..ProptestConfig::default() })]

    /// Nothing starts twice, in a Pod that has ended, or before its init containers; restart counts
    /// never fall and a terminal phase stays; a Pod that is wanted comes up in the size that is wished, and
    /// one that is deleted goes.
    #[test]
    fn random_lives_keep_the_rules(policy in prop_oneof![3 => Just("Always"), 1 => Just("OnFailure"), 1 => Just("Never")],
                                   list in prop::collection::vec(happening(), 1..120)) {
        let mut life = Life::new(spec(policy));
        for what in &list {
            life.happen(what);
            if life.state.is_gone() {
                break;
            }
        }
        life.calm_down();
        let wanted = life.pod.metadata.deletion_timestamp.is_none() && !life.state.is_gone();
        if wanted && policy == "Always" && !life.has_ended() {
            for name in ["side", "a", "b"] {
                prop_assert!(life.kernel.running(name).is_some(), "{name} does not run: {:#?}", life.log);
            }
            prop_assert!(life.has_its_size(), "{:?} is not the size that is wished: {:#?}", life.kernel, life.log);
        }
        life.delete(30);
        life.calm_down();
        prop_assert!(life.state.is_gone(), "{:?} {:#?}", life.state.stage, life.log);
        let left: Vec<&Real> = life.kernel.containers.iter().filter(|one| one.exit.is_none()).collect();
        prop_assert!(left.is_empty() && !life.kernel.sandboxes.values().any(|one| one.up), "{left:?} {:#?}", life.log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A node that forgets everything and looks again ends the same as one that did not.
    #[test]
    fn a_rebuilt_state_ends_the_same(code in prop_oneof![Just(0), Just(1)], crashes in 0..3_usize,
                                     policy in prop_oneof![Just("OnFailure"), Just("Never"), Just("Always")]) {
        let run = |restart: bool| {
            let mut world = World::new(spec(policy));
            world.exit("i", 0);
            world.probe("side", ProbeKind::Startup, Outcome::Success);
            world.exit("j", 0);
            for _ in 0..crashes {
                world.exit("b", 1);
                if restart { world.restart(); }
                world.pass(310);
            }
            if restart { world.restart(); }
            world.exit("a", code);
            world.exit("b", code);
            if restart { world.restart(); }
            let running: Vec<String> = world.running.keys().cloned().collect();
            (world.phase().to_string(), running, world.state.containers.iter().map(|one| one.attempt).collect::<Vec<_>>())
        };
        prop_assert_eq!(run(false), run(true));
    }
}
