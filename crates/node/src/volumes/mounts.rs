//! The few mount calls that volumes need, behind a trait so that tests need no root.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts on the node.
pub trait Mounts: Send + Sync + 'static {
    /// Mounts a tmpfs, at most `size` bytes large.
    fn tmpfs(&self, target: &Path, size: Option<u64>) -> io::Result<()>;
    /// Mounts a file system of huge pages: of `page` bytes each, at most `size` bytes of them.
    fn hugetlbfs(&self, target: &Path, page: Option<u64>, size: Option<u64>) -> io::Result<()>;
    /// Binds what the descriptor stands for to `target`, which exists and is of the same type.
    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()>;
    /// Whether something is mounted exactly there.
    fn is_mounted(&self, target: &Path) -> bool;
    /// Unmounts everything at or below `root`, the deepest first.
    fn unmount_below(&self, root: &Path) -> io::Result<()>;
}

/// The node's own mount namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostMounts;

impl Mounts for HostMounts {
    fn tmpfs(&self, target: &Path, size: Option<u64>) -> io::Result<()> {
        let options = match size {
            Some(size) => format!("size={size},noswap"),
            None => "noswap".to_string(),
        };
        match mount_tmpfs(target, &options) {
            // Kernels before 6.4 do not know noswap.
            Err(_) => mount_tmpfs(target, options.trim_end_matches("noswap").trim_end_matches(',')),
            done => done,
        }
    }

    fn hugetlbfs(&self, target: &Path, page: Option<u64>, size: Option<u64>) -> io::Result<()> {
        let page = page.map(|page| format!("pagesize={page}"));
        let size = size.map(|size| format!("size={size}"));
        let options: Vec<String> = page.into_iter().chain(size).collect();
        let options = CString::new(options.join(","))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(rustix::mount::mount("nodev", target, "hugetlbfs", flags, options.as_c_str())?)
    }

    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        let source = format!("/proc/self/fd/{}", source.as_raw_fd());
        Ok(rustix::mount::mount_bind(source.as_str(), target)?)
    }

    fn is_mounted(&self, target: &Path) -> bool {
        mount_points().is_ok_and(|points| points.iter().any(|point| point == target))
    }

    fn unmount_below(&self, root: &Path) -> io::Result<()> {
        let mut points: Vec<PathBuf> =
            mount_points()?.into_iter().filter(|point| point.starts_with(root)).collect();
        points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
        for point in points {
            // Whoever may mount in a volume may put a link in the place of what he mounted.
            match rustix::mount::unmount(&point, UnmountFlags::NOFOLLOW) {
                Err(rustix::io::Errno::BUSY) => {
                    rustix::mount::unmount(&point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
                }
                // Something is mounted over it, or its directory was removed: no path leads there.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn mount_tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str())?)
}

/// Mount points of this namespace, in the order they were made.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect())
}

/// The kernel writes blanks and the like as octal `\040`.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (bytes[at], octal) {
            (b'\\', Some(decoded)) => {
                out.push(decoded);
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_read_back() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
    }
}
