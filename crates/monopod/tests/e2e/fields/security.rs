//! What containers may do.

use crate::harness::Instance;
use crate::volumes::{SLEEPS, pod, sh, waits};

fn secured(name: &str, whole: &str, own: &str) -> String {
    pod(name, &format!("securityContext: {{{whole}}},"), &format!("{SLEEPS}, securityContext: {{{own}}}"))
}

/// A line of the status of the container's own process.
fn status(instance: &Instance, name: &str, key: &str) -> String {
    let said = sh(instance, name, &format!("grep ^{key}: /proc/1/status")).ok();
    said.split_once(':')
        .map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .unwrap_or_default()
}

/// Pods that run as different users.
fn dress(instance: &Instance) {
    instance.apply(&secured(
        "whole",
        "runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [3000], fsGroup: 4000",
        "",
    ));
    instance.apply(&secured("own", "runAsUser: 1000, runAsGroup: 2000", "runAsUser: 1001, runAsGroup: 2001"));
    instance.apply(&secured(
        "strict",
        "runAsUser: 0, supplementalGroups: [3000], supplementalGroupsPolicy: Strict",
        "",
    ));
    instance.apply(&secured(
        "merge",
        "runAsUser: 0, supplementalGroups: [3000], supplementalGroupsPolicy: Merge",
        "",
    ));
    instance.apply(&secured("root", "runAsNonRoot: true", ""));
    instance.apply(&secured("named", "", "runAsNonRoot: true, runAsUser: 7"));
    for name in ["whole", "own", "strict", "merge", "named"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
}

#[test]
fn programs_run_as_whom_they_are_told_to() {
    let instance = Instance::start(&["busybox.tar"]);
    dress(&instance);
    assert_eq!(sh(&instance, "whole", "id -u; id -g; id -G").ok(), "1000\n2000\n2000 3000 4000\n");
    assert_eq!(sh(&instance, "own", "id -u; id -g").ok(), "1001\n2001\n");
    assert_eq!(status(&instance, "strict", "Groups"), "0 3000");
    assert!(status(&instance, "merge", "Groups").contains("3000"));
    let user = "{.status.containerStatuses[0].user.linux.uid} {.status.containerStatuses[0].user.linux.gid} \
                {.status.containerStatuses[0].user.linux.supplementalGroups}";
    assert_eq!(instance.field("pod/whole", user), "1000 2000 [2000,3000,4000]");
    assert_eq!(sh(&instance, "named", "id -u").ok(), "7\n");
    waits(
        &instance,
        "root",
        "CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root",
    );
}

/// Pods with different powers, all of them running.
fn empower(instance: &Instance) {
    let profiles = instance.dir.path().join("seccomp");
    std::fs::create_dir_all(&profiles).expect("made");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(profiles.join("no-mkdir.json"), profile).expect("written");
    let pods = [
        secured("plain", "", ""),
        secured("none", "", "capabilities: {drop: [ALL]}"),
        secured("some", "", "capabilities: {drop: [ALL], add: [NET_ADMIN, CHOWN]}"),
        secured("all", "", "privileged: true"),
        secured("never", "runAsUser: 1000", "allowPrivilegeEscalation: false"),
        secured("free", "seccompProfile: {type: Unconfined}", ""),
        secured("own", "seccompProfile: {type: Unconfined}", "seccompProfile: {type: RuntimeDefault}"),
        secured("local", "", "seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}"),
        secured("stone", "", "readOnlyRootFilesystem: true"),
    ];
    pods.iter().for_each(|pod| instance.apply(pod));
    for name in ["plain", "none", "some", "all", "never", "free", "own", "local", "stone"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
}

#[test]
fn capabilities_privileges_and_filters_are_what_was_asked_for() {
    let instance = Instance::start(&["busybox.tar"]);
    empower(&instance);
    let capabilities =
        |name: &str| u64::from_str_radix(&status(&instance, name, "CapEff"), 16).expect("hexadecimal");
    assert_eq!(capabilities("plain"), 0xa804_25fb, "the usual fourteen");
    assert_eq!(capabilities("none"), 0);
    assert_eq!(capabilities("some"), 1 << 12 | 1);
    assert!(capabilities("all") > capabilities("plain"));
    assert_eq!(
        (status(&instance, "never", "NoNewPrivs"), status(&instance, "plain", "NoNewPrivs")),
        ("1".into(), "0".into())
    );
    let filter = |name: &str| status(&instance, name, "Seccomp");
    assert_eq!([filter("plain"), filter("free"), filter("own"), filter("all")], ["2", "0", "2", "0"]);
    let said = sh(&instance, "local", "mkdir /x 2>&1; touch /y && echo touched").ok();
    assert!(said.contains("Operation not permitted") && said.ends_with("touched\n"), "{said}");
    assert!(sh(&instance, "stone", "touch /x 2>&1; true").ok().contains("Read-only file system"));
    let devices =
        |name: &str| sh(&instance, name, "ls /dev | wc -l").ok().trim().parse::<u32>().expect("a number");
    assert!(devices("all") > devices("plain"));
    // What is masked of /proc and /sys is masked for everybody but the privileged.
    assert!(sh(&instance, "plain", "touch /proc/sys/kernel/x /sys/x 2>&1; true").ok().contains("Read-only"));
}

#[test]
fn safe_sysctls_are_set_and_others_are_forbidden() {
    let instance = Instance::start(&["busybox.tar"]);
    let safe = "sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"99\"}, {name: kernel.shm_rmid_forced, value: \"1\"}]";
    instance.apply(&secured("safe", safe, ""));
    instance.apply(&secured("unsafe", "sysctls: [{name: kernel.msgmax, value: \"65536\"}]", ""));
    instance.wait("condition=Ready", "pod/safe");
    let said = sh(
        &instance,
        "safe",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
    )
    .ok();
    assert_eq!(said, "99\n1\n");
    instance.wait("jsonpath={.status.phase}=Failed", "pod/unsafe");
    let said = instance.field("pod/unsafe", "{.status.reason}: {.status.message}");
    assert_eq!(said, "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    crate::volumes::told(&instance, "unsafe", "SysctlForbidden", "forbidden sysctl");
}
