//! What is wanted of a Job, with the defaults that matter in one place.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicy, SuccessPolicy};
use k8s_openapi::api::core::v1::PodTemplateSpec;

/// A Job's wishes as the decisions need them.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) parallelism: i32,
    /// `None`: the Pods know themselves when the work is done.
    pub(super) completions: Option<i32>,
    pub(super) is_indexed: bool,
    pub(super) backoff_limit: i32,
    /// Failures that one index may have.
    pub(super) limit_per_index: Option<i32>,
    pub(super) failed_indexes_max: Option<i32>,
    pub(super) deadline_seconds: Option<i64>,
    pub(super) is_suspended: bool,
    /// A Pod is replaced when it has ended, not when its deletion begins.
    pub(super) replaces_only_failed: bool,
    pub(super) restarts_containers: bool,
    pub(super) failure_policy: Option<&'a PodFailurePolicy>,
    pub(super) success_policy: Option<&'a SuccessPolicy>,
    pub(super) template: &'a PodTemplateSpec,
}

impl<'a> Spec<'a> {
    pub(super) fn of(job: &'a Job) -> Option<Self> {
        let spec = job.spec.as_ref()?;
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        Some(Self {
            parallelism: spec.parallelism.unwrap_or(1),
            completions: spec.completions.or(is_indexed.then_some(0)),
            is_indexed,
            backoff_limit: spec.backoff_limit.unwrap_or(6),
            limit_per_index: spec.backoff_limit_per_index.filter(|_| is_indexed),
            failed_indexes_max: spec.max_failed_indexes,
            deadline_seconds: spec.active_deadline_seconds,
            is_suspended: spec.suspend == Some(true),
            replaces_only_failed: spec.pod_replacement_policy.as_deref() == Some("Failed")
                || spec.pod_failure_policy.is_some(),
            restarts_containers: policy == Some("OnFailure"),
            failure_policy: spec.pod_failure_policy.as_ref(),
            success_policy: spec.success_policy.as_ref(),
            template: &spec.template,
        })
    }

    /// Whether a Pod with this index counts.
    pub(super) fn takes(&self, index: Option<i32>) -> bool {
        !self.is_indexed || index.is_some_and(|index| index < self.completions.unwrap_or(0))
    }
}
