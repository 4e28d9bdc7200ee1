//! Jobs as kubectl's users meet them.

use crate::harness::Instance;

const IMAGE: &str = "docker.io/library/busybox:1.36";

fn reasons(instance: &Instance, job: &str) -> String {
    let about = format!("involvedObject.kind=Job,involvedObject.name={job}");
    let path = r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#;
    instance.kubectl(&["get", "events", "--field-selector", &about, "-o", path]).ok()
}

#[test]
fn a_job_runs_to_its_end_and_says_so() {
    let instance = Instance::start(&["busybox.tar"]);
    let image = format!("--image={IMAGE}");
    instance.kubectl(&["create", "job", "hello", &image, "--", "echo", "job-ran"]).ok();
    instance.wait("condition=complete", "job/hello");
    assert_eq!(instance.kubectl(&["logs", "job/hello"]).ok(), "job-ran\n");
    assert_eq!(
        instance.field(
            "job/hello",
            "{.status.succeeded}/{.status.ready}/{.status.terminating}/{.status.uncountedTerminatedPods}"
        ),
        "1/0/0/{}"
    );
    assert_eq!(
        instance.field("job/hello", "{.status.conditions[*].type} {.status.conditions[*].reason}"),
        "SuccessCriteriaMet Complete CompletionsReached CompletionsReached"
    );
    assert_eq!(instance.field("pod", "{.items[*].metadata.finalizers}"), "", "the Pod is held by nobody");
    instance.eventually("the events", || {
        let told = reasons(&instance, "hello");
        let has = told.contains("SuccessfulCreate: Created pod: hello-")
            && told.contains("Completed: Job completed");
        if has { Ok(()) } else { Err(told) }
    });
    instance.kubectl(&["delete", "job", "hello"]).ok();
    instance.kubectl(&["wait", "--for=delete", "pod", "-l", "job-name=hello", "--timeout=30s"]).ok();
}

#[test]
fn a_job_that_only_fails_fails() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: bad}}\nspec:\n  backoffLimit: 0\n  template:\n    spec: {{restartPolicy: Never, containers: [{{name: c, image: '{IMAGE}', command: ['false']}}]}}\n"
    ));
    instance.wait("condition=failed", "job/bad");
    assert_eq!(
        instance.field("job/bad", "{.status.failed} {.status.conditions[?(@.type=='Failed')].message}"),
        "1 Job has reached the specified backoff limit"
    );
    instance.eventually("the event", || {
        let told = reasons(&instance, "bad");
        if told.contains("BackoffLimitExceeded: Job has reached the specified backoff limit") {
            Ok(())
        } else {
            Err(told)
        }
    });
}

#[test]
fn an_indexed_job_is_counted_by_index_over_a_crash() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(&format!(
        r#"apiVersion: batch/v1
kind: Job
metadata: {{name: parts}}
spec:
  completions: 5
  parallelism: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: c
        image: {IMAGE}
        command: [sh, -c, 'echo "$JOB_COMPLETION_INDEX $(hostname)"; sleep 1']
"#
    ));
    instance.eventually("one part is done", || {
        match instance.field("job/parts", "{.status.completedIndexes}") {
            done if done.is_empty() => Err(instance.field("job/parts", "{.status}")),
            _ => Ok(()),
        }
    });
    instance.crash();
    instance.up();
    instance.wait("condition=complete", "job/parts");
    assert_eq!(
        instance.field("job/parts", "{.status.completedIndexes} {.status.succeeded} {.status.failed}"),
        "0-4 5 "
    );
    let said = instance.kubectl(&["logs", "-l", "batch.kubernetes.io/job-completion-index=3"]).ok();
    assert_eq!(said, "3 parts-3\n");
}

#[test]
fn a_job_is_suspended_and_taken_up_again() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: later}}\nspec:\n  suspend: true\n  template:\n    spec: {{restartPolicy: Never, containers: [{{name: c, image: '{IMAGE}', command: ['true']}}]}}\n"
    ));
    instance.wait("condition=suspended", "job/later");
    assert_eq!(instance.field("pod", "{.items}"), "[]");
    instance.kubectl(&["patch", "job", "later", "-p", r#"{"spec":{"suspend":false}}"#]).ok();
    instance.wait("condition=complete", "job/later");
}

#[test]
fn a_task_that_fails_now_and_then_is_started_again_where_it_is() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&format!(
        r#"apiVersion: batch/v1
kind: Job
metadata: {{name: shaky}}
spec:
  completions: 2
  parallelism: 2
  template:
    spec:
      restartPolicy: OnFailure
      volumes: [{{name: s, emptyDir: {{}}}}]
      containers:
      - name: c
        image: {IMAGE}
        command: [sh, -c, 'mkdir /s/once && exit 1; exit 0']
        volumeMounts: [{{name: s, mountPath: /s}}]
"#
    ));
    instance.wait("condition=complete", "job/shaky");
    assert_eq!(instance.field("job/shaky", "{.status.succeeded}/{.status.failed}"), "2/");
    let restarts = "{.items[*].status.containerStatuses[0].restartCount}";
    assert_eq!(instance.field("pods", restarts), "1 1", "the same Pods");
}
