//! Removing what a container leaves behind.

use std::sync::Arc;

use shim::protocol::Request;

use super::{Container, stop};
use crate::failpoint::{self, Place};
use crate::interface::Error;
use crate::layout::remove_directory;
use crate::native::Inner;
use crate::sandbox::Sandbox;

/// Removes a container, killing it if it still runs. Its log stays.
pub(crate) async fn delete(
    inner: &Arc<Inner>,
    sandbox: &Sandbox,
    container: &Arc<Container>,
) -> Result<(), Error> {
    if sandbox.is_ready() {
        stop::kill(sandbox, container).await?;
        sandbox.link()?.call(Request::Delete { id: container.id().to_owned() }).await?;
        failpoint::pass(Place::ContainerDeleted);
    }
    let (inner, removed) = (inner.clone(), container.clone());
    // What the container has written may be large.
    tokio::task::spawn_blocking(move || {
        remove_directory(&removed.directory)?;
        failpoint::pass(Place::ContainerFilesRemoved);
        inner.store.release(removed.id()).map_err(Error::from)
    })
    .await
    .map_err(|e| Error::host("failed to remove the container", e))??;
    failpoint::pass(Place::ImageReleased);
    sandbox.forget(container.id());
    Ok(())
}

/// Removes what an ended container has written to its root: it does not run again, and its log stays.
pub(crate) fn discard_snapshot(container: &Container) -> Result<(), Error> {
    ["upper", "work"].into_iter().try_for_each(|name| remove_directory(&container.directory.join(name)))
}
