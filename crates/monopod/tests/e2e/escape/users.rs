//! Pods whose root is nobody on the host (`hostUsers: false`), with all that such a root may do.

use serde_json::{Value, json};

use super::world::{World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "unmasked-by-a-user-namespace",
            attack: "write the host's sysctls through a /proc that procMount: Unmasked leaves open",
            class: "",
            stopped_by: "procMount: Unmasked needs hostUsers: false, whose root is nobody to the host's parameters",
            run: unmasked_by_a_user_namespace,
        },
        Attack {
            name: "root-of-a-user-namespace",
            attack: "with hostUsers: false, all capabilities and no seccomp: make devices, set the clock, mount a disk, write \
                     the host's sysctls, lift the covers of /proc and /sys",
            class: "",
            stopped_by: "capabilities count in the Pod's user namespace, and the covers are locked for it",
            run: root_of_a_user_namespace,
        },
        Attack {
            name: "user-of-a-neighbour",
            attack: "with hostUsers: false: be the same user of the host as another such Pod's root",
            class: "",
            stopped_by: "each such Pod has 65536 users of the host that no other has",
            run: user_of_a_neighbour,
        },
        Attack {
            name: "host-files-of-a-user-namespace",
            attack: "with hostUsers: false, all capabilities and a hostPath volume: read what lies beside it",
            class: "",
            stopped_by: "the volume ends at its root, and /proc/1/root is the container's own",
            run: host_files_of_a_user_namespace,
        },
    ]
}

/// A container of a root who may do all that root of a user namespace may.
fn mighty(script: &str) -> Value {
    let mut container = shell(script);
    container["securityContext"] =
        json!({"capabilities": {"add": ["ALL"]}, "seccompProfile": {"type": "Unconfined"}});
    container
}

fn apart(container: &Value) -> Value {
    json!({"hostUsers": false, "containers": [container]})
}

fn unmasked_by_a_user_namespace(world: &World) -> Outcome {
    let mut container = mighty(
        "(echo x > /proc/sys/kernel/core_pattern) && echo WRITTEN; (echo b > /proc/sysrq-trigger) && echo WRITTEN; echo began",
    );
    container["securityContext"]["procMount"] = json!("Unmasked");
    let ended = world.run("unmasked-by-a-user-namespace", apart(&container));
    check(ended.logs.contains("began") && !ended.logs.contains("WRITTEN"), &format!("{ended:?}"))?;
    let ended = world.run("unmasked-alone", json!({"containers": [container]}));
    check(!ended.logs.contains("began") && !ended.why.is_empty(), &format!("{ended:?}"))
}

/// Each must fail.
const TRIES: [&str; 13] = [
    "mknod /tmp/disk b 254 0",
    "! date -s 2000-01-01 2>&1 | grep -q 'not permitted'",
    "dmesg -n 1",
    "umount /proc/kcore",
    "umount /sys/firmware",
    "umount /proc/sys",
    "mount -o remount,rw,bind /proc/sys",
    "mount -t ext4 /dev/vda /mnt",
    "swapoff -a && cat /proc/swaps | grep -q partition",
    "echo x > /proc/sys/kernel/core_pattern",
    "echo 1 > /proc/sys/vm/drop_caches",
    "cat /proc/kcore | head -c 1 | grep -q .",
    "chown 70000 /tmp",
];

fn root_of_a_user_namespace(world: &World) -> Outcome {
    let script: Vec<String> =
        TRIES.iter().map(|one| format!("(set -e; {one}) 2>/dev/null && echo 'DONE: {one}'")).collect();
    let ended =
        world.run("root-of-a-user-namespace", apart(&mighty(&format!("{}; echo began", script.join("; ")))));
    check(ended.logs.contains("began") && !ended.logs.contains("DONE"), &format!("{ended:?}"))
}

fn user_of_a_neighbour(world: &World) -> Outcome {
    let script =
        "cat /proc/self/uid_map; nsenter -t 1 -U true 2>/dev/null && echo ENTERED; echo began; sleep 300";
    let names = ["user-of-a-neighbour-1", "user-of-a-neighbour-2"];
    for name in names {
        let refused = world.create(name, apart(&mighty(script)));
        check(refused.is_empty(), &refused)?;
    }
    let firsts = names.map(|name| {
        world.instance.eventually(name, || {
            let logs = world.instance.kubectl(&["logs", name]).out;
            let first = logs.split_ascii_whitespace().nth(1).and_then(|first| first.parse::<u32>().ok());
            first.filter(|_| logs.contains("began") && !logs.contains("ENTERED")).ok_or(logs)
        })
    });
    names.iter().for_each(|name| world.delete(name));
    check(firsts[0] != firsts[1] && firsts.iter().all(|first| *first >= 65_536), &format!("{firsts:?}"))
}

fn host_files_of_a_user_namespace(world: &World) -> Outcome {
    let mut container =
        mighty("cat /given/../secret /proc/1/root/etc/shadow 2>/dev/null; ls -ln /given; echo began");
    container["volumeMounts"] = json!([{"name": "given", "mountPath": "/given"}]);
    let mut spec = apart(&container);
    spec["volumes"] = json!([{"name": "given", "hostPath": {"path": world.prey().join("inner")}}]);
    let ended = world.run("host-files-of-a-user-namespace", spec);
    let logs = ended.clean()?;
    check(logs.contains("began"), &logs)
}
