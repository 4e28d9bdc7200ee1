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

/// Sends the request and follows redirects on the same host. The error is in Go's words.
pub(crate) async fn fetch(get: &Get, at_most: Duration) -> Result<Answer, String> {
    let mut current = get.clone();
    let all = async {
        for _ in 0..REDIRECTS_MAX {
            let (answer, location) =
                once(&current).await.map_err(|cause| format!("Get {:?}: {cause}", current.url()))?;
            match location.filter(|_| (300..400).contains(&answer.status)) {
                None => return Ok(answer),
                Some(location) => match current.redirected(&location) {
                    Some(next) => current = next,
                    None => return Ok(Answer { left_host: true, ..answer }),
                },
            }
        }
        Err(format!("Get {:?}: stopped after {REDIRECTS_MAX} redirects", current.url()))
    };
    match timeout(at_most, all).await {
        Ok(done) => done,
        Err(_) => {
            let url = get.url();
            Err(format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ))
        }
    }
}

async fn once(get: &Get) -> Result<(Answer, Option<String>), String> {
    let stream = TcpStream::connect((get.host.as_str(), get.port)).await;
    let stream = stream.map_err(|err| dial_error(&get.host, get.port, &err))?;
    if !get.https {
        return exchange(get, stream).await;
    }
    let config = tls::UNCHECKED.clone().ok_or("no TLS")?;
    let name = ServerName::try_from(get.host.clone()).map_err(|err| err.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|err| match err.kind() {
        std::io::ErrorKind::InvalidData => "http: server gave HTTP response to HTTPS client".to_string(),
        _ => err.to_string(),
    })?;
    exchange(get, stream).await
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
