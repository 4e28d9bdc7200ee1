//! What a status may say. A Job may be another controller's (`managedBy`), and whoever waits for one relies on
//! its end being an end.
//!
//! Most rules look only at what changes: a change of the spec may have made the rest wrong for a while.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::super::apps::numbers;
use super::indexes;
use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::same;
use crate::validate::view::View;

const STATUS: Path<'static> = Path::new("status");

/// A status with its Job.
#[derive(Clone, Copy)]
struct Stand<'a> {
    spec: View<'a>,
    status: View<'a>,
}

impl<'a> Stand<'a> {
    fn of(job: View<'a>) -> Self {
        Self { spec: job.get("spec"), status: job.get("status") }
    }

    fn is(self, condition: &str) -> bool {
        let mut conditions = self.status.list("conditions");
        conditions.any(|one| one.str("type") == condition && one.str("status") == "True")
    }

    fn is_finished(self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn is_indexed(self) -> bool {
        self.spec.str("completionMode") == "Indexed"
    }

    fn time(self, name: &str) -> Option<Timestamp> {
        self.status.str(name).parse().ok()
    }
}

/// What it is to become, and what it was.
struct Change<'a> {
    new: Stand<'a>,
    old: Stand<'a>,
}

impl Change<'_> {
    fn differs(&self, name: &str) -> bool {
        let (new, old) = (self.new.status.get(name), self.old.status.get(name));
        let is_zero = |view: View<'_>| view.value().is_none_or(|value| *value == 0 || *value == "");
        !(same(new.value(), old.value()) || is_zero(new) && is_zero(old))
    }

    fn flips(&self, condition: &str) -> bool {
        self.new.is(condition) != self.old.is(condition)
    }

    fn finishes(&self) -> bool {
        self.new.is_finished() != self.old.is_finished()
    }
}

pub(crate) fn validate_status(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let change = Change { new: Stand::of(new), old: Stand::of(old) };
    let counts = ["active", "succeeded", "failed", "ready", "terminating"];
    numbers(change.new.status, &counts, &STATUS, errors);
    uncounted(change.new.status.get("uncountedTerminatedPods"), errors);
    ends(&change, errors);
    completion_time(&change, errors);
    reasons_for_ends(&change, errors);
    finished(&change, errors);
    lists_of_indexes(&change, errors);
    of_pods(&change, errors);
    success_criteria(&change, errors);
    kept(&change, errors);
}

fn conditions(words: &str, errors: &mut ErrorList) {
    errors.push(Error::invalid_whole(&STATUS.child("conditions"), words));
}

/// Each Pod is listed once.
fn uncounted(pods: View<'_>, errors: &mut ErrorList) {
    let (path, mut seen) = (STATUS.child("uncountedTerminatedPods"), BTreeSet::new());
    for name in ["succeeded", "failed"] {
        let path = path.child(name);
        for (index, uid) in pods.list(name).enumerate() {
            let (uid, at) = (uid.text(), path.index(index));
            if uid.is_empty() {
                errors.push(Error::invalid(&at, "", "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(Error::duplicate(&at, uid));
            }
        }
    }
}

fn ends(change: &Change<'_>, errors: &mut ErrorList) {
    let new = change.new;
    if (change.flips("Complete") || change.flips("Failed")) && new.is("Complete") && new.is("Failed") {
        conditions("cannot set Complete=True and Failed=true conditions", errors);
    }
    let target = change.flips("Complete") || change.flips("FailureTarget");
    if target && new.is("Complete") && new.is("FailureTarget") {
        conditions("cannot set Complete=True and FailureTarget=true conditions", errors);
    }
}

fn completion_time(change: &Change<'_>, errors: &mut ErrorList) {
    let (new, path) = (change.new, STATUS.child("completionTime"));
    let completed = new.status.get("completionTime");
    if change.flips("Complete") || change.differs("completionTime") {
        if completed.is_set() && !new.is("Complete") {
            let words = "cannot set completionTime when there is no Complete=True condition";
            errors.push(Error::invalid(&path, completed.json(), words));
        }
        if !completed.is_set() && new.is("Complete") {
            errors.push(Error::required(&path, "completionTime is required for Complete jobs"));
        }
    }
    let moves = change.differs("startTime") || change.differs("completionTime");
    if moves && new.time("completionTime").zip(new.time("startTime")).is_some_and(|(end, start)| end < start)
    {
        let words = "completionTime cannot be set before startTime";
        errors.push(Error::invalid(&path, completed.json(), words));
    }
}

/// An end is announced before it comes.
fn reasons_for_ends(change: &Change<'_>, errors: &mut ErrorList) {
    for (end, reason) in [("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")] {
        let moves = change.flips(end) || change.flips(reason);
        if moves && change.new.is(end) && !change.new.is(reason) {
            let words = format!("cannot set {end}=True condition without the {reason}=true condition");
            conditions(&words, errors);
        }
    }
}

/// What has finished has begun, and nothing of it runs.
fn finished(change: &Change<'_>, errors: &mut ErrorList) {
    let (status, finishes) = (change.new.status, change.finishes());
    if !change.new.is_finished() {
        return;
    }
    let active = status.int("active");
    if (finishes || change.differs("active")) && active > 0 {
        let words = "active>0 is invalid for finished job";
        errors.push(Error::invalid(&STATUS.child("active"), active, words));
    }
    if (finishes || change.differs("startTime")) && !status.get("startTime").is_set() {
        let words = "startTime is required for finished job";
        errors.push(Error::required(&STATUS.child("startTime"), words));
    }
    let uncounted = status.get("uncountedTerminatedPods");
    let is_uncounted = uncounted.has_items("failed") || uncounted.has_items("succeeded");
    if (finishes || change.differs("uncountedTerminatedPods")) && is_uncounted {
        let words = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(Error::invalid(&STATUS.child("uncountedTerminatedPods"), uncounted.json(), words));
    }
}

fn lists_of_indexes(change: &Change<'_>, errors: &mut ErrorList) {
    let Stand { spec, status } = change.new;
    let (completed, failed) = (status.str("completedIndexes"), status.get("failedIndexes"));
    let (completed_moves, failed_moves) =
        (change.differs("completedIndexes"), change.differs("failedIndexes"));
    let (at_completed, at_failed) = (STATUS.child("completedIndexes"), STATUS.child("failedIndexes"));
    let completions = spec.get("completions").as_int();
    let per_index = spec.get("backoffLimitPerIndex").is_set();
    let unreadable = |text: &str| completions.and_then(|completions| indexes::count(text, completions).err());
    if let Some(words) = unreadable(completed).filter(|_| completed_moves) {
        let words = format!("error parsing completedIndexes: {words}");
        errors.push(Error::invalid(&at_completed, completed, words));
    }
    if let Some(words) = unreadable(failed.text()).filter(|_| failed_moves && per_index) {
        errors.push(Error::invalid(
            &at_failed,
            failed.text(),
            format!("error parsing failedIndexes: {words}"),
        ));
    }
    if completed_moves && !completed.is_empty() && !change.new.is_indexed() {
        let words = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(Error::invalid(&at_completed, completed, words));
    }
    if failed_moves && failed.is_set() && !per_index {
        let words = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(Error::invalid(&at_failed, failed.text(), words));
    }
    let both = completions.filter(|_| completed_moves || failed_moves);
    if let Some(index) = both.and_then(|all| indexes::common(completed, failed.text(), all)) {
        let words = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(Error::invalid(&at_failed, failed.text(), words));
    }
}

fn of_pods(change: &Change<'_>, errors: &mut ErrorList) {
    let status = change.new.status;
    let (terminating, ready) = (status.int("terminating"), status.int("ready"));
    let moves = change.finishes() || change.differs("terminating");
    if moves && terminating > 0 && change.new.is_finished() {
        let words = "terminating>0 is invalid for finished job";
        errors.push(Error::invalid(&STATUS.child("terminating"), terminating, words));
    }
    if (change.differs("ready") || change.differs("active")) && ready > status.int("active") {
        let words = "cannot set more ready pods than active";
        errors.push(Error::invalid(&STATUS.child("ready"), ready, words));
    }
}

fn success_criteria(change: &Change<'_>, errors: &mut ErrorList) {
    let new = change.new;
    if new.is("SuccessCriteriaMet") && new.is("Failed") {
        conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions", errors);
    }
    if new.is("SuccessCriteriaMet") && new.is("FailureTarget") {
        conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", errors);
    }
    if new.spec.get("successPolicy").is_set() && !new.is("SuccessCriteriaMet") && new.is("Complete") {
        let words = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        conditions(words, errors);
    }
}

/// What is never taken back.
fn kept(change: &Change<'_>, errors: &mut ErrorList) {
    let Change { new, old } = change;
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if old.is(condition) && !new.is(condition) {
            conditions(&format!("cannot disable the terminal {condition}=True condition"), errors);
        }
    }
    // Completions that go down with the parallelism take their successes along.
    let is_elastic =
        new.is_indexed() && same(new.spec.get("completions").value(), new.spec.get("parallelism").value());
    for name in ["failed", "succeeded"] {
        let count = new.status.int(name);
        if count < old.status.int(name) && !(name == "succeeded" && is_elastic) {
            let words = format!("cannot decrease the {name} counter");
            errors.push(Error::invalid(&STATUS.child(name), count, words));
        }
    }
    kept_times(new, old, errors);
    if old.is("SuccessCriteriaMet") && !new.is("SuccessCriteriaMet") {
        conditions("cannot disable the SuccessCriteriaMet=True condition", errors);
    }
    if old.is("Complete") && !old.is("SuccessCriteriaMet") && new.is("SuccessCriteriaMet") {
        let words = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        conditions(words, errors);
    }
}

fn kept_times(new: &Stand<'_>, old: &Stand<'_>, errors: &mut ErrorList) {
    let completed = new.time("completionTime").zip(old.time("completionTime"));
    if completed.is_some_and(|(now, before)| now != before) {
        let (time, words) = (new.status.get("completionTime"), "completionTime cannot be mutated");
        errors.push(Error::invalid(&STATUS.child("completionTime"), time.json(), words));
    }
    let moved = old.status.get("startTime").is_set() && new.time("startTime") != old.time("startTime");
    if moved && !new.spec.flag("suspend") {
        let words = "startTime cannot be removed for unsuspended job";
        errors.push(Error::required(&STATUS.child("startTime"), words));
    }
}
