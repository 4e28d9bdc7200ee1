//! Challenges of registries and the answers to them: Basic, and the token flow of Docker.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

use super::http::{Ask, Client, Scheme, Url, status_words};
use crate::interface::Credentials;

/// A token answer beyond this is none.
const TOKEN_ANSWER_MAX: usize = 1 << 20;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Access could not be had. The text is containerd's.
#[derive(Clone, Debug)]
pub(super) struct AuthError(pub(super) String);

/// The challenges of an answer, in its order.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let texts = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
    texts.filter_map(parse).collect()
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let parameters = parameters(rest);
            let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

/// `name="value"` pairs with commas between, commas inside quotes included.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found
            .push((name.trim().trim_start_matches(',').trim().to_ascii_lowercase(), value.trim().to_owned()));
        rest = tail;
    }
    found
}

/// The `Authorization` header that answers a challenge; `None` when there is nothing to answer with.
pub(super) async fn answer(
    client: &Client,
    challenge: &Challenge,
    scope: &str,
    credentials: Option<&Credentials>,
    registry: Scheme,
) -> Result<Option<String>, AuthError> {
    match challenge {
        Challenge::Basic => Ok(credentials.and_then(basic)),
        Challenge::Bearer { realm, service, scope: asked } => {
            let url = Url::parse(realm).ok_or_else(|| AuthError(format!("invalid token realm {realm:?}")))?;
            if url.origin.scheme == Scheme::Http && registry == Scheme::Https && credentials.is_some() {
                // The registry is secured and sends us to a token server that is not.
                return Err(AuthError(format!(
                    "token realm {realm:?} is not secured, credentials are not sent"
                )));
            }
            let scope = asked.as_deref().unwrap_or(scope);
            let token = token(client, url, service.as_deref(), scope, credentials).await?;
            Ok(Some(format!("Bearer {token}")))
        }
    }
}

fn basic(credentials: &Credentials) -> Option<String> {
    if credentials.username.is_empty() {
        return None;
    }
    let pair = format!("{}:{}", credentials.username, credentials.password);
    Some(format!("Basic {}", BASE64.encode(pair)))
}

async fn token(
    client: &Client,
    mut url: Url,
    service: Option<&str>,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Result<String, AuthError> {
    let mut query = format!("scope={}", escape(scope));
    if let Some(service) = service {
        query += &format!("&service={}", escape(service));
    }
    let refresh = credentials.map(|c| c.identity_token.as_str()).filter(|token| !token.is_empty());
    let ask = match refresh {
        Some(refresh) => {
            let form = format!(
                "grant_type=refresh_token&client_id=monopod&refresh_token={}&{query}",
                escape(refresh)
            );
            Ask { form: Some(form), ..Ask::new(Method::POST) }
        }
        None => {
            let separator = if url.path.contains('?') { '&' } else { '?' };
            url.path += &format!("{separator}{query}");
            Ask { authorization: credentials.and_then(basic), ..Ask::new(Method::GET) }
        }
    };
    let kind = if refresh.is_some() || credentials.is_some() { "oauth" } else { "anonymous" };
    request_token(client, &url, &ask)
        .await
        .map_err(|cause| AuthError(format!("failed to fetch {kind} token: {cause}")))
}

async fn request_token(client: &Client, url: &Url, ask: &Ask) -> Result<String, String> {
    let answer = client.send(url, ask).await.map_err(|e| e.message)?;
    let status = answer.status();
    if status != StatusCode::OK {
        let method = &ask.method;
        return Err(format!("unexpected status from {method} request to {url}: {}", status_words(status)));
    }
    let body =
        Limited::new(answer.into_body(), TOKEN_ANSWER_MAX).collect().await.map_err(|e| e.to_string())?;
    token_of(&body.to_bytes())
}

/// The token in a token server's answer, which calls it by one of two names.
pub(super) fn token_of(body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|e| format!("unable to decode token response: {e}"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        Err("authorization server did not include a token in the response".into())
    } else {
        Ok(token)
    }
}

/// Percent-encoding of a query value.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_in_quotes() {
        let text = r#"Bearer realm="https://auth.example/token",service="registry, main",scope="repository:a:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("registry, main".into()),
            scope: Some("repository:a:pull,push".into()),
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Basic realm=x"), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
        assert_eq!(parse("Bearer service=x"), None);
        assert_eq!(parse("Negotiate"), None);
    }

    #[test]
    fn scopes_are_escaped() {
        assert_eq!(escape("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
