//! Logs go to standard error, one line an event; colours only on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::fmt;

/// Starts logging at the level asked for.
pub(crate) fn start(level: tracing::Level) {
    fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        // It would be said on standard error, by a macro that panics there: a log on a full disk must not
        // end the requests that are being served.
        .log_internal_errors(false)
        .init();
}
