//! `kill -9` at random instants, again and again: nothing acknowledged is lost, nothing is left over.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Instance, PATIENCE, Random, number, program, test_image};
use crate::host::{Traces, instance_id, power_off, shims_of};

/// Host ports from here on are the test's.
const FIRST_PORT: u64 = 23_000;

/// What every Pod of the test refers to.
const SOURCES: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {b: "2"}
"#;

/// A Pod with something of everything that can be left half done: mounts, an init container, a host port.
fn pod(name: &str, host_port: u64) -> String {
    let trap = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":1,
"initContainers":[{{"name":"i","image":"busybox:1.36","imagePullPolicy":"Never","command":["sh","-c","cat /settings/a /keys/b; sleep 0.1"],"volumeMounts":[{{"name":"settings","mountPath":"/settings"}},{{"name":"keys","mountPath":"/keys"}}]}}],
"containers":[{{"name":"c","image":"busybox:1.36","imagePullPolicy":"Never","command":["sh","-c","{trap}"],"ports":[{{"containerPort":80,"hostPort":{host_port}}}],"volumeMounts":[{{"name":"scratch","mountPath":"/scratch"}}]}}],
"volumes":[{{"name":"scratch","emptyDir":{{"medium":"Memory"}}}},{{"name":"settings","configMap":{{"name":"settings"}}}},{{"name":"keys","secret":{{"secretName":"keys"}}}}]}}}}"#
    )
}

/// Ends at once, again and again: a restart may be in flight at any instant.
const FLAPPING: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"flapping"},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"busybox:1.36","imagePullPolicy":"Never","command":["false"]}]}}"#;

/// MONOPOD_CRASH_ROUNDS says how many rounds; ten by default, to keep the suite short.
#[test]
fn nothing_acknowledged_is_lost_whenever_the_daemon_dies() {
    let rounds = number("MONOPOD_CRASH_ROUNDS").unwrap_or(10);
    let mut random = Random::of("MONOPOD_CRASH_SEED");
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(SOURCES);
    instance.apply(&pod("steady", FIRST_PORT));
    instance.apply(FLAPPING);
    instance.wait("condition=Ready", "pod/steady");
    let identity = "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let steady = instance.field("pod/steady", identity);
    let mut flapped = 0;
    let mut acknowledged: BTreeMap<String, bool> = BTreeMap::new();
    for round in 0..rounds {
        let name = format!("p{round}");
        // Writers run against the clock of the crash; what kubectl reported as done must survive.
        let create =
            pod_in_background(&instance, &["create", "-f", "-"], &pod(&name, FIRST_PORT + 1 + round));
        let config = pod_in_background(&instance, &["create", "configmap", &name], "");
        let victim = acknowledged.iter().find(|(_, alive)| **alive).map(|(name, _)| name.clone());
        let delete = victim
            .as_ref()
            .map(|victim| pod_in_background(&instance, &["delete", "pod", victim, "--wait=false"], ""));
        let import = (random.next(4) == 0).then(|| import_in_background(&instance));
        std::thread::sleep(Duration::from_millis(random.next(500)));
        instance.crash();
        if let Some(mut import) = import {
            // One that is done before is done.
            let _ = import.kill();
            import.wait().expect("reaped");
        }
        for _ in 0..random.next(3) {
            instance.crash_starting(Duration::from_millis(random.next(300)));
        }
        let created = create.join().expect("joined");
        let configured = config.join().expect("joined");
        let deleted = delete.is_some_and(|delete| delete.join().expect("joined"));
        instance.up();
        assert!(
            !created || exists(&instance, &format!("pod/{name}")),
            "round {round}: an acknowledged Pod is lost"
        );
        assert!(
            !configured || exists(&instance, &format!("configmap/{name}")),
            "round {round}: an acknowledged ConfigMap is lost"
        );
        if exists(&instance, &format!("pod/{name}")) {
            acknowledged.insert(name, true);
        }
        match victim {
            Some(victim) if deleted => {
                instance.wait("delete", &format!("pod/{victim}"));
                acknowledged.insert(victim, false);
            }
            // Asked for and never answered: it may have happened or not, and nothing can be said of it.
            Some(victim) => drop(acknowledged.remove(&victim)),
            None => {}
        }
        assert_eq!(
            instance.field("pod/steady", identity),
            steady,
            "round {round}: a container was restarted for nothing"
        );
        let restarts = instance.field("pod/flapping", "{.status.containerStatuses[0].restartCount}");
        let restarts: u64 = restarts.parse().unwrap_or_default();
        assert!(restarts >= flapped, "round {round}: {restarts} restarts after {flapped}");
        flapped = restarts;
    }
    for name in acknowledged.iter().filter(|(_, alive)| **alive).map(|(name, _)| name) {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    instance.kubectl(&["delete", "pods", "--all"]).ok();
    nothing_of_pods_is_left(&instance, PATIENCE);
    let images = instance.monopod(&["image", "import", &test_image("busybox.tar")]).ok();
    assert!(images.contains("busybox:1.36"), "{images}");
}

/// What one round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Shims,
    DaemonAndShims,
    Everything,
}

/// MONOPOD_KILL_ROUNDS says how many rounds; each kind once by default. Each round has Pods of its own:
/// those of the last would wait ever longer for their next restart.
#[test]
fn every_pod_comes_back_whatever_is_killed() {
    let rounds = number("MONOPOD_KILL_ROUNDS").unwrap_or(4);
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut instance = Instance::start(&["busybox.tar"]);
    let id = instance_id(instance.dir.path());
    instance.apply(SOURCES);
    let kinds = [Victim::Daemon, Victim::Shims, Victim::DaemonAndShims, Victim::Everything];
    for round in 0..rounds {
        let victim = kinds[usize::try_from(if round < 4 { round } else { random.next(4) }).expect("small")];
        let pods: Vec<String> = (0..2).map(|n| format!("k{round}-{n}")).collect();
        for (n, name) in (0_u64..).zip(&pods) {
            instance.apply(&pod(name, FIRST_PORT + 1000 + n));
        }
        if random.next(3) > 0 {
            pods.iter().for_each(|name| instance.wait("condition=Ready", &format!("pod/{name}")));
        } else {
            // In the middle of their start.
            std::thread::sleep(Duration::from_millis(random.next(400)));
        }
        let before: Vec<Seen> = pods.iter().map(|name| Seen::of(&instance, name)).collect();
        if victim != Victim::Shims {
            instance.crash();
        }
        match victim {
            Victim::Daemon => {}
            Victim::Shims | Victim::DaemonAndShims => {
                for shim in shims_of(&id) {
                    // One that has ended meanwhile is as good.
                    let _ = rustix::process::kill_process(shim, rustix::process::Signal::KILL);
                }
            }
            Victim::Everything => power_off(&id, instance.dir.path()),
        }
        if victim != Victim::Shims {
            instance.up();
        }
        for (name, before) in pods.iter().zip(&before) {
            comes_back(&instance, name, before, victim, round);
        }
        instance
            .kubectl(&[&["delete", "pod"], &*pods.iter().map(|name| &**name).collect::<Vec<_>>()].concat())
            .ok();
    }
    nothing_of_pods_is_left(&instance, PATIENCE);
}

/// What identifies the instances of a Pod's containers.
#[derive(Debug)]
struct Seen {
    init: String,
    main: String,
    restarts: u64,
}

impl Seen {
    fn of(instance: &Instance, name: &str) -> Self {
        let field = |path: &str| instance.field(&format!("pod/{name}"), path);
        Seen {
            init: field("{.status.initContainerStatuses[0].containerID}"),
            main: field("{.status.containerStatuses[0].containerID}"),
            restarts: field("{.status.containerStatuses[0].restartCount}").parse().unwrap_or_default(),
        }
    }
}

/// The Pod is Ready, its container answers, and it is the one it was if nothing of it was killed. In a new
/// sandbox the init containers have run again.
fn comes_back(instance: &Instance, name: &str, before: &Seen, victim: Victim, round: u64) {
    instance.eventually(&format!("round {round}, {victim:?}: {name} as it was before {before:?}"), || {
        let ready = instance.field(&format!("pod/{name}"), "{.status.conditions[?(@.type=='Ready')].status}");
        let now = Seen::of(instance, name);
        let answers = instance.kubectl(&["exec", name, "-c", "c", "--", "true"]).code == 0;
        let ran = !before.main.is_empty();
        let right = match victim {
            Victim::Daemon => !ran || now.main == before.main && now.restarts == before.restarts,
            _ => !ran || now.main != before.main && now.init != before.init && now.restarts > before.restarts,
        };
        if ready == "True" && answers && right {
            Ok(())
        } else {
            Err(format!("Ready {ready:?}, answers {answers}, {now:?}"))
        }
    });
}

#[test]
fn a_down_that_is_killed_is_finished_by_the_next() {
    let mut instance = Instance::start(&["busybox.tar"]);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    instance.apply(SOURCES);
    (0..4).for_each(|n| instance.apply(&pod(&format!("p{n}"), FIRST_PORT + 500 + n)));
    for n in 0..4 {
        instance.wait("condition=Ready", &format!("pod/p{n}"));
    }
    let id = instance_id(instance.dir.path());
    for round in 0..6 {
        instance.kill_down_after(Duration::from_millis(random.next(120)));
        if round == 3 {
            // The Pods are still wanted: they come again, with what is left of them out of the way.
            instance.up();
            (0..4).for_each(|n| instance.wait("condition=Ready", &format!("pod/p{n}")));
        }
    }
    instance.monopod(&["down"]).ok();
    let traces = Traces::of(&id, instance.dir.path());
    assert!(traces.is_empty(), "{traces:#?}");
}

fn import_in_background(instance: &Instance) -> std::process::Child {
    Command::new(program("MONOPOD"))
        .args(["image", "import", &test_image("busybox.tar"), "--data-dir"])
        .arg(instance.dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts")
}

fn pod_in_background(instance: &Instance, words: &[&str], input: &str) -> std::thread::JoinHandle<bool> {
    let mut command = instance.kubectl_command(words);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    std::thread::spawn(move || {
        // kubectl that found no server does not read its input.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        drop(stdin);
        child.wait().expect("reaped").success()
    })
}

fn exists(instance: &Instance, what: &str) -> bool {
    instance.kubectl(&["get", what]).code == 0
}

/// With all Pods gone only the daemon itself, its bridge and its own tables may show.
pub fn nothing_of_pods_is_left(instance: &Instance, patience: Duration) {
    let id = instance_id(instance.dir.path());
    instance.eventually_within(patience, "what the Pods left", || {
        let traces = Traces::of(&id, instance.dir.path());
        let (mounts, processes, links) =
            (traces.count("mount"), traces.count("process"), traces.count("link"));
        let pods = std::fs::read_dir(instance.dir.path().join("pods")).map_or(0, Iterator::count);
        let rules =
            Command::new("nft").args(["list", "table", "ip", &format!("monopod-{id}-ports")]).output();
        let rules = String::from_utf8_lossy(&rules.expect("nft runs").stdout).into_owned();
        let left = mounts + pods + traces.matching("cgroup", "/pod") + rules.matches("dnat").count();
        let clean = left == 0 && processes <= 1 && links <= 1;
        if clean { Ok(()) } else { Err(format!("{traces:#?}\n{pods} directories\n{rules}")) }
    });
}
