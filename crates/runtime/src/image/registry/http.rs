//! One request to one host: name, connection, TLS, answer. Errors read as Go's, because those
//! are the words users know from containerd.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::proxy::{Proxies, Proxy};

/// Where systems keep the authorities they trust, most common first.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// A registry that takes longer to begin an answer is retried.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// With or without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// With the port if it is not the scheme's; what the `Host` header says.
    pub(super) authority: String,
}

impl Origin {
    pub(super) fn new(scheme: Scheme, authority: &str) -> Self {
        Origin { scheme, authority: authority.to_owned() }
    }

    /// Host and port to connect to.
    pub(super) fn target(&self) -> (&str, u16) {
        let default = if self.scheme == Scheme::Https { 443 } else { 80 };
        let (host, port) = split_port(&self.authority);
        (host, port.unwrap_or(default))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// `host:port` in parts; an IPv6 address keeps its brackets.
pub(super) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

/// A whole URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) origin: Origin,
    /// Path and query.
    pub(super) path: String,
}

impl Url {
    /// Parses an absolute URL of the two schemes we speak.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let scheme = match uri.scheme_str()? {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return None,
        };
        let authority = uri.authority()?.as_str();
        if authority.contains('@') {
            return None;
        }
        // A token server may be `https://HOST?service=…`: a request begins with a slash all the same.
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{}{query}", uri.path());
        Some(Url { origin: Origin::new(scheme, authority), path })
    }

    /// Where a redirect leads.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Url { origin: self.origin.clone(), path: location.to_owned() });
        }
        Url::parse(location)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// A request could not be sent or was not answered.
#[derive(Clone, Debug)]
pub(super) struct TransportError {
    pub(super) message: String,
    /// No connection was made.
    pub(super) unreachable: bool,
}

/// What to ask.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) accept: Option<String>,
    pub(super) authorization: Option<String>,
    /// First byte wanted; 0: all.
    pub(super) from: u64,
    /// A form to post.
    pub(super) form: Option<String>,
}

impl Ask {
    pub(super) fn new(method: Method) -> Self {
        Ask { method, accept: None, authorization: None, from: 0, form: None }
    }
}

/// Speaks HTTP to whoever it is told. Lives for one pull.
pub(super) struct Client {
    tls: TlsConnector,
    proxies: Proxies,
}

impl Client {
    /// Trusts the system's authorities and those of the files.
    pub(super) fn new(authorities: &[PathBuf], proxies: Proxies) -> Result<Self, TransportError> {
        let fail = |message: String| TransportError { message, unreachable: true };
        let mut roots = RootCertStore::empty();
        let system = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
        if let Some(path) = system {
            add_authorities(&mut roots, path).map_err(fail)?;
        }
        for path in authorities {
            add_authorities(&mut roots, path).map_err(fail)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| fail(format!("tls: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Client { tls: TlsConnector::from(Arc::new(config)), proxies })
    }

    /// Sends a request and returns when the answer begins. Every request has its own connection:
    /// a pull has a dozen, and most go to different hosts after redirects.
    pub(super) async fn send(&self, url: &Url, ask: &Ask) -> Result<Response<Incoming>, TransportError> {
        let describe = |cause: Cause| TransportError {
            message: format!("failed to do request: {} \"{url}\": {}", method_name(&ask.method), cause.text),
            unreachable: cause.unreachable,
        };
        self.send_by(self.proxies.find(&url.origin), url, ask).await.map_err(describe)
    }

    async fn send_by(
        &self,
        proxy: Result<Option<Proxy>, String>,
        url: &Url,
        ask: &Ask,
    ) -> Result<Response<Incoming>, Cause> {
        let mut request = request(url, ask).map_err(|e| Cause::broken(e.to_string()))?;
        let origin = &url.origin;
        match (origin.scheme, proxy.map_err(Cause::unreachable)?) {
            (Scheme::Http, None) => exchange(connect(origin.target()).await?, request).await,
            (Scheme::Https, None) => {
                let stream = connect(origin.target()).await?;
                exchange(self.secure(origin, stream).await?, request).await
            }
            // It is told the whole URL and asks in our place.
            (Scheme::Http, Some(proxy)) => {
                *request.uri_mut() = url.to_string().parse().map_err(|e| Cause::broken(format!("{e}")))?;
                proxy.authorize(request.headers_mut());
                exchange(reach(&proxy).await?, request).await
            }
            (Scheme::Https, Some(proxy)) => {
                let stream = tunnel(&proxy, origin).await?;
                exchange(self.secure(origin, stream).await?, request).await
            }
        }
    }

    async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        origin: &Origin,
        stream: S,
    ) -> Result<tokio_rustls::client::TlsStream<S>, Cause> {
        let host = origin.target().0.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|e| Cause::broken(format!("tls: {e}")))?;
        let shaken = timeout(CONNECT_MAX, self.tls.connect(name, stream)).await;
        shaken
            .map_err(|_| Cause::broken("net/http: TLS handshake timeout".into()))?
            .map_err(|e| Cause { text: tls_words(&e), unreachable: true })
    }
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let readable =
        |e: &dyn fmt::Display| format!("cannot read certificate authorities {}: {e}", path.display());
    let certificates: Vec<CertificateDer<'_>> =
        CertificateDer::pem_file_iter(path).map_err(|e| readable(&e))?.filter_map(Result::ok).collect();
    // One that rustls does not understand is no reason to refuse the others.
    roots.add_parsable_certificates(certificates);
    Ok(())
}

pub(super) struct Cause {
    text: String,
    unreachable: bool,
}

impl Cause {
    fn broken(text: String) -> Self {
        Cause { text, unreachable: false }
    }

    fn unreachable(text: String) -> Self {
        Cause { text, unreachable: true }
    }
}

pub(super) fn request(url: &Url, ask: &Ask) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(&url.path)
        .header(header::HOST, &url.origin.authority)
        .header(header::USER_AGENT, concat!("monopod/", env!("CARGO_PKG_VERSION")));
    if let Some(accept) = &ask.accept {
        request = request.header(header::ACCEPT, accept);
    }
    if let Some(authorization) = &ask.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    if ask.from > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", ask.from));
    }
    let body = match &ask.form {
        Some(form) => {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            Bytes::from(form.clone())
        }
        None => Bytes::new(),
    };
    request.body(Full::new(body))
}

async fn reach(proxy: &Proxy) -> Result<TcpStream, Cause> {
    let failed = |cause: Cause| Cause { text: format!("proxyconnect tcp: {}", cause.text), ..cause };
    connect((&proxy.host, proxy.port)).await.map_err(failed)
}

/// A connection through the proxy, which knows no more of it than where it leads.
async fn tunnel(proxy: &Proxy, origin: &Origin) -> Result<TokioIo<Upgraded>, Cause> {
    let (host, port) = origin.target();
    let target = format!("{host}:{port}");
    let request = Request::builder().method(Method::CONNECT).uri(&target).header(header::HOST, &target);
    let mut request = request.body(Full::default()).map_err(|e| Cause::broken(e.to_string()))?;
    proxy.authorize(request.headers_mut());
    let answer = exchange(reach(proxy).await?, request).await?;
    if !answer.status().is_success() {
        // As Go has it: the reason alone.
        return Err(Cause::unreachable(
            answer.status().canonical_reason().unwrap_or("unknown status").into(),
        ));
    }
    hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(|e| Cause::broken(hyper_words(&e)))
}

async fn connect((host, port): (&str, u16)) -> Result<TcpStream, Cause> {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match tokio::net::lookup_host((plain, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(_) => return Err(Cause::unreachable(format!("dial tcp: lookup {plain}: no such host"))),
    };
    let mut last = Cause::unreachable(format!("dial tcp: lookup {plain}: no such host"));
    for address in addresses {
        match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are small and wait for an answer: nothing to gain from holding them back.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => {
                last = Cause::unreachable(format!("dial tcp {address}: connect: {}", io_words(&error)));
            }
            Err(_) => last = Cause::unreachable(format!("dial tcp {address}: i/o timeout")),
        }
    }
    Err(last)
}

pub(super) async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| Cause::broken(hyper_words(&e));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with the answer's body; the pull's runtime owns it and ends after the pull"
    )]
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a registry ended");
        }
    });
    let answer = timeout(ANSWER_MAX, sender.send_request(request)).await;
    let late = "net/http: timeout awaiting response headers";
    answer.map_err(|_| Cause::broken(late.into()))?.map_err(broken)
}

/// `Head`, `Get`: Go's way to write a method in an error.
fn method_name(method: &Method) -> String {
    let lower = method.as_str().to_lowercase();
    let mut letters = lower.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

fn io_words(error: &io::Error) -> String {
    match sys::Errno::from_io_error(error) {
        Some(errno) => sys::errno_words(errno).to_string(),
        None => error.to_string(),
    }
}

fn hyper_words(error: &hyper::Error) -> String {
    let io = std::error::Error::source(error).and_then(|s| s.downcast_ref::<io::Error>());
    match io {
        Some(io) => io_words(io),
        None if error.is_incomplete_message() => "EOF".into(),
        None => error.to_string(),
    }
}

fn tls_words(error: &io::Error) -> String {
    use rustls::{CertificateError, Error as Tls};
    let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<Tls>()) else { return io_words(error) };
    match tls {
        Tls::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".into(),
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".into()
        }
        Tls::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid".into()
        }
        Tls::InvalidCertificate(other) => format!("tls: failed to verify certificate: x509: {other}"),
        other => format!("tls: {other}"),
    }
}

/// `404 Not Found`
pub(super) fn status_words(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_by_path_and_by_url() {
        let url = Url::parse("https://r.example:5000/v2/a/blobs/x").unwrap();
        assert_eq!(url.join("/b?c=d").unwrap().to_string(), "https://r.example:5000/b?c=d");
        assert_eq!(url.join("http://cdn.example/b").unwrap().to_string(), "http://cdn.example/b");
        assert_eq!(url.join("https://cdn.example?b=c").unwrap().path, "/?b=c");
        assert_eq!(url.join("file:///etc/passwd"), None);
        assert_eq!(url.join("https://user:password@cdn.example/"), None);
    }

    #[test]
    fn ports_are_told_from_addresses() {
        assert_eq!(split_port("a:5000"), ("a", Some(5000)));
        assert_eq!(split_port("a"), ("a", None));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some(80)));
    }
}
