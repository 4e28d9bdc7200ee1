//! The policies of a Job: what follows from the failure of a Pod, and when few successes are enough.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::apps::numbers;
use super::indexes;
use crate::field::{Error, ErrorList, Path, go_quote};
use crate::validate::qualified_name;
use crate::validate::view::View;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// One of the words, in upstream's two ways to say that it is not.
fn one_of(word: &str, words: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    if word.is_empty() {
        let quoted: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
        errors.push(Error::required(path, format!("valid values: [{}]", quoted.join(" "))));
    } else if !words.contains(&word) {
        errors.push(Error::not_supported(path, word, words));
    }
}

pub(super) fn failure(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (policy, rules) = (spec.get("podFailurePolicy"), path.child("rules"));
    let count = policy.list("rules").len();
    if count > RULES_MAX {
        errors.push(Error::too_many(&rules, count, RULES_MAX));
    }
    for (index, rule) in policy.list("rules").enumerate() {
        failure_rule(spec, rule, &rules.index(index), errors);
    }
}

fn failure_rule(spec: View<'_>, rule: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let action = rule.str("action");
    if action == "FailIndex" && !spec.get("backoffLimitPerIndex").is_set() {
        let words = "requires the backoffLimitPerIndex to be set";
        errors.push(Error::invalid(&path.child("action"), action, words));
    }
    one_of(action, &ACTIONS, &path.child("action"), errors);
    let (codes, conditions) = (rule.get("onExitCodes"), rule.has_items("onPodConditions"));
    if codes.is_set() {
        exit_codes(spec, codes, &path.child("onExitCodes"), errors);
    }
    pod_conditions(rule, &path.child("onPodConditions"), errors);
    match (codes.is_set(), conditions) {
        (true, true) => {
            let words = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.push(Error::invalid_whole(path, words));
        }
        (false, false) => {
            let words = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.push(Error::invalid_whole(path, words));
        }
        _ => {}
    }
}

fn pod_conditions(rule: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let count = rule.list("onPodConditions").len();
    if count > CONDITIONS_MAX {
        errors.push(Error::too_many(path, count, CONDITIONS_MAX));
    }
    for (index, pattern) in rule.list("onPodConditions").enumerate() {
        let at = path.index(index);
        qualified_name(pattern.str("type"), &at.child("type"), errors);
        one_of(pattern.str("status"), &STATUSES, &at.child("status"), errors);
    }
}

fn exit_codes(spec: View<'_>, codes: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    one_of(codes.str("operator"), &OPERATORS, &path.child("operator"), errors);
    let (name, pod) = (codes.get("containerName"), spec.at(&["template", "spec"]));
    let mut containers = pod.list("containers").chain(pod.list("initContainers"));
    if name.is_set() && !containers.any(|container| container.str("name") == name.text()) {
        let words = "must be one of the container or initContainer names in the pod template";
        errors.push(Error::invalid(&path.child("containerName"), name.text(), words));
    }
    exit_values(codes, &path.child("values"), errors);
}

fn exit_values(codes: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let values: Vec<i64> = codes.list("values").filter_map(View::as_int).collect();
    if values.is_empty() {
        errors.push(Error::invalid(path, codes.get("values").json(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(Error::too_many(path, values.len(), EXIT_CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        if codes.str("operator") == "In" && *value == 0 {
            errors.push(Error::invalid(&path.index(index), 0, "must not be 0 for the In operator"));
        }
        if !seen.insert(value) {
            errors.push(Error::duplicate(&path.index(index), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(Error::invalid(path, Value::from(values), "must be ordered"));
    }
}

pub(super) fn success(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let policy = spec.get("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.str("completionMode") != "Indexed" {
        errors.push(Error::invalid(path, policy.json(), "requires indexed completion mode"));
        return;
    }
    let (rules, count) = (path.child("rules"), policy.list("rules").len());
    if count == 0 {
        let words = "at least one rules must be specified when the successPolicy is specified";
        errors.push(Error::required(&rules, words));
    } else if count > RULES_MAX {
        errors.push(Error::too_many(&rules, count, RULES_MAX));
    }
    // Without completions there is nothing to compare with: that is refused already.
    if let Some(completions) = spec.get("completions").as_int() {
        for (index, rule) in policy.list("rules").enumerate() {
            success_rule(rule, completions, &rules.index(index), errors);
        }
    }
}

fn success_rule(rule: View<'_>, completions: i64, path: &Path<'_>, errors: &mut ErrorList) {
    let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
    if !count.is_set() && !indexes.is_set() {
        let words = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(Error::required(path, words));
    }
    let total = succeeded_indexes(indexes, completions, &path.child("succeededIndexes"), errors);
    numbers(rule, &["succeededCount"], path, errors);
    let (Some(count), at) = (count.as_int(), path.child("succeededCount")) else { return };
    if count > completions {
        let words =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(Error::invalid(&at, count, words));
    }
    if let Some(total) = total.filter(|total| count > *total) {
        let words = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(Error::invalid(&at, count, words));
    }
}

/// How many there are: none of those that cannot be read.
fn succeeded_indexes(
    indexes: View<'_>,
    completions: i64,
    path: &Path<'_>,
    errors: &mut ErrorList,
) -> Option<i64> {
    if !indexes.is_set() {
        return None;
    }
    if indexes.text().len() > INDEXES_BYTES_MAX {
        errors.push(Error::too_long(path, INDEXES_BYTES_MAX));
    }
    let total = indexes::count(indexes.text(), completions).unwrap_or_else(|words| {
        let words = format!("error parsing succeededIndexes: {words}");
        errors.push(Error::invalid(path, indexes.text(), words));
        0
    });
    Some(total)
}
