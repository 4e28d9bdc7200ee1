//! Secrets of type `kubernetes.io/service-account-token` hold a token of their account, which is good as long
//! as both are there.
//!
//! The token is asked for as anybody asks for one, bound to its Secret: the key that signs it is the server's.
//! Upstream signs these by an older form without an end; here they end when the API lets them at the latest.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::index::Index;
use client::{Change, Client, DeleteOptions, Error, Informer, Part, Patch, PatchKind, key_of, object_path};
use http::Method;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest that a token can be asked for: 136 years.
const SECONDS: u64 = 1 << 32;

struct Tokens {
    client: Client,
    authority_pem: String,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let by_type = Index::new("type", |secret: &Secret| secret.type_.iter().cloned().collect());
    let this = Tokens {
        client: context.client.clone(),
        authority_pem: context.config.authority_pem.clone(),
        secrets: context.informers.part(Part::field(by_type, TYPE)),
        accounts: context.informers.of(),
    };
    let secrets = this.secrets.clone();
    let controller = Controller::new("service-account-token")
        .watches(&this.secrets, |change| vec![key_of(&**change.object())])
        .watches(&this.accounts, move |change| match change {
            Change::Modified { .. } => Vec::new(),
            Change::Added(account) | Change::Deleted(account) => {
                let tokens = secrets.filter(|secret| is_of(secret, account));
                tokens.iter().map(|secret| key_of(&**secret)).collect()
            }
        });
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(name)).map_or("", String::as_str)
}

/// Whether the Secret names the account, if perhaps an earlier one.
fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    secret.metadata.namespace == account.metadata.namespace
        && account.metadata.name.as_deref() == Some(annotation(secret, ACCOUNT))
}

impl Tokens {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(secret) = self.secrets.get(namespace, name) else {
            self.forget(namespace, name).await?;
            return Ok(Next::Done);
        };
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        match self.account(&secret).await? {
            None => {
                let uid = secret.metadata.uid.as_deref().unwrap_or_default();
                let options = DeleteOptions::of_uid(uid);
                unless_gone(self.client.delete::<Secret>(namespace, name, &options).await)?;
            }
            Some(account) => self.fill(&secret, &account).await?,
        }
        Ok(Next::Done)
    }

    /// The account of a Secret. One that is not known may be newer than what is known: the server is asked.
    async fn account(&self, secret: &Secret) -> Result<Option<Arc<ServiceAccount>>, Error> {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        let (name, uid) = (annotation(secret, ACCOUNT), annotation(secret, ACCOUNT_UID));
        let is_meant =
            |account: &ServiceAccount| uid.is_empty() || account.metadata.uid.as_deref() == Some(uid);
        if let Some(known) = self.accounts.get(namespace, name).filter(|account| is_meant(account)) {
            return Ok(Some(known));
        }
        match self.client.get::<ServiceAccount>(namespace, name).await {
            Ok(account) => Ok(is_meant(&account).then(|| Arc::new(account))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<(), Error> {
        let missing = missing(secret, &self.authority_pem);
        if missing == Missing::default() {
            return Ok(());
        }
        let token = if missing.token { Some(self.token(secret, account).await?) } else { None };
        let filled = filled(secret, account, &missing, &self.authority_pem, token);
        unless_gone(self.client.replace(&filled).await)
    }

    async fn token(&self, secret: &Secret, account: &ServiceAccount) -> Result<String, Error> {
        let metadata = &secret.metadata;
        let (namespace, name) = (metadata.namespace.as_deref(), account.metadata.name.as_deref());
        let path =
            object_path("", "v1", "serviceaccounts", namespace.unwrap_or_default(), name.unwrap_or_default());
        let path = format!("{path}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "expirationSeconds": SECONDS,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": metadata.name, "uid": metadata.uid}}});
        let body = body.to_string().into_bytes().into();
        let answer = self.client.raw(Method::POST, &path, "application/json", body).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|source| Error::Decode { path, source })?;
        Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
    }

    /// Accounts do not name a token that is gone.
    async fn forget(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let names = |account: &ServiceAccount| {
            account.metadata.namespace.as_deref() == Some(namespace)
                && account.secrets.iter().flatten().any(|secret| secret.name.as_deref() == Some(name))
        };
        for account in self.accounts.filter(names) {
            let others =
                account.secrets.iter().flatten().filter(|secret| secret.name.as_deref() != Some(name));
            let body = json!({"metadata": {"resourceVersion": account.metadata.resource_version},
                "secrets": others.collect::<Vec<_>>()});
            let of = account.metadata.name.as_deref().unwrap_or_default();
            let patch = Patch::new(PatchKind::Merge, body);
            unless_gone(self.client.patch::<ServiceAccount>(namespace, of, &patch).await)?;
        }
        Ok(())
    }
}

/// What a Secret lacks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    token: bool,
    namespace: bool,
    authority: bool,
}

fn missing(secret: &Secret, authority_pem: &str) -> Missing {
    let value =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    let is_empty = |key: &str| value(key).is_none_or(<[u8]>::is_empty);
    Missing {
        token: is_empty("token"),
        namespace: is_empty("namespace"),
        authority: value("ca.crt") != Some(authority_pem.as_bytes()),
    }
}

fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    missing: &Missing,
    authority_pem: &str,
    token: Option<String>,
) -> Secret {
    let mut filled = secret.clone();
    let annotations = filled.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(ACCOUNT.to_owned(), account.metadata.name.clone().unwrap_or_default());
    annotations.insert(ACCOUNT_UID.to_owned(), account.metadata.uid.clone().unwrap_or_default());
    let namespace = secret.metadata.namespace.clone().filter(|_| missing.namespace);
    let authority = missing.authority.then(|| authority_pem.to_owned());
    let data = filled.data.get_or_insert_with(BTreeMap::new);
    for (key, value) in [("token", token), ("namespace", namespace), ("ca.crt", authority)] {
        data.extend(value.map(|value| (key.to_owned(), ByteString(value.into_bytes()))));
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: Value) -> Secret {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_secret_gets_what_it_lacks_and_keeps_what_it_has() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": "n", "uid": "u"}}))
                .unwrap();
        // "old" and "other" in base64.
        let given =
            secret(json!({"metadata": {"name": "s", "namespace": "n", "annotations": {ACCOUNT: "robot"}},
            "data": {"ca.crt": "b2xk", "mine": "b3RoZXI="}}));
        let lacks = missing(&given, "PEM");
        assert_eq!(lacks, Missing { token: true, namespace: true, authority: true });
        let done = filled(&given, &account, &lacks, "PEM", Some("a.b.c".to_owned()));
        let text = |key: &str| String::from_utf8(done.data.as_ref().unwrap()[key].0.clone()).unwrap();
        assert_eq!(
            [text("token"), text("namespace"), text("ca.crt"), text("mine")],
            ["a.b.c", "n", "PEM", "other"]
        );
        assert_eq!(annotation(&done, ACCOUNT_UID), "u");
        assert_eq!(missing(&done, "PEM"), Missing::default());
        let renewed = filled(&done, &account, &missing(&done, "NEW"), "NEW", None);
        assert_eq!(renewed.data.as_ref().unwrap()["token"].0, b"a.b.c");
        assert_eq!(renewed.data.as_ref().unwrap()["ca.crt"].0, b"NEW");
    }

    #[test]
    fn a_secret_is_of_the_account_that_it_names_in_its_namespace() {
        let account = |namespace: &str| -> ServiceAccount {
            serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": namespace}})).unwrap()
        };
        let given =
            secret(json!({"metadata": {"name": "s", "namespace": "n", "annotations": {ACCOUNT: "robot"}}}));
        assert!(is_of(&given, &account("n")));
        assert!(!is_of(&given, &account("m")));
        assert!(!is_of(&secret(json!({"metadata": {"namespace": "n"}})), &account("n")));
    }
}
