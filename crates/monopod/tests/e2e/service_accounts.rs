//! Tokens that Secrets hold, as programs outside the cluster use them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::harness::Instance;

const TOKEN: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: v1
kind: Secret
metadata: {name: robot, annotations: {kubernetes.io/service-account.name: robot}}
type: kubernetes.io/service-account-token
"#;

#[test]
fn a_secret_lets_its_account_in_until_it_is_deleted() {
    let instance = Instance::start(&[]);
    let applied = instance.kubectl_with(&["apply", "-f", "-"], TOKEN);
    assert!(!applied.err.contains("Warning"), "{}", applied.err);
    applied.ok();
    let token = instance.eventually("the token is there", || {
        let token = instance.field("secret/robot", "{.data.token}");
        if token.is_empty() { Err("none yet".to_owned()) } else { Ok(token) }
    });
    let told = instance.kubectl(&["describe", "secret", "robot"]).ok();
    assert!(told.contains("ca.crt:") && told.contains("namespace:  7 bytes"), "{told}");
    let token = String::from_utf8(BASE64.decode(token).expect("base64")).expect("text");
    instance.kubectl(&["config", "set-credentials", "robot", &format!("--token={token}")]).ok();
    instance.kubectl(&["config", "set-context", "robot", "--cluster=monopod", "--user=robot"]).ok();
    let who = ["--context", "robot", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    assert_eq!(instance.kubectl(&who).ok(), "system:serviceaccount:default:robot");
    instance.kubectl(&["delete", "serviceaccount", "robot"]).ok();
    instance.kubectl(&["wait", "--for=delete", "secret/robot", "--timeout=60s"]).ok();
    let refused = instance.kubectl(&who).fails();
    assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
}
