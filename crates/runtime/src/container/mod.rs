//! A container: what was asked for, where it is in its life.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod exec;
pub(crate) mod spec;
pub(crate) mod stats;
pub(crate) mod stop;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shim::protocol::{self, Exit, Nanoseconds};
use tokio::sync::{oneshot, watch};

use crate::clock::timestamp;
use crate::interface::{ContainerConfig, ContainerState, ContainerStatus, PodIdentity, Resources};

/// What is on disk about a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) config: ContainerConfig,
    /// The image's name at creation.
    pub(crate) image_name: String,
    pub(crate) image_id: String,
    pub(crate) stop_signal: String,
    pub(crate) log_path: PathBuf,
    pub(crate) created_at: Nanoseconds,
}

/// What changes during a container's life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Life {
    pub(crate) state: ContainerState,
    pub(crate) pid: i32,
    pub(crate) started_at: Nanoseconds,
    pub(crate) exit: Option<Exit>,
    pub(crate) user: Option<protocol::ResolvedUser>,
}

impl Life {
    pub(crate) fn created() -> Self {
        Life { state: ContainerState::Created, pid: 0, started_at: 0, exit: None, user: None }
    }

    /// As the shim knows it.
    pub(crate) fn of(state: &protocol::ContainerState) -> Self {
        use protocol::Status;
        Life {
            state: match state.status {
                Status::Creating | Status::Created | Status::Starting => ContainerState::Created,
                Status::Running => ContainerState::Running,
                Status::Exited => ContainerState::Exited,
            },
            pid: state.pid,
            started_at: state.started_at,
            exit: state.exit.clone(),
            user: Some(state.user.clone()),
        }
    }

    fn end(&mut self, exit: Exit) {
        self.state = ContainerState::Exited;
        self.pid = 0;
        self.exit = Some(exit);
    }
}

/// Exit code and reason of a container whose shim is gone without a word, as containerd has it.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// A container of this node.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    pub(crate) pod: PodIdentity,
    pub(crate) directory: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) life: watch::Sender<Life>,
    /// Its limits, which may change while it runs.
    pub(crate) limits: Mutex<Resources>,
    /// Those who joined its streams and want its exit code.
    attached: Mutex<Vec<oneshot::Sender<i32>>>,
}

impl Container {
    pub(crate) fn new(
        record: ContainerRecord,
        pod: PodIdentity,
        directory: PathBuf,
        cgroup: String,
    ) -> Arc<Self> {
        let life = watch::Sender::new(Life::created());
        let limits = Mutex::new(record.config.resources.clone());
        Arc::new(Container { record, pod, directory, cgroup, life, limits, attached: Mutex::default() })
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.life.borrow().state
    }

    pub(crate) fn limits(&self) -> Resources {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state() == ContainerState::Running
    }

    /// Has ended, or can never be heard of again.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state(), ContainerState::Exited | ContainerState::Unknown)
    }

    /// Notes the end; true the first time.
    pub(crate) fn end(&self, exit: Exit) -> bool {
        let code = exit.code;
        let first = self.life.send_if_modified(|life| {
            let first = !matches!(life.state, ContainerState::Exited | ContainerState::Unknown);
            if first {
                life.end(exit);
            }
            first
        });
        for waiter in self.attached.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // The one who attached may have left.
            let _ = waiter.send(code);
        }
        first
    }

    /// The shim is gone and left no word about this container.
    pub(crate) fn lose(&self) -> bool {
        let exit = Exit { code: UNKNOWN_EXIT_CODE, time: crate::clock::now(), ..Exit::default() };
        let ended = self.end(exit);
        if ended {
            self.life.send_modify(|life| life.state = ContainerState::Unknown);
        }
        ended
    }

    /// The exit code, when it comes.
    pub(crate) fn exit_code(&self) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.life.borrow().exit {
            Some(exit) => {
                let _ = sender.send(exit.code);
            }
            None => attached.push(sender),
        }
        receiver
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let life = self.life.borrow().clone();
        let ContainerRecord { id, sandbox, config, .. } = &self.record;
        let (reason, message) = reason(&life);
        ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox.clone(),
            pod: self.pod.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: life.state,
            pid: u32::try_from(life.pid)
                .ok()
                .filter(|pid| *pid != 0 && life.state == ContainerState::Running),
            created_at: timestamp(self.record.created_at).unwrap_or_default(),
            started_at: timestamp(life.started_at),
            finished_at: life.exit.as_ref().and_then(|exit| timestamp(exit.time)),
            exit_code: life.exit.as_ref().map_or(0, exit_code),
            oom_killed: life.exit.as_ref().is_some_and(|exit| exit.oom_killed),
            reason: reason.to_owned(),
            message,
            image: self.record.image_name.clone(),
            image_id: self.record.image_id.clone(),
            log_path: self.record.log_path.clone(),
            user: life.user.map(|user| (user.uid, user.gid, user.groups)),
            resources: self.limits(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }
    }
}

/// 128 for a program that could not be executed, as containerd has it.
fn exit_code(exit: &Exit) -> i32 {
    if exit.start_error.is_empty() { exit.code } else { 128 }
}

fn reason(life: &Life) -> (&'static str, String) {
    let Some(exit) = &life.exit else { return ("", String::new()) };
    let reason = match life.state {
        ContainerState::Unknown => "Unknown",
        _ if !exit.start_error.is_empty() => "StartError",
        _ if exit.oom_killed => "OOMKilled",
        _ if exit.code == 0 => "Completed",
        _ => "Error",
    };
    (reason, exit.start_error.clone())
}
