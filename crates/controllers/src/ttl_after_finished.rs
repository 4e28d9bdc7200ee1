//! Deletes Jobs, and with them their Pods, when they have been finished for as long as they say.

use std::sync::Arc;
use std::time::Duration;

use client::{Change, Client, DeleteOptions, Error, Informer, Propagation, key_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use tokio::task::JoinSet;

use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::job::end_of;
use crate::workqueue::Next;

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let (client, jobs) = (context.client.clone(), context.informers.of::<Job>());
    let controller = Controller::new("ttl-after-finished").watches(&jobs, |change| match change {
        Change::Added(job) | Change::Modified { new: job, .. } if expires(job).is_some() => {
            vec![key_of(&**job)]
        }
        _ => Vec::new(),
    });
    let this = Arc::new((client, jobs));
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { sync(&this.0, &this.1, &key).await }
    });
}

/// When nobody wants it any more. What ended in the future, by a clock that was wrong, has its time from then on.
fn expires(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = end_of(job)?.last_transition_time.as_ref()?.0;
    ended.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

/// `None`: it stays. No time left: it goes.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    Some(Duration::try_from(expires(job)?.duration_since(now)).unwrap_or(Duration::ZERO))
}

async fn sync(client: &Client, jobs: &Informer<Job>, key: &str) -> Result<Next, Error> {
    let (namespace, name) = split(key);
    let Some(job) = jobs.get(namespace, name) else { return Ok(Next::Done) };
    match time_left(&job, Timestamp::now()) {
        None => return Ok(Next::Done),
        Some(left) if !left.is_zero() => return Ok(Next::After(left)),
        Some(_) => {}
    }
    // Whoever has just given it more time is heard, though the cache may not know it yet.
    let job = match client.get::<Job>(namespace, name).await {
        Err(error) if error.is_not_found() => return Ok(Next::Done),
        answer => answer?,
    };
    match time_left(&job, Timestamp::now()) {
        None => return Ok(Next::Done),
        Some(left) if !left.is_zero() => return Ok(Next::After(left)),
        Some(_) => {}
    }
    let options = DeleteOptions {
        propagation: Some(Propagation::Foreground),
        ..DeleteOptions::of_uid(job.metadata.uid.as_deref().unwrap_or_default())
    };
    unless_gone(client.delete::<Job>(namespace, name, &options).await)?;
    Ok(Next::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn left(ttl: Value, conditions: Value, now: &str) -> Option<u64> {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"},
            "spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": conditions}}))
        .unwrap();
        time_left(&job, now.parse().unwrap()).map(|left| left.as_secs())
    }

    #[test]
    fn a_finished_job_has_the_time_that_it_says() {
        let ended = |kind: &str, status: &str| {
            json!([{"type": "Suspended", "status": "False"},
            {"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:10Z"}])
        };
        for kind in ["Complete", "Failed"] {
            let left = |now| left(json!(30), ended(kind, "True"), now);
            assert_eq!(left("2026-01-01T00:00:10Z"), Some(30));
            assert_eq!(left("2026-01-01T00:00:40Z"), Some(0));
            assert_eq!(left("2026-01-01T01:00:00Z"), Some(0));
            assert_eq!(left("2026-01-01T00:00:00Z"), Some(40), "ended in the future");
        }
        assert_eq!(left(json!(0), ended("Complete", "True"), "2026-01-01T00:00:10Z"), Some(0));
        assert_eq!(left(Value::Null, ended("Complete", "True"), "2026-01-01T01:00:00Z"), None);
        assert_eq!(left(json!(0), ended("Complete", "False"), "2026-01-01T01:00:00Z"), None);
        assert_eq!(left(json!(0), ended("Suspended", "True"), "2026-01-01T01:00:00Z"), None);
        assert_eq!(
            left(json!(0), json!([{"type": "Complete", "status": "True"}]), "2026-01-01T01:00:00Z"),
            None
        );
    }
}
