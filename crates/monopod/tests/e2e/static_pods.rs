//! Static Pods: from files of the node, for real.

use std::fs;
use std::path::PathBuf;

use crate::harness::Instance;

fn manifest(name: &str, more: &str, says: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  {more}\n  \
         containers:\n  - {{name: c, image: \"busybox:1.36\", command: [sh, -c, \"echo {says}; exec sleep 3600\"]}}\n"
    )
}

/// The full name of a static Pod of the instance's node.
fn named(instance: &Instance, name: &str) -> String {
    let node = instance.kubectl(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    format!("{name}-{node}")
}

fn logs(instance: &Instance, pod: &str, line: &str) {
    instance.eventually(&format!("{pod} says {line}"), || {
        let said = instance.kubectl(&["logs", pod]);
        if said.out == format!("{line}\n") { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn container(instance: &Instance, pod: &str) -> String {
    instance.field(&format!("pod/{pod}"), "{.status.containerStatuses[0].containerID}")
}

fn start() -> (Instance, PathBuf) {
    let dir = crate::harness::data_directory();
    let manifests = dir.path().join("manifests");
    fs::create_dir(&manifests).expect("made");
    fs::write(manifests.join("web.yaml"), manifest("web", "", "first")).expect("written");
    let flag = manifests.display().to_string();
    let instance =
        Instance::start_in(dir, &["busybox.tar"], &["--listen", "127.0.0.1:0", "--manifests", &flag]);
    (instance, manifests)
}

fn a_mirror_comes_back(instance: &Instance, web: &str, first: &str) {
    let uid = instance.field(&format!("pod/{web}"), "{.metadata.uid}");
    instance.kubectl(&["delete", "pod", web, "--wait=false"]).ok();
    instance.eventually("another shows the same container", || {
        let said = instance.kubectl(&[
            "get",
            "pod",
            web,
            "-o",
            "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}",
        ]);
        match said.out.split_once(' ') {
            Some((other, same)) if other != uid && same == first => Ok(()),
            _ => Err(format!("{said:?}")),
        }
    });
}

fn changes_are_followed(instance: &mut Instance, manifests: &std::path::Path, web: &str) {
    // A change while nobody looks, and one while somebody does.
    instance.crash();
    fs::write(manifests.join("web.yaml"), manifest("web", "", "second")).expect("written");
    instance.up();
    logs(instance, web, "second");
    fs::write(manifests.join("web.yaml"), manifest("web", "", "third")).expect("written");
    logs(instance, web, "third");

    fs::remove_file(manifests.join("web.yaml")).expect("removed");
    instance.eventually("the Pod goes with its file", || {
        let said = instance.kubectl(&["get", "pod", web, "--ignore-not-found"]);
        if said.code == 0 && said.out.is_empty() { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

#[test]
fn a_file_is_a_pod_that_restarts_with_it_and_outlives_the_daemon() {
    let (mut instance, manifests) = start();
    let web = named(&instance, "web");
    logs(&instance, &web, "first");
    instance.wait("condition=Ready", &format!("pod/{web}"));
    let first = container(&instance, &web);

    a_mirror_comes_back(&instance, &web, &first);

    instance.crash();
    instance.up();
    instance.wait("condition=Ready", &format!("pod/{web}"));
    assert_eq!(container(&instance, &web), first);

    changes_are_followed(&mut instance, &manifests, &web);
}

#[test]
fn a_manifest_that_is_wrong_is_told_and_hurts_no_other() {
    let (instance, manifests) = start();
    let web = named(&instance, "web");
    logs(&instance, &web, "first");
    fs::write(manifests.join("a.yaml"), manifest("a", "serviceAccountName: x", "never")).expect("written");
    fs::write(manifests.join("b.yaml"), "kind: [").expect("written");
    fs::write(manifests.join("x.yaml"), manifest("web", "", "double")).expect("written");
    instance.eventually("who comes too late is named", || {
        let path = "jsonpath={range .items[?(@.reason==\"FailedValidation\")]}{.message}{end}";
        let said = instance.kubectl(&["get", "events", "-o", path]).ok();
        if said.ends_with(&format!("due to duplicate pod name \"{web}\", ignoring")) {
            Ok(())
        } else {
            Err(said)
        }
    });
    instance.eventually("the log names the files and the reasons", || {
        let log = fs::read_to_string(instance.dir.path().join("monopod.log")).expect("readable");
        let told = log.contains("static pods may not reference serviceaccounts")
            && log.contains("couldn't parse as pod");
        if told { Ok(()) } else { Err(instance.log_tail()) }
    });
    logs(&instance, &web, "first");
    assert_eq!(instance.kubectl(&["get", "pods", "-o", "name"]).ok(), format!("pod/{web}\n"));
}
