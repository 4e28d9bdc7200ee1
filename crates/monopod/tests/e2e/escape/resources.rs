//! Ways to take from a neighbour what is his: processes, memory, disk, logs, descriptors.

use serde_json::json;

use super::world::{World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            name: "memory-eaten",
            attack: "take all memory",
            class: "",
            stopped_by: "the limit of the container's cgroup; only what is in it is killed",
            run: memory_eaten,
        },
        Attack {
            name: "memory-eaten-by-files",
            attack: "take all memory through files in a Memory emptyDir without a limit of its own",
            class: "",
            stopped_by: "the volume is as large as the Pod's memory limit, and its pages count in the Pod",
            run: memory_eaten_by_files,
        },
        Attack {
            name: "shared-memory-eaten",
            attack: "fill /dev/shm",
            class: "",
            stopped_by: "64 MiB, counted in the Pod",
            run: shared_memory_eaten,
        },
        Attack {
            name: "processes-without-end",
            attack: "start processes without end beside a neighbour that must go on",
            class: "",
            stopped_by: "pids.max of the node's Pods stays below what the host needs",
            run: processes_without_end,
        },
        Attack {
            name: "log-without-end",
            attack: "write 60 MiB of log lines as fast as possible",
            class: "",
            stopped_by: "logs are rotated at 10 MiB by whoever writes them",
            run: log_without_end,
        },
        Attack {
            name: "line-without-end",
            attack: "write a line of 40 MiB without an end to the log",
            class: "",
            stopped_by: "lines are cut into parts of 16 KiB",
            run: line_without_end,
        },
        Attack {
            name: "watches-of-the-user",
            attack: "take all inotify instances of user 0, which containers share with the host",
            class: "",
            stopped_by: "neither the daemon nor a shim needs one to start a Pod",
            run: watches_of_the_user,
        },
        Attack {
            name: "probe-that-talks",
            attack: "an exec probe that prints 50 MiB each time",
            class: "",
            stopped_by: "output is cut while it is read",
            run: probe_that_talks,
        },
    ]
}

/// A Pod that must answer before and after.
fn neighbour_answers(world: &World, name: &str) -> Outcome {
    let ended = world.script(name, "echo here");
    check(ended.logs.trim() == "here", &format!("{ended:?}"))
}

fn memory_eaten(world: &World) -> Outcome {
    let mut container = shell("x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ATE ${#x}");
    container["resources"] = json!({"limits": {"memory": "32Mi"}});
    let mut neighbour = shell("sleep 1.5; echo here");
    neighbour["name"] = json!("neighbour");
    let ended = world.run("memory-eaten", json!({"containers": [container, neighbour]}));
    check(
        ended.why.contains("OOMKilled") && ended.logs.contains("here") && !ended.logs.contains("ATE"),
        &format!("{ended:?}"),
    )
}

fn memory_eaten_by_files(world: &World) -> Outcome {
    let mut container = shell(
        "df -m /v | tail -1; dd if=/dev/zero of=/v/f bs=1M count=200; echo wrote $(du -m /v/f | cut -f1)",
    );
    container["resources"] = json!({"limits": {"memory": "40Mi"}});
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec =
        json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]});
    let ended = world.run("memory-eaten-by-files", spec);
    check(!ended.logs.contains("wrote 200"), &format!("{ended:?}"))?;
    neighbour_answers(world, "memory-eaten-by-files-neighbour")
}

fn shared_memory_eaten(world: &World) -> Outcome {
    let script = "df -m /dev/shm | tail -1 | awk '{print $2}'; dd if=/dev/zero of=/dev/shm/f bs=1M count=200 2>/dev/null || echo full";
    let logs = world.script("shared-memory-eaten", script).clean()?;
    check(logs.contains("full") && logs.lines().next() == Some("64"), &logs)
}

fn processes_without_end(world: &World) -> Outcome {
    let script = "n=0; while [ $n -lt 3000 ]; do sleep 5 2>/dev/null & n=$((n+1)); done; kill -9 -1; exit 0";
    let name = "processes-without-end";
    let refused = world.create(name, json!({"containers": [shell(script)]}));
    check(refused.is_empty(), &refused)?;
    world.until(name, |pod| pod["status"]["phase"] == "Running");
    neighbour_answers(world, "processes-without-end-neighbour")?;
    world.delete(name);
    Ok(())
}

fn log_without_end(world: &World) -> Outcome {
    let ended = world.script(
        "log-without-end",
        "yes 0123456789012345678901234567890123456789 | head -c 62914560; echo; echo last",
    );
    check(ended.phase == "Succeeded", &ended.why)?;
    check(ended.logs.trim_end().ends_with("last"), &ended.logs[ended.logs.len().saturating_sub(200)..])?;
    check(ended.logs.len() < 25 << 20, &format!("{} bytes were kept", ended.logs.len()))
}

fn line_without_end(world: &World) -> Outcome {
    let ended = world.script("line-without-end", "head -c 41943040 /dev/zero | tr '\\0' y; echo; echo last");
    check(
        ended.phase == "Succeeded" && ended.logs.trim_end().ends_with("last"),
        &format!("{} {}", ended.why, ended.logs.len()),
    )
}

fn watches_of_the_user(world: &World) -> Outcome {
    // `tail -f` of busybox polls, `inotifyd` takes an instance each.
    let script = "n=0; while [ $n -lt 200 ]; do (inotifyd - /tmp 2>/dev/null || sleep 20) & n=$((n+1)); done; echo taken; sleep 20";
    let name = "watches-of-the-user";
    let refused = world.create(name, json!({"containers": [shell(&format!("mkdir -p /tmp; {script}"))]}));
    check(refused.is_empty(), &refused)?;
    world.until(name, |pod| pod["status"]["phase"] == "Running");
    let outcome = neighbour_answers(world, "watches-of-the-user-neighbour");
    world.delete(name);
    outcome
}

fn probe_that_talks(world: &World) -> Outcome {
    let name = "probe-that-talks";
    let mut container = shell("sleep 600");
    container["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "head -c 52428800 /dev/zero | tr '\\0' z"]}, "periodSeconds": 1, "timeoutSeconds": 20});
    let refused = world.create(name, json!({"containers": [container]}));
    check(refused.is_empty(), &refused)?;
    let ready = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    world.until(name, ready);
    let memory = std::fs::read_to_string(format!("/proc/{}/status", world.instance.pid())).expect("running");
    let peak =
        memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_owned();
    world.delete(name);
    let kilobytes: u64 = peak.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
    check(kilobytes < 400_000, &format!("the daemon had {peak} at its peak"))
}
