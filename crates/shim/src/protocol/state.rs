//! Where containers and commands are in their lives.

use serde::{Deserialize, Serialize};

use super::{Nanoseconds, ResolvedUser};

/// A container as the shim knows it. The same JSON is in `<sandbox directory>/<id>.state`, from
/// its creation until its deletion, so that a dead shim still tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container id.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Process id as the node sees it; 0 when it has none any more.
    pub pid: i32,
    /// Who the process is.
    pub user: ResolvedUser,
    /// When it was made.
    pub created_at: Nanoseconds,
    /// When its program was executed; 0: not yet.
    pub started_at: Nanoseconds,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Being prepared; no reply to `Create` yet.
    Creating,
    /// Prepared, waits for `Start`.
    Created,
    /// `Start` was asked; not yet executed.
    Starting,
    /// Its program runs.
    Running,
    /// Its first process has ended.
    Exited,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128+n for a signal.
    pub code: i32,
    /// The signal that ended it; 0: none.
    pub signal: i32,
    /// The kernel has killed a process of it for memory.
    pub oom_killed: bool,
    /// When.
    pub time: Nanoseconds,
    /// Why its program could not be executed; empty when it could.
    pub start_error: String,
}

/// An exec'ed process that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// Exec id.
    pub id: String,
    /// Container id.
    pub container: String,
    /// Process id as the node sees it.
    pub pid: i32,
}
