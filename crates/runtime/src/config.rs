//! What a runtime is made with.

use std::path::PathBuf;

use crate::image::Registries;
use crate::network::Subnet;

/// What a runtime is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The instance's data directory.
    pub data_dir: PathBuf,
    /// 8 hexadecimal digits made from it; everything in the kernel is named after them.
    pub instance: String,
    /// Addresses of this node's Pods.
    pub pod_cidr: Subnet,
    /// Addresses of the Pods of all nodes; what goes there keeps its sender.
    pub cluster_cidr: Subnet,
    /// Addresses of Services, if the node's own programs are to reach them.
    pub service_cidr: Option<Subnet>,
    /// The program that is started with the argument `shim`.
    pub executable: PathBuf,
    /// How registries are reached.
    pub registries: Registries,
    /// Images pulled at the same time, of three layers each. The kubelet's default is one, behind which a small image
    /// waits for a large one; without a bound a burst of Pods divides the line, the disk and the memory by their number.
    pub pulls_at_once: usize,
    /// What Pods cannot have of the machine.
    pub reserved: Reserved,
    /// The most process numbers of one Pod; `None`: three quarters of what all can have.
    pub pod_max_pids: Option<i64>,
    /// A container's log is renamed when it would grow beyond this, bytes.
    pub log_max_bytes: u64,
    /// Files kept of a container's log.
    pub log_max_files: u32,
}

/// Kept from all Pods together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a processor: the weight of the Pods is less by it.
    pub milli_cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Process numbers.
    pub pids: u64,
}

impl Config {
    /// With the kubelet's limits of logs and this very program as the shim.
    pub fn new(data_dir: impl Into<PathBuf>, instance: impl Into<String>, pod_cidr: Subnet) -> Self {
        Config {
            data_dir: data_dir.into(),
            instance: instance.into(),
            pod_cidr,
            cluster_cidr: pod_cidr,
            service_cidr: None,
            executable: PathBuf::from("/proc/self/exe"),
            registries: Registries::default(),
            reserved: Reserved::default(),
            pod_max_pids: None,
            pulls_at_once: 4,
            log_max_bytes: 10 << 20,
            log_max_files: 5,
        }
    }
}
