//! Kernel parameters.

use std::fs;

use crate::{Context, Errno, Error, Result};

/// The file of a parameter, `net.core.somaxconn` or `net/core/somaxconn`. As in sysctl(8), when
/// the first separator is a slash, dots are part of names (`net/ipv4/conf/eth0.1/forwarding`).
fn path(name: &str) -> String {
    let dots_separate = name.find(['.', '/']).is_none_or(|at| name.as_bytes()[at] == b'.');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let tail: String = if dots_separate { name.chars().map(swap).collect() } else { name.to_owned() };
    format!("/proc/sys/{tail}")
}

/// Sets a parameter in the namespaces of this thread.
///
/// # Errors
/// There is no such parameter or the value is not allowed.
pub fn set(name: &str, value: &str) -> Result<()> {
    if name.split(['.', '/']).any(str::is_empty) {
        return Err(Error::new(format!("set sysctl {name:?}"), Errno::INVAL));
    }
    let path = path(name);
    fs::write(&path, value).attempt(|| format!("write {value:?} to {path}"))
}

/// A parameter's value.
///
/// # Errors
/// There is no such parameter.
pub fn get(name: &str) -> Result<String> {
    let path = path(name);
    fs::read_to_string(&path).on("read", &path).map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_name_the_same_file() {
        assert_eq!(path("net.core.somaxconn"), "/proc/sys/net/core/somaxconn");
        assert_eq!(path("net/core/somaxconn"), "/proc/sys/net/core/somaxconn");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn names_cannot_climb() {
        assert_eq!(set("net....passwd", "x").unwrap_err().errno, Errno::INVAL);
        assert!(get("kernel.ostype").is_ok_and(|name| name == "Linux"));
    }
}
