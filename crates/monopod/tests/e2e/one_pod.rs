//! One Pod, all the way: apply, scheduled, a real container, logs, exec, delete.

use crate::harness::Instance;

const HELLO: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "echo hello from $(hostname); trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
"#;

#[test]
fn a_pod_goes_all_the_way() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(HELLO);
    instance.wait("condition=Ready", "pod/hello");
    assert_eq!(instance.field("pod/hello", "{.status.phase} {.status.qosClass}"), "Running BestEffort");
    assert_eq!(instance.kubectl(&["logs", "hello"]).ok(), "hello from hello\n");
    let exec = instance.kubectl(&["exec", "hello", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((exec.out.as_str(), exec.code), ("out\n", 42));
    assert!(
        exec.err.contains("err\n") && exec.err.contains("command terminated with exit code 42"),
        "{}",
        exec.err
    );
    let piped = instance.kubectl_with(&["exec", "-i", "hello", "--", "cat"], "piped");
    assert_eq!(piped.ok(), "piped");
    instance.kubectl(&["delete", "pod", "hello"]).ok();
    assert_eq!(instance.kubectl(&["get", "pods"]).err.trim(), "No resources found in default namespace.");
}

#[test]
fn events_tell_the_story_in_upstreams_words() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(HELLO);
    instance.wait("condition=Ready", "pod/hello");
    let story = instance.eventually("events", || {
        let columns = "custom-columns=R:.reason,C:.source.component";
        let events = instance
            .kubectl(&[
                "get",
                "events",
                "--no-headers",
                "--field-selector",
                "involvedObject.name=hello",
                "-o",
                columns,
            ])
            .ok();
        let words = events.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let mut words: Vec<String> = words.collect();
        words.sort();
        if words.len() >= 4 { Ok(words) } else { Err(format!("{words:?}")) }
    });
    assert_eq!(
        story,
        ["Created kubelet", "Pulled kubelet", "Scheduled default-scheduler", "Started kubelet"]
    );
}
