//! CronJobs.

use serde_json::Value;

use super::apps::numbers;
use super::{job, pod};
use crate::field::{Error, ErrorList, Path};
use crate::schedule::{self, Schedule};
use crate::validate::view::View;

const SPEC: Path<'static> = Path::new("spec");
const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];
/// The Jobs' names are labels, and eleven characters longer.
const NAME_MAX: usize = 63 - 11;

pub(crate) fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let template = View::new(object).at(&["spec", "jobTemplate", "spec", "template"]);
    pod::template_warnings(template, &SPEC.child("jobTemplate.spec.template"))
}

pub(crate) fn validate(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let (spec, before) = (new.get("spec"), old.map(|old| old.get("spec")));
    schedule(spec, before, errors);
    numbers(spec, &["startingDeadlineSeconds"], &SPEC, errors);
    if before.is_none_or(|before| before.get("timeZone").value() != spec.get("timeZone").value()) {
        time_zone(spec.get("timeZone"), errors);
    }
    match spec.str("concurrencyPolicy") {
        "" => errors.push(Error::required(&SPEC.child("concurrencyPolicy"), "")),
        policy if !POLICIES.contains(&policy) => {
            errors.push(Error::not_supported(&SPEC.child("concurrencyPolicy"), policy, &POLICIES));
        }
        _ => {}
    }
    job_template(spec.at(&["jobTemplate", "spec"]), &SPEC.child("jobTemplate.spec"), errors);
    numbers(spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], &SPEC, errors);
    // Longer names were once accepted, and their CronJobs can still be changed.
    let name = new.get("metadata").str("name");
    if old.is_none() && name.len() > NAME_MAX {
        let words = format!("must be no more than {NAME_MAX} characters");
        errors.push(Error::invalid(&Path::new("metadata.name"), name, words));
    }
}

/// A zone belongs in `timeZone`; who has one in the schedule from before may keep it.
fn schedule(spec: View<'_>, before: Option<View<'_>>, errors: &mut ErrorList) {
    let (schedule, path) = (spec.str("schedule"), SPEC.child("schedule"));
    if schedule.is_empty() {
        errors.push(Error::required(&path, ""));
        return;
    }
    if let Err(words) = Schedule::parse(schedule) {
        errors.push(Error::invalid(&path, schedule, words));
    }
    let zoned_before = before.is_some_and(|before| before.str("schedule").contains("TZ"));
    let words = match (schedule.contains("TZ"), zoned_before, spec.get("timeZone").is_set()) {
        (true, false, _) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        (true, true, true) => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        _ => return,
    };
    errors.push(Error::invalid(&path, schedule, words));
}

/// A zone must be named, as the zone database does.
fn time_zone(zone: View<'_>, errors: &mut ErrorList) {
    if !zone.is_set() {
        return;
    }
    let (name, path) = (zone.text(), SPEC.child("timeZone"));
    let unknown = || format!("unknown time zone {name}");
    if name.is_empty() {
        errors.push(Error::invalid(&path, name, "timeZone must be nil or non-empty string"));
        return;
    }
    if !name.split('/').all(may_be_in_zone) {
        errors.push(Error::invalid(&path, name, unknown()));
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        let words = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(Error::invalid(&path, name, words));
    }
    // Upstream's host knows itself under this name.
    if name != "Local" && schedule::zone(name).is_none() {
        errors.push(Error::invalid(&path, name, unknown()));
    }
}

/// Whether a part of a zone's name is spelt as one: they are names of files where upstream looks for them.
fn may_be_in_zone(part: &str) -> bool {
    let spelt = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    !matches!(part, "." | "..")
        && !part.starts_with('-')
        && (1..=14).contains(&part.len())
        && part.bytes().all(spelt)
}

fn job_template(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    job::spec(spec, path, errors);
    if spec.get("selector").is_set() {
        let words = "`selector` will be auto-generated";
        errors.push(Error::invalid(&path.child("selector"), spec.get("selector").json(), words));
    }
    if spec.flag("manualSelector") {
        errors.push(Error::not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::kinds::by_kind;
    use crate::strategy::{validate_create, validate_update};
    use serde_json::json;

    fn made(name: &str, more: &Value) -> Value {
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]});
        let mut spec = json!({"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let metadata = json!({"name": name, "namespace": "n", "resourceVersion": "1"});
        let mut object =
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec});
        defaults::apply(by_kind("batch/v1", "CronJob").unwrap(), &mut object);
        object
    }

    fn created(more: Value) -> String {
        validate_create(by_kind("batch/v1", "CronJob").unwrap(), &made("c", &more)).to_string()
    }

    fn changed(before: Value, after: Value) -> String {
        let (old, new) = (made("c", &before), made("c", &after));
        validate_update(by_kind("batch/v1", "CronJob").unwrap(), None, &new, &old).to_string()
    }

    #[test]
    fn a_zone_belongs_in_its_field_and_not_in_the_schedule() {
        let text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        for schedule in ["CRON_TZ=Etc/UTC 0 0 * * *", "TZ=UTC 0 0 * * *"] {
            assert_eq!(
                created(json!({"schedule": schedule})),
                format!("spec.schedule: Invalid value: \"{schedule}\": {text}")
            );
        }
        let (zoned, other) =
            (json!({"schedule": "TZ=UTC 1 0 * * *"}), json!({"schedule": "TZ=UTC 0 0 * * *"}));
        assert_eq!(changed(zoned.clone(), other), "");
        let both = json!({"schedule": "TZ=UTC 0 0 * * *", "timeZone": "Etc/UTC"});
        assert_eq!(
            changed(zoned, both),
            "spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule"
        );
    }

    #[test]
    fn a_zone_is_one_of_the_database() {
        let refused = |zone: &str| {
            let text = created(json!({"timeZone": zone}));
            let wanted = format!("spec.timeZone: Invalid value: \"{zone}\": ");
            text.strip_prefix(&wanted).map_or_else(|| text.clone(), str::to_owned)
        };
        for good in ["Etc/UTC", "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+1"] {
            assert_eq!(created(json!({"timeZone": good})), "", "{good}");
        }
        assert_eq!(refused(""), "timeZone must be nil or non-empty string");
        let explicit = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        assert_eq!(refused("Local"), explicit);
        assert_eq!(
            created(json!({"timeZone": "LOCAL"})),
            format!(
                "[spec.timeZone: Invalid value: \"LOCAL\": {explicit}, spec.timeZone: Invalid value: \"LOCAL\": unknown time zone LOCAL]"
            )
        );
        for bad in [
            "Mars/Phobos",
            "europe/berlin",
            "/UTC",
            "UTC/",
            "../UTC",
            "-UTC",
            "Europe/Ber lin",
            "Etc/Unknown",
        ] {
            assert_eq!(refused(bad), format!("unknown time zone {bad}"));
        }
        // Who has one that is unknown by now may change the rest.
        let gone = json!({"timeZone": "Mars/Phobos"});
        assert_eq!(changed(gone.clone(), gone), "");
    }

    #[test]
    fn numbers_policies_and_names_have_their_bounds() {
        assert_eq!(
            created(json!({"successfulJobsHistoryLimit": -1, "failedJobsHistoryLimit": -1,
                "startingDeadlineSeconds": -1, "concurrencyPolicy": "Sometimes", "schedule": "* * * * * *"})),
            "[spec.schedule: Invalid value: \"* * * * * *\": expected exactly 5 fields, found 6: [* * * * * *], \
             spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0, \
             spec.concurrencyPolicy: Unsupported value: \"Sometimes\": supported values: \"Allow\", \"Forbid\", \"Replace\", \
             spec.successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0, \
             spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0]"
        );
        assert_eq!(created(json!({"schedule": ""})), "spec.schedule: Required value");
        let kind = by_kind("batch/v1", "CronJob").unwrap();
        let named = |length: usize| made(&"a".repeat(length), &json!({}));
        assert_eq!(validate_create(kind, &named(52)).to_string(), "");
        assert!(
            validate_create(kind, &named(53)).to_string().ends_with("must be no more than 52 characters")
        );
        assert_eq!(validate_update(kind, None, &named(60), &named(60)).to_string(), "");
    }

    #[test]
    fn the_jobs_get_their_selectors_from_the_server() {
        let mut template = made("c", &json!({}))["spec"]["jobTemplate"].clone();
        template["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
        template["spec"]["manualSelector"] = true.into();
        assert_eq!(
            created(json!({"jobTemplate": template})),
            "[spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated, \
             spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"]"
        );
    }
}
