//! Terminals.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::{Context, Result};

/// A terminal: both ends.
#[derive(Debug)]
pub struct Terminal {
    /// What the user's side reads and writes.
    pub master: OwnedFd,
    /// What the program has as its standard streams.
    pub slave: OwnedFd,
}

/// Makes a terminal in the devpts that is mounted at /dev/pts of this process.
///
/// # Errors
/// There is no devpts, or no terminal is left in it.
pub fn open() -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master =
        rustix::fs::openat(CWD, "/dev/pts/ptmx", flags, Mode::empty()).on("open", "/dev/pts/ptmx")?;
    rustix::pty::unlockpt(&master).attempt(|| "unlock the terminal")?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).attempt(|| "open the terminal's other end")?;
    Ok(Terminal { master, slave })
}

/// Sets the size of a terminal's window; its foreground processes get SIGWINCH.
///
/// # Errors
/// Not a terminal.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).attempt(|| "resize the terminal")
}
