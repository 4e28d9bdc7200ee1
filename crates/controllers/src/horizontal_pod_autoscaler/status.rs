//! The status of an autoscaler while it is worked out.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus, MetricStatus, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::replicas::Proposal;

/// What is written at the end of a round.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) now: Timestamp,
}

impl Draft {
    pub(super) fn of(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Self {
        Self { status: autoscaler.status.clone().unwrap_or_default(), now }
    }

    /// Sets a condition; its time changes with its status.
    pub(super) fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let known = conditions.iter().position(|condition| condition.type_ == kind);
        let index = known.unwrap_or_else(|| {
            conditions
                .push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() });
            conditions.len() - 1
        });
        let condition = &mut conditions[index];
        if condition.status != status {
            condition.last_transition_time = Some(Time(self.now));
        }
        condition.status = status.to_owned();
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.into());
    }

    /// How many there are and are to be; a change of that is noted with its time.
    pub(super) fn count(&mut self, current: i32, desired: i32) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
        if current != desired {
            // In whole seconds, as it is stored.
            self.status.last_scale_time = Timestamp::from_second(self.now.as_second()).ok().map(Time);
        }
    }
}

/// What was read of a metric of one resource, of one container where that was asked.
pub(super) fn measured(resource: &str, container: Option<&str>, proposal: &Proposal) -> MetricStatus {
    let average = api::quantity::Quantity::from_milli(proposal.average, api::quantity::Format::DecimalSi);
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(Quantity(average.to_string())),
        value: None,
    };
    let name = resource.to_owned();
    match container {
        None => MetricStatus {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricStatus { name, current }),
            ..MetricStatus::default()
        },
        Some(container) => MetricStatus {
            type_: "ContainerResource".to_owned(),
            container_resource: Some(ContainerResourceMetricStatus {
                container: container.to_owned(),
                name,
                current,
            }),
            ..MetricStatus::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut draft = Draft::of(&HorizontalPodAutoscaler::default(), at(10));
        draft.set("AbleToScale", true, "SucceededGetScale", "a");
        draft.now = at(20);
        draft.set("AbleToScale", true, "ReadyForNewScale", "b");
        let condition = draft.status.conditions.as_ref().unwrap()[0].clone();
        assert_eq!(condition.last_transition_time, Some(Time(at(10))));
        assert_eq!(condition.reason.as_deref(), Some("ReadyForNewScale"));
        draft.set("AbleToScale", false, "FailedGetScale", "c");
        assert_eq!(draft.status.conditions.as_ref().unwrap()[0].last_transition_time, Some(Time(at(20))));
    }
}
