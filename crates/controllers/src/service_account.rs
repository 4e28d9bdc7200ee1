//! Every namespace has a service account `default` and the certificate by
//! which its Pods trust the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Change, Client, Error, Informer, Part, Patch, PatchKind, index};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::controller::Controller;
use crate::workqueue::Next;

const ACCOUNT: &str = "default";
const CERTIFICATE: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

struct ServiceAccounts {
    client: Client,
    authority_pem: String,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    certificates: Informer<ConfigMap>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let informers = &context.informers;
    let this = ServiceAccounts {
        client: context.client.clone(),
        authority_pem: context.config.authority_pem.clone(),
        namespaces: informers.of(),
        accounts: informers.part(Part::field(index::by_name(), ACCOUNT)),
        certificates: informers.part(Part::field(index::by_name(), CERTIFICATE)),
    };
    let controller = Controller::new("service-account")
        .watches(&this.namespaces, |change| name_of(change.object().metadata.name.clone()))
        .watches(&this.accounts, |change| match change {
            Change::Deleted(account) => name_of(account.metadata.namespace.clone()),
            Change::Added(_) | Change::Modified { .. } => Vec::new(),
        })
        .watches(&this.certificates, |change| name_of(change.object().metadata.namespace.clone()));
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |namespace| {
        let this = this.clone();
        async move { this.sync(&namespace).await }
    });
}

fn name_of(name: Option<String>) -> Vec<String> {
    name.into_iter().collect()
}

impl ServiceAccounts {
    async fn sync(&self, namespace: &str) -> Result<Next, Error> {
        if self.namespaces.get("", namespace).is_none_or(|object| !is_active(&object)) {
            return Ok(Next::Done);
        }
        if self.accounts.get(namespace, ACCOUNT).is_none() {
            let account = ServiceAccount { metadata: named(namespace, ACCOUNT), ..ServiceAccount::default() };
            unless_there(self.client.create(namespace, &account).await)?;
        }
        let wanted = BTreeMap::from([("ca.crt".to_owned(), self.authority_pem.clone())]);
        match self.certificates.get(namespace, CERTIFICATE) {
            None => {
                let mut metadata = named(namespace, CERTIFICATE);
                let description = ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
                metadata.annotations = Some(BTreeMap::from([description]));
                let certificate = ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() };
                unless_there(self.client.create(namespace, &certificate).await)?;
            }
            Some(known) if known.data.as_ref() != Some(&wanted) => {
                // `null` first would need two writes; a JSON patch replaces the whole map.
                let body = json!([{"op": "add", "path": "/data", "value": wanted}]);
                self.client
                    .patch::<ConfigMap>(namespace, CERTIFICATE, &Patch::new(PatchKind::Json, body))
                    .await?;
            }
            Some(_) => {}
        }
        Ok(Next::Done)
    }
}

fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.into()), name: Some(name.into()), ..ObjectMeta::default() }
}

/// Somebody else was faster, or the namespace is going away: both are fine.
fn unless_there<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error)
            if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}
