//! The daemon dies at each step of a Pod's life, and the next one goes on.
//!
//! The daemon is this very program, started again: it leads a Pod from its beginning to its end and is killed
//! on the way. The one that comes after must find what is there, finish or remove it, and lose nothing.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use runtime::failpoint::{Place, die_at};
use runtime::{ContainerState, Event, PortMapping, Runtime, SandboxConfig, SandboxStatus};

use super::setting::{Node, Setting};
use super::tests::{kill_parent, ports_table};

/// The first argument of a daemon that is to die; the number of the place and the setting follow.
pub(crate) const DIE: &str = "die";

const SCRIPT: &str = "echo up; exec sleep 1000";

fn config(node: &Node, place: Place, port: u16) -> SandboxConfig {
    let mapping =
        PortMapping { protocol: "TCP".into(), container_port: 80, host_port: port, host_ip: String::new() };
    SandboxConfig { port_mappings: vec![mapping], ..node.sandbox(&uid(place)) }
}

/// The daemon that dies: returns only when it has come past the place without it.
pub(crate) fn live_until(arguments: &[String]) {
    let [number, port, setting @ ..] = arguments else { panic!("{arguments:?}") };
    let place = Place::ALL[number.parse::<usize>().expect("a number")];
    let setting = Setting::read(setting);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("tokio").block_on(async {
        let node = setting.node_with_image().await;
        die_at(place);
        let sandbox = node.run(config(&node, place, port.parse().expect("a port"))).await;
        let first = node.start(&sandbox, "first", SCRIPT).await;
        node.native.remove_container(&first).await.expect("a container is removed");
        node.start(&sandbox, "second", SCRIPT).await;
        node.native.stop_sandbox(&sandbox.id).await.expect("the sandbox stops");
        node.native.remove_sandbox(&sandbox.id).await.expect("the sandbox is removed");
    });
}

pub(crate) async fn a_daemon_that_dies_at_any_step_is_followed_by_one_that_goes_on(setting: Setting) {
    drop(setting.node().await);
    // Held, so that nobody else takes it between two of the daemons.
    let port = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = port.local_addr().unwrap().port();
    for (number, place) in Place::ALL.into_iter().enumerate() {
        let program = std::env::current_exe().unwrap();
        let numbers = [number.to_string(), port.to_string()];
        let ended = Command::new(program).arg(DIE).args(numbers).args(setting.words()).status().unwrap();
        assert_eq!(ended.signal(), Some(9), "{place:?} was not come to");

        let node = setting.node_with_image().await;
        goes_on(&node, place, port).await;
        removes_all(&setting, &node, place, port).await;
        drop(node);
    }
}

/// As the node does for a Pod that is still wanted: what is there is found, and what is not is made.
async fn goes_on(node: &Node, place: Place, port: u16) {
    let sandbox = node.run(config(node, place, port)).await;
    assert!(sandbox.ready, "{place:?}");
    let all = node.native.snapshot(Some(&uid(place))).await.unwrap();
    assert_eq!(all.iter().filter(|one| one.sandbox.ready).count(), 1, "{place:?}: one sandbox");
    let id = node.start(&sandbox, "second", SCRIPT).await;
    assert_eq!(node.status(&id).await.state, ContainerState::Running, "{place:?}");
    let output = node.exec(&id, "df /dev/shm >/dev/null && ip addr show eth0").await.unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(&format!("inet {}", sandbox.ips[0])), "{place:?}: {shown}");
    let rules = rules(port);
    assert!(rules.contains(&format!("dnat to {}:80", sandbox.ips[0])), "{place:?}: {rules}");
}

/// The Pod is wanted no more: nothing of it stays, whichever daemon made it.
async fn removes_all(setting: &Setting, node: &Node, place: Place, port: u16) {
    for sandbox in node.native.sandboxes().await.unwrap() {
        node.native.stop_sandbox(&sandbox.id).await.unwrap();
        node.native.remove_sandbox(&sandbox.id).await.unwrap();
    }
    assert!(node.native.images().leases().unwrap().is_empty(), "{place:?}: an image is held");
    assert!(!setting.data.join("pods").join(uid(place)).exists(), "{place:?}: files");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: Vec<&str> =
        mounts.lines().filter(|line| line.contains(&format!("{}/pods", setting.data.display()))).collect();
    assert!(mounts.is_empty(), "{place:?}: {mounts:?}");
    let hierarchy = sys::cgroup::Hierarchy::detect().unwrap();
    let group = format!("monopod-{}/kubepods/burstable/pod{}", setting.instance, uid(place));
    assert!(!hierarchy.group(&group).exists(), "{place:?}: {group}");
    assert_eq!(rules(port), "", "{place:?}");
}

fn uid(place: Place) -> String {
    format!("{place:?}").to_lowercase()
}

/// What of the tables speaks of a port of the node.
fn rules(port: u16) -> String {
    let all = sys::command::run("nft", &["list", "ruleset"], b"").expect("nft").stdout;
    let all = String::from_utf8_lossy(&all).into_owned();
    all.lines().filter(|line| line.contains(&format!("dport {port} "))).collect::<Vec<_>>().join("\n")
}

/// As after a reboot: files say that a Pod ran, and nothing of it does.
pub(crate) async fn what_died_with_the_daemon_is_known_and_removed(setting: Setting) {
    let first = setting.node().await;
    let sandbox = first.run(first.sandbox("dead")).await;
    let id = first.start(&sandbox, "c", "exec sleep 1000").await;
    let empty = first.run(first.sandbox("empty")).await;
    drop(first);
    kill_shims(&setting);
    let second = setting.node().await;
    let known = second.native.sandboxes().await.unwrap();
    assert_eq!(known.len(), 1, "the empty one is of no interest: {}", empty.id);
    assert_eq!((&known[0].id, known[0].ready), (&sandbox.id, false));
    assert_eq!(second.status(&id).await.state, ContainerState::Unknown);
    assert!(second.native.images().remove("busybox:1").is_err(), "a known container uses it");
    second.native.remove_sandbox(&sandbox.id).await.unwrap();
    assert!(second.native.images().leases().unwrap().is_empty());
}

/// Kills every process in the cgroup of the instance's shims.
fn kill_shims(setting: &Setting) {
    let hierarchy = sys::cgroup::Hierarchy::detect().unwrap();
    let group = hierarchy.group(&format!("monopod-{}/shims", setting.instance));
    let pids = group.pids().unwrap();
    assert_eq!(pids.len(), 2);
    for pid in pids {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // Its socket must be closed before the next daemon asks for it.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

/// The Pod got a second sandbox after its first one's shim was killed, and the daemon is started again.
pub(crate) async fn what_a_dead_sandbox_left_is_removed_around_the_one_that_followed(setting: Setting) {
    let mut node = setting.node().await;
    let mut config = node.sandbox("twice");
    config.port_mappings = vec![PortMapping {
        protocol: "TCP".into(),
        container_port: 80,
        host_port: 18_473,
        host_ip: String::new(),
    }];
    let first = node.run(config.clone()).await;
    let lost = node.start(&first, "c", "exec sleep 1000").await;
    kill_parent(node.status(&lost).await.pid.unwrap());
    while !matches!(node.events.recv().await, Some(Event::SandboxDied { .. })) {}
    config.pod.attempt = 1;
    let second = node.run(config).await;
    let id = node.start(&second, "c", "exec sleep 1000").await;
    let rules = sys::command::run("nft", &["list", "table", "ip", &ports_table(&setting)], b"").unwrap();
    let rules = String::from_utf8(rules.stdout).unwrap();
    let leads = |to: &SandboxStatus| rules.contains(&format!("dnat to {}:80", to.ips[0]));
    assert!(leads(&second) && !leads(&first), "the port leads to the dead sandbox: {rules}");
    let before = node.status(&id).await;
    drop(node);
    let node = setting.node().await;
    let after = node.status(&id).await;
    assert_eq!((after.state, after.pid), (ContainerState::Running, before.pid));
    node.native.remove_sandbox(&first.id).await.unwrap();
    assert_eq!(node.status(&id).await.state, ContainerState::Running);
    assert!(node.exec(&id, "true").await.is_ok());
}

pub(crate) async fn a_sandbox_whose_file_is_damaged_is_removed_and_made_anew(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("damaged")).await;
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let pid = node.status(&id).await.pid.unwrap();
    drop(node);
    let record = setting.data.join("pods/damaged/sandbox-0/config.json");
    std::fs::write(&record, b"{\"id\":\"").unwrap();
    let node = setting.node().await;
    assert!(node.native.sandboxes().await.unwrap().is_empty());
    assert!(node.native.images().leases().unwrap().is_empty());
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the container outlives its sandbox: {state}");
    let again = node.run(node.sandbox("damaged")).await;
    assert!(again.ready && again.id != sandbox.id);
}
