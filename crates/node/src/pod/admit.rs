//! The node's own checks before it accepts a Pod.

use std::collections::{BTreeMap, BTreeSet};

use api::placement::{matches_node, tolerates};
use api::quantity::Quantity as Amount;
use client::Retry;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::QosClass;

use super::qos;
use super::resize::Room;
use super::spec::{is_critical, spec};
use crate::eviction::threshold::Pressure;

mod confine;
mod ports;
mod preempt;

pub use ports::{Listener, wants_ports};
pub use preempt::victims;

/// Why a Pod is refused: word and sentence for status and event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `status.reason`.
    pub reason: Reason,
    /// `status.message`.
    pub message: String,
}

impl Refusal {
    /// Whether asking once more may help. What the node knows of itself may be older than what the scheduler
    /// knew when it chose it: labels may have come since. All else lies with the Pod or the host.
    pub fn retry(&self) -> Retry {
        if self.reason == Reason::NodeAffinity { Retry::Now } else { Retry::Never }
    }
}

/// What was in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its program is for another system.
    PodOsNotSupported,
    /// The node is short of memory.
    Evicted,
    /// A sysctl that is neither safe nor allowed here.
    SysctlForbidden,
    /// The labels of the node do not fit.
    NodeAffinity,
    /// A taint of the node is not tolerated.
    TaintToleration,
    /// There is too little left of this.
    OutOf(String),
    /// A port of the host is taken.
    NodePorts,
    /// It asks for what this node cannot do.
    PodFeatureUnsupported,
    /// A profile that the kernel would not enforce.
    AppArmor,
    /// Labels that the kernel would not enforce.
    SeLinux,
}

impl Reason {
    /// Upstream's word for it.
    pub fn word(&self) -> String {
        let word = match self {
            Reason::OutOf(resource) => return format!("OutOf{resource}"),
            Reason::PodOsNotSupported => "PodOSNotSupported",
            Reason::Evicted => "Evicted",
            Reason::SysctlForbidden => "SysctlForbidden",
            Reason::NodeAffinity => "NodeAffinity",
            Reason::TaintToleration => "TaintToleration",
            Reason::NodePorts => "NodePorts",
            Reason::PodFeatureUnsupported => "PodFeatureUnsupported",
            Reason::AppArmor => "AppArmor",
            Reason::SeLinux => "SELinux",
        };
        word.to_owned()
    }
}

/// What the node's own checks must know of the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// What the node is short of.
    pub pressures: BTreeSet<Pressure>,
    /// Extra sysctls Pods may set; a trailing `*` matches a prefix.
    pub allowed_sysctls: Vec<String>,
    /// Whether the kernel confines by AppArmor.
    pub apparmor: bool,
    /// Whether the kernel confines by SELinux.
    pub selinux: bool,
    /// Why there can be no user namespaces; looked at only for a Pod that wants one.
    pub no_users: Option<String>,
    /// Who listens on the host.
    pub listeners: Vec<Listener>,
    /// The port on which this program serves its API.
    pub own_port: u16,
    /// The bridge's address, where this program serves Pods.
    pub bridge_ip: Option<std::net::IpAddr>,
}

/// Sysctls a Pod may set without the node allowing them.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Checks a Pod that is new to the node against the node and the Pods already on it.
pub fn admit(pod: &Pod, node: &Node, others: &[&Pod], host: &Host) -> Result<(), Refusal> {
    check_os(pod)?;
    check_sysctls(pod, &host.allowed_sysctls)?;
    confine::check(pod, host)?;
    check_selector(pod, node)?;
    check_taints(pod, node)?;
    check_pressure(pod, &host.pressures)?;
    check_resources(pod, node, others)?;
    ports::check(pod, others, host)
}

fn refuse(reason: Reason, message: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal { reason, message: message.into() })
}

fn check_os(pod: &Pod) -> Result<(), Refusal> {
    match spec(pod).os.as_ref().map(|os| os.name.as_str()) {
        None | Some("linux") => Ok(()),
        Some(_) => {
            refuse(Reason::PodOsNotSupported, "Failed to admit pod as the OS field doesn't match node OS")
        }
    }
}

/// Patterns of sysctls that a node may let Pods set, with dots; in upstream's words why not. What is not of a
/// namespace would be the whole host's.
///
/// # Errors
/// One is no pattern, or not of a namespace that Pods have.
pub fn allowed_sysctls(patterns: &[String]) -> Result<Vec<String>, String> {
    const NAMESPACED: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let check = |pattern: &String| {
        let dotted = pattern.replace('/', ".");
        let name = dotted.strip_suffix('*').unwrap_or(&dotted);
        let written =
            name.bytes().all(|b| edge(b) || b"-_.".contains(&b)) && name.bytes().next().is_some_and(edge);
        if !written || name.contains("..") {
            return Err(format!("sysctl {pattern:?} is no name and no prefix with *"));
        }
        match NAMESPACED.iter().any(|prefix| name.starts_with(prefix)) || dotted == "kernel.sem" {
            true => Ok(dotted),
            false => Err(format!("the sysctls {pattern:?} are not known to be namespaced")),
        }
    };
    patterns.iter().map(check).collect()
}

fn check_sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    let sysctls = spec(pod).security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in sysctls {
        let name = sysctl.name.replace('/', ".");
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return refuse(
                Reason::SysctlForbidden,
                format!("forbidden sysctl: {:?} not allowlisted", sysctl.name),
            );
        }
    }
    Ok(())
}

/// nodeSelector and required node affinity, as the scheduler reads them.
fn check_selector(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    if matches_node(spec(pod), node) {
        return Ok(());
    }
    refuse(
        Reason::NodeAffinity,
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    )
}

/// Only NoExecute: a Pod bound by hand may ignore NoSchedule, as upstream's node allows.
fn check_taints(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerations = spec(pod).tolerations.as_deref().unwrap_or_default();
    for taint in taints.filter(|taint| taint.effect == "NoExecute") {
        if !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
            let message = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
            return refuse(Reason::TaintToleration, message);
        }
    }
    Ok(())
}

/// Whether there is room for a Pod of the node in the size that its spec wishes; `others` have what was granted
/// to them.
pub fn resize(pod: &Pod, node: &Node, others: &[&Pod]) -> Room {
    let allocatable = allocatable(node);
    let wanted = qos::requests(spec(pod));
    // Upstream tells of memory first.
    for name in ["memory", "cpu"] {
        let (wanted, capacity) =
            (amount(wanted.get(name)), amount(allocatable.and_then(|all| all.get(name))));
        if allocatable.is_some() && wanted > capacity {
            let (wanted, capacity) = (number(name, &wanted), number(name, &capacity));
            return Room::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
            ));
        }
    }
    match check_resources(pod, node, others) {
        Ok(()) => Room::Fits,
        Err(refusal) => Room::Deferred(refusal.message),
    }
}

/// Whether a Pod asks for more cpu or memory than another version of it.
pub fn takes_more(pod: &Pod, before: &Pod) -> bool {
    let (new, old) = (qos::requests(spec(pod)), qos::requests(spec(before)));
    ["cpu", "memory"].iter().any(|name| amount(new.get(*name)) > amount(old.get(*name)))
}

fn allocatable(node: &Node) -> Option<&BTreeMap<String, Quantity>> {
    node.status.as_ref()?.allocatable.as_ref()
}

/// As upstream's messages have it.
fn number(name: &str, amount: &Amount) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// A node that is short of something takes no more of those that it would have to evict first: of disk or
/// process numbers all Pods take, of memory those that have asked for none.
fn check_pressure(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Result<(), Refusal> {
    if pressures.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if pressures.iter().eq([&Pressure::Memory]) {
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let mut tolerations = spec(pod).tolerations.iter().flatten();
        if qos::class(pod) != QosClass::BestEffort || tolerations.any(|one| tolerates(one, &taint)) {
            return Ok(());
        }
    }
    let names: Vec<&str> = pressures.iter().map(|one| one.condition()).collect();
    refuse(Reason::Evicted, format!("The node had condition: [{}]. ", names.join(" ")))
}

fn check_resources(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let Some(allocatable) = allocatable(node) else { return Ok(()) };
    let places = amount(allocatable.get("pods"));
    let running = others.len() as i64;
    if places.value() > 0 && running + 1 > places.value() {
        return refuse(Reason::OutOf("pods".to_owned()), shortage("pods", 1, running, places.value()));
    }
    for (name, request) in qos::requests(spec(pod)) {
        let wanted = amount(Some(&request));
        if wanted.as_f64() <= 0.0 {
            continue;
        }
        let mut used = Amount::from_str_or_zero("0");
        for other in others {
            used.add(&amount(qos::requests(spec(other)).get(&name)));
        }
        let capacity = amount(allocatable.get(&name));
        let mut sum = used.clone();
        sum.add(&wanted);
        if sum > capacity {
            let number = |amount: &Amount| number(&name, amount);
            return refuse(
                Reason::OutOf(name.clone()),
                shortage(&name, number(&wanted), number(&used), number(&capacity)),
            );
        }
    }
    Ok(())
}

fn shortage(resource: &str, requested: i64, used: i64, capacity: i64) -> String {
    format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    )
}

trait OrZero {
    fn from_str_or_zero(text: &str) -> Self;
}

impl OrZero for Amount {
    fn from_str_or_zero(text: &str) -> Self {
        text.parse().unwrap_or_default()
    }
}

fn amount(quantity: Option<&Quantity>) -> Amount {
    quantity.map(|quantity| Amount::from_str_or_zero(&quantity.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_labels_of_the_node_may_have_come_since() {
        let refused = |spec: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let node = json!({"status": {"allocatable": {"cpu": "1"}}});
            let node: Node = serde_json::from_value(node).unwrap();
            let refusal = admit(&pod, &node, &[], &Host::default()).unwrap_err();
            (refusal.reason.word(), refusal.retry())
        };
        let selective = json!({"containers": [], "nodeSelector": {"disk": "ssd"}});
        assert_eq!(refused(selective), ("NodeAffinity".to_owned(), Retry::Now));
        let large = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]});
        assert_eq!(refused(large), ("OutOfcpu".to_owned(), Retry::Never));
    }
}
