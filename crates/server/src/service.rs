//! Services: addresses and node ports are given out here, each to one Service.
//!
//! What is taken is read from the Services themselves, under a lock that is held
//! until the write is done: there is no second book that could disagree.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use api::field::{Error, ErrorList, Path};
use api::kinds::Kind;
use api::status::Status;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;

use crate::call::Call;
use crate::object;
use crate::state::store_failed;
use crate::write::text;

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
        let offset = u32::from(address).wrapping_sub(self.network);
        (1..self.size - 1).contains(&offset)
    }

    /// Addresses at the beginning that are given only to those who name them:
    /// upstream's static band.
    fn band(self) -> u32 {
        (self.size / 16).clamp(16, 256).min(self.size / 2)
    }

    /// A free address, from `seed` on; those of the static band when no other is left.
    fn free(self, taken: &HashSet<Ipv4Addr>, seed: u32) -> Option<Ipv4Addr> {
        let band = self.band();
        let dynamic = self.size - 1 - band;
        let upper = (0..dynamic).map(|step| band + (seed % dynamic + step) % dynamic);
        let mut offsets = upper.chain(1..band);
        offsets.find_map(|offset| {
            let address = Ipv4Addr::from(self.network + offset);
            (!taken.contains(&address)).then_some(address)
        })
    }
}

/// What other Services hold.
#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    /// With the protocol: TCP and UDP may share a number.
    ports: HashSet<(String, u16)>,
}

impl Taken {
    fn add(&mut self, service: &Value) {
        let addresses = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
        self.addresses.extend(addresses.filter_map(|ip| ip.as_str()?.parse::<Ipv4Addr>().ok()));
        self.addresses
            .extend(service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse::<Ipv4Addr>().ok()));
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        self.ports.extend(ports.filter_map(node_port));
        if let Some(port) =
            service["spec"]["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok())
        {
            self.ports.insert(("TCP".to_owned(), port));
        }
    }
}

fn node_port(port: &Value) -> Option<(String, u16)> {
    let number = port["nodePort"].as_u64().filter(|number| *number > 0)?;
    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
    Some((protocol, u16::try_from(number).ok()?))
}

/// Gives a Service what its type needs; for any other kind it does nothing. The guard
/// must live until the Service is written.
pub(crate) async fn allocate<'a>(
    call: &'a Call,
    resource: &Kind,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Option<MutexGuard<'a, ()>>, Status> {
    if !resource.group.is_empty() || resource.kind != "Service" || !call.target.subresource.is_empty() {
        return Ok(None);
    }
    let Some(range) = Range::parse(&call.state.config.service_cidr) else { return Ok(None) };
    let guard = call.state.services.lock().await;
    let own = object::key(resource, &call.target.namespace, text(service, "name"));
    let all = store::Range { prefix: object::prefix(resource, ""), ..store::Range::default() };
    let page = call.state.store.range(all).await.map_err(store_failed)?;
    let mut taken = Taken::default();
    for entry in page.entries.iter().filter(|entry| entry.key != own) {
        taken.add(&object::read(&entry.value)?);
    }
    if let Some(old) = old {
        keep(service, old);
    }
    let seed = u32::from_le_bytes(call.state.random()?);
    let errors = fill(service, range, &mut taken, seed, old);
    if !errors.is_empty() {
        return Err(Status::invalid(&call.resource, text(service, "name"), &errors));
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

/// An update that leaves out what was given keeps it: upstream's patchAllocatedValues.
fn keep(service: &mut Value, old: &Value) {
    if has_address(service) && has_address(old) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if is_unset(&service["spec"][field]) && !is_unset(&old["spec"][field]) {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    if !(has_node_ports(service) && has_node_ports(old)) {
        return;
    }
    let before = old["spec"]["ports"].clone();
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let same = |old: &&Value| old["port"] == port["port"] && old["protocol"] == port["protocol"];
        if node_port(port).is_none()
            && let Some(old) = before.as_array().into_iter().flatten().find(same)
            && let Some((_, number)) = node_port(old)
        {
            port["nodePort"] = number.into();
        }
    }
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty)
}

fn fill(service: &mut Value, range: Range, taken: &mut Taken, seed: u32, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    if has_address(service) {
        // One that has its address keeps it: validation refuses another.
        if old.is_some_and(|old| has_address(old) && !is_unset(&old["spec"]["clusterIP"])) {
            fill_ports(service, taken, seed, &mut errors);
            return errors;
        }
        fill_address(service, range, taken, seed, &mut errors);
    } else if let Some(spec) = service["spec"].as_object_mut() {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
    }
    if service["spec"]["type"] == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"].is_null()
    {
        service["spec"]["allocateLoadBalancerNodePorts"] = true.into();
    }
    fill_ports(service, taken, seed, &mut errors);
    errors
}

fn fill_address(service: &mut Value, range: Range, taken: &Taken, seed: u32, errors: &mut ErrorList) {
    let spec = &mut service["spec"];
    let first = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
    let asked = spec["clusterIP"].as_str().filter(|asked| !asked.is_empty()).map_or(first, str::to_owned);
    let path = Path::new("spec");
    let mut refuse = |why: String| {
        errors.push(Error::invalid(&path.child("clusterIPs"), json!([asked.clone()]), why));
    };
    let address = match asked.parse::<Ipv4Addr>() {
        _ if asked == "None" => "None".to_owned(),
        _ if asked.is_empty() => match range.free(&taken.addresses, seed) {
            Some(address) => address.to_string(),
            None => return refuse("failed to allocate a serviceIP: range is full".into()),
        },
        Ok(address) if !range.contains(address) => {
            let network = Ipv4Addr::from(range.network);
            let bits = 32 - range.size.trailing_zeros();
            return refuse(format!(
                "failed to allocate IP {asked}: the provided network does not match the current range: {network}/{bits}"
            ));
        }
        Ok(address) if taken.addresses.contains(&address) => {
            return refuse(format!("failed to allocate IP {asked}: provided IP is already allocated"));
        }
        Ok(_) => asked.clone(),
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

fn fill_ports(service: &mut Value, taken: &mut Taken, seed: u32, errors: &mut ErrorList) {
    let wanted = has_node_ports(service);
    let load_balancer = service["spec"]["type"] == "LoadBalancer";
    let path = Path::new("spec");
    let path = path.child("ports");
    let Some(ports) = service["spec"]["ports"].as_array_mut() else { return };
    // Those that are named first, so that none is given away before.
    for (index, port) in ports.iter_mut().enumerate() {
        let Some((protocol, number)) = node_port(port) else { continue };
        if !wanted && !load_balancer {
            port.as_object_mut().map(|port| port.remove("nodePort"));
            continue;
        }
        let path = path.index(index);
        if !NODE_PORTS.contains(&number) {
            let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
            errors.push(Error::invalid(&path.child("nodePort"), number, why));
        } else if !taken.ports.insert((protocol, number)) {
            errors.push(Error::invalid(
                &path.child("nodePort"),
                number,
                "provided port is already allocated",
            ));
        }
    }
    for port in ports.iter_mut().filter(|port| wanted && node_port(port).is_none()) {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let count = u32::from(*NODE_PORTS.end() - *NODE_PORTS.start()) + 1;
        let candidates =
            (0..count).map(|step| u32::from(*NODE_PORTS.start()) + (seed % count + step) % count);
        let free = candidates
            .filter_map(|number| u16::try_from(number).ok())
            .find(|number| taken.ports.insert((protocol.clone(), *number)));
        match free {
            Some(number) => port["nodePort"] = number.into(),
            None => errors.push(Error::internal(&path, "failed to allocate a nodePort: range is full")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Range {
        Range::parse("10.43.0.0/24").expect("a range")
    }

    fn filled(service: &mut Value, taken: &mut Taken) -> Vec<String> {
        fill(service, range(), taken, 7, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_gets_an_address_outside_the_static_band() {
        let mut service = json!({"spec": {"type": "ClusterIP"}});
        assert!(filled(&mut service, &mut Taken::default()).is_empty());
        assert_eq!(service["spec"]["clusterIP"], "10.43.0.23");
        assert_eq!(service["spec"]["clusterIPs"], json!(["10.43.0.23"]));
        let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
        filled(&mut headless, &mut Taken::default());
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn an_address_is_given_once_and_only_from_the_range() {
        let mut taken = Taken::default();
        taken.add(&json!({"spec": {"clusterIPs": ["10.43.0.9"]}}));
        let mut again = json!({"spec": {"clusterIP": "10.43.0.9"}});
        assert_eq!(
            filled(&mut again, &mut taken),
            [
                "spec.clusterIPs: Invalid value: [\"10.43.0.9\"]: failed to allocate IP 10.43.0.9: provided IP is already allocated"
            ]
        );
        let mut outside = json!({"spec": {"clusterIP": "10.44.0.9"}});
        assert_eq!(filled(&mut outside, &mut taken).len(), 1);
    }

    #[test]
    fn another_address_for_a_service_that_has_one_is_left_to_validation() {
        let old =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"]}});
        let mut new =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"]}});
        let errors = fill(&mut new, range(), &mut Taken::default(), 7, Some(&old));
        assert!(errors.is_empty(), "{errors}");
        assert_eq!(new["spec"]["clusterIP"], "10.96.9.9");
    }

    #[test]
    fn every_address_is_found_before_the_range_is_full() {
        let mut taken = HashSet::new();
        while let Some(address) = range().free(&taken, 200) {
            assert!(range().contains(address) && taken.insert(address), "{address}");
        }
        assert_eq!(taken.len(), 254);
    }

    #[test]
    fn node_ports_are_given_kept_and_checked() {
        let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP", "nodePort": 30007}]}});
        assert!(filled(&mut service, &mut Taken::default()).is_empty());
        assert_eq!(service["spec"]["ports"][0]["nodePort"], 30008, "30007 is named by the other port");
        let mut update = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        keep(&mut update, &service);
        assert_eq!(update["spec"]["ports"][0]["nodePort"], 30008);
        assert_eq!(update["spec"]["clusterIP"], service["spec"]["clusterIP"]);
        let mut low = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}});
        assert_eq!(filled(&mut low, &mut Taken::default()).len(), 1);
        let mut plain = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30007}]}});
        filled(&mut plain, &mut Taken::default());
        assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
    }
}
