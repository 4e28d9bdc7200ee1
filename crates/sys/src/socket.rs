//! Bytes and descriptors over Unix sockets (`SCM_RIGHTS`), and who listens on ports of this network namespace.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::{Context, Errno, Result as Attempted};

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

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Who can be spoken to on the ports of this thread's network namespace: listening sockets of TCP, and those
/// of UDP that are not connected. An unspecified address is every address.
///
/// # Errors
/// No /proc.
pub fn listeners() -> Attempted<Vec<(Transport, SocketAddr)>> {
    let mut found = Vec::new();
    // Their states in the kernel's numbers: TCP_LISTEN, TCP_CLOSE.
    for (file, transport, state) in [
        ("tcp", Transport::Tcp, "0A"),
        ("tcp6", Transport::Tcp, "0A"),
        ("udp", Transport::Udp, "07"),
        ("udp6", Transport::Udp, "07"),
    ] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = match std::fs::read_to_string(&path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.on("read", &path)?,
        };
        found.extend(
            text.lines().filter_map(|line| listener(line, state)).map(|address| (transport, address)),
        );
    }
    Ok(found)
}

/// A line of proc(5)'s net/tcp: number, local address, remote address, state, …
fn listener(line: &str, state: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    fields.nth(1).filter(|found| *found == state)?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        _ => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
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

    #[test]
    fn who_listens_is_known_by_protocol_address_and_port() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let connected = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let found = listeners().unwrap();
        assert!(found.contains(&(Transport::Tcp, tcp.local_addr().unwrap())), "{found:?}");
        assert!(found.contains(&(Transport::Udp, udp.local_addr().unwrap())), "{found:?}");
        assert!(!found.contains(&(Transport::Tcp, connected.local_addr().unwrap())), "{found:?}");
        let v6 = "0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0";
        if cfg!(target_endian = "little") {
            assert_eq!(listener(v6, "0A"), "[::1]:8080".parse().ok());
        }
    }
}
