//! Tells the service manager that the daemon does its work, as long as it does (sd_watchdog_enabled(3)).
//!
//! A program can be there and do nothing: a deadlock, a disk that does not come back. Only a question on the
//! road that every request takes shows it, and only somebody outside can end such a program.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use wire::Handler;

use crate::notify;

/// How often the service manager wants to hear, if it does.
pub(crate) fn asked_for() -> Option<Duration> {
    let word = |name| std::env::var(name).ok();
    // It may be meant for another process of the service.
    let meant = word("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    period(&word("WATCHDOG_USEC")?).filter(|_| meant)
}

/// Zero would mean at once and for ever; nobody means that.
fn period(microseconds: &str) -> Option<Duration> {
    microseconds.parse().ok().filter(|number| *number > 0).map(Duration::from_micros)
}

/// Asks the API, on the road that all requests take, and tells of each answer. A disk that is full is no
/// reason to start anew: any answer will do.
pub(crate) async fn run(api: Arc<dyn Handler>, within: Duration, shutdown: CancellationToken) {
    let mut ticks = interval(within / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Cancel-safe: the interval keeps its next tick when the future is dropped.
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let request = http::Request::builder().uri("/livez").body(wire::empty());
        let Ok(request) = request else { return };
        match timeout(within / 3, api.handle(request)).await {
            Ok(_) => notify::alive(),
            Err(_) => tracing::error!(
                "the API does not answer itself; the service manager is not told that it does"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_is_in_microseconds() {
        assert_eq!(period("90000000"), Some(Duration::from_secs(90)));
        assert_eq!((period("0"), period("soon")), (None, None));
    }
}
