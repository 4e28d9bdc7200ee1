//! The text files of a cgroup.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Context, Error, Result};

/// Writes a value in one write, as the kernel wants it.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .attempt(|| format!("write {value:?} to {}", path.display()))
}

/// Writes values one by one, each in one write.
pub(super) fn write_each(path: &Path, values: &[String]) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path).on("open", path)?;
    for value in values {
        file.write_all(value.as_bytes()).attempt(|| format!("write {value:?} to {}", path.display()))?;
    }
    Ok(())
}

/// A file's text without the last line end; `None` when it is not there.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut text = fs::read_to_string(path).ok()?;
    text.truncate(text.trim_end().len());
    Some(text)
}

/// The number in a file of one number.
pub(super) fn number(path: &Path) -> Option<u64> {
    read(path)?.parse().ok()
}

/// The number of `key` in a file of `key number` lines.
pub(super) fn keyed(path: &Path, key: &str) -> Option<u64> {
    number_of(&read(path)?, key)
}

/// The number of `key` in a text of `key number` lines.
pub(super) fn number_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Makes a directory; one that exists is fine.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other.on("mkdir", path),
    }
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty()).on("open", path)
}

pub(super) fn open_read(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).on("open", path)
}

/// Processes of a directory and of those below.
pub(super) fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(Error::io(format!("read {}/cgroup.procs", directory.display()), &error)),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in child_directories(directory) {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

/// Removes a directory and those below it, the deepest first; missing ones are fine.
pub(super) fn remove_tree(directory: &Path) -> Result<()> {
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(errno).on("rmdir", directory),
    }
    for child in child_directories(directory) {
        remove_tree(&child)?;
    }
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY) => Err(Errno::BUSY).on("rmdir", directory),
        Err(errno) => Err(errno).on("rmdir", directory),
    }
}

fn child_directories(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// BPF wants a real descriptor, not an `O_PATH` one.
pub(super) fn open_directory_for_bpf(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
        .on("open", path)
}
