//! Ending a container: its stop signal, patience, then the one signal that cannot be refused.

use std::time::Duration;

use shim::protocol::Request;
use tokio::time::timeout;

use super::Container;
use crate::interface::Error;
use crate::sandbox::Sandbox;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// A killed process that has not left after this hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Ends a container and returns when it has exited.
pub(crate) async fn stop(sandbox: &Sandbox, container: &Container, grace: Duration) -> Result<(), Error> {
    if container.is_over() {
        return Ok(());
    }
    // A container that was not started has nobody who could end in peace.
    if !grace.is_zero() && container.is_running() {
        signal(sandbox, container, stop_signal(&container.record.stop_signal), Whom::First).await?;
        if timeout(grace, ended(container)).await.is_ok() {
            return Ok(());
        }
    }
    kill(sandbox, container).await
}

/// Sends the stop signal and returns.
pub(crate) async fn terminate(sandbox: &Sandbox, container: &Container) -> Result<(), Error> {
    if !container.is_running() {
        // A container that was not started has nobody who could end in peace.
        return kill(sandbox, container).await;
    }
    signal(sandbox, container, stop_signal(&container.record.stop_signal), Whom::First).await
}

/// Kills all of a container's processes and waits until it has exited.
pub(crate) async fn kill(sandbox: &Sandbox, container: &Container) -> Result<(), Error> {
    if container.is_over() {
        return Ok(());
    }
    signal(sandbox, container, SIGKILL, Whom::All).await?;
    timeout(KILL_PATIENCE, ended(container)).await.map_err(|_| {
        let context = format!("failed to kill container {:?}", container.id());
        Error::host(context, format!("its processes are still there after {} s", KILL_PATIENCE.as_secs()))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    First,
    All,
}

async fn signal(sandbox: &Sandbox, container: &Container, signal: i32, whom: Whom) -> Result<(), Error> {
    let request = Request::Signal { id: container.id().to_owned(), signal, all: whom == Whom::All };
    match sandbox.link()?.call(request).await {
        // It ended on its own in the meantime.
        Err(_) if container.is_over() => Ok(()),
        other => other.map(|_| ()),
    }
}

async fn ended(container: &Container) {
    let mut life = container.life.subscribe();
    // The sender lives in `container`, so the channel cannot close before.
    let _ = life.wait_for(|_| container.is_over()).await;
}

/// The number of a signal as images name it: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`. What is not
/// one is SIGTERM, as with the kubelet.
fn stop_signal(name: &str) -> i32 {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    const RTMIN: i32 = 34;
    const LAST: i32 = 64;
    let upper = name.to_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match plain.strip_prefix("RTMIN") {
        Some("") => Some(RTMIN),
        Some(offset) => {
            offset.strip_prefix('+').and_then(|o| o.parse::<i32>().ok()).map(|o| RTMIN.saturating_add(o))
        }
        None if plain.is_empty() => None,
        None => NAMES
            .iter()
            .position(|known| *known == plain)
            .and_then(|n| i32::try_from(n).ok())
            .or_else(|| plain.parse().ok()),
    };
    number.filter(|n| (1..=LAST).contains(n)).unwrap_or(SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_read_in_every_spelling() {
        for (name, number) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("quit", 3),
            ("3", 3),
            ("SIGRTMIN+3", 37),
            ("SIGWINCH", 28),
            ("SIGNONSENSE", 15),
            ("-1", 15),
            ("9999", 15),
        ] {
            assert_eq!(stop_signal(name), number, "{name}");
        }
    }
}
