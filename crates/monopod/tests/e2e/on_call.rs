//! What somebody finds who is called at night: `status` tells the truth whatever the daemon does, and `down`
//! ends what there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::Instance;
use crate::host::{Traces, instance_id};

/// What `status` says now; its exit code must say the same.
fn status(instance: &Instance) -> Value {
    let said = instance.monopod(&["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("no JSON: {said:?}"));
    let wrong = status["problems"].as_array().is_some_and(|problems| !problems.is_empty());
    assert_eq!(said.code, i32::from(wrong), "{status}");
    status
}

fn found<'a>(status: &'a Value, check: &str) -> &'a str {
    let checks = status["checks"].as_array().expect("a list");
    let one = checks.iter().find(|one| one["name"] == check);
    one.and_then(|one| one["found"].as_str()).unwrap_or_else(|| panic!("no check {check}: {status}"))
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    kill_process(pid, signal).expect("signalled");
}

#[test]
fn status_tells_the_truth_of_a_daemon_that_lives_hangs_and_is_dead() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.kubectl(&["run", "web", "--image=busybox:1.36", "--", "sleep", "3600"]).ok();
    instance.wait("condition=Ready", "pod/web");
    // Where the administrator's file is does not matter to it.
    let kubeconfig = instance.dir.path().join("kubeconfig");
    std::fs::rename(&kubeconfig, instance.dir.path().join("elsewhere")).expect("moved");
    let lives = status(&instance);
    assert_eq!(lives["problems"], Value::Array(Vec::new()), "{lives}");
    assert_eq!(lives["pods"][0]["state"], "Running", "{lives}");
    assert_eq!(
        (found(&lives, "API"), found(&lives, "shims"), found(&lives, "tables")),
        ("ready", "1", "there")
    );

    signal(instance.pid(), Signal::STOP);
    let hangs = status(&instance);
    signal(instance.pid(), Signal::CONT);
    assert!(hangs["problems"].to_string().contains("is stopped by a signal"), "{hangs}");
    assert_eq!(hangs["pods"][0]["name"], "default/web", "{hangs}");

    instance.crash();
    let dead = status(&instance);
    assert!(dead["problems"][0].as_str().is_some_and(|text| text.contains("does not run")), "{dead}");
    assert_eq!(dead["problems"].as_array().map(Vec::len), Some(1), "{dead}");
    assert_eq!(dead["pods"][0]["state"], "running, and nobody looks after it", "{dead}");
    assert!(found(&dead, "store").contains(" objects, "), "{dead}");
    // A number that is another process's by now is nobody to be stopped.
    let file = instance.dir.path().join("state/monopod.pid");
    std::fs::write(&file, std::process::id().to_string()).expect("written");
    assert_eq!(status(&instance)["daemon"], Value::Null);
    instance.up();
    let again = status(&instance);
    assert_eq!(again["problems"], Value::Array(Vec::new()), "{again}");
}

/// The data directory, mounted over itself so that nothing more can be written there.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn new(dir: &Path) -> Self {
        let mount = |words: &[&str]| {
            let done = Command::new("mount").args(words).arg(dir).status().expect("mount runs");
            assert!(done.success(), "mount {words:?}");
        };
        mount(&["--bind", &dir.display().to_string()]);
        let read_only = ReadOnly(dir.to_path_buf());
        mount(&["-o", "remount,bind,ro"]);
        read_only
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_disk_that_became_read_only_is_named_and_the_pods_can_be_taken_down() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.kubectl(&["run", "web", "--image=busybox:1.36", "--", "sleep", "3600"]).ok();
    instance.wait("condition=Ready", "pod/web");
    let dir = instance.dir.path().to_path_buf();
    let id = instance_id(&dir);
    {
        let _read_only = ReadOnly::new(&dir);
        let said = status(&instance);
        assert_eq!(found(&said, "disk"), "read-only", "{said}");
        assert!(instance.monopod(&["image", "ls"]).ok().contains("busybox:1.36"));
        let said = instance.monopod(&["down"]).ok();
        assert!(said.contains("stopped the daemon"), "{said}");
        let left = Traces::of(&id, &dir);
        for kind in ["link", "cgroup", "process", "nftables"] {
            assert_eq!(left.count(kind), 0, "{kind}: {left:#?}");
        }
    }
    // With the disk back, the rest goes as ever.
    instance.monopod(&["down"]).ok();
    let left = Traces::of(&id, &dir);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_data_directory_that_was_removed_under_the_daemon_is_told_and_taken_down() {
    let instance = Instance::start(&[]);
    let dir = instance.dir.path().to_path_buf();
    let id = instance_id(&dir);
    assert!(Traces::of(&id, &dir).count("link") > 0);
    instance.eventually("the directory to be gone", || {
        let _ = Command::new("rm").arg("-rf").arg(&dir).output();
        if dir.exists() { Err("it is still there".to_owned()) } else { Ok(()) }
    });
    let said = instance.monopod(&["status", "-o", "json"]);
    assert_eq!(said.code, 1);
    let status: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(status["daemon"], instance.pid(), "{status}");
    assert!(status["problems"].to_string().contains("does not exist"), "{status}");
    let said = instance.monopod(&["down"]).ok();
    assert!(said.contains("stopped the daemon") && said.contains("removed bridge"), "{said}");
    let left = Traces::of(&id, &dir);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_support_bundle_has_what_helps_and_no_secret() {
    use base64::Engine;
    let instance = Instance::start(&["busybox.tar"]);
    let secret = "correct-horse-battery-staple";
    instance.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{password: {secret}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: careless}}\nspec:\n  containers:\n  \
         - {{name: a, image: \"busybox:1.36\", command: [sleep, \"3600\"], env: [{{name: P, value: {secret}}}]}}\n"
    ));
    instance.wait("condition=Ready", "pod/careless");
    let file = instance.dir.path().join("bundle.tar");
    let said = instance.monopod(&["support-bundle", file.to_str().expect("text")]).ok();
    assert!(said.starts_with(&format!("wrote {} (", file.display())), "{said}");
    let bytes = std::fs::read(&file).expect("written");
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
    let key = std::fs::read_to_string(instance.dir.path().join("pki/ca.key")).expect("a key");
    let line = key.lines().nth(1).expect("a line of the key").to_owned();
    for hidden in [secret, &encoded, &line] {
        let there = bytes.windows(hidden.len()).any(|window| window == hidden.as_bytes());
        assert!(!there, "{hidden} is in the archive");
    }
    let listed = Command::new("tar").arg("tf").arg(&file).output().expect("tar runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for part in [
        "about.txt",
        "status.json",
        "doctor.txt",
        "objects/v1/secrets.json",
        "objects/apps/v1/deployments.json",
        "log/monopod.log",
    ] {
        assert!(listed.lines().any(|line| line == part), "no {part} in\n{listed}");
    }
    let pods =
        Command::new("tar").arg("xOf").arg(&file).arg("objects/v1/pods.json").output().expect("tar runs");
    assert!(String::from_utf8_lossy(&pods.stdout).contains("[secret]"), "what is struck out is marked");
}
