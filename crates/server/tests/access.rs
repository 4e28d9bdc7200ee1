//! Who may do what, asked of the handler as different people.

#[allow(dead_code, reason = "the other tests use the rest")]
mod cluster;

use cluster::{Cluster, admin};
use serde_json::{Value, json};
use wire::Identity;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

fn ann() -> Identity {
    Identity { user: "ann".to_owned(), groups: vec!["staff".to_owned()], certificate_sha256: String::new() }
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": ["", "rbac.authorization.k8s.io"], "resources": resources}]})
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
}

#[tokio::test]
async fn a_binding_counts_from_the_moment_it_is_answered() {
    let cluster = Cluster::start().await.asked_by(Some(ann()));
    let pods = "/api/v1/namespaces/default/pods";
    let refused = cluster.get(pods).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        r#"pods is forbidden: User "ann" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let cluster = cluster.asked_by(Some(admin()));
    assert_eq!(cluster.post(ROLES, &role("reader", &["list"], &["pods"])).await.code, 201);
    assert_eq!(cluster.post(BINDINGS, &binding("readers", "reader", "ann")).await.code, 201);
    let cluster = cluster.asked_by(Some(ann()));
    assert_eq!(cluster.get(pods).await.code, 200);
}

#[tokio::test]
async fn whoever_writes_roles_cannot_give_more_than_they_have() {
    let cluster = Cluster::start().await;
    let keeper = role("keeper", &["create", "update", "get"], &["roles", "rolebindings"]);
    assert_eq!(cluster.post(ROLES, &keeper).await.code, 201);
    assert_eq!(cluster.post(ROLES, &role("thief", &["get"], &["secrets"])).await.code, 201);
    assert_eq!(cluster.post(BINDINGS, &binding("keepers", "keeper", "ann")).await.code, 201);
    let cluster = cluster.asked_by(Some(ann()));
    assert_eq!(cluster.post(ROLES, &role("mine", &["get"], &["roles"])).await.code, 201);
    let refused = cluster.post(ROLES, &role("more", &["get"], &["secrets"])).await;
    assert_eq!(refused.code, 403);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("is attempting to grant RBAC permissions not currently held:"), "{message}");
    let refused = cluster.post(BINDINGS, &binding("me", "thief", "ann")).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
}

#[tokio::test]
async fn reviews_are_answered_and_kept_nowhere() {
    let cluster = Cluster::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let me = cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await;
    assert_eq!(me.code, 201, "{}", me.text);
    assert_eq!(me.body["status"]["userInfo"]["groups"], json!(["system:masters", "system:authenticated"]));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "ann", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let may = cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    assert_eq!((may.code, &may.body["status"]), (201, &json!({"allowed": false})));
}

#[tokio::test]
async fn an_account_gets_a_token_and_the_token_its_rights() {
    let cluster = Cluster::start().await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = cluster.post(path, &request).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": answer.body["status"]["token"]}});
    let known = cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(known.body["status"]["user"]["username"], "system:serviceaccount:default:default");
    let ghost = cluster.post("/api/v1/namespaces/default/serviceaccounts/ghost/token", &request).await;
    assert_eq!(ghost.body["message"], r#"serviceaccounts "ghost" not found"#);
}

#[tokio::test]
async fn without_credentials_one_may_ask_for_health_only() {
    let cluster = Cluster::start().await.asked_by(None);
    assert_eq!(cluster.get("/healthz").await.code, 200);
    let refused = cluster.get("/api/v1/namespaces").await;
    assert_eq!(refused.code, 403, "{}", refused.text);
}
