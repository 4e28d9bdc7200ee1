//! CronJobs over days that pass as fast as they are decided.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::schedule::{Schedule, zone};
use client::events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Plan, View, decide, remove};
use super::{Memory, overdue, template, uid};
use crate::job::end_of;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron_job(created: &str, spec: &Value) -> CronJob {
    let mut all = json!({"concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"spec": {"template": {}}}});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    let metadata = json!({"name": "c", "namespace": "n", "uid": "c", "creationTimestamp": created});
    serde_json::from_value(json!({"metadata": metadata, "spec": all})).unwrap()
}

/// A cluster of one CronJob.
struct Days {
    cron_job: CronJob,
    jobs: BTreeMap<String, Job>,
    now: Timestamp,
    scheduled_since: Option<Timestamp>,
    told_missed: Option<Timestamp>,
    /// How long the Jobs take.
    takes: SignedDuration,
    /// How they end.
    ends: &'static str,
    told: Vec<String>,
    /// When Jobs were due, and when they began.
    runs: Vec<(Timestamp, Timestamp)>,
    most_active: usize,
}

impl Days {
    fn of(created: &str, spec: &Value) -> Self {
        Self {
            cron_job: cron_job(created, spec),
            jobs: BTreeMap::new(),
            now: time(created),
            scheduled_since: None,
            told_missed: None,
            takes: SignedDuration::from_secs(30),
            ends: "Complete",
            told: Vec::new(),
            runs: Vec::new(),
            most_active: 0,
        }
    }

    fn view(&self) -> View<'_> {
        View {
            cron_job: &self.cron_job,
            jobs: self.jobs.values().cloned().map(Arc::new).collect(),
            scheduled_since: self.scheduled_since,
            told_missed: self.told_missed,
            now: self.now,
        }
    }

    /// Decides and does it; when to look again.
    fn turn(&mut self) -> Option<SignedDuration> {
        let Plan { notes, mut status, surplus, run, missed, again } = decide(&self.view());
        for job in &surplus {
            self.jobs.remove(job.metadata.name.as_ref().unwrap());
        }
        self.told.extend(notes.into_iter().map(|note| {
            let kind = if note.kind == EventType::Warning { "!" } else { "" };
            format!("{kind}{}: {}", note.reason, note.message)
        }));
        if let Some(run) = run {
            for job in &run.replaces {
                remove(&mut status, uid(&job.metadata));
                self.jobs.remove(job.metadata.name.as_ref().unwrap());
            }
            let name = self.add(template::job(&self.cron_job, run.at));
            let uid = Some(name.clone());
            let reference = ObjectReference { name: Some(name), uid, ..ObjectReference::default() };
            status.active.get_or_insert_default().push(reference);
            status.last_schedule_time = Some(Time(run.at));
            self.runs.push((run.at, self.now));
        }
        self.told_missed = missed;
        self.cron_job.status = Some(status);
        self.most_active = self.most_active.max(self.running().count());
        again
    }

    /// A Job under its name, which is its UID too.
    fn add(&mut self, mut job: Job) -> String {
        let name = job.metadata.name.clone().unwrap();
        job.metadata.uid = Some(name.clone());
        job.status =
            serde_json::from_value(json!({"startTime": self.now.to_string(), "conditions": []})).unwrap();
        assert!(self.jobs.insert(name.clone(), job).is_none(), "{name} is there already");
        name
    }

    fn running(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.status.as_ref().unwrap().completion_time.is_none())
    }

    fn ends_at(&self, job: &Job) -> Timestamp {
        job.status.as_ref().unwrap().start_time.as_ref().unwrap().0 + self.takes
    }

    /// The Jobs that have run for long enough end.
    fn end_jobs(&mut self) {
        let ended: Vec<String> = self
            .running()
            .filter(|job| self.ends_at(job) <= self.now)
            .map(|job| job.metadata.name.clone().unwrap())
            .collect();
        for name in ended {
            let status = self.jobs.get_mut(&name).unwrap().status.as_mut().unwrap();
            let condition = json!([{"type": self.ends, "status": "True"}]);
            status.conditions = serde_json::from_value(condition).unwrap();
            status.completion_time = Some(Time(self.now));
        }
    }

    /// Goes on until then, from one change or due time to the next.
    fn until(&mut self, end: &str) -> &mut Self {
        let end = time(end);
        loop {
            self.end_jobs();
            let due = self.turn().map(|pause| self.now + pause);
            let next = self.running().map(|job| self.ends_at(job)).chain(due).min();
            match next {
                Some(next) if next <= end => {
                    assert!(next > self.now, "time stands still at {next}");
                    self.now = next;
                }
                _ => break,
            }
        }
        self.now = end;
        self
    }

    /// Nobody decides until then.
    fn down_until(&mut self, end: &str) -> &mut Self {
        self.now = time(end);
        self
    }

    fn set(&mut self, field: &str, value: Value) -> &mut Self {
        let mut spec = serde_json::to_value(&self.cron_job.spec).unwrap();
        spec[field] = value;
        self.cron_job.spec = serde_json::from_value(spec).unwrap();
        self
    }

    fn due(&self) -> Vec<String> {
        self.runs.iter().map(|(due, _)| due.to_string()).collect()
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }
}

#[test]
fn a_day_of_half_hours_has_a_job_for_each_of_them_and_keeps_three() {
    let mut days = Days::of("2026-07-01T00:00:00Z", &json!({"schedule": "*/30 * * * *"}));
    days.until("2026-07-02T00:00:00Z");
    assert_eq!(days.runs.len(), 48);
    assert!(days.runs.iter().all(|(due, began)| due == began), "each in time");
    assert_eq!(days.due().last().unwrap(), "2026-07-02T00:00:00Z");
    days.until("2026-07-02T00:01:00Z");
    assert_eq!(days.jobs.keys().collect::<Vec<_>>(), ["c-29715780", "c-29715810", "c-29715840"]);
    let status = days.cron_job.status.clone().unwrap();
    assert_eq!(status.active, None);
    assert_eq!(status.last_schedule_time.unwrap().0, time("2026-07-02T00:00:00Z"));
    assert_eq!(status.last_successful_time.unwrap().0, time("2026-07-02T00:00:30Z"));
    assert_eq!(
        days.told().last().unwrap(),
        "SawCompletedJob: Saw completed job: c-29715840, condition: Complete"
    );
}

#[test]
fn on_days_when_clocks_change_a_time_may_be_missing_or_come_twice() {
    let spec = json!({"schedule": "30 2 * * *", "timeZone": "Europe/Berlin"});
    let mut spring = Days::of("2026-03-27T12:00:00Z", &spec);
    spring.until("2026-03-31T12:00:00Z");
    assert_eq!(spring.due(), ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]);
    let mut autumn = Days::of("2026-10-24T12:00:00Z", &spec);
    autumn.until("2026-10-26T12:00:00Z");
    assert_eq!(autumn.due(), ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]);
}

#[test]
fn after_a_time_of_being_down_the_last_that_was_missed_is_met() {
    let mut days = Days::of("2026-07-01T00:30:00Z", &json!({"schedule": "0 * * * *"}));
    days.until("2026-07-01T02:30:00Z").down_until("2026-07-01T07:20:00Z").until("2026-07-01T08:30:00Z");
    assert_eq!(
        days.due(),
        ["2026-07-01T01:00:00Z", "2026-07-01T02:00:00Z", "2026-07-01T07:00:00Z", "2026-07-01T08:00:00Z"]
    );
    assert_eq!(days.runs[2].1, time("2026-07-01T07:20:00Z"));
    assert!(!days.told().iter().any(|told| told.starts_with('!')));
    // What is not due at regular times as well: the last one was on Friday.
    let mut week = Days::of("2026-06-30T00:00:00Z", &json!({"schedule": "30 6-16/4 * * 1-5"}));
    week.until("2026-07-01T00:00:00Z").down_until("2026-07-04T12:00:00Z").until("2026-07-04T13:00:00Z");
    assert_eq!(week.due().last().unwrap(), "2026-07-03T14:30:00Z");
}

#[test]
fn more_than_a_hundred_missed_times_are_told_and_the_last_is_met() {
    let mut days = Days::of("2026-07-01T00:00:00Z", &json!({"schedule": "* * * * *"}));
    days.down_until("2026-07-01T01:40:30Z").until("2026-07-01T01:40:40Z");
    assert_eq!((days.due(), days.told().len()), (vec!["2026-07-01T01:40:00Z".to_owned()], 0));
    days.down_until("2026-07-01T03:21:30Z").until("2026-07-01T03:21:40Z");
    assert_eq!(days.due().last().unwrap(), "2026-07-01T03:21:00Z");
    let told = days.told();
    assert_eq!(
        told.iter().filter(|told| told.starts_with('!')).collect::<Vec<_>>(),
        [
            "!TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        ]
    );
    // With a deadline only what it reaches is counted.
    days.set("startingDeadlineSeconds", json!(200));
    days.down_until("2026-07-01T13:00:30Z").until("2026-07-01T13:00:40Z");
    assert_eq!(days.due().last().unwrap(), "2026-07-01T13:00:00Z");
    assert!(!days.told().iter().any(|told| told.starts_with('!')));
}

#[test]
fn a_time_that_was_missed_by_more_than_the_deadline_is_told_once_and_not_met() {
    let spec = json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 60});
    let mut days = Days::of("2026-07-01T00:30:00Z", &spec);
    days.down_until("2026-07-01T05:01:01Z").until("2026-07-01T05:30:00Z").until("2026-07-01T05:40:00Z");
    assert_eq!(
        days.told(),
        ["!MissSchedule: Missed scheduled time to start a job: Wed, 01 Jul 2026 05:00:00 +0000"]
    );
    assert!(days.runs.is_empty());
    days.until("2026-07-01T06:00:00Z").down_until("2026-07-01T07:01:00Z").until("2026-07-01T07:01:00Z");
    assert_eq!(days.due(), ["2026-07-01T06:00:00Z", "2026-07-01T07:00:00Z"], "just in time");
}

#[test]
fn a_job_that_takes_longer_is_joined_waited_for_or_replaced() {
    let days = |policy: &str| {
        let spec = json!({"schedule": "*/10 * * * *", "concurrencyPolicy": policy});
        let mut days = Days::of("2026-07-01T00:05:00Z", &spec);
        days.takes = SignedDuration::from_mins(15);
        days.until("2026-07-01T00:39:00Z");
        days
    };
    let mut allow = days("Allow");
    assert_eq!((allow.due().len(), allow.most_active), (3, 2));
    assert!(!allow.told().iter().any(|told| told.starts_with("JobAlreadyActive")));
    let mut forbid = days("Forbid");
    // The one that had to wait is due still when the first has ended.
    assert_eq!(forbid.due(), ["2026-07-01T00:10:00Z", "2026-07-01T00:20:00Z"]);
    assert_eq!((forbid.runs[1].1, forbid.most_active), (time("2026-07-01T00:25:00Z"), 1));
    let told = forbid.told();
    assert_eq!(
        told[0],
        "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid"
    );
    let mut replace = days("Replace");
    assert_eq!((replace.due().len(), replace.most_active), (3, 1));
    assert_eq!(replace.jobs.len(), 1, "the others were deleted");
    assert!(replace.told().is_empty(), "nothing ended and nothing is missing");
}

#[test]
fn nothing_begins_while_suspended_and_what_was_missed_comes_afterwards() {
    let mut days = Days::of("2026-07-01T00:30:00Z", &json!({"schedule": "0 * * * *", "suspend": true}));
    days.until("2026-07-01T05:30:00Z");
    assert_eq!((days.runs.len(), days.turn()), (0, None));
    days.set("suspend", json!(false)).until("2026-07-01T06:30:00Z");
    assert_eq!(days.due(), ["2026-07-01T05:00:00Z", "2026-07-01T06:00:00Z"]);
}

#[test]
fn a_new_schedule_counts_from_when_it_was_given() {
    let mut days = Days::of("2026-07-01T00:00:30Z", &json!({"schedule": "0 0 1 1 *"}));
    days.until("2026-07-01T05:30:30Z").set("schedule", json!("* * * * *"));
    days.scheduled_since = Some(days.now);
    days.until("2026-07-01T05:32:30Z");
    assert_eq!(days.due(), ["2026-07-01T05:31:00Z", "2026-07-01T05:32:00Z"]);
}

#[test]
fn a_job_made_by_hand_is_told_of_and_counted_when_it_has_succeeded() {
    let mut days = Days::of("2026-07-01T00:00:00Z", &json!({"schedule": "0 0 1 1 *", "suspend": true}));
    let mut job = template::job(&days.cron_job, days.now);
    job.metadata.name = Some("by-hand".to_owned());
    days.add(job);
    days.turn();
    assert_eq!(
        days.told(),
        ["!UnexpectedJob: Saw a job that the controller did not create or forgot: by-hand"]
    );
    days.until("2026-07-01T00:10:00Z");
    let status = days.cron_job.status.clone().unwrap();
    assert_eq!((status.active, status.last_schedule_time), (None, None));
    assert_eq!(status.last_successful_time.unwrap().0, time("2026-07-01T00:00:30Z"));
}

#[test]
fn an_active_job_that_is_gone_is_told_missing_and_no_longer_in_the_way() {
    let spec = json!({"schedule": "*/10 * * * *", "concurrencyPolicy": "Forbid"});
    let mut days = Days::of("2026-07-01T00:05:00Z", &spec);
    days.takes = SignedDuration::from_hours(24);
    days.until("2026-07-01T00:25:00Z").jobs.clear();
    days.told();
    days.until("2026-07-01T00:26:00Z");
    assert_eq!(days.told(), ["MissingJob: Active job went missing: c-29714410"]);
    assert_eq!(days.due(), ["2026-07-01T00:10:00Z", "2026-07-01T00:20:00Z"]);
}

#[test]
fn those_that_failed_and_those_that_succeeded_have_histories_of_their_own() {
    let spec = json!({"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 2});
    let mut days = Days::of("2026-07-01T00:05:00Z", &spec);
    days.until("2026-07-01T00:35:00Z").ends = "Failed";
    days.until("2026-07-01T01:05:00Z");
    assert_eq!(days.jobs.len(), 3);
    let failed = days.jobs.values().filter(|job| end_of(job).unwrap().type_ == "Failed").count();
    assert_eq!(failed, 1);
    assert_eq!(
        days.cron_job.status.clone().unwrap().last_successful_time.unwrap().0,
        time("2026-07-01T00:30:30Z")
    );
    days.set("failedJobsHistoryLimit", json!(0)).set("successfulJobsHistoryLimit", json!(0));
    days.until("2026-07-01T01:06:00Z");
    assert!(days.jobs.is_empty());
}

#[test]
fn what_a_set_clock_makes_due_is_found() {
    let due = |at: &str| Memory { due: Some(time(at)), ..Memory::default() };
    let memories = HashMap::from([
        ("past".to_owned(), due("2026-07-01T00:00:00Z")),
        ("coming".to_owned(), due("2026-07-01T00:00:01Z")),
        ("never".to_owned(), Memory::default()),
    ]);
    assert_eq!(overdue(&memories, time("2026-07-01T00:00:00Z")), HashSet::from(["past".to_owned()]));
}

#[test]
fn one_that_is_being_deleted_begins_nothing() {
    let mut days = Days::of("2026-07-01T00:05:00Z", &json!({"schedule": "* * * * *"}));
    days.cron_job.metadata.deletion_timestamp = Some(Time(days.now));
    days.until("2026-07-01T00:15:00Z");
    assert!(days.runs.is_empty());
}

#[test]
fn a_schedule_that_cannot_be_kept_is_told_and_not_tried_again() {
    for (spec, wanted) in [
        (
            json!({"schedule": "* * * * *", "timeZone": "Mars/Phobos"}),
            "!UnknownTimeZone: invalid timeZone: \"Mars/Phobos\": unknown time zone Mars/Phobos",
        ),
        (
            json!({"schedule": "61 * * * *"}),
            "!UnparseableSchedule: unparseable schedule: \"61 * * * *\" : end of range (61) above maximum (59): 61",
        ),
        (
            json!({"schedule": "0 0 31 2 *"}),
            "!InvalidSchedule: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second",
        ),
    ] {
        let mut days = Days::of("2026-07-01T00:05:00Z", &spec);
        assert_eq!(days.turn(), None);
        assert_eq!(days.told(), [wanted]);
    }
    let mut days = Days::of("2026-07-01T00:05:00Z", &json!({"schedule": "TZ=Asia/Kolkata 0 6 * * *"}));
    days.until("2026-07-01T12:00:00Z");
    assert!(days.told()[0].starts_with("!UnsupportedSchedule: CRON_TZ or TZ used in schedule"));
    assert_eq!(days.due(), ["2026-07-01T00:30:00Z"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the Jobs take and whenever nobody is there to decide.
    #[test]
    fn jobs_begin_in_order_each_at_a_time_of_the_schedule_and_never_more_than_allowed(
        policy in prop::sample::select(vec!["Allow", "Forbid", "Replace"]),
        schedule in prop::sample::select(vec!["*/7 * * * *", "0 */3 * * *", "15,45 2 * * *", "@every 11m"]),
        takes in 1_i64..20_000,
        pauses in prop::collection::vec((0_i64..20_000, prop::bool::ANY), 1..8),
    ) {
        let spec = json!({"schedule": schedule, "timeZone": "Europe/Berlin", "concurrencyPolicy": policy});
        let mut days = Days::of("2026-10-24T12:00:00Z", &spec);
        days.takes = SignedDuration::from_secs(takes);
        for (length, is_down) in &pauses {
            let end = (days.now + SignedDuration::from_secs(*length)).to_string();
            if *is_down { days.down_until(&end) } else { days.until(&end) };
        }
        let times = Schedule::parse(schedule).unwrap().in_zone(zone("Europe/Berlin").unwrap());
        for pair in days.runs.windows(2) {
            prop_assert!(pair[0].0 < pair[1].0);
        }
        for (due, began) in &days.runs {
            prop_assert!(due <= began);
            prop_assert_eq!(times.last(time("2026-10-24T12:00:00Z"), *due), Some(*due));
            prop_assert!(times.next(*due).is_none_or(|next| next > *began), "it was the last that was due");
        }
        if policy != "Allow" {
            prop_assert!(days.most_active <= 1);
        }
        if policy != "Forbid" && pauses.iter().all(|(_, is_down)| !is_down) {
            let wanted = std::iter::successors(times.next(time("2026-10-24T12:00:00Z")), |time| times.next(*time));
            let wanted: Vec<Timestamp> = wanted.take_while(|time| *time <= days.now).collect();
            let due: Vec<Timestamp> = days.runs.iter().map(|(due, _)| *due).collect();
            prop_assert_eq!(due, wanted);
        }
    }
}
