//! Terminals.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FsWord, Mode, OFlags, fstatfs};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::beneath::{Directory, Links, Mounts};
use crate::{Context, Errno, Result};

const DEVPTS_MAGIC: FsWord = 0x1cd1;

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
    let path = "/dev/pts/ptmx";
    // A Pod may have mounted anything at /dev: neither a link nor another device is taken for it.
    let pts = Directory::open(Path::new("/"))?
        .lookup("dev/pts", OFlags::PATH | OFlags::CLOEXEC, Links::Refused, Mounts::Cross)
        .on("open", "/dev/pts")?;
    if fstatfs(&pts).on("look at", "/dev/pts")?.f_type != DEVPTS_MAGIC {
        return Err(Errno::NODEV).on("open", path);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&pts, "ptmx", flags, Mode::empty()).on("open", path)?;
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
