//! Limits of single processes, set as far as this machine allows.

use std::fs;
use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::{Context, Result};

/// The resource of a `RLIMIT_…` name.
pub fn resource(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_").unwrap_or(name) {
        "CPU" => Resource::Cpu,
        "FSIZE" => Resource::Fsize,
        "DATA" => Resource::Data,
        "STACK" => Resource::Stack,
        "CORE" => Resource::Core,
        "RSS" => Resource::Rss,
        "NPROC" => Resource::Nproc,
        "NOFILE" => Resource::Nofile,
        "MEMLOCK" => Resource::Memlock,
        "AS" => Resource::As,
        "LOCKS" => Resource::Locks,
        "SIGPENDING" => Resource::Sigpending,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        _ => return None,
    })
}

/// Sets a limit of this process. Without `CAP_SYS_RESOURCE` the hard limit cannot grow: then
/// both are cut to what is allowed, as podman and containerd's restricted mode do.
///
/// # Errors
/// The soft limit is beyond the hard one.
pub fn set(resource: Resource, soft: u64, hard: u64) -> Result<()> {
    let wanted = Rlimit { current: Some(soft), maximum: Some(hard) };
    if setrlimit(resource, wanted).is_ok() {
        return Ok(());
    }
    let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let cut = Rlimit { current: Some(soft.min(allowed)), maximum: Some(hard.min(allowed)) };
    setrlimit(resource, cut).attempt(|| format!("set {resource:?} to {soft}:{hard}"))
}

/// What the soft limit of descriptors was before [`raise_descriptors`]; nothing: not raised.
static DESCRIPTORS_BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Lets this process open as many files as it may: each connection is one, and with a shell's
/// default of 1024, or less, a few hundred idle clients left none for the server itself.
/// Answers how many that are.
///
/// # Errors
/// None in practice: a soft limit may grow up to the hard one.
pub fn raise_descriptors() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).attempt(|| "raise the limit of descriptors")?;
    // A second call must not take the raised limit for the one before.
    let _ = DESCRIPTORS_BEFORE.set(limit.current);
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Gives a child the soft limit that this process was started with. Programs in containers
/// inherit their runtime's, and some clear every descriptor up to it, so it must stay small.
///
/// # Errors
/// The child has ended.
pub fn restore_descriptors(child: &std::process::Child) -> Result<()> {
    let Some(before) = DESCRIPTORS_BEFORE.get() else { return Ok(()) };
    let limit = Rlimit { current: *before, maximum: getrlimit(Resource::Nofile).maximum };
    let set = prlimit(Some(Pid::from_child(child)), Resource::Nofile, limit);
    set.attempt(|| "restore the limit of descriptors").map(drop)
}

/// Sets this process's chance to be killed for memory. Without `CAP_SYS_RESOURCE` it cannot go
/// below where it is: then it stays.
///
/// # Errors
/// /proc is not writable, or the value is out of range.
pub fn set_oom_score_adj(value: i32) -> Result<()> {
    let path = "/proc/self/oom_score_adj";
    match fs::write(path, value.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        other => other.on("write", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_prefix_are_known() {
        assert_eq!(resource("RLIMIT_NOFILE"), Some(Resource::Nofile));
        assert_eq!(resource("NPROC"), Some(Resource::Nproc));
        assert_eq!(resource("RLIMIT_FUN"), None);
    }

    #[test]
    fn a_raised_limit_of_descriptors_is_given_back_to_a_child() {
        let before = getrlimit(Resource::Nofile);
        let raised = raise_descriptors().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        assert_eq!(raised, before.maximum.unwrap_or(u64::MAX));
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let restored = restore_descriptors(&child);
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        restored.unwrap();
        let soft = limits.unwrap().lines().find_map(|line| {
            line.strip_prefix("Max open files")?.split_whitespace().next().map(str::to_owned)
        });
        assert_eq!(soft, Some(before.current.map_or("unlimited".to_owned(), |soft| soft.to_string())));
    }

    #[test]
    fn a_hard_limit_beyond_ours_is_cut_not_refused() {
        set(Resource::Core, 0, getrlimit(Resource::Core).maximum.unwrap_or(u64::MAX)).unwrap();
        set(Resource::Locks, u64::MAX - 1, u64::MAX - 1).unwrap();
    }
}
