//! What a node asks of a container runtime: the shapes of CRI v1.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

mod device;
mod limits;
mod security;

pub use device::Device;
pub use sys::namespace::user::IdRange;

pub use limits::{Resources, SandboxUpdate};
pub use security::{Seccomp, SecurityContext};

use crate::usage::{
    Collected, Collection, ContainerStats, DiskUse, Measured, MemoryUse, PodsMemory, Traffic,
};

/// A container runtime. All methods may be called again with the same arguments
/// after a restart of either side: creating what exists returns it, stopping or
/// removing what is gone succeeds.
pub trait Runtime: Send + Sync + 'static {
    /// Makes the sandbox: cgroups, namespaces, network, its shim. The Pod has its address when this returns.
    fn run_sandbox(&self, config: SandboxConfig) -> BoxFuture<'_, Result<SandboxStatus, Error>>;
    /// Kills what still runs in the sandbox and takes its network down.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// Removes the sandbox, its containers, its mounts and its files. It must be stopped.
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// All sandboxes, as observed now: how a node that starts learns what is already running.
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, Error>>;

    /// What there is of one Pod, by its UID, or of all: each sandbox with its containers, dead ones
    /// too. What is told of a sandbox is not newer than what is told of its containers.
    fn snapshot<'a>(&'a self, pod_uid: Option<&'a str>)
    -> BoxFuture<'a, Result<Vec<SandboxSnapshot>, Error>>;

    /// Prepares a container of a running sandbox: snapshot, cgroup, log file. Returns its id.
    fn create_container<'a>(
        &'a self,
        sandbox: &'a str,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<String, Error>>;
    /// Starts the created container's process; when this returns the program has been executed.
    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// Sends the stop signal and returns: the end is an event. One that was not started is killed.
    fn terminate_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// Sends the stop signal, waits up to `grace`, then kills. Returns when the container has exited.
    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>>;
    /// Removes a stopped container, its snapshot and cgroup; its log stays.
    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// All containers, stopped ones included.
    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, Error>>;
    /// One container, or `NotFound`.
    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus, Error>>;

    /// Runs a command in a running container and waits; output beyond 10 KiB a stream is dropped.
    /// A command that outlives `timeout` is killed and the error is `DeadlineExceeded`.
    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>>;
    /// Runs a command in a running container with streams.
    fn exec<'a>(&'a self, id: &'a str, options: ExecOptions) -> BoxFuture<'a, Result<Streams, Error>>;
    /// Joins the streams of the container's own process.
    fn attach<'a>(&'a self, id: &'a str, options: AttachOptions) -> BoxFuture<'a, Result<Streams, Error>>;
    /// Connects to a TCP port on the sandbox's loopback.
    fn port_forward<'a>(
        &'a self,
        sandbox: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, Error>>;

    /// Exits and other changes, as they happen. Called once; a full queue is never dropped
    /// but replaced by a single `Event::Overflow`, after which the reader lists again.
    fn events(&self) -> mpsc::Receiver<Event>;

    /// The image if it is here. `reference` as in a Pod: name, tag, digest or image id.
    fn image_status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, Error>>;
    /// Whether an image that is here may be used by somebody with these logins: whoever brings none of
    /// those it was pulled with has to pull it too. False when it is not here.
    fn may_use_image<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<bool, Error>>;
    /// All images.
    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, Error>>;
    /// Pulls, verifies, unpacks. Pulls of the same reference with the same credentials share one download.
    fn pull_image<'a>(
        &'a self,
        reference: &'a str,
        credentials: Vec<Credentials>,
    ) -> BoxFuture<'a, Result<Image, Error>>;
    /// Removes an image and the layers nobody else uses.
    fn remove_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// Shows what is in an image, read-only, on a directory that is made if it is missing. The image stays
    /// until the last sandbox of the Pod is removed; whoever asked unmounts it before.
    fn mount_image<'a>(
        &'a self,
        image: &'a str,
        pod_uid: &'a str,
        target: &'a Path,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// Sets limits of a running sandbox's own group; a field at zero (or empty) stays as it is.
    fn update_sandbox<'a>(&'a self, id: &'a str, update: SandboxUpdate) -> BoxFuture<'a, Result<(), Error>>;
    /// Sets limits of a running container; a field at zero (or empty) stays as it is, and so does the OOM score.
    fn update_container<'a>(&'a self, id: &'a str, limits: Resources) -> BoxFuture<'a, Result<(), Error>>;
    /// The memory that a sandbox and its running containers use now, page cache included: a limit below it
    /// kills, or is refused by the kernel.
    fn memory_use<'a>(&'a self, sandbox: &'a str) -> BoxFuture<'a, Result<MemoryUse, Error>>;
    /// The memory that all Pods together may have and have; `None`: they are not limited.
    fn pods_memory(&self) -> BoxFuture<'_, Result<Option<PodsMemory>, Error>>;
    /// Removes images that no container uses and that came from a registry, those first that were used longest
    /// ago.
    fn collect_images(&self, wanted: Collection) -> BoxFuture<'_, Result<Collected, Error>>;
    /// What the running containers of a Pod have written to their roots, by their names. The layers are walked.
    fn written<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<BTreeMap<String, DiskUse>, Error>>;
    /// Current use of each running container.
    fn stats(&self, measured: Measured) -> BoxFuture<'_, Result<Vec<ContainerStats>, Error>>;
    /// What went through the interfaces of all sandboxes that have one of their own.
    fn traffic(&self) -> BoxFuture<'_, Result<Vec<Traffic>, Error>>;
}

/// Why the runtime could not do it. The text is shown to users in Events.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such sandbox, container or image.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// "sandbox", "running sandbox", "container" or "image".
        what: &'static str,
        /// The name asked for.
        id: String,
    },
    /// The reference cannot be parsed.
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidImageName {
        /// As given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry refused, has no such image, or cannot be reached.
    #[error("{message}")]
    Pull {
        /// What the registry said, with the reference.
        message: String,
        /// True when no connection could be made.
        unreachable: bool,
    },
    /// The program could not be executed: no such file, no permission.
    #[error("{message}")]
    Start {
        /// In runc's words, e.g. `exec: "foo": executable file not found in $PATH`.
        message: String,
    },
    /// `exec_sync` ran out of time.
    #[error("command {command:?} timed out")]
    DeadlineExceeded {
        /// The command.
        command: String,
    },
    /// The container is not running.
    #[error("container not running ({id})")]
    NotRunning {
        /// Container id.
        id: String,
    },
    /// The kernel, the disk or the shim failed.
    #[error("{context}: {cause}")]
    Host {
        /// What was being done, with the path or name.
        context: String,
        /// What the system said.
        cause: String,
    },
}

impl Error {
    /// An error of the host with what was being done.
    pub fn host(context: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Error::Host { context: context.into(), cause: cause.to_string() }
    }
}

/// Identity of a sandbox. All four are kept and given back by `sandboxes`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodIdentity {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod UID; the cgroup and the directory are named after it.
    pub uid: String,
    /// How often the sandbox was made for this Pod.
    pub attempt: u32,
}

/// Which branch of the cgroup tree the Pod belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum QosClass {
    /// `kubepods/pod<uid>`.
    Guaranteed,
    /// `kubepods/burstable/pod<uid>`.
    Burstable,
    /// `kubepods/besteffort/pod<uid>`.
    BestEffort,
}

/// Whose namespace to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NamespaceMode {
    /// Shared by the containers of the Pod.
    #[default]
    Pod,
    /// Each container its own (PID only).
    Container,
    /// The node's.
    Node,
    /// That of another container of the Pod, by id (ephemeral containers; PID only).
    Target(String),
}

/// A Pod's sandbox.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxConfig {
    /// Whose sandbox.
    pub pod: PodIdentity,
    /// Host name inside; ignored with the node's network.
    pub hostname: String,
    /// Directory of the Pod's logs; a container's `log_path` is relative to it.
    pub log_directory: PathBuf,
    /// Contents of /etc/resolv.conf for every container; `None`: the node's.
    pub dns: Option<DnsConfig>,
    /// Ports of the node that lead to the Pod.
    pub port_mappings: Vec<PortMapping>,
    /// Network namespace: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// PID namespace: `Pod` (shared), `Container` or `Node`.
    pub pid: NamespaceMode,
    /// IPC namespace: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Branch of the cgroup tree.
    pub qos: QosClass,
    /// Limits of the Pod's own cgroup.
    pub resources: Resources,
    /// CPU that the Pod has asked for, in thousandths: the group of its QoS class gets the sum.
    #[serde(default)]
    pub cpu_request: u64,
    /// Kernel parameters set in the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which ids of the node are the Pod's, in a user namespace of its own; `None`: all are the node's.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// Kept as given.
    pub labels: BTreeMap<String, String>,
    /// Kept as given.
    pub annotations: BTreeMap<String, String>,
}

/// resolv.conf in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the node that leads to the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port in the sandbox.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Address of the node; empty: all.
    pub host_ip: String,
}

/// A sandbox as it is.
#[derive(Clone, Debug)]
pub struct SandboxStatus {
    /// Its id (64 hexadecimal digits).
    pub id: String,
    /// Whose.
    pub pod: PodIdentity,
    /// Ready, or not (its shim is gone, or it was stopped).
    pub ready: bool,
    /// Addresses; empty with the node's network.
    pub ips: Vec<IpAddr>,
    /// When it was made.
    pub created_at: jiff::Timestamp,
    /// Limits of its own cgroup.
    pub resources: Resources,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
}

/// A sandbox with all its containers.
#[derive(Clone, Debug)]
pub struct SandboxSnapshot {
    /// The sandbox.
    pub sandbox: SandboxStatus,
    /// Its containers, ended ones too.
    pub containers: Vec<ContainerStatus>,
}

/// A mount into a container.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Path on the node: a file or a directory.
    pub host_path: PathBuf,
    /// Path in the container; created when missing.
    pub container_path: PathBuf,
    /// No writes through it.
    pub read_only: bool,
    /// Sub-mounts too are read-only.
    pub recursive_read_only: bool,
    /// How mounts travel.
    pub propagation: Propagation,
    /// Its owners are the Pod's users already, where these are not the node's: what [`Runtime::mount_image`] made.
    #[serde(default)]
    pub mapped: bool,
}

/// Mount propagation between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// None (rprivate).
    #[default]
    Private,
    /// Node to container (rslave).
    HostToContainer,
    /// Both ways (rshared).
    Bidirectional,
}

/// A container.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ContainerConfig {
    /// Name in the Pod.
    pub name: String,
    /// Restart number: 0 for the first.
    pub attempt: u32,
    /// Image id, as `Image::id`.
    pub image: String,
    /// Replaces the image's entrypoint; empty: the image's.
    pub command: Vec<String>,
    /// Replaces the image's command; empty: the image's, if `command` is empty too.
    pub args: Vec<String>,
    /// Replaces the image's; created when missing.
    pub working_dir: String,
    /// After the image's own; later ones win.
    pub env: Vec<(String, String)>,
    /// In order.
    pub mounts: Vec<Mount>,
    /// Devices of the node beyond those that every container has.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Replaces the image's; empty: the image's, or TERM.
    #[serde(default)]
    pub stop_signal: String,
    /// `<name>/<attempt>.log`, relative to the sandbox's log directory.
    pub log_path: PathBuf,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close stdin when the first attach ends.
    pub stdin_once: bool,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Who and what.
    pub security: SecurityContext,
    /// Overrides the sandbox's PID mode (ephemeral containers); `None`: as the sandbox says.
    pub pid: Option<NamespaceMode>,
    /// Kept as given.
    pub labels: BTreeMap<String, String>,
    /// Kept as given.
    pub annotations: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
    /// Its shim is gone without a word.
    Unknown,
}

/// A container as it is.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    /// Id (64 hexadecimal digits).
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Whose.
    pub pod: PodIdentity,
    /// Name in the Pod.
    pub name: String,
    /// Restart number.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// Process id on the node, while running.
    pub pid: Option<u32>,
    /// Made at.
    pub created_at: jiff::Timestamp,
    /// Started at.
    pub started_at: Option<jiff::Timestamp>,
    /// Ended at.
    pub finished_at: Option<jiff::Timestamp>,
    /// Exit code; 128+n for a signal.
    pub exit_code: i32,
    /// Killed by the kernel for memory.
    pub oom_killed: bool,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// The error of a failed start.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Image id.
    pub image_id: String,
    /// Absolute path of the log.
    pub log_path: PathBuf,
    /// UID, GID and groups of the first process.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Its limits.
    pub resources: Resources,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
}

/// Something happened to a container or a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The container's process has ended; `container_status` has the code.
    ContainerExited {
        /// Pod UID.
        pod_uid: String,
        /// Container id.
        container_id: String,
    },
    /// The sandbox's shim is gone: nothing of it runs any more.
    SandboxDied {
        /// Pod UID.
        pod_uid: String,
        /// Sandbox id.
        sandbox_id: String,
    },
    /// Something of the node's that others had taken away or changed was put back.
    Repaired {
        /// What it is.
        what: String,
    },
    /// Events were lost: list again.
    Overflow,
}

/// What `exec_sync` returns.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code; 128+n for a signal.
    pub exit_code: i32,
}

/// A command to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// argv.
    pub command: Vec<String>,
    /// With a terminal; then there is no separate stderr.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
}

/// Which streams of the container to join.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    /// Feed standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// Live streams: our ends of pipes, sockets or a terminal, all close-on-exec and non-blocking.
/// Dropping `stdin` is end of input. With a terminal, `stdin` and `stdout` are two
/// descriptors of the terminal's master and `stderr` is `None`.
#[derive(Debug)]
pub struct Streams {
    /// Write here.
    pub stdin: Option<OwnedFd>,
    /// Read from here until end of file.
    pub stdout: Option<OwnedFd>,
    /// Read from here until end of file.
    pub stderr: Option<OwnedFd>,
    /// The terminal, for window sizes.
    pub terminal: Option<OwnedFd>,
    /// The exit code (128+n for a signal) when the process has ended. For attach: when the container has.
    pub exit: tokio::sync::oneshot::Receiver<i32>,
}

/// An image on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// `sha256:…` of the configuration.
    pub id: String,
    /// `docker.io/library/busybox:1.36`, normalised.
    pub repo_tags: Vec<String>,
    /// `docker.io/library/busybox@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// User of the configuration: empty, `name`, `uid`, `uid:gid`.
    pub user: String,
    /// STOPSIGNAL, e.g. `SIGQUIT`; empty: SIGTERM.
    pub stop_signal: String,
    /// ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// CMD.
    pub cmd: Vec<String>,
    /// ENV as `K=V`.
    pub env: Vec<String>,
    /// WORKDIR.
    pub working_dir: String,
    /// VOLUME paths.
    pub volumes: Vec<String>,
    /// Layers from the bottom, by the digest of their uncompressed tar (diff id).
    pub layers: Vec<String>,
    /// Came from an archive: no registry to come back from, so garbage collection leaves it.
    #[serde(default)]
    pub pinned: bool,
}

/// A way to log in to a registry; tried in order, then anonymously.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// A bearer token instead of the two.
    pub identity_token: String,
    /// Where they come from: what has the same origin later is taken for the same, whatever it then says.
    pub origin: String,
}
