//! The workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController.

use serde_json::Value;

use super::pod;
use super::prepare;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::{Kind, Object};
use crate::selector::LabelSelector;
use crate::validate::meta::{self, SelectorValues, immutable, same};
use crate::validate::view::View;
use crate::validate::{is_valid_percent, non_negative};

const SPEC: Path<'static> = Path::new("spec");

pub(crate) fn pod_template(new: View<'_>, _: Option<View<'_>>, errors: &mut ErrorList) {
    pod::template(new.get("template"), &Path::new("template"), errors);
}

/// Where the first releases of DaemonSets counted changes of the template: Pods of theirs are known by it.
pub(crate) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(crate) fn prepare_daemon_set(new: &mut Object) {
    set_template_generation(new, 1);
}

pub(crate) fn prepare_daemon_set_update(
    kind: &Kind,
    subresource: Option<&str>,
    new: &mut Object,
    old: &Object,
) {
    prepare::update(kind, subresource, new, old);
    let template = |set: &Object| set.get("spec").and_then(|spec| spec.get("template")).cloned();
    let annotations = old.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let known =
        annotations.and_then(|annotations| annotations.get(TEMPLATE_GENERATION)).and_then(Value::as_str);
    let known: i64 = known.and_then(|text| text.parse().ok()).unwrap_or(0);
    let changed = !same(template(new).as_ref(), template(old).as_ref());
    set_template_generation(new, known.saturating_add(i64::from(changed)));
}

fn set_template_generation(set: &mut Object, generation: i64) {
    let annotations = prepare::metadata(set).entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = Value::Object(Object::new());
    }
    // What is no map is refused by its validation.
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
    }
}

/// Warnings for the Pod template of a workload.
pub(crate) fn template_warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    pod::template_warnings(View::new(object).at(&["spec", "template"]), &SPEC.child("template"))
}

/// The selector of Pods cannot change.
fn selector_update(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    if let Some(old) = old {
        fixed(new.get("spec"), old.get("spec"), &["selector"], errors);
    }
}

fn fixed(new: View<'_>, old: View<'_>, fields: &[&str], errors: &mut ErrorList) {
    for name in fields {
        immutable(new.get(name), old.get(name), &SPEC.child(name), errors);
    }
}

pub(super) fn numbers(spec: View<'_>, fields: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    for name in fields {
        non_negative(spec.int(name), &path.child(name), errors);
    }
}

/// The selector is there, well-formed, not empty, and chooses the template's Pods.
fn selector(spec: View<'_>, what: &str, errors: &mut ErrorList) {
    let (selector, path) = (spec.get("selector"), SPEC.child("selector"));
    if !selector.is_set() {
        errors.push(Error::required(&path, ""));
        return;
    }
    meta::label_selector(selector, SelectorValues::Checked, &path, errors);
    if !selector.has_items("matchLabels") && !selector.has_items("matchExpressions") {
        let words = format!("empty selector is invalid for {what}");
        errors.push(Error::invalid(&path, selector.json(), words));
    }
}

/// Whether the selector chooses the labels of the template.
fn template_matches(spec: View<'_>, errors: &mut ErrorList) {
    let labels = spec.at(&["template", "metadata", "labels"]);
    let Some(Ok(selector)) = spec.get("selector").value().map(LabelSelector::from_value) else { return };
    if !selector.is_everything() && !selector.matches(&labels.value().and_then(Value::as_object)) {
        let words = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&SPEC.child("template.metadata.labels"), labels.json(), words));
    }
}

/// The template of a workload whose Pods run for ever.
fn template(spec: View<'_>, kind: &str, errors: &mut ErrorList) {
    template_matches(spec, errors);
    let path = SPEC.child("template");
    if kind == "StatefulSet" {
        pod::template_metadata(spec.get("template"), &path, errors);
    } else {
        pod::template(spec.get("template"), &path, errors);
    }
    let own = spec.at(&["template", "spec"]);
    if own.str("restartPolicy") != "Always" {
        let at = path.child("spec.restartPolicy");
        errors.push(Error::not_supported(&at, own.str("restartPolicy"), &["Always"]));
    }
    if own.get("activeDeadlineSeconds").is_set() {
        let words = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(Error::forbidden(&path.child("spec.activeDeadlineSeconds"), words));
    }
}

pub(crate) fn replication_controller(new: View<'_>, _: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    numbers(spec, &["minReadySeconds"], &SPEC, errors);
    if !spec.has_items("selector") {
        errors.push(Error::required(&SPEC.child("selector"), ""));
    }
    numbers(spec, &["replicas"], &SPEC, errors);
    let labels = spec.at(&["template", "metadata", "labels"]);
    let chosen = spec.map("selector").all(|(key, value)| labels.get(key).value() == value.value());
    if !chosen {
        let words = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&SPEC.child("template.metadata.labels"), labels.json(), words));
    }
    let path = SPEC.child("template");
    pod::template(spec.get("template"), &path, errors);
}

pub(crate) fn deployment(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    numbers(spec, &["replicas"], &SPEC, errors);
    selector(spec, "deployment", errors);
    template(spec, "ReplicaSet", errors);
    strategy(spec, errors);
    numbers(spec, &["minReadySeconds", "revisionHistoryLimit"], &SPEC, errors);
    let (seconds, path) = (spec.get("progressDeadlineSeconds"), SPEC.child("progressDeadlineSeconds"));
    if let Some(seconds) = seconds.as_int() {
        non_negative(seconds, &path, errors);
        if seconds <= spec.int("minReadySeconds") {
            errors.push(Error::invalid(&path, seconds, "must be greater than minReadySeconds"));
        }
    }
    selector_update(new, old, errors);
}

fn strategy(spec: View<'_>, errors: &mut ErrorList) {
    let (strategy, path) = (spec.get("strategy"), SPEC.child("strategy"));
    let rolling = strategy.get("rollingUpdate");
    match strategy.str("type") {
        "Recreate" if rolling.is_set() => {
            let words = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(&path.child("rollingUpdate"), words));
        }
        "Recreate" => {}
        "RollingUpdate" => rolling_update(rolling, &path.child("rollingUpdate"), errors),
        other => {
            errors.push(Error::not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]))
        }
    }
}

/// How many Pods may be too many or too few meanwhile; not both may be none.
fn rolling_update(rolling: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !rolling.is_set() {
        errors.push(Error::required(path, "this should be defaulted and never be nil"));
        return;
    }
    for name in ["maxUnavailable", "maxSurge"] {
        int_or_percent(rolling.get(name), &path.child(name), errors);
    }
    if is_none(rolling.get("maxUnavailable")) && is_none(rolling.get("maxSurge")) {
        let words = "may not be 0 when `maxSurge` is 0";
        errors.push(Error::invalid(
            &path.child("maxUnavailable"),
            rolling.get("maxUnavailable").json(),
            words,
        ));
    }
    if percent(rolling.get("maxUnavailable")).is_some_and(|percent| percent > 100) {
        let at = path.child("maxUnavailable");
        errors.push(Error::invalid(
            &at,
            rolling.get("maxUnavailable").json(),
            "must not be greater than 100%",
        ));
    }
}

fn percent(value: View<'_>) -> Option<u64> {
    value.text().strip_suffix('%')?.parse().ok()
}

fn is_none(value: View<'_>) -> bool {
    percent(value).or(value.as_int().map(i64::unsigned_abs)).unwrap_or(0) == 0
}

fn int_or_percent(value: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    match value.value() {
        Some(Value::String(text)) => {
            for _ in is_valid_percent(text) {
                let words = "must be an integer or percentage (e.g '5%')";
                errors.push(Error::invalid(path, text.clone(), words));
            }
        }
        _ => non_negative(value.as_int().unwrap_or(0), path, errors),
    }
}

pub(crate) fn replica_set(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    numbers(spec, &["replicas", "minReadySeconds"], &SPEC, errors);
    selector(spec, "deployment", errors);
    template(spec, "ReplicaSet", errors);
    selector_update(new, old, errors);
}

pub(crate) fn daemon_set(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    selector(spec, "daemonset", errors);
    template(spec, "DaemonSet", errors);
    numbers(spec, &["minReadySeconds", "revisionHistoryLimit"], &SPEC, errors);
    let (strategy, path) = (spec.get("updateStrategy"), SPEC.child("updateStrategy"));
    match strategy.str("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let (rolling, at) = (strategy.get("rollingUpdate"), path.child("rollingUpdate"));
            for name in ["maxUnavailable", "maxSurge"] {
                int_or_percent(rolling.get(name), &at.child(name), errors);
            }
            let (unavailable, surge) =
                (is_none(rolling.get("maxUnavailable")), is_none(rolling.get("maxSurge")));
            if unavailable && surge {
                let words = "cannot be 0 when maxSurge is 0";
                errors.push(Error::invalid(
                    &at.child("maxUnavailable"),
                    rolling.get("maxUnavailable").json(),
                    words,
                ));
            }
            if !unavailable && !surge {
                let words = "may not be set when maxUnavailable is non-zero";
                errors.push(Error::invalid(&at.child("maxSurge"), rolling.get("maxSurge").json(), words));
            }
        }
        other => {
            errors.push(Error::not_supported(&path.child("type"), other, &["OnDelete", "RollingUpdate"]))
        }
    }
    selector_update(new, old, errors);
}

pub(crate) fn stateful_set(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    let policies = ["OrderedReady", "Parallel"];
    if !policies.contains(&spec.str("podManagementPolicy")) {
        let words = "must be 'OrderedReady' or 'Parallel'";
        errors.push(Error::invalid(
            &SPEC.child("podManagementPolicy"),
            spec.str("podManagementPolicy"),
            words,
        ));
    }
    let (strategy, path) = (spec.get("updateStrategy"), SPEC.child("updateStrategy"));
    match strategy.str("type") {
        "OnDelete" if strategy.get("rollingUpdate").is_set() => {
            let words = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(Error::invalid(
                &path.child("rollingUpdate"),
                strategy.get("rollingUpdate").json(),
                words,
            ));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let (rolling, at) = (strategy.get("rollingUpdate"), path.child("rollingUpdate"));
            numbers(rolling, &["partition"], &at, errors);
            let (unavailable, at) = (rolling.get("maxUnavailable"), at.child("maxUnavailable"));
            int_or_percent(unavailable, &at, errors);
            if unavailable.is_set() && is_none(unavailable) {
                errors.push(Error::invalid(&at, unavailable.json(), "cannot be 0"));
            }
        }
        other => errors.push(Error::invalid(&path, other, "must be 'RollingUpdate' or 'OnDelete'")),
    }
    numbers(spec.get("ordinals"), &["start"], &SPEC.child("ordinals"), errors);
    let retention = SPEC.child("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        let policy = spec.get("persistentVolumeClaimRetentionPolicy").str(name);
        if !matches!(policy, "Retain" | "Delete") {
            errors.push(Error::not_supported(&retention.child(name), policy, &["Retain", "Delete"]));
        }
    }
    numbers(spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], &SPEC, errors);
    selector(spec, "statefulset", errors);
    template(spec, "StatefulSet", errors);
    if let Some(old) = old {
        stateful_set_update(spec, old.get("spec"), errors);
    }
}

fn stateful_set_update(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let mutable = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let rest = |spec: View<'_>| {
        let mut rest = spec.json();
        if let Some(fields) = rest.as_object_mut() {
            mutable.iter().for_each(|name| drop(fields.remove(*name)));
        }
        rest
    };
    if !same(Some(&rest(new)), Some(&rest(old))) {
        let words = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(Error::forbidden(&SPEC, words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::kinds::by_kind;
    use crate::strategy::{prepare_create, validate_create, validate_update};
    use serde_json::json;

    fn made(api_version: &str, kind: &str, spec: Value) -> Value {
        let metadata = json!({"name": "a", "namespace": "n", "resourceVersion": "1"});
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
        defaults::apply(by_kind(api_version, kind).expect("known"), &mut object);
        prepare_create(by_kind(api_version, kind).expect("known"), &mut object);
        object
    }

    fn created(api_version: &str, kind: &str, spec: Value) -> String {
        let object = made(api_version, kind, spec);
        validate_create(by_kind(api_version, kind).expect("known"), &object).to_string()
    }

    fn template(label: &str) -> Value {
        json!({"metadata": {"labels": {"app": label}}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
    }

    #[test]
    fn the_template_of_a_daemon_set_is_counted_by_the_server_alone() {
        let kind = by_kind("apps/v1", "DaemonSet").expect("known");
        let counted = |set: &Value| set["metadata"]["annotations"][TEMPLATE_GENERATION].clone();
        let mut set = made("apps/v1", "DaemonSet", json!({"template": template("a")}));
        prepare::prepare_create(kind, &mut set);
        assert_eq!(counted(&set), "1");
        let mut next = set.clone();
        next["metadata"]["annotations"][TEMPLATE_GENERATION] = "7".into();
        prepare::prepare_update(kind, None, &mut next, &set);
        assert_eq!(counted(&next), "1", "nobody else counts");
        next["spec"]["template"] = template("b");
        prepare::prepare_update(kind, None, &mut next, &set);
        assert_eq!(counted(&next), "2");
    }

    #[test]
    fn the_pods_of_a_stateful_set_have_volumes_that_its_template_does_not_name() {
        let mut template = template("a");
        template["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        let mut spec = json!({"selector": {"matchLabels": {"app": "a"}}, "serviceName": "a", "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Mi"}}}}]});
        assert_eq!(created("apps/v1", "StatefulSet", spec.clone()), "");
        spec["ordinals"] = json!({"start": -1});
        spec["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 0}});
        assert_eq!(
            created("apps/v1", "StatefulSet", spec),
            "[spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0, spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0]"
        );
    }

    #[test]
    fn the_selector_of_a_deployment_chooses_its_template() {
        let selector = json!({"matchLabels": {"app": "a"}});
        assert_eq!(
            created("apps/v1", "Deployment", json!({"selector": selector, "template": template("a")})),
            ""
        );
        assert_eq!(
            created(
                "apps/v1",
                "Deployment",
                json!({"replicas": -1, "selector": selector, "template": template("b")})
            ),
            "[spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`]"
        );
    }

    #[test]
    fn a_selector_cannot_change_and_the_answer_is_the_recorded_one() {
        let old = made(
            "apps/v1",
            "Deployment",
            json!({"selector": {"matchLabels": {"app": "app"}}, "template": template("app")}),
        );
        let mut new = old.clone();
        new["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
        let resource = by_kind("apps/v1", "Deployment").expect("known");
        assert_eq!(
            validate_update(resource, None, &new, &old).to_string(),
            "[spec.template.metadata.labels: Invalid value: {\"app\":\"app\"}: `selector` does not match template `labels`, spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\"}}: field is immutable]"
        );
    }

    #[test]
    fn a_rollout_must_be_able_to_move() {
        let strategy = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}});
        let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template("a"), "strategy": strategy});
        assert_eq!(
            created("apps/v1", "Deployment", spec),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
        );
    }
}
