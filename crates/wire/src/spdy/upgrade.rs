//! The HTTP/1.1 upgrade that leads to SPDY, for clients that do not use
//! WebSockets.

use std::io;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderName, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use crate::sessions::{Sessions, Takeover};
use crate::{Request, Response};

/// Exec and attach over SPDY, best first.
pub const REMOTE_COMMAND: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Port-forward over SPDY.
pub const PORT_FORWARD: &[&str] = &["portforward.k8s.io"];

const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Does the request ask for SPDY/3.1?
pub fn is_upgrade(request: &Request) -> bool {
    let has = |name: HeaderName, token: &str| {
        let values = request.headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "SPDY/3.1")
}

/// Answers the upgrade. `supported` is in order of preference. The error is
/// the response to send: upstream lists there what would have been accepted.
pub fn accept(request: &mut Request, supported: &[&'static str]) -> Result<(Response, Pending), Response> {
    if !is_upgrade(request) {
        let text = "unable to upgrade: missing upgrade headers in request";
        return Err(refuse(StatusCode::BAD_REQUEST, text.to_owned(), &[]));
    }
    let offered: Vec<String> = request
        .headers()
        .get_all(PROTOCOL)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .collect();
    let known = supported.iter().find(|name| offered.iter().any(|offer| offer == *name)).copied();
    // A client older than the negotiation speaks the first version.
    let protocol = match known.or(offered.is_empty().then(|| supported.last().copied()).flatten()) {
        Some(protocol) => protocol,
        None => {
            let text =
                format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}");
            return Err(refuse(StatusCode::FORBIDDEN, text, supported));
        }
    };
    let Some(takeover) = request.extensions_mut().remove::<Takeover>() else {
        let text = "unable to upgrade: the connection cannot be taken over";
        return Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, text.to_owned(), &[]));
    };
    let mut response = http::Response::new(crate::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    if !offered.is_empty() {
        response.headers_mut().insert(PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, Pending { takeover, protocol }))
}

fn refuse(status: StatusCode, text: String, accepted: &[&'static str]) -> Response {
    let mut response = http::Response::new(crate::full(text));
    *response.status_mut() = status;
    for protocol in accepted {
        response.headers_mut().append(ACCEPTED, HeaderValue::from_static(protocol));
    }
    response
}

/// An accepted upgrade whose response is not yet on the wire.
#[derive(Debug)]
pub struct Pending {
    takeover: Takeover,
    protocol: &'static str,
}

impl Pending {
    /// The protocol chosen.
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Where the session goes on.
    pub fn sessions(&self) -> Sessions {
        self.takeover.sessions()
    }

    /// Waits until the response is written and takes the connection over; the
    /// bytes are for [`super::serve`].
    pub async fn connect(self) -> io::Result<TokioIo<Upgraded>> {
        self.takeover.connect().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_protocol_is_refused_with_those_that_are_known() {
        let mut request = http::Request::post("/portForward")
            .header("Connection", "Upgrade")
            .header("Upgrade", "SPDY/3.1")
            .header("X-Stream-Protocol-Version", "other")
            .body(crate::empty())
            .unwrap();
        let response = accept(&mut request, PORT_FORWARD).unwrap_err();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[ACCEPTED], "portforward.k8s.io");
    }
}
