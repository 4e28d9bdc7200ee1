//! Objects of one repository at one endpoint, with whatever authorisation it takes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::Endpoint;
use super::auth::{self, AuthError};
use super::http::{Ask, Client, TransportError, Url, status_words};
use crate::image::digest::Digest;
use crate::image::manifest::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_SIZE_MAX, OCI_INDEX, OCI_MANIFEST};
use crate::interface::Credentials;

const REDIRECTS_MAX: u32 = 10;
/// How often a request is sent again when the registry is overloaded or the line is cut.
const RETRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Why an object was not had.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The registry has no such object.
    NotFound,
    /// The registry wants other credentials, or has no such repository.
    Denied(String),
    /// The line or the host.
    Transport(TransportError),
    /// Another answer than expected; the text names request and status.
    Status { text: String, again: bool },
}

impl Failure {
    /// Whether the same request may succeed later.
    pub(super) fn again(&self) -> bool {
        match self {
            Failure::NotFound | Failure::Denied(_) => false,
            // Nobody listens: whoever asked decides when to try again.
            Failure::Transport(error) => !error.unreachable,
            Failure::Status { again, .. } => *again,
        }
    }

    pub(super) fn unreachable(&self) -> bool {
        matches!(self, Failure::Transport(error) if error.unreachable)
    }

    /// The text, with the name that was asked for where containerd has it.
    pub(super) fn text(&self, name: &str) -> String {
        match self {
            Failure::NotFound => format!("{name}: not found"),
            Failure::Denied(server) => format!(
                "pull access denied, repository does not exist or may require authorization: server message: {server}"
            ),
            Failure::Transport(error) => error.message.clone(),
            Failure::Status { text, .. } => text.clone(),
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Failure::Transport(error)
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        Failure::Denied(format!("authorization failed: {}", error.0))
    }
}

/// What a name means at a registry.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    /// `None` when the registry does not say; then the manifest itself tells.
    pub(super) digest: Option<Digest>,
}

/// A conversation about one repository.
pub(super) struct Session<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    repository: &'a str,
    /// The registry's name as in references; a mirror is told whom it stands for.
    domain: &'a str,
    credentials: Option<&'a Credentials>,
    authorization: Mutex<Option<String>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        client: &'a Client,
        endpoint: &'a Endpoint,
        domain: &'a str,
        repository: &'a str,
        credentials: Option<&'a Credentials>,
    ) -> Self {
        Session { client, endpoint, repository, domain, credentials, authorization: Mutex::default() }
    }

    /// What a tag or digest means, without fetching it: a HEAD is not counted by registries that
    /// count pulls.
    pub(super) async fn resolve(&self, object: &str) -> Result<Resolved, Failure> {
        let ask = Ask { accept: Some(accept()), ..Ask::new(Method::HEAD) };
        let answer = self.patient(&self.url("manifests", object), &ask).await?;
        let said = answer.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        Ok(Resolved { digest: said.and_then(|text| Digest::parse(text).ok()) })
    }

    /// A manifest or an index with the media type that the registry gives it.
    pub(super) async fn manifest(&self, object: &str) -> Result<(Bytes, String), Failure> {
        let url = self.url("manifests", object);
        let ask = Ask { accept: Some(accept()), ..Ask::new(Method::GET) };
        let answer = self.patient(&url, &ask).await?;
        let media_type = text_of(answer.headers(), header::CONTENT_TYPE);
        let limit = usize::try_from(DOCUMENT_SIZE_MAX).unwrap_or(usize::MAX);
        let body = Limited::new(answer.into_body(), limit).collect().await;
        let body =
            body.map_err(|e| Failure::Status { text: format!("failed to read {url}: {e}"), again: true })?;
        Ok((body.to_bytes(), media_type))
    }

    /// The content of a blob from byte `from` on; the answer may begin at 0 all the same.
    pub(super) async fn blob(&self, digest: &Digest, from: u64) -> Result<Response<Incoming>, Failure> {
        let ask = Ask { from, ..Ask::new(Method::GET) };
        self.patient(&self.url("blobs", digest.as_str()), &ask).await
    }

    fn url(&self, kind: &str, object: &str) -> Url {
        let Endpoint { origin, prefix, .. } = self.endpoint;
        let mut path = format!("{prefix}/v2/{}/{kind}/{object}", self.repository);
        if self.endpoint.host != self.domain {
            path += &format!("?ns={}", self.domain);
        }
        Url { origin: origin.clone(), path }
    }

    async fn patient(&self, url: &Url, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        let mut pause = RETRY_PAUSE;
        for _ in 0..RETRIES {
            match self.authorized(url, ask).await {
                Err(failure) if failure.again() => {
                    tracing::debug!(%url, failure = %failure.text(""), "asking a registry again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.authorized(url, ask).await
    }

    /// Sends with what is known, and once more when the registry asks for authorisation.
    async fn authorized(&self, url: &Url, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = self.follow(url, &Ask { authorization: known, ..ask.clone() }).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.judge(url, ask, answer);
        }
        let Some(authorization) = self.authorize(answer.headers()).await? else {
            return self.judge(url, ask, answer);
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization.clone());
        let answer = self.follow(url, &Ask { authorization: Some(authorization), ..ask.clone() }).await?;
        self.judge(url, ask, answer)
    }

    async fn authorize(&self, headers: &HeaderMap) -> Result<Option<String>, Failure> {
        let scope = format!("repository:{}:pull", self.repository);
        for challenge in auth::challenges(headers) {
            let scheme = self.endpoint.origin.scheme;
            let answer = auth::answer(self.client, &challenge, &scope, self.credentials, scheme).await?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    /// Follows redirects. Another host does not get our authorisation.
    async fn follow(&self, url: &Url, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        let (mut url, mut ask) = (url.clone(), ask.clone());
        for _ in 0..REDIRECTS_MAX {
            let answer = self.client.send(&url, &ask).await?;
            let status = answer.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            let location = text_of(answer.headers(), header::LOCATION);
            let next = url.join(&location).ok_or_else(|| Failure::Status {
                text: format!("{url} redirects to {location:?}, which is no address of a registry"),
                again: false,
            })?;
            if next.origin != url.origin {
                ask.authorization = None;
            }
            url = next;
        }
        Err(Failure::Status {
            text: format!("stopped after {REDIRECTS_MAX} redirects from {url}"),
            again: false,
        })
    }

    fn judge(&self, url: &Url, ask: &Ask, answer: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let method = &ask.method;
        let text = format!("unexpected status from {method} request to {url}: {}", status_words(status));
        Err(match status {
            StatusCode::NOT_FOUND => Failure::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Denied("insufficient_scope: authorization failed".into())
            }
            _ => {
                let busy = status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::TOO_MANY_REQUESTS;
                Failure::Status { text, again: busy || status.is_server_error() }
            }
        })
    }
}

fn accept() -> String {
    [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"].join(", ")
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}
