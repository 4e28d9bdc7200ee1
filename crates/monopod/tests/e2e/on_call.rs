//! What somebody finds who is called at night: `status` tells the truth whatever the daemon does, and `down`
//! ends what there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sys::netlink::Link;

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

/// What the node has said that it put back.
fn repairs(instance: &Instance) -> String {
    let words =
        ["get", "events", "--field-selector=reason=NetworkRepaired", "-o", "jsonpath={.items[*].message}"];
    instance.kubectl(&words).ok()
}

#[test]
fn what_others_take_from_the_network_comes_back_and_is_told() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(
        r#"---
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {terminationGracePeriodSeconds: 1,
            containers: [{name: c, image: "testserver:1"}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web},
            spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}"#,
    );
    instance.wait("condition=Ready", "pod/web");
    let id = instance_id(instance.dir.path());
    let (bridge, links) = (format!("mp{id}"), Link::open().expect("a socket"));
    let address = instance.field("service/web", "{.spec.clusterIP}");
    let answers = || {
        let place = format!("http://{address}");
        let said = Command::new("curl").args(["-sS", "--max-time", "5", &place]).output().expect("curl runs");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&said.stderr).into_owned()) }
    };
    instance.eventually("the Service to answer", answers);
    let veth = || {
        let all = links.list().expect("links").into_iter().map(|link| link.name);
        all.into_iter().find(|name| name.starts_with(&format!("v{id}"))).expect("the Pod's link")
    };
    let parameter = format!("/proc/sys/net/ipv4/conf/{bridge}/rp_filter");
    let acts: [(&str, &str, &dyn Fn()); 4] = [
        ("the link of the Pod is removed", "the link of Pod default/web", &|| {
            links.remove(&veth()).expect("removed")
        }),
        ("the bridge is removed", "the bridge mp", &|| links.remove(&bridge).expect("removed")),
        ("the bridge is taken down", "which was down", &|| {
            std::fs::write(format!("/sys/class/net/{bridge}/flags"), "0x1002").expect("written");
        }),
        ("a parameter is set", "rp_filter, which was 0", &|| {
            std::fs::write(&parameter, "0").expect("written")
        }),
    ];
    for (what, told, act) in acts {
        act();
        instance.eventually(what, || {
            let repairs = repairs(&instance);
            if repairs.contains(told) { Ok(()) } else { Err(repairs) }
        });
        let answer = instance.eventually(what, answers);
        assert!(answer.contains("hello from web"), "{what}: {answer}");
    }
    assert_eq!(std::fs::read_to_string(&parameter).expect("read").trim(), "1");
    let status = status(&instance);
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{status}");
}

#[test]
fn the_audit_log_says_who_did_what_and_in_whose_name() {
    let dir = crate::harness::data_directory();
    let (log, policy) = (dir.path().join("audit.log"), dir.path().join("policy.yaml"));
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n\
        - {level: None, verbs: [get, list, watch]}\n\
        - {level: Metadata, resources: [{group: \"\", resources: [configmaps]}]}\n";
    std::fs::write(&policy, rules).expect("written");
    let [log, policy] = [log, policy].map(|path| path.display().to_string());
    let flags = ["--listen", "127.0.0.1:0", "--audit-log-path", &log, "--audit-policy-file", &policy];
    let instance = Instance::start_in(dir, &[], &flags);
    let words = [
        "create",
        "configmap",
        "noted",
        "--from-literal=k=hidden-content",
        "--as=ann",
        "--as-group=system:masters",
    ];
    instance.kubectl(&words).ok();
    instance.kubectl(&["get", "configmap", "noted"]).ok();
    let line: Value = instance.eventually("the line", || {
        let text = std::fs::read_to_string(&log).expect("a log");
        assert!(!text.contains("hidden-content") && !text.contains("\"verb\":\"get\""), "{text}");
        let line = text.lines().find(|line| line.contains("\"noted\"") || line.contains("\"ann\""));
        line.and_then(|line| serde_json::from_str(line).ok()).ok_or(text)
    });
    assert_eq!(
        (&line["verb"], &line["user"]["username"]),
        (&"create".into(), &"kubernetes-admin".into()),
        "{line}"
    );
    assert_eq!(line["impersonatedUser"]["username"], "ann", "{line}");
    assert_eq!(line["objectRef"]["resource"], "configmaps", "{line}");
    assert_eq!(
        (&line["responseStatus"]["code"], &line["stage"]),
        (&201.into(), &"ResponseComplete".into()),
        "{line}"
    );
}
