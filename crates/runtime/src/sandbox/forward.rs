//! A connection to a port inside a sandbox.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Sandbox;
use crate::interface::Error;

/// Loopback answers at once or not at all; a full backlog may take a moment.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Connects to a TCP port on the sandbox's loopback. The socket is made by a thread that has
/// entered the sandbox's network, and stays in it.
pub(crate) async fn forward(sandbox: &Sandbox, port: u16) -> Result<tokio::net::TcpStream, Error> {
    let shim = sandbox.peer().filter(|_| sandbox.is_ready());
    let shim = shim.ok_or_else(|| Error::NotRunning { id: sandbox.id().to_owned() })?;
    let own = sandbox.has_own_network();
    let namespace = format!("/proc/{}/ns/net", shim.pid());
    let id = sandbox.id().to_owned();
    let stream = tokio::task::spawn_blocking(move || {
        // The text is containerd's, which users know from kubectl.
        let refused = |e: std::io::Error| {
            let place = if own { namespace.as_str() } else { "host" };
            let cause = format!(
                "failed to connect to localhost:{port} inside namespace {id:?}, \
                 IPv4: dial tcp4 127.0.0.1:{port}: connect: {} IPv6 dial tcp6: address localhost: no suitable address",
                words(&e)
            );
            Error::host(format!("failed to execute portforward in network namespace {place:?}"), cause)
        };
        if !own {
            return connect(port).map_err(refused);
        }
        let inside = sys::namespace::inside_network(shim.process(), || connect(port));
        inside.map_err(|e| Error::host("failed to enter the network of the sandbox", e))?.map_err(refused)
    })
    .await
    .map_err(|e| Error::host("failed to forward a port", e))??;
    let failed = |e: std::io::Error| Error::host("failed to forward a port", e);
    stream.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpStream::from_std(stream).map_err(failed)
}

/// IPv4 first, then IPv6, as containerd does; the error of IPv4 is told.
fn connect(port: u16) -> std::io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&v4, CONNECT_PATIENCE)
        .or_else(|error| TcpStream::connect_timeout(&v6, CONNECT_PATIENCE).map_err(|_| error))
}

fn words(error: &std::io::Error) -> String {
    match sys::Errno::from_io_error(error) {
        Some(errno) => sys::errno_words(errno).to_string(),
        None => error.to_string(),
    }
}
