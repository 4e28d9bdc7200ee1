//! Layers for reading alone: an overlay without an upper one.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::{Attributes, Depth, Detached, OVERLAY_OPTIONS, kernel_release, takes_parts};
use crate::{Context, Error, Result};

/// What `mount` reads of its options.
pub(super) const PAGE: usize = 4096;

/// Mounts layers on a directory for reading alone, the topmost first: nothing of them is a device, and nothing
/// gives rights.
///
/// # Errors
/// A layer is missing, or the kernel has no overlays.
pub fn mount(lowers: &[PathBuf], target: &Path) -> Result<()> {
    if lowers.is_empty() {
        return Detached::new("tmpfs", &[("size", "4k")], READ_ONLY_DATA)?.attach_at(target);
    }
    // An overlay without an upper layer wants two lower ones. There is nothing in what is mounted upon.
    let lowers: Vec<PathBuf> = lowers.iter().cloned().chain([target.to_path_buf()]).collect();
    let made = if takes_parts(&kernel_release()) { layers_by_parts(&lowers) } else { Err(Errno::INVAL) };
    match made {
        Ok(made) => return made.attach_at(target),
        Err(Errno::INVAL) => layers_by_one_option(&lowers, target),
        Err(errno) => Err(errno),
    }
    .attempt(|| format!("mount {} layers on {}", lowers.len(), target.display()))
}

/// Mounts layers as [`mount`] does, their owners shown as a user namespace has them (an overlay itself cannot
/// be mapped).
///
/// # Errors
/// As [`mount`], or the file system of a layer cannot be mapped.
pub fn mount_mapped(lowers: &[PathBuf], target: &Path, namespace: BorrowedFd<'_>) -> Result<()> {
    if lowers.is_empty() {
        return mount(lowers, target);
    }
    let made = std::thread::scope(|scope| {
        let make = || -> Result<Detached> {
            // The mapped layers are put in place where nobody else sees them.
            crate::namespace::unshare(crate::namespace::Namespaces::MOUNT)?;
            super::make_all_private()?;
            map(lowers, namespace)?;
            let lowers: Vec<PathBuf> = lowers.iter().cloned().chain([target.to_path_buf()]).collect();
            layers_by_parts(&lowers).attempt(|| format!("make an overlay of {} layers", lowers.len()))
        };
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, make);
        let made = thread.attempt(|| "start a thread")?.join();
        made.unwrap_or_else(|_| Err(Error::new("make an overlay", Errno::IO)))
    })?;
    made.attach_at(target)
}

/// Puts a mapped copy of each layer over it, in the mounts of this process: have some of one's own.
///
/// # Errors
/// The file system of a layer cannot be mapped.
pub fn map(lowers: &[PathBuf], namespace: BorrowedFd<'_>) -> Result<()> {
    let mut mapped = BTreeSet::new();
    // An image may have the same layer twice.
    for lower in lowers.iter().filter(|lower| mapped.insert(*lower)) {
        let layer = Detached::bind(lower, Depth::This)?;
        layer.map_ids(namespace).map_err(|error| error.about(lower))?;
        layer.attach_at(lower)?;
    }
    Ok(())
}

fn layers_by_parts(lowers: &[PathBuf]) -> std::result::Result<Detached, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fs = context.as_fd();
    lowers.iter().try_for_each(|lower| fsconfig_set_string(fs, "lowerdir+", lower.as_path()))?;
    OVERLAY_OPTIONS.iter().try_for_each(|(key, value)| fsconfig_set_string(fs, *key, *value))?;
    fsconfig_create(fs)?;
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(READ_ONLY_DATA.0).unwrap_or(0));
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).map(Detached::from)
}

/// As [`overlay_by_one_option`], at once in its place.
fn layers_by_one_option(lowers: &[PathBuf], target: &Path) -> std::result::Result<(), Errno> {
    let open = |path: &PathBuf| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let opened = lowers.iter().map(open).collect::<std::result::Result<Vec<_>, _>>()?;
    let names: Vec<String> = opened.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let mut options = format!("lowerdir={}", names.join(":"));
    for (key, value) in OVERLAY_OPTIONS {
        options += &format!(",{key}={value}");
    }
    if options.len() >= PAGE {
        return Err(Errno::TOOBIG);
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    let options = CString::new(options).expect("made of names and numbers");
    rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
}

const READ_ONLY_DATA: Attributes = Attributes::READ_ONLY.and(Attributes::NOSUID).and(Attributes::NODEV);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::make_all_private;

    /// Mounts layers in a mount namespace of its own; the files seen, and whether one could be written.
    fn layers_of(layers: &'static [&'static str], mount: fn(&[PathBuf], &Path)) -> (Vec<String>, bool) {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().to_path_buf();
        let lowers: Vec<PathBuf> = layers.iter().map(|name| base.join("layers").join(name)).collect();
        for (name, lower) in layers.iter().zip(&lowers) {
            std::fs::create_dir_all(lower).unwrap();
            std::fs::write(lower.join("same"), name).unwrap();
            std::fs::write(lower.join(name), "").unwrap();
        }
        let target = base.join("target");
        std::fs::create_dir(&target).unwrap();
        std::thread::spawn(move || {
            crate::namespace::unshare(crate::namespace::Namespaces::MOUNT).unwrap();
            make_all_private().unwrap();
            mount(&lowers, &target);
            let entries = std::fs::read_dir(&target).unwrap();
            let mut seen: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            seen.sort();
            seen.push(std::fs::read_to_string(target.join("same")).unwrap_or_default());
            (seen, std::fs::write(target.join("new"), "").is_ok())
        })
        .join()
        .unwrap()
    }

    #[test]
    fn layers_alone_are_seen_through_the_topmost_and_cannot_be_written() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let at_once: fn(&[PathBuf], &Path) = |lowers, target| super::mount(lowers, target).unwrap();
        let old: fn(&[PathBuf], &Path) = |lowers, target| {
            let all: Vec<PathBuf> = lowers.iter().cloned().chain([target.to_path_buf()]).collect();
            layers_by_one_option(&all, target).unwrap();
        };
        for mount in [at_once, old] {
            let seen = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            assert_eq!(layers_of(&["top", "low"], mount), (seen(&["low", "same", "top", "top"]), false));
            assert_eq!(layers_of(&["one"], mount), (seen(&["one", "same", "one"]), false));
        }
        assert_eq!(layers_of(&[], at_once), (vec![String::new()], false), "an image need not have layers");
    }
}
