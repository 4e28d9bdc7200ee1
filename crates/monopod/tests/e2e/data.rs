//! The data as its owner handles it: a backup while it runs, rot, a repair, a restore elsewhere.

use std::path::Path;
use std::process::Command;

use crate::harness::{Instance, data_directory, program};

/// A start that must fail; what it said.
fn start_fails(dir: &Path) -> String {
    let mut child = Command::new(program("MONOPOD"));
    child.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir);
    let out = child.output().expect("the program runs");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{err}");
    err.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_backup_taken_while_it_runs_is_a_cluster_elsewhere() {
    let first = Instance::start(&[]);
    first.kubectl(&["create", "configmap", "kept", "--from-literal=k=v"]).ok();
    let token = first.kubectl(&["create", "token", "default"]).ok();
    let file = first.dir.path().join("backup.tar");
    let file = file.to_str().expect("text");
    let said = first.monopod(&["backup", file]).ok();
    assert!(said.starts_with(&format!("wrote {file} (")), "{said}");
    first.kubectl(&["create", "configmap", "later", "--from-literal=k=v"]).ok();
    let later = first.field("configmap/later", "{.metadata.resourceVersion}");
    let refused = first.monopod(&["restore", file]).fails();
    assert!(refused.contains("is in use by process"), "{refused}");

    let dir = data_directory();
    let restore = || {
        let mut command = Command::new(program("MONOPOD"));
        command.args(["restore", file, "--data-dir"]).arg(dir.path()).output().expect("the program runs")
    };
    let said = restore();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(String::from_utf8_lossy(&said.stdout).contains("start it with `monopod up`"));
    let again = restore();
    assert!(String::from_utf8_lossy(&again.stderr).contains("has a store already"), "nothing is overwritten");
    let second = Instance::start_in(dir, &[], &["--listen", "127.0.0.1:0"]);
    assert_eq!(second.field("configmap/kept", "{.data.k}"), "v");
    assert!(second.kubectl(&["get", "configmap", "later"]).fails().contains("not found"));
    let who = second.kubectl(&[
        "auth",
        "whoami",
        "--token",
        token.trim(),
        "-o",
        "jsonpath={.status.userInfo.username}",
    ]);
    assert!(who.code == 0, "tokens of the first are good in the second: {}", who.err);
    let list = second.kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps?limit=1"]).ok();
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let now: u64 = list["metadata"]["resourceVersion"].as_str().expect("text").parse().expect("a number");
    assert!(now > later.parse().expect("a number"), "no watcher of the first takes the past for the present");
}

#[test]
fn a_damaged_store_is_named_and_repaired() {
    let mut instance = Instance::start(&[]);
    for name in ["whole", "rotten"] {
        instance.kubectl(&["create", "configmap", name, &format!("--from-literal=k=value-of-{name}")]).ok();
    }
    assert_eq!(instance.stop(), 0);
    let whole = instance.monopod(&["repair"]).ok();
    assert!(whole.contains("the store is whole: nothing to repair"), "{whole}");
    let file = instance.dir.path().join("state/store.log");
    let mut bytes = std::fs::read(&file).expect("read");
    let at = bytes.windows(15).position(|window| window == b"value-of-rotten").expect("there");
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).expect("written");

    let said = start_fails(instance.dir.path());
    assert!(
        said.contains("store.log is damaged at byte") && said.contains("monopod repair --data-dir"),
        "{said}"
    );
    let repaired = instance.monopod(&["repair"]).ok();
    assert!(repaired.contains("lost /") && repaired.contains("/rotten (revision "), "{repaired}");
    assert!(repaired.contains("the file as it was is"), "{repaired}");
    instance.up();
    assert_eq!(instance.field("configmap/whole", "{.data.k}"), "value-of-whole");
    assert!(instance.kubectl(&["get", "configmap", "rotten"]).fails().contains("not found"));
}

#[test]
fn an_empty_or_foreign_store_is_not_taken_for_a_fresh_cluster() {
    let mut instance = Instance::start(&[]);
    assert_eq!(instance.stop(), 0);
    let file = instance.dir.path().join("state/store.log");
    let before = std::fs::read(&file).expect("read");
    for content in [&b""[..], b"something else altogether"] {
        std::fs::write(&file, content).expect("written");
        let said = start_fails(instance.dir.path());
        assert!(
            said.contains("store.log is no store: it does not begin as a store of monopod does"),
            "{said}"
        );
        assert_eq!(std::fs::read(&file).expect("read"), content, "it is left as it was");
    }
    std::fs::write(&file, before).expect("written");
    instance.up();
}
