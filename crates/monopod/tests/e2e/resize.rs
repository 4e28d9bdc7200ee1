//! Pods that get another size while they run: what kubectl says and what the kernel holds.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Instance, Said};
use crate::host::instance_id;

/// A Pod of one container that sleeps; `more` is of its container.
fn pod(name: &str, resources: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - name: c\n    image: busybox:1.36\n    command: [sleep, \"3600\"]\n    \
         resources: {resources}\n{more}"
    )
}

fn amounts(cpu: &str, memory: &str) -> String {
    format!("{{requests: {{cpu: {cpu}, memory: {memory}}}, limits: {{cpu: {cpu}, memory: {memory}}}}}")
}

/// `kubectl patch --subresource resize`.
fn resize(instance: &Instance, name: &str, resources: &str) -> Said {
    let patch = format!("spec: {{containers: [{{name: c, resources: {resources}}}]}}");
    instance.kubectl(&["patch", "pod", name, "--subresource", "resize", "-p", &patch])
}

/// What a group holds: weight, quota of 100 ms in microseconds, bytes of memory; -1: no limit.
type Limits = (u64, i64, i64);

fn limits_in(group: &str) -> Limits {
    let trees = Path::new("/sys/fs/cgroup");
    let read =
        |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(-1);
    if trees.join("cgroup.controllers").exists() {
        let file = |name: &str| read(trees.join(group).join(name));
        let weight = file("cpu.weight").trim().parse().expect("a weight");
        return (weight, number(&file("cpu.max")), number(&file("memory.max")));
    }
    let file = |tree: &str, name: &str| read(trees.join(tree).join(group).join(name));
    let shares = file("cpu", "cpu.shares").trim().parse().expect("shares");
    let memory = number(&file("memory", "memory.limit_in_bytes"));
    (shares, number(&file("cpu", "cpu.cfs_quota_us")), memory)
}

/// The limits of the Pod's group and of its container's.
fn limits(instance: &Instance, name: &str) -> [Limits; 2] {
    let what = format!("pod/{name}");
    let id = instance_id(instance.dir.path());
    let class = match instance.field(&what, "{.status.qosClass}").as_str() {
        "Guaranteed" => "",
        "Burstable" => "burstable/",
        _ => "besteffort/",
    };
    let uid = instance.field(&what, "{.metadata.uid}");
    let container = instance.field(&what, "{.status.containerStatuses[0].containerID}");
    let pod = format!("monopod-{id}/kubepods/{class}pod{uid}");
    let container = format!("{pod}/{}", container.trim_start_matches("monopod://"));
    [limits_in(&pod), limits_in(&container)]
}

/// `type reason message` of the conditions of a resize.
fn conditions(instance: &Instance, name: &str) -> String {
    let path = "{range .status.conditions[*]}{.type} {.reason} {.message}{\"\\n\"}{end}";
    let all = instance.field(&format!("pod/{name}"), path);
    all.lines().filter(|line| line.starts_with("PodResize")).collect::<Vec<_>>().join("\n")
}

/// Waits until the container has this limit of cpu and memory, and nothing of a resize is left.
fn wait_for(instance: &Instance, name: &str, cpu: &str, memory: &str) {
    instance.eventually("the resize", || {
        let path = "{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].resources.limits.memory}";
        let found = instance.field(&format!("pod/{name}"), path);
        let left = conditions(instance, name);
        let done = found == format!("{cpu} {memory}") && left.is_empty();
        if done { Ok(()) } else { Err(format!("{found} {left}")) }
    });
}

/// Events about the Pod: reasons and messages.
fn events(instance: &Instance, name: &str) -> String {
    let selector = format!("involvedObject.name={name}");
    let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).ok()
}

fn restarts(instance: &Instance, name: &str) -> String {
    instance.field(&format!("pod/{name}"), "{.status.containerStatuses[0].restartCount}")
}

const MIB: i64 = 1 << 20;

#[test]
fn a_running_pod_grows_and_shrinks_in_place() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("p", &amounts("100m", "32Mi"), ""));
    instance.wait("condition=Ready", "pod/p");
    let small = limits(&instance, "p");
    assert_eq!(small.map(|(_, quota, memory)| (quota, memory)), [(10_000, 32 * MIB); 2]);

    resize(&instance, "p", &amounts("300m", "64Mi")).ok();
    wait_for(&instance, "p", "300m", "64Mi");
    let large = limits(&instance, "p");
    assert_eq!(large.map(|(_, quota, memory)| (quota, memory)), [(30_000, 64 * MIB); 2]);
    assert!(large[0].0 > small[0].0 && large[1].0 > small[1].0, "{small:?} {large:?}");
    let path = "{.metadata.generation} {.status.observedGeneration} {.status.containerStatuses[0].allocatedResources.cpu}";
    assert_eq!(instance.field("pod/p", path), "2 2 300m");

    resize(&instance, "p", &amounts("100m", "32Mi")).ok();
    wait_for(&instance, "p", "100m", "32Mi");
    assert_eq!(limits(&instance, "p"), small);
    assert_eq!(restarts(&instance, "p"), "0");
    let told = events(&instance, "p");
    for generation in [2, 3] {
        for words in ["ResizeStarted: Pod resize started: {", "ResizeCompleted: Pod resize completed: {"] {
            let found = told.lines().any(|line| {
                line.starts_with(words) && line.ends_with(&format!("\"generation\":{generation}}}"))
            });
            assert!(found, "{words} {generation}: {told}");
        }
    }
}

#[test]
fn a_container_is_restarted_where_its_policy_wants_it() {
    let instance = Instance::start(&["busybox.tar"]);
    let policy = "    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]\n";
    instance.apply(&pod("p", &amounts("100m", "32Mi"), policy));
    instance.wait("condition=Ready", "pod/p");
    resize(&instance, "p", &amounts("200m", "32Mi")).ok();
    wait_for(&instance, "p", "200m", "32Mi");
    assert_eq!(restarts(&instance, "p"), "0");
    resize(&instance, "p", &amounts("200m", "64Mi")).ok();
    wait_for(&instance, "p", "200m", "64Mi");
    assert_eq!(limits(&instance, "p").map(|(_, quota, memory)| (quota, memory)), [(20_000, 64 * MIB); 2]);
    assert_eq!(restarts(&instance, "p"), "1");
    assert!(events(&instance, "p").contains("Killing: Container c resize requires restart"));
}

#[test]
fn a_resize_waits_for_room_and_one_that_can_never_be_says_so() {
    let instance = Instance::start(&["busybox.tar"]);
    let node = instance.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.allocatable.cpu}"]).ok();
    let capacity = node.parse::<u64>().expect("whole processors") * 1000;
    let requests = |cpu: u64| format!("{{requests: {{cpu: {cpu}m}}}}");
    instance.apply(&pod("small", &requests(100), ""));
    instance.apply(&pod("big", &requests(capacity - 300), ""));
    instance.wait("condition=Ready", "pod/small");
    instance.wait("condition=Ready", "pod/big");
    let before = limits(&instance, "small");
    let pending = |words: String| {
        let found = conditions(&instance, "small");
        if found == words { Ok(()) } else { Err(found) }
    };

    resize(&instance, "small", &requests(capacity + 1)).ok();
    instance.eventually("infeasible", || {
        let wanted = capacity + 1;
        pending(format!(
            "PodResizePending Infeasible Node didn't have enough capacity: cpu, requested: {wanted}, capacity: {capacity}"
        ))
    });
    resize(&instance, "small", &requests(400)).ok();
    instance.eventually("deferred", || {
        let used = capacity - 300;
        pending(format!(
            "PodResizePending Deferred Node didn't have enough resource: cpu, requested: 400, used: {used}, capacity: {capacity}"
        ))
    });
    assert_eq!(limits(&instance, "small"), before);

    instance.kubectl(&["delete", "pod", "big"]).ok();
    instance.eventually("room", || pending(String::new()));
    instance.eventually("the weight", || {
        let now = limits(&instance, "small");
        if now[0].0 > before[0].0 && now[1].0 > before[1].0 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let told = events(&instance, "small");
    for words in [
        "ResizeInfeasible: Pod resize Infeasible: {",
        "ResizeDeferred: Pod resize Deferred: {",
        "ResizeCompleted: ",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn memory_in_use_is_not_taken_away_and_what_was_granted_outlives_the_daemon() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("p", &amounts("100m", "64Mi"), ""));
    instance.wait("condition=Ready", "pod/p");
    let container = instance.field("pod/p", "{.status.containerStatuses[0].containerID}");
    let fill = ["exec", "p", "--", "dd", "if=/dev/zero", "of=/dev/shm/f", "bs=1M", "count=30"];
    instance.kubectl(&fill).ok();
    resize(&instance, "p", &amounts("200m", "16Mi")).ok();
    let refused =
        "PodResizeInProgress Error [attempting to set pod memory limit (16777216) below current usage (";
    instance.eventually("the refusal", || {
        let found = conditions(&instance, "p");
        if found.starts_with(refused) { Ok(()) } else { Err(found) }
    });
    assert_eq!(limits(&instance, "p").map(|(_, quota, memory)| (quota, memory)), [(10_000, 64 * MIB); 2]);
    let path = "{.status.containerStatuses[0].allocatedResources.memory} {.status.containerStatuses[0].resources.limits.memory}";
    assert_eq!(instance.field("pod/p", path), "16Mi 64Mi");
    assert!(events(&instance, "p").contains("ResizeError: Pod resize error: {"));

    instance.crash();
    instance.up();
    assert_eq!(instance.field("pod/p", path), "16Mi 64Mi");
    instance.kubectl(&["exec", "p", "--", "rm", "/dev/shm/f"]).ok();
    wait_for(&instance, "p", "200m", "16Mi");
    assert_eq!(limits(&instance, "p").map(|(_, quota, memory)| (quota, memory)), [(20_000, 16 * MIB); 2]);
    assert_eq!(instance.field("pod/p", "{.status.containerStatuses[0].containerID}"), container);
}

#[test]
fn a_resize_while_the_daemon_is_away_is_done_when_it_is_back() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("p", &amounts("100m", "32Mi"), ""));
    instance.wait("condition=Ready", "pod/p");
    resize(&instance, "p", &amounts("200m", "48Mi")).ok();
    // Wherever it is then: half of the groups may have been written.
    instance.crash();
    instance.up();
    wait_for(&instance, "p", "200m", "48Mi");
    assert_eq!(limits(&instance, "p").map(|(_, quota, memory)| (quota, memory)), [(20_000, 48 * MIB); 2]);
    assert_eq!(restarts(&instance, "p"), "0");
}

#[test]
fn what_may_not_be_resized_is_refused_in_upstreams_words() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("p", &amounts("100m", "32Mi"), ""));
    instance.wait("condition=Ready", "pod/p");
    let refused = |resources: &str, words: &str| {
        let err = resize(&instance, "p", resources).fails();
        assert!(err.contains(words), "{resources}: {err}");
    };
    refused("{requests: {cpu: 50m}}", "Pod QOS Class may not change as a result of resizing");
    refused("{limits: {cpu: null}}", "resource limits cannot be removed");
    refused("{limits: {ephemeral-storage: 1Gi}}", "only cpu and memory resources are mutable");
    // What is no resize is dropped, as upstream drops it.
    let image = r#"{"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "other:1"}]}}"#;
    instance.kubectl(&["patch", "pod", "p", "--subresource", "resize", "-p", image]).ok();
    let kept =
        instance.field("pod/p", "{.spec.containers[0].image} {.metadata.labels.x}{.metadata.generation}");
    assert_eq!(kept, "busybox:1.36 1");
    let said = instance.kubectl(&["patch", "pod", "p", "-p", r#"{"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}]}}"#]);
    assert!(said.fails().contains("pod updates may not change fields other than"));
    instance.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: l}\nspec: {limits: [{type: Container, max: {cpu: 300m}}]}",
    );
    instance.apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {requests.memory: 64Mi}}",
    );
    refused(&amounts("301m", "32Mi"), "maximum cpu usage per Container is 300m, but limit is 301m");
    instance.eventually("the quota counts the Pod", || {
        let used = instance.field("resourcequota/q", "{.status.used.requests\\.memory}");
        if used == "32Mi" { Ok(()) } else { Err(used) }
    });
    refused(
        &amounts("100m", "128Mi"),
        "exceeded quota: q, requested: requests.memory=96Mi, used: requests.memory=32Mi, limited: requests.memory=64Mi",
    );
    assert_eq!(limits(&instance, "p").map(|(_, quota, memory)| (quota, memory)), [(10_000, 32 * MIB); 2]);
    resize(&instance, "p", &amounts("300m", "64Mi")).ok();
    wait_for(&instance, "p", "300m", "64Mi");
}
