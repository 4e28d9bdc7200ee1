//! Taking a sandbox down, and everything that a sandbox may have left.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use shim::protocol::Request;
use tokio::time::timeout;

use super::{Sandbox, SandboxRecord, record_file};
use crate::failpoint::{self, Place};
use crate::interface::Error;
use crate::layout::{failed, remove_directory, write_json};
use crate::native::Inner;

/// A shim that was told to go and has killed everything needs milliseconds.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Kills what runs in the sandbox and takes its network down; its containers can still be asked for.
pub(crate) async fn stop(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    if sandbox.begin_to_stop() && timeout(SHUTDOWN_PATIENCE, end_shim(sandbox)).await.is_err() {
        return kill_shim(sandbox);
    }
    failpoint::pass(Place::ShimEnded);
    inner.unset_ports(sandbox).await?;
    failpoint::pass(Place::HostPortsUnset);
    take_down(inner, sandbox).await
}

async fn end_shim(sandbox: &Sandbox) {
    if sandbox.peer().is_none() {
        return;
    }
    let told = match sandbox.link() {
        Ok(link) => link.ask(Request::Shutdown).await.is_ok(),
        Err(_) => false,
    };
    // It may be gone, or only out of reach: without its socket it ends too.
    if !told && let Err(error) = disown_shim(&sandbox.directory) {
        tracing::warn!(%error, "cannot disown a shim");
    }
    sandbox.ended().await;
}

/// Takes back a sandbox that did not become ready, its shim too if there is one.
pub(crate) async fn abandon(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    if timeout(SHUTDOWN_PATIENCE, end_shim(sandbox)).await.is_err() {
        tracing::warn!(pod = %sandbox.pod_uid(), "a shim does not end");
    }
    clean(inner, sandbox).await
}

fn kill_shim(sandbox: &Sandbox) -> Result<(), Error> {
    let context = format!("failed to stop sandbox {:?}", sandbox.id());
    let hangs =
        Error::host(context, format!("its shim did not end within {} s", SHUTDOWN_PATIENCE.as_secs()));
    // The next call finds it gone and goes on.
    if let Some(Err(error)) = sandbox.peer().map(|peer| peer.kill()) {
        tracing::warn!(%error, "cannot kill a shim");
    }
    Err(hangs)
}

/// Removes a sandbox with all it has.
pub(crate) async fn remove(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    stop(inner, sandbox).await?;
    for container in sandbox.containers() {
        crate::container::delete::delete(inner, sandbox, &container).await?;
    }
    clean(inner, sandbox).await?;
    inner.forget(sandbox.id());
    if !inner.all().iter().any(|other| other.pod_uid() == sandbox.pod_uid()) {
        super::image_volume::release(inner, sandbox.pod_uid());
    }
    Ok(())
}

/// Removes what a sandbox without a shim may have left, however far it came.
pub(crate) async fn clean(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    inner.unset_ports(sandbox).await?;
    take_down(inner, sandbox).await?;
    let directory = sandbox.directory.clone();
    tokio::task::spawn_blocking(move || {
        remove_directory(&directory)?;
        failpoint::pass(Place::SandboxFilesRemoved);
        if let Some(pod) = directory.parent() {
            // Not ours alone: the node keeps volumes there. Whoever is last removes it.
            let _ = std::fs::remove_dir(pod);
        }
        Ok::<(), Error>(())
    })
    .await
    .map_err(|e| Error::host("failed to remove the sandbox", e))??;
    Ok(())
}

/// Shim, cgroups (with the processes in them) and mount; then what others may have: addresses, and the
/// space of what the containers have written. A Pod that has finished may stay known for long.
async fn take_down(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    // Stopped first and removed later, as the kubelet does: once is enough.
    if sandbox.is_taken_down() {
        return Ok(());
    }
    let (inner, sandbox) = (inner.clone(), sandbox.clone());
    tokio::task::spawn_blocking(move || {
        disown_shim(&sandbox.directory)?;
        failpoint::pass(Place::ShimDisowned);
        remove_cgroups(&inner, &sandbox)?;
        failpoint::pass(Place::CgroupsRemoved);
        unmount_if_mounted(&sandbox.directory.join("shm"))?;
        failpoint::pass(Place::SharedMemoryUnmounted);
        for container in sandbox.containers() {
            crate::container::delete::discard_snapshot(&container)?;
        }
        failpoint::pass(Place::SnapshotsDiscarded);
        release_addresses(&inner, &sandbox)?;
        failpoint::pass(Place::AddressesReleased);
        sandbox.note_taken_down();
        Ok(())
    })
    .await
    .map_err(|e| Error::host("failed to take the sandbox down", e))?
}

fn release_addresses(inner: &Inner, sandbox: &Sandbox) -> Result<(), Error> {
    let file = record_file(&sandbox.directory);
    if file.exists() {
        // Said first: a daemon that comes after must not reserve what another Pod has by then.
        write_json(&file, &SandboxRecord { released: true, ..sandbox.current_record() })?;
    }
    for address in sandbox.release() {
        // What is left over is replaced by the next Pod at the address.
        if let Err(error) = inner.bridge.forget(*address) {
            tracing::warn!(%error, pod = %sandbox.pod_uid(), "cannot forget the neighbour of a Pod");
        }
        if let IpAddr::V4(address) = address {
            inner.addresses.release(*address);
        }
    }
    Ok(())
}

/// The Pod's group is shared with the sandbox that came after this one, if one did.
fn remove_cgroups(inner: &Inner, sandbox: &Sandbox) -> Result<(), Error> {
    let failed = |e: sys::Error| Error::host("failed to remove a cgroup", e);
    if !inner.has_other_sandbox(sandbox) {
        inner.branches.pod_went(sandbox.pod_uid());
        return inner.hierarchy.group(&inner.pod_cgroup(&sandbox.record.config)).remove().map_err(failed);
    }
    let containers = sandbox.containers();
    containers.iter().try_for_each(|one| inner.hierarchy.group(&one.cgroup).remove().map_err(failed))
}

/// A shim whose socket is gone ends with all that runs in it: also one that lost its connection
/// to us, or that we know nothing of but its directory.
pub(crate) fn disown_shim(directory: &Path) -> Result<(), Error> {
    let socket = directory.join(shim::client::SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", &socket)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn unmount_if_mounted(path: &Path) -> Result<(), Error> {
    use rustix::io::Errno;
    match unmount(path, UnmountFlags::DETACH) {
        // Not a mount point, or not there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("unmount", path)(errno)),
    }
}
