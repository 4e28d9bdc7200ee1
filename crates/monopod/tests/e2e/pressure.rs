//! A node that runs short: who takes too much goes, the others do not notice, and the node recovers.
//!
//! The instance has a small disk of its own, so that what is scarce is scarce for nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::full_disk::SmallDisk;
use crate::harness::Instance;

/// One of each QoS class, all of them well-behaved.
const GOOD: [(&str, &str); 3] = [
    ("guaranteed", "{requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 10m, memory: 32Mi}}"),
    ("burstable", "{requests: {cpu: 10m, memory: 16Mi}}"),
    ("best-effort", "{}"),
];

fn start_good(instance: &Instance) {
    for (name, resources) in GOOD {
        instance.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             containers:\n  - {{name: c, image: \"testserver:1\", args: [serve], resources: {resources}, \
             readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1, timeoutSeconds: 10}}}}\n"
        ));
    }
    for (name, _) in GOOD {
        instance.wait("condition=Ready", &format!("pod/{name}"));
    }
}

/// Somebody who asks the well-behaved ones all the time.
struct Client {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Client {
    fn start(instance: &Instance) -> Self {
        let addresses: Vec<String> =
            GOOD.iter().map(|(name, _)| instance.field(&format!("pod/{name}"), "{.status.podIP}")).collect();
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut answered, mut failed) = (0, Vec::new());
            while !stop.load(Ordering::Acquire) {
                for address in &addresses {
                    match ask(address) {
                        Ok(()) => answered += 1,
                        Err(error) => failed.push(format!("{address}: {error}")),
                    }
                }
            }
            (answered, failed)
        });
        Client { over, thread }
    }

    /// All that was asked has been answered.
    fn end(self) {
        self.over.store(true, Ordering::Release);
        let (answered, failed) = self.thread.join().expect("the client lives");
        assert!(answered > 0 && failed.is_empty(), "{answered} answers; {failed:?}");
    }
}

fn ask(address: &str) -> Result<(), String> {
    let to = format!("{address}:8080").parse().map_err(|err| format!("{err}"))?;
    // An answer that takes so long is none.
    let patience = Duration::from_secs(30);
    let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|err| err.to_string())?;
    stream.set_read_timeout(Some(patience)).map_err(|err| err.to_string())?;
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(|err| err.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|err| err.to_string())?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
}

/// A Pod of four containers that does something, and then nothing.
fn offender(name: &str, command: &str) -> String {
    let container = |n: u32| {
        format!(
            "  - {{name: c{n}, image: \"busybox:1.36\", command: [sh, -c, '{command}; sleep 3600'], \
             volumeMounts: [{{name: v, mountPath: /v}}]}}\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, emptyDir: {{}}}}]\n  containers:\n{}",
        (0..4).map(container).collect::<String>()
    )
}

fn condition(instance: &Instance, type_: &str) -> String {
    instance.field("nodes", &format!("{{.items[0].status.conditions[?(@.type==\"{type_}\")].status}}"))
}

fn recovered(instance: &Instance, type_: &str, taint: &str) {
    instance.eventually("the node has recovered", || {
        let (condition, taints) =
            (condition(instance, type_), instance.field("nodes", "{.items[0].spec.taints[*].key}"));
        let clean = condition == "False" && !taints.contains(taint);
        if clean { Ok(()) } else { Err(format!("{type_}={condition}, taints: {taints}")) }
    });
}

/// It was evicted, in upstream's words; the status says who did it.
fn evicted(instance: &Instance, name: &str, resource: &str) {
    let what = format!("pod/{name}");
    instance.wait("jsonpath={.status.phase}=Failed", &what);
    let said = instance.field(&what, "{.status.reason}: {.status.message}");
    let words = format!("Evicted: The node was low on resource: {resource}. Threshold quantity: ");
    assert!(said.starts_with(&words), "{said}");
    let path = "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
    assert_eq!(instance.field(&what, path), "TerminationByKubelet");
}

fn undisturbed(instance: &Instance) {
    for (name, _) in GOOD {
        let path = "{.status.phase} {.status.containerStatuses[0].restartCount}";
        assert_eq!(instance.field(&format!("pod/{name}"), path), "Running 0", "{name}");
    }
}

/// The node has said so.
fn told(instance: &Instance, reason: &str) {
    let selector = format!("involvedObject.kind=Node,reason={reason}");
    instance.eventually(reason, || {
        let said = instance.kubectl(&["get", "events", "-A", "--field-selector", &selector, "-o", "name"]);
        if said.code == 0 && !said.out.is_empty() { Ok(()) } else { Err(said.err) }
    });
}

/// What they are called, what they do four times, and what is scarce then.
const FILLERS: [(&str, &str, &str); 4] = [
    ("bytes", "dd if=/dev/zero of=$(mktemp -p /v) bs=1M count=45", "ephemeral-storage"),
    ("layer", "dd if=/dev/zero of=/f bs=1M count=45", "ephemeral-storage"),
    ("logs", "head -c 34000000 /dev/urandom | base64 -w 4000", "ephemeral-storage"),
    ("files", "d=$(mktemp -d -p /v); i=0; while [ $i -lt 3500 ]; do : > $d/$i; i=$((i+1)); done", "inodes"),
];

#[test]
fn who_fills_the_disk_with_bytes_files_or_logs_goes_and_the_node_recovers() {
    let (disk, dir) = SmallDisk::new("320m,nr_inodes=24000");
    let listen = ["--listen", "127.0.0.1:0", "--eviction-pressure-transition-period", "3s"];
    let thresholds = ["--eviction-hard", "nodefs.available<50%,nodefs.inodesFree<50%"];
    let flags = [listen.as_slice(), &thresholds].concat();
    let instance = Instance::start_in(dir, &["testserver.tar", "busybox.tar"], &flags);
    start_good(&instance);
    let client = Client::start(&instance);
    for (name, command, resource) in FILLERS {
        instance.apply(&offender(name, command));
        evicted(&instance, name, resource);
        recovered(&instance, "DiskPressure", "node.kubernetes.io/disk-pressure");
        undisturbed(&instance);
    }
    client.end();
    for reason in ["EvictionThresholdMet", "NodeHasDiskPressure", "NodeHasNoDiskPressure"] {
        told(&instance, reason);
    }
    // It takes Pods again.
    instance.apply(&offender("late", "true"));
    instance.wait("condition=Ready", "pod/late");
    drop(instance);
    drop(disk);
}

/// Kibibytes of the machine.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("readable");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("a line");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

fn reserved_is_not_allocatable(instance: &Instance) {
    assert_eq!(instance.field("nodes", "{.items[0].status.allocatable.memory}"), "500Mi");
    let cpu = |of: &str| instance.field("nodes", &format!("{{.items[0].status.{of}.cpu}}"));
    let processors: u32 = cpu("capacity").parse().expect("a number");
    assert_eq!(cpu("allocatable"), format!("{}m", processors * 1000 - 500));
}

/// Forks until the kernel says no.
fn fork_without_end(instance: &Instance) {
    let bomb = offender("bomb", "while :; do sleep 3600 & done");
    instance.apply(&bomb.replace("spec:", "spec:\n  restartPolicy: Never"));
    instance.eventually("the kernel says no", || {
        let said = instance.kubectl(&["logs", "bomb", "--all-containers"]);
        if said.out.contains("can't fork") { Ok(()) } else { Err(said.out + &said.err) }
    });
    instance.kubectl(&["delete", "pod", "bomb"]).ok();
}

#[test]
fn who_takes_the_memory_goes_and_who_forks_without_end_is_stopped_alone() {
    // What is left to Pods is little, and what others on this machine use does not count.
    let reserved = format!("cpu=500m,memory={}Ki", memory() - 600 * 1024);
    let limits = ["--system-reserved", &reserved, "--pod-max-pids", "64"];
    let flags = [limits.as_slice(), &["--eviction-pressure-transition-period", "3s"]].concat();
    let instance = Instance::start_with(&["testserver.tar", "busybox.tar"], &flags);
    reserved_is_not_allocatable(&instance);
    start_good(&instance);
    let client = Client::start(&instance);
    fork_without_end(&instance);
    undisturbed(&instance);
    // Read to the end of what never ends, all of it is kept.
    let hog = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: hog}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{name: c, image: \"busybox:1.36\", command: [sh, -c, \"(head -c {0} /dev/zero; sleep 3600) | tail -c {0}\"]}}\n",
        520 << 20
    );
    instance.apply(&hog);
    evicted(&instance, "hog", "memory");
    recovered(&instance, "MemoryPressure", "node.kubernetes.io/memory-pressure");
    undisturbed(&instance);
    client.end();
}
