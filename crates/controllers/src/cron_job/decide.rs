//! What is to be done for a CronJob: which of its Jobs have ended, which are too old, and whether one is due.

use std::sync::Arc;

use api::field::go_quote;
use api::schedule::{Schedule, zone};
use client::events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;

use super::{is_controlled, template, uid};
use crate::job::end_of;

/// More missed times than that are told: upstream's guess at what is no more an outage, but a wrong clock.
const MISSED_MAX: i64 = 100;

/// What a decision is made of.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) cron_job: &'a CronJob,
    /// Those that it controls and those that its status lists, by name.
    pub(super) jobs: Vec<Arc<Job>>,
    /// When it got its schedule, where it had another before: what the new one says of the time until then
    /// was not missed.
    pub(super) scheduled_since: Option<Timestamp>,
    /// The time of which it was told last that it was missed.
    pub(super) told_missed: Option<Timestamp>,
    pub(super) now: Timestamp,
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A Job that is due.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) at: Timestamp,
    /// These go first.
    pub(super) replaces: Vec<Arc<Job>>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) notes: Vec<Note>,
    /// Without what is about to run.
    pub(super) status: CronJobStatus,
    /// Ended Jobs that are too many, the oldest first.
    pub(super) surplus: Vec<Arc<Job>>,
    pub(super) run: Option<Run>,
    /// The time of which it is known that it was missed.
    pub(super) missed: Option<Timestamp>,
    /// When to look again though nothing changes.
    pub(super) again: Option<SignedDuration>,
}

pub(super) fn active(status: &CronJobStatus) -> impl Iterator<Item = &ObjectReference> {
    status.active.iter().flatten()
}

fn is_active(status: &CronJobStatus, uid: &str) -> bool {
    active(status).any(|job| job.uid.as_deref() == Some(uid))
}

/// Takes a Job from the list of active ones. An empty list is none, as the server stores it.
pub(super) fn remove(status: &mut CronJobStatus, uid: &str) {
    if let Some(active) = &mut status.active {
        active.retain(|job| job.uid.as_deref() != Some(uid));
    }
    status.active = status.active.take().filter(|active| !active.is_empty());
}

pub(super) fn decide(view: &View<'_>) -> Plan {
    let mut plan = Plan {
        status: view.cron_job.status.clone().unwrap_or_default(),
        missed: view.told_missed,
        ..Plan::default()
    };
    let spec = &view.cron_job.spec;
    plan.surplus = surplus(view, spec);
    for job in &plan.surplus {
        remove(&mut plan.status, uid(&job.metadata));
    }
    plan.look_at_jobs(view);
    plan.drop_missing(view);
    if view.cron_job.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    if let Some(schedule) = plan.read(spec) {
        plan.look_at_time(view, spec, &schedule);
    }
    plan
}

/// The oldest of each kind of end, as far as they are more than wanted.
fn surplus(view: &View<'_>, spec: &CronJobSpec) -> Vec<Arc<Job>> {
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let too_many = limits.into_iter().filter_map(|(end, limit)| Some((end, usize::try_from(limit?).ok()?)));
    too_many.flat_map(|(end, limit)| oldest(view, end, limit)).collect()
}

fn oldest(view: &View<'_>, end: &str, limit: usize) -> Vec<Arc<Job>> {
    let ended = |job: &&Arc<Job>| {
        job.metadata.deletion_timestamp.is_none()
            && is_controlled(job, view.cron_job)
            && end_of(job).is_some_and(|condition| condition.type_ == end)
    };
    let mut jobs: Vec<Arc<Job>> = view.jobs.iter().filter(ended).cloned().collect();
    let started = |job: &Job| job.status.as_ref()?.start_time.as_ref().map(|time| time.0);
    jobs.sort_by_key(|job| (started(job).is_none(), started(job), job.metadata.name.clone()));
    jobs.truncate(jobs.len().saturating_sub(limit));
    jobs
}

impl Plan {
    fn note(&mut self, kind: EventType, reason: &'static str, message: String) {
        self.notes.push(Note { kind, reason, message });
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.note(EventType::Warning, reason, message);
    }

    /// What has ended is active no more, and what is unknown is told.
    fn look_at_jobs(&mut self, view: &View<'_>) {
        for job in &view.jobs {
            let (uid, name) = (uid(&job.metadata), job.metadata.name.as_deref().unwrap_or_default());
            let is_active = is_active(&self.status, uid);
            let Some(end) = end_of(job) else {
                if !is_active {
                    let text = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.warn("UnexpectedJob", text);
                }
                continue;
            };
            if is_active {
                remove(&mut self.status, uid);
                let text = format!("Saw completed job: {name}, condition: {}", end.type_);
                self.note(EventType::Normal, "SawCompletedJob", text);
            }
            if end.type_ == "Complete" {
                let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
                let last = self.status.last_successful_time.take();
                self.status.last_successful_time = last.max(completed);
            }
        }
    }

    fn drop_missing(&mut self, view: &View<'_>) {
        let is_there = |job: &&ObjectReference| view.jobs.iter().any(|other| other.metadata.uid == job.uid);
        let missing: Vec<ObjectReference> =
            active(&self.status).filter(|job| !is_there(job)).cloned().collect();
        for job in missing {
            let text = format!("Active job went missing: {}", job.name.unwrap_or_default());
            self.note(EventType::Normal, "MissingJob", text);
            remove(&mut self.status, &job.uid.unwrap_or_default());
        }
    }

    /// The schedule, if there is one that can be kept and shall be.
    fn read(&mut self, spec: &CronJobSpec) -> Option<Schedule> {
        let name = spec.time_zone.as_deref().filter(|name| !name.is_empty());
        let zone = name.map(zone);
        if let (Some(name), Some(None)) = (name, &zone) {
            let text = format!("invalid timeZone: {}: unknown time zone {name}", go_quote(name));
            self.warn("UnknownTimeZone", text);
            return None;
        }
        if spec.suspend == Some(true) {
            return None;
        }
        let text = &spec.schedule;
        let is_zoned = text.contains("TZ");
        if is_zoned {
            let text = format!(
                "CRON_TZ or TZ used in schedule {} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                go_quote(text)
            );
            self.warn("UnsupportedSchedule", text);
        }
        match Schedule::parse(text) {
            Ok(schedule) => Some(match zone.flatten().filter(|_| !is_zoned) {
                Some(zone) => schedule.in_zone(zone),
                None => schedule,
            }),
            Err(words) => {
                let text = format!("unparseable schedule: {} : {words}", go_quote(text));
                self.warn("UnparseableSchedule", text);
                None
            }
        }
    }

    /// Whether a time has come that was not met: of many the last.
    fn look_at_time(&mut self, view: &View<'_>, spec: &CronJobSpec, schedule: &Schedule) {
        let (since, now) = (since(view), view.now);
        let Some(first) = schedule.next(since) else { return self.say_invalid(spec) };
        if first > now {
            self.again = Some(first.duration_since(now));
            return;
        }
        let Some(last) = schedule.last(since, now).filter(|_| schedule.count(since, now).is_some()) else {
            return self.say_invalid(spec);
        };
        self.again = schedule.next(last).map(|next| next.duration_since(now));
        let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let opened = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
        if opened.is_some_and(|opened| last < opened) {
            self.say_missed(last);
            return;
        }
        let counted_from = opened.map_or(since, |opened| since.max(opened));
        if schedule.count(counted_from, now).is_some_and(|count| count > MISSED_MAX) {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", text.to_owned());
        }
        self.run(view, spec, last);
    }

    fn run(&mut self, view: &View<'_>, spec: &CronJobSpec, at: Timestamp) {
        let name = template::name(view.cron_job, at);
        if active(&self.status).any(|job| job.name.as_ref() == Some(&name)) {
            return;
        }
        let is_active = |job: &&Arc<Job>| is_active(&self.status, uid(&job.metadata));
        let replaces = match spec.concurrency_policy.as_deref() {
            Some("Forbid") if active(&self.status).next().is_some() => {
                let text =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.note(EventType::Normal, "JobAlreadyActive", text.to_owned());
            }
            Some("Replace") => view.jobs.iter().filter(is_active).cloned().collect(),
            _ => Vec::new(),
        };
        self.run = Some(Run { at, replaces });
    }

    fn say_invalid(&mut self, spec: &CronJobSpec) {
        let text = format!(
            "invalid schedule: {} : time difference between two schedules is less than 1 second",
            spec.schedule
        );
        self.warn("InvalidSchedule", text);
    }

    /// Once, though it stays the last that was missed until the next time comes.
    fn say_missed(&mut self, at: Timestamp) {
        if self.missed != Some(at) {
            let at = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            self.warn("MissSchedule", format!("Missed scheduled time to start a job: {at}"));
        }
        self.missed = Some(at);
    }
}

/// The last time that was met, or from when on times are to be met.
fn since(view: &View<'_>) -> Timestamp {
    let met = view.cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let since = met.or(view.cron_job.metadata.creation_timestamp.as_ref()).map_or(view.now, |time| time.0);
    view.scheduled_since.map_or(since, |scheduled| scheduled.max(since))
}
