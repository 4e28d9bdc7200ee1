//! Which packets go where: a function of Services and EndpointSlices.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::outer::{Host, Refusal, refusal};
use crate::policy::{Dns, Policies};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Whose rules these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Eight hexadecimal digits; part of the table's name.
    pub id: String,
    /// This node's name, for Services that only want Pods of the same node.
    pub node: String,
    /// Its zone, by the label that nodes have for it.
    pub zone: Option<String>,
    /// Addresses of the Pods of all nodes, `10.42.0.0/16`; one range of a family.
    pub pod_cidrs: Vec<Range>,
    /// Addresses of Services. More come with ServiceCIDRs.
    pub service_cidrs: Vec<Range>,
    /// The link to the Pods of this node. The node's own programs reach Services by routes to it, which
    /// ranges that come later need too.
    pub link: Option<String>,
    /// Where this node answers for names.
    pub dns: Option<Dns>,
}

/// A range of addresses in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    network: IpAddr,
    bits: u8,
}

impl Range {
    /// Those of `network` whose first `bits` are the same.
    pub fn new(network: IpAddr, bits: u8) -> Self {
        Range { network, bits }
    }

    /// Reads `10.43.0.0/16`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (network, bits) = text.split_once('/')?;
        let (network, bits): (IpAddr, u8) = (network.parse().ok()?, bits.parse().ok()?);
        (bits <= if network.is_ipv4() { 32 } else { 128 }).then(|| Range::new(network, bits))
    }

    /// The first of its addresses and how many bits they share.
    pub(crate) fn prefix(&self) -> (IpAddr, u8) {
        (self.network, self.bits)
    }

    /// A range that no sender is of: the unspecified address.
    fn nobody(family: Family) -> Self {
        match family {
            Family::V4 => Range::new(Ipv4Addr::UNSPECIFIED.into(), 32),
            Family::V6 => Range::new(Ipv6Addr::UNSPECIFIED.into(), 128),
        }
    }

    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        // Both as numbers of 128 bits, IPv4 at the upper end.
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let different = number(self.network) ^ number(address);
        Family::of(self.network) == Family::of(address) && different.leading_zeros() >= u32::from(self.bits)
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.network)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

/// What a packet must be addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// This address: a cluster IP, an external IP or that of a load balancer.
    Address(IpAddr, Protocol, u16),
    /// Any address of the node.
    NodePort(Family, Protocol, u16),
}

impl Match {
    /// The family of the packets.
    pub fn family(&self) -> Family {
        match self {
            Match::Address(address, ..) => Family::of(*address),
            Match::NodePort(family, ..) => *family,
        }
    }
}

/// One Pod's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The Pod's address.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
}

/// What happens to the packets of one match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// `namespace/name:port`, for those who read the rules.
    pub comment: String,
    /// One of these, at random. None: the connection is refused.
    pub targets: Vec<Target>,
    /// The traffic policy leaves no Pod on this node, but there are others:
    /// packets are dropped, so that a load balancer goes elsewhere.
    pub drop: bool,
    /// Answers must come back through this node: always, or when the sender is
    /// no Pod.
    pub from_outside: bool,
    /// The Pod sees who sent, and answers by this node because it is here.
    pub keeps_sender: bool,
    /// So many seconds after its last connection a client comes back to the same Pod.
    pub affinity: Option<u32>,
    /// Only from these addresses, unless there are none.
    pub sources: Vec<Range>,
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Whose they are.
    pub instance: Instance,
    /// By match. A cluster IP comes before addresses that Services claim for themselves; among equals
    /// the first Service has it.
    pub entries: BTreeMap<Match, Entry>,
    /// Who may reach whom.
    pub policies: Arc<Policies>,
}

/// Computes the rules of a node, and what Services may not have.
pub fn ruleset(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    instance: &Instance,
    host: &Host,
) -> (Ruleset, Vec<Refusal>) {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(name) = name {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            by_service.entry((namespace, name)).or_default().push(slice);
        }
    }
    let mut sorted: Vec<&Arc<Service>> = services.iter().collect();
    sorted.sort_by(|a, b| key(a).cmp(&key(b)));
    let (mut entries, mut claims, mut refusals) = (BTreeMap::new(), Vec::new(), Vec::new());
    for service in sorted {
        let slices = by_service.get(&key(service)).map(Vec::as_slice).unwrap_or_default();
        for (origin, matched, entry) in service_entries(service, slices, instance) {
            match origin {
                Origin::Given => drop(entries.entry(matched).or_insert(entry)),
                Origin::Claimed => claims.push((service, matched, entry)),
            }
        }
    }
    for (service, matched, entry) in claims {
        match refusal(service, matched, instance, host) {
            Some(refusal) => refusals.push(refusal),
            None => drop(entries.entry(matched).or_insert(entry)),
        }
    }
    (Ruleset { instance: instance.clone(), entries, policies: Arc::default() }, refusals)
}

/// Who has decided that a Service has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The cluster: no other Service has it.
    Given,
    /// The Service's author, or a load balancer.
    Claimed,
}

fn key(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn service_entries(
    service: &Service,
    slices: &[&EndpointSlice],
    instance: &Instance,
) -> Vec<(Origin, Match, Entry)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let ports = spec.ports.iter().flatten();
    ports.flat_map(|port| port_entries(service, spec, port, slices, instance)).collect()
}

fn port_entries(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    instance: &Instance,
) -> Vec<(Origin, Match, Entry)> {
    let (namespace, name) = key(service);
    let comment = format!("{namespace}/{name}:{}", port.name.as_deref().unwrap_or_default());
    let protocol = Protocol::parse(port.protocol.as_deref());
    let all = endpoints(slices, port);
    let affinity = affinity(spec);
    let entry = |family: Family, policy: &Option<String>, from_outside| {
        let local_only = policy.as_deref() == Some("Local");
        let near = if local_only { Near::Local(&instance.node) } else { Near::Hinted(instance) };
        let targets = choose(&all, family, near);
        let drop = targets.is_empty() && !choose(&all, family, Near::Anywhere).is_empty();
        let (from_outside, keeps_sender) = (from_outside && !local_only, from_outside && local_only);
        let (comment, sources) = (comment.clone(), Vec::new());
        Entry { comment, targets, drop, from_outside, keeps_sender, affinity, sources }
    };
    let internal = |family| entry(family, &spec.internal_traffic_policy, false);
    let external = |family| entry(family, &spec.external_traffic_policy, true);
    let mut entries = Vec::new();
    let Ok(number) = u16::try_from(port.port) else { return entries };
    for address in cluster_ips(spec) {
        let matched = Match::Address(address, protocol, number);
        entries.push((Origin::Given, matched, internal(Family::of(address))));
    }
    for address in addresses(spec.external_ips.iter().flatten()) {
        let matched = Match::Address(address, protocol, number);
        entries.push((Origin::Claimed, matched, external(Family::of(address))));
    }
    for address in balancer_ips(service) {
        let (matched, family) = (Match::Address(address, protocol, number), Family::of(address));
        let entry = Entry { sources: sources(spec, family), ..external(family) };
        entries.push((Origin::Claimed, matched, entry));
    }
    if let Some(number) = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) {
        for family in families(spec) {
            entries.push((Origin::Given, Match::NodePort(family, protocol, number), external(family)));
        }
    }
    entries
}

/// Upstream's default: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

/// For how many seconds a client is remembered, if it is.
fn affinity(spec: &ServiceSpec) -> Option<u32> {
    let client = spec.session_affinity.as_deref() == Some("ClientIP");
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| u32::try_from(config.timeout_seconds?).ok());
    client.then(|| seconds.filter(|seconds| *seconds > 0).unwrap_or(AFFINITY_SECONDS))
}

/// From where a load balancer's address may be used. A list of which none is of the family lets nobody in.
fn sources(spec: &ServiceSpec, family: Family) -> Vec<Range> {
    let listed = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let read = |text: &String| api::validate::parse_cidr_sloppy(text.trim());
    let ranges: Vec<Range> =
        listed.iter().filter_map(read).map(|(network, bits)| Range::new(network, bits)).collect();
    let own: Vec<Range> = ranges.iter().copied().filter(|range| range.family() == family).collect();
    if own.is_empty() && !ranges.is_empty() { vec![Range::nobody(family)] } else { own }
}

fn families(spec: &ServiceSpec) -> Vec<Family> {
    let mut families: Vec<Family> = cluster_ips(spec).into_iter().map(Family::of).collect();
    families.dedup();
    families
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.clone().or_else(|| spec.cluster_ip.clone().map(|ip| vec![ip]));
    listed.unwrap_or_default().iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|ip| ip.parse().ok()).collect()
}

fn balancer_ips(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    addresses(balancer.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()))
}

struct Candidate<'a> {
    endpoint: &'a Endpoint,
    target: Target,
}

fn endpoints<'a>(slices: &[&'a EndpointSlice], port: &ServicePort) -> Vec<Candidate<'a>> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices {
        let same = |candidate: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            candidate.name.as_deref().unwrap_or_default() == wanted
                && Protocol::parse(candidate.protocol.as_deref()) == Protocol::parse(port.protocol.as_deref())
        };
        let number = slice.ports.iter().flatten().find(same).and_then(|port| u16::try_from(port.port?).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // Consumers use the first address only, says the API.
            if let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) {
                found.push(Candidate { endpoint, target: Target { address, port: number } });
            }
        }
    }
    found
}

/// Which Pods a packet may go to, by where they are.
#[derive(Clone, Copy)]
enum Near<'a> {
    Anywhere,
    /// On this node.
    Local(&'a str),
    /// As their hints say, where these leave somebody.
    Hinted(&'a Instance),
}

/// Those that are ready; when there are none, those that still serve while
/// they are leaving: a connection there is better than a refused one.
fn choose(all: &[Candidate<'_>], family: Family, near: Near<'_>) -> Vec<Target> {
    let conditions = |candidate: &Candidate<'_>| candidate.endpoint.conditions.clone().unwrap_or_default();
    let pick = |wanted: &dyn Fn(&Candidate<'_>) -> bool| {
        let of_family = |candidate: &&Candidate<'_>| Family::of(candidate.target.address) == family;
        let found: Vec<&Candidate<'_>> = all.iter().filter(of_family).filter(|c| wanted(c)).collect();
        let mut targets: Vec<Target> =
            nearest(found, near).into_iter().map(|candidate| candidate.target).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    };
    let ready = pick(&|candidate| conditions(candidate).ready != Some(false));
    if !ready.is_empty() {
        return ready;
    }
    pick(&|candidate| {
        let conditions = conditions(candidate);
        conditions.serving == Some(true) && conditions.terminating == Some(true)
    })
}

/// What of these is near enough.
fn nearest<'a>(found: Vec<&'a Candidate<'a>>, near: Near<'_>) -> Vec<&'a Candidate<'a>> {
    let on = |candidate: &Candidate<'_>, node: &str| candidate.endpoint.node_name.as_deref() == Some(node);
    match near {
        Near::Anywhere => found,
        Near::Local(node) => found.into_iter().filter(|candidate| on(candidate, node)).collect(),
        Near::Hinted(instance) => hinted(found, instance),
    }
}

/// Hints hold where all have some and one of them is for here: otherwise they are about to change, and
/// whoever is left out by half of them would be nobody's.
fn hinted<'a>(found: Vec<&'a Candidate<'a>>, instance: &Instance) -> Vec<&'a Candidate<'a>> {
    let nodes = |candidate: &Candidate<'_>| {
        let hints = candidate.endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_ref());
        hints.map(|nodes| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>())
    };
    let zones = |candidate: &Candidate<'_>| {
        let hints = candidate.endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        hints.map(|zones| zones.iter().map(|zone| zone.name.clone()).collect::<Vec<_>>())
    };
    by_hint(&found, &nodes, Some(&instance.node))
        .or_else(|| by_hint(&found, &zones, instance.zone.as_ref()))
        .unwrap_or(found)
}

/// Those that are meant for here, if every one has hints of this kind.
fn by_hint<'a>(
    found: &[&'a Candidate<'a>],
    hints: &dyn Fn(&Candidate<'_>) -> Option<Vec<String>>,
    here: Option<&String>,
) -> Option<Vec<&'a Candidate<'a>>> {
    let here = here?;
    let all: Option<Vec<Vec<String>>> = found.iter().map(|candidate| hints(candidate)).collect();
    let paired = found.iter().copied().zip(all?);
    let near: Vec<&Candidate<'_>> =
        paired.filter(|(_, hints)| hints.contains(here)).map(|(candidate, _)| candidate).collect();
    (!near.is_empty()).then_some(near)
}
