//! What the cluster's names stand for: a function of Services and EndpointSlices.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// All names of the cluster.
#[derive(Debug, Default)]
pub struct Zone {
    /// Labels of the cluster's domain: `cluster`, `local`.
    pub(crate) domain: Vec<String>,
    services: HashMap<String, Named>,
    namespaces: HashSet<String>,
    /// Names below the domain of addresses: `web.shop.svc`.
    reverse: HashMap<IpAddr, String>,
    ranges: Vec<Range>,
}

/// A Service's name.
#[derive(Debug, PartialEq)]
pub(crate) enum Named {
    /// Has addresses of its own.
    Addresses { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// Its endpoints are the answer.
    Headless(Vec<Endpoint>),
    /// Another name is the answer.
    External(String),
}

/// A named port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
    pub(crate) number: u16,
}

/// An endpoint of a headless Service that is ready.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    /// Its hostname, or its address with dashes.
    pub(crate) hostname: String,
    pub(crate) address: IpAddr,
    /// Shared by the endpoints of a slice.
    pub(crate) ports: Arc<[Port]>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    base: u32,
    mask: u32,
}

impl Range {
    /// Reads `10.42.0.0/16`; what is no IPv4 range is left out.
    fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits): (Ipv4Addr, u32) = (base.parse().ok()?, bits.parse().ok()?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
        Some(Range { base: u32::from(base) & mask, mask })
    }
}

impl Zone {
    /// Computes the names below `domain`. `ranges` are those whose addresses nobody else names.
    pub fn new(
        domain: &str,
        ranges: &[String],
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
    ) -> Self {
        let mut zone = Zone {
            domain: domain.split('.').filter(|label| !label.is_empty()).map(str::to_lowercase).collect(),
            ranges: ranges.iter().filter_map(|range| Range::parse(range)).collect(),
            ..Zone::default()
        };
        let slices = by_service(slices);
        for service in services {
            zone.add(service, &slices);
        }
        zone
    }

    fn add(&mut self, service: &Service, slices: &HashMap<String, Vec<&EndpointSlice>>) {
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let name = service.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &service.spec else { return };
        let key = key(&namespace, &name);
        let slices = slices.get(&key).map(Vec::as_slice).unwrap_or_default();
        let Some(named) = named(spec, slices) else { return };
        match &named {
            Named::Addresses { addresses, .. } => {
                self.reverse.extend(addresses.iter().map(|ip| (*ip, format!("{name}.{namespace}.svc"))));
            }
            Named::Headless(endpoints) => {
                for one in endpoints {
                    // Two Services may list one Pod; the name that a Service's own address has stays.
                    let full = || format!("{}.{name}.{namespace}.svc", one.hostname);
                    self.reverse.entry(one.address).or_insert_with(full);
                }
            }
            Named::External(_) => {}
        }
        self.services.insert(key, named);
        self.namespaces.insert(namespace);
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Named> {
        self.services.get(&key(namespace, name))
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }

    pub(crate) fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.reverse.get(&address).map(String::as_str)
    }

    /// Whether only the cluster gives out this address.
    pub(crate) fn owns(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| u32::from(address) & range.mask == range.base)
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn by_service(slices: &[Arc<EndpointSlice>]) -> HashMap<String, Vec<&EndpointSlice>> {
    let mut found: HashMap<String, Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(service) = service {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            found.entry(key(namespace, service)).or_default().push(slice);
        }
    }
    found
}

fn named(spec: &ServiceSpec, slices: &[&EndpointSlice]) -> Option<Named> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Named::External);
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        let mut endpoints: Vec<Endpoint> = slices.iter().flat_map(|slice| ready(slice)).collect();
        endpoints.sort_by(|a, b| (a.address, &a.hostname).cmp(&(b.address, &b.hostname)));
        endpoints.dedup_by(|a, b| a == b);
        return Some(Named::Headless(endpoints));
    }
    let listed = spec.cluster_ips.clone().or_else(|| spec.cluster_ip.clone().map(|ip| vec![ip]));
    let addresses = listed.unwrap_or_default().iter().filter_map(|ip| ip.parse().ok()).collect();
    let ports = spec.ports.iter().flatten();
    let ports =
        ports.filter_map(|port| self::port(port.name.as_ref(), port.protocol.as_ref(), Some(port.port)));
    Some(Named::Addresses { addresses, ports: ports.collect() })
}

/// Only named ports have names.
fn port(name: Option<&String>, protocol: Option<&String>, number: Option<i32>) -> Option<Port> {
    let name = name.filter(|name| !name.is_empty())?.to_lowercase();
    let protocol = protocol.map_or_else(|| "tcp".to_owned(), |protocol| protocol.to_lowercase());
    Some(Port { name, protocol, number: u16::try_from(number?).ok()? })
}

fn ready(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports = slice.ports.iter().flatten();
    let ports: Arc<[Port]> =
        ports.filter_map(|one| port(one.name.as_ref(), one.protocol.as_ref(), one.port)).collect();
    let endpoints = slice.endpoints.iter().flatten();
    // An endpoint that does not say is to be taken as ready, says the API.
    let ready = endpoints
        .filter(|one| one.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false));
    let endpoint = |one: &k8s_openapi::api::discovery::v1::Endpoint| {
        let address: IpAddr = one.addresses.first()?.parse().ok()?;
        let hostname = one.hostname.clone().filter(|hostname| !hostname.is_empty());
        let hostname = hostname.unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"));
        Some(Endpoint { hostname: hostname.to_lowercase(), address, ports: ports.clone() })
    };
    ready.filter_map(endpoint).collect()
}
