//! Tokens of the Pod's service account, fetched before they are needed and again before they expire.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};

use crate::pod::clock::{Now, Steady};
use crate::pod::spec::spec;
use crate::shared::Shared;

/// A token is renewed at the latest after this time.
const RENEWED_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Pause before a renewal that has failed is tried again.
const RENEWAL_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Lifetime when the projection names none.
const LIFETIME_SECONDS: i64 = 3600;

/// Tokens by audience and lifetime.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: BTreeMap<(String, i64), Token>,
    /// A renewal was begun: not again before.
    not_before: Option<Steady>,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

impl Tokens {
    /// A token that need not be renewed yet.
    pub(super) fn fresh(&self, source: &ServiceAccountTokenProjection, now: Timestamp) -> Option<String> {
        self.known.get(&key(source)).filter(|token| token.renew_at > now).map(|token| token.text.clone())
    }

    /// How long it is until the first of them is due; their life is a fact of the wall clock.
    pub(super) fn due_after(&self, now: Now) -> Option<Duration> {
        let first = self.known.values().map(|token| now.until(token.renew_at)).min()?;
        Some(self.not_before.map_or(first, |at| first.max(now.steady.until(at))))
    }

    /// A renewal begins; should it fail, there is a pause.
    pub(super) fn begin_renewal(&mut self, now: Now) {
        self.not_before = Some(now.after(RENEWAL_PAUSE));
    }

    pub(super) fn keep(&mut self, source: &ServiceAccountTokenProjection, text: String, renew_at: Timestamp) {
        self.known.insert(key(source), Token { text, renew_at });
    }
}

fn key(source: &ServiceAccountTokenProjection) -> (String, i64) {
    let lifetime = source.expiration_seconds.unwrap_or(LIFETIME_SECONDS);
    (source.audience.clone().unwrap_or_default(), lifetime)
}

/// Asks the API for a token that is bound to the Pod; says when it is to be renewed.
pub(super) async fn fetch(
    node: &Shared,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
) -> Result<(String, Timestamp), String> {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let account = spec(pod).service_account_name.as_deref().unwrap_or("default");
    let (audience, lifetime) = key(source);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(Some(audience).filter(|audience| !audience.is_empty()).into_iter().collect()),
            expiration_seconds: Some(lifetime),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let failed = |err: &dyn std::fmt::Display| format!("failed to fetch token: {err}");
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let body = serde_json::to_vec(&request).map_err(|err| failed(&err))?;
    let asked = Timestamp::now();
    let answer = node.client.raw(http::Method::POST, &path, "application/json", Bytes::from(body)).await;
    let answer: TokenRequest =
        serde_json::from_slice(&answer.map_err(|err| failed(&err))?).map_err(|err| failed(&err))?;
    let status = answer.status.unwrap_or_default();
    let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err(failed(&"the answer has no token"));
    };
    Ok((token, renewal(asked, expires.0)))
}

/// After 80 % of its life, or a day.
fn renewal(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(issued);
    let wait = (life * 4 / 5).min(RENEWED_AFTER).max(SignedDuration::from_secs(1));
    issued.saturating_add(wait).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_of_their_life_or_after_a_day() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(1_000_000)), at(86_400));
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_after_a_pause_and_not_in_a_circle() {
        let now = |second| Now {
            time: Timestamp::from_second(second).unwrap(),
            steady: Steady::new(SignedDuration::from_secs(second)),
        };
        let mut tokens = Tokens::default();
        assert_eq!(tokens.due_after(now(0)), None);
        tokens.keep(
            &ServiceAccountTokenProjection::default(),
            "t".into(),
            Timestamp::from_second(100).unwrap(),
        );
        assert_eq!(tokens.due_after(now(40)), Some(Duration::from_secs(60)));
        assert_eq!(tokens.due_after(now(100)), Some(Duration::ZERO));
        tokens.begin_renewal(now(100));
        assert_eq!(tokens.due_after(now(101)), Some(Duration::from_secs(9)), "the fetch has failed");
        tokens.keep(
            &ServiceAccountTokenProjection::default(),
            "u".into(),
            Timestamp::from_second(200).unwrap(),
        );
        assert_eq!(tokens.due_after(now(101)), Some(Duration::from_secs(99)));
    }
}
