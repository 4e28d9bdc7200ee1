//! Jobs: what the server makes of them and what it refuses.
//!
//! Start reading at [`validate`]; `status.rs` has the rules for those who write the status.

mod indexes;
mod policy;
mod selector;
mod status;
mod template;
#[cfg(test)]
mod tests;

pub(crate) use selector::prepare_create;
pub(crate) use status::validate_status;

use super::apps::numbers;
use super::pod;
use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::{IMMUTABLE, immutable, same};
use crate::validate::view::View;
use crate::validate::{check, is_dns1123_label, is_dns1123_subdomain};

const SPEC: Path<'static> = Path::new("spec");
const MODES: [&str; 2] = ["NonIndexed", "Indexed"];

/// An Indexed Job's lists of indexes would be too long with more.
const INDEXED_MAX: i64 = 100_000;
/// What is allowed at a time when there are more completions than that, and failures count per index.
const HIGH_COMPLETIONS_MAX: i64 = 10_000;
const MANAGED_BY_MAX: usize = 63;

pub(crate) fn validate(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let wishes = new.get("spec");
    // One that was stored without a selector is left as it is: nothing acts on it, and it can be deleted.
    let is_selecting = old.is_none_or(|old| old.at(&["spec", "selector"]).is_set());
    if is_selecting {
        selector::generated(new, old, errors);
    }
    spec(wishes, &SPEC, errors);
    if is_selecting {
        selector::chooses(wishes, errors);
    }
    host_names(new, errors);
    if let Some(old) = old {
        update(wishes, old, errors);
    }
}

/// The rules that the template of a CronJob has to meet too.
pub(super) fn spec(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    numbers(spec, &counts, path, errors);
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        let words = "when maxFailedIndexes is specified";
        errors.push(Error::required(&path.child("backoffLimitPerIndex"), words));
    }
    managed_by(spec.get("managedBy"), &path.child("managedBy"), errors);
    completion_mode(spec, path, errors);
    policy::failure(spec, &path.child("podFailurePolicy"), errors);
    policy::success(spec, &path.child("successPolicy"), errors);
    replacement_policy(spec, &path.child("podReplacementPolicy"), errors);
    pod::template(spec.get("template"), &path.child("template"), errors);
    restart_policy(spec, &path.child("template.spec.restartPolicy"), errors);
}

/// The name of a controller: a path with a domain in front.
fn managed_by(name: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !name.is_set() {
        return;
    }
    let name = name.text();
    match name.split_once('/') {
        _ if name.is_empty() => errors.push(Error::required(path, "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            check(is_dns1123_subdomain(domain), domain, path, errors);
            if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
            {
                let words =
                    "must be a valid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.push(Error::invalid(path, rest, words));
            }
        }
        _ => {
            let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(Error::invalid(path, name, words));
        }
    }
    if name.len() > MANAGED_BY_MAX {
        errors.push(Error::too_long(path, MANAGED_BY_MAX));
    }
}

fn completion_mode(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mode = spec.get("completionMode");
    if mode.is_set() && !MODES.contains(&mode.text()) {
        errors.push(Error::not_supported(&path.child("completionMode"), mode.text(), &MODES));
    }
    if mode.text() == "Indexed" {
        indexed(spec, path, errors);
    }
    if !mode.is_set() || mode.text() == "NonIndexed" {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(count) = spec.get(name).as_int() {
                errors.push(Error::invalid(&path.child(name), count, "requires indexed completion mode"));
            }
        }
    }
}

fn indexed(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (completions, failed) = (spec.get("completions").as_int(), spec.get("maxFailedIndexes").as_int());
    let (parallelism, at) = (spec.int("parallelism"), path.child("maxFailedIndexes"));
    if completions.is_none() {
        errors.push(Error::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if parallelism > INDEXED_MAX {
        let words = format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
        errors.push(Error::invalid(&path.child("parallelism"), parallelism, words));
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errors.push(Error::invalid(&at, failed, "must be less than or equal to completions"));
    }
    if let Some(failed) = failed.filter(|failed| *failed > INDEXED_MAX) {
        errors.push(Error::invalid(&at, failed, format!("must be less than or equal to {INDEXED_MAX}")));
    }
    let is_high = completions.is_some_and(|completions| completions > INDEXED_MAX);
    if !is_high || !spec.get("backoffLimitPerIndex").is_set() {
        return;
    }
    let words = format!(
        "must be less than or equal to {HIGH_COMPLETIONS_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per index"
    );
    if failed.is_none() {
        let words = format!("must be specified when completions is above {INDEXED_MAX}");
        errors.push(Error::required(&at, words));
    }
    if parallelism > HIGH_COMPLETIONS_MAX {
        errors.push(Error::invalid(&path.child("parallelism"), parallelism, words.clone()));
    }
    if let Some(failed) = failed.filter(|failed| *failed > HIGH_COMPLETIONS_MAX) {
        errors.push(Error::invalid(&at, failed, words));
    }
}

/// Who looks at failed Pods needs them to have failed before they are replaced.
fn replacement_policy(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let policy = spec.get("podReplacementPolicy");
    let supported: &[&str] = match spec.get("podFailurePolicy").is_set() {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    if policy.is_set() && !supported.contains(&policy.text()) {
        errors.push(Error::not_supported(path, policy.text(), supported));
    }
}

fn restart_policy(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    match spec.at(&["template", "spec", "restartPolicy"]).text() {
        // A policy that was left open has become the default, which Jobs do not have.
        "Always" | "" => errors.push(Error::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.get("podFailurePolicy").is_set() => {
            let words = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(Error::invalid(path, "OnFailure", words));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(Error::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

/// The Pods of an Indexed Job are called after it and their index: the last of them must be a name as well.
fn host_names(job: View<'_>, errors: &mut ErrorList) {
    let (name, spec) = (job.get("metadata").str("name"), job.get("spec"));
    let completions = spec.int("completions");
    if spec.str("completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let last = format!("{name}-{}", completions - 1);
    if !is_dns1123_label(&last).is_empty() {
        let words = format!("will not able to create pod with invalid DNS label: {last}");
        errors.push(Error::invalid(&Path::new("metadata.name"), name, words));
    }
}

fn update(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let before = old.get("spec");
    completions(new, before, errors);
    immutable(new.get("selector"), before.get("selector"), &SPEC.child("selector"), errors);
    let template = template::before(new.get("template"), old);
    if !same(new.get("template").value(), Some(&template)) {
        errors.push(Error::invalid(&SPEC.child("template"), new.get("template").json(), IMMUTABLE));
    }
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(new.get(name), before.get(name), &SPEC.child(name), errors);
    }
}

/// The indexes may become more or fewer, all at once.
fn completions(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let (completions, path) = (new.get("completions"), SPEC.child("completions"));
    if new.str("completionMode") != "Indexed" {
        immutable(completions, old.get("completions"), &path, errors);
        return;
    }
    let is_changed = !same(completions.value(), old.get("completions").value());
    if is_changed && completions.is_set() && completions.as_int() != Some(new.int("parallelism")) {
        let words = "can only be modified in tandem with spec.parallelism";
        errors.push(Error::invalid(&path, completions.json(), words));
    }
}
