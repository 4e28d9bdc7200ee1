//! The past templates of StatefulSets and DaemonSets, kept as ControllerRevisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::selector::LabelSelector;
use client::{Client, DeleteOptions, Error, Informer, Object, Patch, PatchKind};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::context::unless_gone;
use crate::ownership::{claimed, controller_reference};

/// The label by which a Pod names the revision that it was made from.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// What the label says, `""` without it.
pub(crate) fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).map(String::as_str).unwrap_or_default()
}

/// How a kind names its revisions.
pub(crate) struct Naming {
    /// The label that has the hash.
    pub(crate) hash_label: &'static str,
}

/// What there is to do for the template of now to be the last revision.
#[derive(Debug, PartialEq)]
enum Turn {
    /// It is.
    Last(Arc<ControllerRevision>),
    /// It was before: rolled back, it gets the next number.
    Again(Arc<ControllerRevision>, i64),
    /// It never was.
    New(i64),
}

fn turn(sorted: &[Arc<ControllerRevision>], data: &Value) -> Turn {
    let next = sorted.last().map_or(1, |last| last.revision.saturating_add(1));
    match sorted.iter().rposition(|revision| is_equal(revision, data)) {
        Some(at) if at + 1 == sorted.len() => Turn::Last(sorted[at].clone()),
        Some(at) => Turn::Again(sorted[at].clone(), next),
        None => Turn::New(next),
    }
}

/// A strategic merge patch that makes the template what it was: what `kubectl rollout undo` sends.
fn data(template: &PodTemplateSpec) -> Value {
    let mut data = json!({"spec": {"template": template}});
    data["spec"]["template"]["$patch"] = "replace".into();
    data
}

fn is_equal(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|own| without_nulls(&own.0) == without_nulls(data))
}

/// What older releases wrote as `null` newer ones leave out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Result<PodTemplateSpec, Error> {
    let kept = revision.data.as_ref().map(|data| data.0["spec"]["template"].clone()).unwrap_or_default();
    let name = revision.metadata.name.as_deref().unwrap_or_default();
    let path = || format!("controllerrevisions/{name}");
    serde_json::from_value(kept).map_err(|source| Error::Decode { path: path(), source })
}

/// Oldest first.
fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let key = |one: &ControllerRevision| {
            (one.revision, one.metadata.creation_timestamp.clone(), one.metadata.name.clone())
        };
        key(a).cmp(&key(b))
    });
}

/// The revisions beyond `limit` that nobody needs, oldest first.
fn surplus(
    sorted: &[Arc<ControllerRevision>],
    live: &BTreeSet<String>,
    limit: i32,
) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let is_live = |revision: &ControllerRevision| {
        revision.metadata.name.as_ref().is_some_and(|name| live.contains(name))
    };
    let mut past: Vec<_> = sorted.iter().filter(|revision| !is_live(revision)).cloned().collect();
    past.truncate(past.len().saturating_sub(limit));
    past
}

/// FNV-1 of the data and of how often names collided, in upstream's letters.
fn hash(data: &Value, collisions: i32) -> String {
    let text = format!("{data}{collisions}");
    let hash =
        text.bytes().fold(2_166_136_261_u32, |hash, byte| hash.wrapping_mul(16_777_619) ^ u32::from(byte));
    safe_encode(&hash.to_string())
}

/// Letters that make no bad words.
pub(crate) fn safe_encode(text: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}

fn new_revision<K: Object>(
    owner: &K,
    naming: &Naming,
    template: &PodTemplateSpec,
    (data, number, collisions): (&Value, i64, i32),
) -> ControllerRevision {
    let hash = hash(data, collisions);
    let name = owner.metadata().name.as_deref().unwrap_or_default();
    let prefix = &name[..name.floor_char_boundary(name.len().min(223))];
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    let mut labels: BTreeMap<String, String> = labels.unwrap_or_default();
    labels.insert(naming.hash_label.to_owned(), hash.clone());
    let metadata = ObjectMeta {
        name: Some(format!("{prefix}-{hash}")),
        namespace: owner.metadata().namespace.clone(),
        labels: Some(labels),
        annotations: owner.metadata().annotations.clone(),
        owner_references: Some(vec![controller_reference(owner)]),
        ..ObjectMeta::default()
    };
    ControllerRevision { metadata, data: Some(RawExtension(data.clone())), revision: number }
}

/// Reads and writes the revisions of one kind's objects.
pub(crate) struct History {
    pub(crate) client: Client,
    pub(crate) revisions: Informer<ControllerRevision>,
    pub(crate) naming: Naming,
}

impl History {
    /// The revisions of `owner`, oldest first.
    pub(crate) async fn of<K: Object>(
        &self,
        owner: &K,
        selector: &LabelSelector,
    ) -> Result<Vec<Arc<ControllerRevision>>, Error> {
        let mut revisions = claimed(&self.client, owner, selector, &self.revisions).await?;
        sort(&mut revisions);
        Ok(revisions)
    }

    /// The revision of the template of now, which is the last one after this. `collisions` counts the
    /// names that were taken by other data.
    pub(crate) async fn update<K: Object>(
        &self,
        owner: &K,
        template: &PodTemplateSpec,
        sorted: &[Arc<ControllerRevision>],
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, Error> {
        let data = data(template);
        match turn(sorted, &data) {
            Turn::Last(revision) => Ok(revision),
            Turn::Again(revision, number) => {
                let metadata = &revision.metadata;
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                let body = json!({"revision": number, "metadata": {"uid": metadata.uid}});
                let patch = Patch::new(PatchKind::Merge, body);
                let name = metadata.name.as_deref().unwrap_or_default();
                self.client.patch(namespace, name, &patch).await.map(Arc::new)
            }
            Turn::New(number) => loop {
                let new = new_revision(owner, &self.naming, template, (&data, number, *collisions));
                match self.create(owner, &new, &data).await? {
                    Some(revision) => return Ok(Arc::new(revision)),
                    None => *collisions = collisions.wrapping_add(1),
                }
            },
        }
    }

    /// `None`: the name is taken by something else.
    async fn create<K: Object>(
        &self,
        owner: &K,
        new: &ControllerRevision,
        data: &Value,
    ) -> Result<Option<ControllerRevision>, Error> {
        let namespace = owner.metadata().namespace.as_deref().unwrap_or_default();
        match self.client.create(namespace, new).await {
            Err(error) if error.is_already_exists() => {
                let name = new.metadata.name.as_deref().unwrap_or_default();
                let there: ControllerRevision = self.client.get(namespace, name).await?;
                Ok(is_equal(&there, data).then_some(there))
            }
            result => result.map(Some),
        }
    }

    /// Deletes what is beyond `limit` and not `live`.
    pub(crate) async fn truncate(
        &self,
        sorted: &[Arc<ControllerRevision>],
        live: &BTreeSet<String>,
        limit: i32,
    ) -> Result<(), Error> {
        for revision in surplus(sorted, live, limit) {
            let metadata = &revision.metadata;
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            let name = metadata.name.as_deref().unwrap_or_default();
            let options = DeleteOptions::of_uid(metadata.uid.as_deref().unwrap_or_default());
            unless_gone(self.client.delete::<ControllerRevision>(namespace, name, &options).await)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    fn revision(name: &str, number: i64, image: &str) -> Arc<ControllerRevision> {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let data = Some(RawExtension(data(&template(image))));
        Arc::new(ControllerRevision { metadata, data, revision: number })
    }

    #[test]
    fn a_template_that_was_before_gets_the_next_number_and_no_second_revision() {
        assert_eq!(turn(&[], &data(&template("a"))), Turn::New(1));
        let sorted = [revision("x", 1, "a"), revision("y", 4, "b")];
        assert_eq!(turn(&sorted, &data(&template("b"))), Turn::Last(sorted[1].clone()));
        assert_eq!(turn(&sorted, &data(&template("a"))), Turn::Again(sorted[0].clone(), 5));
        assert_eq!(turn(&sorted, &data(&template("c"))), Turn::New(5));
    }

    #[test]
    fn a_null_of_an_older_release_makes_no_new_revision() {
        let mut old = (*revision("x", 1, "a")).clone();
        old.data.as_mut().unwrap().0["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
        assert!(is_equal(&old, &data(&template("a"))));
    }

    #[test]
    fn a_revision_gives_its_template_back() {
        assert_eq!(super::template(&revision("x", 1, "a")).unwrap(), template("a"));
        assert!(super::template(&ControllerRevision::default()).is_err());
    }

    #[test]
    fn the_oldest_go_and_the_live_stay() {
        let sorted: Vec<_> = (1..=5).map(|number| revision(&format!("r{number}"), number, "a")).collect();
        let live = BTreeSet::from(["r1".to_owned(), "r5".to_owned()]);
        let names = |limit| {
            let surplus = surplus(&sorted, &live, limit);
            surplus.iter().map(|one| one.metadata.name.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["r2", "r3"]);
        assert_eq!(names(0), ["r2", "r3", "r4"]);
        assert!(names(3).is_empty());
    }

    #[test]
    fn names_are_upstreams_letters_and_a_collision_makes_another() {
        // FNV-1 of the empty text is its basis.
        assert_eq!(safe_encode("2166136261"), "65bb57b6b5");
        assert_ne!(hash(&json!({}), 0), hash(&json!({}), 1));
    }
}
