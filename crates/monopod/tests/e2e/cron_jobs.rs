//! CronJobs, and Jobs that tidy themselves away, as kubectl's users meet them.

use crate::harness::Instance;

const IMAGE: &str = "docker.io/library/busybox:1.36";

/// The names of the Jobs.
fn jobs(instance: &Instance) -> Vec<String> {
    let names = instance.kubectl(&["get", "jobs", "-o", "name"]).ok();
    names.lines().map(str::to_owned).collect()
}

fn told(instance: &Instance, wanted: &str) {
    let path = r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#;
    instance.eventually(wanted, || {
        let events = instance.kubectl(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.kind=CronJob",
            "-o",
            path,
        ]);
        let events = events.ok();
        if events.contains(wanted) { Ok(()) } else { Err(events) }
    });
}

/// A CronJob that has run once, or twice, and is suspended since; its first Job, which has succeeded.
fn ticked(instance: &Instance) -> String {
    let image = format!("--image={IMAGE}");
    let create = ["create", "cronjob", "tick", &image, "--schedule=@every 2s", "--", "echo", "tick"];
    let created = instance.kubectl(&create);
    assert!(!created.err.contains("Warning"), "{}", created.err);
    created.ok();
    let first = instance.eventually("a run", || jobs(instance).pop().ok_or_else(|| "no Job".to_owned()));
    patch(instance, r#"{"spec":{"suspend":true}}"#);
    instance.wait("condition=complete", &first);
    first.rsplit('/').next().unwrap_or_default().to_owned()
}

fn patch(instance: &Instance, patch: &str) {
    instance.kubectl(&["patch", "cronjob", "tick", "-p", patch]).ok();
}

#[test]
fn a_cron_job_runs_and_says_so() {
    let instance = Instance::start(&["busybox.tar"]);
    let name = ticked(&instance);
    assert_eq!(instance.kubectl(&["logs", &format!("job/{name}")]).ok(), "tick\n");
    told(&instance, &format!("SuccessfulCreate: Created job {name}"));
    told(&instance, &format!("SawCompletedJob: Saw completed job: {name}, condition: Complete"));
    let described = instance.kubectl(&["describe", "cronjob", "tick"]).ok();
    for line in [
        "Schedule:                      @every 2s",
        "Concurrency Policy:            Allow",
        "Suspend:                       True",
        "Active Jobs:         <none>",
    ] {
        assert!(described.contains(line), "{line} in {described}");
    }
}

#[test]
fn a_cron_job_is_run_by_hand_keeps_so_much_of_its_history_and_takes_it_along() {
    let instance = Instance::start(&["busybox.tar"]);
    let name = ticked(&instance);
    // Two that began in the same second are as old as each other: the later name stays.
    instance.kubectl(&["create", "job", "tock", "--from=cronjob/tick"]).ok();
    instance.wait("condition=complete", "job/tock");
    let owner = "{.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].controller}";
    assert_eq!(instance.field("job/tock", owner), "CronJob true");
    // Of those that succeeded the newest is kept.
    patch(&instance, r#"{"spec":{"successfulJobsHistoryLimit":1}}"#);
    instance.eventually("the history", || match &jobs(&instance)[..] {
        [left] if left == "job.batch/tock" => Ok(()),
        left => Err(format!("{left:?}")),
    });
    told(&instance, &format!("SuccessfulDelete: Deleted job {name}"));

    instance.kubectl(&["delete", "cronjob", "tick"]).ok();
    instance.kubectl(&["wait", "--for=delete", "job/tock", "--timeout=60s"]).ok();
    instance.eventually("its Pods are gone", || match instance.field("pods", "{.items[*].metadata.name}") {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
}

#[test]
fn what_was_due_while_the_daemon_was_dead_begins_when_it_is_back() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: yearly}}\nspec:\n  schedule: 0 0 1 1 *\n  timeZone: Europe/Berlin\n  jobTemplate:\n    spec:\n      ttlSecondsAfterFinished: 3600\n      template:\n        spec: {{restartPolicy: Never, containers: [{{name: c, image: '{IMAGE}', command: ['true']}}]}}\n"
    ));
    assert!(jobs(&instance).is_empty());
    instance.kubectl(&["patch", "cronjob", "yearly", "-p", r#"{"spec":{"suspend":true}}"#]).ok();
    let status = r#"{"status":{"lastScheduleTime":"2020-01-01T00:00:00Z"}}"#;
    instance.kubectl(&["patch", "cronjob", "yearly", "--subresource=status", "-p", status]).ok();
    instance.kubectl(&["patch", "cronjob", "yearly", "-p", r#"{"spec":{"suspend":false}}"#]).ok();
    instance.crash();
    instance.up();
    let job = instance.eventually("the run", || jobs(&instance).pop().ok_or_else(|| "no Job".to_owned()));
    instance.wait("condition=complete", &job);
    let due =
        instance.field(&job, r"{.metadata.annotations.batch\.kubernetes\.io/cronjob-scheduled-timestamp}");
    assert!(due.ends_with("-01-01T00:00:00+01:00"), "on the clocks of its zone: {due}");
    assert_eq!(jobs(&instance).len(), 1);
}

#[test]
fn a_finished_job_goes_with_its_pod_when_its_time_is_over() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: brief}}\nspec:\n  ttlSecondsAfterFinished: 2\n  template:\n    spec: {{restartPolicy: Never, containers: [{{name: c, image: '{IMAGE}', command: ['true']}}]}}\n"
    ));
    instance.kubectl(&["wait", "--for=delete", "job/brief", "--timeout=60s"]).ok();
    assert_eq!(instance.field("pods", "{.items}"), "[]", "its Pod went first");
}
