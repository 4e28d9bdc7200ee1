//! Our ends of a container's streams, as the runtime gives them: non-blocking descriptors.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::io::unix::AsyncFd;

/// One end.
#[derive(Debug)]
pub(super) struct End(AsyncFd<OwnedFd>);

impl End {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe for types whose descriptor may change; an OwnedFd's never does"
    )]
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        AsyncFd::new(fd).map(Self)
    }

    /// What has come; empty at the end. Cancel-safe: nothing is read before it is returned.
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut buffer = vec![0; 32 * 1024];
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer[..])?));
            match read {
                Ok(Ok(read)) => {
                    buffer.truncate(read);
                    return Ok(buffer.into());
                }
                // A terminal whose other end has closed.
                Ok(Err(err)) if err.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(Bytes::new());
                }
                Ok(Err(err)) => return Err(err),
                Err(_would_block) => {}
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                bytes = &bytes[written?..];
            }
        }
        Ok(())
    }
}

/// Tells the terminal its size.
pub(super) fn resize(terminal: &OwnedFd, width: u16, height: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
