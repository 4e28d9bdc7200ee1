//! Tells systemd how far we are (sd_notify(3)); without systemd nothing happens.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The API answers and the node is Ready.
pub(crate) fn ready() {
    send("READY=1");
}

/// It still does its work.
pub(crate) fn alive() {
    send("WATCHDOG=1");
}

/// The process is on its way out; its Pods stay.
pub(crate) fn stopping() {
    send("STOPPING=1");
}

fn send(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // Nobody waits for the answer, and a supervisor that is gone is no reason to fail.
    let outcome = UnixDatagram::unbound().and_then(|socket| {
        let bytes = path.as_encoded_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(err) = outcome {
        tracing::warn!(%err, "could not notify the service manager");
    }
}
