//! What every controller gets, and the words that all of them need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::kinds::Kinds;
use client::events::{EventType, Recorder, reference};
use client::{Client, Informers, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::certificates::Sign;

/// What the controllers cannot read from the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// The authority's certificate, for `kube-root-ca.crt`.
    pub authority_pem: String,
    /// Signs certificates with the authority's key.
    pub sign: Sign,
    /// Where volumes of the class `standard` are made, on every node.
    pub volumes_dir: PathBuf,
    /// Removes such a volume with all below it, whatever its users have put there; one that is gone
    /// is fine. Blocks as long as the disk takes. It makes system calls, which are not known here.
    pub remove_tree: fn(&Path) -> Result<(), String>,
}

/// Where a controller reads and writes.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// What is served.
    pub(crate) kinds: watch::Receiver<Arc<Kinds>>,
    /// A kind is mirrored from the first controller on that asks for it.
    pub(crate) informers: Informers,
    pub(crate) config: Config,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    /// A recorder for events of one controller.
    pub(crate) fn recorder(&self, component: &str, tasks: &mut JoinSet<()>) -> Recorder {
        Recorder::spawn(self.client.clone(), component, "", tasks, self.shutdown.clone())
    }
}

/// The namespace and name of a key.
pub(crate) fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// Records an event about an object.
pub(crate) fn say<K: Object>(
    recorder: &Recorder,
    object: &K,
    kind: EventType,
    reason: &str,
    message: String,
) {
    recorder.event(&reference(object), kind, reason, message);
}

/// The store's revision at which an object was written.
pub(crate) fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// An object that is gone already is as good as deleted or changed.
pub(crate) fn unless_gone<T>(result: Result<T, client::Error>) -> Result<(), client::Error> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
