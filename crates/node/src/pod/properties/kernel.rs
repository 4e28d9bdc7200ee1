//! What really is there, whatever the node believes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use runtime::Resources;

use crate::pod::clock::Steady;
use crate::pod::event::{Event, Exit, ImageRef};
use crate::pod::observe::{Because, Instance, Observed, SeenSandbox};
use crate::pod::resize::Step;
use crate::pod::state::Run;

/// What really is there.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// By number.
    pub(super) sandboxes: BTreeMap<u32, RealSandbox>,
    pub(super) containers: Vec<Real>,
    /// Init containers that have succeeded in a sandbox.
    pub(super) succeeded: BTreeSet<(u32, String)>,
    pub(super) count: u32,
}

#[derive(Clone, Debug)]
pub(super) struct RealSandbox {
    pub(super) id: String,
    pub(super) limits: Resources,
    pub(super) up: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Real {
    pub(super) sandbox: u32,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) id: String,
    pub(super) limits: Resources,
    pub(super) started_at: Option<Timestamp>,
    pub(super) exit: Option<Exit>,
}

impl Kernel {
    pub(super) fn running(&self, name: &str) -> Option<&Real> {
        self.containers.iter().find(|one| one.name == name && one.exit.is_none())
    }

    pub(super) fn end(&mut self, id: &str, code: i32, now: Timestamp) -> Option<Event> {
        let one = self.containers.iter_mut().find(|one| one.id == id)?;
        if one.exit.is_none() {
            one.exit = Some(Exit {
                id: id.into(),
                code,
                reason: if code == 0 { "Completed" } else { "Error" }.into(),
                message: String::new(),
                started_at: one.started_at,
                finished_at: now,
            });
            if code == 0 {
                self.succeeded.insert((one.sandbox, one.name.clone()));
            }
        }
        Some(Event::ContainerExited { container: one.name.clone(), exit: one.exit.clone()? })
    }

    /// The sandbox and all in it; what the runtime tells of it.
    pub(super) fn kill_sandbox(&mut self, attempt: u32, now: Timestamp) -> Vec<Event> {
        let Some(sandbox) = self.sandboxes.get_mut(&attempt).filter(|one| one.up) else { return Vec::new() };
        sandbox.up = false;
        let died = Event::SandboxDied { id: sandbox.id.clone() };
        let inside: Vec<String> = self
            .containers
            .iter()
            .filter(|one| one.sandbox == attempt && one.exit.is_none())
            .map(|one| one.id.clone())
            .collect();
        let mut told: Vec<Event> = inside.iter().filter_map(|id| self.end(id, 137, now)).collect();
        told.push(died);
        told
    }

    pub(super) fn take(&mut self, sandbox: &str, step: &Step) {
        let all = self.containers.iter_mut().map(|one| (&one.id, &mut one.limits));
        let groups = self.sandboxes.values_mut().map(|one| (&one.id, &mut one.limits));
        let (wanted, update) = match step {
            Step::CheckMemory { .. } => return,
            Step::Pod(update) => (sandbox, update),
            Step::Container { id, resources } => (id.as_str(), resources),
        };
        for (_, limits) in all.chain(groups).filter(|(id, _)| id.as_str() == wanted) {
            *limits = limits.updated(update);
        }
    }

    pub(super) fn look(&self, because: Because, asked_at: Steady) -> Event {
        let sandboxes = self.sandboxes.iter().map(|(attempt, one)| SeenSandbox {
            attempt: *attempt,
            id: one.id.clone(),
            ready: one.up,
            ips: vec!["10.42.0.2".parse().unwrap()],
            resources: one.limits.clone(),
            instances: self.containers.iter().filter(|one| one.sandbox == *attempt).map(seen).collect(),
        });
        Event::Observed(Observed { because, asked_at, sandboxes: sandboxes.collect() })
    }
}

pub(super) fn seen(one: &Real) -> Instance {
    let started_at = one.started_at.unwrap_or_default();
    let state = match &one.exit {
        Some(exit) => Err(exit.clone()),
        None => Ok(Run { id: one.id.clone(), started_at, user: None }),
    };
    let resources = one.limits.clone();
    Instance { name: one.name.clone(), attempt: one.attempt, image: image(), resources, state }
}

pub(super) fn image() -> ImageRef {
    ImageRef { id: "sha256:1".into(), name: "img".into(), image_id: "sha256:1".into() }
}
