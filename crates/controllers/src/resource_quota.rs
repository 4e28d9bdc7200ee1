//! Counts what ResourceQuotas limit. Admission adds to the count as objects are made;
//! this controller fills in new quotas and counts again when something goes.

use std::time::Duration;

use api::kinds::{Kind, Kinds};
use api::strategy::admission::quota;
use client::{Change, Client, Error, key_of, object_path};
use http::Method;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::census::{self, Census, Seen};
use crate::conditions::is_finished;
use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

/// Upstream's `--resource-quota-sync-period`: repairs what was charged for objects
/// whose write failed together with the program.
const COUNT_AGAIN: Duration = Duration::from_secs(300);

pub(crate) fn spawn(context: &Context, census: &mut Census, tasks: &mut JoinSet<()>) {
    let quotas = context.informers.of::<ResourceQuota>();
    let known = quotas.clone();
    let of_namespace = move |namespace: Option<&str>| -> Vec<String> {
        let here = known.filter(|quota| quota.metadata.namespace.as_deref() == namespace);
        here.iter().map(|quota| key_of(&**quota)).collect()
    };
    let (of_pod, of_service) = (of_namespace.clone(), of_namespace.clone());
    let controller = Controller::new("resource-quota")
        .watches(&quotas, |change| match change {
            Change::Added(quota) | Change::Modified { new: quota, .. } if !is_counted(quota) => {
                vec![key_of(&**quota)]
            }
            _ => Vec::new(),
        })
        // What counts less without being gone.
        .watches(&context.informers.of::<Pod>(), move |change| match change {
            Change::Modified { old, new } if is_finished(new) && !is_finished(old) => {
                of_pod(new.metadata.namespace.as_deref())
            }
            _ => Vec::new(),
        })
        .watches(&context.informers.of::<Service>(), move |change| match change {
            Change::Modified { old, new } if old.spec != new.spec => {
                of_service(new.metadata.namespace.as_deref())
            }
            _ => Vec::new(),
        });
    let keys = controller.keys();
    census.listen(move |resource, seen| {
        if let Seen::Gone(metadata) = seen
            && resource.namespaced
        {
            of_namespace(Some(&metadata.namespace)).into_iter().for_each(|key| {
                let _ = keys.send(key);
            });
        }
    });
    let (client, kinds) = (context.client.clone(), context.kinds.clone());
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let (client, kinds) = (client.clone(), kinds.borrow().clone());
        async move { sync(&client, &kinds, &key).await }
    });
}

/// Whether the status is of the limits that the quota has now.
fn is_counted(quota: &ResourceQuota) -> bool {
    let wanted = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    let known = status.and_then(|status| status.hard.as_ref());
    let empty = |hard: Option<&std::collections::BTreeMap<_, _>>| hard.is_none_or(|hard| hard.is_empty());
    status.is_some() && (wanted == known || empty(wanted) && empty(known))
}

async fn sync(client: &Client, kinds: &Kinds, key: &str) -> Result<Next, Error> {
    let (namespace, name) = split(key);
    let path = object_path("", "v1", "resourcequotas", namespace, name);
    let mut counting = match read(client, &path).await {
        Err(error) if error.is_not_found() => return Ok(Next::Done),
        other => other?,
    };
    let mut objects = Vec::new();
    for kind in census::followed(kinds).filter(|kind| kind.namespaced && is_limited(&counting, kind)) {
        let path = object_path(&kind.group, &kind.version, &kind.plural, namespace, "");
        let mut listed = read(client, &path).await?;
        if let Value::Array(items) = listed["items"].take() {
            objects.extend(items.into_iter().map(|item| (kind, item)));
        }
    }
    let status = quota::status(kinds, &counting, objects.iter().map(|(kind, object)| (&***kind, object)));
    if counting["status"] != status {
        counting["status"] = status;
        let body = counting.to_string().into_bytes().into();
        let path = format!("{path}/status");
        unless_gone(client.raw(Method::PUT, &path, "application/json", body).await)?;
    }
    Ok(Next::After(COUNT_AGAIN))
}

fn is_limited(counting: &Value, kind: &Kind) -> bool {
    let hard = counting["spec"]["hard"].as_object();
    hard.is_some_and(|hard| hard.keys().any(|name| quota::concerns(kind, name)))
}

async fn read(client: &Client, path: &str) -> Result<Value, Error> {
    let body = client.raw(Method::GET, path, "", Default::default()).await?;
    serde_json::from_slice(&body).map_err(|source| Error::Decode { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quota_is_counted_when_it_is_new_and_when_its_limits_change() {
        let quota = |value: Value| serde_json::from_value::<ResourceQuota>(value).unwrap();
        assert!(!is_counted(&quota(json!({"spec": {"hard": {"pods": "1"}}}))));
        assert!(!is_counted(&quota(
            json!({"spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "2"}}})
        )));
        assert!(is_counted(&quota(
            json!({"spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "1"}}})
        )));
    }

    #[test]
    fn only_kinds_that_the_quota_names_are_listed() {
        let counting = json!({"spec": {"hard": {"limits.memory": "1Gi", "count/jobs.batch": "3"}}});
        let kinds = api::kinds::built_in();
        let limited: Vec<_> = census::followed(kinds)
            .filter(|kind| is_limited(&counting, kind))
            .map(|kind| &*kind.plural)
            .collect();
        assert_eq!(limited, ["pods", "jobs"]);
    }
}
