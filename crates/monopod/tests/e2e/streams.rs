//! Streams through the API: following logs, a terminal, files, a forwarded port.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::harness::Instance;

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: streams}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: server, image: "testserver:1", imagePullPolicy: Never}
  - {name: teller, image: "testserver:1", imagePullPolicy: Never, command: [sh, -c, "until [ -e /tmp/go ]; do sleep 0.1; done; for i in 1 2 3; do echo line $i; sleep 0.2; done; sleep 3600"]}
"#;

/// A kubectl that runs until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(instance: &Instance, words: &[&str]) -> (Running, impl Iterator<Item = String> + use<>) {
    let mut child = instance.kubectl_command(words).stdout(Stdio::piped()).spawn().expect("kubectl starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    (Running(child), lines)
}

#[test]
fn logs_terminals_files_and_ports_go_through_the_api() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(POD);
    instance.wait("condition=Ready", "pod/streams");

    let (follower, lines) = start(&instance, &["logs", "-f", "streams", "-c", "teller"]);
    instance.kubectl(&["exec", "streams", "-c", "teller", "--", "touch", "/tmp/go"]).ok();
    assert_eq!(lines.take(3).collect::<Vec<_>>(), ["line 1", "line 2", "line 3"]);
    drop(follower);

    files_go_there_and_back(&instance);
    a_terminal_is_a_terminal(&instance);
    a_port_is_forwarded(&instance);
}

fn files_go_there_and_back(instance: &Instance) {
    let dir = instance.dir.path();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::create_dir(dir.join("sent")).expect("made");
    std::fs::write(dir.join("sent/large"), &content).expect("written");
    std::fs::write(dir.join("sent/empty"), "").expect("written");
    let copy = |from: &str, to: &str| {
        let mut command = instance.kubectl_command(&["cp", "-c", "server", from, to]);
        let out = command.current_dir(dir).output().expect("kubectl runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    copy("sent", "streams:/tmp/there");
    copy("streams:/tmp/there", "back");
    assert!(
        std::fs::read(dir.join("back/large")).expect("copied") == content,
        "the content came back changed"
    );
    assert_eq!(std::fs::read(dir.join("back/empty")).expect("copied"), b"");
}

fn a_terminal_is_a_terminal(instance: &Instance) {
    // The size follows the start of the command, here as in a cluster.
    let shell = r#"i=0; until [ "$(stty size)" = "33 99" ] || [ $i = 100 ]; do i=$((i+1)); sleep 0.1; done; stty size; tty; exit 7"#;
    let inner = format!(
        "stty rows 33 cols 99; \"$KUBECTL\" --kubeconfig kubeconfig exec -it streams -c server -- sh -c '{shell}'"
    );
    let out = Command::new("script")
        .args(["-qec", &inner, "/dev/null"])
        .current_dir(instance.dir.path())
        .env("HOME", instance.dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("script runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(7), "{text}");
    assert!(text.contains("33 99\r\n") && text.contains("/dev/pts/0\r\n"), "{text:?}");
}

fn a_port_is_forwarded(instance: &Instance) {
    let (forwarder, mut lines) = start(instance, &["port-forward", "pod/streams", ":8080"]);
    let line = lines.next().expect("port-forward says where it listens");
    let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
    let port = port.unwrap_or_else(|| panic!("{line}"));
    // It writes a line for each connection; a full pipe would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    let ask = |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        Command::new("curl")
            .args(["-s", "--max-time", "10", &url])
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl")
    };
    let asked: Vec<Child> = (0..8).map(|_| ask("/")).collect();
    for mut curl in asked {
        let mut answer = String::new();
        curl.stdout.take().expect("piped").read_to_string(&mut answer).expect("readable");
        curl.wait().expect("reaped");
        assert_eq!(answer, "hello from streams\n");
    }
    drop(forwarder);
}
