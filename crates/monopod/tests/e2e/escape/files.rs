//! Ways out through files: volumes, links, sub-paths, logs and messages.

use serde_json::json;

use super::world::{SECRET, World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "volume-pointer-led-away",
            attack: "lead the ..data link of a ConfigMap, Secret, projected or downward volume to a directory of the host",
            class: "CVE-2017-1002102",
            stopped_by: "these volumes are always read-only in the container",
            run: volume_pointer_led_away,
        },
        Attack {
            name: "sub-path-through-a-link",
            attack: "a subPath that is a link out of the volume",
            class: "CVE-2017-1002101",
            stopped_by: "sub-paths are opened beneath the volume, without links",
            run: sub_path_through_a_link,
        },
        Attack {
            name: "sub-path-that-climbs",
            attack: "a subPath or subPathExpr with .. in it",
            class: "CVE-2017-1002101",
            stopped_by: "refused when the Pod is validated or its container made",
            run: sub_path_that_climbs,
        },
        Attack {
            name: "sub-path-race",
            attack: "exchange a directory and a link while a container with that subPath starts",
            class: "CVE-2021-25741",
            stopped_by: "the opened directory is mounted, not its path",
            run: sub_path_race,
        },
        Attack {
            name: "group-of-swapped-files",
            attack: "exchange files and links while fsGroup is applied to the volume",
            class: "",
            stopped_by: "ownership is set by descriptor, links are not followed",
            run: group_of_swapped_files,
        },
        Attack {
            name: "termination-message-link",
            attack: "put a link to a file of the host where the termination message is read",
            class: "",
            stopped_by: "the message is a file that the runtime mounted, opened without links",
            run: termination_message_link,
        },
        Attack {
            name: "termination-message-in-a-volume",
            attack: "a terminationMessagePath within a volume that has a link there",
            class: "",
            stopped_by: "links in the path stay inside the container's root",
            run: termination_message_in_a_volume,
        },
        Attack {
            name: "mount-through-a-link",
            attack: "a mountPath that leads through a link in a volume to outside",
            class: "CVE-2021-30465",
            stopped_by: "mount targets are opened inside the container's root, magic links refused",
            run: mount_through_a_link,
        },
        Attack {
            name: "mount-over-proc",
            attack: "mount a volume over /proc or below it, so that masks land elsewhere",
            class: "CVE-2019-16884",
            stopped_by: "refused: nothing of a Pod is mounted on or below /proc and /sys",
            run: mount_over_proc,
        },
        Attack {
            name: "cover-of-the-masks",
            attack: "an own /dev whose null is a link to a sysctl, so that masking a path opens it for writing",
            class: "CVE-2025-31133",
            stopped_by: "the cover is opened before any volume is mounted and checked to be the null device",
            run: cover_of_the_masks,
        },
        Attack {
            name: "console-of-a-volume",
            attack: "links for /dev/console, /dev/pts and /dev/shm in a volume mounted at /dev",
            class: "CVE-2025-52565",
            stopped_by: "what the runtime mounts below /dev is opened without links, before volumes",
            run: console_of_a_volume,
        },
        Attack {
            name: "mount-back-to-the-host",
            attack: "mount something below a hostPath volume, with SYS_ADMIN",
            class: "",
            stopped_by: "mounts do not travel back unless a privileged container asks for Bidirectional",
            run: mount_back_to_the_host,
        },
        Attack {
            name: "read-only-host-path",
            attack: "write to a hostPath volume that was mounted read-only, also by remounting it",
            class: "",
            stopped_by: "the mount is read-only, and remounting needs SYS_ADMIN",
            run: read_only_host_path,
        },
        Attack {
            name: "host-path-type-through-a-link",
            attack: "a hostPath of type Directory that is a link to somewhere else",
            class: "",
            stopped_by: "as upstream the administrator's links are followed once, and the opened directory is mounted",
            run: host_path_type_through_a_link,
        },
        Attack {
            name: "copy-with-links",
            attack: "kubectl cp of a directory whose links lead to the client's or the node's files",
            class: "CVE-2019-1002101",
            stopped_by: "the archive is made inside the container; the node reads nothing by path",
            run: copy_with_links,
        },
        Attack {
            name: "tree-too-deep",
            attack: "a directory tree 20 000 deep in an emptyDir, so that removing it overflows a stack",
            class: "",
            stopped_by: "removal is by descriptor and does not recurse",
            run: tree_too_deep,
        },
    ]
}

fn volume_pointer_led_away(world: &World) -> Outcome {
    let name = "volume-pointer-led-away";
    let create = |words: &[&str]| world.instance.kubectl(&[&["create"], words].concat()).ok();
    create(&["configmap", name, "--from-literal=k=v"]);
    create(&["secret", "generic", name, "--from-literal=k=v"]);
    let prey = world.prey().display();
    let script = format!(
        "exec 2>/dev/null; for v in /config /secret /projected /downward; do \
         ln -sfn {prey} $v/..data && echo LED; rm -rf $v/..data && echo REMOVED; \
         echo x > $v/own && echo WRITTEN; mount -o remount,rw $v 2>/dev/null && echo REMOUNTED; done; echo done; exit 0"
    );
    let mut container = shell(&script);
    container["volumeMounts"] = json!([
        {"name": "config", "mountPath": "/config"}, {"name": "secret", "mountPath": "/secret"},
        {"name": "projected", "mountPath": "/projected"}, {"name": "downward", "mountPath": "/downward"}]);
    let spec = json!({"containers": [container], "volumes": [
        {"name": "config", "configMap": {"name": name}}, {"name": "secret", "secret": {"secretName": name}},
        {"name": "projected", "projected": {"sources": [{"configMap": {"name": name}}]}},
        {"name": "downward", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]});
    let logs = world.run(name, spec).clean()?;
    check(logs.trim() == "done", &logs)
}

/// An emptyDir prepared by a first container and used by a second one.
fn prepared(prepare: &str, mut container: serde_json::Value, mount: serde_json::Value) -> serde_json::Value {
    let mut first = shell(prepare);
    first["name"] = json!("first");
    first["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    container["volumeMounts"] = json!([mount]);
    json!({"initContainers": [first], "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})
}

fn sub_path_through_a_link(world: &World) -> Outcome {
    let prey = world.prey().display();
    for (number, target) in
        [format!("{prey}"), format!("../../../../../../../../../..{prey}"), "/".to_owned()].iter().enumerate()
    {
        let container = shell(&format!("ls /m; cat /m/secret /m{prey}/secret"));
        let mount = json!({"name": "v", "mountPath": "/m", "subPath": "link"});
        let ended = world.run(
            &format!("sub-path-link-{number}"),
            prepared(&format!("ln -s {target} /v/link"), container, mount),
        );
        ended.never_began("CreateContainerConfigError")?;
    }
    // A link in the middle of the path is as bad as one at its end.
    let container = shell("ls /m; cat /m/file");
    let mount = json!({"name": "v", "mountPath": "/m", "subPath": "link/inner"});
    let ended =
        world.run("sub-path-link-inside", prepared(&format!("ln -s {prey} /v/link"), container, mount));
    ended.never_began("CreateContainerConfigError")
}

fn sub_path_that_climbs(world: &World) -> Outcome {
    let mount = json!({"name": "v", "mountPath": "/m", "subPath": "../../x"});
    world
        .run("sub-path-climbs", prepared("true", shell("ls /m"), mount))
        .never_began("must not contain '..'")?;
    let mut container = shell("ls /m");
    container["env"] = json!([{"name": "UP", "value": "../../../.."}]);
    let mount = json!({"name": "v", "mountPath": "/m", "subPathExpr": "$(UP)"});
    let ended = world.run("sub-path-expands", prepared("true", container, mount));
    ended.never_began("CreateContainerConfigError")
}

fn sub_path_race(world: &World) -> Outcome {
    let prey = world.prey().display();
    let mut swapper = shell(&format!(
        "cd /v; ln -s {prey} link; trap 'exit 0' TERM; n=0; while [ $n -lt 4000 ]; do \
         mv -T dir away; mv -T link dir; mv -T dir link; mv -T away dir; n=$((n+1)); done"
    ));
    swapper["name"] = json!("swapper");
    swapper["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let containers: Vec<_> = (0..6)
        .map(|number| {
            let mut container = shell("ls -la /m; cat /m/secret; echo x > /m/secret; true");
            container["name"] = json!(format!("c{number}"));
            container["volumeMounts"] = json!([{"name": "v", "mountPath": "/m", "subPath": "dir"}]);
            container
        })
        .collect();
    let mut first = shell("mkdir /v/dir");
    first["name"] = json!("first");
    first["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let all: Vec<_> = std::iter::once(swapper).chain(containers).collect();
    let spec =
        json!({"initContainers": [first], "containers": all, "volumes": [{"name": "v", "emptyDir": {}}]});
    world.run("sub-path-race", spec).clean().map(drop)
}

fn group_of_swapped_files(world: &World) -> Outcome {
    let name = "group-of-swapped-files";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    world.instance.apply(&claim.to_string());
    let prey = world.prey().display();
    let mut swapper = shell(&format!(
        "cd /v; mkdir -p d; for i in $(seq 400); do mkdir -p d/$i; : > d/$i/secret; done; ln -sfn {prey} link; echo ready; \
         trap 'exit 0' TERM; while :; do for i in 1 100 200 300 400; do \
         mv -T d/$i away; ln -s {prey} d/$i; rm d/$i; mv -T away d/$i; done; done"
    ));
    swapper["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}]);
    let refused =
        world.create(&format!("{name}-swapper"), json!({"containers": [swapper], "volumes": volumes}));
    check(refused.is_empty(), &refused)?;
    world.until(&format!("{name}-swapper"), |pod| pod["status"]["phase"] == "Running");
    for round in 0..4 {
        let mut container = shell("true");
        container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let spec =
            json!({"securityContext": {"fsGroup": 4321}, "containers": [container], "volumes": volumes});
        world.run(&format!("{name}-{round}"), spec).clean()?;
    }
    // Whose group the prey has is compared by the suite.
    world.delete(&format!("{name}-swapper"));
    Ok(())
}

fn termination_message_link(world: &World) -> Outcome {
    let prey = world.prey().display();
    let script = format!(
        "rm -f /dev/termination-log; ln -sf {prey}/secret /dev/termination-log; mv /dev/termination-log /dev/x; exit 1"
    );
    let ended = world.script("termination-message-link", &script);
    check(!ended.why.contains(SECRET), &ended.why)
}

fn termination_message_in_a_volume(world: &World) -> Outcome {
    let prey = world.prey().display();
    let mut container = shell("exit 1");
    container["terminationMessagePath"] = json!("/v/link/secret");
    let mount = json!({"name": "v", "mountPath": "/v"});
    let spec = prepared(&format!("ln -s {prey} /v/link"), container, mount);
    let ended = world.run("termination-message-in-a-volume", spec);
    check(!ended.why.contains(SECRET), &ended.why)
}

fn mount_through_a_link(world: &World) -> Outcome {
    for (number, target) in ["/proc/self/root", "/proc/1/root", "../../../../.."].iter().enumerate() {
        let mut container = shell("ls /; echo done");
        container["volumeMounts"] =
            json!([{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/v/link/tmp"}]);
        let mut first = shell(&format!("ln -s {target} /v/link"));
        first["name"] = json!("first");
        first["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let spec = json!({"initContainers": [first], "containers": [container],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]});
        world.run(&format!("mount-through-a-link-{number}"), spec).clean()?;
    }
    Ok(())
}

fn mount_over_proc(world: &World) -> Outcome {
    for (number, place) in
        ["/proc", "/proc/sys", "/sys", "/sys/fs/cgroup/memory", "/proc/self/attr"].iter().enumerate()
    {
        let mut container = shell(
            "cat /proc/sys/kernel/core_pattern; echo x > /proc/sys/kernel/core_pattern && echo WRITTEN",
        );
        container["volumeMounts"] = json!([{"name": "v", "mountPath": place}]);
        let spec = json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
        let ended = world.run(&format!("mount-over-proc-{number}"), spec);
        check(!ended.logs.contains("WRITTEN"), &format!("{ended:?}"))?;
    }
    Ok(())
}

fn cover_of_the_masks(world: &World) -> Outcome {
    let script = "for f in /proc/keys /proc/timer_list /proc/kcore /proc/sched_debug; do \
                  [ \"$(head -c 64 $f 2>&- | wc -c)\" = 0 ] || echo READ $f; \
                  (echo '|/bin/x' > $f) 2>&- && echo WRITTEN $f; done; exit 0";
    let prepare = "ln -s /proc/sys/kernel/core_pattern /v/null; ln -s /proc/sys/kernel/core_pattern /v/zero";
    let mount = json!({"name": "v", "mountPath": "/dev"});
    let ended = world.run("cover-of-the-masks", prepared(prepare, shell(script), mount));
    // A container with such a /dev may begin or not; a cover that swallows what is written is no way out.
    let core = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("readable");
    check(!ended.logs.contains("READ") && !core.contains("/bin/x"), &format!("{ended:?}"))
}

fn console_of_a_volume(world: &World) -> Outcome {
    let prepare = "ln -s /proc/sysrq-trigger /v/console; ln -s /proc/sys /v/pts; ln -s /proc/sys/kernel /v/shm; ln -s /proc /v/mqueue";
    let mut container = shell(
        "ls -la /dev /proc/sys | head -30; echo x > /proc/sys/kernel/core_pattern && echo WRITTEN; exit 0",
    );
    container["tty"] = json!(true);
    let ended = world
        .run("console-of-a-volume", prepared(prepare, container, json!({"name": "v", "mountPath": "/dev"})));
    check(!ended.logs.contains("WRITTEN"), &format!("{ended:?}"))
}

fn mount_back_to_the_host(world: &World) -> Outcome {
    let shared = tempfile::tempdir_in(world.instance.dir.path()).expect("a directory");
    std::fs::create_dir(shared.path().join("point")).expect("made");
    let mut container = shell(
        "mount -t tmpfs none /v/point && echo MOUNTED; mount --make-rshared /v 2>/dev/null; mount -t tmpfs none /v/point; sleep 0.2",
    );
    container["securityContext"] = json!({"capabilities": {"add": ["SYS_ADMIN"]}});
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec =
        json!({"containers": [container], "volumes": [{"name": "v", "hostPath": {"path": shared.path()}}]});
    let name = "mount-back-to-the-host";
    world.run(name, spec).clean()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let point = shared.path().display().to_string();
    // The volume's own bind mount carries the path as its source, which is the fourth field.
    let arrived =
        mounts.lines().filter(|line| line.split(' ').nth(4).is_some_and(|at| at.starts_with(&point)));
    let arrived: Vec<_> = arrived.collect();
    check(arrived.is_empty(), &arrived.join("\n"))
}

fn read_only_host_path(world: &World) -> Outcome {
    let mut container = shell(
        "echo x > /v/secret; mount -o remount,rw,bind /v; echo x > /v/inner/file; rm -f /v/secret; chmod 777 /v; cat /v/secret | wc -c",
    );
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v", "readOnly": true}]);
    let spec =
        json!({"containers": [container], "volumes": [{"name": "v", "hostPath": {"path": world.prey()}}]});
    let logs = world.run("read-only-host-path", spec).clean()?;
    check(logs.lines().last() == Some(&SECRET.len().to_string()), &logs)
}

fn host_path_type_through_a_link(world: &World) -> Outcome {
    let given = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink("nowhere", given.path().join("link")).expect("made");
    let mut container = shell("ls -la /v");
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volume =
        |kind: &str| json!([{"name": "v", "hostPath": {"path": given.path().join("link"), "type": kind}}]);
    for kind in ["Directory", "File", "Socket", "CharDevice", "BlockDevice"] {
        let name = format!("host-path-type-{}", kind.to_lowercase());
        let spec = json!({"containers": [container], "volumes": volume(kind)});
        let refused = world.create(&name, spec);
        check(refused.is_empty(), &refused)?;
        // It waits for ever with an event, as upstream: the type check fails.
        world.instance.eventually("the type is told", || {
            let events = world
                .instance
                .kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")])
                .out;
            if events.contains("hostPath type check failed") { Ok(()) } else { Err(events) }
        });
        world.delete(&name);
    }
    Ok(())
}

fn copy_with_links(world: &World) -> Outcome {
    let name = "copy-with-links";
    let prey = world.prey().display();
    let script = format!(
        "mkdir -p /out; ln -s {prey}/secret /out/link; ln -s / /out/root; echo hi > /out/plain; sleep 600"
    );
    let refused = world.create(name, json!({"containers": [shell(&script)]}));
    check(refused.is_empty(), &refused)?;
    world.until(name, |pod| pod["status"]["phase"] == "Running");
    let here = tempfile::tempdir().expect("a directory");
    world.instance.eventually("the file is copied", || {
        let said =
            world.instance.kubectl(&["cp", &format!("{name}:/out"), here.path().to_str().expect("text")]);
        if here.path().join("plain").exists() { Ok(()) } else { Err(said.err) }
    });
    let copied = std::fs::read_dir(here.path()).expect("readable").flatten();
    let leaked = copied
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| text.contains(SECRET));
    world.delete(name);
    check(!leaked, "the secret was copied")
}

fn tree_too_deep(world: &World) -> Outcome {
    // A path may have 4 096 bytes: chains of a thousand are put below one another, the new one on top.
    let script = "cd /v; p=d; n=1; while [ $n -lt 1000 ]; do p=$p/d; n=$((n+1)); done; mkdir -p $p; \
                  n=1; while [ $n -lt 20 ]; do mkdir -p new/$p && mv d new/$p/ && mv new/d d && rmdir new || exit 1; \
                  n=$((n+1)); done; echo made";
    let mut container = shell(script);
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]});
    let name = "tree-too-deep";
    let ended = world.run(name, spec);
    check(ended.logs.contains("made"), &format!("{ended:?}"))?;
    let said = world.instance.kubectl(&["wait", "--for=delete", &format!("pod/{name}"), "--timeout=60s"]);
    check(said.code == 0 || said.err.contains("not found"), &said.err)?;
    check(world.instance.kubectl(&["get", "--raw", "/readyz"]).out == "ok", "the daemon is gone")
}
