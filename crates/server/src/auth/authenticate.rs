//! From a request's credentials to a [`User`].

use api::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use wire::Identity;

use super::user::AUTHENTICATED;
use super::{Auth, User, bootstrap_token};

/// Browsers cannot set headers on a WebSocket: they offer the token as a subprotocol.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Asks to be taken for another.
const IMPERSONATE_USER: &str = "impersonate-user";

/// Who a request comes from that speaks for another, in the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Impersonator(pub(crate) User);

impl Auth {
    /// The user of the request, impersonation included. The credentials are taken out of
    /// the headers, so that nobody who is handed the request later can use them.
    pub fn authenticate(&self, parts: &mut Parts, now: Timestamp) -> Result<User, Status> {
        let user = match parts.extensions.get::<Identity>() {
            // As upstream: a token is tried only when no certificate says who it is.
            Some(identity) => {
                parts.headers.remove(AUTHORIZATION);
                User::from_identity(identity)
            }
            None => self.by_headers(&mut parts.headers, now)?,
        };
        if parts.headers.contains_key(IMPERSONATE_USER) {
            // Who it really is must be known to those who write down what was done.
            parts.extensions.insert(Impersonator(user.clone()));
        }
        self.impersonate(user, &mut parts.headers)
    }

    fn by_headers(&self, headers: &mut HeaderMap, now: Timestamp) -> Result<User, Status> {
        if let Some(token) = bearer(headers) {
            return self.by_token(&token, now);
        }
        match self.settings.anonymous {
            true => Ok(User::anonymous()),
            false => Err(Status::unauthorized()),
        }
    }

    fn by_token(&self, token: &str, now: Timestamp) -> Result<User, Status> {
        let found = match bootstrap_token::split(token) {
            Some((id, secret)) => bootstrap_token::user(&self.lookup, id, secret, now),
            None => {
                let audiences = std::slice::from_ref(&self.settings.issuer);
                let user = self.token_user(token, audiences, now);
                user.inspect_err(|error| tracing::debug!(%error, "a bearer token is refused"))
                    .ok()
                    .map(|(user, _)| user)
            }
        };
        let mut user = found.ok_or_else(Status::unauthorized)?;
        user.groups.push(AUTHENTICATED.to_owned());
        Ok(user)
    }
}

/// The token of `Authorization: Bearer …`, or of a WebSocket's subprotocols.
fn bearer(headers: &mut HeaderMap) -> Option<String> {
    if let Some(value) = headers.remove(AUTHORIZATION) {
        let text = value.to_str().ok()?.trim();
        let (scheme, token) = text.split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.to_owned();
    let encoded = offered.split(',').find_map(|p| p.trim().strip_prefix(WEBSOCKET_BEARER))?;
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    let rest: Vec<&str> =
        offered.split(',').map(str::trim).filter(|p| !p.starts_with(WEBSOCKET_BEARER)).collect();
    match HeaderValue::from_str(&rest.join(",")) {
        Ok(rest) if !rest.is_empty() => headers.insert(SEC_WEBSOCKET_PROTOCOL, rest),
        _ => headers.remove(SEC_WEBSOCKET_PROTOCOL),
    };
    Some(token)
}
