//! Group ownership of volumes by fsGroup.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Whether containers may write to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The group gets rw.
    ReadWrite,
    /// The group gets r.
    ReadOnly,
}

/// Gives everything below `root` to the group: g+rw (or g+r), directories g+x and setgid.
pub fn apply(root: &Path, group: Option<i64>, access: Access) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    let group = u32::try_from(group).map_err(|_| io::Error::other(format!("invalid fsGroup {group}")))?;
    walk(root, group, access)
}

fn walk(path: &Path, group: u32, access: Access) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    // A link has no mode of its own and may lead out of the volume.
    if meta.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mask = match access {
        Access::ReadWrite => 0o660,
        Access::ReadOnly => 0o440,
    };
    let mask = if meta.is_dir() { mask | 0o2110 } else { mask };
    let mode = meta.permissions().mode() & 0o7777;
    if mode | mask != mode || meta.gid() != group {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | mask))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group, access)?;
        }
    }
    Ok(())
}
