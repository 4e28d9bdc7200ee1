//! The program as a service of its host, and access for others than its administrator.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sys::netlink::Link;

use crate::harness::{Instance, PATIENCE, Said, data_directory, program};
use crate::network::in_a_host_of_its_own;

fn monopod(words: &[&str]) -> Said {
    Command::new(program("MONOPOD")).args(words).output().expect("the program runs").into()
}

#[test]
fn what_is_installed_is_uninstalled() {
    let root = tempfile::tempdir().expect("a directory");
    let bash = root.path().join("usr/share/bash-completion/completions");
    std::fs::create_dir_all(&bash).expect("made");
    let place = root.path().to_str().expect("text");
    let refused = monopod(&["install", "--root", place, "--", "--no-such-flag"]).fails();
    assert!(refused.contains("--no-such-flag"), "{refused}");
    assert!(!root.path().join("etc").exists(), "nothing is written before it is known to be right");

    let data = root.path().join("data");
    let data = data.to_str().expect("text");
    let words = ["install", "--root", place, "--data-dir", data, "--", "--node-name", "edge-1"];
    monopod(&words).ok();
    let unit = root.path().join("etc/systemd/system/monopod.service");
    let text = std::fs::read_to_string(&unit).expect("a unit");
    let line = format!("ExecStart=/usr/local/bin/monopod up --data-dir {data} --node-name edge-1");
    assert!(text.lines().any(|one| one == line), "{text}");
    let installed = root.path().join("usr/local/bin/monopod");
    let said: Said = Command::new(&installed).arg("version").output().expect("it runs").into();
    assert_eq!(said.ok(), monopod(&["version"]).ok());
    assert!(std::fs::read_to_string(bash.join("monopod")).expect("a script").contains("support-bundle"));
    assert_eq!(monopod(&words).ok().lines().count(), 1, "a second time there is nothing to write");

    monopod(&["uninstall", "--root", place]).ok();
    for gone in [&installed, &unit, &bash.join("monopod")] {
        assert!(!gone.exists(), "{}", gone.display());
    }
}

#[test]
fn somebody_else_gets_a_kubeconfig_of_his_own() {
    let instance = Instance::start(&[]);
    let words = ["kubeconfig", "--user", "ann", "--group", "readers", "--expires", "12h"];
    let text = instance.monopod(&words).ok();
    let file = instance.dir.path().join("ann");
    std::fs::write(&file, &text).expect("written");
    let ann = |words: &[&str]| -> Said {
        let mut kubectl = Command::new(program("KUBECTL"));
        kubectl.arg("--kubeconfig").arg(&file).args(words).env("HOME", instance.dir.path());
        kubectl.output().expect("kubectl runs").into()
    };
    let who =
        ann(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"]).ok();
    assert!(who.starts_with("ann ") && who.contains("readers"), "{who}");
    assert!(ann(&["get", "pods"]).fails().contains("forbidden"), "nobody has allowed it yet");
    instance.kubectl(&["create", "rolebinding", "r", "--clusterrole=view", "--group=readers"]).ok();
    ann(&["get", "pods"]).ok();
    let refused = instance.monopod(&["kubeconfig", "--user", "ann", "--expires", "soon"]).fails();
    assert!(refused.contains("90m, 12h or 30d"), "{refused}");
}

#[test]
fn the_api_is_reached_by_every_address_of_its_host_and_by_names_that_were_given() {
    in_a_host_of_its_own(|outer| {
        let flags = ["--listen", "0.0.0.0:6443", "--tls-san", "api.test"];
        let instance = Instance::start_in(data_directory(), &[], &flags);
        let reaches = |server: &str, name: Option<&str>| {
            let server = format!("https://{server}:6443");
            let mut words = vec!["--server", &*server, "get", "--raw", "/readyz"];
            words.extend(name.map(|name| ["--tls-server-name", name]).into_iter().flatten());
            let said = instance.kubectl(&words);
            if said.code == 0 { Ok(()) } else { Err(said.err) }
        };
        reaches("127.0.0.1", None).expect("as ever");
        reaches(&outer.to_string(), None).expect("the host's own address");
        reaches("127.0.0.1", Some("api.test")).expect("the name that was given");
        assert!(reaches("127.0.0.1", Some("other.test")).is_err(), "no other");
        let links = Link::open().expect("a socket");
        let eth0 = links.find("eth0").expect("there").index;
        links.add_address(eth0, [192, 0, 2, 77].into(), 24).expect("added");
        instance.eventually("the new address to be in the certificate", || reaches("192.0.2.77", None));
    });
}

/// What a service manager would hear, until a line is among it.
fn heard(socket: &UnixDatagram, wanted: &str) {
    let mut all = Vec::new();
    let mut bytes = [0; 256];
    while !all.iter().any(|line| line == wanted) {
        let got = socket.recv(&mut bytes).unwrap_or_else(|err| panic!("no {wanted} after {all:?}: {err}"));
        all.push(String::from_utf8_lossy(&bytes[..got]).into_owned());
    }
}

#[test]
fn a_service_manager_hears_that_it_is_ready_alive_and_stopping() {
    let dir = data_directory();
    let place = dir.path().join("notify");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut child = start(dir.path(), &place);
    heard(&socket, "READY=1");
    heard(&socket, "WATCHDOG=1");
    heard(&socket, "WATCHDOG=1");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    heard(&socket, "STOPPING=1");
    assert!(child.wait().expect("reaped").success());
    monopod(&["down", "--purge", "--data-dir", dir.path().to_str().expect("text")]).ok();
}

fn start(dir: &Path, notify: &Path) -> std::process::Child {
    let mut up = Command::new(program("MONOPOD"));
    up.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir);
    up.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", Duration::from_secs(3).as_micros().to_string());
    up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}
