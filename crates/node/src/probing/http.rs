//! GET requests of probes and hooks.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{OUTPUT_MAX, Target, authority, dial_error, host, port, tls};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    https: bool,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// A redirect to another host was not followed.
    pub(crate) left_host: bool,
}

impl Get {
    pub(crate) fn of_action(action: &HTTPGetAction, target: &Target) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
        for header in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(header.name.as_str()).map_err(|err| err.to_string())?;
            let value = HeaderValue::try_from(header.value.as_str()).map_err(|err| err.to_string())?;
            headers.insert(name, value);
        }
        let path = action.path.clone().unwrap_or_default();
        Ok(Self {
            https: action.scheme.as_deref() == Some("HTTPS"),
            host: host(action.host.as_deref(), target.pod_ip),
            port: port(&action.port, &target.container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers,
        })
    }

    /// The same in plain text.
    pub(crate) fn over_http(mut self) -> Self {
        self.https = false;
        self
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }

    /// Where a redirect leads; `None`: to another host, or nowhere.
    fn redirected(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Self { path: location.into(), ..self.clone() });
        }
        let uri: http::Uri = location.parse().ok()?;
        let https = uri.scheme_str()? == "https";
        let host = uri.host()?.trim_matches(['[', ']']);
        let same = host == self.host;
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/".to_string(), ToString::to_string);
        same.then(|| Self { https, port, path, ..self.clone() })
    }
}

/// Why a request has no answer, in the words of Go's client.
#[derive(Debug, thiserror::Error)]
#[error("Get {url:?}: {cause}")]
pub(crate) struct FetchError {
    url: String,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainText,
    #[error("stopped after {REDIRECTS_MAX} redirects")]
    Redirects,
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Deadline,
    #[error("{0}")]
    Other(String),
}

impl FetchError {
    /// Whether the other side speaks, but not TLS: a hook is then tried again in plain text.
    pub(crate) fn is_plain_text(&self) -> bool {
        matches!(self.cause, Cause::PlainText)
    }
}

/// Sends the request and follows redirects on the same host.
pub(crate) async fn fetch(get: &Get, at_most: Duration) -> Result<Answer, FetchError> {
    let mut current = get.clone();
    let failed = |get: &Get, cause| FetchError { url: get.url(), cause };
    let all = async {
        for _ in 0..REDIRECTS_MAX {
            let (answer, location) = once(&current).await.map_err(|cause| failed(&current, cause))?;
            match location.filter(|_| (300..400).contains(&answer.status)) {
                None => return Ok(answer),
                Some(location) => match current.redirected(&location) {
                    Some(next) => current = next,
                    None => return Ok(Answer { left_host: true, ..answer }),
                },
            }
        }
        Err(failed(&current, Cause::Redirects))
    };
    timeout(at_most, all).await.unwrap_or_else(|_| Err(failed(get, Cause::Deadline)))
}

async fn once(get: &Get) -> Result<(Answer, Option<String>), Cause> {
    let stream = TcpStream::connect((get.host.as_str(), get.port)).await;
    let stream = stream.map_err(|err| Cause::Other(dial_error(&get.host, get.port, &err)))?;
    if !get.https {
        return exchange(get, stream).await.map_err(Cause::Other);
    }
    let config = tls::UNCHECKED.clone().ok_or_else(|| Cause::Other("no TLS".to_owned()))?;
    let name = ServerName::try_from(get.host.clone()).map_err(|err| Cause::Other(err.to_string()))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|err| match err.kind() {
        // What begins an answer in plain text is no record of TLS.
        std::io::ErrorKind::InvalidData => Cause::PlainText,
        _ => Cause::Other(err.to_string()),
    })?;
    exchange(get, stream).await.map_err(Cause::Other)
}

async fn exchange<S>(get: &Get, stream: S) -> Result<(Answer, Option<String>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|err| err.to_string())?;
    let mut request =
        http::Request::get(get.path.as_str()).body(Empty::<Bytes>::new()).map_err(|err| err.to_string())?;
    *request.headers_mut() = get.headers.clone();
    if !request.headers().contains_key(HOST) {
        let host = HeaderValue::try_from(authority(&get.host, get.port)).map_err(|err| err.to_string())?;
        request.headers_mut().insert(HOST, host);
    }
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|err| go_words(&err))?;
        let status = response.status().as_u16();
        let location =
            response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(String::from);
        // A body that is too long is no failure: the status has been seen.
        let body = Limited::new(response.into_body(), OUTPUT_MAX).collect().await;
        let body =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((Answer { status, body, left_host: false }, location))
    };
    // The connection has to be driven for the exchange to go on; it ends with it.
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        broken = connection => match broken {
            Ok(()) => exchange.await,
            Err(err) => Err(go_words(&err)),
        },
    }
}

fn go_words(err: &hyper::Error) -> String {
    if err.is_incomplete_message() { "EOF".into() } else { err.to_string() }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of asking a server that says this to everybody, over TLS.
    async fn asked(says: &'static [u8]) -> FetchError {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let answering = async move {
            let (mut connection, _) = server.accept().await.unwrap();
            connection.write_all(says).await.unwrap();
        };
        let get =
            Get { https: true, host: "127.0.0.1".into(), port, path: "/".into(), headers: HeaderMap::new() };
        tokio::join!(fetch(&get, Duration::from_secs(30)), answering).0.unwrap_err()
    }

    #[tokio::test]
    async fn a_server_that_speaks_plain_text_is_told_from_one_that_says_nothing() {
        let plain = asked(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert!(plain.is_plain_text(), "{plain}");
        assert!(
            plain.to_string().ends_with("/\": http: server gave HTTP response to HTTPS client"),
            "{plain}"
        );
        let silent = asked(b"").await;
        assert!(!silent.is_plain_text(), "{silent}");
    }
}
