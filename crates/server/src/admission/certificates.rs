//! CertificateSigningRequests: who approves or signs must be permitted to do so for that signer
//! (CertificateApproval, CertificateSigning), and nobody becomes a master by asking (CertificateSubjectRestriction).

use api::certificates::{API_CLIENT, SigningRequest};
use api::status::Status;
use serde_json::Value;

use super::Request;
use crate::auth::Attributes;

const GROUP: &str = "certificates.k8s.io";
const MASTERS: &str = "system:masters";

/// The step CertificateApproval.
pub(super) fn approval(request: &Request<'_>) -> Result<(), Status> {
    permitted(request, "approve")
}

/// The step CertificateSigning.
pub(super) fn signing(request: &Request<'_>) -> Result<(), Status> {
    let Some(old) = request.old else { return Ok(()) };
    let signed = |field: &str| request.object["status"][field] != old["status"][field];
    if signed("certificate") || signed("conditions") { permitted(request, "sign") } else { Ok(()) }
}

/// The step CertificateSubjectRestriction.
pub(super) fn subject_restriction(request: &Request<'_>) -> Result<(), Status> {
    if signer(&request.object) != API_CLIENT {
        return Ok(());
    }
    let pem = request.object["spec"]["request"].as_str().unwrap_or_default();
    let asked = SigningRequest::parse(pem).map_err(|why| request.forbidden(why))?;
    if asked.organizations.iter().any(|group| group == MASTERS) {
        return Err(
            request.forbidden(format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed"))
        );
    }
    Ok(())
}

fn signer(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or_default()
}

/// The verb must be allowed on the signer itself, or on all of its domain.
fn permitted(request: &Request<'_>, verb: &str) -> Result<(), Status> {
    let signer = signer(request.old.unwrap_or(&request.object));
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let call = request.call;
    let allowed = |name: &str| {
        let on = Attributes::resource(&call.user, verb, GROUP, "*", "signers");
        call.state.auth.decide(&Attributes { name, ..on }).is_allowed()
    };
    if allowed(signer) || allowed(&format!("{domain}/*")) {
        return Ok(());
    }
    let signer = api::field::go_quote(signer);
    Err(request.forbidden(format!("user not permitted to {verb} requests with signerName {signer}")))
}
