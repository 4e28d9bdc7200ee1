//! One more try, by themselves, for one or two tests that failed among hundreds.
//!
//! The machines that run these tests are shared: what a real kernel, real containers and real clocks do there in one of
//! a thousand runs says nothing about a change. Such a test is named at the end of the run, whatever its second try
//! says. One that asks whether something is lost has no second try.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// More failures than that are no accident.
const TRIED_AGAIN_MAX: usize = 2;

/// Modules whose tests ask whether a request, a write or a container is lost: once is once too often.
const ASKED_ONCE: [&str; 4] = ["zero_loss", "churn", "hostile_world", "escape"];

/// Runs `cargo test` with these words for the test programs; returns who needed a second try.
pub(crate) fn run(cargo: impl Fn() -> Command, words: &[&str]) -> Result<Vec<String>> {
    run_and_show(cargo, words, &mut std::io::stdout())
}

fn run_and_show(cargo: impl Fn() -> Command, words: &[&str], shown: &mut impl Write) -> Result<Vec<String>> {
    let first = attempt(cargo().arg("--").args(words), shown)?;
    if first.is_passed {
        return Ok(Vec::new());
    }
    let names = failures(&first.said);
    ensure!(!names.is_empty() && names.len() <= TRIED_AGAIN_MAX, "{} tests failed", names.len());
    if let Some(name) = names.iter().find(|name| is_asked_once(name)) {
        bail!("{name} failed");
    }
    writeln!(shown, "== once more, by themselves: {}", names.join(", "))?;
    let second = attempt(cargo().args(["--", "--exact"]).args(&names), shown)?;
    ensure!(second.is_passed, "failed twice: {}", names.join(", "));
    // A name that no program has would pass by not being run.
    ensure!(passed(&second.said) >= names.len(), "could not be run again: {}", names.join(", "));
    Ok(names)
}

struct Attempt {
    is_passed: bool,
    said: String,
}

/// Runs it, shows what it prints, and keeps it.
fn attempt(command: &mut Command, shown: &mut impl Write) -> Result<Attempt> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut said = Vec::new();
    let mut out = BufReader::new(child.stdout.take().context("no output")?);
    loop {
        let start = said.len();
        if out.read_until(b'\n', &mut said)? == 0 {
            break;
        }
        shown.write_all(&said[start..])?;
    }
    let status = child.wait()?;
    Ok(Attempt { is_passed: status.success(), said: String::from_utf8_lossy(&said).into_owned() })
}

fn is_asked_once(name: &str) -> bool {
    name.split("::").any(|part| ASKED_ONCE.contains(&part))
}

/// The names below the last `failures:` of each test program.
fn failures(said: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line == "failures:" {
            let listed = lines.by_ref().map_while(|line| line.strip_prefix("    "));
            names.extend(listed.map(str::to_owned));
        }
    }
    names
}

/// How many tests passed, over all test programs.
fn passed(said: &str) -> usize {
    let results = said.lines().filter_map(|line| line.strip_prefix("test result: "));
    let counts = results.filter_map(|result| result.split(' ').nth(1)?.parse::<usize>().ok());
    counts.sum()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{failures, is_asked_once, passed, run_and_show};

    const SAID: &str = "\nrunning 3 tests\n.F.\nfailures:\n\n---- a::b stdout ----\nfailures: none\n\n\nfailures:\n    a::b\n    c\n\ntest result: FAILED. 7 passed; 2 failed; 0 ignored\n\nrunning 1 test\n.\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";

    #[test]
    fn who_failed_and_how_many_passed_is_read_from_what_the_test_programs_print() {
        assert_eq!(failures(SAID), ["a::b", "c"]);
        assert_eq!(passed(SAID), 8);
        assert!(failures("error: could not compile\n").is_empty());
    }

    #[test]
    fn what_asks_whether_something_is_lost_is_asked_once() {
        assert!(is_asked_once("zero_loss::a_rollout_loses_no_request"));
        assert!(!is_asked_once("pods::a_pod_runs"));
    }

    /// Two tries of a test program: what it prints in the first, where it fails, and in the second.
    fn tries(name: &str, second: &str) -> anyhow::Result<Vec<String>> {
        let dir = tempfile::tempdir()?;
        let script = format!(
            "[ -e seen ] && {{ echo 'test result: {second}'; case '{second}' in ok*) exit 0;; esac; exit 1; }}
             touch seen; printf 'failures:\\n    {name}\\n\\ntest result: FAILED. 8 passed; 1 failed\\n'; exit 1"
        );
        let cargo = || {
            let mut shell = Command::new("sh");
            shell.current_dir(dir.path()).args(["-c", &script]);
            shell
        };
        run_and_show(cargo, &[], &mut std::io::sink())
    }

    #[test]
    fn a_second_try_must_be_made_and_pass() {
        let names = tries("pods::one", "ok. 1 passed; 0 failed").expect("passes the second time");
        assert_eq!(names, ["pods::one"]);
        let failed = |name: &str, second: &str| tries(name, second).unwrap_err().to_string();
        assert_eq!(failed("pods::one", "FAILED. 0 passed; 1 failed"), "failed twice: pods::one");
        assert_eq!(failed("pods::one", "ok. 0 passed; 0 failed"), "could not be run again: pods::one");
        assert_eq!(failed("churn::one", "ok. 1 passed; 0 failed"), "churn::one failed");
    }
}
