//! Programs of the host that are run and waited for, such as `nft`.

use std::io::{self, Write};
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
    /// It is not there or cannot be executed.
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

/// Runs a program with `stdin` as its input and waits for it. It blocks: call it from a thread
/// that may.
///
/// # Errors
/// It cannot be started, or ends with another code than 0.
pub fn run(program: &str, arguments: &[&str], stdin: &[u8]) -> Result<Output, CommandError> {
    let start = |source| CommandError::Start { program: program.to_owned(), source };
    let mut child = Command::new(program)
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
        assert!(
            run("no-such-program", &[], b"").unwrap_err().to_string().starts_with("run no-such-program: ")
        );
    }
}
