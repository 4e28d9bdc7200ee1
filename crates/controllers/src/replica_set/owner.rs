//! What a ReplicaSet and a ReplicationController say, and where they are told what was counted.

use api::selector::LabelSelector;
use client::Object;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1;

use super::{Selector, Wanted};

/// A kind that keeps a number of Pods.
pub(super) trait ReplicaOwner: Object {
    fn selector(&self) -> Selector;
    fn wanted(&self) -> Wanted<'_>;
    fn status(&self) -> ReplicaSetStatus;
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl ReplicaOwner for ReplicaSet {
    fn selector(&self) -> Selector {
        LabelSelector::from_meta(self.spec.as_ref().map(|spec| &spec.selector))
    }

    fn wanted(&self) -> Wanted<'_> {
        let spec = self.spec.as_ref();
        Wanted {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
            template: spec.and_then(|spec| spec.template.as_ref()),
            generation: self.metadata.generation.unwrap_or(0),
        }
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl ReplicaOwner for ReplicationController {
    fn selector(&self) -> Selector {
        let labels = self.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector =
            labels.map(|labels| v1::LabelSelector { match_labels: Some(labels), match_expressions: None });
        LabelSelector::from_meta(selector.as_ref())
    }

    fn wanted(&self) -> Wanted<'_> {
        let spec = self.spec.as_ref();
        Wanted {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0),
            template: spec.and_then(|spec| spec.template.as_ref()),
            generation: self.metadata.generation.unwrap_or(0),
        }
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|conditions| {
            let same = |condition: ReplicationControllerCondition| ReplicaSetCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: condition.status,
                type_: condition.type_,
            };
            conditions.into_iter().map(same).collect()
        });
        ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            // The kind has no such field; what it never says never changes.
            terminating_replicas: None,
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let same = |condition: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: condition.last_transition_time,
            message: condition.message,
            reason: condition.reason,
            status: condition.status,
            type_: condition.type_,
        };
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(same).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}
