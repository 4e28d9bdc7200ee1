//! What a registry may say, and the URLs it and the administrator may give.

use http::header::LOCATION;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::io::AsyncWriteExt;

use super::http::{Ask, Scheme, Url, exchange, request};
use super::{Endpoint, auth, is_loopback};
use crate::image::digest::Digest;
use crate::image::manifest::Document;

/// An answer is read up to here.
const BODY_MAX: usize = 1 << 20;

/// Reads a URL of a mirror, of a token server or of a redirect; what is taken is written as it was meant.
pub(crate) fn url(text: &str) {
    let _ = is_loopback(text);
    if let Some(endpoint) = Endpoint::parse(text) {
        let _ = (endpoint.origin.target(), is_loopback(&endpoint.host));
    }
    let Some(url) = Url::parse(text) else { return };
    assert_eq!(Url::parse(&url.to_string()).as_ref(), Some(&url), "what was written can be read");
    assert!(request(&url, &Ask::new(Method::HEAD)).is_ok(), "what was read can be asked for");
}

/// Reads all that a registry sends after it was asked.
pub(crate) async fn answer(bytes: &[u8]) {
    let asked = Url::parse("https://registry.example:5000/v2/lib/app/manifests/1").expect("a URL");
    let request = request(&asked, &Ask::new(Method::GET)).expect("a request");
    let (ours, mut theirs) = tokio::io::duplex(bytes.len().max(1) + 4096);
    // The pipe holds all of it: nobody needs to read what is asked.
    theirs.write_all(bytes).await.expect("the pipe is open");
    theirs.shutdown().await.expect("the pipe is open");
    let Ok(answer) = exchange(ours, request).await else { return };
    let headers = answer.headers().clone();
    for challenge in auth::challenges(&headers) {
        if let auth::Challenge::Bearer { realm, .. } = challenge {
            url(&realm);
        }
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Some(next) = asked.join(text(LOCATION.as_str())) {
        assert!(matches!(next.origin.scheme, Scheme::Http | Scheme::Https));
        url(&next.to_string());
    }
    let _ = Digest::parse(text("docker-content-digest"));
    let ok = answer.status() == StatusCode::OK;
    let Ok(body) = Limited::new(answer.into_body(), BODY_MAX).collect().await else { return };
    let body = body.to_bytes();
    if ok {
        let _ = (auth::token_of(&body), Document::parse(&body, text("content-type")));
    }
}
