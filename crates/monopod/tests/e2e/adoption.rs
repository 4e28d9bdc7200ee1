//! The daemon dies; nobody inside a Pod notices.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::Instance;

const SERVED: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: served}
spec:
  containers:
  - name: main
    image: testserver:1
    imagePullPolicy: Never
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
  - name: ticker
    image: testserver:1
    imagePullPolicy: Never
    command: [sh, -c, "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done"]
"#;

/// One request over a kept connection, and its body.
fn ask(connection: &mut TcpStream, path: &str) -> String {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n").expect("the connection takes a request");
    let mut answer = BufReader::new(connection);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line).expect("the connection answers");
        assert!(!line.is_empty(), "the connection was closed");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body).expect("the whole body");
    String::from_utf8_lossy(&body).into_owned()
}

#[test]
fn containers_outlive_a_killed_daemon() {
    let mut instance = Instance::start(&["testserver.tar"]);
    instance.apply(SERVED);
    instance.wait("condition=Ready", "pod/served");
    let identity = "{.status.podIP} {.status.startTime} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}";
    let before = instance.field("pod/served", identity);
    let address = instance.field("pod/served", "{.status.podIP}");
    let mut connection = TcpStream::connect((address.as_str(), 8080)).expect("the Pod is reachable");
    connection.set_read_timeout(Some(Duration::from_secs(5))).expect("settable");
    assert_eq!(ask(&mut connection, "/"), "hello from served\n");

    instance.crash();
    assert_eq!(ask(&mut connection, "/"), "hello from served\n", "the Pod answers while the daemon is dead");
    instance.up();

    assert_eq!(ask(&mut connection, "/"), "hello from served\n", "the same connection still answers");
    instance.wait("condition=Ready", "pod/served");
    assert_eq!(instance.field("pod/served", identity), before);
    let log = instance.kubectl(&["logs", "served", "-c", "ticker"]).ok();
    for (at, line) in log.lines().enumerate() {
        assert_eq!(line, format!("tick {at}"), "a line is missing or doubled");
    }
    assert_eq!(
        instance.kubectl(&["exec", "served", "-c", "ticker", "--", "echo", "still here"]).ok(),
        "still here\n"
    );
}

#[test]
fn what_happened_while_the_daemon_was_dead_is_noticed() {
    let mut instance = Instance::start(&["testserver.tar"]);
    instance.apply(SERVED);
    instance.wait("condition=Ready", "pod/served");
    let address = instance.field("pod/served", "{.status.podIP}");
    instance.crash();
    let mut connection = TcpStream::connect((address.as_str(), 8080)).expect("the Pod is reachable");
    write!(connection, "GET /exit?code=3 HTTP/1.1\r\n\r\n").expect("sent");
    let mut rest = String::new();
    // The server ends in the middle of the conversation.
    let _ = connection.read_to_string(&mut rest);
    instance.up();
    instance.wait("jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/served");
    let last = "{.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[1].restartCount}";
    assert_eq!(instance.field("pod/served", last), "3 0", "only the container that ended was restarted");
}

#[test]
fn term_leaves_the_pods_running() {
    let mut instance = Instance::start(&["testserver.tar"]);
    instance.apply(SERVED);
    instance.wait("condition=Ready", "pod/served");
    let address = instance.field("pod/served", "{.status.podIP}");
    assert_eq!(instance.stop(), 0);
    let mut connection = TcpStream::connect((address.as_str(), 8080)).expect("the Pod is reachable");
    assert_eq!(ask(&mut connection, "/"), "hello from served\n");
    instance.up();
    instance.wait("condition=Ready", "pod/served");
}
