//! What the world does when an action of the node is carried out, and what it answers.

use k8s_openapi::api::core::v1::Pod;
use runtime::Resources;

use super::kernel::{Real, RealSandbox, image};
use super::{Answer, Life, Task};
use crate::container::resources;
use crate::pod::allocation::Allocation;
use crate::pod::event::{Action, Event, Exit, HookReport, ImageError, StartFailure};
use crate::pod::resize::{Decision, Room};

impl Life {
    /// Carries a task out.
    pub(super) fn carry_out(&mut self, task: &Task) {
        self.log.push(format!("does {task:?}"));
        match task {
            Task::Look(because) => {
                let event = self.kernel.look(*because, self.now.steady);
                self.answers.push(Answer { event, of: Some(task.clone()) });
            }
            Task::Orphaned(action) => drop(self.act(action)),
            Task::Act(action) => {
                if matches!(action, Action::StartContainer { .. } | Action::RunSandbox { .. }) {
                    // One thing at a time, the first asked for first.
                    self.carry_out_orphaned();
                }
                for event in self.act(action) {
                    self.answers.push(Answer { event, of: Some(task.clone()) });
                }
            }
        }
    }

    fn carry_out_orphaned(&mut self) {
        while let Some(at) = self.tasks.iter().position(|task| matches!(task, Task::Orphaned(_))) {
            let task = self.tasks.remove(at);
            self.carry_out(&task);
        }
    }

    fn act(&mut self, action: &Action) -> Vec<Event> {
        let now = self.now.time;
        match action.clone() {
            Action::MountVolumes if self.fails("volumes") => {
                vec![Event::VolumesFailed { message: "no".into() }]
            }
            Action::MountVolumes => vec![Event::VolumesMounted],
            Action::RunSandbox { attempt } if self.fails("sandbox") => {
                vec![Event::SandboxFailed { attempt, message: "no".into() }]
            }
            Action::RunSandbox { attempt } => {
                vec![self.run_sandbox(attempt)]
            }
            Action::EnsureImage { container, reference } if self.fails("image") => {
                let message = "no".to_string();
                let image = reference.clone();
                vec![Event::ImageFailed { container, reference, image, error: ImageError::Pull, message }]
            }
            Action::EnsureImage { container, reference } => {
                vec![Event::ImageReady { container, reference, image: image(), pulled: None }]
            }
            Action::StartContainer { container, attempt, sandbox, .. } => {
                vec![self.start(container, attempt, &sandbox)]
            }
            Action::RunPostStart { container, id } => {
                let result = if self.fails("hook") { Err("bad".into()) } else { Ok(HookReport::default()) };
                vec![Event::PostStartDone { container, id, result }]
            }
            Action::RunPreStop { container, id } => {
                let result = if self.fails("hook") { Err("bad".into()) } else { Ok(HookReport::default()) };
                vec![Event::PreStopDone { container, id, result }]
            }
            Action::TerminateContainer { container, id } | Action::KillContainer { container, id }
                if self.fails("kill") =>
            {
                vec![Event::KillFailed { container, id, message: "no".into() }]
            }
            Action::TerminateContainer { id, .. } => self.kernel.end(&id, 143, now).into_iter().collect(),
            Action::KillContainer { id, .. } => self.kernel.end(&id, 137, now).into_iter().collect(),
            Action::RemoveContainer { id } => {
                self.kernel.containers.retain(|one| one.id != id || one.exit.is_none());
                Vec::new()
            }
            Action::RemoveContents => {
                self.kernel.containers.retain(|one| one.exit.is_none());
                Vec::new()
            }
            Action::StopSandbox { id } => {
                let found = self.kernel.sandboxes.iter().find(|(_, one)| one.id == id);
                let attempt = found.map(|(attempt, _)| *attempt);
                let told = attempt.map(|attempt| self.kernel.kill_sandbox(attempt, now)).unwrap_or_default();
                let of = None;
                // The runtime tells of containers, but not of a sandbox it was asked to stop.
                let exits = told.into_iter().filter(|event| matches!(event, Event::ContainerExited { .. }));
                self.answers.extend(exits.map(|event| Answer { event, of: of.clone() }));
                vec![Event::SandboxStopped { id, result: Ok(()) }]
            }
            Action::UnmountVolumes => vec![Event::VolumesUnmounted(Ok(()))],
            Action::RemovePod => {
                let attempts: Vec<u32> = self.kernel.sandboxes.keys().copied().collect();
                attempts.iter().for_each(|attempt| drop(self.kernel.kill_sandbox(*attempt, now)));
                self.kernel.sandboxes.clear();
                self.kernel.containers.clear();
                vec![Event::Removed(Ok(()))]
            }
            Action::DeleteObject => {
                self.gone_from_api = true;
                // The watch tells it, whatever becomes of the answer.
                let event = Event::PodRemoved { grace_period_seconds: Some(0) };
                self.answers.push(Answer { event, of: None });
                vec![Event::ObjectDeleted(Ok(()))]
            }
            Action::WithdrawEndpoints { .. } => vec![Event::EndpointsWithdrawn],
            Action::AskResize => self.decide().into_iter().collect(),
            Action::KeepAllocation { .. } if self.fails("keep") => {
                vec![Event::AllocationKept(Err("no".into()))]
            }
            Action::KeepAllocation { allocation } => {
                self.kept = Some(allocation);
                vec![Event::AllocationKept(Ok(()))]
            }
            Action::ResizePod { .. } if self.fails("resize") => vec![Event::Resized(Err("no".into()))],
            Action::ResizePod { sandbox, steps } => {
                steps.iter().for_each(|step| self.kernel.take(&sandbox, step));
                vec![Event::Resized(Ok(()))]
            }
            Action::CancelImage { .. }
            | Action::CancelPreStop { .. }
            | Action::StartProbe { .. }
            | Action::StopProbe { .. }
            | Action::Record(_)
            | Action::Report { .. } => Vec::new(),
        }
    }

    /// Makes it, or finds it; one that has died is made anew, with another id.
    fn run_sandbox(&mut self, attempt: u32) -> Event {
        let ips = vec!["10.42.0.2".parse().unwrap()];
        if let Some(there) = self.kernel.sandboxes.get(&attempt).filter(|one| one.up) {
            return Event::SandboxReady { attempt, id: there.id.clone(), ips };
        }
        let others = self.kernel.sandboxes.values().any(|one| one.up);
        assert!(!others, "a second sandbox beside another: {:#?}", self.log);
        self.kernel.count += 1;
        let id = format!("s-{}", self.kernel.count);
        let limits = resources::pod(&self.given[&(String::new(), attempt)]);
        self.kernel.sandboxes.insert(attempt, RealSandbox { id: id.clone(), limits, up: true });
        self.kernel.containers.retain(|one| one.sandbox != attempt);
        self.kernel.succeeded.retain(|(sandbox, _)| *sandbox != attempt);
        Event::SandboxReady { attempt, id, ips }
    }

    fn start(&mut self, container: String, attempt: u32, sandbox: &str) -> Event {
        let failed = |failure| Event::ContainerFailed {
            container: container.clone(),
            attempt,
            failure,
            message: "no".into(),
        };
        let mut up = self.kernel.sandboxes.iter().filter(|(_, one)| one.up && one.id == sandbox);
        let Some(number) = up.next().map(|(number, _)| *number) else {
            return failed(StartFailure::Create);
        };
        if self.fails("config") {
            return failed(StartFailure::Config);
        }
        let same = |one: &&Real| one.sandbox == number && one.name == container && one.attempt == attempt;
        if let Some(one) = self.kernel.containers.iter().find(same) {
            let (id, at) = (one.id.clone(), self.now.time);
            return match one.started_at {
                Some(started_at) => {
                    // It is there: it runs, or its end is told again.
                    let again = one
                        .exit
                        .clone()
                        .map(|exit| Event::ContainerExited { container: container.clone(), exit });
                    self.answers.extend(again.map(|event| Answer { event, of: None }));
                    Event::ContainerStarted { container, attempt, id, started_at, user: None }
                }
                None => failed(StartFailure::Run { id, at, exit_code: 128 }),
            };
        }
        self.check_start(&container, number);
        self.kernel.count += 1;
        let id = format!("{container}-{}", self.kernel.count);
        let mut real = Real {
            sandbox: number,
            name: container.clone(),
            attempt,
            id: id.clone(),
            limits: self.size(&self.given[&(container.clone(), attempt)], &container),
            started_at: None,
            exit: None,
        };
        if self.fails("start") {
            let at = self.now.time;
            let (code, reason) = (128, "StartError".into());
            real.exit = Some(Exit {
                id: id.clone(),
                code,
                reason,
                message: String::new(),
                started_at: None,
                finished_at: at,
            });
            self.kernel.containers.push(real);
            return failed(StartFailure::Run { id, at, exit_code: 128 });
        }
        real.started_at = Some(self.now.time);
        self.kernel.containers.push(real);
        Event::ContainerStarted { container, attempt, id, started_at: self.now.time, user: None }
    }

    /// The numbers of a container.
    pub(super) fn size(&self, pod: &Pod, container: &str) -> Resources {
        let spec = crate::pod::spec::container(pod, container).map(|(_, spec)| spec);
        resources::container(pod, spec.and_then(|spec| spec.resources).as_ref(), 1)
    }

    /// The node's answer, if the Pod wishes anything.
    fn decide(&mut self) -> Option<Event> {
        let allocation = Allocation::of(&self.state.wished);
        if allocation.matches(&self.state.allocation) {
            return None;
        }
        let generation = self.state.wished.metadata.generation.unwrap_or_default();
        let room = if self.fails("room") { Room::Deferred("full".into()) } else { Room::Fits };
        Some(Event::ResizeDecided(Decision { generation, allocation, room }))
    }
}
