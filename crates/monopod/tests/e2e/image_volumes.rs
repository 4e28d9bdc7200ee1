//! Images as volumes: what is seen of them, and what is said of those that are not there.

use crate::archives::{Tar, digest, docker_archive};
use crate::harness::Instance;

/// An image of two files, named `data:1`.
fn import(instance: &Instance) {
    let layer = Tar::new().file("top.txt", b"top\n").file("data/a.txt", b"below\n").bytes();
    let file = instance.dir.path().join("data.tar");
    std::fs::write(&file, docker_archive("data:1", &layer, &digest(&layer))).expect("written");
    instance.monopod(&["image", "import", &file.display().to_string()]).ok();
}

/// A Pod of two containers: one mounts the volume, the other does not.
fn pod(name: &str, volume: &str, mount: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, image: {volume}}}]\n  containers:\n  \
         - {{name: c, image: \"busybox:1.36\", command: [sleep, \"3600\"], volumeMounts: [{mount}]}}\n  \
         - {{name: other, image: \"busybox:1.36\", command: [sleep, \"3600\"]}}\n"
    )
}

const THERE: &str = "{reference: \"data:1\", pullPolicy: IfNotPresent}";

fn exec(instance: &Instance, name: &str, command: &str) -> String {
    let said = instance.kubectl(&["exec", name, "-c", "c", "--", "sh", "-c", command]);
    format!("{}{}", said.out, said.err)
}

fn events(instance: &Instance, name: &str) -> String {
    let selector = format!("involvedObject.name={name}");
    let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).ok()
}

#[test]
fn an_image_is_a_volume_that_nobody_writes_and_that_stays() {
    let mut instance = Instance::start(&["busybox.tar"]);
    import(&instance);
    instance.apply(&pod("whole", THERE, "{name: v, mountPath: /v}"));
    instance.apply(&pod("part", THERE, "{name: v, mountPath: /v, subPath: data}"));
    instance.wait("condition=Ready", "pod/whole");
    instance.wait("condition=Ready", "pod/part");
    assert_eq!(exec(&instance, "whole", "cat /v/top.txt /v/data/a.txt"), "top\nbelow\n");
    assert_eq!(exec(&instance, "part", "ls /v; cat /v/a.txt"), "a.txt\nbelow\n");
    for command in ["touch /v/new", "rm /v/top.txt", "mount -o remount,rw /v"] {
        assert!(
            !exec(&instance, "whole", &format!("{command} 2>&1 && echo done")).contains("done"),
            "{command}"
        );
    }
    let told = events(&instance, "whole");
    assert!(told.contains("Pulled: Container image \"data:1\" already present on machine"), "{told}");

    // It is in use: it stays, whoever wants it away, and over a daemon that dies.
    instance.monopod(&["image", "rm", "data:1"]).fails();
    instance.crash();
    instance.up();
    instance.monopod(&["image", "rm", "data:1"]).fails();
    assert_eq!(exec(&instance, "whole", "cat /v/top.txt"), "top\n");

    instance.kubectl(&["delete", "pod", "whole", "part"]).ok();
    let home = instance.dir.path().display().to_string();
    instance.eventually("no mount is left", || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let left = mounts.lines().filter(|line| line.contains(&home) && line.contains("image"));
        let left: Vec<&str> = left.collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    instance.eventually("nobody holds it any more", || {
        let said = instance.monopod(&["image", "rm", "data:1"]);
        if said.code == 0 { Ok(()) } else { Err(said.err) }
    });
}

/// Reason and message of the container that mounts the volume, while it waits.
fn waiting(instance: &Instance, name: &str) -> String {
    let path = "{.status.containerStatuses[?(@.name==\"c\")].state.waiting}";
    instance.field(&format!("pod/{name}"), path)
}

#[test]
fn a_volume_that_cannot_be_had_is_a_matter_of_the_containers_that_mount_it() {
    let instance = Instance::start(&["busybox.tar"]);
    import(&instance);
    let absent = "{reference: \"absent:1\", pullPolicy: Never}";
    instance.apply(&pod("never", absent, "{name: v, mountPath: /v}"));
    let nowhere = "{reference: \"127.0.0.1:1/absent:1\", pullPolicy: Always}";
    instance.apply(&pod("pull", nowhere, "{name: v, mountPath: /v}"));
    instance.apply(&pod("sub", THERE, "{name: v, mountPath: /v, subPath: nosuch}"));
    for (name, reason, words) in [
        ("never", "ErrImageNeverPull", "absent:1"),
        ("pull", "ImagePullBackOff", "Back-off pulling image \\\"127.0.0.1:1/absent:1\\\": ErrImagePull"),
        ("sub", "CreateContainerError", "ImageVolumeMountFailed: subPath \\\"nosuch\\\" does not exist"),
    ] {
        instance.eventually(name, || {
            let found = waiting(&instance, name);
            if found.contains(reason) && found.contains(words) { Ok(()) } else { Err(found) }
        });
    }
    let told = events(&instance, "pull");
    assert!(told.contains("Pulling: Pulling image \"127.0.0.1:1/absent:1\""), "{told}");
    assert!(told.contains("Failed: Failed to pull image \"127.0.0.1:1/absent:1\": "), "{told}");
}
