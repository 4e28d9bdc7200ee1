//! Programs of the host that are run and waited for, such as `nft`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// What a program said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

/// A program could not be run, or said no.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is nowhere on this host.
    #[error("the program {program} is not on this host (`monopod doctor` says what to do)")]
    Missing {
        /// Its name.
        program: String,
    },
    /// It cannot be executed.
    #[error("run {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with another code than 0.
    #[error("{program} ended with code {}: {}", output.code, output.stderr.trim())]
    Failed {
        /// Its name.
        program: String,
        /// What it said.
        output: Output,
    },
}

/// Where a program is: in `PATH`, or where programs for root are. Services and plain users are
/// often started with a `PATH` that lacks the latter.
pub fn find(program: &str) -> Option<PathBuf> {
    find_in(program, &std::env::var_os("PATH").unwrap_or_default())
}

fn find_in(program: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let places = std::env::split_paths(path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place: PathBuf| place.join(program)).find(|file| Path::is_file(file))
}

/// Runs a program with `stdin` as its input and waits for it. It blocks: call it from a thread
/// that may.
///
/// # Errors
/// It cannot be started, or ends with another code than 0.
pub fn run(program: &str, arguments: &[&str], stdin: &[u8]) -> Result<Output, CommandError> {
    let start = |source| CommandError::Start { program: program.to_owned(), source };
    let file = find(program).ok_or_else(|| CommandError::Missing { program: program.to_owned() })?;
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let mut child = Command::new(file)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let input = child.stdin.take();
    // Fed from a thread of its own: a program that answers while it still reads would
    // otherwise wait for us as we wait for it.
    let done = thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read its input says itself what is wrong.
            input.map(|mut pipe| pipe.write_all(stdin))
        });
        child.wait_with_output()
    });
    let done = done.map_err(start)?;
    let output = Output {
        code: done.status.code().unwrap_or(-1),
        stdout: done.stdout,
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    };
    if output.code == 0 {
        Ok(output)
    } else {
        Err(CommandError::Failed { program: program.to_owned(), output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_larger_than_a_pipe_comes_back() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(run("cat", &[], &input).unwrap().stdout, input);
    }

    #[test]
    fn failure_tells_the_code_and_the_words() {
        let error = run("sh", &["-c", "echo no >&2; exit 3"], b"").unwrap_err();
        assert_eq!(error.to_string(), "sh ended with code 3: no");
    }

    #[test]
    fn a_program_that_is_nowhere_is_named() {
        let error = run("no-such-program", &[], b"").unwrap_err();
        assert!(
            matches!(&error, CommandError::Missing { program } if program == "no-such-program"),
            "{error}"
        );
    }

    #[test]
    fn programs_for_root_are_found_whatever_the_path_says() {
        let found = |path: &str| find_in("ldconfig", std::ffi::OsStr::new(path));
        assert_eq!(found("/nowhere"), found("/usr/sbin"));
        assert!(found("").is_some(), "every Linux has ldconfig in /sbin");
    }
}
