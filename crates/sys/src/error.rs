//! What the kernel said, with what was being done.

use std::fmt;
use std::path::Path;

use rustix::io::Errno;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A system call that failed: what was attempted, on which path or name, and the kernel's answer.
///
/// Shown in the words of Go's runtime (`mount overlay on /x: no such file or directory`),
/// because users know them from other container runtimes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{attempt}: {}", errno_words(*.errno))]
pub struct Error {
    /// What was attempted, with the path or name: `mkdir /sys/fs/cgroup/x`.
    pub attempt: String,
    /// The kernel's answer. Not a `source`: its words are already in the text.
    pub errno: Errno,
}

impl Error {
    /// An error of `attempt`.
    pub fn new(attempt: impl Into<String>, errno: Errno) -> Self {
        Error { attempt: attempt.into(), errno }
    }

    /// The same, with the path that it is about.
    #[must_use]
    pub fn about(self, path: &Path) -> Self {
        Error::new(format!("{} on {}", self.attempt, path.display()), self.errno)
    }

    /// An error of the standard library; one without a number becomes `EIO`.
    pub fn io(attempt: impl Into<String>, error: &std::io::Error) -> Self {
        Error::new(attempt, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

/// Adds what was attempted to a bare error number.
pub trait Context<T> {
    /// `attempt` is built only on failure.
    fn attempt<S: Into<String>>(self, attempt: impl FnOnce() -> S) -> Result<T>;

    /// `verb` and a path: `open /x`.
    fn on(self, verb: &str, path: impl AsRef<Path>) -> Result<T>
    where
        Self: Sized,
    {
        self.attempt(|| format!("{verb} {}", path.as_ref().display()))
    }
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn attempt<S: Into<String>>(self, attempt: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::new(attempt(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn attempt<S: Into<String>>(self, attempt: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(attempt(), &error))
    }
}

/// The kernel's answer as Go prints it: `no such file or directory`.
pub fn errno_words(errno: Errno) -> impl fmt::Display {
    struct Words(Errno);
    impl fmt::Display for Words {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // musl differs from Go in these; the rest differ only in the first letter.
            let fixed = match self.0 {
                Errno::ACCESS => "permission denied",
                Errno::PERM => "operation not permitted",
                Errno::BUSY => "device or resource busy",
                Errno::INVAL => "invalid argument",
                Errno::NOENT => "no such file or directory",
                Errno::NOEXEC => "exec format error",
                Errno::NOTDIR => "not a directory",
                Errno::ISDIR => "is a directory",
                Errno::NOMEM => "cannot allocate memory",
                Errno::SRCH => "no such process",
                Errno::EXIST => "file exists",
                Errno::ROFS => "read-only file system",
                Errno::TOOBIG => "argument list too long",
                Errno::LOOP => "too many levels of symbolic links",
                Errno::NODEV => "no such device",
                _ => "",
            };
            if !fixed.is_empty() {
                return f.write_str(fixed);
            }
            let text = std::io::Error::from_raw_os_error(self.0.raw_os_error()).to_string();
            let text = text.split(" (os error").next().unwrap_or(&text);
            let mut letters = text.chars();
            match letters.next() {
                Some(first) => write!(f, "{}{}", first.to_lowercase(), letters.as_str()),
                None => write!(f, "errno {}", self.0.raw_os_error()),
            }
        }
    }
    Words(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_gos() {
        let error = Error::new("open /x", Errno::NOENT);
        assert_eq!(error.to_string(), "open /x: no such file or directory");
        assert_eq!(errno_words(Errno::NOEXEC).to_string(), "exec format error");
        assert_eq!(errno_words(Errno::PIPE).to_string(), "broken pipe");
    }

    #[test]
    fn context_names_the_path() {
        let failed: std::result::Result<(), Errno> = Err(Errno::ACCESS);
        assert_eq!(failed.on("mkdir", "/a/b").unwrap_err().to_string(), "mkdir /a/b: permission denied");
    }
}
