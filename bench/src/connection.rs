//! One HTTPS connection as a client of the API keeps it open.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the API is and who we are.
#[derive(Clone)]
pub(crate) struct Access {
    address: String,
    tls: TlsConnector,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl Access {
    /// Reads the kubeconfig that the program wrote.
    pub(crate) fn from_kubeconfig(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            line.with_context(|| format!("the kubeconfig has no {name}"))
        };
        let pem = |name: &str| Ok::<_, anyhow::Error>(STANDARD.decode(field(name)?.trim())?);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("certificate-authority-data")?)?)?;
        let chain = vec![CertificateDer::from_pem_slice(&pem("client-certificate-data")?)?];
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let address = field("server")?.trim().trim_start_matches("https://").to_owned();
        Ok(Access { address, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Where the API listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host).to_owned();
        let stream = self.tls.connect(ServerName::try_from(host)?, socket).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }
}

/// An open connection: one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Sends a request; the answer's body is still to be read.
    pub(crate) async fn open(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        self.sender.ready().await?;
        let request = request(method, path).header("accept", JSON).header("content-type", kind);
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Reads as `kubectl get` does: a table if there is one, compressed if it is large. The body is left as it came.
    pub(crate) async fn get_table(&mut self, path: &str) -> Result<Bytes> {
        self.sender.ready().await?;
        let request = request(Method::GET, path).header("accept", TABLE).header("accept-encoding", "gzip");
        let answer = self.sender.send_request(request.body(Full::default())?).await?;
        read(path, answer).await
    }

    /// Sends a request and reads the whole answer; an error status is an error.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Bytes> {
        read(path, self.open(method, path, kind, body).await?).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Bytes> {
        self.call(Method::GET, path, JSON, Bytes::new()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        self.call(Method::POST, path, JSON, body.into()).await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Result<Bytes> {
        self.call(Method::DELETE, path, JSON, Bytes::new()).await
    }
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "kubernetes")
}

async fn read(path: &str, answer: http::Response<Incoming>) -> Result<Bytes> {
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// What kubectl accepts.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// The media type of everything here but patches.
pub(crate) const JSON: &str = "application/json";

/// The lines of a watch, as they come.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// Starts a watch on a connection of its own.
    pub(crate) async fn watch(access: &Access, path: &str) -> Result<Self> {
        let mut connection = access.connect().await?;
        let answer = connection.open(Method::GET, path, JSON, Bytes::new()).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        // The sender must live as long as the body is read.
        let body = answer.into_body();
        tokio::spawn(async move {
            std::future::pending::<Connection>().await;
            drop(connection)
        });
        Ok(Lines { body, rest: Vec::new() })
    }

    /// The next line; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest[..end].to_vec();
                self.rest.drain(..=end);
                return Some(line);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}
