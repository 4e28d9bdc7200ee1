//! When a request is no longer of use to anybody: upstream's CSR cleaner.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::{certificate, conditions};

/// After it was approved and issued, denied or given up.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);
/// After it was made, and nobody said anything.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When the request goes, as far as is known now. Nothing is due of one that is approved and waits for its signer.
pub(super) fn due(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |time: Timestamp, wait| time.checked_add(wait).ok();
    let conditions = conditions(request);
    if conditions.is_empty() {
        return after(request.metadata.creation_timestamp.as_ref()?.0, PENDING);
    }
    let issued = certificate(request);
    let mut due = None;
    for condition in conditions {
        let counts = match condition.type_.as_str() {
            "Approved" => issued.is_some(),
            "Denied" | "Failed" => true,
            _ => false,
        };
        let since = condition.last_update_time.as_ref().filter(|_| counts);
        due = earlier(due, since.and_then(|time| after(time.0, SETTLED)));
        if counts && condition.type_ == "Approved" {
            due = earlier(due, issued.and_then(api::certificates::not_after));
        }
    }
    due
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn due_of(status: Value) -> Option<String> {
        let request = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status,
            "spec": {"request": "Zg==", "signerName": "x.io/y"}});
        let request: CertificateSigningRequest = serde_json::from_value(request).unwrap();
        due(&request).map(|time| time.to_string())
    }

    fn since(kind: &str, time: &str) -> Value {
        json!({"type": kind, "status": "True", "lastUpdateTime": time})
    }

    #[test]
    fn a_request_goes_an_hour_after_it_was_settled_and_a_day_after_nobody_settled_it() {
        assert_eq!(due_of(json!({})).as_deref(), Some("2026-01-02T00:00:00Z"));
        let denied = since("Denied", "2026-01-01T02:00:00Z");
        assert_eq!(due_of(json!({"conditions": [denied]})).as_deref(), Some("2026-01-01T03:00:00Z"));
        let approved = since("Approved", "2026-01-01T02:00:00Z");
        assert_eq!(due_of(json!({"conditions": [approved.clone()]})), None, "its signer may take its time");
        let issued = json!({"conditions": [approved.clone()], "certificate": "Zg=="});
        assert_eq!(due_of(issued).as_deref(), Some("2026-01-01T03:00:00Z"));
        let failed = since("Failed", "2026-01-01T04:00:00Z");
        assert_eq!(
            due_of(json!({"conditions": [approved, failed]})).as_deref(),
            Some("2026-01-01T05:00:00Z")
        );
    }
}
