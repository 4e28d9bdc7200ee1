//! Who starts again: the Pod's policy, the containers' own, and rules by exit code.

use crate::harness::Instance;
use crate::volumes::{SLEEPS, pod};

fn container(name: &str, script: &str, more: &str) -> String {
    format!(
        "{{name: {name}, image: \"busybox:1.36\", volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, \"{script}\"]{more}}}"
    )
}

fn whole(name: &str, spec: &str, init: &[String], mains: &[String]) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, {spec} \
         volumes: [{{name: v, emptyDir: {{}}}}], initContainers: [{}], containers: [{}]}}\n",
        init.join(", "),
        mains.join(", ")
    )
}

fn rule(action: &str, operator: &str, code: u32) -> String {
    format!(
        ", restartPolicy: Never, restartPolicyRules: [{{action: {action}, exitCodes: {{operator: {operator}, values: [{code}]}}}}]"
    )
}

/// Pods whose containers end once each, with different codes and policies.
fn fail_once(instance: &Instance) {
    let once = "if [ -e /v/$0 ]; then sleep 3600; fi; touch /v/$0; exit";
    let twice = |name: &str, code: u32, more: &str| {
        container(name, &format!("{} {code}", once.replace("$0", name)), more)
    };
    for (name, policy) in [("always", "Always"), ("failure", "OnFailure")] {
        let spec = format!("restartPolicy: {policy},");
        instance.apply(&whole(name, &spec, &[], &[twice("zero", 0, ""), twice("one", 1, "")]));
    }
    instance.apply(&whole(
        "own",
        "restartPolicy: Never,",
        &[],
        &[
            twice("ruled", 42, &rule("Restart", "In", 42)),
            twice("other", 1, &rule("Restart", "In", 42)),
            twice("own", 1, ", restartPolicy: OnFailure"),
        ],
    ));
}

#[test]
fn policies_of_the_pod_and_of_its_containers_decide() {
    let instance = Instance::start(&["busybox.tar"]);
    fail_once(&instance);
    let count = |pod: &str, name: &str| {
        let path = format!("{{.status.containerStatuses[?(@.name==\"{name}\")].restartCount}}");
        instance.field(&format!("pod/{pod}"), &path)
    };
    let running = |pod: &str, name: &str| {
        let path = format!("jsonpath={{.status.containerStatuses[?(@.name==\"{name}\")].state.running}}");
        instance.wait(&path, &format!("pod/{pod}"));
        assert_eq!(count(pod, name), "1", "{pod}/{name}");
    };
    running("always", "zero");
    running("always", "one");
    running("failure", "one");
    running("own", "ruled");
    running("own", "own");
    assert_eq!((count("failure", "zero"), count("own", "other")), ("0".into(), "0".into()));
    let refused = whole("wrong", "", &[], &[container("c", "true", &rule("Stop", "In", 1))]);
    let said = instance.kubectl_with(&["apply", "-f", "-"], &refused).fails();
    assert!(said.contains("Unsupported value: \"Stop\""), "{said}");
}

/// An init container, a sidecar, one that asks for all to start again when it is told to, and another.
fn parts() -> ([String; 2], [String; 2]) {
    let says = |name: &str| format!("echo {name} >> /v/said; ");
    let init = [
        container("init", &says("init"), ""),
        container("side", &format!("{}exec sleep 3600", says("side")), ", restartPolicy: Always"),
    ];
    let asks = format!("{}while [ ! -e /v/go ]; do sleep 1; done; rm /v/go; exit 88", says("asks"));
    let mains = [
        container("asks", &asks, &rule("RestartAllContainers", "In", 88)),
        container("other", &format!("trap '' TERM; {}sleep 3600", says("other")), ""),
    ];
    (init, mains)
}

#[test]
fn one_container_has_all_of_its_pod_start_again() {
    let instance = Instance::start(&["busybox.tar"]);
    let (init, mains) = parts();
    instance.apply(&whole("all", "restartPolicy: Never,", &init, &mains));
    instance.wait("condition=Ready", "pod/all");
    let field = |path: &str| instance.field("pod/all", path);
    let condition = "{.status.conditions[?(@.type==\"AllContainersRestarting\")].status}";
    assert_eq!(field(condition), "False");
    let address = field("{.status.podIP}");
    let side = |script: &str| instance.kubectl(&["exec", "all", "-c", "side", "--", "sh", "-c", script]);
    side("touch /v/go").ok();
    let counts =
        "{.status.initContainerStatuses[*].restartCount} {.status.containerStatuses[*].restartCount}";
    instance.eventually("all have been started again", || {
        let said = field(counts);
        if said == "1 1 1 1" { Ok(()) } else { Err(said) }
    });
    instance.wait("condition=Ready", "pod/all");
    assert_eq!(field(condition), "False");
    // The same sandbox and the same volumes, and everything in its order once more.
    assert_eq!(field("{.status.podIP}"), address);
    let said = side("cat /v/said").ok();
    let mut lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 8, "{said}");
    // The mains are started one after the other, and speak as they like.
    lines[2..4].sort_unstable();
    lines[6..8].sort_unstable();
    assert_eq!(lines, ["init", "side", "asks", "other", "init", "side", "asks", "other"]);
    let reason = "{.status.containerStatuses[?(@.name==\"other\")].lastState.terminated.reason}";
    assert_eq!(field(reason), "RestartingAllContainers");
    let reason = "{.status.containerStatuses[?(@.name==\"asks\")].lastState.terminated.exitCode}";
    assert_eq!(field(reason), "88");
    let _ = SLEEPS;
    let _ = pod;
}
