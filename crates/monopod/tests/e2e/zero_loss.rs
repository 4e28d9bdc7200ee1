//! Updates that lose nothing: requests go on from outside while the Pods behind a Service are replaced.
//!
//! The manifest has no preStop hook, and the application ends as soon as its open requests are done. What a
//! client may expect of any server is granted: who finds a kept connection closed before a single byte of an
//! answer has come asks once more over a new one, as every HTTP client does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::Instance;
use crate::ingress::Doors;

/// The probe has patience: Pods that a busy machine keeps from answering within a second are not ready by rights,
/// and if that is all of them, connections are refused.
const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: "testserver:1"
        args: [serve, --drain, "1"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 6}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
"#;

/// A request that has no answer by then has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Clients of each kind.
const CLIENTS: u32 = 8;

/// A number from the environment, for machines that can do more.
fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    answered: BTreeMap<String, usize>,
    failed: Vec<String>,
}

/// Clients that ask at a steady rate, whatever the answers are.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
    start: Instant,
}

/// How a client asks.
#[derive(Clone, Copy)]
enum Connections {
    New,
    Kept,
}

impl Load {
    fn new() -> Self {
        Load { stop: Arc::default(), clients: Vec::new(), start: Instant::now() }
    }

    /// Adds clients that ask there `rate` times a second together.
    fn add(&mut self, to: SocketAddr, how: Connections, rate: u32) {
        for number in 0..CLIENTS {
            let (stop, start) = (self.stop.clone(), self.start);
            let client = Client { to, how, kept: None };
            let pace = Duration::from_secs(1) * CLIENTS / rate;
            let first = Instant::now() + pace * number / CLIENTS;
            self.clients.push(std::thread::spawn(move || client.ask_on(first, pace, start, &stop)));
        }
    }

    /// Stops asking and tells what came of it all.
    fn end(self) -> Tally {
        self.stop.store(true, Ordering::Release);
        let mut whole = Tally::default();
        for client in self.clients {
            let tally = client.join().expect("a client ends");
            whole.failed.extend(tally.failed);
            for (answer, count) in tally.answered {
                *whole.answered.entry(answer).or_default() += count;
            }
        }
        whole
    }
}

struct Client {
    to: SocketAddr,
    how: Connections,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    fn ask_on(mut self, first: Instant, pace: Duration, start: Instant, stop: &AtomicBool) -> Tally {
        let (mut tally, mut next) = (Tally::default(), first);
        while !stop.load(Ordering::Acquire) {
            // The rate is the test's input.
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pace;
            match self.ask() {
                Ok(answer) => *tally.answered.entry(answer).or_default() += 1,
                Err(error) => tally.failed.push(format!("{:?} to {}: {error}", start.elapsed(), self.to)),
            }
        }
        tally
    }

    fn ask(&mut self) -> std::io::Result<String> {
        let Connections::Kept = self.how else {
            return exchange(&mut self.connect()?).map(|answer| answer.body);
        };
        if let Some(mut kept) = self.kept.take() {
            match exchange(&mut kept) {
                Ok(answer) => return Ok(self.keep(kept, answer)),
                // The server has closed what was idle.
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            }
        }
        let mut fresh = self.connect()?;
        let answer = exchange(&mut fresh)?;
        Ok(self.keep(fresh, answer))
    }

    fn keep(&mut self, connection: BufReader<TcpStream>, answer: Answer) -> String {
        self.kept = answer.keeps.then_some(connection);
        answer.body
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let connection = TcpStream::connect_timeout(&self.to, ANSWER_WITHIN)?;
        connection.set_read_timeout(Some(ANSWER_WITHIN))?;
        connection.set_nodelay(true)?;
        Ok(BufReader::new(connection))
    }
}

struct Answer {
    body: String,
    keeps: bool,
}

/// One request and its answer; `NotConnected` when the connection ended before a byte of the answer.
fn exchange(connection: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let closed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => {
            std::io::Error::new(std::io::ErrorKind::NotConnected, error)
        }
        _ => error,
    };
    connection.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").map_err(closed)?;
    if connection.fill_buf().map_err(closed)?.is_empty() {
        return Err(std::io::ErrorKind::NotConnected.into());
    }
    let (mut length, mut keeps, mut status) = (0, true, String::new());
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap_or(0),
            Some(("connection", value)) => keeps = value != "close",
            Some(_) => {}
            None if line.is_empty() => break,
            None => status = line,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    if !status.contains(" 200 ") {
        return Err(std::io::Error::other(status));
    }
    Ok(Answer { body: String::from_utf8_lossy(&body).trim().to_owned(), keeps })
}

/// A Deployment under load.
struct Rollouts {
    instance: Instance,
    load: Load,
    generation: u32,
}

impl Rollouts {
    /// By the cluster IP and the node port, which the kernel leads.
    fn begin() -> Self {
        let mut rollouts = Self::deployed(Instance::start(&["testserver.tar"]));
        let (cluster, node) = rollouts.addresses();
        rollouts.instance.eventually("the Service answers", || {
            let mut client = Client { to: cluster, how: Connections::New, kept: None };
            client.ask().map_err(|error| error.to_string())
        });
        let rate = setting("MONOPOD_TEST_REQUESTS_PER_SECOND", 300);
        rollouts.load.add(cluster, Connections::New, rate / 2);
        rollouts.load.add(node, Connections::New, rate / 4);
        rollouts.load.add(cluster, Connections::Kept, rate / 8);
        rollouts.load.add(node, Connections::Kept, rate / 8);
        rollouts
    }

    /// By an Ingress, which asks the Pods itself.
    fn begin_behind_an_ingress() -> Self {
        let doors = Doors::start(&["testserver.tar"]);
        let ingress = SocketAddr::from(([127, 0, 0, 1], doors.http));
        let mut rollouts = Self::deployed(doors.instance);
        rollouts.instance.apply(INGRESS);
        rollouts.instance.eventually("the Ingress answers", || {
            let mut client = Client { to: ingress, how: Connections::New, kept: None };
            client.ask().map_err(|error| error.to_string())
        });
        let rate = setting("MONOPOD_TEST_REQUESTS_PER_SECOND", 200);
        rollouts.load.add(ingress, Connections::New, rate / 2);
        rollouts.load.add(ingress, Connections::Kept, rate / 2);
        rollouts
    }

    fn deployed(instance: Instance) -> Self {
        instance.apply(MANIFEST);
        let rollouts = Rollouts { instance, load: Load::new(), generation: 0 };
        rollouts.wait();
        rollouts
    }

    /// That of the Service, and the node's with its node port.
    fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let parse = |address: &str, port: &str| format!("{address}:{port}").parse().expect("an address");
        let cluster = self.instance.field("service/web", "{.spec.clusterIP}");
        let node = self.instance.field("pods", "{.items[0].status.hostIP}");
        let node_port = self.instance.field("service/web", "{.spec.ports[0].nodePort}");
        (parse(&cluster, "80"), parse(&node, &node_port))
    }

    fn start_one(&mut self) {
        self.generation += 1;
        let value = format!("GENERATION={}", self.generation);
        self.instance.kubectl(&["set", "env", "deployment/web", &value]).ok();
    }

    fn wait(&self) {
        let said = self.instance.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
        assert_eq!(said.code, 0, "{}{}\n{}", said.out, said.err, self.instance.log_tail());
    }

    /// Nothing was lost, and Pods really came and went.
    fn end(self, pods_at_least: usize) {
        let tally = self.load.end();
        let answered: usize = tally.answered.values().sum();
        println!(
            "{answered} requests answered by {} Pods, {} failed",
            tally.answered.len(),
            tally.failed.len()
        );
        assert!(
            tally.failed.is_empty(),
            "{} of {answered} failed: {:#?}\n{}",
            tally.failed.len(),
            tally.failed,
            self.instance.log_tail()
        );
        assert!(tally.answered.len() >= pods_at_least, "only {:?} answered", tally.answered);
    }
}

#[test]
fn rolling_updates_lose_no_request() {
    let mut rollouts = Rollouts::begin();
    let count = setting("MONOPOD_TEST_ROLLOUTS", 3);
    for _ in 0..count {
        rollouts.start_one();
        rollouts.wait();
    }
    // One that is replaced as soon as it is ready may have answered nobody.
    rollouts.end(4 + 2 * count as usize);
}

#[test]
fn rolling_updates_behind_an_ingress_lose_no_request() {
    let mut rollouts = Rollouts::begin_behind_an_ingress();
    let count = setting("MONOPOD_TEST_ROLLOUTS", 3);
    for _ in 0..count {
        rollouts.start_one();
        rollouts.wait();
    }
    rollouts.end(4 + 2 * count as usize);
}

#[test]
fn the_end_of_the_daemon_in_the_middle_of_an_update_loses_no_request() {
    let mut rollouts = Rollouts::begin();
    for _ in 0..setting("MONOPOD_TEST_ROLLOUTS", 2) {
        rollouts.start_one();
        rollouts.instance.crash();
        rollouts.instance.up();
        rollouts.wait();
    }
    rollouts.end(8);
}

#[test]
fn scaling_down_and_up_loses_no_request() {
    let rollouts = Rollouts::begin();
    for replicas in [1, 5, 2, 4] {
        let words = ["scale", "deployment/web", &format!("--replicas={replicas}")];
        rollouts.instance.kubectl(&words).ok();
        let path = "jsonpath={.items[*].metadata.name}";
        rollouts.instance.eventually("the Pods are as many as asked for", || {
            let pods = rollouts.instance.kubectl(&["get", "pods", "-o", path]).ok();
            match pods.split_whitespace().count() {
                count if count == replicas => Ok(()),
                count => Err(format!("{count} Pods instead of {replicas}")),
            }
        });
        rollouts.wait();
    }
    rollouts.end(6);
}
