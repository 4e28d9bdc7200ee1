//! The selector of a Job: made by the server from the UID, unless `manualSelector` says that the user has one.

use serde_json::{Map, Value, json};

use crate::field::{Error, ErrorList, Path};
use crate::selector::LabelSelector;
use crate::validate::view::View;

type Object = Map<String, Value>;

const UID: &str = "batch.kubernetes.io/controller-uid";

/// The labels by which the Pods of a Job are found: the new names and the old ones.
fn labels(name: &str, uid: &str) -> [(&'static str, String); 4] {
    let (name, uid) = (name.to_owned(), uid.to_owned());
    [
        ("job-name", name.clone()),
        ("batch.kubernetes.io/job-name", name),
        ("controller-uid", uid.clone()),
        (UID, uid),
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

/// The selector is there, and is the generated one or chooses the template.
pub(super) fn validate(job: View<'_>, is_new: bool, errors: &mut ErrorList) {
    let (metadata, spec) = (job.get("metadata"), job.get("spec"));
    let path = Path::new("spec");
    if !spec.get("selector").is_set() {
        // One that was stored without is left as it is: nothing acts on it, and it can be deleted.
        if is_new {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        return;
    }
    let template = spec.at(&["template", "metadata", "labels"]);
    let at = path.child("template.metadata.labels");
    let Some(Ok(selector)) = spec.get("selector").value().map(LabelSelector::from_value) else { return };
    if spec.flag("manualSelector") {
        if !selector.matches(&template.value().and_then(Value::as_object)) {
            let words = "`selector` does not match template `labels`";
            errors.push(Error::invalid(&at, template.json(), words));
        }
        return;
    }
    if !is_new {
        return;
    }
    let expected = labels(metadata.str("name"), metadata.str("uid"));
    for (label, value) in &expected {
        if template.str(label) != value {
            errors.push(Error::invalid(&at, template.json(), format!("must be '{value}'")));
        }
    }
    let expected: Object =
        expected.into_iter().map(|(label, value)| (label.to_owned(), json!(value))).collect();
    if !selector.matches(&Some(&expected)) {
        let words = "`selector` not auto-generated";
        errors.push(Error::invalid(&path.child("selector"), spec.get("selector").json(), words));
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
        assert_eq!(errors, "spec.selector: Required value");
        let (_, errors) = created(json!({"template": {"metadata": {"labels": {"job-name": "b"}}}}));
        assert!(errors.ends_with("must be 'a'"), "{errors}");
    }
}
