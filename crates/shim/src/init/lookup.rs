//! Finds the program to execute, and says in runc's words why there is none.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, FileType, access, stat};
use sys::{Errno, errno_words};

use crate::protocol::{Failure, FailureKind};

/// Finds `name` as Go's `exec.LookPath`, which runc uses: a name with a slash is taken as it is,
/// another is looked for in the directories of `path`. As the calling user, in its root.
pub(super) fn program(name: &str, path: &str) -> Result<PathBuf, Failure> {
    let failed = |why: String| Failure::new(FailureKind::StartError, format!("exec: {name:?}: {why}"));
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                Err(failed(format!("stat {name}: {}", errno_words(errno))))
            }
            Err(errno) => Err(failed(errno_words(errno).to_string())),
        };
    }
    // An empty entry is the working directory.
    let directories = path.split(':').map(|entry| if entry.is_empty() { "." } else { entry });
    let mut candidates = directories.filter(|_| !name.is_empty()).map(|entry| Path::new(entry).join(name));
    candidates
        .find(|candidate| executable(candidate).is_ok())
        .ok_or_else(|| failed("executable file not found in $PATH".to_owned()))
}

fn executable(path: &Path) -> Result<(), Errno> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    // Root may do everything but execute what nobody may.
    access(path, Access::EXEC_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, path: &str) -> String {
        program(name, path).unwrap_err().message
    }

    #[test]
    fn failures_are_told_as_runc_tells_them() {
        assert_eq!(words("foo", "/bin:/nowhere"), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(words("/no/foo", ""), "exec: \"/no/foo\": stat /no/foo: no such file or directory");
        assert_eq!(words("/etc", ""), "exec: \"/etc\": is a directory");
        let text = tempfile::NamedTempFile::new().unwrap();
        let name = text.path().to_str().unwrap();
        assert_eq!(words(name, ""), format!("exec: {name:?}: permission denied"));
        assert_eq!(words("", "/bin"), "exec: \"\": executable file not found in $PATH");
    }

    #[test]
    fn a_name_is_found_in_the_path_in_order() {
        assert_eq!(program("sh", "/nowhere:/bin:/usr/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(program("/bin/sh", "").unwrap(), Path::new("/bin/sh"));
    }
}
