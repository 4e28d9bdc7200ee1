//! What a Job reads off its Pods, and the Pods it makes.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec,
};

use super::policy::{self, Verdict};
use super::spec::Spec;
use crate::conditions::is_terminating;

/// Held by each Pod until it is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

/// A deleted Pod has failed as well: one whose node is gone never gets to say so.
pub(super) fn has_failed(pod: &Pod, spec: &Spec<'_>) -> bool {
    phase(pod) == "Failed" || !spec.replaces_only_failed && is_terminating(pod)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The completion index of a Pod, if it has a proper one.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

fn count(pod: &Pod, name: &str) -> i32 {
    annotation(pod, name).and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// The failures of the index before this Pod.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    count(pod, INDEX_FAILURES)
}

/// The same with those that a policy says not to count.
pub(super) fn all_failures_before(pod: &Pod) -> i32 {
    failures_before(pod).saturating_add(count(pod, INDEX_IGNORED))
}

/// The template of a Pod of a Job: tracked, and telling of its index.
pub(super) fn template(
    job: &Job,
    spec: &Spec<'_>,
    index: Option<i32>,
    replaced: Option<&Pod>,
) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let metadata = template.metadata.get_or_insert_default();
    let finalizers = metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return template };
    metadata.generate_name = Some(name_base(job, index));
    metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    if spec.limit_per_index.is_some() {
        count_failures(metadata.annotations.get_or_insert_default(), spec, replaced);
    }
    let pod = template.spec.get_or_insert_default();
    pod.hostname = Some(format!("{}-{index}", job.metadata.name.as_deref().unwrap_or_default()));
    pod.init_containers.iter_mut().flatten().chain(&mut pod.containers).for_each(tell_index);
    template
}

/// The new Pod of an index remembers the failures of the one it replaces, and those before it.
fn count_failures(annotations: &mut BTreeMap<String, String>, spec: &Spec<'_>, replaced: Option<&Pod>) {
    let (mut failures, mut ignored) = (0, 0);
    if let Some(pod) = replaced {
        (failures, ignored) = (count(pod, INDEX_FAILURES), count(pod, INDEX_IGNORED));
        if policy::judge(spec.failure_policy, pod) == Verdict::Ignore {
            ignored += 1;
        } else {
            failures += 1;
        }
    }
    annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
    if ignored > 0 {
        annotations.insert(INDEX_IGNORED.to_owned(), ignored.to_string());
    }
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}

/// What the name of the Pod of an index begins with: the index is kept whole, the Job's name is cut.
fn name_base(job: &Job, index: i32) -> String {
    const BASE_MAX: usize = 63 - 5;
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let tail = format!("-{index}-");
    let room = name.floor_char_boundary(BASE_MAX.saturating_sub(tail.len()));
    format!("{}{tail}", &name[..room])
}
