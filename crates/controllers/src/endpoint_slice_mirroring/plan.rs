//! Which slices Endpoints become: one for each family of addresses with the same ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort as SubsetPort, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints were once used to elect a leader, and have nothing to do with a Service then.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something of the Endpoints alone.
const OWN: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// `--mirroring-max-endpoints-per-subset`.
pub(super) const ADDRESSES_MAX: usize = 1000;

/// Whether Endpoints are mirrored, as far as they say themselves.
pub(super) fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skips = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let annotations = endpoints.metadata.annotations.as_ref();
    skips.is_none_or(|skips| skips != "true") && annotations.is_none_or(|all| !all.contains_key(LEADER))
}

pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

/// What is to be written, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) replace: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Addresses that are none.
    pub(super) invalid: usize,
    /// Addresses that are more than there may be of a subset.
    pub(super) too_many: usize,
}

/// Endpoints that share a slice.
struct Group {
    family: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

pub(super) fn plan(endpoints: &Endpoints, mut known: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let groups = groups(endpoints, &mut plan);
    // The oldest name stays, so that two who look at the same slices write the same.
    known.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for group in groups {
        let (mut same, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|slice| group.is_of(slice));
        known = others;
        if same.is_empty() {
            plan.create.push(group.slice(metadata(endpoints)));
            continue;
        }
        let first = same.remove(0);
        plan.delete.extend(same);
        let wanted = group.slice(renewed(&first.metadata, metadata(endpoints)));
        if !is_same(&first, &wanted) {
            plan.replace.push(wanted);
        }
    }
    recycle(&mut plan, known);
    plan
}

/// A slice that would go takes in what would be a new one: one write for two. The family of a slice never changes.
fn recycle(plan: &mut Plan, mut unused: Vec<Arc<EndpointSlice>>) {
    let Plan { create, replace, .. } = plan;
    create.retain_mut(|new| {
        let fits = unused.iter().position(|old| old.address_type == new.address_type);
        let Some(old) = fits.map(|index| unused.remove(index)) else { return true };
        new.metadata = renewed(&old.metadata, std::mem::take(&mut new.metadata));
        replace.push(std::mem::take(new));
        false
    });
    plan.delete.append(&mut unused);
}

fn groups(endpoints: &Endpoints, plan: &mut Plan) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut taken = 0;
        for (address, ready) in ready.chain(others) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                plan.invalid += 1;
                continue;
            };
            if taken >= ADDRESSES_MAX {
                plan.too_many += 1;
                continue;
            }
            taken += 1;
            add(&mut groups, &ports, ip, endpoint(address, ip, ready));
        }
    }
    for group in &mut groups {
        group.endpoints.truncate(ADDRESSES_MAX);
    }
    groups
}

/// An address is listed once, however many subsets with these ports have it.
fn add(groups: &mut Vec<Group>, ports: &[EndpointPort], ip: IpAddr, endpoint: Endpoint) {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let found = groups.iter_mut().find(|group| group.family == family && group.ports == ports);
    match found {
        None => groups.push(Group { family, ports: ports.to_vec(), endpoints: vec![endpoint] }),
        Some(group) => {
            let is_it =
                |one: &Endpoint| one.addresses == endpoint.addresses && one.target_ref == endpoint.target_ref;
            if !group.endpoints.iter().any(is_it) {
                group.endpoints.push(endpoint);
            }
        }
    }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn port(port: &SubsetPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

impl Group {
    fn is_of(&self, slice: &EndpointSlice) -> bool {
        slice.address_type == self.family && slice.ports.as_deref().unwrap_or_default() == self.ports
    }

    fn slice(&self, metadata: ObjectMeta) -> EndpointSlice {
        EndpointSlice {
            metadata,
            address_type: self.family.to_owned(),
            endpoints: Some(self.endpoints.clone()),
            ports: Some(self.ports.clone()),
        }
    }
}

/// What all slices of the Endpoints have; no name yet.
fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let from = &endpoints.metadata;
    let name = from.name.clone().unwrap_or_default();
    let mut labels = from.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations: BTreeMap<String, String> = from.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: from.namespace.clone(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Endpoints".into(),
            name,
            uid: from.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// A slice that is there, with what it should say.
fn renewed(old: &ObjectMeta, wanted: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        labels: wanted.labels,
        annotations: wanted.annotations,
        owner_references: wanted.owner_references,
        ..old.clone()
    }
}

fn is_same(old: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let listed = |slice: &EndpointSlice| slice.endpoints.clone().unwrap_or_default();
    let marked = |metadata: &ObjectMeta| metadata.annotations.clone().unwrap_or_default();
    listed(old) == listed(wanted)
        && old.metadata.labels == wanted.metadata.labels
        && marked(&old.metadata) == marked(&wanted.metadata)
        && old.metadata.owner_references == wanted.metadata.owner_references
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "n", "uid": "u",
            "labels": {"app": "db"}, "annotations": {OWN[0]: "t", OWN[1]: "{}", "mine": "yes"}}, "subsets": subsets}))
        .unwrap()
    }

    fn listed(slice: &EndpointSlice) -> Vec<(String, bool)> {
        let all = slice.endpoints.iter().flatten();
        all.map(|one| (one.addresses[0].clone(), one.conditions.as_ref().unwrap().ready.unwrap())).collect()
    }

    /// What the server makes of it.
    fn stored(mut slice: EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        slice.metadata.name = Some(name.to_owned());
        slice.metadata.resource_version = Some("7".to_owned());
        Arc::new(slice)
    }

    #[test]
    fn a_subset_becomes_a_slice_for_each_family() {
        let given = endpoints(
            json!([{"addresses": [{"ip": "192.0.2.1", "hostname": "a"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432, "protocol": "TCP", "name": "pg"}]}]),
        );
        let plan = plan(&given, Vec::new());
        let [four, six] = &plan.create[..] else { panic!("{plan:?}") };
        assert_eq!(listed(four), [("192.0.2.1".to_owned(), true), ("192.0.2.2".to_owned(), false)]);
        assert_eq!((six.address_type.as_str(), listed(six).len()), ("IPv6", 1));
        let labels = four.metadata.labels.as_ref().unwrap();
        assert_eq!((labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str()), ("db", MANAGER));
        assert_eq!(labels["app"], "db");
        assert_eq!(four.metadata.annotations, Some([("mine".to_owned(), "yes".to_owned())].into()));
        assert_eq!(four.metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
        assert_eq!(four.ports.as_ref().unwrap()[0].port, Some(5432));
        let known = vec![stored(four.clone(), "b"), stored(six.clone(), "c"), stored(four.clone(), "d")];
        let again = super::plan(&given, known);
        assert!(again.create.is_empty() && again.replace.is_empty(), "{again:?}");
        let gone: Vec<_> = again.delete.iter().map(|slice| slice.metadata.name.as_deref()).collect();
        assert_eq!(gone, [Some("d")], "what was made twice goes");
    }

    #[test]
    fn a_slice_of_other_ports_is_used_again() {
        let of = |port: u16, ip: &str| {
            endpoints(json!([{"addresses": [{"ip": ip}], "ports": [{"port": port, "protocol": "TCP"}]}]))
        };
        let first = plan(&of(80, "192.0.2.1"), Vec::new()).create.remove(0);
        let known = || vec![stored(first.clone(), "a")];
        let moved = plan(&of(81, "192.0.2.1"), known());
        assert!(moved.create.is_empty() && moved.delete.is_empty());
        assert_eq!(moved.replace[0].metadata.name.as_deref(), Some("a"));
        assert_eq!(moved.replace[0].ports.as_ref().unwrap()[0].port, Some(81));
        let changed = plan(&of(80, "192.0.2.9"), known());
        assert_eq!(listed(&changed.replace[0]), [("192.0.2.9".to_owned(), true)]);
        assert_eq!(changed.replace[0].metadata.resource_version.as_deref(), Some("7"));
        let other = plan(&of(80, "2001:db8::1"), known());
        assert_eq!((other.create.len(), other.delete.len()), (1, 1), "the family of a slice stays");
        assert_eq!(plan(&endpoints(json!([])), known()).delete.len(), 1);
    }

    #[test]
    fn addresses_beyond_the_limit_are_counted_and_left_out() {
        let address = |number: usize| json!({"ip": format!("10.0.{}.{}", number / 256, number % 256)});
        let mut addresses: Vec<Value> = (0..1002).map(address).collect();
        addresses.push(json!({"ip": "none"}));
        let plan = plan(&endpoints(json!([{"addresses": addresses, "ports": [{"port": 80}]}])), Vec::new());
        assert_eq!((plan.invalid, plan.too_many), (1, 2));
        assert_eq!(listed(&plan.create[0]).len(), ADDRESSES_MAX);
    }

    #[test]
    fn endpoints_say_when_they_are_not_for_a_service() {
        let with = |labels: Value, annotations: Value| -> Endpoints {
            serde_json::from_value(json!({"metadata": {"labels": labels, "annotations": annotations}}))
                .unwrap()
        };
        assert!(is_mirrored(&with(json!({SKIP: "false"}), json!({}))));
        assert!(!is_mirrored(&with(json!({SKIP: "true"}), json!({}))));
        assert!(!is_mirrored(&with(json!({}), json!({LEADER: "{}"}))));
    }
}
