//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept as Secrets of kube-system, with which
//! a node that joins asks for its certificate.

use api::kinds::find;
use api::meta::Object as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::User;
use crate::lookup::Lookup;

const GROUP: &str = "system:bootstrappers";

/// The id and secret of a token of this form.
pub(super) fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a token that is known, meant for authentication and not expired.
pub(super) fn user(lookup: &Lookup, id: &str, secret: &str, now: Timestamp) -> Option<User> {
    let resource = find("", "v1", "secrets")?;
    let stored = lookup.get(resource, "kube-system", &format!("bootstrap-token-{id}"))?;
    let stored: Value = serde_json::from_slice(&stored).ok()?;
    let field = |name: &str| {
        let text = stored["data"][name].as_str()?;
        String::from_utf8(STANDARD.decode(text).ok()?).ok()
    };
    let alive = stored["type"] == "bootstrap.kubernetes.io/token"
        && !stored.meta().is_going()
        && field("token-id").as_deref() == Some(id)
        && field("usage-bootstrap-authentication").as_deref() == Some("true")
        && same(&field("token-secret")?, secret);
    let expired = field("expiration").is_some_and(|t| t.parse::<Timestamp>().is_ok_and(|t| t <= now));
    if !alive || expired {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    let more = field("auth-extra-groups").unwrap_or_default();
    groups.extend(more.split(',').filter(|g| g.starts_with("system:bootstrappers:")).map(str::to_owned));
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// Compares without telling by its time how much is right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}
