//! Limits of single processes, set as far as this machine allows.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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
    fn a_hard_limit_beyond_ours_is_cut_not_refused() {
        set(Resource::Core, 0, getrlimit(Resource::Core).maximum.unwrap_or(u64::MAX)).unwrap();
        set(Resource::Locks, u64::MAX - 1, u64::MAX - 1).unwrap();
    }
}
