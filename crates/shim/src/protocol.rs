//! What daemon and shim say to each other: one [`Message`] enum in length-prefixed JSON frames.
//!
//! ```text
//! frame  = length (4 bytes, big endian, of the JSON) + JSON of one Message
//! ```
//!
//! File descriptors travel by `SCM_RIGHTS` with the first byte of the frame they belong to;
//! the reply says how many and in which order. A connection may have several requests under
//! way: a reply carries the id of its request, and replies may come in another order.
//! Events go to each connection that sent [`Request::Subscribe`].
//!
//! The first frame on a new sandbox's start connection is [`Request::Open`]; on every other
//! connection it is [`Request::Hello`].
//!
//! # Versions
//!
//! A shim lives as long as its Pod, under daemons of later releases, and of earlier ones when
//! somebody goes back. So both ends say what they speak, and use the lower version of the two:
//!
//! - A new field has a default, and who does not know it skips it. What was recorded from earlier
//!   releases is kept and tried (`testdata`).
//! - A new request has a version ([`Request::since`]), and is not sent to a shim of an earlier one.
//! - What one end does not understand is answered or passed over; the connection goes on.
//!
//! Version 2 has `oldest` in [`Reply::Hello`] and [`FailureKind::Unsupported`].

mod state;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
pub use state::{ContainerState, ExecState, Exit, Status};
pub use sys::cgroup::Resources;
pub use sys::namespace::user::IdRange;

/// Version of this protocol. A daemon that meets another version in a running shim must not
/// send anything that the older of the two does not know.
pub const VERSION: u32 = 2;

/// The oldest version that is still spoken.
pub const OLDEST: u32 = 1;

/// The version that two ends speak with each other, given what each of them knows; `None` when
/// they have none in common.
pub fn common_version(version: u32, oldest: u32) -> Option<u32> {
    let common = version.min(VERSION);
    (common >= oldest && common >= OLDEST).then_some(common)
}

/// Longest JSON of a frame. A container's environment may hold whole ConfigMaps.
pub const FRAME_MAX: usize = 8 << 20;

/// Nanoseconds since 1970 UTC.
pub type Nanoseconds = u64;

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Daemon to shim.
    Request {
        /// Chosen by the daemon; the reply has the same.
        id: u64,
        /// What to do.
        request: Request,
    },
    /// Shim to daemon.
    Reply {
        /// Of the request.
        id: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// Shim to every subscribed daemon.
    Event(Event),
}

/// What a daemon asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on the start connection: make the sandbox. Answered by [`Reply::Hello`] when its
    /// namespaces, network and socket are ready.
    Open(SandboxSpec),
    /// First on every other connection. Answered by [`Reply::Hello`].
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
    },
    /// Send events on this connection from now on. Answered by [`Reply::State`], so that
    /// nothing can happen unseen between the two.
    Subscribe,
    /// Answered by [`Reply::State`].
    State,
    /// Prepare a container up to the moment before exec. Answered by [`Reply::Created`].
    Create(Box<ContainerSpec>),
    /// Execute the program of a created container. Answered by [`Reply::Started`] after the
    /// exec has succeeded.
    Start {
        /// Container id.
        id: String,
    },
    /// Send a signal to the container's first process, or to all of its processes. A created
    /// container is ended without having run. Succeeds when it has already exited.
    Signal {
        /// Container id.
        id: String,
        /// Signal number.
        signal: i32,
        /// To every process of the container (its cgroup), not only the first.
        all: bool,
    },
    /// Run a further command in a running container. Answered by [`Reply::Exec`] after its exec.
    Exec(Box<ExecSpec>),
    /// Send a signal to an exec'ed process. Succeeds when it has already exited.
    SignalExec {
        /// Exec id.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Join the streams of the container's own process. Answered by [`Reply::Attached`].
    Attach {
        /// Container id.
        id: String,
        /// Feed standard input (the container must have been made with `stdin`).
        stdin: bool,
        /// Receive what it writes to standard output from now on.
        stdout: bool,
        /// Receive what it writes to standard error from now on.
        stderr: bool,
    },
    /// Set the window size of a container's terminal.
    Resize {
        /// Container id.
        id: String,
        /// Characters a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Close the container's standard input.
    CloseStdin {
        /// Container id.
        id: String,
    },
    /// Change limits of a container.
    Update {
        /// Container id.
        id: String,
        /// New limits; fields at zero stay as they are.
        resources: Resources,
    },
    /// Open the log file anew (somebody else has renamed it).
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// Forget an exited or created container and remove its cgroup. Succeeds when unknown.
    Delete {
        /// Container id.
        id: String,
    },
    /// Kill what still runs, remove all cgroups of containers, answer, and exit.
    Shutdown,
}

impl Request {
    /// The version that this request came with, with all that is asked in it.
    pub fn since(&self) -> u32 {
        match self {
            Request::Open(_)
            | Request::Hello { .. }
            | Request::Subscribe
            | Request::State
            | Request::Create(_)
            | Request::Start { .. }
            | Request::Signal { .. }
            | Request::Exec(_)
            | Request::SignalExec { .. }
            | Request::Attach { .. }
            | Request::Resize { .. }
            | Request::CloseStdin { .. }
            | Request::Update { .. }
            | Request::ReopenLog { .. }
            | Request::Delete { .. }
            | Request::Shutdown => 1,
        }
    }
}

/// What the shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Open` and `Hello`.
    Hello {
        /// The shim's [`VERSION`].
        version: u32,
        /// The shim's process id; its namespaces are under `/proc/<pid>/ns`.
        pid: i32,
        /// Process id of the Pod's PID 1 when the PID namespace is shared.
        pause_pid: Option<i32>,
        /// The shim's [`OLDEST`].
        #[serde(default = "first_version")]
        oldest: u32,
    },
    /// To `Subscribe` and `State`.
    State {
        /// All containers that were not deleted, in order of creation.
        containers: Vec<ContainerState>,
        /// All exec'ed processes that still run.
        execs: Vec<ExecState>,
    },
    /// To `Create`.
    Created {
        /// Process id of the container's first process, as the node sees it.
        pid: i32,
        /// Who the process will be.
        user: ResolvedUser,
    },
    /// To `Start`.
    Started {
        /// Process id, as the node sees it.
        pid: i32,
        /// When.
        started_at: Nanoseconds,
    },
    /// To `Exec`. Descriptors come with it in this order: with a terminal one, its master;
    /// without, those of stdin (write), stdout (read), stderr (read) that were asked for.
    /// All are non-blocking.
    Exec {
        /// Process id, as the node sees it.
        pid: i32,
    },
    /// To `Attach`. Descriptors come with it in this order, those that were asked for: stdin
    /// (write), stdout (read), stderr (read; never with a terminal), then with a terminal its
    /// master, for window sizes. All are non-blocking.
    ///
    /// With a terminal stdin is another descriptor of the master: closing it is not end of input.
    Attached {
        /// The container has a terminal.
        tty: bool,
    },
    /// To everything else.
    Done,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The container's first process has ended and its output is in the log.
    ContainerExited {
        /// Container id.
        id: String,
        /// How.
        exit: Exit,
    },
    /// The kernel has killed a process of the container for memory.
    ContainerOom {
        /// Container id.
        id: String,
    },
    /// An exec'ed process has ended.
    ExecExited {
        /// Exec id.
        id: String,
        /// Container id.
        container: String,
        /// Exit code; 128+n for a signal.
        code: i32,
        /// When.
        time: Nanoseconds,
    },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// One sentence for the user.
    pub message: String,
}

/// Kinds of failure that the daemon tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such container or exec.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The container is not in the state that the request needs.
    WrongState,
    /// The program cannot be executed: not found, no permission, not a program. runc's words.
    StartError,
    /// The request cannot be right: unknown user, bad seccomp profile, unknown capability.
    Invalid,
    /// The kernel or the disk refused.
    Host,
    /// The request is none of this version, or the other end's version is too old or too new.
    Unsupported,
    /// A kind that a later version has.
    #[serde(other)]
    Unknown,
}

fn first_version() -> u32 {
    1
}

/// A Pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The daemon's [`VERSION`].
    pub version: u32,
    /// Sandbox id; shown in the shim's process title.
    pub id: String,
    /// Own network namespace with its loopback up, or the node's.
    pub network: SandboxNetwork,
    /// Own IPC namespace (SysV and POSIX queues).
    pub ipc: bool,
    /// Host name in an own UTS namespace; `None`: the node's.
    pub hostname: Option<String>,
    /// One PID namespace for all containers, with a reaper of the shim's as PID 1.
    pub shared_pid: bool,
    /// Kernel parameters of the sandbox's namespaces, `net.core.somaxconn` = `1024`.
    pub sysctls: Vec<(String, String)>,
    /// cgroup that the shim itself moves to, relative to the cgroup root; `None`: stays where it
    /// was started.
    pub cgroup: Option<String>,
    /// An own user namespace, to which the other namespaces belong: which ids of the node are those
    /// of the Pod. `None`: the node's.
    #[serde(default)]
    pub users: Option<IdRange>,
}

/// A sandbox's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxNetwork {
    /// The node's.
    Host,
    /// An own namespace with its loopback up, and an interface if asked for.
    Own(Option<Interface>),
}

/// One end of a veth pair in the sandbox, the other on a bridge of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name in the sandbox: `eth0`.
    pub name: String,
    /// Name of the other end on the node, at most 15 bytes.
    pub host_name: String,
    /// The bridge on the node, which must exist.
    pub bridge: String,
    /// Address in the sandbox.
    pub address: std::net::IpAddr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Default route; `None`: none.
    pub gateway: Option<std::net::IpAddr>,
    /// Largest packet; 0: the kernel's default.
    pub mtu: u32,
}

/// A container. Paths are the node's unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Id, unique in the sandbox; part of file names.
    pub id: String,
    /// Where its files come from.
    pub rootfs: Rootfs,
    /// Mount the root read-only after everything is in place.
    pub readonly_rootfs: bool,
    /// In order, after /proc, /dev and /sys are in place.
    pub mounts: Vec<Mount>,
    /// Program and arguments; a name without a slash is looked for in the container's `$PATH`.
    pub argv: Vec<String>,
    /// `K=V`. `HOME` is added when missing (from /etc/passwd), `TERM=xterm` too with a terminal.
    pub env: Vec<String>,
    /// Working directory in the container, made when missing; empty: `/`.
    pub cwd: String,
    /// Who.
    pub user: UserSpec,
    /// What it may do.
    pub security: Security,
    /// Devices beyond the usual ones.
    pub devices: Vec<Device>,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Keep standard input open for attach; otherwise it is /dev/null.
    pub stdin: bool,
    /// Standard input ends with the first attach.
    pub stdin_once: bool,
    /// CRI log; `None`: output is read and dropped.
    pub log: Option<LogSpec>,
    /// cgroup relative to the cgroup root: `kubepods/burstable/pod<uid>/<id>`.
    pub cgroup: String,
    /// Limits of that cgroup.
    pub resources: Resources,
    /// From -1000 to 1000; raised as far as this machine forbids lower.
    pub oom_score_adj: i32,
    /// `RLIMIT_NOFILE` and others; clamped to what this machine allows.
    pub rlimits: Vec<Rlimit>,
    /// Whose PID namespace.
    pub pid: PidMode,
}

impl ContainerSpec {
    /// A container with nothing special: own PID namespace, root of its image, no limits, no log.
    pub fn new(id: impl Into<String>, rootfs: Rootfs, argv: Vec<String>, cgroup: impl Into<String>) -> Self {
        ContainerSpec {
            id: id.into(),
            rootfs,
            readonly_rootfs: false,
            mounts: Vec::new(),
            argv,
            env: Vec::new(),
            cwd: String::new(),
            user: UserSpec::default(),
            security: Security::default(),
            devices: Vec::new(),
            tty: false,
            stdin: false,
            stdin_once: false,
            log: None,
            cgroup: cgroup.into(),
            resources: Resources::default(),
            oom_score_adj: 0,
            rlimits: Vec::new(),
            pid: PidMode::Own,
        }
    }
}

/// Where the container's files come from. It is mounted in the container's own mount
/// namespace only: nothing is left on the node when the container ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay.
    Overlay {
        /// Read-only layers, the topmost first.
        lowers: Vec<PathBuf>,
        /// Takes the writes.
        upper: PathBuf,
        /// Work directory, empty, on the same file system as `upper`.
        work: PathBuf,
    },
    /// A directory, bind-mounted.
    Directory(PathBuf),
}

/// A mount in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path in the container; made when missing, symbolic links resolved inside it.
    pub destination: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// No writes through this mount.
    pub read_only: bool,
    /// Sub-mounts are read-only too.
    pub recursive_read_only: bool,
    /// How mounts made later travel.
    pub propagation: Propagation,
    /// In a sandbox with users of its own: the owners of its files are those of the sandbox already.
    /// All other mounts are mapped to them.
    #[serde(default)]
    pub mapped: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the node, with its sub-mounts.
    Bind(PathBuf),
    /// A fresh tmpfs.
    Tmpfs {
        /// Bytes; 0: the kernel's default (half of the memory).
        size: u64,
        /// Mode of its root, e.g. 0o1777.
        mode: u32,
    },
}

/// Mount propagation between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None (rprivate).
    #[default]
    Private,
    /// Node to container (rslave).
    HostToContainer,
    /// Both ways (rshared).
    Bidirectional,
}

/// Who a container's process is, before the image's files are consulted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// UID; `None`: the image's user.
    pub uid: Option<u32>,
    /// GID; `None`: the image's, or the user's group in /etc/passwd, or 0.
    pub gid: Option<u32>,
    /// The image's USER: empty, `name`, `uid`, `name:group`, `uid:gid`.
    pub image_user: String,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Do not add the groups that the image's /etc/group gives the user.
    pub strict_groups: bool,
}

/// Who a container's process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, the primary one included as runc does when /etc/group names it.
    pub groups: Vec<u32>,
}

/// What a process may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities of this machine, all its devices, nothing masked, no filter.
    pub privileged: bool,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Added to the default set: names without `CAP_`, or `ALL`.
    pub add_capabilities: Vec<String>,
    /// Taken from the default set: names without `CAP_`, or `ALL`.
    pub drop_capabilities: Vec<String>,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Nothing of /proc and /sys is masked or made read-only.
    pub unmasked_proc: bool,
}

/// A system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    Unconfined,
    /// The profile that containerd and Docker use.
    #[default]
    RuntimeDefault,
    /// A JSON profile (OCI shape) on the node.
    Localhost(PathBuf),
}

/// A device of the node in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the node.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// Where a container's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The file; its directory is made when missing.
    pub path: PathBuf,
    /// Renamed when it would grow beyond this, bytes; 0: never.
    pub max_bytes: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
}

impl LogSpec {
    /// With the kubelet's limits: 10 MiB, 5 files.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        LogSpec { path: path.into(), max_bytes: 10 << 20, max_files: 5 }
    }
}

/// A resource limit of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, …
    pub kind: String,
    /// In force.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Whose PID namespace a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Its own, in which it is PID 1.
    #[default]
    Own,
    /// The sandbox's (`SandboxSpec::shared_pid`).
    Sandbox,
    /// The node's.
    Host,
    /// That of a running container of this sandbox.
    Container(String),
}

/// A further command in a container. It gets the container's user, capabilities and filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Container id.
    pub container: String,
    /// Id of this run, unique in the sandbox.
    pub id: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the container's environment; later ones win.
    pub env: Vec<String>,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// With standard input; otherwise it is /dev/null.
    pub stdin: bool,
    /// With standard output; otherwise it is /dev/null.
    pub stdout: bool,
    /// With standard error; otherwise it is /dev/null.
    pub stderr: bool,
}
