//! Secrets that hold the token of an account.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

fn secret(name: &str, account: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}}})
}

fn text(secret: &Value, key: &str) -> String {
    String::from_utf8(STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap()).unwrap()
}

async fn until_filled(cluster: &Cluster, name: &str) -> Value {
    let path = format!("{SECRETS}/{name}");
    cluster
        .until(&path, |answer| answer.as_ref().is_ok_and(|secret| secret["data"]["token"].is_string()))
        .await;
    cluster.ask(Method::GET, &path, Value::Null).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_made_for_its_account_and_goes_with_it() {
    let mut cluster = Cluster::start().await;
    let account = cluster.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await;
    cluster.post(SECRETS, secret("robot", "robot")).await;
    let filled = until_filled(&cluster, "robot").await;
    assert_eq!(text(&filled, "namespace"), "default");
    assert_eq!(text(&filled, "ca.crt"), cluster.authority_pem());
    assert_eq!(
        filled["metadata"]["annotations"]["kubernetes.io/service-account.uid"],
        account["metadata"]["uid"]
    );
    let claims = text(&filled, "token").split('.').nth(1).map(str::to_owned).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["sub"], "system:serviceaccount:default:robot");
    let bound = &claims["kubernetes.io"]["secret"];
    assert_eq!((&bound["name"], &bound["uid"]), (&json!("robot"), &filled["metadata"]["uid"]));
    // Of nobody it is for nobody.
    cluster.post(SECRETS, secret("stray", "nobody")).await;
    cluster.until_gone(&format!("{SECRETS}/stray")).await;
    // An account that forgets its token is told by the end of that; one that ends takes its tokens.
    let named = json!({"secrets": [{"name": "robot"}, {"name": "other"}]});
    cluster.ask(Method::PATCH, &format!("{ACCOUNTS}/robot"), named).await.unwrap();
    cluster.ask(Method::DELETE, &format!("{SECRETS}/robot"), Value::Null).await.unwrap();
    cluster
        .until(&format!("{ACCOUNTS}/robot"), |answer| {
            answer.as_ref().is_ok_and(|account| account["secrets"] == json!([{"name": "other"}]))
        })
        .await;
    cluster.post(SECRETS, secret("again", "robot")).await;
    until_filled(&cluster, "again").await;
    cluster.restart_controllers().await;
    cluster.ask(Method::DELETE, &format!("{ACCOUNTS}/robot"), Value::Null).await.unwrap();
    cluster.until_gone(&format!("{SECRETS}/again")).await;
    cluster.stop().await;
}
