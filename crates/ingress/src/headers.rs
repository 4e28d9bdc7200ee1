//! Which headers go on, which belong to one connection alone, and what is added.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::header::{
    CONNECTION, COOKIE, EXPECT, Entry, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use http_body::Body as _;
use wire::Request;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// How a request came here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) peer: SocketAddr,
    pub(crate) is_tls: bool,
    /// The port that was asked.
    pub(crate) port: u16,
}

/// Whom a request is for, as it is written: the authority of its target, else its only Host. Empty where an
/// HTTP/1.0 client says nothing; `None` when it cannot be told, and then nobody may guess.
pub(crate) fn authority(request: &Request) -> Option<String> {
    let mut hosts = request.headers().get_all(HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return None,
        (host, None) => host,
    };
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    }
    match host {
        Some(host) => Some(host.to_str().ok()?.to_owned()),
        None => (request.version() < Version::HTTP_11).then(String::new),
    }
}

/// The name in an authority, in lower case, without its port and the dot of a complete name.
pub(crate) fn host_of(authority: &str) -> Option<String> {
    if authority.is_empty() {
        return Some(String::new());
    }
    let parsed: Authority = authority.parse().ok()?;
    let host = parsed.host();
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// The protocol that an HTTP/1.1 client wishes to go on with.
pub(crate) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let wishes = version == Version::HTTP_11
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    // HTTP/2 begins by its preface or by TLS here, and a proxy must not hand that wish on.
    headers.get(UPGRADE).filter(|value| wishes && !value.as_bytes().eq_ignore_ascii_case(b"h2c")).cloned()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Takes away what belongs to one connection. What takes the place of the old upgrade is the caller's.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    let takes_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    for name in named.iter().chain(&HOP_BY_HOP) {
        if let Entry::Occupied(entry) = headers.entry(name) {
            entry.remove_entry_mult();
        }
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Asks for an upgrade, or grants it.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes of a client's request the one that a Pod gets.
pub(crate) fn prepare(request: &mut Request, authority: &str, origin: Origin) {
    let headers = request.headers_mut();
    remove_hop_by_hop(headers);
    // Who waits for a leave to send gets it here, as soon as the Pod is there to read.
    headers.remove(EXPECT);
    join_cookies(headers);
    forwarded(headers, authority, origin);
}

/// HTTP/2 may send each cookie by itself; in HTTP/1.1 there is one such header.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// What a client says of itself there is not believed: nobody stands before us whom we know.
fn forwarded(headers: &mut HeaderMap, authority: &str, origin: Origin) {
    headers.remove(X_FORWARDED_SERVER);
    let ip = origin.peer.ip().to_canonical();
    let proto = if origin.is_tls { "https" } else { "http" };
    let mut element = match ip {
        IpAddr::V4(ip) => format!("for={ip}"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
    };
    // A quotation mark in a host is refused by the parser of authorities.
    let _ = write!(element, ";host=\"{authority}\";proto={proto}");
    let mut set = |name: HeaderName, value: &str| match HeaderValue::from_str(value) {
        Ok(value) if !value.is_empty() => drop(headers.insert(name, value)),
        _ => drop(headers.remove(name)),
    };
    let address = ip.to_string();
    set(X_FORWARDED_FOR, &address);
    set(X_REAL_IP, &address);
    set(X_FORWARDED_HOST, authority);
    set(X_FORWARDED_PORT, &origin.port.to_string());
    set(X_FORWARDED_PROTO, proto);
    set(FORWARDED, &element);
}

/// Gives a prepared request the form that the protocol to the Pod wants.
pub(crate) fn address(request: &mut Request, authority: &str, h2c: bool) {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let host = HeaderValue::from_str(authority).unwrap_or_else(|_| HeaderValue::from_static(""));
    if h2c {
        let named = if authority.is_empty() { "localhost" } else { authority };
        let uri = Uri::builder().scheme("http").authority(named).path_and_query(target).build();
        *request.uri_mut() = uri.unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(HOST);
        return;
    }
    *request.uri_mut() = target.parse().unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, host);
}

/// The request once more, where doing it twice is as doing it once and nothing of it has been read: a kept
/// connection may be closed by its other end at the moment in which it is used.
pub(crate) fn repeatable(request: &Request) -> Option<Request> {
    let harmless = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(request.method());
    if !harmless || !request.body().is_end_stream() || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let mut again = Request::new(wire::empty());
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    *again.version_mut() = request.version();
    Some(again)
}

#[cfg(test)]
mod tests;
