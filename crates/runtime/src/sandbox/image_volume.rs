//! Images that a Pod mounts as volumes: their layers, read-only, for as long as the Pod has a sandbox.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::PoisonError;

use crate::interface::Error;
use crate::layout::failed;
use crate::native::Inner;

/// Holders of such images, beside containers, which hold theirs by their ids.
const PREFIX: &str = "volume-";

/// Mounts the layers of an image on a directory; the image stays from then on.
pub(crate) fn mount(inner: &Inner, pod_uid: &str, image: &str, target: &Path) -> Result<(), Error> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let holder = format!("{PREFIX}{pod_uid}-{name}");
    // A lease is never moved: one of an earlier try may be for another image.
    inner.store.release(&holder)?;
    let image = inner.store.lease(&holder, image)?;
    holders(inner).push(holder);
    std::fs::create_dir_all(target).map_err(failed("make directory", target))?;
    let topmost_first = image.layers.iter().rev();
    let layers =
        topmost_first.map(|layer| inner.store.layer_directory(layer)).collect::<Result<Vec<_>, _>>()?;
    let users =
        inner.all().iter().filter(|one| one.pod_uid() == pod_uid).find_map(|one| one.record.config.users);
    let mounted = match users {
        Some(range) => sys::namespace::user::make(range)
            .and_then(|users| sys::mount::layers::mount_mapped(&layers, target, users.as_fd())),
        None => sys::mount::layers::mount(&layers, target),
    };
    mounted.map_err(failed("mount the image on", target))
}

/// The Pod has no sandbox any more, and its volumes are unmounted.
pub(crate) fn release(inner: &Inner, pod_uid: &str) {
    let prefix = format!("{PREFIX}{pod_uid}-");
    let mut holders = holders(inner);
    holders.retain(|holder| {
        if !holder.starts_with(&prefix) {
            return true;
        }
        if let Err(error) = inner.store.release(holder) {
            tracing::warn!(%error, "cannot end the use of an image");
        }
        false
    });
}

/// Whether a lease of an earlier daemon is of a volume that a Pod still has; then it is known again.
pub(crate) fn is_held(inner: &Inner, holder: &str) -> bool {
    let Some(rest) = holder.strip_prefix(PREFIX) else { return false };
    let of = |uid: &str| rest.strip_prefix(uid).is_some_and(|rest| rest.starts_with('-'));
    let held = inner.all().iter().any(|sandbox| of(sandbox.pod_uid()));
    if held {
        holders(inner).push(holder.to_owned());
    }
    held
}

fn holders(inner: &Inner) -> std::sync::MutexGuard<'_, Vec<String>> {
    inner.image_volumes.lock().unwrap_or_else(PoisonError::into_inner)
}
