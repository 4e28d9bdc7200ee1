//! What is refused, with the exact words.

use serde_json::{Value, json};

use crate::defaults;
use crate::kinds::{Kind, by_kind};
use crate::strategy::{prepare_create, validate_create, validate_update};

fn kind() -> &'static Kind {
    by_kind("batch/v1", "Job").unwrap()
}

/// A Job of the name `a`, with these fields in its spec.
fn made(fields: &Value) -> Value {
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}],
        "initContainers": [{"name": "i", "image": "x"}]});
    let mut spec = json!({"template": {"metadata": {"labels": {"app": "a"}}, "spec": pod}});
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1"});
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec});
    defaults::apply(kind(), &mut job);
    prepare_create(kind(), &mut job);
    job
}

fn created(fields: Value) -> String {
    validate_create(kind(), &made(&fields)).to_string()
}

/// The one thing that is wrong, after the path it is wrong at.
#[track_caller]
fn refuses(fields: Value, wanted: &str) {
    assert_eq!(created(fields), wanted);
}

/// With a status of this kind, after one of that kind.
fn status(fields: Value, new: Value, old: Value) -> String {
    let (mut job, mut before) = (made(&fields), made(&fields));
    (job["status"], before["status"]) = (new, old);
    validate_update(kind(), Some("status"), &job, &before).to_string()
}

fn ended(conditions: &[&str]) -> Value {
    let conditions: Vec<Value> =
        conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
    json!({"startTime": "2026-01-01T00:00:00Z", "conditions": conditions})
}

fn with(mut status: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        status[name] = value.clone();
    }
    status
}

#[test]
fn a_job_does_not_run_for_ever() {
    let mut job = made(&json!({}));
    for (policy, words) in [
        (json!("Always"), "Required value: valid values: \"OnFailure\", \"Never\""),
        (json!("OnFailure"), ""),
    ] {
        job["spec"]["template"]["spec"]["restartPolicy"] = policy;
        let text = validate_create(kind(), &job).to_string();
        assert_eq!(text.strip_prefix("spec.template.spec.restartPolicy: ").unwrap_or(&text), words);
    }
}

#[test]
fn counts_per_index_belong_to_indexed_jobs() {
    refuses(
        json!({"maxFailedIndexes": 1}),
        "[spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified, \
         spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode]",
    );
    refuses(
        json!({"backoffLimitPerIndex": -1}),
        "[spec.backoffLimitPerIndex: Invalid value: -1: must be greater than or equal to 0, \
         spec.backoffLimitPerIndex: Invalid value: -1: requires indexed completion mode]",
    );
    let indexed = |more: Value| with(json!({"completionMode": "Indexed"}), more);
    refuses(
        indexed(json!({"parallelism": 1})),
        "spec.completions: Required value: when completion mode is Indexed",
    );
    refuses(
        indexed(json!({"completions": 2, "backoffLimitPerIndex": 1, "maxFailedIndexes": 3})),
        "spec.maxFailedIndexes: Invalid value: 3: must be less than or equal to completions",
    );
    refuses(
        indexed(json!({"completions": 2, "parallelism": 100_001})),
        "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
    );
    refuses(
        indexed(json!({"completions": 100_001, "backoffLimitPerIndex": 1})),
        "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
    );
    let words = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
    refuses(
        indexed(
            json!({"completions": 100_001, "backoffLimitPerIndex": 1, "maxFailedIndexes": 10_001, "parallelism": 10_002}),
        ),
        &format!(
            "[spec.parallelism: Invalid value: 10002: {words}, spec.maxFailedIndexes: Invalid value: 10001: {words}]"
        ),
    );
    refuses(
        indexed(json!({"completions": 100_001, "backoffLimitPerIndex": 1, "maxFailedIndexes": 10_000})),
        "",
    );
    refuses(
        json!({"completionMode": "None"}),
        "spec.completionMode: Unsupported value: \"None\": supported values: \"NonIndexed\", \"Indexed\"",
    );
}

#[test]
fn the_pods_of_an_indexed_job_need_names() {
    let mut job = made(&json!({"completionMode": "Indexed", "completions": 1001}));
    job["metadata"]["name"] = json!("a".repeat(60));
    let text = validate_create(kind(), &job).to_string();
    let wanted = format!("will not able to create pod with invalid DNS label: {}-1000", "a".repeat(60));
    assert!(text.contains(&wanted), "{text}");
}

#[test]
fn who_manages_a_job_has_a_domain() {
    refuses(json!({"managedBy": "acme.io/foo"}), "");
    refuses(json!({"managedBy": ""}), "spec.managedBy: Required value");
    for bad in ["foo", "/foo", "acme.io/"] {
        refuses(
            json!({"managedBy": bad}),
            &format!(
                "spec.managedBy: Invalid value: \"{bad}\": must be a domain-prefixed path (such as \"acme.io/foo\")"
            ),
        );
    }
    refuses(
        json!({"managedBy": "acme.io/a b"}),
        "spec.managedBy: Invalid value: \"a b\": must be a valid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
    );
    refuses(
        json!({"managedBy": format!("acme.io/{}", "a".repeat(60))}),
        "spec.managedBy: Too long: may not be more than 63 bytes",
    );
}

#[test]
fn a_failure_policy_says_what_follows_from_what() {
    let policy = |rules: Value| json!({"podFailurePolicy": {"rules": rules}});
    let rule = |rule: Value| policy(json!([rule]));
    let at = "spec.podFailurePolicy.rules[0]";
    refuses(
        rule(
            json!({"action": "Count", "onExitCodes": {"containerName": "i", "operator": "In", "values": [1, 2]}}),
        ),
        "",
    );
    refuses(rule(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]})), "");
    refuses(
        rule(json!({"action": "Ignore"})),
        &format!("{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"),
    );
    refuses(
        rule(
            json!({"action": "", "onExitCodes": {"operator": "", "values": []}, "onPodConditions": [{"type": "a b", "status": "Maybe"}]}),
        ),
        &format!(
            "[{at}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"], \
             {at}.onExitCodes.operator: Required value: valid values: [\"In\" \"NotIn\"], \
             {at}.onExitCodes.values: Invalid value: []: at least one value is required, \
             {at}.onPodConditions[0].type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'), \
             {at}.onPodConditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\", \
             {at}: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported]"
        ),
    );
    refuses(
        rule(
            json!({"action": "Explode", "onExitCodes": {"containerName": "x", "operator": "In", "values": [3, 0, 3]}}),
        ),
        &format!(
            "[{at}.action: Unsupported value: \"Explode\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\", \
             {at}.onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template, \
             {at}.onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator, \
             {at}.onExitCodes.values[2]: Duplicate value: 3, \
             {at}.onExitCodes.values: Invalid value: [3,0,3]: must be ordered]"
        ),
    );
    let fails = rule(json!({"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [0]}}));
    refuses(
        fails.clone(),
        &format!("{at}.action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"),
    );
    refuses(
        with(fails, json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1})),
        "",
    );
    let one = json!({"action": "Count", "onPodConditions": [{"type": "X"}]});
    refuses(
        policy(vec![one; 21].into()),
        "spec.podFailurePolicy.rules: Too many: 21: must have at most 20 items",
    );
    let codes: Vec<i64> = (1..=256).collect();
    refuses(
        rule(json!({"action": "Count", "onExitCodes": {"operator": "In", "values": codes}})),
        &format!("{at}.onExitCodes.values: Too many: 256: must have at most 255 items"),
    );
    let mut job = made(&policy(json!([])));
    job["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    job["spec"]["podReplacementPolicy"] = json!("TerminatingOrFailed");
    assert_eq!(
        validate_create(kind(), &job).to_string(),
        "[spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\", \
         spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified]"
    );
}

#[test]
fn a_success_policy_names_indexes_that_there_are() {
    let policy = |rules: Value| json!({"completionMode": "Indexed", "completions": 5, "successPolicy": {"rules": rules}});
    let at = "spec.successPolicy.rules[0]";
    refuses(policy(json!([{"succeededIndexes": "0,2-4", "succeededCount": 2}, {"succeededCount": 5}])), "");
    refuses(
        json!({"successPolicy": {"rules": [{"succeededCount": 1}]}}),
        "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode",
    );
    refuses(
        policy(json!([])),
        "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified",
    );
    refuses(
        policy(json!([{}])),
        &format!(
            "{at}: Required value: at least one of succeededCount or succeededIndexes must be specified"
        ),
    );
    refuses(
        policy(json!([{"succeededIndexes": "0,9", "succeededCount": 6}])),
        &format!(
            "[{at}.succeededIndexes: Invalid value: \"0,9\": error parsing succeededIndexes: too large index: \"9\", \
             {at}.succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions), \
             {at}.succeededCount: Invalid value: 6: must be less than or equal to 0 (the number of indexes in the specified succeededIndexes field)]"
        ),
    );
    refuses(
        policy(vec![json!({"succeededCount": 1}); 21].into()),
        "spec.successPolicy.rules: Too many: 21: must have at most 20 items",
    );
    refuses(
        policy(json!([{"succeededIndexes": "1".repeat(64 * 1024 + 1)}])),
        &format!(
            "[{at}.succeededIndexes: Too long: may not be more than 65536 bytes, {at}.succeededIndexes: Invalid value: \"{0}\": error parsing succeededIndexes: cannot convert string to integer for index: \"{0}\"]",
            "1".repeat(64 * 1024 + 1)
        ),
    );
}

#[test]
fn what_a_job_is_to_do_stays() {
    let changed = |before: &Value, after: &Value| {
        let (old, new) = (made(before), made(after));
        validate_update(kind(), None, &new, &old).to_string()
    };
    assert_eq!(
        changed(&json!({}), &json!({"completions": 5})),
        "spec.completions: Invalid value: 5: field is immutable"
    );
    let indexed = |completions: i32, parallelism: i32| json!({"completionMode": "Indexed", "completions": completions, "parallelism": parallelism});
    assert_eq!(changed(&indexed(3, 3), &indexed(5, 5)), "");
    assert_eq!(
        changed(&indexed(3, 3), &indexed(5, 3)),
        "spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"
    );
    for (field, value) in [("podFailurePolicy", json!({"rules": []})), ("managedBy", json!("acme.io/foo"))] {
        let text = changed(&json!({}), &json!({field: value}));
        assert!(
            text.starts_with(&format!("spec.{field}: Invalid value")) && text.ends_with("field is immutable"),
            "{text}"
        );
    }
}

#[test]
fn only_a_suspended_job_of_which_nothing_runs_may_still_be_told_where_and_with_what_to_run() {
    let edit = |job: &Value, pointer: &str, value: Value| {
        let mut new = job.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[name] = value;
        validate_update(kind(), None, &new, job).to_string()
    };
    let pod = "/spec/template/spec";
    let open = [
        (format!("{pod}/nodeSelector"), json!({"a": "b"})),
        (format!("{pod}/tolerations"), json!([{"operator": "Exists"}])),
        (
            format!("{pod}/affinity"),
            json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}),
        ),
        (format!("{pod}/containers/0/resources"), json!({"requests": {"cpu": "2"}})),
        (format!("{pod}/initContainers/0/resources"), json!({"requests": {"cpu": "2"}})),
        ("/spec/template/metadata/annotations".to_owned(), json!({"a": "b"})),
    ];
    let refused = |text: &str| {
        text.starts_with("spec.template: Invalid value: ") && text.ends_with(": field is immutable")
    };
    let mut job = made(&json!({"suspend": true}));
    for (pointer, value) in &open {
        assert_eq!(edit(&job, pointer, value.clone()), "", "{pointer}");
    }
    assert!(refused(&edit(&job, &format!("{pod}/containers/0/image"), json!("y"))));
    assert!(refused(&edit(
        &job,
        &format!("{pod}/affinity"),
        json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "a"}}]}})
    )));
    // It has run before, and is not said to be suspended; then it is, and a Pod is still there.
    job["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
    assert!(refused(&edit(&job, &open[0].0, open[0].1.clone())));
    job["status"] = ended(&["Suspended"]);
    assert_eq!(edit(&job, &open[0].0, open[0].1.clone()), "");
    job["status"]["active"] = json!(1);
    assert!(refused(&edit(&job, &open[0].0, open[0].1.clone())));
    assert!(refused(&edit(&made(&json!({})), &open[0].0, open[0].1.clone())), "not suspended");
}

fn set(new: Value, old: Value) -> String {
    status(json!({}), new, old)
}

fn complete() -> Value {
    with(ended(&["SuccessCriteriaMet", "Complete"]), json!({"completionTime": "2026-01-01T00:01:00Z"}))
}

fn refuses_status(cases: impl IntoIterator<Item = (Value, &'static str)>) {
    for (new, words) in cases {
        let text = set(new.clone(), json!({}));
        assert!(text.contains(words), "{new}: {text}");
    }
}

#[test]
fn an_end_is_announced_and_complete() {
    assert_eq!(set(complete(), json!({})), "");
    assert_eq!(set(ended(&["FailureTarget", "Failed"]), json!({})), "");
    refuses_status([
        (
            ended(&["FailureTarget", "Failed", "SuccessCriteriaMet"]),
            "conditions: Invalid value: cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            ended(&["Failed"]),
            "conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            ended(&["SuccessCriteriaMet", "Complete"]),
            "completionTime: Required value: completionTime is required for Complete jobs",
        ),
        (
            with(complete(), json!({"conditions": [{"type": "Complete", "status": "True"}]})),
            "conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            with(complete(), json!({"active": 1})),
            "active: Invalid value: 1: active>0 is invalid for finished job",
        ),
        (
            with(complete(), json!({"startTime": null})),
            "startTime: Required value: startTime is required for finished job",
        ),
        (
            with(complete(), json!({"startTime": "2026-01-02T00:00:00Z"})),
            "completionTime: Invalid value: \"2026-01-01T00:01:00Z\": completionTime cannot be set before startTime",
        ),
        (
            with(complete(), json!({"terminating": 1})),
            "terminating: Invalid value: 1: terminating>0 is invalid for finished job",
        ),
        (
            with(complete(), json!({"uncountedTerminatedPods": {"failed": ["a"]}})),
            "uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\"]}: uncountedTerminatedPods needs to be empty for finished job",
        ),
    ]);
}

#[test]
fn a_job_that_has_not_ended_counts_what_there_is() {
    refuses_status([
        (
            json!({"completionTime": "2026-01-01T00:01:00Z"}),
            "completionTime: Invalid value: \"2026-01-01T00:01:00Z\": cannot set completionTime when there is no Complete=True condition",
        ),
        (json!({"ready": 1}), "ready: Invalid value: 1: cannot set more ready pods than active"),
        (json!({"active": -1}), "active: Invalid value: -1: must be greater than or equal to 0"),
        (
            json!({"completedIndexes": "0"}),
            "completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
        ),
        (
            json!({"failedIndexes": "0"}),
            "failedIndexes: Invalid value: \"0\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        ),
        (
            json!({"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}),
            "[status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty, status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"]",
        ),
    ]);
    // What was wrong before may stay so.
    assert_eq!(set(json!({"ready": 1, "succeeded": 1}), json!({"ready": 1})), "");
}

#[test]
fn an_end_and_what_was_counted_are_never_taken_back() {
    let text = set(ended(&[]), complete());
    assert!(text.contains("cannot disable the terminal Complete=True condition"), "{text}");
    assert!(text.contains("cannot disable the SuccessCriteriaMet=True condition"), "{text}");
    let later = with(complete(), json!({"completionTime": "2026-01-01T00:02:00Z"}));
    assert!(set(later, complete()).ends_with("completionTime cannot be mutated"));
    let restarted = json!({"startTime": "2026-01-02T00:00:00Z"});
    let started = json!({"startTime": "2026-01-01T00:00:00Z"});
    assert_eq!(
        set(restarted.clone(), started.clone()),
        "status.startTime: Required value: startTime cannot be removed for unsuspended job"
    );
    assert_eq!(status(json!({"suspend": true}), restarted, started), "");
    assert_eq!(
        set(json!({"failed": 1}), json!({"failed": 2})),
        "status.failed: Invalid value: 1: cannot decrease the failed counter"
    );
    assert_eq!(
        set(json!({"succeeded": 1}), json!({"succeeded": 2})),
        "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter"
    );
}

#[test]
fn lists_of_indexes_are_lists_of_different_indexes() {
    let indexed = |parallelism: i32| json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1, "parallelism": parallelism});
    let set = |new: Value| status(indexed(5), new, json!({}));
    assert_eq!(set(json!({"completedIndexes": "0-2", "failedIndexes": "3"})), "");
    assert_eq!(
        set(json!({"completedIndexes": "0-9", "failedIndexes": "x"})),
        "[status.completedIndexes: Invalid value: \"0-9\": error parsing completedIndexes: too large index: \"9\", \
         status.failedIndexes: Invalid value: \"x\": error parsing failedIndexes: cannot convert string to integer for index: \"x\"]"
    );
    assert_eq!(
        set(json!({"completedIndexes": "0-2", "failedIndexes": "2"})),
        "status.failedIndexes: Invalid value: \"2\": failedIndexes and completedIndexes overlap at index: 2"
    );
    // Completions that become fewer take their successes along.
    assert_eq!(status(indexed(5), json!({"succeeded": 1}), json!({"succeeded": 2})), "");
    assert!(
        status(indexed(2), json!({"succeeded": 1}), json!({"succeeded": 2})).ends_with("succeeded counter")
    );
}
