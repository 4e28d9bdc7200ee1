//! The processes of an instance as the kernel knows them: also when none of them answers, and when
//! the files that name them are gone or cannot be written.
//!
//! Files can lie: a number in one may be that of another process since, and the file may be gone or on a disk
//! that nobody can read. The lock itself cannot: the kernel shows it with the descriptor of whoever holds it,
//! and lets go of it with the process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The kernel's word for a file that is open and has no name any more.
const DELETED: &str = " (deleted)";

/// A process and how it is (proc(5), the third field of `stat`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) state: char,
}

impl Process {
    /// A process that has ended and waits to be reaped does nothing any more: it is none.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may have anything in it.
        let state = stat.rsplit(") ").next()?.chars().next()?;
        (!matches!(state, 'Z' | 'X')).then_some(Process { pid, state })
    }

    /// Why it does nothing, if somebody has stopped it.
    pub(crate) fn stopped(&self) -> Option<&'static str> {
        match self.state {
            'T' => Some("stopped by a signal"),
            't' => Some("held by a debugger"),
            _ => None,
        }
    }
}

/// The process that runs the instance: who holds the lock, whatever the file says. A number in a file may
/// be that of another process by now, and a file that was removed names nobody.
pub(crate) fn daemon(state: &Path) -> Option<Process> {
    let lock = state.join(crate::instance::LOCK);
    let noted = fs::read_to_string(&lock).ok().and_then(|text| text.trim().parse().ok());
    let holds = |pid: &u32| holds(*pid, &lock);
    noted.filter(holds).or_else(|| all().find(holds)).and_then(Process::of)
}

/// Whether a process has a lock on a file.
fn holds(pid: u32, file: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let deleted = PathBuf::from(format!("{}{DELETED}", file.display()));
    descriptors.filter_map(Result::ok).any(|descriptor| {
        let place = fs::read_link(descriptor.path());
        let info = || {
            let info = format!("/proc/{pid}/fdinfo/{}", descriptor.file_name().to_string_lossy());
            // Others that look at the file have it open, too, and no lock of it.
            fs::read_to_string(info).is_ok_and(|text| text.contains("FLOCK") && text.contains("WRITE"))
        };
        place.is_ok_and(|place| place == file || place == deleted) && info()
    })
}

/// The shims of an instance, each with the directory of its sandbox.
pub(crate) fn shims(data_dir: &Path) -> Vec<(PathBuf, Process)> {
    let pods = data_dir.join("pods");
    let shim = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0').skip(1);
        let directory =
            PathBuf::from(words.next().filter(|word| *word == "shim").and_then(|_| words.next())?);
        Some((directory.starts_with(&pods).then_some(directory)?, Process::of(pid)?))
    };
    all().filter_map(shim).collect()
}

/// All processes of this PID namespace. What ends meanwhile is simply not found by those who look closer.
fn all() -> impl Iterator<Item = u32> {
    let names = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What a process may have open and what it has.
pub(crate) fn descriptors(pid: u32) -> Option<(usize, usize)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    Some((open, line.split_whitespace().next()?.parse().unwrap_or(usize::MAX)))
}

/// Sends TERM to a process and waits for its end; false when it goes on. By a descriptor: never to another
/// that got its number.
pub(crate) fn end(process: &Process, patience: Duration, is_meant: impl Fn() -> bool) -> io::Result<bool> {
    const TERM: i32 = 15;
    let opened: OwnedFd = match sys::process::open_pidfd(process.pid.cast_signed()) {
        Ok(opened) => opened,
        Err(error) if error.errno == sys::Errno::SRCH => return Ok(true),
        Err(error) => return Err(error.errno.into()),
    };
    // It may have ended before the descriptor was opened, and the number been given away.
    if !is_meant() {
        return Ok(true);
    }
    match sys::process::kill_exactly(opened.as_fd(), TERM) {
        Ok(()) => {}
        Err(sys::Errno::SRCH) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    }
    let patience = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(&opened, PollFlags::IN)], Some(&patience))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_the_lock_is_found_whatever_its_file_says() {
        let state = tempfile::tempdir().expect("a directory");
        let place = fs::canonicalize(state.path()).expect("it exists");
        assert_eq!(daemon(&place), None);
        let held = crate::instance::lock(&place).expect("free");
        let me = std::process::id();
        let found = || daemon(&place).map(|process| process.pid);
        assert_eq!(found(), Some(me));
        fs::write(place.join(crate::instance::LOCK), "1").expect("written");
        assert_eq!(found(), Some(me), "a number of another process");
        fs::remove_file(place.join(crate::instance::LOCK)).expect("removed");
        assert_eq!(found(), Some(me), "the file is gone");
        drop(held);
        assert_eq!(found(), None);
    }

    #[test]
    fn descriptors_of_this_process_are_counted() {
        let (open, most) = descriptors(std::process::id()).expect("known");
        assert!(open > 2 && open <= most, "{open} of {most}");
    }
}
