//! The Job of a CronJob for one time.

use api::schedule::zone;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ownership::controller_reference;

/// Says when a Job was due.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// There is one name for each minute, which is what keeps a Job from being made twice.
pub(super) fn name(cron_job: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron_job.metadata.name.as_deref().unwrap_or_default(), at.as_second() / 60)
}

pub(super) fn job(cron_job: &CronJob, at: Timestamp) -> Job {
    let template = cron_job.spec.job_template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let zone = cron_job.spec.time_zone.as_deref().and_then(zone).unwrap_or(TimeZone::UTC);
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), rfc3339(at, &zone));
    Job {
        metadata: ObjectMeta {
            name: Some(name(cron_job, at)),
            namespace: cron_job.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// As Go's `time.RFC3339` shows it: to the second, and `Z` where the clocks are those of UTC.
fn rfc3339(at: Timestamp, zone: &TimeZone) -> String {
    let (shown, offset) = (zone.to_datetime(at), zone.to_offset(at).seconds());
    if offset == 0 {
        return format!("{shown}Z");
    }
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
    format!("{shown}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_has_what_the_template_says_and_when_it_was_due() {
        let cron_job: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "report", "namespace": "n", "uid": "u"},
            "spec": {"schedule": "* * * * *", "timeZone": "America/New_York", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"parallelism": 2, "template": {}}}},
        }))
        .unwrap();
        let made = serde_json::to_value(job(&cron_job, "2026-07-01T00:30:00Z".parse().unwrap())).unwrap();
        assert_eq!(
            made["metadata"],
            json!({"name": "report-29714430", "namespace": "n", "labels": {"a": "b"},
                "annotations": {"c": "d", SCHEDULED: "2026-06-30T20:30:00-04:00"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "report", "uid": "u",
                    "controller": true, "blockOwnerDeletion": true}]})
        );
        assert_eq!(made["spec"]["parallelism"], 2);
        let shown =
            |zone_name: &str| rfc3339("2026-07-01T00:30:00Z".parse().unwrap(), &zone(zone_name).unwrap());
        assert_eq!(shown("UTC"), "2026-07-01T00:30:00Z");
        assert_eq!(shown("Asia/Kolkata"), "2026-07-01T06:00:00+05:30");
    }
}
