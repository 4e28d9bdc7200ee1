//! Empties a namespace that is being deleted, Pods first, then lets it go.

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Change, Client, Error, Patch, PatchKind};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::{Context, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

const FINALIZER: &str = "kubernetes";
/// How soon to look again at content that has finalizers. Pods tell by
/// themselves when they are gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let (namespaces, pods) = (context.informers.of::<Namespace>(), context.informers.of::<Pod>());
    let known = namespaces.clone();
    let controller = Controller::new("namespace")
        .watches(&namespaces, |change| match change {
            Change::Added(object) | Change::Modified { new: object, .. } => leaving(object),
            Change::Deleted(_) => Vec::new(),
        })
        .watches(&pods, move |change| match change {
            Change::Deleted(pod) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                known.get("", namespace).map(|object| leaving(&object)).unwrap_or_default()
            }
            Change::Added(_) | Change::Modified { .. } => Vec::new(),
        });
    let client = context.client.clone();
    controller.run(tasks, context.shutdown.clone(), move |name| {
        let client = client.clone();
        async move { sync(&client, &name).await }
    });
}

/// The name of a namespace that is being deleted.
fn leaving(namespace: &Namespace) -> Vec<String> {
    let metadata = &namespace.metadata;
    metadata.name.clone().filter(|_| metadata.deletion_timestamp.is_some()).into_iter().collect()
}

async fn sync(client: &Client, name: &str) -> Result<Next, Error> {
    // Fresh from the server: finalizing an old copy would only conflict.
    let namespace = match client.get::<Namespace>("", name).await {
        Err(error) if error.is_not_found() => return Ok(Next::Done),
        other => other?,
    };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(Next::Done);
    }
    let kinds = discover(client).await?;
    let left = empty(client, name, &kinds).await?;
    if left.is_empty() {
        return finalize(client, namespace).await.map(|()| Next::Done);
    }
    report(client, &namespace, &left).await?;
    Ok(Next::After(LOOK_AGAIN))
}

/// A kind with namespaced objects that can be listed and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// `/api/v1` or `/apis/<group>/<version>`.
    root: String,
    plural: String,
    /// As conditions name it: the plural, a point, and the group, also where that is empty.
    title: String,
    deletes_collections: bool,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    #[serde(rename = "preferredVersion")]
    preferred: GroupVersion,
}

#[derive(Deserialize)]
struct GroupVersion {
    #[serde(rename = "groupVersion")]
    group_version: String,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    namespaced: bool,
    verbs: Vec<String>,
}

async fn discover(client: &Client) -> Result<Vec<Kind>, Error> {
    let groups: Groups = read(client, "/apis").await?;
    let core: Resources = read(client, "/api/v1").await?;
    let mut kinds = deletable("/api/v1", "", core);
    for group in groups.groups {
        let root = format!("/apis/{}", group.preferred.group_version);
        kinds.extend(deletable(&root, &group.name, read(client, &root).await?));
    }
    Ok(kinds)
}

fn deletable(root: &str, group: &str, resources: Resources) -> Vec<Kind> {
    let has = |resource: &Resource, verb: &str| resource.verbs.iter().any(|v| v == verb);
    let wanted = |resource: &Resource| {
        resource.namespaced
            && !resource.name.contains('/')
            && has(resource, "list")
            && has(resource, "delete")
    };
    let kinds = resources.resources.into_iter().filter(wanted).map(|resource| Kind {
        root: root.to_owned(),
        deletes_collections: has(&resource, "deletecollection"),
        title: format!("{}.{group}", resource.name),
        plural: resource.name,
    });
    kinds.collect()
}

async fn read<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let body = client.raw(Method::GET, path, "", Default::default()).await?;
    serde_json::from_slice(&body).map_err(|source| Error::Decode { path: path.to_owned(), source })
}

/// What is still there, by kind.
#[derive(Debug, Default)]
struct Left {
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

/// Pods go first and alone, so that no policy or secret they rely on is taken
/// from under them (upstream's OrderedNamespaceDeletion).
async fn empty(client: &Client, namespace: &str, kinds: &[Kind]) -> Result<Left, Error> {
    let mut left = Left::default();
    let (pods, others): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| kind.title == "pods.");
    for kind in pods {
        empty_kind(client, namespace, kind, &mut left).await?;
    }
    if !left.is_empty() {
        return Ok(left);
    }
    for kind in others {
        empty_kind(client, namespace, kind, &mut left).await?;
    }
    Ok(left)
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    items: Vec<ListedItem>,
}

#[derive(Deserialize)]
struct ListedItem {
    #[serde(default)]
    metadata: ObjectMeta,
}

async fn empty_kind(client: &Client, namespace: &str, kind: &Kind, left: &mut Left) -> Result<(), Error> {
    let path = format!("{}/namespaces/{namespace}/{}", kind.root, kind.plural);
    let before: Listed = read(client, &path).await?;
    if before.items.is_empty() {
        return Ok(());
    }
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let body = || options.to_string().into_bytes().into();
    if kind.deletes_collections {
        client.raw(Method::DELETE, &path, "application/json", body()).await?;
    } else {
        for item in &before.items {
            let path = format!("{path}/{}", item.metadata.name.as_deref().unwrap_or_default());
            unless_gone(client.raw(Method::DELETE, &path, "application/json", body()).await)?;
        }
    }
    let after: Listed = read(client, &path).await?;
    for item in &after.items {
        *left.resources.entry(kind.title.clone()).or_default() += 1;
        for finalizer in item.metadata.finalizers.iter().flatten() {
            *left.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    Ok(())
}

async fn finalize(client: &Client, mut namespace: Namespace) -> Result<(), Error> {
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    unless_gone(client.replace_subresource(&namespace, "finalize").await)
}

async fn report(client: &Client, namespace: &Namespace, left: &Left) -> Result<(), Error> {
    let known = namespace.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let wanted = conditions(known, left, Timestamp::now());
    if known == wanted {
        return Ok(());
    }
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let patch =
        Patch::status(PatchKind::Merge, json!({"status": {"phase": "Terminating", "conditions": wanted}}));
    unless_gone(client.patch::<Namespace>("", name, &patch).await)
}

/// The five conditions of a namespace on its way out, in upstream's words.
fn conditions(known: &[NamespaceCondition], left: &Left, now: Timestamp) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, middle: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(what, count)| format!("{what}{middle}{count} resource instances")).collect();
        parts.join(", ")
    };
    let remaining = format!("Some resources are remaining: {}", counted(&left.resources, " has "));
    let finalizers = format!(
        "Some content in the namespace has finalizers remaining: {}",
        counted(&left.finalizers, " in ")
    );
    let mut wanted = vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        ("NamespaceContentRemaining", true, "SomeResourcesRemain", remaining),
        ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", finalizers),
    ];
    if left.finalizers.is_empty() {
        let text = "All content-preserving finalizers finished".to_owned();
        wanted[4] = ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", text);
    }
    let built = wanted.into_iter().map(|(kind, is_true, reason, message)| {
        let status = if is_true { "True" } else { "False" };
        let before = known.iter().find(|condition| condition.type_ == kind && condition.status == status);
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    });
    built.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_kinds_that_can_be_listed_and_deleted_are_content() {
        let resource = |name: &str, namespaced, verbs: &[&str]| Resource {
            name: name.to_owned(),
            namespaced,
            verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        };
        let all = ["list", "delete", "deletecollection"];
        let resources = vec![
            resource("deployments", true, &all),
            resource("deployments/status", true, &all),
            resource("clusterthings", false, &all),
            resource("reviews", true, &["create"]),
        ];
        let kinds = deletable("/apis/apps/v1", "apps", Resources { resources });
        assert_eq!(kinds.iter().map(|kind| kind.title.as_str()).collect::<Vec<_>>(), ["deployments.apps"]);
    }

    #[test]
    fn conditions_name_what_remains_and_keep_their_times() {
        let left = Left {
            resources: [("pods.".to_owned(), 2)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = conditions(&[], &left, at(1));
        assert_eq!(
            first[3].message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(
            first[4].message.as_deref(),
            Some(
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            )
        );
        assert_eq!(conditions(&first, &left, at(2)), first);
    }
}
