//! The node's own checks before it accepts a Pod.

use std::collections::BTreeMap;

use api::placement::{matches_node, tolerates};
use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::qos;
use super::resize::Room;
use super::spec::spec;

mod confine;
mod ports;

pub use ports::{Listener, wants_ports};

/// Why a Pod is refused: word and sentence for status and event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
}

/// What the node's own checks must know of the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Extra sysctls Pods may set; a trailing `*` matches a prefix.
    pub allowed_sysctls: Vec<String>,
    /// Whether the kernel confines by AppArmor.
    pub apparmor: bool,
    /// Whether the kernel confines by SELinux.
    pub selinux: bool,
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
    check_resources(pod, node, others)?;
    ports::check(pod, others, host)
}

fn refuse(reason: impl Into<String>, message: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal { reason: reason.into(), message: message.into() })
}

fn check_os(pod: &Pod) -> Result<(), Refusal> {
    match spec(pod).os.as_ref().map(|os| os.name.as_str()) {
        None | Some("linux") => Ok(()),
        Some(_) => refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"),
    }
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
            return refuse("SysctlForbidden", format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
    }
    Ok(())
}

/// nodeSelector and required node affinity, as the scheduler reads them.
fn check_selector(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    if matches_node(spec(pod), node) {
        return Ok(());
    }
    refuse("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
}

/// Only NoExecute: a Pod bound by hand may ignore NoSchedule, as upstream's node allows.
fn check_taints(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerations = spec(pod).tolerations.as_deref().unwrap_or_default();
    for taint in taints.filter(|taint| taint.effect == "NoExecute") {
        if !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
            let message = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
            return refuse("TaintToleration", message);
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

fn check_resources(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let Some(allocatable) = allocatable(node) else { return Ok(()) };
    let places = amount(allocatable.get("pods"));
    let running = others.len() as i64;
    if places.value() > 0 && running + 1 > places.value() {
        return refuse("OutOfpods", shortage("pods", 1, running, places.value()));
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
                format!("OutOf{name}"),
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
