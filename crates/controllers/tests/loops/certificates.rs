//! Certificates asked for, approved, signed; those of kubelets without anybody's help.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";

fn request(name: &str, signer: &str, usages: &[&str], user: &str, group: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": BASE64.encode(pem), "signerName": signer, "usages": usages}})
}

async fn approve(cluster: &Cluster, name: &str) {
    let body = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "KubectlApprove", "message": "yes"}]}});
    cluster.ask(Method::PATCH, &format!("{REQUESTS}/{name}/approval"), body).await.unwrap();
}

/// The certificate that a request was answered with, once it was.
async fn issued(cluster: &Cluster, name: &str) -> CertificateDer<'static> {
    let path = format!("{REQUESTS}/{name}");
    let is_issued = |answer: &Result<Value, client::Error>| {
        answer.as_ref().is_ok_and(|request| request["status"]["certificate"].is_string())
    };
    cluster.until(&path, is_issued).await;
    let request = cluster.ask(Method::GET, &path, Value::Null).await.unwrap();
    let pem = BASE64.decode(request["status"]["certificate"].as_str().unwrap()).unwrap();
    CertificateDer::from_pem_slice(&pem).unwrap()
}

fn condition(answer: &Result<Value, client::Error>, kind: &str) -> Option<(String, String)> {
    let conditions = answer.as_ref().ok()?["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((found["reason"].as_str()?.to_owned(), found["message"].as_str()?.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_signed_when_it_is_approved_and_fails_when_its_signer_may_not() {
    let mut cluster = Cluster::start().await;
    cluster.post(REQUESTS, request("ann", CLIENT, &["client auth"], "ann", "staff")).await;
    cluster.post(REQUESTS, request("wrong", CLIENT, &["client auth", "server auth"], "bob", "staff")).await;
    cluster.post(REQUESTS, request("own", "example.com/own", &["client auth"], "bob", "staff")).await;
    approve(&cluster, "own").await;
    approve(&cluster, "wrong").await;
    let failed = ("SignerValidationFailure", "invalid usage for client certificate: server auth");
    cluster
        .until(&format!("{REQUESTS}/wrong"), |answer| {
            condition(answer, "Failed").is_some_and(|(reason, why)| (reason.as_str(), why.as_str()) == failed)
        })
        .await;
    // What was approved while nobody was there is signed by who comes.
    cluster.restart_controllers().await;
    approve(&cluster, "ann").await;
    let identity = wire::pki::identity(&issued(&cluster, "ann").await).unwrap();
    assert_eq!((identity.user.as_str(), identity.groups), ("ann", vec!["staff".to_owned()]));
    for name in ["wrong", "own"] {
        let other = cluster.ask(Method::GET, &format!("{REQUESTS}/{name}"), Value::Null).await.unwrap();
        assert_eq!(other["status"]["certificate"], Value::Null, "{name}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_gets_its_certificate_if_who_asks_may_ask_for_kubelets() {
    let cluster = Cluster::start().await;
    let usages = ["client auth", "digital signature"];
    let ask = async |user: &str, groups: &[&str], name: &str| {
        let body = request(name, KUBELET, &usages, "system:node:a", "system:nodes").to_string();
        let client = cluster.client_of(user, groups);
        client.raw(Method::POST, REQUESTS, "application/json", body.into_bytes().into()).await.unwrap();
    };
    let bind = async |name: &str, group: &str, role: &str| {
        let binding = json!({"metadata": {"name": name}, "subjects": [{"kind": "Group", "name": group,
            "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "ClusterRole", "name": role,
            "apiGroup": "rbac.authorization.k8s.io"}});
        cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    };
    bind("ask", "strangers", "system:node-bootstrapper").await;
    bind("join", "system:bootstrappers", "system:node-bootstrapper").await;
    let part = "system:certificates.k8s.io:certificatesigningrequests";
    bind("approve", "system:bootstrappers", &format!("{part}:nodeclient")).await;
    bind("renew", "system:nodes", &format!("{part}:selfnodeclient")).await;
    ask("stranger", &["strangers", "system:authenticated"], "stranger").await;
    ask("system:bootstrap:x", &["system:bootstrappers", "system:authenticated"], "first").await;
    let identity = wire::pki::identity(&issued(&cluster, "first").await).unwrap();
    assert_eq!(identity.user, "system:node:a");
    ask("system:node:a", &["system:nodes", "system:authenticated"], "next").await;
    issued(&cluster, "next").await;
    let words = async |name: &str| {
        let answer = cluster.ask(Method::GET, &format!("{REQUESTS}/{name}"), Value::Null).await;
        condition(&answer, "Approved").map(|(_, message)| message)
    };
    let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
    assert_eq!(words("first").await.as_deref(), Some(message));
    let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
    assert_eq!(words("next").await.as_deref(), Some(message));
    // It came first, and was looked at before the others were.
    assert_eq!(words("stranger").await, None);
    cluster.stop().await;
}
