//! Bytes and descriptors over Unix sockets (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::Errno;

/// Most descriptors in one message.
pub const FDS_MAX: usize = 8;

/// Sends bytes and, with the first of them, descriptors. Returns how many bytes were taken;
/// the descriptors are gone with the first byte. A closed peer is `EPIPE`, never a signal.
///
/// # Errors
/// The kernel's; `WOULDBLOCK` (`EAGAIN`) on a full non-blocking socket, then nothing was sent.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })
}

/// Receives bytes and the descriptors that came with them (close-on-exec is set). Returns the
/// number of bytes; 0 is the end.
///
/// # Errors
/// The kernel's; `WOULDBLOCK` (`EAGAIN`) on an empty non-blocking socket.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(got.bytes)
}

/// Two connected stream sockets, close-on-exec.
///
/// # Errors
/// The kernel's: too many open files.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Two connected sockets that keep the borders of messages, close-on-exec.
///
/// # Errors
/// The kernel's: too many open files.
pub fn packet_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Makes reads and writes return at once (for the open file: all its descriptors).
///
/// # Errors
/// The descriptor is not one.
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, nonblocking)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_arrive_with_the_bytes_and_work() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        assert_eq!(send(&a, b"hello", &[writer.as_fd()]).unwrap(), 5);
        drop(writer);
        let mut bytes = [0; 16];
        let mut fds = Vec::new();
        assert_eq!(receive(&b, &mut bytes, &mut fds).unwrap(), 5);
        let mut file = std::fs::File::from(fds.pop().unwrap());
        file.write_all(b"x").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn a_closed_peer_is_an_error_not_a_signal() {
        let (a, b) = pair().unwrap();
        drop(b);
        assert_eq!(send(&a, b"x", &[]), Err(Errno::PIPE));
    }
}
