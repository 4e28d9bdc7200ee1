//! /dev of a container, and which devices its cgroup lets it use.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, major, minor};
use sys::beneath::Directory;
use sys::cgroup::{Access, DeviceKind, DeviceRule};
use sys::mount::{Attributes, Detached, Missing, make_device, open_target};
use sys::{Context, Result};

use crate::protocol::{ContainerSpec, Device};
use crate::users::Users;

/// A node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    path: PathBuf,
    kind: FileType,
    mode: u32,
    device: u64,
    owner: (u32, u32),
}

/// Devices that every container has: name, major, minor.
const USUAL: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// The rules for a container's cgroup; `None`: everything is allowed.
pub(crate) fn rules(spec: &ContainerSpec) -> Result<Option<Vec<DeviceRule>>> {
    if spec.security.privileged {
        return Ok(None);
    }
    let mut rules = DeviceRule::usual();
    for device in &spec.devices {
        let stat = rustix::fs::stat(&device.host_path).on("stat", &device.host_path)?;
        let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        rules.push(DeviceRule {
            kind: if block { DeviceKind::Block } else { DeviceKind::Character },
            major: Some(major(stat.st_rdev)),
            minor: Some(minor(stat.st_rdev)),
            access: Access::parse(&device.permissions),
        });
    }
    Ok(Some(rules))
}

/// Nodes beyond the usual ones, looked up while the node's /dev is in sight.
pub(super) fn extra(spec: &ContainerSpec, users: Option<&Users>) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    if spec.security.privileged {
        collect(Path::new("/dev"), &mut nodes);
    }
    for Device { host_path, container_path, .. } in &spec.devices {
        nodes.extend(node(host_path, container_path.clone()).on("stat", host_path)?);
    }
    if let Some(users) = users {
        for Node { owner: (uid, gid), .. } in &mut nodes {
            (*uid, *gid) = (users.outside(*uid), users.outside(*gid));
        }
    }
    Ok(nodes)
}

/// All devices of the node, but those that a container has its own of.
fn collect(directory: &Path, nodes: &mut Vec<Node>) {
    const OWN: [&str; 10] =
        ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev", "tty"];
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let usual = USUAL.iter().any(|(known, _, _)| name == *known);
        if directory == Path::new("/dev") && (usual || OWN.iter().any(|own| name == *own)) {
            continue;
        }
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, nodes),
            Ok(kind) if !kind.is_symlink() => nodes.extend(node(&path, path.clone()).ok().flatten()),
            _ => {}
        }
    }
}

/// The node to be made for one of the node's; `None` when it is no device.
fn node(host: &Path, path: PathBuf) -> std::result::Result<Option<Node>, sys::Errno> {
    let stat = rustix::fs::stat(host)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let device = matches!(kind, FileType::BlockDevice | FileType::CharacterDevice);
    let owner = (stat.st_uid, stat.st_gid);
    Ok(device.then_some(Node { path, kind, mode: stat.st_mode & 0o7777, device: stat.st_rdev, owner }))
}

/// Fills /dev, a fresh tmpfs. The root is the container's already.
pub(super) fn populate(dev: &Directory, extra: &[Node]) -> Result<()> {
    for (name, major, minor) in USUAL {
        let device = rustix::fs::makedev(major, minor);
        make_device(dev.as_fd(), name, FileType::CharacterDevice, 0o666, device)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).on("link /dev/", name)?;
    }
    extra.iter().try_for_each(|node| make(dev, node))
}

fn make(dev: &Directory, node: &Node) -> Result<()> {
    let (Some(above), Some(name)) = (node.path.parent(), node.path.file_name()) else { return Ok(()) };
    let above = match above.strip_prefix("/dev") {
        Ok(below) => directory(dev, below)?,
        // Elsewhere in the image.
        Err(_) => Directory::of(open_target(above, Missing::MakeDirectory)?, above),
    };
    // A device asked for under a usual name is that device.
    match make_device(above.as_fd(), name, node.kind, node.mode, node.device) {
        Err(error) if error.errno == sys::Errno::EXIST => return Ok(()),
        other => other?,
    }
    let (uid, gid) =
        (rustix::process::Uid::from_raw(node.owner.0), rustix::process::Gid::from_raw(node.owner.1));
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&above, name, Some(uid), Some(gid), nofollow).on("chown", &node.path)
}

/// A directory below /dev, made where it is missing.
fn directory(dev: &Directory, below: &Path) -> Result<Directory> {
    let mut at = dev.directory(".")?;
    for part in below.components() {
        at = at.make_directory(part, 0o755)?;
    }
    Ok(at)
}

/// The group of terminals, whose members may write to each other's.
const TTY_GROUP: u32 = 5;

/// The file systems under /dev. A Pod's shared memory comes as a mount over /dev/shm.
pub(super) fn mount_below(dev: &Directory, ipc_comes_from_mounts: bool, users: Option<&Users>) -> Result<()> {
    let quiet = Attributes::NOSUID.and(Attributes::NOEXEC);
    let place = |name: &str, mount: Detached| -> Result<()> {
        mount.attach(dev.make_directory(name, 0o755)?.as_fd())
    };
    let tty_group = users.map_or(TTY_GROUP, |users| users.outside(TTY_GROUP)).to_string();
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", &tty_group)];
    place("pts", Detached::new("devpts", &pts, quiet)?)?;
    place("mqueue", Detached::new("mqueue", &[], quiet.and(Attributes::NODEV))?)?;
    if !ipc_comes_from_mounts {
        let shm = [("mode", "1777"), ("size", "67108864")];
        place("shm", Detached::new("tmpfs", &shm, quiet.and(Attributes::NODEV))?)?;
    }
    Ok(())
}
