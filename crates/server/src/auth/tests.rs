//! Authentication and authorisation over a small world of objects.

use std::sync::Arc;

use api::kinds::{Kind, find};
use http::Request;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::{Delete, Durability, Embedded, Expect, History, Put, Store as _};
use wire::Identity;

use super::*;
use crate::object;

/// The objects of a test, in a store of its own.
struct World {
    store: Arc<Embedded>,
    runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

const LAZY: Durability = Durability::Within(std::time::Duration::from_secs(60));

fn kind(plural: &str) -> &'static Kind {
    let groups = ["", "rbac.authorization.k8s.io", "storage.k8s.io"];
    groups.iter().find_map(|group| find(group, "v1", plural)).unwrap()
}

impl World {
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), object::stamp, History::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { store: Arc::new(store), runtime, _directory: directory }
    }

    fn put(&self, plural: &str, object: Value) {
        self.put_one(kind(plural), object);
    }

    fn put_one(&self, kind: &Kind, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let key = object::key(kind, text("namespace"), text("name"));
        let put = Put { key, value: object::encode(kind, &object), expect: None, durability: LAZY };
        self.runtime.block_on(self.store.put(put)).unwrap();
    }

    fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let key = object::key(kind(plural), namespace, name);
        let delete = Delete { key, expect: Expect::Present, durability: LAZY };
        self.runtime.block_on(self.store.delete(delete)).unwrap();
    }
}

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn auth(world: &World) -> Auth {
    let key = TokenKey::from_pkcs8(&TokenKey::generate().unwrap()).unwrap();
    let settings = Settings {
        key,
        issuer: ISSUER.to_owned(),
        public_url: "https://10.0.0.1:6443".to_owned(),
        anonymous: true,
    };
    Auth::new(settings, world.store.clone())
}

fn world() -> World {
    let world = World::empty();
    world.put("serviceaccounts", json!({"metadata": {"namespace": "n", "name": "robot", "uid": "sa-1"}}));
    world.put(
        "pods",
        json!({"metadata": {"namespace": "n", "name": "p", "uid": "pod-1"},
               "spec": {"nodeName": "one", "serviceAccountName": "robot",
                        "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}}),
    );
    world.put("nodes", json!({"metadata": {"name": "one", "uid": "node-1"}}));
    world.put(
        "roles",
        json!({"metadata": {"namespace": "n", "name": "reader"},
               "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
    );
    world.put(
        "rolebindings",
        json!({"metadata": {"namespace": "n", "name": "readers"},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
               "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "n"}]}),
    );
    world
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn parts(headers: &[(&str, &str)]) -> http::request::Parts {
    let request = headers.iter().fold(Request::builder(), |r, (k, v)| r.header(*k, *v));
    request.body(()).unwrap().into_parts().0
}

fn admin() -> Identity {
    Identity {
        user: "kubernetes-admin".to_owned(),
        groups: vec!["system:masters".to_owned()],
        certificate_sha256: "ab".to_owned(),
    }
}

fn pod_token(auth: &Auth, seconds: i64) -> String {
    let request = json!({"spec": {"expirationSeconds": seconds, "audiences": null,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod-1"}}});
    let answer = auth.token_request("n", "robot", request, now()).unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

fn by_token(auth: &Auth, token: &str, at: Timestamp) -> Result<User, api::status::Status> {
    auth.authenticate(&mut parts(&[("authorization", &format!("Bearer {token}"))]), at)
}

#[test]
fn a_certificate_is_a_user_with_groups_and_credential_id() {
    let mut parts = parts(&[]);
    parts.extensions.insert(admin());
    let user = auth(&world()).authenticate(&mut parts, now()).unwrap();
    assert_eq!(user.name, "kubernetes-admin");
    assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["X509SHA256=ab"]);
}

#[test]
fn without_credentials_one_is_anonymous_and_with_wrong_ones_nobody() {
    let auth = auth(&world());
    assert_eq!(auth.authenticate(&mut parts(&[]), now()).unwrap().name, "system:anonymous");
    assert_eq!(by_token(&auth, "a.b.c", now()).unwrap_err().code(), 401);
}

#[test]
fn a_pod_token_names_account_pod_and_node() {
    let auth = auth(&world());
    let user = by_token(&auth, &pod_token(&auth, 3600), now()).unwrap();
    assert_eq!(user.name, "system:serviceaccount:n:robot");
    assert_eq!(user.uid, "sa-1");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["node-1"]);
}

#[test]
fn a_token_dies_with_its_time_its_pod_and_its_account() {
    let world = world();
    let auth = auth(&world);
    let token = pod_token(&auth, 3600);
    assert!(by_token(&auth, &token, after(3600)).is_ok());
    assert!(by_token(&auth, &token, after(3601)).is_err());
    world.put("pods", json!({"metadata": {"namespace": "n", "name": "p", "uid": "pod-2"}, "spec": {}}));
    assert!(by_token(&auth, &token, now()).is_err(), "another Pod of the same name");
    world.put("pods", json!({"metadata": {"namespace": "n", "name": "p", "uid": "pod-1"}, "spec": {}}));
    assert!(by_token(&auth, &token, now()).is_ok());
    world.remove("serviceaccounts", "n", "robot");
    assert!(by_token(&auth, &token, now()).is_err());
}

#[test]
fn the_token_of_a_projected_volume_lives_a_year_and_says_it_does_not() {
    let auth = auth(&world());
    let request = json!({"spec": {"expirationSeconds": 3607,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod-1"}}});
    let answer = auth.token_request("n", "robot", request, now()).unwrap();
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T01:00:07Z");
    let token = answer["status"]["token"].as_str().unwrap();
    assert!(by_token(&auth, token, after(364 * 86_400)).is_ok());
    assert!(by_token(&auth, token, after(366 * 86_400)).is_err());
}

#[test]
fn a_token_of_another_key_or_audience_is_refused() {
    let world = world();
    let (ours, theirs) = (auth(&world), auth(&world));
    assert!(by_token(&ours, &pod_token(&theirs, 3600), now()).is_err());
    let request = json!({"spec": {"audiences": ["vault"]}});
    let answer = ours.token_request("n", "robot", request, now()).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    assert!(by_token(&ours, token, now()).is_err());
    let review = json!({"spec": {"token": token, "audiences": ["vault", "other"]}});
    let resource = find("authentication.k8s.io", "v1", "tokenreviews").unwrap();
    let answer = ours.review(resource, "", &User::anonymous(), review, now()).unwrap();
    assert_eq!(answer["status"]["authenticated"], true);
    assert_eq!(answer["status"]["audiences"], json!(["vault"]));
}

#[test]
fn token_requests_are_checked() {
    let auth = auth(&world());
    let error =
        auth.token_request("n", "robot", json!({"spec": {"expirationSeconds": 10}}), now()).unwrap_err();
    assert_eq!(error.code(), 422);
    assert!(error.message.contains(
        "spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes"
    ));
    let error = auth.token_request("n", "ghost", json!({"spec": {}}), now()).unwrap_err();
    assert_eq!(error.message, r#"serviceaccounts "ghost" not found"#);
    let other =
        json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x"}}});
    assert_eq!(auth.token_request("n", "robot", other, now()).unwrap_err().code(), 409);
}

#[test]
fn rbac_allows_by_binding_and_refuses_in_upstreams_words() {
    let world = world();
    let auth = auth(&world);
    let user = by_token(&auth, &pod_token(&auth, 3600), now()).unwrap();
    let base = Attributes { namespace: "n", ..Attributes::resource(&user, "list", "", "v1", "pods") };
    let allowed = Decision::Allow(
        r#"RBAC: allowed by RoleBinding "readers/n" of Role "reader" to ServiceAccount "robot/n""#.to_owned(),
    );
    assert_eq!(auth.decide(&base), allowed);
    let error = auth.authorize(&Attributes { resource: "configmaps", verb: "create", ..base }).unwrap_err();
    assert_eq!(
        error.message,
        r#"configmaps is forbidden: User "system:serviceaccount:n:robot" cannot create resource "configmaps" in API group "" in the namespace "n""#
    );
    let error = auth.authorize(&Attributes { namespace: "", ..base }).unwrap_err();
    assert!(error.message.ends_with(r#"cannot list resource "pods" in API group "" at the cluster scope"#));
    let error = auth.authorize(&Attributes::path(&user, "get", "/metrics")).unwrap_err();
    assert_eq!(
        error.message,
        r#"forbidden: User "system:serviceaccount:n:robot" cannot get path "/metrics""#
    );
    world.remove("roles", "n", "reader");
    let error = auth.authorize(&base).unwrap_err();
    assert!(
        error.message.ends_with(r#": RBAC: role.rbac.authorization.k8s.io "reader" not found"#),
        "{error}"
    );
}

#[test]
fn impersonation_needs_the_verb_and_brings_the_groups_of_an_account() {
    let auth = auth(&world());
    let as_robot = [("impersonate-user", "system:serviceaccount:n:robot")];
    let mut with = parts(&as_robot);
    with.extensions.insert(admin());
    let user = auth.authenticate(&mut with, now()).unwrap();
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]);
    assert!(with.headers.is_empty());
    let error = auth.authenticate(&mut parts(&as_robot), now()).unwrap_err();
    assert_eq!(
        error.message,
        r#"serviceaccounts "robot" is forbidden: User "system:anonymous" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "n""#
    );
    let error = auth.authenticate(&mut parts(&[("impersonate-group", "g")]), now()).unwrap_err();
    assert_eq!(error.code(), 500);
}

#[test]
fn a_node_gets_what_its_pods_need_and_no_more() {
    let auth = auth(&world());
    let node = |name: &str| User {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".to_owned()],
        ..User::default()
    };
    let (one, two) = (node("one"), node("two"));
    let secret = |user, name| Attributes {
        namespace: "n",
        name,
        ..Attributes::resource(user, "get", "", "v1", "secrets")
    };
    assert!(auth.authorize(&secret(&one, "s")).is_ok());
    assert!(auth.authorize(&secret(&one, "t")).is_err());
    let error = auth.authorize(&secret(&two, "s")).unwrap_err();
    assert!(error.message.ends_with("no relationship found between node 'two' and this object"), "{error}");
    let pods = Attributes {
        field_selector: "spec.nodeName=one",
        ..Attributes::resource(&one, "watch", "", "v1", "pods")
    };
    assert!(auth.authorize(&pods).is_ok());
    assert!(auth.authorize(&Attributes { field_selector: "", ..pods }).is_err());
    let token = Attributes {
        subresource: "token",
        name: "robot",
        namespace: "n",
        ..Attributes::resource(&one, "create", "", "v1", "serviceaccounts")
    };
    assert!(auth.authorize(&token).is_ok());
    assert!(auth.authorize(&Attributes { user: &two, ..token }).is_err());
}

fn may_get(auth: &Auth, node: &str, plural: &str, namespace: &str, name: &str) -> bool {
    let user = User {
        name: format!("system:node:{node}"),
        groups: vec!["system:nodes".to_owned()],
        ..User::default()
    };
    let base = Attributes::resource(&user, "get", &kind(plural).group, "v1", plural);
    auth.authorize(&Attributes { namespace, name, ..base }).is_ok()
}

#[test]
fn what_leads_a_node_to_an_object_follows_every_write() {
    let (world, pod) = (world(), |node: &str, secret: &str| {
        json!({"metadata": {"namespace": "n", "name": "q"}, "spec": {"nodeName": node, "containers": [],
               "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": secret}}]}}]}})
    });
    let auth = auth(&world);
    assert!(!may_get(&auth, "two", "secrets", "n", "key"));
    world.put("pods", pod("", "key"));
    assert!(!may_get(&auth, "two", "secrets", "n", "key"), "not bound yet");
    world.put("pods", pod("two", "key"));
    assert!(may_get(&auth, "two", "secrets", "n", "key") && may_get(&auth, "two", "pods", "n", "q"));
    assert!(!may_get(&auth, "two", "secrets", "m", "key") && !may_get(&auth, "one", "secrets", "n", "key"));
    world.remove("pods", "n", "q");
    world.put("pods", pod("one", "other"));
    assert!(!may_get(&auth, "two", "secrets", "n", "key") && !may_get(&auth, "two", "pods", "n", "q"));
    assert!(may_get(&auth, "one", "secrets", "n", "other") && may_get(&auth, "one", "secrets", "n", "s"));
}

#[test]
fn a_volume_leads_a_node_to_its_secret_by_the_claim_it_is_meant_for() {
    let world = world();
    let auth = auth(&world);
    world.put(
        "pods",
        json!({"metadata": {"namespace": "n", "name": "q"}, "spec": {"nodeName": "two", "containers": [],
               "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}]}}),
    );
    let claim =
        |name: &str| json!({"metadata": {"namespace": "n", "name": name}, "spec": {"volumeName": "pv"}});
    world.put("persistentvolumeclaims", claim("c"));
    let volume = |claim: &str| {
        json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "n", "name": claim},
               "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"namespace": "vault", "name": "key"}}}})
    };
    world.put("persistentvolumes", volume("another"));
    assert!(may_get(&auth, "two", "persistentvolumeclaims", "n", "c"));
    assert!(may_get(&auth, "two", "persistentvolumeclaims", "n", "q-e"), "a generic ephemeral volume's");
    let reached = || may_get(&auth, "two", "persistentvolumes", "", "pv");
    assert!(!reached() && !may_get(&auth, "two", "secrets", "vault", "key"), "a claim may name any volume");
    world.put("persistentvolumes", volume("c"));
    assert!(reached() && may_get(&auth, "two", "secrets", "vault", "key"));
    assert!(!may_get(&auth, "one", "secrets", "vault", "key"));
    world.remove("persistentvolumes", "", "pv");
    assert!(!reached() && !may_get(&auth, "two", "secrets", "vault", "key"));
}

#[test]
fn a_pod_that_a_node_made_itself_leads_nowhere() {
    let world = world();
    let auth = auth(&world);
    world.put(
        "pods",
        json!({"metadata": {"namespace": "n", "name": "q", "annotations": {"kubernetes.io/config.mirror": "x"}},
               "spec": {"nodeName": "two", "imagePullSecrets": [{"name": "key"}], "containers": []}}),
    );
    assert!(may_get(&auth, "two", "pods", "n", "q") && !may_get(&auth, "two", "secrets", "n", "key"));
}

#[test]
fn a_role_that_is_aggregated_follows_those_it_takes_from() {
    let world = world();
    let auth = auth(&world);
    let robot = User { name: "system:serviceaccount:n:robot".to_owned(), ..User::default() };
    let base = Attributes::resource(&robot, "get", "", "v1", "widgets");
    let may = || auth.authorize(&base).is_ok();
    world.put(
        "clusterroles",
        json!({"metadata": {"name": "all"}, "rules": null,
               "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}}),
    );
    world.put(
        "clusterrolebindings",
        json!({"metadata": {"name": "all"}, "roleRef": {"apiGroup": "", "kind": "ClusterRole", "name": "all"},
               "subjects": [{"kind": "User", "name": robot.name}]}),
    );
    assert!(!may());
    let part = |verb: &str| {
        json!({"metadata": {"name": "part", "labels": {"to": "all"}},
               "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["widgets"]}]})
    };
    world.put("clusterroles", part("get"));
    assert!(may());
    world.put("clusterroles", part("list"));
    assert!(!may());
    world.put("clusterroles", part("get"));
    assert!(may());
    world.remove("clusterrolebindings", "", "all");
    assert!(!may());
}

#[test]
fn nobody_grants_what_they_do_not_hold() {
    let auth = auth(&world());
    let robot = User {
        name: "system:serviceaccount:n:robot".to_owned(),
        groups: vec!["g".to_owned()],
        ..User::default()
    };
    let roles = find("rbac.authorization.k8s.io", "v1", "roles").unwrap();
    let role = |verb: &str| {
        json!({"metadata": {"namespace": "n", "name": "r"},
        "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
    };
    assert!(auth.check_escalation(&robot, roles, &role("get"), None).is_ok());
    let error = auth.check_escalation(&robot, roles, &role("delete"), None).unwrap_err();
    assert_eq!(
        error.message,
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"system:serviceaccount:n:robot\" (groups=[\"g\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
    );
    assert!(auth.check_escalation(&robot, roles, &role("delete"), Some(&role("delete"))).is_ok());
}

#[test]
fn reviews_answer_who_am_i_and_may_i() {
    let auth = auth(&world());
    let robot = User { name: "system:serviceaccount:n:robot".to_owned(), ..User::default() };
    let review = |group: &str, plural: &str, spec: Value| {
        let resource = find(group, "v1", plural).unwrap();
        auth.review(resource, "n", &robot, json!({"spec": spec}), now())
    };
    let me = review("authentication.k8s.io", "selfsubjectreviews", json!({})).unwrap();
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:n:robot");
    let may =
        |verb: &str| json!({"resourceAttributes": {"namespace": "n", "verb": verb, "resource": "pods"}});
    let group = "authorization.k8s.io";
    let yes = review(group, "selfsubjectaccessreviews", may("list")).unwrap();
    assert_eq!(yes["status"]["allowed"], true);
    let no = review(group, "selfsubjectaccessreviews", may("delete")).unwrap();
    assert_eq!(no["status"], json!({"allowed": false}));
    let rules = review(group, "selfsubjectrulesreviews", json!({"namespace": "n"})).unwrap();
    assert_eq!(
        rules["status"],
        json!({"resourceRules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}],
               "nonResourceRules": [], "incomplete": false})
    );
    assert_eq!(review(group, "subjectaccessreviews", may("get")).unwrap_err().code(), 422);
    assert_eq!(review(group, "selfsubjectaccessreviews", json!({})).unwrap_err().code(), 422);
}

#[test]
fn the_keys_are_published_under_the_id_that_tokens_name() {
    use base64::Engine as _;
    let auth = auth(&world());
    let keys: Value = serde_json::from_slice(&auth.jwks()).unwrap();
    let token = pod_token(&auth, 3600);
    let header =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(header["kid"], keys["keys"][0]["kid"]);
    let document: Value = serde_json::from_slice(&auth.openid_configuration()).unwrap();
    assert_eq!(document["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
}

/// A world that holds what a fresh cluster holds.
fn fresh() -> World {
    let world = world();
    let inputs = api::bootstrap::Inputs {
        service_ip: "10.43.0.1".parse().unwrap(),
        service_cidr: "10.43.0.0/16",
        advertise: "192.0.2.1:6443".parse().unwrap(),
        authority_pem: "",
        now: now(),
    };
    for (resource, object) in api::bootstrap::objects(&inputs) {
        world.put_one(resource, object);
    }
    world
}

#[test]
fn the_rules_of_an_account_are_those_kubernetes_lists() {
    let auth = auth(&fresh());
    let robot = by_token(&auth, &pod_token(&auth, 3600), now()).unwrap();
    let resource = find("authorization.k8s.io", "v1", "selfsubjectrulesreviews").unwrap();
    let answer = auth.review(resource, "", &robot, json!({"spec": {"namespace": "n"}}), now()).unwrap();
    let words = |rules: &Value, field: &str| {
        let lists = rules.as_array().unwrap().iter().flat_map(|r| r[field].as_array().unwrap());
        let mut words: Vec<String> = lists.map(|w| w.as_str().unwrap().to_owned()).collect();
        words.sort();
        words
    };
    // As recorded from `kubectl auth can-i --list` for a ServiceAccount of a fresh cluster.
    let paths = "/.well-known /.well-known/* /.well-known/openid-configuration /.well-known/openid-configuration/ \
                 /api /api/* /apis /apis/* /healthz /healthz /livez /livez /openapi /openapi/* /openid/v1/jwks \
                 /openid/v1/jwks/ /readyz /readyz /version /version /version/ /version/";
    let paths: Vec<&str> = paths.split_whitespace().collect();
    assert_eq!(words(&answer["status"]["nonResourceRules"], "nonResourceURLs"), paths);
    assert_eq!(
        words(&answer["status"]["resourceRules"], "resources"),
        ["pods", "selfsubjectaccessreviews", "selfsubjectreviews", "selfsubjectrulesreviews"]
    );
}

#[test]
fn everybody_may_ask_for_health_and_nobody_for_more() {
    let auth = auth(&fresh());
    let nobody = User::anonymous();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert!(auth.authorize(&Attributes::path(&nobody, "get", path)).is_ok(), "{path}");
    }
    let error = auth.authorize(&Attributes::path(&nobody, "get", "/metrics")).unwrap_err();
    assert_eq!(error.message, r#"forbidden: User "system:anonymous" cannot get path "/metrics""#);
}

#[test]
fn a_bootstrap_token_brings_its_groups_until_it_expires() {
    use base64::Engine as _;
    let world = fresh();
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    world.put(
        "secrets",
        json!({
            "metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token",
            "data": {
                "token-id": encode("abcdef"),
                "token-secret": encode("0123456789abcdef"),
                "usage-bootstrap-authentication": encode("true"),
                "expiration": encode("2026-01-02T00:00:00Z"),
                "auth-extra-groups": encode("system:bootstrappers:nodes,system:masters"),
            },
        }),
    );
    let auth = auth(&world);
    let user = by_token(&auth, "abcdef.0123456789abcdef", now()).unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:nodes", "system:authenticated"]);
    assert!(by_token(&auth, "abcdef.0123456789abcdee", now()).is_err());
    assert!(by_token(&auth, "abcdef.0123456789abcdef", after(2 * 86_400)).is_err());
}

#[test]
fn a_websocket_may_bring_its_token_as_a_subprotocol() {
    use base64::Engine as _;
    let auth = auth(&world());
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pod_token(&auth, 3600));
    let offered = format!("base64url.bearer.authorization.k8s.io.{token}, v5.channel.k8s.io");
    let mut parts = parts(&[("sec-websocket-protocol", &offered)]);
    let user = auth.authenticate(&mut parts, now()).unwrap();
    assert_eq!(user.name, "system:serviceaccount:n:robot");
    assert_eq!(parts.headers["sec-websocket-protocol"], "v5.channel.k8s.io");
}
