//! `kill -9` at random instants, again and again: nothing acknowledged is lost, nothing is left over.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::Instance;
use crate::host::{Traces, instance_id};

/// A generator good enough to choose instants; its seed is printed, so a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn pod(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":1,"containers":[{{"name":"c","image":"busybox:1.36","imagePullPolicy":"Never","command":["sh","-c","trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]}}]}}}}"#
    )
}

/// MONOPOD_CRASH_ROUNDS says how many rounds; ten by default, to keep the suite short.
#[test]
fn nothing_acknowledged_is_lost_whenever_the_daemon_dies() {
    let rounds: u64 = std::env::var("MONOPOD_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let seed = std::env::var("MONOPOD_CRASH_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0x9e37_79b9_7f4a_7c15);
    println!("MONOPOD_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(&pod("steady"));
    instance.wait("condition=Ready", "pod/steady");
    let identity = "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let steady = instance.field("pod/steady", identity);
    let mut acknowledged: BTreeMap<String, bool> = BTreeMap::new();
    for round in 0..rounds {
        let name = format!("p{round}");
        // Writers run against the clock of the crash; what kubectl reported as done must survive.
        let create = pod_in_background(&instance, &["create", "-f", "-"], &pod(&name));
        let config = pod_in_background(&instance, &["create", "configmap", &name], "");
        let victim = acknowledged.iter().find(|(_, alive)| **alive).map(|(name, _)| name.clone());
        let delete = victim
            .as_ref()
            .map(|victim| pod_in_background(&instance, &["delete", "pod", victim, "--wait=false"], ""));
        std::thread::sleep(Duration::from_millis(random.next(250)));
        instance.crash();
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
        if let Some(victim) = victim.filter(|_| deleted) {
            instance.wait("delete", &format!("pod/{victim}"));
            acknowledged.insert(victim, false);
        }
        assert_eq!(
            instance.field("pod/steady", identity),
            steady,
            "round {round}: a container was restarted for nothing"
        );
    }
    for name in acknowledged.iter().filter(|(_, alive)| **alive).map(|(name, _)| name) {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
    instance.kubectl(&["delete", "pods", "--all"]).ok();
    nothing_of_pods_is_left(&instance);
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
fn nothing_of_pods_is_left(instance: &Instance) {
    let id = instance_id(instance.dir.path());
    instance.eventually("what the Pods left", || {
        let traces = Traces::of(&id, instance.dir.path());
        let (mounts, processes, links) =
            (traces.count("mount"), traces.count("process"), traces.count("link"));
        if mounts == 0 && processes <= 1 && links <= 1 { Ok(()) } else { Err(format!("{traces:#?}")) }
    });
}
