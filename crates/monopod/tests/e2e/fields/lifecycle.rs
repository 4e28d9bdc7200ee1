//! From the first init container to the last word.

use crate::harness::Instance;
use crate::volumes::{SLEEPS, pod, sh, told};

fn state(instance: &Instance, name: &str, path: &str) -> String {
    instance.field(&format!("pod/{name}"), &format!("{{.status.containerStatuses[0].{path}}}"))
}

/// Pods with every kind of hook; what the first two do is written below `home`.
fn hook_all(instance: &Instance, home: &std::path::Path) {
    let volume = format!("volumes: [{{name: v, hostPath: {{path: {}, type: Directory}}}}],", home.display());
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let hooked = |name: &str| {
        format!(
            "command: [sh, -c, \"trap 'echo term >> /v/{name}; exit 0' TERM; while :; do sleep 1 & wait; done\"], {mount}, \
             lifecycle: {{postStart: {{exec: {{command: [sh, -c, \"echo post >> /v/{name}\"]}}}}, \
             preStop: {{exec: {{command: [sh, -c, \"echo pre >> /v/{name}\"]}}}}}}"
        )
    };
    let graceful = |manifest: String| {
        manifest.replace("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 30")
    };
    instance.apply(&graceful(pod("both", &volume, &hooked("both"))));
    instance.apply(&graceful(pod("sleeps", "", &format!("{SLEEPS}, lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}, postStart: {{sleep: {{seconds: 0}}}}}}"))));
    // A signal of its own needs to know the system.
    let other = "command: [sh, -c, \"trap 'echo usr1 >> /v/other; exit 0' USR1; while :; do sleep 1 & wait; done\"], \
                 lifecycle: {stopSignal: SIGUSR1}, volumeMounts: [{name: v, mountPath: /v}]";
    instance.apply(&graceful(pod("other", &format!("os: {{name: linux}}, {volume}"), other)));
    let failing = format!("{SLEEPS}, lifecycle: {{postStart: {{exec: {{command: [\"false\"]}}}}}}");
    instance.apply(&pod("fails", "", &failing));
    let http = "command: [sh, -c, \"mkdir /w; echo x > /w/index.html; httpd -f -p 8080 -h /w\"], \
                lifecycle: {preStop: {httpGet: {path: /index.html, port: 8080}}}";
    instance.apply(&graceful(pod("asks", "", http)));
    let tcp = format!("{SLEEPS}, lifecycle: {{preStop: {{tcpSocket: {{port: 8080}}}}}}");
    instance.apply(&graceful(pod("dials", "", &tcp)));
}

#[test]
fn hooks_run_after_the_start_and_before_the_end() {
    let instance = Instance::start(&["busybox.tar"]);
    let home = instance.dir.path().join("hooks");
    std::fs::create_dir(&home).expect("made");
    hook_all(&instance, &home);
    for name in ["both", "other", "sleeps", "asks", "dials"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    told(&instance, "fails", "FailedPostStartHook", "PostStartHook failed");
    assert_eq!(state(&instance, "other", "stopSignal"), "SIGUSR1");
    instance.kubectl(&["delete", "pod", "both", "other", "sleeps", "asks", "dials", "--grace-period=5"]).ok();
    assert_eq!(std::fs::read_to_string(home.join("both")).expect("written"), "post\npre\nterm\n");
    assert_eq!(std::fs::read_to_string(home.join("other")).expect("written"), "usr1\n");
    // A hook over TCP is accepted and fails: upstream has never dialled.
    told(&instance, "dials", "FailedPreStopHook", "PreStopHook failed");
}

/// Pods that end, each with its last words.
fn end_all(instance: &Instance) {
    let ends = |name: &str, script: &str, more: &str| {
        pod(name, "restartPolicy: Never,", &format!("command: [sh, -c, \"{script}\"] {more}"))
    };
    instance.apply(&ends("file", "echo said > /dev/termination-log", ""));
    instance.apply(&ends("elsewhere", "echo there > /tmp/end; exit 4", ", terminationMessagePath: /tmp/end"));
    let logs = ", terminationMessagePolicy: FallbackToLogsOnError";
    instance.apply(&ends("logs", "seq 1 100; exit 1", logs));
    instance.apply(&ends("well", "echo fine", logs));
    instance.apply(&ends("long", "seq 1 5000 > /dev/termination-log", ""));
}

#[test]
fn the_last_words_are_the_files_or_the_logs() {
    let instance = Instance::start(&["busybox.tar"]);
    end_all(&instance);
    let message = |name: &str, phase: &str| {
        instance.wait(&format!("jsonpath={{.status.phase}}={phase}"), &format!("pod/{name}"));
        state(&instance, name, "state.terminated.message")
    };
    assert_eq!(message("file", "Succeeded"), "said\n");
    assert_eq!(message("elsewhere", "Failed"), "there\n");
    let said = message("logs", "Failed");
    assert!(said.starts_with("21\n") && said.trim_end().ends_with("\n100"), "{said}");
    assert_eq!(message("well", "Succeeded"), "");
    let said = message("long", "Succeeded");
    assert!(said.len() == 4096 && said.trim_end().ends_with("5000"), "{} {said}", said.len());
    assert_eq!(state(&instance, "elsewhere", "state.terminated.reason"), "Error");
    assert_eq!(state(&instance, "elsewhere", "state.terminated.exitCode"), "4");
    for path in ["startedAt", "finishedAt", "containerID"] {
        assert!(!state(&instance, "elsewhere", &format!("state.terminated.{path}")).is_empty(), "{path}");
    }
    assert_eq!(state(&instance, "well", "state.terminated.reason"), "Completed");
}

#[test]
fn a_deadline_ends_what_a_policy_would_go_on_with() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("short", "activeDeadlineSeconds: 1,", SLEEPS));
    instance.wait("jsonpath={.status.phase}=Failed", "pod/short");
    let said = instance.field("pod/short", "{.status.reason}: {.status.message}");
    assert_eq!(said, "DeadlineExceeded: Pod was active on the node longer than the specified deadline");
    told(
        &instance,
        "short",
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    );
}

#[test]
fn a_pod_is_ready_when_all_its_gates_say_so() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("gated", "readinessGates: [{conditionType: example.com/fed}],", SLEEPS));
    instance.wait("condition=ContainersReady", "pod/gated");
    let ready = |path: &str| {
        instance.field("pod/gated", &format!("{{.status.conditions[?(@.type==\"Ready\")].{path}}}"))
    };
    assert_eq!(ready("status"), "False");
    assert_eq!(ready("reason"), "ReadinessGatesNotReady");
    assert_eq!(
        ready("message"),
        "corresponding condition of pod readiness gate \"example.com/fed\" does not exist."
    );
    let patch = |status: &str| {
        let patch = format!(
            "{{\"status\": {{\"conditions\": [{{\"type\": \"example.com/fed\", \"status\": \"{status}\"}}]}}}}"
        );
        instance.kubectl(&["patch", "pod", "gated", "--subresource", "status", "-p", &patch]).ok();
    };
    patch("True");
    instance.wait("condition=Ready", "pod/gated");
    patch("False");
    instance.wait("condition=Ready=false", "pod/gated");
}

#[test]
fn a_debugger_joins_the_processes_of_its_target() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("web", "", "command: [sleep, \"3601\"]"));
    instance.wait("condition=Ready", "pod/web");
    let debug = |name: &str, more: &[&str], script: &str| {
        let container = format!("--container={name}");
        let words = [
            &["debug", "web", "--image=busybox:1.36", &container, "--attach=false", "--quiet"],
            more,
            &["--", "sh", "-c", script],
        ];
        instance.kubectl(&words.concat()).ok();
        let path = format!(
            "{{.status.ephemeralContainerStatuses[?(@.name==\"{name}\")].state.terminated.exitCode}}"
        );
        instance.wait(&format!("jsonpath={path}=0"), "pod/web");
        instance.kubectl(&["logs", "web", "-c", name]).ok()
    };
    assert!(debug("sees", &["--target=c"], "ps -o args").contains("sleep 3601"));
    assert!(!debug("alone", &[], "ps -o args").contains("sleep 3601"));
    assert_eq!(instance.field("pod/web", "{.status.containerStatuses[0].restartCount}"), "0");
    let said = instance.kubectl(&["get", "pod", "web", "-o", "json"]).ok();
    let object: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(object["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(2));
}

/// Writes a line to a program. That goes on, so the client has to be ended when it has said its line.
fn attach(instance: &Instance, name: &str, line: &str) -> std::process::Child {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut command = instance.kubectl_command(&["attach", "-i", name]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("kubectl");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(format!("{line}\n").as_bytes()).expect("written");
    child
}

/// Waits until the log of a Pod is this.
fn says(instance: &Instance, name: &str, wanted: &str) {
    instance.eventually(&format!("{name} says {wanted:?}"), || {
        let said = instance.kubectl(&["logs", name]).ok().replace('\r', "");
        if said == wanted { Ok(()) } else { Err(said) }
    });
}

#[test]
fn stdin_is_kept_or_closed_as_it_is_asked_for_and_a_terminal_is_one() {
    let instance = Instance::start(&["busybox.tar"]);
    let reads = "command: [sh, -c, \"while read line; do echo got $line; done; echo end; sleep 3600\"]";
    instance.apply(&pod("once", "", &format!("{reads}, stdin: true, stdinOnce: true")));
    instance.apply(&pod("kept", "", &format!("{reads}, stdin: true")));
    instance.apply(&pod("none", "", reads));
    instance.apply(&pod("term", "", "command: [sh, -c, \"tty; exec sleep 3600\"], stdin: true, tty: true"));
    for name in ["once", "kept", "none", "term"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    says(&instance, "none", "end\n");
    says(&instance, "term", "/dev/pts/0\n");
    let mut first = attach(&instance, "once", "one");
    says(&instance, "once", "got one\nend\n");
    let mut second = attach(&instance, "kept", "two");
    says(&instance, "kept", "got two\n");
    for child in [&mut first, &mut second] {
        let _ = child.kill();
        let _ = child.wait();
    }
    let mut third = attach(&instance, "kept", "three");
    says(&instance, "kept", "got two\ngot three\n");
    let _ = third.kill();
    let _ = third.wait();
}

/// Init containers, sidecars and a main one, which all write their names below `home`.
fn orderly(home: &std::path::Path) -> String {
    let container = |name: &str, script: &str, more: &str| {
        format!(
            "{{name: {name}, image: \"busybox:1.36\", volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, \"{script}\"] {more}}}"
        )
    };
    let stays = |name: &str| {
        format!(
            "trap 'echo end-{name} >> /v/said; exit 0' TERM; echo {name} >> /v/said; touch /tmp/up; while :; do sleep 1 & wait; done"
        )
    };
    let up = ", restartPolicy: Always, startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, failureThreshold: 1000}";
    let init = [
        container("first", "echo first >> /v/said", ""),
        container("side-a", &stays("side-a"), up),
        container("second", "echo second >> /v/said", ""),
        container("side-b", &stays("side-b"), up),
    ];
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: all}}\nspec: {{restartPolicy: Never, terminationGracePeriodSeconds: 60, \
         volumes: [{{name: v, hostPath: {{path: {}, type: DirectoryOrCreate}}}}], initContainers: [{}], containers: [{}]}}\n",
        home.display(),
        init.join(", "),
        container(
            "main",
            "echo main >> /v/said; while [ ! -e /v/go ]; do sleep 1; done; echo main-ends >> /v/said",
            ""
        )
    )
}

#[test]
fn init_containers_come_first_and_sidecars_stay_to_the_end() {
    let instance = Instance::start(&["busybox.tar"]);
    let home = instance.dir.path().join("order");
    std::fs::create_dir(&home).expect("made");
    let manifest = orderly(&home);
    instance.apply(&manifest);
    instance.wait("condition=Ready", "pod/all");
    let said = || std::fs::read_to_string(home.join("said")).expect("written");
    assert_eq!(said(), "first\nside-a\nsecond\nside-b\nmain\n");
    let status = "{.status.initContainerStatuses[*].name} {.status.initContainerStatuses[*].ready}";
    assert_eq!(instance.field("pod/all", status), "first side-a second side-b true true true true");
    assert_eq!(instance.field("pod/all", "{.status.conditions[?(@.type==\"Initialized\")].status}"), "True");
    std::fs::write(home.join("go"), "").expect("written");
    // The mains have ended, so the sidecars do, from the last to the first.
    instance.wait("jsonpath={.status.phase}=Succeeded", "pod/all");
    assert_eq!(said(), "first\nside-a\nsecond\nside-b\nmain\nmain-ends\nend-side-b\nend-side-a\n");
    // One that fails for good ends the Pod before its mains.
    let fails =
        "restartPolicy: Never, initContainers: [{name: i, image: \"busybox:1.36\", command: [\"false\"]}],";
    instance.apply(&pod("fails", fails, SLEEPS));
    instance.wait("jsonpath={.status.phase}=Failed", "pod/fails");
    assert_eq!(
        instance.kubectl(&["get", "pod", "fails", "--no-headers"]).ok().split_whitespace().nth(2),
        Some("Init:Error")
    );
    sh(&instance, "fails", "true").fails();
}
