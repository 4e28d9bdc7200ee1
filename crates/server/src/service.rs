//! Services: addresses and node ports are given out here, each to one Service. Which kinds these are, their
//! entries in the table say.
//!
//! What is taken is a view of the Services themselves, read under a lock that is held
//! until the write is done: there is no second book that could disagree. The IPAddresses of Services show it to
//! others, and a controller makes them; one that somebody else has made keeps its address from Services. A
//! Service is admitted and found right before the lock is taken, so nobody waits for a stranger's webhook.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::field::{Error, ErrorList, Path};
use api::kinds::{Addressed, Kind, by_kind};
use api::meta::Object as _;
use api::status::Status;
use api::strategy::addresses::{is_shown_for_a_service, ranges_in_use};
use bytes::Bytes;
use serde_json::{Value, json};
use store::Store;
use tokio::sync::{Mutex, MutexGuard};

use crate::call::Call;
use crate::materialized::{Materialized, View};
use crate::object;
use crate::state::store_failed;

const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    network: u32,
    /// Addresses in it, network and broadcast included.
    size: u32,
}

impl Range {
    /// Reads `10.43.0.0/16`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (Ipv4Addr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        if !(8..=30).contains(&bits) {
            return None;
        }
        let size = 1 << (32 - bits);
        Some(Self { network: u32::from(address) & !(size - 1), size })
    }

    /// The first address that can be used: that of the API's own Service.
    pub(crate) fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(self.network) < self.size
    }

    /// The first and the last address are nobody's.
    fn gives(self, address: Ipv4Addr) -> bool {
        (1..self.size - 1).contains(&u32::from(address).wrapping_sub(self.network))
    }

    /// Addresses at the beginning that are given only to those who name them:
    /// upstream's static band.
    fn band(self) -> u32 {
        (self.size / 16).clamp(16, 256).min(self.size / 2)
    }

    /// A free address, from `seed` on; those of the static band when no other is left.
    fn free(self, taken: &Taken<'_>, seed: u32) -> Option<Ipv4Addr> {
        let band = self.band();
        let dynamic = self.size - 1 - band;
        let upper = (0..dynamic).map(|step| band + (seed % dynamic + step) % dynamic);
        let mut offsets = upper.chain(1..band);
        offsets.find_map(|offset| {
            let address = Ipv4Addr::from(self.network + offset);
            (!taken.has(&Thing::Address(address))).then_some(address)
        })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), 32 - self.size.trailing_zeros())
    }
}

/// What is given to one Service only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Thing {
    Address(Ipv4Addr),
    /// With the protocol: TCP and UDP may share a number.
    Port(String, u16),
}

/// What Services hold, and what they are given from.
#[derive(Debug, Default)]
struct Held {
    services: HashMap<Arc<str>, HashSet<Thing>>,
    /// The ranges of each ServiceCIDR that may be given from, the ServiceCIDRs by name.
    ranges: BTreeMap<Arc<str>, Vec<Range>>,
    /// The Services that hold each: one, unless they were written past this book.
    holders: HashMap<Thing, Vec<Arc<str>>>,
    /// What these hold is not known.
    unreadable: HashMap<Arc<str>, Status>,
}

impl View for Held {
    fn put(&mut self, key: &Arc<str>, object: &Bytes) {
        self.remove(key);
        match object::read(object) {
            Ok(object) => match addressed(&object) {
                Some(Addressed::Ranges) => {
                    let ranges = ranges_in_use(&object).filter_map(Range::parse).collect();
                    self.ranges.insert(key.clone(), ranges);
                }
                Some(Addressed::Address) => self.hold(key, kept(&object)),
                Some(Addressed::Holder) | None => self.hold(key, things(&object)),
            },
            Err(status) => {
                self.unreadable.insert(key.clone(), status);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        self.unreadable.remove(key);
        self.ranges.remove(key);
        for thing in self.services.remove(key).into_iter().flatten() {
            let Some(holders) = self.holders.get_mut(&thing) else { continue };
            holders.retain(|holder| **holder != *key);
            if holders.is_empty() {
                self.holders.remove(&thing);
            }
        }
    }
}

impl Held {
    fn hold(&mut self, key: &Arc<str>, things: HashSet<Thing>) {
        for thing in &things {
            self.holders.entry(thing.clone()).or_default().push(key.clone());
        }
        self.services.insert(key.clone(), things);
    }
}

fn addressed(object: &Value) -> Option<Addressed> {
    by_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)?.addressed
}

/// What an IPAddress keeps from Services. One that shows what a Service holds keeps nothing itself, so that
/// the address is free in the moment in which the Service is gone.
fn kept(ip_address: &Value) -> HashSet<Thing> {
    let address = ip_address.meta().name().parse().ok().filter(|_| !is_shown_for_a_service(ip_address));
    address.map(Thing::Address).into_iter().collect()
}

fn things(service: &Value) -> HashSet<Thing> {
    let spec = &service["spec"];
    let addresses = spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]);
    let addresses = addresses.filter_map(|ip| ip.as_str()?.parse().ok()).map(Thing::Address);
    let ports = spec["ports"].as_array().into_iter().flatten().filter_map(node_port);
    let health = spec["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let health = health.map(|port| Thing::Port("TCP".to_owned(), port));
    addresses.chain(ports).chain(health).collect()
}

/// What one Service cannot have: what others hold, and what it was given already.
struct Taken<'a> {
    held: &'a Held,
    own: &'a str,
    given: HashSet<Thing>,
}

impl<'a> Taken<'a> {
    fn new(held: &'a Held, own: &'a str) -> Self {
        Self { held, own, given: HashSet::new() }
    }

    fn has(&self, thing: &Thing) -> bool {
        let others = self.held.holders.get(thing).into_iter().flatten();
        self.given.contains(thing) || others.into_iter().any(|holder| **holder != *self.own)
    }

    /// From which addresses are given.
    fn ranges(&self) -> impl Iterator<Item = Range> + use<'a> {
        self.held.ranges.values().flatten().copied()
    }

    /// Gives it away; false when it was not to be had.
    fn take(&mut self, thing: Thing) -> bool {
        !self.has(&thing) && self.given.insert(thing)
    }
}

/// Gives out addresses and ports.
#[derive(Debug)]
pub(crate) struct Allocator {
    /// Held from the choice until the Service is written.
    turn: Mutex<()>,
    held: Materialized<Held>,
}

impl Allocator {
    /// For the Services of this store.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let addressed = api::kinds::all().iter().filter(|kind| kind.addressed.is_some());
        let prefixes = addressed.map(|kind| object::prefix(kind, "")).collect();
        Self { turn: Mutex::default(), held: Materialized::new(store, prefixes) }
    }
}

fn node_port(port: &Value) -> Option<Thing> {
    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
    Some(Thing::Port(protocol, node_port_number(port)?))
}

fn node_port_number(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().filter(|number| *number > 0).and_then(|number| u16::try_from(number).ok())
}

/// Gives a Service what its type needs; for any other kind it does nothing. The guard
/// must live until the Service is written.
pub(crate) async fn allocate<'a>(
    call: &'a Call,
    resource: &Kind,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Option<MutexGuard<'a, ()>>, Status> {
    let Some(addressed) = resource.addressed.filter(|_| call.target.subresource.is_empty()) else {
        return Ok(None);
    };
    if addressed == Addressed::Ranges {
        return Ok(None);
    }
    let Allocator { turn, held } = &call.state.services;
    let guard = turn.lock().await;
    let name = service.meta().name().to_owned();
    let own = object::key(resource, &call.target.namespace, &name);
    let seed = u32::from_le_bytes(call.state.random()?);
    let held = held.read().map_err(store_failed)?;
    if let Some((_, status)) = held.unreadable.iter().find(|(key, _)| **key != own) {
        return Err(status.clone());
    }
    let mut taken = Taken::new(&held, &own);
    if addressed == Addressed::Address {
        // Upstream's Service has its IPAddress at once, and this one would meet it.
        let is_held = old.is_none() && kept(service).iter().any(|address| taken.has(address));
        drop(held);
        return if is_held { Err(Status::already_exists(&call.resource, &name)) } else { Ok(Some(guard)) };
    }
    let errors = fill(service, &mut taken, seed, old);
    drop(held);
    if !errors.is_empty() {
        return Err(Status::invalid(&call.resource, &name, &errors));
    }
    Ok(Some(guard))
}

fn has_address(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    let spec = &service["spec"];
    spec["type"] == "NodePort"
        || (spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != Value::Bool(false))
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty)
}

fn fill(service: &mut Value, taken: &mut Taken<'_>, seed: u32, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    if has_address(service) {
        // One that has its address keeps it: validation refuses another.
        if old.is_some_and(|old| has_address(old) && !is_unset(&old["spec"]["clusterIP"])) {
            fill_ports(service, taken, seed, &mut errors);
            fill_health_check(service, taken, seed, &mut errors);
            return errors;
        }
        fill_address(service, taken, seed, &mut errors);
    }
    fill_ports(service, taken, seed, &mut errors);
    fill_health_check(service, taken, seed, &mut errors);
    errors
}

/// An address that nobody has, of whatever range has one.
fn free_address(taken: &Taken<'_>, seed: u32) -> Option<Ipv4Addr> {
    taken.ranges().find_map(|range| range.free(taken, seed))
}

/// Why an address cannot be given to who names it.
fn refusal(address: Ipv4Addr, taken: &Taken<'_>) -> Option<String> {
    let around: Vec<Range> = taken.ranges().filter(|range| range.contains(address)).collect();
    let why = match around.first() {
        None => "the provided network does not match the current range".to_owned(),
        Some(range) if !around.iter().any(|range| range.gives(address)) => {
            format!("the provided IP is not in the valid range. The range of valid IPs is {range}")
        }
        Some(_) if taken.has(&Thing::Address(address)) => "provided IP is already allocated".to_owned(),
        Some(_) => return None,
    };
    Some(format!("failed to allocate IP {address}: {why}"))
}

fn fill_address(service: &mut Value, taken: &Taken<'_>, seed: u32, errors: &mut ErrorList) {
    let spec = &mut service["spec"];
    let first = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
    let asked = spec["clusterIP"].as_str().filter(|asked| !asked.is_empty()).map_or(first, str::to_owned);
    let path = Path::new("spec");
    let mut refuse = |why: String| {
        errors.push(Error::invalid(&path.child("clusterIPs"), json!([asked.clone()]), why));
    };
    let address = match asked.parse::<Ipv4Addr>() {
        _ if asked == "None" => "None".to_owned(),
        _ if asked.is_empty() => match free_address(taken, seed) {
            Some(address) => address.to_string(),
            None => return refuse("failed to allocate a serviceIP: range is full".into()),
        },
        Ok(address) => match refusal(address, taken) {
            Some(why) => return refuse(why),
            None => asked.clone(),
        },
        // Not an address: validation says so.
        Err(_) => return,
    };
    spec["clusterIP"] = address.as_str().into();
    spec["clusterIPs"] = json!([address]);
    if is_unset(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if is_unset(&spec["ipFamilyPolicy"]) {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
}

fn fill_ports(service: &mut Value, taken: &mut Taken<'_>, seed: u32, errors: &mut ErrorList) {
    let wanted = has_node_ports(service);
    let path = Path::new("spec");
    let path = path.child("ports");
    // Looked up and not indexed, which would make a null where there are none.
    let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
    // Those that are named first, so that none is given away before.
    for (index, port) in ports.iter_mut().enumerate() {
        let Some(number) = node_port_number(port) else { continue };
        let path = path.index(index);
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        if !NODE_PORTS.contains(&number) {
            let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
            errors.push(Error::invalid(&path.child("nodePort"), number, why));
        } else if !taken.take(Thing::Port(protocol, number)) {
            errors.push(Error::invalid(
                &path.child("nodePort"),
                number,
                "provided port is already allocated",
            ));
        }
    }
    for port in ports.iter_mut().filter(|port| wanted && node_port_number(port).is_none()) {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        match free_port(taken, seed, &protocol) {
            Some(number) => port["nodePort"] = number.into(),
            None => errors.push(Error::internal(&path, "failed to allocate a nodePort: range is full")),
        }
    }
}

/// A node port that nobody has, from `seed` on: two Services that come at once do not look at the same ones.
fn free_port(taken: &mut Taken<'_>, seed: u32, protocol: &str) -> Option<u16> {
    let count = u32::from(*NODE_PORTS.end() - *NODE_PORTS.start()) + 1;
    let candidates = (0..count).map(|step| u32::from(*NODE_PORTS.start()) + (seed % count + step) % count);
    let mut numbers = candidates.filter_map(|number| u16::try_from(number).ok());
    numbers.find(|number| taken.take(Thing::Port(protocol.to_owned(), *number)))
}

/// The port at which a load balancer asks how many Pods there are on the node. It is one of the node ports,
/// and taken like one, whatever the load balancer's own are. Upstream answers what it cannot give with an
/// internal error here, though it is the client who asked.
fn fill_health_check(service: &mut Value, taken: &mut Taken<'_>, seed: u32, errors: &mut ErrorList) {
    let Some(spec) = service["spec"].as_object_mut() else { return };
    if !api::strategy::has_health_check(spec) {
        return;
    }
    let path = Path::new("spec");
    let given = spec.get("healthCheckNodePort").and_then(Value::as_u64).filter(|number| *number > 0);
    let Some(given) = given else {
        match free_port(taken, seed, "TCP") {
            Some(number) => drop(spec.insert("healthCheckNodePort".to_owned(), number.into())),
            None => errors.push(Error::internal(&path, "failed to allocate a nodePort: range is full")),
        }
        return;
    };
    let number = u16::try_from(given).ok().filter(|number| NODE_PORTS.contains(number));
    let refused = match number {
        None => "provided port is not in the valid range. The range of valid ports is 30000-32767",
        Some(number) if !taken.take(Thing::Port("TCP".to_owned(), number)) => {
            "provided port is already allocated"
        }
        Some(_) => return,
    };
    errors.push(Error::internal(
        &path,
        format!("failed to allocate requested HealthCheck NodePort {given}: {refused}"),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Range {
        Range::parse("10.43.0.0/24").expect("a range")
    }

    fn empty() -> Held {
        let mut held = Held::default();
        let all = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.43.0.0/24"]}});
        held.put(&Arc::from("/networking.k8s.io/servicecidrs/kubernetes"), &Bytes::from(all.to_string()));
        held
    }

    fn holding(service: &Value) -> Held {
        let mut held = empty();
        held.put(&Arc::from("/core/services/a/other"), &Bytes::from(service.to_string()));
        held
    }

    fn filled(service: &mut Value) -> Vec<String> {
        filled_beside(&empty(), service)
    }

    fn filled_beside(held: &Held, service: &mut Value) -> Vec<String> {
        fill(service, &mut Taken::new(held, "/core/services/a/own"), 7, None)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_service_gets_an_address_outside_the_static_band() {
        let mut service = json!({"spec": {"type": "ClusterIP"}});
        assert!(filled(&mut service).is_empty());
        assert_eq!(service["spec"]["clusterIP"], "10.43.0.23");
        assert_eq!(service["spec"]["clusterIPs"], json!(["10.43.0.23"]));
        let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
        filled(&mut headless);
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn an_address_is_given_once_and_only_from_the_range() {
        let held = holding(&json!({"spec": {"clusterIPs": ["10.43.0.9"]}}));
        let mut again = json!({"spec": {"clusterIP": "10.43.0.9"}});
        assert_eq!(
            filled_beside(&held, &mut again),
            [
                "spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: failed to allocate IP 10.43.0.9: provided IP is already allocated"
            ]
        );
        let mut outside = json!({"spec": {"clusterIP": "10.44.0.9"}});
        assert_eq!(filled_beside(&held, &mut outside).len(), 1);
    }

    #[test]
    fn a_range_more_gives_when_the_first_is_full_and_one_that_goes_gives_nothing() {
        let ranges = |held: &mut Held, name: &str, cidr: &str, ready: &str| {
            let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
                "spec": {"cidrs": ["2001:db8::/64", cidr]}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            held.put(
                &Arc::from(format!("/networking.k8s.io/servicecidrs/{name}")),
                &Bytes::from(object.to_string()),
            );
        };
        let mut held = Held::default();
        assert!(filled_beside(&held, &mut json!({"spec": {}}))[0].ends_with("range is full"));
        ranges(&mut held, "a", "10.43.0.0/30", "True");
        ranges(&mut held, "b", "10.99.0.0/30", "True");
        let mut taken = Taken::new(&held, "");
        let mut given = Vec::new();
        while let Some(address) = free_address(&taken, 7) {
            assert!(taken.take(Thing::Address(address)), "{address}");
            given.push(address.to_string());
        }
        given.sort();
        assert_eq!(given, ["10.43.0.1", "10.43.0.2", "10.99.0.1", "10.99.0.2"]);
        let named = |held: &Held, ip: &str| filled_beside(held, &mut json!({"spec": {"clusterIP": ip}}));
        assert_eq!(named(&held, "10.99.0.2"), [] as [&str; 0]);
        assert!(named(&held, "10.99.0.3")[0].ends_with("The range of valid IPs is 10.99.0.0/30"));
        ranges(&mut held, "b", "10.99.0.0/30", "False");
        assert!(
            named(&held, "10.99.0.2")[0].ends_with("the provided network does not match the current range")
        );
    }

    #[test]
    fn an_address_that_somebody_keeps_is_not_given_and_one_that_only_shows_a_service_is() {
        let mut held = empty();
        let mut kept = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.43.0.9"},
            "spec": {"parentRef": {"resource": "things", "name": "x"}}});
        let key = Arc::from("/networking.k8s.io/ipaddresses/10.43.0.9");
        held.put(&key, &Bytes::from(kept.to_string()));
        let named = |held: &Held| filled_beside(held, &mut json!({"spec": {"clusterIP": "10.43.0.9"}}));
        assert!(named(&held)[0].ends_with("provided IP is already allocated"));
        kept["metadata"]["labels"] = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
        held.put(&key, &Bytes::from(kept.to_string()));
        assert_eq!(named(&held), [] as [&str; 0]);
    }

    #[test]
    fn another_address_for_a_service_that_has_one_is_left_to_validation() {
        let old =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"]}});
        let mut new =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"]}});
        let errors = fill(&mut new, &mut Taken::new(&empty(), ""), 7, Some(&old));
        assert!(errors.is_empty(), "{errors}");
        assert_eq!(new["spec"]["clusterIP"], "10.96.9.9");
    }

    #[test]
    fn every_address_is_found_before_the_range_is_full() {
        let held = Held::default();
        let mut taken = Taken::new(&held, "");
        while let Some(address) = range().free(&taken, 200) {
            assert!(range().gives(address) && taken.take(Thing::Address(address)), "{address}");
        }
        assert_eq!(taken.given.len(), 254);
    }

    #[test]
    fn what_a_service_gives_up_others_can_have_at_once() {
        let service = |ip: &str, port: u16| json!({"spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"nodePort": port}]}});
        let (ip, port) = (Thing::Address(Ipv4Addr::new(10, 43, 0, 9)), Thing::Port("TCP".to_owned(), 30_001));
        let mut held = holding(&service("10.43.0.9", 30_001));
        assert!(Taken::new(&held, "").has(&ip) && Taken::new(&held, "").has(&port));
        assert!(!Taken::new(&held, "/core/services/a/other").has(&ip), "its own");
        let (other, twin) = (Arc::from("/core/services/a/other"), Arc::from("/core/services/a/twin"));
        held.put(&twin, &Bytes::from(service("10.43.0.9", 30_002).to_string()));
        held.put(&other, &Bytes::from(service("None", 30_003).to_string()));
        assert!(Taken::new(&held, "").has(&ip), "the twin has it still");
        assert!(!Taken::new(&held, "").has(&port));
        held.put(&twin, &Bytes::from_static(b"{"));
        assert!(!Taken::new(&held, "").has(&ip) && held.unreadable.contains_key(&twin));
        held.remove(&twin);
        held.remove(&other);
        assert!(held.services.is_empty() && held.holders.is_empty() && held.unreadable.is_empty());
    }

    #[test]
    fn a_local_load_balancer_gets_a_port_for_its_questions() {
        let balancer = |policy: &str| {
            json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy, "clusterIP": "None",
                            "ports": [{"port": 80, "protocol": "TCP"}]}})
        };
        let mut local = balancer("Local");
        assert!(filled(&mut local).is_empty());
        assert_eq!(local["spec"]["ports"][0]["nodePort"], 30007);
        assert_eq!(local["spec"]["healthCheckNodePort"], 30008);
        let mut cluster = balancer("Cluster");
        filled(&mut cluster);
        assert!(cluster["spec"]["healthCheckNodePort"].is_null());
        let held = holding(&local);
        let mut taken = balancer("Local");
        taken["spec"]["healthCheckNodePort"] = 30008.into();
        let refused = filled_beside(&held, &mut taken);
        assert!(refused[0].contains("provided port is already allocated"), "{refused:?}");
    }

    #[test]
    fn node_ports_are_given_kept_and_checked() {
        let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP", "nodePort": 30007}]}});
        assert!(filled(&mut service).is_empty());
        assert_eq!(service["spec"]["ports"][0]["nodePort"], 30008, "30007 is named by the other port");
        let mut low = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}});
        assert_eq!(filled(&mut low).len(), 1);
    }
}
