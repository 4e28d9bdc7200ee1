//! What each built-in signer signs, for how long, and which requests are recognised as a kubelet's.

use std::collections::BTreeSet;

use api::certificates::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, SigningRequest};
use jiff::{SignedDuration, Timestamp};

/// `--cluster-signing-duration`: more is not granted.
const LIFETIME_MAX: SignedDuration = SignedDuration::from_hours(24 * 365);
/// What was stored before the API had a minimum.
const LIFETIME_MIN: SignedDuration = SignedDuration::from_mins(10);
/// Clocks of those who check a certificate may be behind by this much.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Shorter lives are granted in full, not counted from before they began.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

const DIGITAL_SIGNATURE: &str = "digital signature";
const KEY_ENCIPHERMENT: &str = "key encipherment";
const CLIENT_AUTH: &str = "client auth";
const SERVER_AUTH: &str = "server auth";

/// Whether a signer signs such a request, and why not.
type Rule = fn(&SigningRequest, &[&str]) -> Result<(), String>;

/// The rule of a built-in signer; the others sign for themselves.
pub(super) fn of_signer(name: &str) -> Option<Rule> {
    match name {
        API_CLIENT => Some(|_, usages| api_client(usages)),
        KUBELET_CLIENT => Some(kubelet_client),
        KUBELET_SERVING => Some(kubelet_serving),
        LEGACY_UNKNOWN => Some(|_, _| Ok(())),
        _ => None,
    }
}

fn api_client(usages: &[&str]) -> Result<(), String> {
    let known = [DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, CLIENT_AUTH];
    if let Some(usage) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    if usages.contains(&CLIENT_AUTH) {
        Ok(())
    } else {
        Err(format!("missing required usage for client certificate: {CLIENT_AUTH}"))
    }
}

fn kubelet_client(request: &SigningRequest, usages: &[&str]) -> Result<(), String> {
    let alternatives = [
        (request.dns_names.is_empty(), "DNS subjectAltNames are not allowed"),
        (request.email_addresses.is_empty(), "Email subjectAltNames are not allowed"),
        (request.ip_addresses.is_empty(), "IP subjectAltNames are not allowed"),
        (request.uris.is_empty(), "URI subjectAltNames are not allowed"),
    ];
    of_nodes(request)?;
    first_wrong(&alternatives)?;
    named_as_node(request)?;
    these_usages(usages, CLIENT_AUTH)
}

fn kubelet_serving(request: &SigningRequest, usages: &[&str]) -> Result<(), String> {
    let is_named = !request.dns_names.is_empty() || !request.ip_addresses.is_empty();
    let alternatives = [
        (is_named, "DNS or IP subjectAltName is required"),
        (request.email_addresses.is_empty(), "Email subjectAltNames are not allowed"),
        (request.uris.is_empty(), "URI subjectAltNames are not allowed"),
    ];
    of_nodes(request)?;
    first_wrong(&alternatives)?;
    these_usages(usages, SERVER_AUTH)?;
    named_as_node(request)
}

fn of_nodes(request: &SigningRequest) -> Result<(), String> {
    first_wrong(&[(request.organizations == ["system:nodes"], "subject organization is not system:nodes")])
}

fn named_as_node(request: &SigningRequest) -> Result<(), String> {
    let is_node = request.common_name.starts_with("system:node:");
    first_wrong(&[(is_node, "subject common name does not begin with system:node:")])
}

fn first_wrong(checks: &[(bool, &str)]) -> Result<(), String> {
    checks.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

/// Exactly these, of which key encipherment is RSA's alone.
fn these_usages(usages: &[&str], purpose: &str) -> Result<(), String> {
    let mut given = BTreeSet::from_iter(usages.iter().copied());
    given.remove(KEY_ENCIPHERMENT);
    if given == BTreeSet::from([DIGITAL_SIGNATURE, purpose]) {
        return Ok(());
    }
    let wanted = BTreeSet::from([DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, purpose]);
    let wanted: Vec<&str> = wanted.into_iter().collect();
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

/// When a certificate begins and ends.
pub(super) fn validity(expiration_seconds: Option<i32>, now: Timestamp) -> (Timestamp, Timestamp) {
    let asked = expiration_seconds.map_or(LIFETIME_MAX, |seconds| SignedDuration::from_secs(seconds.into()));
    let lifetime = asked.clamp(LIFETIME_MIN, LIFETIME_MAX);
    let from = if lifetime < SHORT { now } else { earlier(now, BACKDATE) };
    (earlier(now, BACKDATE), from.checked_add(lifetime).unwrap_or(Timestamp::MAX))
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// A kind of request that is approved if its author may create this subresource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recognized {
    pub(super) subresource: &'static str,
    pub(super) message: &'static str,
}

const SELF_NODE_CLIENT: Recognized = Recognized {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE_CLIENT: Recognized = Recognized {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// As what a request may be approved, in the order in which it is tried: a kubelet renews its own certificate, or
/// somebody asks for a kubelet that has none.
pub(super) fn recognize(
    signer: &str,
    username: Option<&str>,
    request: &SigningRequest,
    usages: &[&str],
) -> Vec<Recognized> {
    if signer != KUBELET_CLIENT || kubelet_client(request, usages).is_err() {
        return Vec::new();
    }
    let is_own = username == Some(request.common_name.as_str());
    is_own.then_some(SELF_NODE_CLIENT).into_iter().chain([NODE_CLIENT]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> SigningRequest {
        SigningRequest {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            ..SigningRequest::default()
        }
    }

    fn why(signer: &str, request: &SigningRequest, usages: &[&str]) -> String {
        of_signer(signer).unwrap()(request, usages).err().unwrap_or_default()
    }

    #[test]
    fn a_client_is_a_client_and_nothing_else() {
        let is = |usages: &[&str]| why(API_CLIENT, &SigningRequest::default(), usages);
        assert_eq!(is(&[CLIENT_AUTH, KEY_ENCIPHERMENT, DIGITAL_SIGNATURE]), "");
        assert_eq!(is(&[DIGITAL_SIGNATURE]), "missing required usage for client certificate: client auth");
        assert_eq!(is(&[CLIENT_AUTH, "any"]), "invalid usage for client certificate: any");
    }

    #[test]
    fn a_kubelet_as_a_client_has_a_name_and_no_addresses() {
        let usages = [CLIENT_AUTH, DIGITAL_SIGNATURE];
        assert_eq!(why(KUBELET_CLIENT, &node(), &usages), "");
        assert_eq!(why(KUBELET_CLIENT, &node(), &[CLIENT_AUTH, DIGITAL_SIGNATURE, KEY_ENCIPHERMENT]), "");
        let missing = "usages did not match [client auth digital signature key encipherment]";
        assert_eq!(why(KUBELET_CLIENT, &node(), &[CLIENT_AUTH]), missing);
        let dns = SigningRequest { dns_names: vec!["a".into()], ..node() };
        assert_eq!(why(KUBELET_CLIENT, &dns, &usages), "DNS subjectAltNames are not allowed");
        let ip = SigningRequest { ip_addresses: vec!["192.0.2.1".parse().unwrap()], ..node() };
        assert_eq!(why(KUBELET_CLIENT, &ip, &usages), "IP subjectAltNames are not allowed");
        let user = SigningRequest { common_name: "ann".into(), ..node() };
        let unnamed = "subject common name does not begin with system:node:";
        assert_eq!(why(KUBELET_CLIENT, &user, &usages), unnamed);
        let master =
            SigningRequest { organizations: vec!["system:nodes".into(), "system:masters".into()], ..node() };
        assert_eq!(why(KUBELET_CLIENT, &master, &usages), "subject organization is not system:nodes");
    }

    #[test]
    fn a_kubelet_that_serves_says_where() {
        let usages = [SERVER_AUTH, DIGITAL_SIGNATURE];
        assert_eq!(why(KUBELET_SERVING, &node(), &usages), "DNS or IP subjectAltName is required");
        let named = SigningRequest { dns_names: vec!["a".into()], ..node() };
        assert_eq!(why(KUBELET_SERVING, &named, &usages), "");
        let mail = SigningRequest { email_addresses: vec!["a@b".into()], ..named.clone() };
        assert_eq!(why(KUBELET_SERVING, &mail, &usages), "Email subjectAltNames are not allowed");
        let missing = "usages did not match [digital signature key encipherment server auth]";
        assert_eq!(why(KUBELET_SERVING, &named, &[CLIENT_AUTH]), missing);
        assert_eq!(why(LEGACY_UNKNOWN, &SigningRequest::default(), &["any"]), "");
        assert!(of_signer("example.com/own").is_none());
    }

    #[test]
    fn a_life_is_as_long_as_asked_between_ten_minutes_and_a_year() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ends = |seconds| validity(seconds, now).1.to_string();
        assert_eq!(validity(None, now).0.to_string(), "2025-12-31T23:55:00Z");
        assert_eq!(ends(None), "2026-12-31T23:55:00Z");
        assert_eq!(ends(Some(i32::MAX)), "2026-12-31T23:55:00Z");
        assert_eq!(ends(Some(3600)), "2026-01-01T01:00:00Z", "a short one is not antedated");
        assert_eq!(ends(Some(8 * 3600)), "2026-01-01T07:55:00Z");
        assert_eq!(ends(Some(1)), "2026-01-01T00:10:00Z");
    }

    #[test]
    fn a_kubelet_is_recognized_by_what_it_asks_and_by_who_it_is() {
        let usages = [CLIENT_AUTH, DIGITAL_SIGNATURE];
        let ask = |signer, user, request: &SigningRequest| recognize(signer, user, request, &usages);
        assert_eq!(ask(KUBELET_CLIENT, Some("system:node:a"), &node()), [SELF_NODE_CLIENT, NODE_CLIENT]);
        assert_eq!(ask(KUBELET_CLIENT, Some("system:bootstrap:x"), &node()), [NODE_CLIENT]);
        assert_eq!(ask(API_CLIENT, Some("system:node:a"), &node()), []);
        let user = SigningRequest { common_name: "ann".into(), ..node() };
        assert_eq!(ask(KUBELET_CLIENT, Some("ann"), &user), []);
    }
}
