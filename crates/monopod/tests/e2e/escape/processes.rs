//! Ways out through processes: their memory, files, descriptors, names and privileges.

use serde_json::json;

use super::world::{SECRET, World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "root-of-a-shared-pid-1",
            attack: "look at the host through /proc/1/root of a shared PID namespace, with SYS_PTRACE",
            class: "",
            stopped_by: "PID 1 of the Pod has an empty root of its own, no capabilities, and is not dumpable",
            run: root_of_a_shared_pid_1,
        },
        Attack {
            name: "namespaces-of-a-shared-pid-1",
            attack: "enter the mount namespace of PID 1 with nsenter, with SYS_ADMIN and SYS_PTRACE",
            class: "",
            stopped_by: "its mount namespace holds an empty root, and the host's is not to be reached from it",
            run: namespaces_of_a_shared_pid_1,
        },
        Attack {
            name: "birth-of-an-exec",
            attack: "read the host through /proc/PID/root of processes that are about to become an exec",
            class: "CVE-2016-9962",
            stopped_by: "an exec joins the mounts before the PID namespace, and is not dumpable until it has executed",
            run: birth_of_an_exec,
        },
        Attack {
            name: "own-executable-overwritten",
            attack: "run /proc/self/exe as the container's program and write to it",
            class: "CVE-2019-5736",
            stopped_by: "what /proc/self/exe leads to before the exec cannot be written",
            run: own_executable_overwritten,
        },
        Attack {
            name: "leaked-descriptors",
            attack: "use a descriptor that the runtime forgot to close",
            class: "CVE-2024-21626",
            stopped_by: "all but 0, 1 and 2 are closed before the exec",
            run: leaked_descriptors,
        },
        Attack {
            name: "leaked-descriptors-of-an-exec",
            attack: "use a descriptor that the runtime forgot to close when it ran an exec",
            class: "CVE-2024-21626",
            stopped_by: "all but 0, 1 and 2 are closed before the exec",
            run: leaked_descriptors_of_an_exec,
        },
        Attack {
            name: "working-directory-by-descriptor",
            attack: "WORKDIR /proc/self/fd/N, which may lead to a directory of the host",
            class: "CVE-2024-21626",
            stopped_by: "the working directory must lie inside the root, magic links are not followed",
            run: working_directory_by_descriptor,
        },
        Attack {
            name: "program-by-descriptor",
            attack: "a command that leads through /proc/self/fd to a file of the host",
            class: "CVE-2024-21626",
            stopped_by: "no descriptor of the host is open when the command is looked up",
            run: program_by_descriptor,
        },
        Attack {
            name: "signals-to-the-shim",
            attack: "kill every process of a shared PID namespace, with KILL",
            class: "",
            stopped_by: "the shim is outside the Pod's PID namespace and goes on to tell how it ended",
            run: signals_to_the_shim,
        },
        Attack {
            name: "processes-of-a-neighbour",
            attack: "see and trace the processes of another container, with SYS_PTRACE",
            class: "",
            stopped_by: "each container has a PID namespace unless the Pod shares one",
            run: processes_of_a_neighbour,
        },
        Attack {
            name: "set-user-id-program",
            attack: "gain privileges by a set-user-ID program with allowPrivilegeEscalation: false",
            class: "",
            stopped_by: "no_new_privs",
            run: set_user_id_program,
        },
        Attack {
            name: "capabilities-by-default",
            attack: "use a capability that nobody asked for",
            class: "",
            stopped_by: "the set that containerd gives: fourteen of them, in no ambient set",
            run: capabilities_by_default,
        },
        Attack {
            name: "capabilities-dropped",
            attack: "use a capability after drop: [ALL], or as another user than root",
            class: "CVE-2022-29162",
            stopped_by: "they are dropped from the bounding set; a user that is not root has none in effect",
            run: capabilities_dropped,
        },
        Attack {
            name: "new-user-namespace",
            attack: "make a user namespace to have all capabilities in it",
            class: "CVE-2022-0185",
            stopped_by: "the default seccomp profile",
            run: new_user_namespace,
        },
        Attack {
            name: "keyring-of-the-host",
            attack: "read the keys of the host's session or of another container",
            class: "",
            stopped_by: "the default seccomp profile refuses keyctl; /proc/keys is masked",
            run: keyring_of_the_host,
        },
        Attack {
            name: "sockets-of-the-host",
            attack: "connect to an abstract socket of the host",
            class: "CVE-2020-15257",
            stopped_by: "a Pod has a network namespace, and shims listen in the file system",
            run: sockets_of_the_host,
        },
    ]
}

fn traced(script: &str, capabilities: &[&str]) -> serde_json::Value {
    let mut container = shell(script);
    container["securityContext"] = json!({"capabilities": {"add": capabilities}});
    json!({"shareProcessNamespace": true, "containers": [container]})
}

fn root_of_a_shared_pid_1(world: &World) -> Outcome {
    let prey = world.prey().display();
    let script = format!(
        "ls -la /proc/1/root/; cat /proc/1/root{prey}/secret; ls /proc/1/root/etc /proc/1/cwd/; \
         echo x > /proc/1/root{prey}/secret; readlink /proc/1/exe; ls -l /proc/1/fd; grep Cap /proc/1/status"
    );
    let logs = world.run("root-of-a-shared-pid-1", traced(&script, &["SYS_PTRACE"])).clean()?;
    let capable = logs.lines().any(|line| line.starts_with("CapEff:") && !line.ends_with("0000000000000000"));
    check(!capable && !logs.contains("passwd"), &logs)
}

fn namespaces_of_a_shared_pid_1(world: &World) -> Outcome {
    let prey = world.prey().display();
    let script = format!(
        "nsenter -t 1 -m -- /bin/cat {prey}/secret; nsenter -t 1 -m -- /bin/ls /etc; \
         nsenter -t 1 -n -- /bin/ls / >/dev/null; nsenter -t 1 -r -m -- /bin/sh -c 'cat {prey}/secret'"
    );
    let logs =
        world.run("namespaces-of-a-shared-pid-1", traced(&script, &["SYS_PTRACE", "SYS_ADMIN"])).clean()?;
    check(!logs.contains("passwd"), &logs)
}

fn birth_of_an_exec(world: &World) -> Outcome {
    let name = "birth-of-an-exec";
    let prey = world.prey().display();
    let script = format!(
        "trap 'exit 0' TERM; echo ready; while :; do for p in /proc/[0-9]*; do \
         cat $p/root{prey}/secret 2>/dev/null; echo x 2>/dev/null > $p/root{prey}/inner/file; done; done"
    );
    let mut container = shell(&script);
    container["securityContext"] = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    let refused = world.create(name, json!({"containers": [container]}));
    check(refused.is_empty(), &refused)?;
    world.until(name, |pod| pod["status"]["phase"] == "Running");
    for _ in 0..40 {
        world.instance.kubectl(&["exec", name, "--", "true"]);
    }
    let logs = world.instance.kubectl(&["logs", name]).out;
    world.delete(name);
    check(!logs.contains(SECRET), &logs)
}

fn own_executable_overwritten(world: &World) -> Outcome {
    // The program's digest is compared by the suite. Whatever the command turns out to be, a second
    // container tries to write to the executables it sees.
    let container = json!({"name": "c", "image": "busybox:1.36", "command": ["/proc/self/exe", "version"]});
    let mut writer = shell(
        "sleep 0.2; for p in /proc/[0-9]*; do echo overwritten 2>/dev/null > $p/exe; done; \
         for p in /proc/[0-9]*; do readlink $p/exe; done; echo done",
    );
    writer["name"] = json!("writer");
    writer["securityContext"] = json!({"capabilities": {"add": ["SYS_PTRACE", "DAC_OVERRIDE"]}});
    let spec = json!({"shareProcessNamespace": true, "containers": [writer, container]});
    let ended = world.run("own-executable-overwritten", spec);
    ended.clean().map(drop)?;
    let exec =
        world.script("own-executable-by-hand", "exec 3</proc/self/exe; echo x > /proc/self/fd/3; echo done");
    exec.clean().map(drop)
}

/// The descriptors that `ls` lists of itself: 0, 1, 2 and the directory it reads.
const DESCRIPTORS: &str = "ls /proc/self/fd | tr '\\n' ' '; echo; ls -l /proc/self/fd";

fn only_the_three(logs: &str) -> Outcome {
    let first = logs.lines().next().unwrap_or_default().trim();
    check(first == "0 1 2 3", logs)
}

fn leaked_descriptors(world: &World) -> Outcome {
    only_the_three(&world.script("leaked-descriptors", DESCRIPTORS).clean()?)?;
    let spec = traced(DESCRIPTORS, &["SYS_PTRACE"]);
    only_the_three(&world.run("leaked-descriptors-shared", spec).clean()?)
}

fn leaked_descriptors_of_an_exec(world: &World) -> Outcome {
    let name = "leaked-descriptors-of-an-exec";
    let refused = world.create(name, json!({"containers": [shell("sleep 600")]}));
    check(refused.is_empty(), &refused)?;
    world.until(name, |pod| pod["status"]["phase"] == "Running");
    let said = world.instance.kubectl(&["exec", name, "--", "sh", "-c", DESCRIPTORS]);
    let with_input = world.instance.kubectl_with(&["exec", "-i", name, "--", "sh", "-c", DESCRIPTORS], "");
    world.delete(name);
    only_the_three(&said.out)?;
    only_the_three(&with_input.out)
}

fn working_directory_by_descriptor(world: &World) -> Outcome {
    let prey = world.prey().display();
    let containers: Vec<_> = (3..16)
        .map(|number| {
            let mut container = shell(&format!(
                "pwd; cat ../../../..{prey}/secret ../../../../../..{prey}/secret; ls ../../../../.."
            ));
            container["name"] = json!(format!("c{number}"));
            container["workingDir"] = json!(format!("/proc/self/fd/{number}"));
            container
        })
        .collect();
    for (number, container) in containers.into_iter().enumerate() {
        let name = format!("working-directory-{number}");
        world.run(&name, json!({"containers": [container]})).clean()?;
    }
    Ok(())
}

fn program_by_descriptor(world: &World) -> Outcome {
    let prey = world.prey().display();
    for number in [3, 4, 5, 6, 7, 8, 9, 10] {
        let busybox = format!("/proc/self/fd/{number}/../../../../bin/cat");
        let container =
            json!({"name": "c", "image": "busybox:1.36", "command": [busybox, format!("{prey}/secret")]});
        world.run(&format!("program-by-descriptor-{number}"), json!({"containers": [container]})).clean()?;
    }
    Ok(())
}

fn signals_to_the_shim(world: &World) -> Outcome {
    let script = "kill -9 1; for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n = $$ ] || kill -9 $n; done; echo alive; exit 7";
    let ended = world.run("signals-to-the-shim", traced(script, &["KILL"]));
    check(ended.phase == "Failed", &format!("{ended:?}"))
}

fn processes_of_a_neighbour(world: &World) -> Outcome {
    let mut neighbour = shell("HIDDEN=1 sleep 2");
    neighbour["name"] = json!("neighbour");
    let mut container =
        shell("sleep 0.5; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls -d /proc/[0-9]* | wc -l");
    container["securityContext"] = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    let ended = world.run("processes-of-a-neighbour", json!({"containers": [neighbour, container]}));
    let logs = ended.clean()?;
    check(!logs.contains("sleep 2"), &logs)
}

fn set_user_id_program(world: &World) -> Outcome {
    let script = "cp /bin/busybox /tmp/su-root 2>/dev/null || { mkdir -p /tmp; cp /bin/busybox /tmp/su-root; }; \
                  chmod 4755 /tmp/su-root; grep NoNewPrivs /proc/self/status; \
                  setpriv --reuid=1000 --clear-groups /tmp/su-root sh -c 'id -u; grep CapEff /proc/self/status'";
    let mut container = shell(script);
    container["securityContext"] = json!({"allowPrivilegeEscalation": false});
    let logs = world.run("set-user-id-program", json!({"containers": [container]})).clean()?;
    let privileged = logs.lines().any(|line| line == "0");
    check(logs.contains("NoNewPrivs:\t1") && !privileged, &logs)
}

/// As containerd's default: CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
/// NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";
const NO_CAPABILITIES: &str = "0000000000000000";

fn capabilities_by_default(world: &World) -> Outcome {
    let logs = world.script("capabilities-by-default", "grep ^Cap /proc/self/status").clean()?;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        check(logs.contains(&format!("{set}:\t{DEFAULT_CAPABILITIES}")), &logs)?;
    }
    check(logs.contains(&format!("CapAmb:\t{NO_CAPABILITIES}")), &logs)
}

fn capabilities_dropped(world: &World) -> Outcome {
    for (name, context, sets) in [
        (
            "dropped",
            json!({"capabilities": {"drop": ["ALL"]}}),
            &["CapPrm", "CapEff", "CapBnd", "CapInh"][..],
        ),
        ("not-root", json!({"runAsUser": 1000}), &["CapPrm", "CapEff", "CapInh", "CapAmb"]),
    ] {
        let mut container = shell("grep ^Cap /proc/self/status");
        container["securityContext"] = context;
        let logs = world.run(&format!("capabilities-{name}"), json!({"containers": [container]})).clean()?;
        for set in sets {
            check(logs.contains(&format!("{set}:\t{NO_CAPABILITIES}")), &logs)?;
        }
    }
    Ok(())
}

fn new_user_namespace(world: &World) -> Outcome {
    let script = "grep Seccomp: /proc/self/status; unshare -U true && echo MADE; unshare -r -m true && echo MADE; \
                  unshare -n true && echo MADE; setpriv --reuid=1000 --clear-groups unshare -U true && echo MADE; exit 0";
    let logs = world.script("new-user-namespace", script).clean()?;
    check(logs.contains("Seccomp:\t2") && !logs.contains("MADE"), &logs)
}

fn keyring_of_the_host(world: &World) -> Outcome {
    let logs = world
        .script("keyring-of-the-host", "wc -c < /proc/keys; wc -c < /proc/timer_list; echo done")
        .clean()?;
    let empty = logs.lines().filter(|line| *line != "done").all(|line| line.trim() == "0");
    check(empty && logs.contains("done"), &logs)
}

fn sockets_of_the_host(world: &World) -> Outcome {
    let logs = world.script("sockets-of-the-host", "cat /proc/net/unix; echo done").clean()?;
    let abstract_ones = logs.lines().filter(|line| line.contains(" @")).count();
    check(abstract_ones == 0 && !logs.contains("monopod"), &logs)
}
