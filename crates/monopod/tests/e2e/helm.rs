//! helm: what most people apply what they run with.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Instance, Said, program};

fn helm(instance: &Instance, words: &[&str]) -> Said {
    let output = Command::new(program("HELM"))
        .arg("--kubeconfig")
        .arg(instance.dir.path().join("kubeconfig"))
        .args(words)
        .env("HOME", instance.dir.path())
        .stdin(Stdio::null())
        .output();
    output.expect("helm runs").into()
}

#[test]
fn a_chart_is_installed_tested_upgraded_rolled_back_and_gone() {
    let instance = Instance::start(&["busybox.tar"]);
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/chart").display().to_string();
    let waiting = ["--wait", "--timeout", "60s"];
    let installed = helm(&instance, &[&["install", "demo", &chart][..], &waiting].concat());
    assert!(!installed.err.contains("Warning"), "{}", installed.err);
    assert!(installed.ok().contains("STATUS: deployed"));
    assert_eq!(instance.field("deploy/demo", "{.status.availableReplicas}"), "2");
    let serves = |greeting: &str| {
        let tested = helm(&instance, &["test", "demo", "--logs"]).ok();
        assert!(tested.contains("Succeeded") && tested.lines().any(|line| line == greeting), "{tested}");
    };
    serves("hello");

    let changed = ["upgrade", "demo", &chart, "--set", "greeting=bye,replicas=3"];
    helm(&instance, &[&changed[..], &waiting].concat()).ok();
    assert_eq!(instance.field("deploy/demo", "{.status.updatedReplicas}"), "3");
    serves("bye");

    // What never becomes ready fails the upgrade and is taken back, and nobody notices.
    let broken = ["upgrade", "demo", &chart, "--set", "tag=nowhere", "--rollback-on-failure"];
    helm(&instance, &[&broken[..], &["--wait", "--timeout", "5s"]].concat()).fails();
    serves("bye");

    helm(&instance, &[&["rollback", "demo", "1"][..], &waiting].concat()).ok();
    assert_eq!(instance.field("deploy/demo", "{.status.replicas}"), "2");
    serves("hello");
    let history = helm(&instance, &["history", "demo"]).ok();
    assert!(history.contains("Rollback to 1"), "{history}");

    helm(&instance, &[&["uninstall", "demo"][..], &waiting].concat()).ok();
    let left = instance.kubectl(&["get", "deploy,rs,svc,sa,cm", "-o", "name"]).ok();
    let names: Vec<&str> = left.lines().filter(|name| name.contains("demo")).collect();
    assert!(names.is_empty(), "{names:?}");
}
