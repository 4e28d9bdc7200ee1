//! Devices that a container has beyond the usual ones.

use std::path::PathBuf;

/// A device of the node in a container.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// On the node.
    pub host_path: PathBuf,
    /// In the container.
    pub container_path: PathBuf,
    /// It may not be written to.
    pub read_only: bool,
}
