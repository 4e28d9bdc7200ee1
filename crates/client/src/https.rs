//! The transport of a node that is not in the server's process.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HOST};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use wire::{Body, Request, Response};

use crate::{Transport, TransportError};

/// How the client proves who it is.
#[derive(Clone)]
pub enum Credential {
    /// By a certificate that the cluster's authority signed.
    Certificate {
        /// PEM, the leaf first.
        certificate_pem: String,
        /// PEM, PKCS#8.
        key_pem: String,
    },
    /// By a bearer token.
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Token(_) => "Token",
        })
    }
}

/// Where the server is and whom to trust.
#[derive(Debug, Clone)]
pub struct HttpsConfig {
    /// `host:port`.
    pub server: String,
    /// The authority that the server's certificate must come from, PEM.
    pub authority_pem: String,
    /// How to prove who we are.
    pub credential: Credential,
}

/// HTTP/2 over TLS on one connection, made when first needed and made again
/// when it broke.
#[derive(Clone)]
pub struct Https {
    shared: Arc<Shared>,
}

struct Shared {
    authority: Authority,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    authorization: Option<HeaderValue>,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    sender: SendRequest<Body>,
    _driver: AbortOnDropHandle<()>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("server", &self.shared.authority).finish_non_exhaustive()
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent server is given up after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(15);

impl Https {
    /// Checks the configuration; connects only with the first request.
    pub fn new(config: &HttpsConfig) -> Result<Self, TransportError> {
        let refuse =
            |reason: String| TransportError::Connect { server: config.server.clone(), source: reason.into() };
        let authority: Authority = config.server.parse().map_err(|e| refuse(format!("{e}")))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let server_name = ServerName::try_from(host).map_err(|e| refuse(e.to_string()))?;
        let tls = tls_config(config).map_err(|e| refuse(e.to_string()))?;
        let authorization = match &config.credential {
            Credential::Certificate { .. } => None,
            Credential::Token(token) => {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {token}")).map_err(|e| refuse(e.to_string()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let tls = TlsConnector::from(Arc::new(tls));
        let shared = Shared { authority, server_name, tls, authorization, connection: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared) })
    }
}

fn tls_config(config: &HttpsConfig) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.authority_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut tls = match &config.credential {
        Credential::Token(_) => builder.with_no_client_auth(),
        Credential::Certificate { certificate_pem, key_pem } => {
            let chain =
                CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?)?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

impl Shared {
    /// The open connection, or a new one. Callers wait for one attempt
    /// together instead of each making their own.
    async fn sender(&self) -> Result<SendRequest<Body>, TransportError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok(open.sender.clone());
        }
        let failed = |source| TransportError::Connect { server: self.authority.to_string(), source };
        let fresh = timeout(CONNECT_TIMEOUT, self.connect()).await;
        let fresh = fresh.map_err(|elapsed| failed(elapsed.into()))?.map_err(failed)?;
        let sender = fresh.sender.clone();
        *connection = Some(fresh);
        Ok(sender)
    }

    async fn connect(&self) -> Result<Connection, wire::BoxError> {
        let port = self.authority.port_u16().unwrap_or(443);
        let tcp = TcpStream::connect((self.authority.host().trim_matches(['[', ']']), port)).await?;
        tcp.set_nodelay(true)?;
        let tls = self.tls.connect(self.server_name.clone(), tcp).await?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the server does not speak HTTP/2").into());
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_while_idle(true);
        let (sender, driver) = builder.handshake(TokioIo::new(tls)).await?;
        #[expect(clippy::disallowed_methods, reason = "the connection aborts it when it is dropped")]
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        Ok(Connection { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    fn address(&self, request: &mut Request) {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request.headers_mut().remove(HOST);
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
    }
}

impl Transport for Https {
    fn send(&self, mut request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let shared = self.shared.clone();
        async move {
            shared.address(&mut request);
            let mut sender = shared.sender().await?;
            let answer = sender.send_request(request).await.map_err(|e| TransportError::Broken(e.into()))?;
            Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, ListOptions};
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::net::SocketAddr;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use wire::pki::{Authority as Pki, ServingCertificate};

    /// Answers every list with one object named after whoever asks.
    fn whoami(request: Request) -> BoxFuture<'static, Response> {
        async move {
            let certificate =
                request.extensions().get::<wire::Identity>().map(|identity| identity.user.clone());
            let token = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
            let name = certificate.or(token).unwrap_or_default();
            let body = format!(r#"{{"metadata":{{}},"items":[{{"metadata":{{"name":"{name}"}}}}]}}"#);
            http::Response::new(wire::full(body))
        }
        .boxed()
    }

    async fn serve(
        pki: &Arc<Pki>,
        address: &str,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<wire::Drained>) {
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = ServingCertificate::issue(pki.clone(), "server", names, Timestamp::now()).unwrap();
        let tls = pki.server_config(certificate).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let server = tokio::spawn(wire::serve(listener, Some(tls), Arc::new(whoami), shutdown.clone()));
        (address, shutdown, server)
    }

    async fn name(client: &Client) -> Result<String, crate::Error> {
        let list = client.list::<ConfigMap>("", &ListOptions::default()).await?;
        Ok(list.items[0].metadata.name.clone().unwrap())
    }

    #[tokio::test]
    async fn a_node_is_known_by_its_certificate_and_connects_again_when_the_server_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path(), "monopod-ca", Timestamp::now()).unwrap());
        let (address, shutdown, server) = serve(&pki, "127.0.0.1:0").await;
        let issued =
            pki.issue_client("system:node:n1", &["system:nodes".to_owned()], Timestamp::now()).unwrap();
        let config = |credential| HttpsConfig {
            server: address.to_string(),
            authority_pem: pki.certificate_pem().to_owned(),
            credential,
        };
        let certificate = Credential::Certificate {
            certificate_pem: issued.certificate_pem.clone(),
            key_pem: issued.key_pem.clone(),
        };
        let client = Client::new(Arc::new(Https::new(&config(certificate)).unwrap()));
        assert_eq!(name(&client).await.unwrap(), "system:node:n1");
        let token = Client::new(Arc::new(Https::new(&config(Credential::Token("secret".into()))).unwrap()));
        assert_eq!(name(&token).await.unwrap(), "Bearer secret");

        shutdown.cancel();
        server.await.unwrap();
        assert!(name(&client).await.is_err());
        let (_, _shutdown, _server) = serve(&pki, &address.to_string()).await;
        assert_eq!(name(&client).await.unwrap(), "system:node:n1");
    }

    #[tokio::test]
    async fn a_server_of_another_authority_is_not_spoken_to() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(&dir.path().join("a"), "monopod-ca", Timestamp::now()).unwrap());
        let other = Pki::open(&dir.path().join("b"), "monopod-ca", Timestamp::now()).unwrap();
        let (address, _shutdown, _server) = serve(&pki, "127.0.0.1:0").await;
        let config = HttpsConfig {
            server: address.to_string(),
            authority_pem: other.certificate_pem().to_owned(),
            credential: Credential::Token("secret".into()),
        };
        let client = Client::new(Arc::new(Https::new(&config).unwrap()));
        assert!(name(&client).await.is_err());
    }
}
