//! From objects to [`Policies`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::spans::{self, Span};
use super::{Destination, Direction, Isolated, Peers, Policies, PolicyUid, Ports, Rule};
use crate::{Family, Protocol};

type Labels = BTreeMap<String, String>;

/// A Pod and the addresses that are its own. Pods on the node's network have none.
#[derive(Debug, Clone)]
pub struct Addressed {
    /// The Pod.
    pub pod: Arc<Pod>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Where this node answers for names.
///
/// Elsewhere a Pod does it, and policies let its Pods through by their labels. So the server counts as a
/// Pod of `kube-system` with the label `k8s-app: kube-dns`, as far as its port goes; the rest of the
/// node's address is not a Pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dns {
    /// The address, which is the node's.
    pub address: IpAddr,
    /// The port of UDP that packets for port 53 are led to.
    pub udp: u16,
    /// That of TCP.
    pub tcp: u16,
}

const DNS_NAMESPACE: &str = "kube-system";
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_PORT: u16 = 53;

/// All that policies depend on.
#[derive(Debug, Clone, Copy)]
pub struct Objects<'a> {
    /// The policies.
    pub policies: &'a [Arc<NetworkPolicy>],
    /// The Pods that have an address.
    pub pods: &'a [Addressed],
    /// The namespaces, for their labels.
    pub namespaces: &'a [Arc<Namespace>],
    /// This node.
    pub node: &'a str,
    /// Its server for names.
    pub dns: Option<Dns>,
}

/// Computes who is isolated on this node, and the rules for them.
pub fn compile(objects: &Objects<'_>) -> Policies {
    let world = World::of(objects);
    let mut policies = Policies::default();
    for policy in objects.policies {
        let Some(spec) = &policy.spec else { continue };
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let subjects = world.select(spec.pod_selector.as_ref(), namespace);
        let here: Vec<&Addressed> = subjects.into_iter().filter(|pod| node_of(pod) == objects.node).collect();
        if here.is_empty() {
            continue;
        }
        let uid: PolicyUid = policy.metadata.uid.as_deref().unwrap_or_default().into();
        for direction in Direction::BOTH.into_iter().filter(|direction| applies(spec, *direction)) {
            isolate(&mut policies, direction, &here, &uid);
            let rules = world.rules(spec, direction, namespace, &here);
            policies.rules.insert((direction, uid.clone()), rules);
        }
    }
    policies
}

fn node_of(pod: &Addressed) -> &str {
    pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Whether a policy isolates in this direction. One that names none isolates for ingress, and for egress
/// where it has rules for it.
fn applies(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.iter().flatten();
    let word = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    match spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        true => {
            direction == Direction::Ingress || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())
        }
        false => types.into_iter().any(|named| named == word),
    }
}

/// From now on these Pods get in this direction what some policy of theirs allows, and nothing else.
fn isolate(policies: &mut Policies, direction: Direction, pods: &[&Addressed], policy: &PolicyUid) {
    for pod in pods {
        for address in &pod.addresses {
            let new = || Isolated { pod: client::key_of(&*pod.pod), policies: BTreeSet::new() };
            let isolated = policies.isolated.entry((direction, *address)).or_insert_with(new);
            isolated.policies.insert(policy.clone());
        }
    }
}

/// What selectors are applied to.
struct World<'a> {
    namespaces: BTreeMap<&'a str, &'a Labels>,
    pods: BTreeMap<&'a str, Vec<&'a Addressed>>,
    dns: Option<Dns>,
    dns_labels: Labels,
}

static NO_LABELS: Labels = Labels::new();

impl<'a> World<'a> {
    fn of(objects: &Objects<'a>) -> Self {
        let mut pods: BTreeMap<&str, Vec<&Addressed>> = BTreeMap::new();
        for pod in objects.pods {
            let namespace = pod.pod.metadata.namespace.as_deref().unwrap_or_default();
            pods.entry(namespace).or_default().push(pod);
        }
        let labels = |namespace: &'a Arc<Namespace>| {
            let name = namespace.metadata.name.as_deref().unwrap_or_default();
            (name, namespace.metadata.labels.as_ref().unwrap_or(&NO_LABELS))
        };
        let (key, value) = DNS_LABEL;
        Self {
            namespaces: objects.namespaces.iter().map(labels).collect(),
            pods,
            dns: objects.dns,
            dns_labels: Labels::from([(key.to_owned(), value.to_owned())]),
        }
    }

    /// The Pods of a namespace that an object's selector means; one that is not there means all.
    fn select(&self, selector: Option<&meta::LabelSelector>, namespace: &str) -> Vec<&'a Addressed> {
        let Some(selector) = read(selector) else { return Vec::new() };
        let all = self.pods.get(namespace).into_iter().flatten().copied();
        all.filter(|pod| selector.matches(pod.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS))).collect()
    }

    /// The rules of one policy in one direction, in their order.
    fn rules(
        &self,
        spec: &NetworkPolicySpec,
        direction: Direction,
        namespace: &str,
        subjects: &[&Addressed],
    ) -> Vec<Rule> {
        let none = Vec::new();
        match direction {
            Direction::Ingress => {
                let rules = spec.ingress.as_ref().unwrap_or(&none).iter();
                let parts = rules.map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
                parts.map(|(from, ports)| self.ingress(from, ports, namespace, subjects)).collect()
            }
            Direction::Egress => {
                let rules = spec.egress.iter().flatten();
                let parts = rules.map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
                parts.map(|(to, ports)| self.egress(to, ports, namespace)).collect()
            }
        }
    }

    /// A name stands for the port that the selected Pod itself calls so.
    fn ingress(
        &self,
        from: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
        namespace: &str,
        subjects: &[&Addressed],
    ) -> Rule {
        let wanted = Wanted::of(ports);
        let exact = subjects.iter().flat_map(|pod| wanted.named_by(pod)).collect();
        Rule { peers: self.peers(from, namespace).peers, ports: wanted.numbers, exact }
    }

    /// A name stands for the port that the Pod calls so where the connection goes.
    fn egress(
        &self,
        to: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
        namespace: &str,
    ) -> Rule {
        let wanted = Wanted::of(ports);
        let Selected { peers, dns } = self.peers(to, namespace);
        let mut exact = BTreeSet::new();
        if !wanted.names.is_empty() {
            let all = self.pods.values().flatten();
            let named = all.flat_map(|pod| wanted.named_by(pod));
            exact.extend(named.filter(|(address, ..)| peers.has(*address)));
        }
        if let Some(server) = self.dns.filter(|server| dns || peers.has(server.address)) {
            let others = |to: &Destination| !(peers.has(to.0) && wanted.numbers.has(to.1, to.2));
            exact.extend(wanted.of_dns(server).into_iter().filter(others));
        }
        Rule { peers, ports: wanted.numbers, exact }
    }

    /// The other side as addresses. An absent or empty list means whoever it is.
    fn peers(&self, peers: Option<&[NetworkPolicyPeer]>, namespace: &str) -> Selected {
        let Some(peers) = peers.filter(|peers| !peers.is_empty()) else {
            return Selected { peers: Peers::Any, dns: true };
        };
        let (mut pods, mut blocks, mut dns) = (BTreeSet::new(), Blocks::default(), false);
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                blocks.add(&block.cidr, block.except.as_deref().unwrap_or_default());
                continue;
            }
            let names: Vec<&str> = match &peer.namespace_selector {
                None => vec![namespace],
                Some(selector) => self.namespaces_of(selector),
            };
            for name in names {
                let selected = self.select(peer.pod_selector.as_ref(), name);
                pods.extend(selected.iter().flat_map(|pod| pod.addresses.iter().copied()));
                dns |= name == DNS_NAMESPACE
                    && read(peer.pod_selector.as_ref()).is_some_and(|s| s.matches(&self.dns_labels));
            }
        }
        Selected { peers: Peers::Of { pods, blocks: blocks.disjoint() }, dns }
    }

    /// The namespaces with labels that a selector means: all of them for one that is empty.
    fn namespaces_of(&self, selector: &meta::LabelSelector) -> Vec<&'a str> {
        let Some(selector) = read(Some(selector)) else { return Vec::new() };
        let of = |(name, labels): (&&'a str, &&'a Labels)| selector.matches(*labels).then_some(*name);
        self.namespaces.iter().filter_map(of).collect()
    }
}

/// The other side, and whether this node's server for names is of it.
struct Selected {
    peers: Peers,
    dns: bool,
}

/// The meaning of a selector in a policy. One that cannot be read selects nothing: it was refused when it was
/// written, unless an older release wrote it.
fn read(selector: Option<&meta::LabelSelector>) -> Option<LabelSelector> {
    let Some(selector) = selector else { return Some(LabelSelector::everything()) };
    LabelSelector::from_meta(Some(selector))
        .inspect_err(|error| tracing::warn!(%error, "a NetworkPolicy has a selector that cannot be read"))
        .ok()
}

/// Blocks of addresses, of both families.
#[derive(Default)]
struct Blocks(BTreeMap<Family, Vec<Span<u128>>>);

impl Blocks {
    fn add(&mut self, cidr: &str, except: &[String]) {
        let Some((family, whole)) = spans::of_cidr(cidr) else { return };
        let holes = except.iter().filter_map(|text| spans::of_cidr(text));
        let holes = holes.filter(|(of, _)| *of == family).map(|(_, span)| span).collect();
        self.0.entry(family).or_default().extend(spans::without(whole, holes));
    }

    fn disjoint(self) -> Vec<Span<IpAddr>> {
        let of =
            |(family, list)| spans::union(list).into_iter().map(move |span| spans::addresses(family, span));
        self.0.into_iter().flat_map(of).collect()
    }
}

/// The ports of a rule.
struct Wanted<'a> {
    numbers: Ports,
    names: Vec<(Protocol, &'a str)>,
}

impl<'a> Wanted<'a> {
    fn of(ports: Option<&'a [NetworkPolicyPort]>) -> Self {
        let Some(ports) = ports.filter(|ports| !ports.is_empty()) else {
            return Self { numbers: Ports::Any, names: Vec::new() };
        };
        let (mut numbers, mut names) = (BTreeMap::<Protocol, Vec<Span<u128>>>::new(), Vec::new());
        for port in ports {
            let protocol = Protocol::parse(port.protocol.as_deref());
            match (&port.port, port.end_port) {
                (Some(IntOrString::String(name)), _) => names.push((protocol, name.as_str())),
                (Some(IntOrString::Int(first)), end) => {
                    let (first, end) = (u128::try_from(*first), u128::try_from(end.unwrap_or(*first)));
                    let span = first.ok().zip(end.ok()).map(|(first, last)| Span { first, last });
                    numbers.entry(protocol).or_default().extend(span.filter(|span| span.first <= span.last));
                }
                (None, _) => {
                    numbers.entry(protocol).or_default().push(Span { first: 0, last: u16::MAX.into() });
                }
            }
        }
        let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
        let span = |span: Span<u128>| Span { first: narrow(span.first), last: narrow(span.last) };
        let merged = |list| spans::union(list).into_iter().map(span).collect();
        let numbers = numbers.into_iter().map(|(protocol, list)| (protocol, merged(list))).collect();
        Self { numbers: Ports::Of(numbers), names }
    }

    /// The destinations that a Pod gives one of the names.
    fn named_by(&self, pod: &Addressed) -> Vec<Destination> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let Some(spec) = &pod.pod.spec else { return Vec::new() };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let mut found = Vec::new();
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let protocol = Protocol::parse(port.protocol.as_deref());
            let named = port.name.as_deref().is_some_and(|name| self.names.contains(&(protocol, name)));
            if let Some(number) = u16::try_from(port.container_port).ok().filter(|_| named) {
                found.extend(pod.addresses.iter().map(|address| (*address, protocol, number)));
            }
        }
        found
    }

    /// The destinations of the node's server for names, if these ports are its.
    fn of_dns(&self, server: Dns) -> Vec<Destination> {
        let mut found = Vec::new();
        for (protocol, name, number) in
            [(Protocol::Udp, "dns", server.udp), (Protocol::Tcp, "dns-tcp", server.tcp)]
        {
            if self.numbers.has(protocol, DNS_PORT) || self.names.contains(&(protocol, name)) {
                found.push((server.address, protocol, number));
            }
        }
        found
    }
}
