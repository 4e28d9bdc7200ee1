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
        .init();
}
