//! Begins a Job whenever the schedule of a CronJob says so, and keeps as many of those that have ended as wanted.
//!
//! ```text
//! CronJob, its Jobs, time ─► decide: ended, surplus, due ─► Jobs deleted, Job created ─► status
//! ```
//!
//! The name of a Job is made of the time for which it is due: a Job that was created by somebody who did not
//! live to write the status is not created again. Start reading at `decide.rs`.

mod decide;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use client::events::{EventType, Recorder, reference};
use client::{Change, Client, DeleteOptions, Error, Informer, Propagation, index, key_of};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::context::{Context, say, split, version};
use crate::controller::Controller;
use crate::job::end_of;
use crate::ownership::{controller_of, owner_keys};
use crate::pod_control::words;
use crate::workqueue::{Keys, Next};
use decide::{Run, View, active, decide};

struct CronJobs {
    client: Client,
    recorder: Recorder,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    memories: Mutex<HashMap<String, Memory>>,
}

/// Of one CronJob, by its UID. Lost with the process, as upstream.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    /// The version that was written last.
    version: u64,
    scheduled_since: Option<Timestamp>,
    missed: Option<Timestamp>,
    /// When to look again.
    due: Option<Timestamp>,
}

/// How often clocks are compared.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = Arc::new(CronJobs {
        client: context.client.clone(),
        recorder: context.recorder("cronjob-controller", tasks),
        cron_jobs: context.informers.of(),
        jobs: context.informers.of(),
        memories: Mutex::default(),
    });
    let of_cron_jobs = this.clone();
    let controller = Controller::new("cronjob")
        .watches(&this.cron_jobs, move |change| of_cron_jobs.changed(change))
        .watches(&this.jobs, |change| owner_keys::<CronJob, _>(change).into_iter().collect());
    let (of_clock, keys, shutdown) = (this.clone(), controller.keys(), context.shutdown.clone());
    tasks.spawn(async move {
        // Cancel-safe: what is due stays due.
        shutdown.run_until_cancelled(of_clock.look_at_clock(&keys)).await;
    });
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

/// The UIDs of those whose time has come.
fn overdue(memories: &HashMap<String, Memory>, now: Timestamp) -> HashSet<String> {
    let due = memories.iter().filter(|(_, memory)| memory.due.is_some_and(|due| due <= now));
    due.map(|(uid, _)| uid.clone()).collect()
}

fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

fn is_controlled(job: &Job, cron_job: &CronJob) -> bool {
    controller_of(&job.metadata).is_some_and(|owner| Some(&owner.uid) == cron_job.metadata.uid.as_ref())
}

impl CronJobs {
    fn memories(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn remember<T>(&self, cron_job: &CronJob, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.memories().entry(uid(&cron_job.metadata).to_owned()).or_default())
    }

    fn changed(&self, change: &Change<CronJob>) -> Vec<String> {
        match change {
            Change::Added(_) => {}
            Change::Modified { old, new } => {
                let (before, now) = (&old.spec, &new.spec);
                if before.schedule != now.schedule || before.time_zone != now.time_zone {
                    self.remember(new, |memory| memory.scheduled_since = Some(Timestamp::now()));
                }
            }
            Change::Deleted(cron_job) => {
                self.memories().remove(uid(&cron_job.metadata));
            }
        }
        vec![key_of(&**change.object())]
    }

    /// Timers run by a clock that nobody sets, and that stands still while the machine sleeps; schedules are of
    /// the one on the wall. What is due by that one and was not begun by a timer is begun from here.
    async fn look_at_clock(&self, keys: &Keys) {
        let mut ticks = interval(LOOK_AT_CLOCK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let due = overdue(&self.memories(), Timestamp::now());
            let late = self.cron_jobs.filter(|cron_job| due.contains(uid(&cron_job.metadata)));
            for cron_job in late {
                let _ = keys.send(key_of(&*cron_job));
            }
        }
    }

    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(cron_job) = self.cron_jobs.get(namespace, name) else { return Ok(Next::Done) };
        let memory = self.remember(&cron_job, |memory| *memory);
        // The change that brings it up to date comes with this key.
        if version(&cron_job.metadata) < memory.version {
            return Ok(Next::Done);
        }
        let view = View {
            cron_job: &cron_job,
            jobs: self.jobs_of(&cron_job).await?,
            scheduled_since: memory.scheduled_since,
            told_missed: memory.missed,
            now: Timestamp::now(),
        };
        let plan = decide(&view);
        let deleted = self.delete_all(&cron_job, &plan.surplus).await;
        for note in plan.notes {
            say(&self.recorder, &*cron_job, note.kind, note.reason, note.message);
        }
        self.remember(&cron_job, |memory| {
            memory.missed = plan.missed;
            memory.due = plan.again.and_then(|pause| view.now.checked_add(pause).ok());
        });
        let mut status = plan.status;
        let begun = match &plan.run {
            Some(run) => self.begin(&cron_job, run, &mut status).await,
            None => Ok(()),
        };
        if status != cron_job.status.clone().unwrap_or_default() {
            self.write(&cron_job, status).await?;
        }
        begun?;
        deleted?;
        let again = plan.again.and_then(|pause| Duration::try_from(pause).ok());
        Ok(again.map_or(Next::Done, Next::After))
    }

    /// The Jobs that it controls, and those in its status that the cache does not show: for them the server
    /// has the last word.
    async fn jobs_of(&self, cron_job: &CronJob) -> Result<Vec<Arc<Job>>, Error> {
        let mut jobs = self.jobs.by_index(index::by_owner(), uid(&cron_job.metadata));
        jobs.retain(|job| is_controlled(job, cron_job));
        for wanted in cron_job.status.iter().flat_map(active) {
            if jobs.iter().any(|job| job.metadata.uid == wanted.uid) {
                continue;
            }
            let (namespace, name) = (&cron_job.metadata.namespace, wanted.name.as_deref());
            match self
                .client
                .get::<Job>(namespace.as_deref().unwrap_or_default(), name.unwrap_or_default())
                .await
            {
                Ok(job) if job.metadata.uid == wanted.uid => jobs.push(Arc::new(job)),
                Err(error) if !error.is_not_found() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        jobs.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        Ok(jobs)
    }

    /// Deletes what it can; the last that could not be is the error.
    async fn delete_all(&self, cron_job: &CronJob, jobs: &[Arc<Job>]) -> Result<(), Error> {
        let mut done = Ok(());
        for job in jobs {
            done = self.delete(cron_job, job).await.and(done);
        }
        done
    }

    async fn delete(&self, cron_job: &CronJob, job: &Job) -> Result<(), Error> {
        let (namespace, name) = (&job.metadata.namespace, job.metadata.name.as_deref().unwrap_or_default());
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::of_uid(uid(&job.metadata))
        };
        match self.client.delete::<Job>(namespace.as_deref().unwrap_or_default(), name, &options).await {
            Ok(()) => {
                let text = format!("Deleted job {name}");
                say(&self.recorder, cron_job, EventType::Normal, "SuccessfulDelete", text);
                Ok(())
            }
            // Another Job of the name, under another UID, is none of ours.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                let text = format!("Deleted job: {}", words(&error));
                say(&self.recorder, cron_job, EventType::Warning, "FailedDelete", text);
                Err(error)
            }
        }
    }

    /// Creates the Job that is due and lists it as active.
    async fn begin(&self, cron_job: &CronJob, run: &Run, status: &mut CronJobStatus) -> Result<(), Error> {
        for job in &run.replaces {
            self.delete(cron_job, job).await?;
            decide::remove(status, uid(&job.metadata));
        }
        let Some(job) = self.create(cron_job, &template::job(cron_job, run.at)).await? else { return Ok(()) };
        status.last_schedule_time = Some(Time(run.at));
        decide::remove(status, uid(&job.metadata));
        // One that was there already may have ended by now.
        if end_of(&job).is_none() {
            status.active.get_or_insert_default().push(reference(&job));
        }
        Ok(())
    }

    /// The Job that is there afterwards, if it is this CronJob's.
    async fn create(&self, cron_job: &CronJob, job: &Job) -> Result<Option<Job>, Error> {
        let namespace = cron_job.metadata.namespace.as_deref().unwrap_or_default();
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match self.client.create(namespace, job).await {
            Ok(job) => {
                let text = format!("Created job {name}");
                say(&self.recorder, cron_job, EventType::Normal, "SuccessfulCreate", text);
                Ok(Some(job))
            }
            // The CronJob goes with its namespace.
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) if error.is_already_exists() => {
                let job = self.client.get::<Job>(namespace, name).await?;
                Ok(is_controlled(&job, cron_job).then_some(job))
            }
            Err(error) => {
                let text = format!("Error creating job: {}", words(&error));
                say(&self.recorder, cron_job, EventType::Warning, "FailedCreate", text);
                Err(error)
            }
        }
    }

    async fn write(&self, cron_job: &CronJob, status: CronJobStatus) -> Result<(), Error> {
        let changed = CronJob { status: Some(status), ..cron_job.clone() };
        let written = self.client.replace_status(&changed).await?;
        self.remember(&written, |memory| memory.version = version(&written.metadata));
        Ok(())
    }
}
