//! The Node object and its Lease: what the cluster knows of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity as Amount;
use client::events::EventType;
use client::{Patch, PatchKind};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Config;
use crate::eviction::observe;
use crate::eviction::threshold::{Pressure, Signal};
use crate::shared::Shared;

/// How often the node looks at itself.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A status without news is written so often.
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// How often the Lease is renewed, and how long it holds.
const RENEW_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Pause after the API did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// Images named in the status, and names of each.
const IMAGES_MAX: usize = 50;
const IMAGE_NAMES_MAX: usize = 5;

/// The Node as this machine and its configuration make it.
pub(crate) fn build(config: &Config, pressures: &BTreeSet<Pressure>, now: Timestamp) -> core::Node {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut labels: BTreeMap<String, String> = [
        // The first two are deprecated, and old manifests still select by them.
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", &config.hostname),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .collect();
    labels.extend(config.labels.iter().cloned());
    let taints = config.taints.iter().map(|(key, value, effect)| core::Taint {
        key: key.clone(),
        value: Some(value.clone()).filter(|value| !value.is_empty()),
        effect: effect.clone(),
        time_added: None,
    });
    let taints: Vec<_> = taints.collect();
    core::Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(core::NodeSpec {
            // A node of its own brings its range; one that joins has none here, and is given one.
            pod_cidr: config.pod_cidr.clone(),
            pod_cidrs: config.pod_cidr.clone().map(|cidr| vec![cidr]),
            taints: (!taints.is_empty()).then_some(taints),
            ..core::NodeSpec::default()
        }),
        status: Some(status(config, arch, pressures, now)),
    }
}

fn status(config: &Config, arch: &str, pressures: &BTreeSet<Pressure>, now: Timestamp) -> core::NodeStatus {
    let mut addresses: Vec<core::NodeAddress> = Vec::new();
    let address = |type_: &str, address: String| core::NodeAddress { type_: type_.into(), address };
    addresses.extend(config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string())));
    addresses.push(address("Hostname", config.hostname.clone()));
    let capacity = capacity(config);
    core::NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable(config, &capacity)),
        capacity: Some(capacity),
        conditions: Some(conditions(pressures, &[], &[], now)),
        daemon_endpoints: Some(core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: i32::from(config.kubelet_port) }),
        }),
        node_info: Some(node_info(config, arch)),
        ..core::NodeStatus::default()
    }
}

fn capacity(config: &Config) -> BTreeMap<String, Quantity> {
    // Of what this process may use, as in a container or under taskset, not of what the machine has.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut list = BTreeMap::from([
        ("cpu".to_string(), Quantity(cpus.to_string())),
        ("memory".to_string(), Quantity(format!("{}Ki", meminfo("MemTotal:") / 1024))),
        ("pods".to_string(), Quantity(config.max_pods.to_string())),
        ("ephemeral-storage".to_string(), Quantity(format!("{}Ki", disk_size(config) / 1024))),
    ]);
    for (directory, name) in [("hugepages-2048kB", "hugepages-2Mi"), ("hugepages-1048576kB", "hugepages-1Gi")]
    {
        let path = Path::new("/sys/kernel/mm/hugepages").join(directory).join("nr_hugepages");
        // A size that the kernel does not have is no resource; one with no pages is a resource of zero.
        let Ok(pages) = fs::read_to_string(path) else { continue };
        let pages: u64 = pages.trim().parse().unwrap_or_default();
        let kibibytes = if name == "hugepages-2Mi" { 2048 } else { 1_048_576 };
        let amount = if pages == 0 { "0".into() } else { format!("{}Ki", pages * kibibytes) };
        list.insert(name.into(), Quantity(amount));
    }
    list
}

/// Capacity without what is reserved, and without what the hard eviction thresholds keep free.
fn allocatable(config: &Config, capacity: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let kept = |name: &str, bytes: u64| match name {
        "memory" => config.eviction.kept_free(Signal::MemoryAvailable, bytes).div_ceil(1024) * 1024,
        "ephemeral-storage" => config.eviction.kept_free(Signal::NodeFsAvailable, bytes),
        _ => 0,
    };
    let left = |(name, all): (&String, &Quantity)| {
        let reserved = config.reserved.get(name);
        let amount = all.0.parse::<Amount>().map_or(0, |amount| amount.milli_value());
        let gone = reserved.map_or(0, |reserved| reserved.milli_value());
        let kept = kept(name, u64::try_from(amount / 1000).unwrap_or(0));
        let kept = i64::try_from(kept).unwrap_or(i64::MAX).saturating_mul(1000);
        let left = amount.saturating_sub(gone).saturating_sub(kept).max(0);
        (name.clone(), Quantity(if left == amount { all.0.clone() } else { written(name, left) }))
    };
    capacity.iter().map(left).collect()
}

/// So many thousandths, as upstream writes them of this resource.
fn written(name: &str, thousandths: i64) -> String {
    match name {
        "memory" => format!("{}Ki", thousandths / 1000 / 1024),
        _ if thousandths % 1000 == 0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

/// A line of /proc/meminfo in bytes.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes * 1024)
}

/// Size of the file system of the Pods' directories.
fn disk_size(config: &Config) -> u64 {
    observe::file_system(&config.pods_directory).map_or(0, |found| found.bytes.capacity)
}

fn node_info(config: &Config, arch: &str) -> core::NodeSystemInfo {
    let first_line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("\"Linux\"");
    core::NodeSystemInfo {
        architecture: arch.into(),
        // What cannot be read stays empty: a container or a virtual machine may have no such identity.
        boot_id: first_line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: config.runtime_version.clone(),
        kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
        kubelet_version: config.kubelet_version.clone(),
        // Deprecated, and upstream leaves it empty since 1.33.
        kube_proxy_version: String::new(),
        machine_id: first_line("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: pretty.trim_matches('"').into(),
        system_uuid: first_line("/sys/class/dmi/id/product_uuid"),
        swap: None,
    }
}

fn conditions(
    pressures: &BTreeSet<Pressure>,
    old: &[core::NodeCondition],
    not_ready: &[String],
    now: Timestamp,
) -> Vec<core::NodeCondition> {
    // As the kubelet joins its errors: one alone, several in brackets.
    let why = match not_ready {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let table = [
        (
            Pressure::Memory.condition(),
            pressures.contains(&Pressure::Memory),
            [
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ],
        ),
        (
            Pressure::Disk.condition(),
            pressures.contains(&Pressure::Disk),
            [
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ],
        ),
        (
            Pressure::Pid.condition(),
            pressures.contains(&Pressure::Pid),
            [
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ],
        ),
        (
            "Ready",
            not_ready.is_empty(),
            [("KubeletNotReady", why.as_str()), ("KubeletReady", "kubelet is posting ready status")],
        ),
    ];
    let of = |(type_, holds, texts): (&str, bool, [(&str, &str); 2])| {
        let status = if holds { "True" } else { "False" };
        let (reason, message) = texts[usize::from(holds)];
        let same = old.iter().find(|one| one.type_ == type_ && one.status == status);
        core::NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: same.and_then(|one| one.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    table.into_iter().map(of).collect()
}

/// Keeps the Node object up to date; `ready` turns true with the first success.
pub(crate) async fn keep_node(node: Arc<Shared>, ready: watch::Sender<bool>) {
    // Without its Node nothing else of this program makes sense, so it tries for ever; the pause is short
    // because in one process the server is there within milliseconds.
    let mut written = loop {
        match register(&node).await {
            Ok(status) => break status,
            Err(error) => {
                tracing::warn!(%error, "the node could not be registered; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    // Only now: the Lease is owned by the Node, and Pods are bound to a name that must exist.
    ready.send_replace(true);
    tell(&node, "Starting", "Starting kubelet.".into());
    tell(&node, "NodeReady", format!("Node {} status is now: NodeReady", node.config.node_name));
    let mut reported = tokio::time::Instant::now();
    loop {
        // A pressure that comes or goes is told at once: the scheduler should send nobody who would be refused.
        let _ = tokio::time::timeout(LOOK_EVERY, node.pressed.notified()).await;
        let status = look(&node, &written).await;
        if !differs(&written, &status) && reported.elapsed() < REPORT_EVERY {
            continue;
        }
        match write_status(&node, &status).await {
            Ok(()) => {
                tell_changes(&node, &written, &status);
                (written, reported) = (status, tokio::time::Instant::now());
            }
            Err(error) => tracing::warn!(%error, "the node's status could not be written; trying again"),
        }
    }
}

/// Says each condition that has changed, in the kubelet's words: `NodeHasDiskPressure`.
fn tell_changes(node: &Shared, before: &core::NodeStatus, after: &core::NodeStatus) {
    let known = before.conditions.as_deref().unwrap_or_default();
    for one in after.conditions.iter().flatten().filter(|one| one.type_ != "Ready") {
        if known.iter().any(|old| old.type_ == one.type_ && old.status == one.status) {
            continue;
        }
        let reason = one.reason.as_deref().unwrap_or_default().replace("Kubelet", "Node");
        tell(node, &reason, format!("Node {} status is now: {reason}", node.config.node_name));
    }
}

fn tell(node: &Shared, reason: &str, message: String) {
    record(node, EventType::Normal, reason, message);
}

/// A Warning event about the node.
pub(crate) fn warn(node: &Shared, reason: &str, message: String) {
    record(node, EventType::Warning, reason, message);
}

fn record(node: &Shared, kind: EventType, reason: &str, message: String) {
    let name = &node.config.node_name;
    // Upstream's kubelet names itself by its name where a UID belongs.
    let about = core::ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.clone()),
        uid: Some(name.clone()),
        ..core::ObjectReference::default()
    };
    node.recorder.event(&about, kind, reason, message);
}

/// Creates the Node, or brings an old one up to date.
async fn register(node: &Shared) -> Result<core::NodeStatus, client::Error> {
    let own = &node.own_node;
    let name = &node.config.node_name;
    match node.client.create("", own).await {
        Ok(created) => {
            let conditions = created.status.as_ref().and_then(|status| status.conditions.as_ref());
            // The server took the status along with the Node, which saves the second write of a start.
            if conditions.is_some_and(|conditions| {
                conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True")
            }) {
                return Ok(own.status.clone().unwrap_or_default());
            }
        }
        Err(err) if err.is_already_exists() => {
            let body = json!({"metadata": {"labels": own.metadata.labels}, "spec": {"podCIDR": own.spec.as_ref().and_then(|spec| spec.pod_cidr.clone())}});
            let spec = json!({"metadata": {"labels": own.metadata.labels}});
            let known: core::Node = node.client.get("", name).await?;
            // A range once given is never changed: Pods have addresses of it.
            let has_cidr = known.spec.and_then(|spec| spec.pod_cidr).is_some();
            let patch = Patch::new(PatchKind::Strategic, if has_cidr { spec } else { body });
            node.client.patch::<core::Node>("", name, &patch).await?;
        }
        Err(err) => return Err(err),
    }
    let status = own.status.clone().unwrap_or_default();
    write_status(node, &status).await?;
    Ok(status)
}

/// The status as it is now: conditions and images change, the machine does not.
async fn look(node: &Shared, written: &core::NodeStatus) -> core::NodeStatus {
    let old = written.conditions.as_deref().unwrap_or_default();
    let mut status = written.clone();
    let mut not_ready = node.config.not_ready.as_ref().map(|known| known.reasons()).unwrap_or_default();
    match node.runtime.images().await {
        Ok(images) => status.images = Some(image_list(images)),
        Err(error) => not_ready.push(format!("container runtime is down: {error}")),
    }
    status.conditions = Some(conditions(&node.pressures(), old, &not_ready, Timestamp::now()));
    status
}

fn image_list(mut images: Vec<runtime::Image>) -> Vec<core::ContainerImage> {
    // The largest first, as upstream: these are what the scheduler's image locality is about.
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images.truncate(IMAGES_MAX);
    let entry = |image: runtime::Image| core::ContainerImage {
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(IMAGE_NAMES_MAX).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    images.into_iter().map(entry).collect()
}

/// Heartbeat times alone are no news.
fn differs(old: &core::NodeStatus, new: &core::NodeStatus) -> bool {
    let key = |status: &core::NodeStatus| {
        let conditions = status
            .conditions
            .iter()
            .flatten()
            .map(|one| (one.type_.clone(), one.status.clone(), one.reason.clone()));
        (conditions.collect::<Vec<_>>(), status.images.clone())
    };
    key(old) != key(new)
}

async fn write_status(node: &Shared, status: &core::NodeStatus) -> Result<(), client::Error> {
    let status: Value = serde_json::to_value(status).unwrap_or_default();
    // A patch, so that conditions of others stay.
    let patch = Patch::status(PatchKind::Strategic, json!({"status": status}));
    node.client.patch::<core::Node>("", &node.config.node_name, &patch).await.map(drop)
}

/// Renews the Lease: the cluster's sign of life.
pub(crate) async fn keep_lease(node: Arc<Shared>, mut ready: watch::Receiver<bool>) {
    // The Lease names the Node as its owner, by a uid that there is only then.
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    let mut held: Option<Lease> = None;
    loop {
        match renew(&node, held.take()).await {
            Ok(lease) => {
                // Kept for its resourceVersion: renewing is one write and no read. One that failed is read anew.
                held = Some(lease);
                tokio::time::sleep(RENEW_EVERY).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the node's lease could not be renewed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn renew(node: &Shared, held: Option<Lease>) -> Result<Lease, client::Error> {
    let name = &node.config.node_name;
    let known = match held {
        Some(lease) => Some(lease),
        None => match node.client.get(LEASE_NAMESPACE, name).await {
            Ok(lease) => Some(lease),
            Err(err) if err.is_not_found() => None,
            Err(err) => return Err(err),
        },
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    match known {
        Some(mut lease) => {
            lease.spec = Some(spec);
            node.client.replace(&lease).await
        }
        None => {
            let owner: core::Node = node.client.get("", name).await?;
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(LEASE_NAMESPACE.into()),
                    owner_references: Some(vec![OwnerReference {
                        api_version: "v1".into(),
                        kind: "Node".into(),
                        name: name.clone(),
                        uid: owner.metadata.uid.unwrap_or_default(),
                        ..OwnerReference::default()
                    }]),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            node.client.create(LEASE_NAMESPACE, &lease).await
        }
    }
}
