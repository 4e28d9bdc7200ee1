//! What runs and what is wrong, in one screen: whether the daemon is there, dead or hung, and on a disk that
//! cannot be written or is gone.
//!
//! ```text
//! processes ─┐
//! files ─────┼─ checks ─┐
//! kernel ────┘          ├─ Status ─ screen or JSON, exit code
//! API ── nodes, Pods ───┘
//! ```
//!
//! Nothing is written, and nobody who hangs is waited for: what the daemon would say is asked of the kernel
//! when the daemon does not.

mod api;
mod host;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::cli::Output;
use crate::instance::{self, canonical, need_root};
use crate::processes::Process;
use crate::{access, processes, say};

/// How often, and how far apart, what a running daemon may be about to mend is looked at again.
const LOOKS: usize = 6;
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// The screen as data.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    data_dir: String,
    instance: String,
    /// Process id of the daemon; absent when it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<u32>,
    /// Address of the API; absent when none was ever served.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    checks: Vec<Check>,
    nodes: Vec<Line>,
    pods: Vec<Line>,
    images: usize,
    /// One sentence for each thing that is not as it should be.
    problems: Vec<String>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    /// What was found.
    found: String,
    /// What is wrong with it and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Check {
    /// It is as it should be.
    fn well(name: &'static str, found: impl Into<String>) -> Self {
        Check { name, found: found.into(), problem: None }
    }

    /// It is not; `problem` is a sentence with what to do, for it stands alone in the list of problems.
    fn wrong(name: &'static str, found: impl Into<String>, problem: impl Into<String>) -> Self {
        Check { name, found: found.into(), problem: Some(problem.into()) }
    }
}

/// An object and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    name: String,
    state: String,
}

/// Prints the instance's state; fails when something is wrong, for scripts that ask no more.
pub(crate) fn run(data_dir: &Path, output: Output) -> Result<()> {
    need_root("status", "it reads keys and looks at processes of others")?;
    let status = look(data_dir);
    match output {
        Output::Json => say(&serde_json::to_string_pretty(&status)?),
        Output::Text => say(&screen(&status)),
    }?;
    // The exit code is for scripts, the text for people; both say it.
    match status.problems.len() {
        0 => Ok(()),
        1 => bail!("1 thing is wrong"),
        several => bail!("{several} things are wrong"),
    }
}

/// Looks at all of it.
pub(crate) fn look(data_dir: &Path) -> Status {
    let data_dir = canonical(data_dir);
    let state = data_dir.join("state");
    let mut daemon = processes::daemon(&state);
    let is_at_work = |daemon: &&Process| daemon.stopped().is_none();
    let mut answer = daemon.as_ref().filter(is_at_work).map(|_| api::ask(&data_dir));
    if matches!(answer, Some(Err(_))) {
        // It may have been stopped, or have died, in the meantime: that says more than its silence.
        daemon = processes::daemon(&state);
        answer = answer.filter(|_| daemon.as_ref().filter(is_at_work).is_some());
    }
    let answers = matches!(answer, Some(Ok(_)));
    let mut checks = settled(&data_dir, daemon.as_ref(), answers);
    checks.insert(0, daemon_check(daemon.as_ref()));
    let (nodes, pods, server) = match answer {
        Some(Ok(answer)) => {
            checks.insert(1, answer.check());
            (answer.nodes, answer.pods, true)
        }
        Some(Err(why)) => {
            checks.insert(1, silent(daemon.as_ref(), &why));
            (Vec::new(), host::pods(&data_dir), true)
        }
        None => (Vec::new(), host::pods(&data_dir), false),
    };
    let problems = checks.iter().filter_map(|check| check.problem.clone());
    let problems = problems.chain(api::problems(&nodes, &pods)).collect();
    Status {
        instance: instance::id(&data_dir),
        daemon: daemon.map(|daemon| daemon.pid),
        server: access::noted(&state)
            .filter(|_| server)
            .map(|address| format!("https://{}", access::reachable(address))),
        checks,
        nodes,
        pods,
        images: host::images(&data_dir),
        problems,
        data_dir: data_dir.display().to_string(),
    }
}

/// What the host shows. A daemon that lives may be at work on what is missing: that is looked at again.
fn settled(data_dir: &Path, daemon: Option<&Process>, answers: bool) -> Vec<Check> {
    let mut checks = host::look(data_dir, daemon, answers);
    for _ in 1..LOOKS {
        if !answers || checks.iter().all(|check| check.problem.is_none()) {
            break;
        }
        // Nothing announces to another process what the daemon does in the kernel.
        std::thread::sleep(LOOK_PAUSE);
        checks = host::look(data_dir, daemon, answers);
    }
    checks
}

/// Whether the daemon is there at all. One that is held by a signal or a debugger looks alive to whoever
/// counts processes, and answers nobody.
fn daemon_check(daemon: Option<&Process>) -> Check {
    const NAME: &str = "daemon";
    let Some(daemon) = daemon else {
        return Check::wrong(NAME, "not running", "the daemon does not run; start it with `monopod up`");
    };
    let found = format!("process {}", daemon.pid);
    match daemon.stopped() {
        Some(how) => Check::wrong(
            NAME,
            &*found,
            format!("the daemon ({found}) is {how}; `kill -CONT {}` lets it go on", daemon.pid),
        ),
        None => Check::well(NAME, found),
    }
}

/// A daemon that is there and says nothing.
fn silent(daemon: Option<&Process>, why: &str) -> Check {
    let pid = daemon.map(|daemon| daemon.pid).unwrap_or_default();
    Check::wrong(
        "API",
        "no answer",
        format!(
            "the API does not answer: {why}; if that stays so, `kill -9 {pid}` and `monopod up`: the Pods run on \
             meanwhile"
        ),
    )
}

/// The same for people: what was looked at first, what is wrong last, where eyes end up.
fn screen(status: &Status) -> String {
    let mut lines = vec![format!("data directory  {} (instance {})", status.data_dir, status.instance)];
    lines.extend(status.server.iter().map(|server| format!("address         {server}")));
    let mark = |check: &Check| if check.problem.is_some() { " (!)" } else { "" };
    lines.extend(
        status.checks.iter().map(|check| format!("{:<15} {}{}", check.name, check.found, mark(check))),
    );
    lines.extend(status.nodes.iter().map(|node| format!("node            {} {}", node.name, node.state)));
    lines.push(format!("images          {}", status.images));
    lines.push(format!("pods            {}", status.pods.len()));
    lines.extend(status.pods.iter().map(|pod| format!("  {:<50} {}", pod.name, pod.state)));
    lines.push(if status.problems.is_empty() { "nothing is wrong".to_owned() } else { "wrong:".to_owned() });
    lines.extend(status.problems.iter().map(|problem| format!("  {problem}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_held_is_named_with_what_lets_it_go() {
        let check = daemon_check(Some(&Process { pid: 7, state: 'T' }));
        assert_eq!(
            check.problem.as_deref(),
            Some("the daemon (process 7) is stopped by a signal; `kill -CONT 7` lets it go on")
        );
        assert_eq!(daemon_check(Some(&Process { pid: 7, state: 'S' })).problem, None);
        assert!(daemon_check(None).problem.is_some());
    }
}
