//! Volumes in the hands of somebody who wants out, or down with the program.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::full_disk::SmallDisk;
use crate::harness::Instance;

/// A Pod of one container that runs a script in the directory of its one volume.
fn pod(name: &str, script: &str, volume: &str, more: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  {more}
  containers:
  - name: c
    image: "busybox:1.36"
    command: [sh, -c, {script:?}]
    securityContext: {{capabilities: {{add: [SYS_ADMIN]}}}}
    volumeMounts: [{{name: v, mountPath: /v}}]
  volumes: [{{name: v, {volume}}}]
"#
    )
}

/// A claim for a directory that is made for it.
const CLAIM: &str = r#"apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
"#;

/// 30 000 directories in each other. From the host: a shell asks after each step where it is,
/// which takes minutes down there.
fn dig(top: &std::path::Path) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    // Closed on exec: a daemon that another test starts now would hold the disk for as long as it lives.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, top, flags, Mode::empty()).expect("the volume is there");
    for _ in 0..30_000 {
        mkdirat(&at, "d", Mode::RWXU).expect("made");
        at = openat(&at, "d", flags, Mode::empty()).expect("opened");
    }
}

#[test]
fn a_tree_deeper_than_any_stack_goes_with_its_pod() {
    // In memory: sixty thousand directories are a matter of minutes on a busy disk.
    let (_disk, dir) = SmallDisk::new("1g");
    let instance = Instance::start_in(dir, &["busybox.tar"], &["--listen", "127.0.0.1:0"]);
    let daemon = instance.pid();
    let sleep = "exec sleep 3600";
    instance.apply(&pod("scratch", sleep, "emptyDir: {}", ""));
    let claimed = pod("claimed", sleep, "persistentVolumeClaim: {claimName: claim}", "");
    instance.apply(&format!("{CLAIM}{claimed}"));
    for name in ["scratch", "claimed"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
        instance.kubectl(&["exec", name, "--", "mkdir", "/v/here"]).ok();
    }
    let pods = instance.dir.path().join("pods");
    let uid = instance.field("pod/scratch", "{.metadata.uid}");
    dig(&pods.join(uid).join("volumes/kubernetes.io~empty-dir/v/here"));
    let path = instance.field("pvc/claim", "{.spec.volumeName}");
    dig(&std::path::Path::new(&instance.field(&format!("pv/{path}"), "{.spec.hostPath.path}")).join("here"));
    let volume = instance.field("pvc/claim", "{.spec.volumeName}");
    instance.kubectl(&["delete", "pod", "scratch", "claimed", "--timeout=60s"]).ok();
    instance.kubectl(&["delete", "pvc", "claim", "--timeout=60s"]).ok();
    instance.eventually("the volume of the claim is gone", || {
        let said = instance.kubectl(&["get", "pv", &volume]);
        if said.err.contains("not found") { Ok(()) } else { Err(format!("{said:?}")) }
    });
    assert_eq!(instance.pid(), daemon);
    instance.kubectl(&["get", "nodes"]).ok();
    for left in ["pods", "volumes"] {
        instance.eventually("nothing is left of the trees", || {
            let entries = fs::read_dir(instance.dir.path().join(left)).into_iter().flatten().flatten();
            let left: Vec<_> = entries.map(|entry| entry.path()).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

#[test]
fn what_a_container_makes_of_a_config_map_volume_is_never_followed() {
    let host = tempfile::tempdir().expect("a directory of the host");
    fs::write(host.path().join("precious"), "kept").expect("written");
    let instance = Instance::start(&["busybox.tar"]);
    instance.kubectl(&["create", "configmap", "cm", "--from-literal=key=one"]).ok();
    instance.apply(&pod("p", "exec sleep 3600", "configMap: {name: cm}", ""));
    instance.wait("condition=Ready", "pod/p");
    let run = |script: &str| instance.kubectl(&["exec", "p", "--", "sh", "-c", script]);
    assert!(run("echo x > /v/new").fails().contains("Read-only file system"));
    // Who may mount makes his own view of it writable.
    let link = format!(
        "mount -o remount,bind,rw /v && ln -sfn {} /v/..data && cat /v/..data",
        host.path().display()
    );
    let said = run(&link);
    assert!(said.err.contains("No such file") || said.code != 0, "{said:?}");
    assert_eq!(run("readlink /v/..data").ok().trim(), host.path().to_str().expect("text"));
    instance.kubectl(&["patch", "configmap", "cm", "-p", r#"{"data":{"key":"two"}}"#]).ok();
    instance.eventually("the volume shows the new text", || {
        let said = run("cat /v/key");
        if said.out == "two" { Ok(()) } else { Err(format!("{said:?}")) }
    });
    assert_eq!(fs::read_to_string(host.path().join("precious")).expect("still there"), "kept");
    assert_eq!(fs::read_dir(host.path()).expect("readable").count(), 1);
}

#[test]
fn an_fs_group_changes_what_is_the_pods_and_nothing_of_the_admins() {
    let host = tempfile::tempdir().expect("a directory of the host");
    let file = host.path().join("file");
    fs::write(&file, "").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    let show = |path: &std::path::Path| {
        let meta = fs::metadata(path).expect("there");
        (meta.gid(), meta.mode())
    };
    let before = (show(host.path()), show(&file));
    let instance = Instance::start(&["busybox.tar"]);
    let volume = format!(
        r#"apiVersion: v1
kind: PersistentVolume
metadata: {{name: admin}}
spec:
  capacity: {{storage: 1Mi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  hostPath: {{path: {:?}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: admin}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: "", volumeName: admin, resources: {{requests: {{storage: 1Mi}}}}}}
---
"#,
        host.path()
    );
    let group = "securityContext: {fsGroup: 4711}";
    let admin = pod("admin", "exec sleep 3600", "persistentVolumeClaim: {claimName: admin}", group);
    let own = pod("own", "exec sleep 3600", "persistentVolumeClaim: {claimName: claim}", group);
    instance.apply(&format!("{volume}{admin}---\n{CLAIM}{own}"));
    for name in ["admin", "own"] {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    assert_eq!((show(host.path()), show(&file)), before);
    let said = instance.kubectl(&["exec", "own", "--", "stat", "-c", "%g %a", "/v"]).ok();
    assert_eq!(said.trim(), "4711 2775", "a directory made for the claim is the group's");
}

#[test]
fn a_container_starts_again_after_the_key_it_mounts_by_sub_path_has_changed() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.kubectl(&["create", "configmap", "cm", "--from-literal=app.conf=one"]).ok();
    instance.apply(
        r#"apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: "busybox:1.36"
    command: [sh, -c, "until [ -e /tmp/die ]; do sleep 0.1; done; exit 1"]
    volumeMounts:
    - {name: v, mountPath: /etc/app.conf, subPath: app.conf}
    - {name: v, mountPath: /whole}
  volumes: [{name: v, configMap: {name: cm}}]
"#,
    );
    instance.wait("condition=Ready", "pod/p");
    let cat = |path: &str| instance.kubectl(&["exec", "p", "--", "cat", path]).out;
    assert_eq!(cat("/etc/app.conf"), "one");
    instance.kubectl(&["patch", "configmap", "cm", "-p", r#"{"data":{"app.conf":"two"}}"#]).ok();
    instance.eventually("the volume shows the new text", || match cat("/whole/app.conf") {
        text if text == "two" => Ok(()),
        text => Err(text),
    });
    assert_eq!(cat("/etc/app.conf"), "one", "a sub-path does not follow, as upstream");
    instance.kubectl(&["exec", "p", "--", "touch", "/tmp/die"]).ok();
    instance.eventually("the container runs again", || {
        let status = instance.field("pod/p", "{.status.containerStatuses[0]}");
        if status.contains(r#""restartCount":1"#) && status.contains(r#""running""#) {
            Ok(())
        } else {
            Err(status)
        }
    });
    instance.eventually("it sees the new text", || match cat("/etc/app.conf") {
        text if text == "two" => Ok(()),
        text => Err(text),
    });
}
