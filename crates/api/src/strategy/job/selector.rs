//! The selector of a Job: made by the server from the UID, unless `manualSelector` says that the user has one.

use serde_json::{Map, Value, json};

use crate::field::{Error, ErrorList, Path};
use crate::selector::LabelSelector;
use crate::validate::meta::{self, SelectorValues};
use crate::validate::view::View;

type Object = Map<String, Value>;

const SPEC: Path<'static> = Path::new("spec");
const UID: &str = "batch.kubernetes.io/controller-uid";

/// The labels by which the Pods of a Job are found: the old names and the new ones.
fn labels(name: &str, uid: &str) -> [(&'static str, String); 4] {
    let (name, uid) = (name.to_owned(), uid.to_owned());
    [
        ("controller-uid", uid.clone()),
        ("job-name", name.clone()),
        (UID, uid),
        ("batch.kubernetes.io/job-name", name),
    ]
}

fn child<'a>(object: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    let value = object.entry(name).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// Labels the template and selects by the UID. What the user wrote there stays, for the validation to refuse.
pub(crate) fn prepare_create(job: &mut Object) {
    let text = |job: &Object, name: &str| {
        let value = job.get("metadata").and_then(|metadata| metadata.get(name)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let (name, uid) = (text(job, "name"), text(job, "uid"));
    let Some(spec) = child(job, "spec") else { return };
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let template = child(spec, "template").and_then(|template| child(template, "metadata"));
    let Some(template) = template.and_then(|metadata| child(metadata, "labels")) else { return };
    for (label, value) in labels(&name, &uid) {
        template.entry(label).or_insert_with(|| json!(value));
    }
    let labels = template.clone();
    let Some(selector) = child(spec, "selector").and_then(|selector| child(selector, "matchLabels")) else {
        return;
    };
    selector.entry(UID).or_insert_with(|| json!(uid));
    // A Job without labels has those of its Pods: upstream's default, seen whenever it is read.
    let own = child(job, "metadata").and_then(|metadata| child(metadata, "labels"));
    if let Some(own) = own.filter(|own| own.is_empty()) {
        *own = labels;
    }
}

/// What was generated is what it would be made of the name and the uid. A Job that is older than the labels with
/// a prefix does not get them.
pub(super) fn generated(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let (metadata, spec) = (new.get("metadata"), new.get("spec"));
    if spec.flag("manualSelector") || !spec.get("selector").is_set() {
        return;
    }
    let before = old.map(|old| old.at(&["spec", "template", "metadata", "labels"]));
    let is_expected =
        |label: &str| !label.contains('/') || before.is_none_or(|before| before.get(label).is_set());
    let mut expected = labels(metadata.str("name"), metadata.str("uid")).to_vec();
    expected.retain(|(label, _)| is_expected(label));
    let labels = spec.at(&["template", "metadata", "labels"]);
    let path = SPEC.child("template.metadata.labels");
    for (label, value) in &expected {
        let (found, words) = (labels.get(label), format!("must be '{value}'"));
        if !found.is_set() {
            errors.push(Error::required(&path.key(label), words));
        } else if found.text() != value {
            errors.push(Error::invalid(&path.key(label), labels.json(), words));
        }
    }
    let Some(Ok(selector)) = spec.get("selector").value().map(LabelSelector::from_value) else { return };
    let expected: Object =
        expected.into_iter().map(|(label, value)| (label.to_owned(), json!(value))).collect();
    if !selector.matches(&Some(&expected)) {
        let words = "`selector` not auto-generated";
        errors.push(Error::invalid(&SPEC.child("selector"), spec.get("selector").json(), words));
    }
}

/// There is one, and it chooses the template.
pub(super) fn chooses(spec: View<'_>, errors: &mut ErrorList) {
    let (selector, path) = (spec.get("selector"), SPEC.child("selector"));
    if !selector.is_set() {
        errors.push(Error::required(&path, ""));
    }
    meta::label_selector(selector, SelectorValues::Checked, &path, errors);
    let labels = spec.at(&["template", "metadata", "labels"]);
    let chosen = match selector.value().map(LabelSelector::from_value) {
        Some(Ok(selector)) => selector.matches(&labels.value().and_then(Value::as_object)),
        Some(Err(_)) => return,
        None => false,
    };
    if !chosen {
        let words = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&SPEC.child("template.metadata.labels"), labels.json(), words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use crate::{defaults, strategy};

    fn created(spec: Value) -> (Value, String) {
        let mut spec = spec;
        spec["template"]["spec"] =
            json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]});
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a", "namespace": "n", "uid": "u"}, "spec": spec});
        let kind = by_kind("batch/v1", "Job").unwrap();
        defaults::apply(kind, &mut job);
        strategy::prepare_create(kind, &mut job);
        let errors = strategy::validate_create(kind, &job).to_string();
        (job, errors)
    }

    #[test]
    fn a_job_chooses_its_pods_by_its_own_uid() {
        let (job, errors) = created(json!({"template": {}}));
        assert_eq!(errors, "");
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        let labels = json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "a", "controller-uid": "u", "job-name": "a"});
        assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(job["metadata"]["labels"], labels);
        let (job, _) = created(json!({"template": {"metadata": {"labels": {"app": "x"}}}}));
        assert_eq!(job["metadata"]["labels"], json!({"app": "x"}), "as it was defaulted");
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["app"], "x");
    }

    #[test]
    fn a_selector_of_ones_own_needs_to_be_announced() {
        let own = json!({"matchLabels": {"app": "x"}});
        let template = json!({"metadata": {"labels": {"app": "x"}}});
        let (_, errors) = created(json!({"selector": own, "template": template}));
        assert!(errors.ends_with("`selector` not auto-generated"), "{errors}");
        let (job, errors) = created(json!({"selector": own, "manualSelector": true, "template": template}));
        assert_eq!((errors.as_str(), &job["spec"]["selector"]), ("", &own));
        let (_, errors) = created(json!({"manualSelector": true, "template": template}));
        assert_eq!(
            errors,
            "[spec.selector: Required value, spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`]"
        );
        let (_, errors) = created(json!({"template": {"metadata": {"labels": {"job-name": "b"}}}}));
        assert!(errors.starts_with("spec.template.metadata.labels[job-name]: Invalid value: {"), "{errors}");
        assert!(errors.ends_with("must be 'a'"), "{errors}");
    }
}
