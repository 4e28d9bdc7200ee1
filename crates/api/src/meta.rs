//! What all objects have: `metadata`, by names that the compiler knows.
//!
//! Objects are JSON trees, for most of what is in them only its schema knows. Their metadata is the same
//! in all, and the server lives by it: a finalizer that is looked for under a misspelt name would be one that
//! holds nothing. These are views: they borrow the tree, copy nothing, and read what is absent or of another
//! type as Go reads its zero value.

use serde_json::{Map, Value, json};

/// An object with metadata.
pub trait Object {
    /// Its metadata, to be read.
    fn meta(&self) -> Meta<'_>;

    /// Its metadata, to be written; made when there is none.
    fn meta_mut(&mut self) -> MetaMut<'_>;
}

impl Object for Value {
    fn meta(&self) -> Meta<'_> {
        Meta(self.get("metadata").and_then(Value::as_object))
    }

    fn meta_mut(&mut self) -> MetaMut<'_> {
        MetaMut(child(self, "metadata"))
    }
}

/// The map of this name in an object; one is made in place of anything else.
fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let child = &mut object[name];
    if !child.is_object() {
        *child = json!({});
    }
    child.as_object_mut().expect("it was made a map on the lines before")
}

/// metav1.ObjectMeta, read.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a>(Option<&'a Map<String, Value>>);

impl<'a> Meta<'a> {
    fn get(self, name: &str) -> Option<&'a Value> {
        self.0?.get(name)
    }

    fn text(self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn map(self, name: &str) -> Option<&'a Map<String, Value>> {
        self.get(name)?.as_object()
    }

    fn list(self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The name, empty when the server is to make one.
    pub fn name(self) -> &'a str {
        self.text("name")
    }

    /// What a made name begins with.
    pub fn generate_name(self) -> &'a str {
        self.text("generateName")
    }

    /// The namespace, empty for what is in none.
    pub fn namespace(self) -> &'a str {
        self.text("namespace")
    }

    /// The uid.
    pub fn uid(self) -> &'a str {
        self.text("uid")
    }

    /// The resourceVersion as it is written; clients may write anything.
    pub fn resource_version(self) -> &'a str {
        self.text("resourceVersion")
    }

    /// The revision at which the store holds it.
    pub fn revision(self) -> Option<u64> {
        self.resource_version().parse().ok()
    }

    /// How often what its user wishes has changed.
    pub fn generation(self) -> i64 {
        self.get("generation").and_then(Value::as_i64).unwrap_or(0)
    }

    /// When it was created.
    pub fn creation_timestamp(self) -> &'a str {
        self.text("creationTimestamp")
    }

    /// When it goes at the latest, if its deletion has begun.
    pub fn deletion_timestamp(self) -> Option<&'a str> {
        self.get("deletionTimestamp")?.as_str()
    }

    /// Whether its deletion has begun.
    pub fn is_going(self) -> bool {
        self.deletion_timestamp().is_some()
    }

    /// The seconds that its deletion gives it.
    pub fn deletion_grace_period_seconds(self) -> i64 {
        self.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0)
    }

    /// What holds it back when it goes.
    pub fn finalizers(self) -> impl Iterator<Item = &'a str> {
        self.list("finalizers").iter().filter_map(Value::as_str)
    }

    /// Whether a finalizer holds it back, be it one that cannot be read.
    pub fn is_held(self) -> bool {
        !self.list("finalizers").is_empty()
    }

    /// Its labels; a value that is no text is empty.
    pub fn labels(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let labels = self.map("labels").into_iter().flatten();
        labels.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()))
    }

    /// Its labels as they stand in it.
    pub fn label_map(self) -> Option<&'a Map<String, Value>> {
        self.map("labels")
    }

    /// The value of a label.
    pub fn label(self, name: &str) -> Option<&'a str> {
        self.map("labels")?.get(name)?.as_str()
    }

    /// The value of an annotation.
    pub fn annotation(self, name: &str) -> Option<&'a str> {
        self.map("annotations")?.get(name)?.as_str()
    }

    /// All of it, as it stands in the object.
    pub fn to_value(self) -> Value {
        self.0.cloned().map_or(Value::Null, Value::Object)
    }

    /// Whose it is.
    pub fn owner_references(self) -> impl ExactSizeIterator<Item = Owner<'a>> {
        self.list("ownerReferences").iter().map(Owner)
    }
}

/// metav1.OwnerReference.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a>(&'a Value);

impl<'a> Owner<'a> {
    fn text(self, name: &str) -> &'a str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// The group and version of the owner.
    pub fn api_version(self) -> &'a str {
        self.text("apiVersion")
    }

    /// The kind of the owner.
    pub fn kind(self) -> &'a str {
        self.text("kind")
    }

    /// The name of the owner.
    pub fn name(self) -> &'a str {
        self.text("name")
    }

    /// The uid of the owner.
    pub fn uid(self) -> &'a str {
        self.text("uid")
    }

    /// Whether the owner manages the object; `None` where that is not said.
    pub fn controller(self) -> Option<bool> {
        self.0["controller"].as_bool()
    }

    /// Whether the owner stays until the object is gone; `None` where that is not said.
    pub fn block_owner_deletion(self) -> Option<bool> {
        self.0["blockOwnerDeletion"].as_bool()
    }
}

/// metav1.ObjectMeta, written.
#[derive(Debug)]
pub struct MetaMut<'a>(&'a mut Map<String, Value>);

impl MetaMut<'_> {
    fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Takes out everything.
    pub fn clear(&mut self) -> &mut Self {
        self.0.clear();
        self
    }

    /// Names it.
    pub fn set_name(&mut self, name: &str) -> &mut Self {
        self.set("name", name)
    }

    /// Puts it into a namespace; into none by an empty name.
    pub fn set_namespace(&mut self, namespace: &str) -> &mut Self {
        if namespace.is_empty() {
            self.0.remove("namespace");
            return self;
        }
        self.set("namespace", namespace)
    }

    /// Gives it its uid.
    pub fn set_uid(&mut self, uid: &str) -> &mut Self {
        self.set("uid", uid)
    }

    /// Says when it was created.
    pub fn set_creation_timestamp(&mut self, time: &str) -> &mut Self {
        self.set("creationTimestamp", time)
    }

    /// Forgets which revision it was read at.
    pub fn clear_resource_version(&mut self) -> &mut Self {
        self.0.remove("resourceVersion");
        self
    }

    /// Says how often what its user wishes has changed.
    pub fn set_generation(&mut self, generation: i64) -> &mut Self {
        self.set("generation", generation)
    }

    /// Says when it goes at the latest.
    pub fn set_deletion_timestamp(&mut self, time: &str) -> &mut Self {
        self.set("deletionTimestamp", time)
    }

    /// Says how many seconds its deletion gives it.
    pub fn set_deletion_grace_period_seconds(&mut self, seconds: i64) -> &mut Self {
        self.set("deletionGracePeriodSeconds", seconds)
    }

    /// Lets these hold it back, and no others.
    pub fn set_finalizers(&mut self, finalizers: Vec<String>) -> &mut Self {
        if finalizers.is_empty() {
            self.0.remove("finalizers");
            return self;
        }
        self.set("finalizers", finalizers)
    }

    /// Lets this hold it back besides.
    pub fn add_finalizer(&mut self, finalizer: &str) -> &mut Self {
        let list = self.0.entry("finalizers").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(|one| one == finalizer)) {
            list.push(finalizer.into());
        }
        self
    }

    /// Takes over the labels and annotations of another object, in place of those of the same names.
    pub fn merge_labels_and_annotations(&mut self, other: Meta<'_>) -> &mut Self {
        for field in ["annotations", "labels"] {
            let Some(more) = other.map(field) else { continue };
            let own = self.0.entry(field).or_insert_with(|| json!({}));
            if !own.is_object() {
                *own = json!({});
            }
            own.as_object_mut().expect("a map, as of the line before").extend(more.clone());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_or_of_another_type_reads_as_nothing() {
        for object in
            [json!({}), json!([]), json!({"metadata": 1}), json!({"metadata": {"name": 1, "labels": []}})]
        {
            let meta = object.meta();
            assert_eq!((meta.name(), meta.revision(), meta.generation()), ("", None, 0), "{object}");
            assert_eq!(
                (meta.is_going(), meta.is_held(), meta.labels().count()),
                (false, false, 0),
                "{object}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut object = json!(null);
        object.meta_mut().set_name("a").set_namespace("n").set_uid("u").set_generation(3);
        object.meta_mut().set_deletion_timestamp("then").set_deletion_grace_period_seconds(5);
        object.meta_mut().add_finalizer("me/hold").add_finalizer("me/hold");
        let meta = object.meta();
        assert_eq!((meta.name(), meta.namespace(), meta.uid(), meta.generation()), ("a", "n", "u", 3));
        assert_eq!((meta.deletion_timestamp(), meta.deletion_grace_period_seconds()), (Some("then"), 5));
        assert_eq!(meta.finalizers().collect::<Vec<_>>(), ["me/hold"]);
        object.meta_mut().set_finalizers(Vec::new()).set_namespace("");
        assert_eq!(object["metadata"].get("finalizers").or(object["metadata"].get("namespace")), None);
    }

    #[test]
    fn owners_and_labels_are_read_where_they_are() {
        let object = json!({"metadata": {"resourceVersion": "17", "labels": {"a": "b", "c": 1},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true}]}});
        let meta = object.meta();
        assert_eq!((meta.revision(), meta.label("a"), meta.label("c")), (Some(17), Some("b"), None));
        assert_eq!(meta.labels().collect::<Vec<_>>(), [("a", "b"), ("c", "")]);
        let owner = meta.owner_references().next().expect("one");
        assert_eq!((owner.api_version(), owner.kind(), owner.name(), owner.uid()), ("v1", "Node", "n", "u"));
        assert_eq!((owner.controller(), owner.block_owner_deletion()), (Some(true), None));
    }

    #[test]
    fn labels_and_annotations_of_another_are_taken_over() {
        let mut pod = json!({"metadata": {"labels": {"a": "1", "b": "1"}}});
        let binding = json!({"metadata": {"labels": {"b": "2"}, "annotations": {"c": "3"}}});
        pod.meta_mut().merge_labels_and_annotations(binding.meta());
        assert_eq!(pod, json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"c": "3"}}}));
    }
}
