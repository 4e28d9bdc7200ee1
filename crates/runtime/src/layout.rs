//! Where things are: files below the data directory, names of what the kernel keeps for us.
//!
//! ```text
//! <data-dir>/pods/<uid>/sandbox-<attempt>/   config.json, resolv.conf, hostname, shm/
//!                                            shim.sock, shim.log, <container>.state   (the shim's)
//!     containers/<id>/                       config.json, upper/, work/
//! ```
//!
//! `config.json` is a cache: it says what was asked for and which address was given. What is
//! running is asked of the shim.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::interface::{Error, PodIdentity, QosClass};

/// Paths and names of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    data: PathBuf,
    instance: String,
}

impl Layout {
    pub(crate) fn new(data: &Path, instance: &str) -> Self {
        Layout { data: data.to_owned(), instance: instance.to_owned() }
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.data.join("state")
    }

    pub(crate) fn sandbox(&self, pod: &PodIdentity) -> PathBuf {
        self.pods().join(&pod.uid).join(format!("sandbox-{}", pod.attempt))
    }

    /// All directories that look like a sandbox's.
    pub(crate) fn sandboxes_on_disk(&self) -> Vec<PathBuf> {
        let children = |path: &Path| {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
                .map(|e| e.path())
                .collect::<Vec<_>>()
        };
        let is_sandbox = |path: &PathBuf| {
            path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("sandbox-"))
        };
        children(&self.pods()).iter().flat_map(|pod| children(pod)).filter(is_sandbox).collect()
    }

    /// Root of our cgroups.
    pub(crate) fn cgroup_root(&self) -> String {
        format!("monopod-{}", self.instance)
    }

    /// Where shims live: in no Pod's limits.
    pub(crate) fn shim_cgroup(&self) -> String {
        format!("{}/shims", self.cgroup_root())
    }

    /// `kubepods[/burstable|/besteffort]/pod<uid>`, as the kubelet lays it out.
    pub(crate) fn pod_cgroup(&self, pod: &PodIdentity, qos: QosClass) -> String {
        format!("{}/pod{}", self.branch(qos), pod.uid)
    }

    /// Where the Pods of a class are.
    pub(crate) fn branch(&self, qos: QosClass) -> String {
        let branch = match qos {
            QosClass::Guaranteed => "kubepods",
            QosClass::Burstable => "kubepods/burstable",
            QosClass::BestEffort => "kubepods/besteffort",
        };
        format!("{}/{branch}", self.cgroup_root())
    }

    pub(crate) fn bridge(&self) -> String {
        format!("mp{}", self.instance)
    }

    pub(crate) fn ports_table(&self) -> String {
        format!("monopod-{}-ports", self.instance)
    }

    /// Beginning of the names of our veth ends on the node.
    pub(crate) fn veth_prefix(&self) -> String {
        format!("v{}", self.instance)
    }

    /// 15 bytes are all a link's name may have: 9 of the prefix, 6 of the sandbox.
    pub(crate) fn veth(&self, sandbox: &str) -> String {
        format!("{}{}", self.veth_prefix(), sandbox.get(..6).unwrap_or(sandbox))
    }
}

/// Writes JSON so that a reader sees the old file or the new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    serde_json::to_vec(value)
        .map_err(std::io::Error::other)
        .and_then(|content| fs::write(&temporary, content))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Error::host(format!("failed to write {}", path.display()), e))
}

/// Reads JSON; `None` when the file is missing or half-written.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Makes a directory that is nobody else's to look into.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make directory", path))
}

/// For `map_err`: an error of the disk.
pub(crate) fn failed<E: std::fmt::Display>(action: &str, path: &Path) -> impl FnOnce(E) -> Error + use<E> {
    let context = format!("failed to {action} {}", path.display());
    move |cause| Error::host(context, cause)
}

/// Removes a directory with all in it; one that is gone is fine.
pub(crate) fn remove_directory(path: &Path) -> Result<(), Error> {
    sys::beneath::remove_tree(path).map_err(failed("remove", path))
}
