//! The kinds of the group `batch`.

use super::rules::Generation;
use super::{Kind, count, namespaced, status};
use crate::defaults;
use crate::selector::field;
use crate::strategy::{apps, cron_job, job};
use crate::table::workload;

const GROUP: &str = "batch";
const ORPHANED_PODS: &str = "child pods are preserved by default when jobs are deleted; set \
     propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(GROUP, "v1", "CronJob", "cronjobs", "cronjob")
            .short(["cj"])
            .category(["all"])
            .subresources([status(GROUP, "v1", "CronJob")])
            .defaults(defaults::apps::cron_job)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences"])
            .validate(cron_job::validate)
            .warnings(cron_job::warnings)
            .cells(workload::cron_job),
        namespaced(GROUP, "v1", "Job", "jobs", "job")
            .category(["all"])
            .subresources([status(GROUP, "v1", "Job")])
            .fields([count("status.successful", "/status/succeeded")])
            .orphans_by_default()
            .warns_of_orphans(ORPHANED_PODS)
            .defaults(defaults::apps::job)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences"])
            .prepare_create(job::prepare_create)
            .validate(job::validate)
            .validate_status(job::validate_status)
            .warnings(apps::template_warnings)
            .unlisted_field(field::unlisted_of_job)
            .cells(workload::job),
    ]
}
