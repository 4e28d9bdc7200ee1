//! The commands beside `up` and `down`.

use serde_json::Value;

use crate::harness::{Instance, test_image};

#[test]
fn the_commands_tell_what_there_is() {
    let mut instance = Instance::start(&["busybox.tar"]);
    let file = std::fs::read_to_string(instance.dir.path().join("kubeconfig")).expect("a kubeconfig");
    assert_eq!(instance.monopod(&["kubeconfig"]).ok(), file);

    // Its exit code says for scripts whether anything is wrong.
    let status = |instance: &Instance| -> Value {
        let said = instance.monopod(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&said.out).expect("JSON");
        let wrong = status["problems"].as_array().is_some_and(|problems| !problems.is_empty());
        assert_eq!(said.code, i32::from(wrong), "{status}");
        status
    };
    let running = status(&instance);
    assert_eq!(running["daemon"], instance.pid());
    assert_eq!(running["nodes"][0]["state"], "Ready");
    assert_eq!(running["images"], 1);
    assert_eq!(running["problems"], Value::Array(Vec::new()));
    instance.kubectl(&["run", "lost", "--image=nosuch:1", "--image-pull-policy=Never"]).ok();
    instance.eventually("a problem in the status", || {
        let problems = status(&instance)["problems"].to_string();
        if problems.contains("default/lost: ErrImageNeverPull") { Ok(()) } else { Err(problems) }
    });
    assert_eq!(instance.stop(), 0);
    let stopped = status(&instance);
    assert_eq!(stopped["daemon"], Value::Null);
    assert!(stopped["problems"][0].as_str().is_some_and(|text| text.contains("does not run")), "{stopped}");
}

#[test]
fn images_go_out_and_come_in_while_the_daemon_runs_or_not() {
    let mut instance = Instance::start(&[]);
    // The daemon runs: what comes in is there for its Pods at once.
    instance.monopod(&["image", "import", &test_image("busybox.tar")]).ok();
    instance.kubectl(&["run", "user", "--image=busybox:1.36", "--", "sleep", "3600"]).ok();
    instance.wait("condition=Ready", "pod/user");
    instance.kubectl(&["delete", "pod", "user", "--grace-period=0", "--force"]).ok();
    assert_eq!(instance.stop(), 0);

    let archive = instance.dir.path().join("out.tar").display().to_string();
    instance.monopod(&["image", "export", "busybox:1.36", &archive]).ok();
    let other = tempfile::tempdir().expect("a temporary directory");
    let there = |words: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::program("MONOPOD"));
        crate::harness::Said::from(
            command.args(words).arg("--data-dir").arg(other.path()).output().expect("runs"),
        )
    };
    assert_eq!(there(&["image", "import", &archive]).ok(), "imported docker.io/library/busybox:1.36\n");
    let ids = |listing: String| -> Vec<String> {
        let images: Value = serde_json::from_str(&listing).expect("JSON");
        images.as_array().expect("a list").iter().map(|image| image["id"].to_string()).collect()
    };
    assert_eq!(
        ids(there(&["image", "ls", "-o", "json"]).ok()),
        ids(instance.monopod(&["image", "ls", "-o", "json"]).ok()),
        "the same image by its id"
    );
}
