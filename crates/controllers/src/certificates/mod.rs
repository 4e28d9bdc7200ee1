//! CertificateSigningRequests: those of kubelets are approved, what is approved is signed, and what nobody
//! needs any more goes.
//!
//! The key of the authority never comes here: [`Sign`] is a function that signs with it.

mod age;
mod rules;
mod usages;

use std::sync::Arc;
use std::time::Duration;

use api::certificates::SigningRequest;
use client::{Client, DeleteOptions, Error, Informer};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::task::JoinSet;

use crate::context::{Context, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;
use rules::Recognized;

/// What the authority is to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The request (PKCS #10) in DER.
    pub request: Vec<u8>,
    /// The extension KeyUsage; its first bit, digitalSignature, is the lowest here.
    pub key_usage: u16,
    /// The extension ExtendedKeyUsage, as object identifiers.
    pub extended_key_usages: Vec<&'static [u64]>,
    /// When the certificate becomes valid.
    pub not_before: Timestamp,
    /// When it ends, at the latest.
    pub not_after: Timestamp,
}

type Signing = dyn Fn(&Order) -> Result<String, String> + Send + Sync;

/// Signs with the key of the authority, which stays where it is: the certificate as PEM, or why there is none.
#[derive(Clone)]
pub struct Sign(Arc<Signing>);

impl Sign {
    /// A function that has the key.
    pub fn new(sign: impl Fn(&Order) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(sign))
    }
}

impl std::fmt::Debug for Sign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sign").finish_non_exhaustive()
    }
}

struct Certificates {
    client: Client,
    sign: Sign,
    requests: Informer<CertificateSigningRequest>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = Arc::new(Certificates {
        client: context.client.clone(),
        sign: context.config.sign.clone(),
        requests: context.informers.of(),
    });
    let controller = Controller::new("certificates")
        .watches(&this.requests, |change| change.object().metadata.name.clone().into_iter().collect());
    controller.run(tasks, context.shutdown.clone(), move |name| {
        let this = this.clone();
        async move { this.sync(&name).await }
    });
}

/// What is to be done with a request, if anything is.
#[derive(Debug, PartialEq)]
enum Step {
    /// May be approved if its author may ask for one of these, each with the words of its approval.
    Review(Vec<Recognized>),
    /// The signer does not sign such requests.
    Fail(String),
    Sign(Box<Order>),
}

fn decide(request: &CertificateSigningRequest, now: Timestamp) -> Option<Step> {
    let spec = &request.spec;
    let is_signed = certificate(request).is_some();
    if is_signed || has(request, "Denied") || has(request, "Failed") {
        return None;
    }
    // What cannot be read never came by way of the API.
    let asked = SigningRequest::parse_pem(&spec.request.0).ok()?;
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    if !has(request, "Approved") {
        let recognized = rules::recognize(&spec.signer_name, spec.username.as_deref(), &asked, &usages);
        return (!recognized.is_empty()).then_some(Step::Review(recognized));
    }
    Some(match rules::of_signer(&spec.signer_name)?(&asked, &usages) {
        Err(why) => Step::Fail(why),
        Ok(()) => Step::Sign(Box::new(order(asked.der, &usages, spec.expiration_seconds, now))),
    })
}

fn order(request: Vec<u8>, usages: &[&str], expiration_seconds: Option<i32>, now: Timestamp) -> Order {
    let (key_usage, extended_key_usages) = usages::bits(usages);
    let (not_before, not_after) = rules::validity(expiration_seconds, now);
    Order { request, key_usage, extended_key_usages, not_before, not_after }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The certificate that was issued.
fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(&certificate.0)
}

impl Certificates {
    async fn sync(&self, name: &str) -> Result<Next, Error> {
        let Some(request) = self.requests.get("", name) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        let due = age::due(&request);
        if due.is_some_and(|due| due < now) {
            let options = DeleteOptions::of_uid(request.metadata.uid.as_deref().unwrap_or_default());
            unless_gone(self.client.delete::<CertificateSigningRequest>("", name, &options).await)?;
            return Ok(Next::Done);
        }
        match decide(&request, now) {
            Some(Step::Review(recognized)) => self.review(&request, &recognized).await?,
            Some(Step::Fail(why)) => self.fail(&request, why, now).await?,
            Some(Step::Sign(order)) => self.sign(&request, &order).await?,
            None => {}
        }
        Ok(due.map_or(Next::Done, |due| Next::After(until(due, now))))
    }

    /// Approves a request whose author may ask for such a certificate.
    async fn review(
        &self,
        request: &CertificateSigningRequest,
        recognized: &[Recognized],
    ) -> Result<(), Error> {
        for kind in recognized {
            if self.is_permitted(request, kind.subresource).await? {
                let approved = CertificateSigningRequestCondition {
                    type_: "Approved".into(),
                    status: "True".into(),
                    reason: Some("AutoApproved".into()),
                    message: Some(kind.message.into()),
                    ..Default::default()
                };
                let changed = with_condition(request, approved);
                return unless_gone(self.client.replace_subresource(&changed, "approval").await);
            }
        }
        let name = request.metadata.name.as_deref().unwrap_or_default();
        tracing::info!(
            name,
            "a kubelet's certificate request waits for approval: its author may not ask for it"
        );
        Ok(())
    }

    async fn is_permitted(
        &self,
        request: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<bool, Error> {
        let spec = &request.spec;
        let asked = ResourceAttributes {
            group: Some("certificates.k8s.io".into()),
            resource: Some("certificatesigningrequests".into()),
            verb: Some("create".into()),
            subresource: Some(subresource.into()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(asked),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.client.create("", &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn fail(
        &self,
        request: &CertificateSigningRequest,
        why: String,
        now: Timestamp,
    ) -> Result<(), Error> {
        let failed = CertificateSigningRequestCondition {
            type_: "Failed".into(),
            status: "True".into(),
            reason: Some("SignerValidationFailure".into()),
            message: Some(why),
            last_update_time: Some(Time(now)),
            ..Default::default()
        };
        unless_gone(self.client.replace_status(&with_condition(request, failed)).await)
    }

    async fn sign(&self, request: &CertificateSigningRequest, order: &Order) -> Result<(), Error> {
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let pem = match (self.sign.0)(order) {
            Ok(pem) => pem,
            // Upstream tries again for ever; nothing that happens here would make it a success.
            Err(why) => {
                tracing::error!(name, %why, "an approved certificate request is not signed");
                return Ok(());
            }
        };
        let mut signed = request.clone();
        signed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
        unless_gone(self.client.replace_status(&signed).await)
    }
}

fn with_condition(
    request: &CertificateSigningRequest,
    condition: CertificateSigningRequestCondition,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    changed.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    changed
}

/// A little later than the instant itself: what is past by nothing is not past.
fn until(due: Timestamp, now: Timestamp) -> Duration {
    let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
    wait.saturating_add(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The request of the tests in `api`: CN=clerk, O=ferry, a DNS name and an address.
    const REQUEST: &str = concat!(
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQkZUQ0J2QUlCQURBZ01RNHdEQVlEVlFRS0RBVm1aWEp5ZVRFT01Bd0dB",
        "MVVFQXd3RlkyeGxjbXN3V1RBVApCZ2NxaGtqT1BRSUJCZ2dxaGtqT1BRTUJCd05DQUFSQ2NwalpOVXlsYXFXeWVRN1JuTGt0Vm9nemprempsL0Y2",
        "CkVoQmE0Y0NNY0NwbjFiaFNOWmV4dDNvVS9ONGQyUFQrVjhRbkhzT29DckhYNE9YaXNqS2RvRG93T0FZSktvWkkKaHZjTkFRa09NU3N3S1RBbkJn",
        "TlZIUkVFSURBZWdoWmtaWE5yTG1abGNuSjVMbVY0WVcxd2JHVXVZMjl0aHdUQQpBQUlKTUFvR0NDcUdTTTQ5QkFNQ0EwZ0FNRVVDSUZtRmZReWZM",
        "SUkzeW1YRzlDZW1XMjdhbU9jc2phMlk2RXhFCnlDZlB6RDRiQWlFQTFMbGllckJLTkEwcm0yZTBIOWgyckVrVHFnaXV6QS9hQmp1RUhzOFZDUE09",
        "Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo="
    );

    fn request(signer: &str, usages: &[&str], status: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status, "spec": {
            "request": REQUEST, "signerName": signer, "usages": usages, "username": "ann",
            "expirationSeconds": 3600}}))
        .unwrap()
    }

    fn approved() -> Value {
        json!({"conditions": [{"type": "Approved", "status": "True"}]})
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_is_approved_is_signed_once_and_what_is_not_waits() {
        const SIGNER: &str = api::certificates::API_CLIENT;
        let usages = ["client auth"];
        let Some(Step::Sign(order)) = decide(&request(SIGNER, &usages, approved()), now()) else {
            panic!("approved, and not signed");
        };
        assert_eq!(order.key_usage, 0);
        assert_eq!(order.extended_key_usages, [&[1, 3, 6, 1, 5, 5, 7, 3, 2]]);
        assert_eq!(order.not_before.to_string(), "2025-12-31T23:55:00Z");
        assert_eq!(order.not_after.to_string(), "2026-01-01T01:00:00Z");
        let wait = |status: Value| decide(&request(SIGNER, &usages, status), now());
        assert_eq!(wait(json!({})), None);
        assert_eq!(wait(json!({"conditions": [{"type": "Denied", "status": "True"}]})), None);
        let mut status = approved();
        status["certificate"] = "Zg==".into();
        assert_eq!(wait(status), None);
        let mut status = approved();
        status["conditions"].as_array_mut().unwrap().push(json!({"type": "Failed", "status": "True"}));
        assert_eq!(wait(status), None);
        assert_eq!(decide(&request("example.com/own", &usages, approved()), now()), None);
    }

    #[test]
    fn a_request_against_the_rules_of_its_signer_fails_with_the_reason() {
        let asked = request(api::certificates::API_CLIENT, &["client auth", "server auth"], approved());
        let why = "invalid usage for client certificate: server auth";
        assert_eq!(decide(&asked, now()), Some(Step::Fail(why.to_owned())));
        let asked = request(api::certificates::KUBELET_SERVING, &["server auth"], approved());
        let why = "subject organization is not system:nodes";
        assert_eq!(decide(&asked, now()), Some(Step::Fail(why.to_owned())));
    }
}
