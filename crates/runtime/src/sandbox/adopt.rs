//! Finding again what ran when the daemon before this one ended.
//!
//! The truth is with the shims: each directory that looks like a sandbox's is asked. A shim that
//! lives is adopted with its containers, which notice nothing. Where there is none, what may
//! be left is taken down; if the sandbox had containers it stays known, not ready, so that the
//! node can learn how they ended.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Phase, Sandbox, SandboxRecord, record_file};
use crate::container::{Container, ContainerRecord};
use crate::interface::{Error, PodIdentity, QosClass};
use crate::layout::{read_json, remove_directory};
use crate::native::Inner;

/// A shim has nothing to do that takes this long. One that is silent is not waited for any longer;
/// it is adopted as it was last seen, for it may be stopped or starved, and holds its Pod.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// Adopts all sandboxes of the instance.
pub(crate) async fn adopt_all(inner: &Arc<Inner>) -> Result<(), Error> {
    let directories = inner.layout.sandboxes_on_disk();
    let warn = |directory: &Path, error: &Error| {
        tracing::warn!(directory = %directory.display(), %error, "cannot adopt a sandbox");
    };
    // The living first: taking down what a dead sandbox left must spare the Pod's living one.
    let (mut dead, mut unknown) = (Vec::new(), Vec::new());
    for (directory, found) in
        directories.iter().zip(join_all(directories.iter().map(|d| adopt(inner, d))).await)
    {
        match found {
            Found::Living => {}
            Found::Dead(sandbox) => dead.push(sandbox),
            Found::Unknown => unknown.push(directory),
        }
    }
    for directory in unknown {
        if let Err(error) = discard(inner, directory).await {
            warn(directory, &error);
        }
    }
    let buried = join_all(dead.iter().map(|sandbox| bury(inner, sandbox))).await;
    for (sandbox, result) in dead.iter().zip(buried) {
        if let Err(error) = result {
            warn(&sandbox.directory, &error);
        }
    }
    end_stale_leases(inner)?;
    // Links whose namespace something else keeps alive.
    let known: Vec<String> = inner.all().iter().map(|s| inner.layout.veth(s.id())).collect();
    inner.remove_links(&known);
    let living = inner.all().into_iter().filter(|sandbox| !sandbox.is_taken_down());
    let kept: Vec<_> = living.flat_map(|sandbox| sandbox.record.addresses.clone()).collect();
    if let Err(error) = inner.bridge.forget_all_but(&kept) {
        tracing::warn!(%error, "cannot forget the neighbours of Pods that are gone");
    }
    Ok(())
}

/// What a directory turned out to be.
enum Found {
    /// Its shim answered: adopted.
    Living,
    /// Its shim is gone.
    Dead(Arc<Sandbox>),
    /// It does not say what it is.
    Unknown,
}

/// Adopts the sandbox of a directory if its shim runs.
async fn adopt(inner: &Arc<Inner>, directory: &Path) -> Found {
    let Some(record) = read_json::<SandboxRecord>(&record_file(directory)) else { return Found::Unknown };
    for address in record.addresses.iter().filter(|_| !record.released) {
        if let IpAddr::V4(address) = address {
            inner.addresses.note(*address);
        }
    }
    let sandbox = Sandbox::new(record, directory.to_owned(), inner.events.clone());
    read_containers(inner, &sandbox);
    inner.listen(sandbox.clone(), None, None);
    match timeout(HELLO_PATIENCE, sandbox.settled()).await {
        Ok(Phase::NotReady) => {
            tracing::info!(pod = %sandbox.pod_uid(), "a sandbox has no shim");
            return Found::Dead(sandbox);
        }
        Ok(_) => {}
        Err(_) => {
            tracing::warn!(pod = %sandbox.pod_uid(), "a shim does not answer yet; its Pod is taken as it was");
            sandbox.trust_records();
        }
    }
    inner.note_ports(&sandbox);
    inner.branches.pod_came(&sandbox.record.config);
    inner.add(sandbox);
    Found::Living
}

/// Takes down what a sandbox without a shim has left. With containers it stays known.
async fn bury(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    if sandbox.containers().is_empty() {
        return super::remove::clean(inner, sandbox).await;
    }
    super::remove::stop(inner, sandbox).await?;
    sandbox.read_last_words();
    inner.add(sandbox.clone());
    Ok(())
}

/// Removes a sandbox that does not say what it is: killed before it had a name, or its file was
/// damaged, and then all of it may be running. Its Pod is known by the directory.
async fn discard(inner: &Arc<Inner>, directory: &Path) -> Result<(), Error> {
    tracing::warn!(directory = %directory.display(), "removing a sandbox that cannot be known again");
    let uid = directory.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let uid =
        uid.filter(|uid| !inner.all().iter().any(|sandbox| sandbox.pod_uid() == *uid)).map(str::to_owned);
    let (inner, directory) = (inner.clone(), directory.to_owned());
    let removed = tokio::task::spawn_blocking(move || {
        super::remove::disown_shim(&directory)?;
        uid.map_or(Ok(()), |uid| remove_pod_cgroups(&inner, uid))?;
        super::remove::unmount_if_mounted(&directory.join("shm"))?;
        remove_directory(&directory)
    });
    removed.await.map_err(|e| Error::host("failed to remove a sandbox", e))?
}

/// Under whichever class it is: that was written in the file that cannot be read.
fn remove_pod_cgroups(inner: &Inner, uid: String) -> Result<(), Error> {
    let pod = PodIdentity { uid, name: String::new(), namespace: String::new(), attempt: 0 };
    let mut classes = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort].into_iter();
    classes.try_for_each(|qos| {
        let group = inner.hierarchy.group(&inner.layout.pod_cgroup(&pod, qos));
        group.remove().map_err(|e| Error::host("failed to remove a cgroup", e))
    })
}

fn read_containers(inner: &Inner, sandbox: &Sandbox) {
    let Ok(entries) = fs::read_dir(sandbox.directory.join("containers")) else { return };
    for directory in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let Some(record) = read_json::<ContainerRecord>(&directory.join("config.json")) else {
            // Killed in the middle of its creation.
            if let Err(error) = remove_directory(&directory) {
                tracing::warn!(%error, "cannot remove a container that was not made");
            }
            continue;
        };
        let cgroup = format!("{}/{}", inner.pod_cgroup(&sandbox.record.config), record.id);
        sandbox.add(Container::new(record, sandbox.record.config.pod.clone(), directory, cgroup));
    }
}

fn end_stale_leases(inner: &Inner) -> Result<(), Error> {
    for (holder, _) in inner.store.leases()? {
        if inner.container(&holder).is_err() && !super::image_volume::is_held(inner, &holder) {
            inner.store.release(&holder)?;
        }
    }
    Ok(())
}
