//! For whom a node may have a Pod's token: those that the Pod's own volumes name, and those it was
//! permitted by RBAC (upstream's ServiceAccountNodeAudienceRestriction).

use api::field::go_quote;
use api::meta::Object as _;
use serde_json::Value;

use super::{Asked, Known, Verdict, need};

pub(super) fn check(pod: &Value, asked: &Asked<'_>, known: &Known<'_>) -> Verdict {
    let audiences = asked.object["spec"]["audiences"].as_array().map_or(&[][..], Vec::as_slice);
    need(audiences.len() <= 1, || "node may only request 0 or 1 audiences".to_owned())?;
    // Without one the token is for the API server itself, which every Pod may talk to.
    let audience = audiences.first().and_then(Value::as_str).unwrap_or_default();
    let allowed = audience.is_empty() || names(pod, audience, known) || (known.authorized)(audience);
    need(allowed, || {
        let (audience, user) = (go_quote(audience), &asked.user.name);
        format!(
            "audience {audience} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
        )
    })
}

/// Whether a volume of the Pod needs a token for this audience.
fn names(pod: &Value, audience: &str, known: &Known<'_>) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.into_iter().any(|volume| {
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        let projected = sources.into_iter().map(|source| &source["serviceAccountToken"]);
        let mut projected = projected.filter(|token| token.is_object());
        projected.any(|token| token["audience"].as_str().unwrap_or_default() == audience)
            || driver(pod, volume, known).is_some_and(|driver| wants(&driver, audience, known))
    })
}

/// The CSI driver that mounts a volume: its own, or that of the bound claim's volume.
fn driver(pod: &Value, volume: &Value, known: &Known<'_>) -> Option<String> {
    if let Some(driver) = volume["csi"]["driver"].as_str() {
        return Some(driver.to_owned());
    }
    let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
        Some(name) => name.to_owned(),
        None if volume["ephemeral"].is_object() => {
            format!("{}-{}", pod.meta().name(), volume["name"].as_str()?)
        }
        None => return None,
    };
    let claim = known.find(("", "persistentvolumeclaims"), pod.meta().namespace(), &claim)?;
    let volume = known.find(("", "persistentvolumes"), "", claim["spec"]["volumeName"].as_str()?)?;
    volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
}

fn wants(driver: &str, audience: &str, known: &Known<'_>) -> bool {
    let Some(driver) = known.find(("storage.k8s.io", "csidrivers"), "", driver) else { return false };
    let requests = driver["spec"]["tokenRequests"].as_array().into_iter().flatten();
    requests.into_iter().any(|request| request["audience"].as_str().unwrap_or_default() == audience)
}
