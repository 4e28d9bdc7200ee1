//! Who can be reached from here, by new connections and over one that is kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::say;

/// Longest wait for an answer before somebody counts as out of reach.
const WITHIN: Duration = Duration::from_millis(1500);
/// A datagram may be lost on a busy host without meaning anything.
const DATAGRAMS: u32 = 3;

/// Tries all of `tcp/HOST:PORT`, `udp/HOST:PORT` and `icmp/HOST:0` at once and says `<target> yes` or `<target> no` for each,
/// in the order of the targets.
pub(crate) fn reach(targets: &[String]) -> Result<(), String> {
    let tries: Vec<_> =
        targets.iter().cloned().map(|target| thread::spawn(move || (answers(&target), target))).collect();
    for one in tries {
        let (reached, target) = one.join().map_err(|_| "a try panicked")?;
        say(&format!("{target} {}", if reached? { "yes" } else { "no" }));
    }
    Ok(())
}

fn answers(target: &str) -> Result<bool, String> {
    let (protocol, address) = target.split_once('/').ok_or("a target is protocol/host:port")?;
    let address = resolve(address)?;
    Ok(match protocol {
        "tcp" => by_tcp(address),
        "udp" => by_udp(address),
        "icmp" => by_echo(address),
        other => return Err(format!("unknown protocol {other}")),
    })
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut all = address.to_socket_addrs().map_err(|err| format!("{address}: {err}"))?;
    all.next().ok_or_else(|| format!("{address}: no address"))
}

/// An HTTP answer: that a connection is accepted may be a proxy's word.
fn by_tcp(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut connection = TcpStream::connect_timeout(&address, WITHIN)?;
        connection.set_read_timeout(Some(WITHIN))?;
        write!(connection, "GET / HTTP/1.0\r\n\r\n")?;
        connection.read(&mut [0; 16])
    };
    ask().is_ok_and(|read| read > 0)
}

fn by_udp(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(WITHIN / DATAGRAMS))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 64])
    };
    (0..DATAGRAMS).any(|_| ask().is_ok())
}

#[expect(clippy::disallowed_methods, reason = "what `sys` guards against is no danger in a test image")]
fn by_echo(address: SocketAddr) -> bool {
    let host = address.ip().to_string();
    let mut ping = std::process::Command::new("/bin/ping");
    ping.args(["-c", "1", "-W", "2", &host]).output().is_ok_and(|ran| ran.status.success())
}

/// Answers each datagram with the name of this host.
pub(crate) fn answer_datagrams(port: u16) -> Result<(), String> {
    let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(|err| format!("port {port} of UDP: {err}"))?;
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        loop {
            // Of a client that is gone the socket hears by an error, which is the client's.
            if let Ok((_, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(crate::hostname().as_bytes(), from);
            }
        }
    });
    Ok(())
}

/// Asks again and again over one connection, and says `ok` for each answer and `lost` for each wait in vain.
/// Ends when the connection does.
pub(crate) fn talk(address: &str) -> Result<(), String> {
    let address = resolve(address)?;
    let connection = TcpStream::connect(address).map_err(|err| format!("{address}: {err}"))?;
    connection.set_read_timeout(Some(WITHIN)).map_err(|err| err.to_string())?;
    let mut reader = BufReader::new(&connection);
    loop {
        (&connection).write_all(b"GET / HTTP/1.1\r\nHost: talk\r\n\r\n").map_err(|err| err.to_string())?;
        while let Err(err) = hear(&mut reader) {
            if !matches!(err.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) {
                return Err(err.to_string());
            }
            say("lost");
        }
        say("ok");
        // The pace of the questions; nothing is waited for.
        thread::sleep(Duration::from_millis(100));
    }
}

/// One answer. It comes in one piece or not at all, so that nothing of it is read twice.
fn hear(reader: &mut BufReader<&TcpStream>) -> std::io::Result<()> {
    if reader.fill_buf()?.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])
}
