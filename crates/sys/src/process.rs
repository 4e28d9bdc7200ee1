//! Making, signalling and reaping processes.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use crate::namespace::Namespaces;
use crate::{Context, Error, Result};

/// What a system call through libc answered: a negative number is the thread's `errno`.
pub(crate) fn check(answer: libc::c_long) -> std::result::Result<i32, Errno> {
    match i32::try_from(answer) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Proof that this process has one thread, so that a forked child may run any code: no other
/// thread can have held a lock. It cannot leave its thread; who has it makes no threads.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Looks at /proc/self/task.
    ///
    /// # Errors
    /// There is more than one thread, or /proc is not there.
    pub fn prove() -> Result<Self> {
        let tasks = std::fs::read_dir("/proc/self/task").on("read", "/proc/self/task")?.count();
        if tasks == 1 {
            return Ok(SingleThreaded(PhantomData));
        }
        Err(Error::new(format!("prove one thread: there are {tasks}"), Errno::BUSY))
    }
}

/// Where the caller is after [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// In the parent.
    Parent {
        /// The child, as the parent's PID namespace numbers it.
        pid: i32,
        /// Becomes readable when the child has ended.
        pidfd: OwnedFd,
    },
    /// In the child: it must end by [`exec`] or [`exit_now`] and never return to the caller's loop.
    Child,
}

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a child in fresh namespaces and, on version 2, straight in a cgroup.
///
/// # Errors
/// The kernel refuses: limits of processes or namespaces, no permission.
pub fn fork(
    _proof: &SingleThreaded,
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let mut arguments = CloneArguments {
        flags: namespaces.bits() | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    if let Some(cgroup) = cgroup {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the structure and `pidfd` live across the call and its exact size is passed. With
    // neither CLONE_VM nor a stack the child runs on a copy of this memory, as after fork(2). The
    // proof says that no other thread exists, so no lock is left held in the child.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArguments>()) };
    match check(answer).attempt(|| "clone3")? {
        0 => Ok(Forked::Child),
        // SAFETY: the kernel has put a new descriptor there for us; nobody else has it.
        pid => Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// A process that does nothing. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Waiting {
    pid: i32,
    process: OwnedFd,
}

impl Waiting {
    /// In a user namespace that it is the first in.
    pub(crate) fn in_new_user_namespace() -> Result<Self> {
        let (inside, outside) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt(|| "make a pipe")?;
        let mut pidfd: libc::c_int = -1;
        let mut arguments = CloneArguments {
            flags: Namespaces::USER.bits() | libc::CLONE_PIDFD as u64,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArguments::default()
        };
        // SAFETY: the structure and `pidfd` live across the call and its exact size is passed. With
        // neither CLONE_VM nor a stack the child runs on a copy of this memory, as after fork(2).
        let answer =
            unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArguments>()) };
        if answer == 0 {
            let mut byte = 0_u8;
            // SAFETY: other threads may hold locks in this copy, so nothing but system calls is made:
            // it waits until the other end of the pipe is closed, should this process end before it
            // kills it, and leaves without running anything.
            unsafe {
                libc::close(outside.as_raw_fd());
                libc::read(inside.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        }
        let pid = check(answer).attempt(|| "make a user namespace")?;
        // SAFETY: the kernel has put a new descriptor there for us; nobody else has it.
        Ok(Waiting { pid, process: unsafe { OwnedFd::from_raw_fd(pidfd) } })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = kill_exactly(self.process.as_fd(), libc::SIGKILL);
        let _ = wait_exactly(self.process.as_fd());
    }
}

/// From now on what this thread makes in file systems belongs to somebody else; it keeps what it
/// may do.
///
/// # Errors
/// No permission.
pub fn make_files_as(user: u32, group: u32) -> Result<()> {
    let attempt = || format!("make files as {user}:{group}");
    let before = rustix::thread::capabilities(None).attempt(attempt)?;
    // SAFETY: both take plain numbers. They say who it was before, and nothing of errors: so it is
    // asked with a number that nobody has.
    let now = unsafe {
        libc::setfsgid(group);
        libc::setfsuid(user);
        [libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)]
    };
    if now.map(i32::cast_unsigned) != [user, group] {
        return Err(Errno::PERM).attempt(attempt);
    }
    // Leaving user 0 has taken some.
    rustix::thread::set_capabilities(None, before).attempt(attempt)
}

/// Makes a child of this process's parent, where [`crate::namespace::enter_of_process`] has told
/// children to be born. The parent reaps it, and may outlive this process.
///
/// # Errors
/// The kernel refuses: limits of processes, or a system call filter.
pub fn fork_beside(_proof: &SingleThreaded) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    // Not clone3: filters of containers refuse it, and this is a child that has one already. With
    // CLONE_PIDFD the descriptor is put where the parent's copy of the number would be.
    // SAFETY: without CLONE_VM and a stack the child runs on a copy of this memory, as after
    // fork(2); `pidfd` lives across the call; the places for numbers and thread storage are not
    // asked for. The proof says that no other thread exists, so no lock is left held in the child.
    let answer = unsafe { libc::syscall(libc::SYS_clone, BESIDE, 0, &raw mut pidfd, 0, 0) };
    match check(answer).attempt(|| "clone")? {
        0 => Ok(Forked::Child),
        // SAFETY: the kernel has put a new descriptor there for us; nobody else has it.
        pid => Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// The flags of [`fork_beside`], the first argument of its clone(2).
pub const BESIDE: u64 = (libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD) as u64;

/// The number of a child that has not been waited for; `None` when the descriptor is that of
/// another process, or of none.
pub fn number_of_child(process: BorrowedFd<'_>) -> Option<i32> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(process), look)).ok()?;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Replaces the program; returns only if that fails.
pub fn exec(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|item| item.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with a null pointer, and all strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Ends the process without running anything of the parent's: no destructors, no `atexit`.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sends a signal, real-time ones included. Signal 0 only asks whether the process is there.
///
/// # Errors
/// `SRCH`: no such process.
pub fn kill(pid: i32, signal: i32) -> std::result::Result<(), Errno> {
    // 0 and negative numbers mean groups of processes.
    if pid <= 0 {
        return Err(Errno::SRCH);
    }
    // SAFETY: kill(2) takes plain numbers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Exit code; 128+n for a signal.
    pub code: i32,
    /// The signal that ended it; 0: none.
    pub signal: i32,
}

impl From<WaitStatus> for Ending {
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ending { code, signal: 0 },
            (None, Some(signal)) => Ending { code: 128 + signal, signal },
            (None, None) => Ending { code: 255, signal: 0 },
        }
    }
}

/// The number of a child that has ended, if one has; it is left to be waited for.
pub fn next_ended() -> Option<i32> {
    let mut found: MaybeUninit<libc::siginfo_t> = MaybeUninit::zeroed();
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel fills the structure, which all zeros are a valid value of, or leaves it.
    let (answer, pid) = unsafe {
        let answer = libc::waitid(libc::P_ALL, 0, found.as_mut_ptr(), look);
        (answer, found.assume_init().si_pid())
    };
    (answer == 0 && pid > 0).then_some(pid)
}

/// Sends a signal to the process behind a descriptor: never to another that got its number.
///
/// # Errors
/// `SRCH`: it has ended.
pub fn kill_exactly(process: BorrowedFd<'_>, signal: i32) -> std::result::Result<(), Errno> {
    // SAFETY: the descriptor is open for the call; a null information means "as kill(2)".
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(answer).map(drop)
}

/// Waits for the child behind a descriptor.
///
/// # Errors
/// `CHILD`: it was waited for already.
pub fn wait_exactly(process: BorrowedFd<'_>) -> std::result::Result<Ending, Errno> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let ended = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(process), WaitIdOptions::EXITED))?;
    Ok(ended.map_or_else(Ending::default, |status| {
        let signal = status.terminating_signal().unwrap_or(0);
        Ending { code: status.exit_status().unwrap_or(128 + signal), signal }
    }))
}

/// Waits for a child.
///
/// # Errors
/// It is not a child of ours.
pub fn wait(pid: i32) -> Result<Ending> {
    let wanted = rustix::process::Pid::from_raw(pid).ok_or_else(|| Error::new("wait for 0", Errno::CHILD))?;
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(wanted), WaitOptions::empty()))
        .attempt(|| format!("wait for {pid}"))?;
    Ok(ended.map_or_else(Ending::default, |(_, status)| status.into()))
}

/// A descriptor of a running process, readable when it has ended.
///
/// # Errors
/// There is no such process.
pub fn open_pidfd(pid: i32) -> Result<OwnedFd> {
    let attempt = || format!("pidfd_open {pid}");
    let pid = rustix::process::Pid::from_raw(pid).ok_or(Errno::SRCH).attempt(attempt)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).attempt(attempt)
}

/// Makes orphans below this process its children.
///
/// # Errors
/// None in practice.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).attempt(|| "become subreaper")
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset only gets an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks these signals and gives a non-blocking descriptor that is readable when one came.
///
/// # Errors
/// Too many open files.
pub fn signal_descriptor(signals: &[i32]) -> Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised and outlives both calls; no old mask is asked for.
    let fd = unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    let fd = check(fd.into()).attempt(|| "signalfd")?;
    // SAFETY: signalfd has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the kernel send `SIGIO` whenever something is removed from a directory. (An inotify
/// descriptor would do too, but of these each user of the machine has few, root and the roots of
/// all containers together.)
///
/// # Errors
/// The kernel was built without it, or it is switched off.
pub fn tell_of_removals(directory: BorrowedFd<'_>) -> Result<()> {
    const DN_DELETE: libc::c_ulong = 0x8;
    const DN_MULTISHOT: libc::c_ulong = 0x8000_0000;
    // SAFETY: F_NOTIFY takes a plain number and changes nothing about the descriptor.
    let answer = unsafe { libc::fcntl(directory.as_raw_fd(), libc::F_NOTIFY, DN_DELETE | DN_MULTISHOT) };
    check(answer.into()).attempt(|| "watch a directory").map(drop)
}

/// The next signal of [`signal_descriptor`], if one came.
pub fn next_signal(descriptor: BorrowedFd<'_>) -> Option<i32> {
    let mut record = [0; size_of::<libc::signalfd_siginfo>()];
    let got = rustix::io::retry_on_intr(|| rustix::io::read(descriptor, &mut record)).ok()?;
    let number: [u8; 4] = record.get(..got)?.first_chunk().copied()?;
    Some(u32::from_ne_bytes(number).cast_signed())
}

/// Gives every signal its default action and blocks none: a program must not inherit that the
/// shim blocks SIGCHLD and that Rust ignores SIGPIPE.
pub fn reset_signals() {
    let none = signal_set(&[]);
    // SAFETY: SIG_DFL is a valid action for each; numbers that may not be changed are refused
    // without effect. The set is initialised.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Marks all descriptors from `first` on to be closed by [`exec`].
///
/// # Errors
/// None in practice.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: close_range with CLOEXEC only sets a flag; no descriptor becomes invalid.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    match check(answer) {
        // Before 5.11 it can only close.
        Err(Errno::INVAL | Errno::NOSYS) => {
            close_on_exec_one_by_one(first);
            Ok(())
        }
        done => done.attempt(|| "close_range").map(drop),
    }
}

/// Looked at in any case, should the limit have been lowered below what was open.
const DESCRIPTORS_MIN: u32 = 4096;
/// No shim has ever had more: it is one Pod's parent.
const DESCRIPTORS_MAX: u32 = 1 << 20;

fn close_on_exec_one_by_one(first: u32) {
    // By number and not by /proc/self/fd: the process may see another's /proc, or none.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(0);
    let end = u32::try_from(limit).unwrap_or(u32::MAX).clamp(DESCRIPTORS_MIN, DESCRIPTORS_MAX);
    for number in first..end {
        // SAFETY: F_SETFD only sets a flag; no descriptor becomes invalid.
        unsafe { libc::fcntl(number.cast_signed(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes all descriptors but 0, 1, 2 and those given. For a freshly forked child, whose copies
/// of the parent's descriptors would otherwise keep pipes of others open.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers.into_iter().chain([u32::MAX]) {
        if number > first {
            // SAFETY: the child never runs the destructors of the parent's copied values (it
            // ends by exec or _exit), so nothing refers to the closed numbers any more.
            unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) };
        }
        first = first.max(number.saturating_add(1));
    }
}

/// Lets the kernel reap children by itself, those too that this process inherits as PID 1.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid action.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Waits for signals for ever. Those without a handler have no effect on PID 1 of a namespace,
/// unless they come from outside.
pub fn wait_for_ever() -> ! {
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { libc::pause() };
    }
}

/// Keeps everybody without `SYS_PTRACE` from looking into this process, and its core from being
/// written. Children are born so; a program that is executed is not.
pub fn forbid_inspection() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // Only an unknown value could fail.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Starts an own, empty session keyring, so that keys of the node cannot be seen.
///
/// # Errors
/// No keys in this kernel, or the user's quota of keys is full.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let answer =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    // Its answer is a serial number that may be negative only as an error.
    if answer < 0 { check(answer).attempt(|| "keyctl").map(drop) } else { Ok(()) }
}

/// Puts descriptors at 0, 1 and 2, where programs expect them.
///
/// # Errors
/// None in practice.
pub fn set_standard_streams(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<()> {
    rustix::stdio::dup2_stdin(stdin).attempt(|| "set standard input")?;
    rustix::stdio::dup2_stdout(stdout).attempt(|| "set standard output")?;
    rustix::stdio::dup2_stderr(stderr).attempt(|| "set standard error")
}

/// Names the thread, as `ps` shows it; longer than 15 bytes is cut.
pub fn set_name(name: &CStr) {
    // Only a bad address could fail.
    let _ = rustix::thread::set_name(name);
}

/// Makes a terminal the controlling one of this process's session.
///
/// # Errors
/// The process does not lead a session.
pub fn take_terminal(terminal: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).attempt(|| "take the controlling terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_single_threaded() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        assert_eq!(SingleThreaded::prove().unwrap_err().errno, Errno::BUSY);
        drop(stop);
        let _ = other.join();
    }

    #[test]
    fn descriptors_are_marked_one_by_one_where_the_kernel_cannot_mark_them_all() {
        use rustix::io::{FdFlags, fcntl_getfd};
        let (first, second) = rustix::pipe::pipe().unwrap();
        let above = first.as_raw_fd().max(second.as_raw_fd()).cast_unsigned();
        close_on_exec_one_by_one(above);
        let marks = [&first, &second].map(|fd| (fd.as_raw_fd().cast_unsigned(), fcntl_getfd(fd).unwrap()));
        for (number, flags) in marks {
            assert_eq!(flags.contains(FdFlags::CLOEXEC), number >= above, "{number}");
        }
    }

    #[test]
    fn process_0_is_never_signalled() {
        assert_eq!(kill(0, libc::SIGTERM), Err(Errno::SRCH));
        assert_eq!(kill(-1, libc::SIGTERM), Err(Errno::SRCH));
        assert_eq!(kill(std::process::id().cast_signed(), 0), Ok(()));
    }
}
