//! Which dependents an owner has: those whose controller reference names it, and those of nobody that its
//! selector means. Upstream calls this the ControllerRefManager.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::selector::LabelSelector;
use client::{Change, Client, Error, Informer, Object, Patch, PatchKind, index, key, key_of};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

/// The owner that manages an object.
pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    controller_among(metadata.owner_references.as_deref().unwrap_or_default())
}

/// The owner of these that manages.
pub(crate) fn controller_among(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The key of the owner of the kind `O` that manages an object.
pub(crate) fn owner_key<O: Object>(metadata: &ObjectMeta) -> Option<String> {
    let owner = controller_of(metadata)?;
    let is_of_kind = owner.kind == O::KIND && owner.api_version == O::API_VERSION;
    is_of_kind.then(|| key(metadata.namespace.as_deref().unwrap_or_default(), &owner.name))
}

/// The keys of the owners of the kind `O` that managed a dependent before a change of it, and manage it now.
pub(crate) fn owner_keys<O: Object, K: Object>(change: &Change<K>) -> BTreeSet<String> {
    let old = if let Change::Modified { old, .. } = change { Some(old.metadata()) } else { None };
    old.into_iter().chain([change.object().metadata()]).filter_map(owner_key::<O>).collect()
}

/// The keys of the owners that a change of a dependent concerns: the owner before, the owner now, and, where
/// it is nobody's, those that select it. An orphan whose labels stay as they were is no news to anybody.
pub(crate) fn concerned<O: Object, K: Object>(
    change: &Change<K>,
    owners: &Informer<O>,
    selects: impl Fn(&O, &K) -> bool,
) -> Vec<String> {
    let new = change.object();
    let mut keys = owner_keys::<O, K>(change);
    let old = if let Change::Modified { old, .. } = change { Some(old.metadata()) } else { None };
    let is_news = old.is_none_or(|old| controller_of(old).is_some() || old.labels != new.metadata().labels);
    if controller_of(new.metadata()).is_none() && is_news {
        let namespace = &new.metadata().namespace;
        let selecting =
            owners.filter(|owner| owner.metadata().namespace == *namespace && selects(owner, new));
        keys.extend(selecting.iter().map(|owner| key_of(&**owner)));
    }
    keys.into_iter().collect()
}

/// The reference by which `owner` manages what it makes.
pub(crate) fn controller_reference<O: Object>(owner: &O) -> OwnerReference {
    let metadata = owner.metadata();
    OwnerReference {
        api_version: O::API_VERSION.to_owned(),
        kind: O::KIND.to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an owner does about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is the owner's already.
    Keep,
    Adopt,
    /// It is the owner's and its labels are not any more.
    Release,
    Leave,
}

fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matches = selector.matches(&object.labels);
    let (owner_stays, stays) = (owner.deletion_timestamp.is_none(), object.deletion_timestamp.is_none());
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Leave,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_stays => Claim::Release,
        Some(_) => Claim::Leave,
        None if matches && owner_stays && stays => Claim::Adopt,
        None => Claim::Leave,
    }
}

/// The dependents of `owner`, after orphans were adopted and strangers released. Nobody is adopted by an
/// owner that the server says is gone: the informer may not have heard of it.
pub(crate) async fn claimed<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    dependents: &Informer<K>,
) -> Result<Vec<Arc<K>>, Error> {
    claimed_as(client, owner, selector, dependents, |_| true, None).await
}

/// The same, for an owner who adopts no others than those that `fits` is true for.
pub(crate) async fn claimed_where<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    dependents: &Informer<K>,
    fits: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, Error> {
    claimed_as(client, owner, selector, dependents, fits, None).await
}

/// [`claimed`], where a dependent has a finalizer for as long as it is the owner's.
pub(crate) async fn held<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    dependents: &Informer<K>,
    finalizer: &str,
) -> Result<Vec<Arc<K>>, Error> {
    claimed_as(client, owner, selector, dependents, |_| true, Some(finalizer)).await
}

async fn claimed_as<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    dependents: &Informer<K>,
    fits: impl Fn(&K) -> bool,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, Error> {
    let metadata = owner.metadata();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let mut candidates = dependents.by_index(index::by_owner(), uid);
    // An orphan may name the owner as one that manages nothing; it is among the orphans.
    candidates.retain(|object| {
        object.metadata().namespace == metadata.namespace && controller_of(object.metadata()).is_some()
    });
    candidates.extend(dependents.by_index(index::orphans(), namespace));
    let mut claimed = Vec::new();
    let mut may_adopt = None;
    for object in candidates {
        match claim(metadata, selector, object.metadata()) {
            Claim::Keep => claimed.push(object),
            Claim::Leave => {}
            Claim::Release => release(client, owner, &*object, finalizer).await?,
            Claim::Adopt if !fits(&object) => {}
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(stays::<O>(client, metadata).await?);
                }
                if may_adopt == Some(true) && adopt(client, owner, &*object, finalizer).await? {
                    claimed.push(object);
                }
            }
        }
    }
    Ok(claimed)
}

/// Whether the server still has this very owner, and does not delete it: what an informer says of that may be
/// older than what it says of the dependents.
pub(crate) async fn stays<O: Object>(client: &Client, known: &ObjectMeta) -> Result<bool, Error> {
    let (namespace, name) = (known.namespace.as_deref(), known.name.as_deref());
    match client.get::<O>(namespace.unwrap_or_default(), name.unwrap_or_default()).await {
        Ok(owner) => {
            let now = owner.metadata();
            Ok(now.uid == known.uid && now.deletion_timestamp.is_none())
        }
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

async fn adopt<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    object: &K,
    finalizer: Option<&str>,
) -> Result<bool, Error> {
    let reference = controller_reference(owner);
    let owners = json!([{
        "apiVersion": reference.api_version, "kind": reference.kind, "name": reference.name,
        "uid": reference.uid, "controller": true, "blockOwnerDeletion": true,
    }]);
    patch_owners(client, object, owners, finalizer.map(|finalizer| ("finalizers", finalizer))).await
}

async fn release<O: Object, K: Object>(
    client: &Client,
    owner: &O,
    object: &K,
    finalizer: Option<&str>,
) -> Result<(), Error> {
    let owners = json!([{"$patch": "delete", "uid": owner.metadata().uid}]);
    let finalizer = finalizer.map(|finalizer| ("$deleteFromPrimitiveList/finalizers", finalizer));
    patch_owners(client, object, owners, finalizer).await.map(drop)
}

/// Whether the object is there for it. Another object of its name answers 409, one that has let go of the
/// owner already 422; both are somebody else's by now.
async fn patch_owners<K: Object>(
    client: &Client,
    object: &K,
    owners: serde_json::Value,
    finalizer: Option<(&str, &str)>,
) -> Result<bool, Error> {
    let metadata = object.metadata();
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let mut body = json!({"metadata": {"uid": metadata.uid, "ownerReferences": owners}});
    if let Some((how, finalizer)) = finalizer {
        body["metadata"][how] = json!([finalizer]);
    }
    let patch = Patch::new(PatchKind::Strategic, body);
    match client.patch::<K>(namespace.unwrap_or_default(), name.unwrap_or_default(), &patch).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() || error.code() == 422 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn orphans_that_match_are_adopted_and_strangers_released_while_the_owner_stays() {
        let selector = LabelSelector::parse("app=web").unwrap();
        let gone = || Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let owner = |deleted: bool| ObjectMeta {
            uid: Some("u".into()),
            deletion_timestamp: if deleted { gone() } else { None },
            ..ObjectMeta::default()
        };
        let object = |app: &str, controller: Option<&str>, deleted: bool| ObjectMeta {
            labels: Some([("app".to_owned(), app.to_owned())].into()),
            owner_references: controller.map(|uid| {
                vec![OwnerReference { uid: uid.into(), controller: Some(true), ..OwnerReference::default() }]
            }),
            deletion_timestamp: if deleted { gone() } else { None },
            ..ObjectMeta::default()
        };
        for (app, controller, deleted, stays, goes) in [
            ("web", Some("u"), false, Claim::Keep, Claim::Keep),
            ("web", Some("u"), true, Claim::Keep, Claim::Keep),
            ("db", Some("u"), false, Claim::Release, Claim::Leave),
            ("web", Some("v"), false, Claim::Leave, Claim::Leave),
            ("web", None, false, Claim::Adopt, Claim::Leave),
            ("web", None, true, Claim::Leave, Claim::Leave),
            ("db", None, false, Claim::Leave, Claim::Leave),
        ] {
            let object = object(app, controller, deleted);
            assert_eq!(claim(&owner(false), &selector, &object), stays, "{object:?}");
            assert_eq!(claim(&owner(true), &selector, &object), goes, "{object:?}");
        }
    }
}
