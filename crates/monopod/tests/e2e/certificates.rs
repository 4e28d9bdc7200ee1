//! A person gets a certificate as the documentation of Kubernetes says, and works with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::harness::Instance;

/// A request for `ann` of the group `staff`, named `name`.
fn request(name: &str, key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "staff");
    params.distinguished_name.push(DnType::CommonName, "ann");
    let pem = params.serialize_request(key).expect("signed").pem().expect("encoded");
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  \
         signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n  expirationSeconds: 86400\n  \
         request: {}\n",
        BASE64.encode(pem)
    )
}

fn condition(instance: &Instance, name: &str) -> String {
    let listed = instance.kubectl(&["get", "csr", name, "--no-headers"]).ok();
    listed.split_whitespace().last().unwrap_or_default().to_owned()
}

#[test]
fn a_person_is_let_in_by_an_approved_certificate_and_not_by_a_denied_request() {
    let instance = Instance::start(&[]);
    let key = KeyPair::generate().expect("a key");
    let applied = instance.kubectl_with(&["apply", "-f", "-"], &request("ann", &key));
    assert!(!applied.err.contains("Warning"), "{}", applied.err);
    applied.ok();
    instance.apply(&request("other", &key));
    assert_eq!(condition(&instance, "ann"), "Pending");
    instance.kubectl(&["certificate", "deny", "other"]).ok();
    instance.kubectl(&["certificate", "approve", "ann"]).ok();
    let certificate = instance.eventually("the certificate is issued", || {
        let text = instance.field("csr/ann", "{.status.certificate}");
        if text.is_empty() { Err(condition(&instance, "ann")) } else { Ok(text) }
    });
    assert_eq!(condition(&instance, "ann"), "Approved,Issued");
    let told = instance.kubectl(&["describe", "csr", "ann"]).ok();
    assert!(told.contains("Approved,Issued") && told.contains("Common Name:    ann"), "{told}");

    let (pem, private) = (instance.dir.path().join("ann.crt"), instance.dir.path().join("ann.key"));
    std::fs::write(&pem, BASE64.decode(certificate).expect("base64")).expect("written");
    std::fs::write(&private, key.serialize_pem()).expect("written");
    let flags =
        [format!("--client-certificate={}", pem.display()), format!("--client-key={}", private.display())];
    instance.kubectl(&["config", "set-credentials", "ann", &flags[0], &flags[1], "--embed-certs"]).ok();
    instance.kubectl(&["config", "set-context", "ann", "--cluster=monopod", "--user=ann"]).ok();
    let who =
        instance.kubectl(&["--context", "ann", "auth", "whoami", "-o", "jsonpath={.status.userInfo}"]).ok();
    assert!(who.contains(r#""username":"ann""#) && who.contains(r#""staff""#), "{who}");
    let refused = instance.kubectl(&["--context", "ann", "get", "pods"]).fails();
    assert!(refused.contains(r#"User "ann" cannot list resource "pods""#), "{refused}");
    instance.kubectl(&["create", "rolebinding", "ann", "--clusterrole=view", "--group=staff"]).ok();
    instance.kubectl(&["--context", "ann", "get", "pods"]).ok();

    // What nobody signs stays as it is.
    assert_eq!(condition(&instance, "other"), "Denied");
    assert_eq!(instance.field("csr/other", "{.status.certificate}"), "");
}
