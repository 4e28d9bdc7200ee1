//! Ways out through an image: links, names, devices and headers in its layers.

use serde_json::json;

use super::world::{World, check};
use super::{Attack, Outcome};
use crate::archives::Tar;

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "proc-of-the-image",
            attack: "an image whose /proc is a link, so that masks miss the procfs that is mounted behind it",
            class: "CVE-2019-19921, CVE-2023-28642",
            stopped_by: "/proc, /sys and /dev must be real directories; masks are relative to the mount's descriptor",
            run: proc_of_the_image,
        },
        Attack {
            name: "names-that-climb",
            attack: "a layer with absolute names and names that climb by ..",
            class: "zip slip",
            stopped_by: "every name is opened beneath the layer's directory",
            run: names_that_climb,
        },
        Attack {
            name: "link-then-file",
            attack: "a layer with a link to a directory of the host and then a file through it",
            class: "zip slip",
            stopped_by: "links in a layer are not followed while it is unpacked",
            run: link_then_file,
        },
        Attack {
            name: "hard-link-out",
            attack: "a hard link to a file of the host, then changed through it",
            class: "",
            stopped_by: "the target of a hard link is opened beneath the layer, without links",
            run: hard_link_out,
        },
        Attack {
            name: "whiteout-that-climbs",
            attack: "whiteouts named .wh... and below a link, so that files of the host are removed",
            class: "",
            stopped_by: "whiteouts are names beneath the layer, and .wh... is refused",
            run: whiteout_that_climbs,
        },
        Attack {
            name: "device-of-the-image",
            attack: "a layer with the node of the host's disk in it",
            class: "",
            stopped_by: "the device cgroup refuses to open it",
            run: device_of_the_image,
        },
        Attack {
            name: "passwd-of-the-image",
            attack: "an image whose /etc/passwd and /etc/group are links to the host's or to /proc",
            class: "",
            stopped_by: "they are read inside the container's root",
            run: passwd_of_the_image,
        },
        Attack {
            name: "names-of-the-runtime",
            attack: "an image whose /etc/hosts, /etc/resolv.conf and /dev/termination-log lead out",
            class: "",
            stopped_by: "mount targets are opened inside the root",
            run: names_of_the_runtime,
        },
        Attack {
            name: "header-without-end",
            attack: "a layer whose PAX header says it is 4 GiB long",
            class: "CVE-2023-25153",
            stopped_by: "headers are limited while they are read",
            run: header_without_end,
        },
    ]
}

/// A root file system with a shell: busybox of this host under the names that scripts use.
fn rootfs() -> Tar {
    let busybox =
        std::fs::read("/bin/busybox").or_else(|_| std::fs::read("/usr/bin/busybox")).expect("busybox-static");
    ["sh", "cat", "ls", "echo", "id", "head"]
        .into_iter()
        .fold(Tar::new().file("bin/busybox", &busybox), |tar, name| {
            tar.symlink(&format!("bin/{name}"), "busybox")
        })
}

/// Runs a script in an image, if it is taken and begins at all.
fn run(world: &World, name: &str, layer: &[u8], script: &str) -> Result<String, String> {
    let tag = format!("{name}:1");
    if world.import(&tag, layer).is_err() {
        return Ok("refused".to_owned());
    }
    let container =
        json!({"name": "c", "image": tag, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script]});
    world.run(name, json!({"containers": [container]})).clean()
}

fn proc_of_the_image(world: &World) -> Outcome {
    let script = "for p in /proc /real /dev/p /sys; do echo x 2>/dev/null > $p/sys/kernel/core_pattern && echo WRITTEN; \
                  echo x 2>/dev/null > $p/kernel/uevent_helper && echo WRITTEN; cat $p/keys; done; exit 0";
    for (number, (name, target)) in [
        ("proc", "/dev/p"),
        ("proc", "real"),
        ("sys", "/dev/p"),
        ("dev", "/real"),
        ("proc", "/sys"),
        ("sys", "/proc"),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = rootfs().directory("real").symlink("dev/p", "/real").symlink(name, target);
        let layer = if name == "dev" { rootfs().directory("real").symlink(name, target) } else { layer };
        let logs = run(world, &format!("proc-of-the-image-{number}"), &layer.bytes(), script)?;
        check(!logs.contains("WRITTEN"), &format!("{name} -> {target}: {logs}"))?;
    }
    Ok(())
}

fn names_that_climb(world: &World) -> Outcome {
    let prey = world.prey().display().to_string();
    let layer = rootfs()
        .file(&format!("{prey}/absolute"), b"x")
        .file(&format!("../../../../../../../../..{prey}/climbed"), b"x")
        .file(&format!("bin/../../../../../../../..{prey}/secret"), b"x");
    run(world, "names-that-climb", &layer.bytes(), "true").map(drop)
}

fn link_then_file(world: &World) -> Outcome {
    let prey = world.prey().display().to_string();
    let layer = rootfs()
        .symlink("out", &prey)
        .file("out/written", b"x")
        .symlink("file", &format!("{prey}/secret"))
        .file("file", b"x")
        .symlink("up", "../../../../../../../../../..")
        .file(&format!("up{prey}/inner/file"), b"x");
    run(world, "link-then-file", &layer.bytes(), "cat /out/secret /file; exit 0").map(drop)
}

fn hard_link_out(world: &World) -> Outcome {
    let prey = world.prey().display().to_string();
    let layer = rootfs()
        .hard_link("absolute", &format!("{prey}/secret"))
        .hard_link("climbed", &format!("../../../../../../../..{prey}/secret"))
        .symlink("out", &prey)
        .hard_link("through", "out/secret");
    let script =
        "cat /absolute /climbed /through; echo x > /absolute; echo x > /climbed; echo x > /through; exit 0";
    run(world, "hard-link-out", &layer.bytes(), script).map(drop)
}

fn whiteout_that_climbs(world: &World) -> Outcome {
    let prey = world.prey().display().to_string();
    for (number, layer) in [
        rootfs().file(".wh...", b""),
        rootfs().file("bin/.wh..", b""),
        rootfs().symlink("out", &prey).file("out/.wh.secret", b""),
        rootfs().symlink("out", &prey).file("out/.wh..wh..opq", b""),
        rootfs().file(&format!("../../../../../../..{prey}/.wh.secret"), b""),
    ]
    .into_iter()
    .enumerate()
    {
        run(world, &format!("whiteout-that-climbs-{number}"), &layer.bytes(), "true")?;
    }
    Ok(())
}

fn device_of_the_image(world: &World) -> Outcome {
    use std::os::unix::fs::MetadataExt;
    let disk = std::fs::metadata("/").expect("there").dev();
    let layer = rootfs().block_device("disk", (rustix::fs::major(disk), rustix::fs::minor(disk)));
    let logs = run(world, "device-of-the-image", &layer.bytes(), "head -c 1 /disk && echo OPENED; exit 0")?;
    check(!logs.contains("OPENED"), &logs)
}

fn passwd_of_the_image(world: &World) -> Outcome {
    let prey = world.prey().display().to_string();
    let layer = rootfs()
        .symlink("etc/passwd", &format!("{prey}/secret"))
        .symlink("etc/group", "/proc/self/root/../etc/group");
    run(world, "passwd-of-the-image", &layer.bytes(), "id; cat /etc/passwd /etc/group; exit 0").map(drop)
}

fn names_of_the_runtime(world: &World) -> Outcome {
    let prey = world.prey().display().to_string();
    for (number, name) in
        ["etc/hosts", "etc/resolv.conf", "etc/hostname", "dev/termination-log"].into_iter().enumerate()
    {
        for (turn, target) in [
            format!("{prey}/secret"),
            format!("/proc/self/root{prey}/secret"),
            format!("../../../../..{prey}/secret"),
        ]
        .iter()
        .enumerate()
        {
            let layer = rootfs().symlink(name, target);
            run(
                world,
                &format!("names-of-the-runtime-{number}-{turn}"),
                &layer.bytes(),
                "echo x > /etc/hosts; exit 0",
            )?;
        }
    }
    Ok(())
}

fn header_without_end(world: &World) -> Outcome {
    let layer = rootfs().extended_header(4 << 30).bytes();
    let refused = world.import("header-without-end:1", &layer).err().unwrap_or_default();
    check(!refused.is_empty(), "a header of 4 GiB was taken")
}
