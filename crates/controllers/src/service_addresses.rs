//! The addresses of Services as objects: an IPAddress for each, and the ServiceCIDRs that they are given from.
//!
//! The server gives addresses out by what Services hold; an IPAddress shows it, so it comes after its Service,
//! goes after it, and comes back when somebody takes it away. A ServiceCIDR is ready from the beginning, and on
//! its way out it waits for the last Service with an address that no other ServiceCIDR has.

use std::net::IpAddr;
use std::sync::Arc;

use api::bootstrap::ip_address;
use api::strategy::addresses::{ALLOCATOR, MANAGED_BY};
use client::{Change, Client, DeleteOptions, Error, Informer, ListOptions, Patch, PatchKind, key_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::volume::{finalizers_patch, missing_protection};
use crate::workqueue::Next;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

struct Addresses {
    client: Client,
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
}

struct Ranges {
    client: Client,
    ranges: Informer<ServiceCIDR>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let services = context.informers.of::<Service>();
    let addresses = context.informers.of::<IPAddress>();
    let ranges = context.informers.of::<ServiceCIDR>();
    spawn_addresses(context, services.clone(), addresses.clone(), tasks);
    let (of_range, of_service) = (ranges.clone(), ranges.clone());
    let controller = Controller::new("service-cidrs")
        .watches(&ranges, move |change| {
            let changed = key_of(&**change.object());
            // Another one may hold what one on its way out has waited for.
            let going = of_range.filter(|range| range.metadata.deletion_timestamp.is_some());
            going.iter().map(|range| key_of(&**range)).chain([changed]).collect()
        })
        .watches(&services, move |change| match change {
            Change::Added(_) => Vec::new(),
            Change::Modified { old, new } if held(old) == held(new) => Vec::new(),
            Change::Modified { .. } | Change::Deleted(_) => {
                let going = of_service.filter(|range| range.metadata.deletion_timestamp.is_some());
                going.iter().map(|range| key_of(&**range)).collect()
            }
        });
    let this = Arc::new(Ranges { client: context.client.clone(), ranges });
    controller.run(tasks, context.shutdown.clone(), move |name| {
        let this = this.clone();
        async move { this.sync(&name).await }
    });
}

/// Keys are Services, `namespace/name`, and addresses.
fn spawn_addresses(
    context: &Context,
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
    tasks: &mut JoinSet<()>,
) {
    let controller = Controller::new("ipallocator-repair-controller")
        .watches(&services, |change| {
            let mut keys = vec![key_of(&**change.object())];
            match change {
                Change::Added(_) => {}
                Change::Modified { old, new } if held(old) == held(new) => keys.clear(),
                Change::Modified { old, .. } | Change::Deleted(old) => {
                    keys.extend(held(old).iter().map(ToString::to_string));
                }
            }
            keys
        })
        .watches(&addresses, |change| {
            let address = change.object();
            parent(address).into_iter().chain(address.metadata.name.clone()).collect()
        });
    let this = Arc::new(Addresses { client: context.client.clone(), services, addresses });
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move {
            match key.contains('/') {
                true => this.show(&key).await,
                false => this.take_back(&key).await,
            }
        }
    });
}

/// The addresses that a Service was given.
fn held(service: &Service) -> Vec<IpAddr> {
    let addresses = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    addresses.filter_map(|address| address.parse().ok()).collect()
}

/// The Service that an IPAddress is kept for.
fn parent(address: &IPAddress) -> Option<String> {
    let parent = &address.spec.parent_ref;
    let is_service = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    is_service.then(|| format!("{}/{}", parent.namespace.as_deref().unwrap_or_default(), parent.name))
}

fn is_ours(address: &IPAddress) -> bool {
    address
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|by| by == ALLOCATOR)
}

/// Only this object, at this version.
fn exactly(address: &IPAddress) -> DeleteOptions {
    let metadata = &address.metadata;
    DeleteOptions {
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        ..DeleteOptions::default()
    }
}

impl Addresses {
    /// Makes the IPAddresses of a Service, in place of those that say something else.
    async fn show(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(service) = self.services.get(namespace, name) else { return Ok(Next::Done) };
        for address in held(&service) {
            let text = address.to_string();
            if let Some(there) = self.addresses.get("", &text) {
                if is_ours(&there) && parent(&there).as_deref() == Some(key) {
                    continue;
                }
                unless_gone(self.client.delete::<IPAddress>("", &text, &exactly(&there)).await)?;
            }
            let shown = serde_json::from_value(ip_address(address, namespace, name));
            let shown: IPAddress = shown.expect("what the server makes of itself is an IPAddress");
            self.client.create("", &shown).await?;
        }
        Ok(Next::Done)
    }

    /// Removes the IPAddress of a Service that is gone.
    async fn take_back(&self, address: &str) -> Result<Next, Error> {
        let Some(there) = self.addresses.get("", address).filter(|there| is_ours(there)) else {
            return Ok(Next::Done);
        };
        let key = parent(&there).unwrap_or_default();
        let (namespace, name) = split(&key);
        let holds = |service: &Service| held(service).iter().any(|held| held.to_string() == address);
        if self.services.get(namespace, name).is_some_and(|service| holds(&service)) {
            return Ok(Next::Done);
        }
        // What is known of Services may be older than the IPAddress.
        match self.client.get::<Service>(namespace, name).await {
            Ok(service) if holds(&service) => return Ok(Next::Done),
            Err(error) if !error.is_not_found() && !key.is_empty() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        unless_gone(self.client.delete::<IPAddress>("", address, &exactly(&there)).await)?;
        Ok(Next::Done)
    }
}

/// The ranges that a ServiceCIDR names.
fn blocks(range: &ServiceCIDR) -> Vec<Block> {
    let texts = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| Block::parse(text)).collect()
}

/// A range of addresses of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    address: IpAddr,
    bits: u8,
}

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        Some(Block { address: address.parse().ok()?, bits: bits.parse().ok()? })
    }

    fn has(self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let different = number(self.address) ^ number(address);
        self.address.is_ipv4() == address.is_ipv4() && different.leading_zeros() >= u32::from(self.bits)
    }

    fn holds(self, other: Block) -> bool {
        self.bits <= other.bits && self.has(other.address)
    }
}

/// Whether each range that goes is held by one that stays.
fn has_parents(going: &[Block], others: &[Block]) -> bool {
    going.iter().all(|going| others.iter().any(|other| other.holds(*going)))
}

/// An address that would be of no range any more.
fn orphan(going: &[Block], others: &[Block], mut held: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let has = |blocks: &[Block], address| blocks.iter().any(|block| block.has(address));
    held.find(|address| has(going, *address) && !has(others, *address))
}

impl Ranges {
    async fn sync(&self, name: &str) -> Result<Next, Error> {
        let Some(range) = self.ranges.get("", name) else { return Ok(Next::Done) };
        if range.metadata.deletion_timestamp.is_some() {
            return self.release(&range).await;
        }
        if let Some(finalizers) = missing_protection(&range.metadata, FINALIZER) {
            // The changed object comes back by the watch and goes on from there.
            let body = finalizers_patch(range.metadata.resource_version.as_deref(), &finalizers);
            self.patch(name, &Patch::new(PatchKind::Merge, body)).await?;
            return Ok(Next::Done);
        }
        self.tell(&range, "True", "", "Kubernetes Service CIDR is ready").await
    }

    /// From the mark on the server gives nothing of it away: what Services hold then is all there will be.
    async fn release(&self, range: &ServiceCIDR) -> Result<Next, Error> {
        let name = range.metadata.name.as_deref().unwrap_or_default();
        let finalizers = range.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Next::Done);
        }
        // Twins that go together would hold each other's addresses.
        let stays = |other: &ServiceCIDR| other.metadata.deletion_timestamp.is_none();
        let others: Vec<Block> = self.ranges.filter(stays).iter().flat_map(|range| blocks(range)).collect();
        let going = blocks(range);
        if !has_parents(&going, &others) {
            let live = self.client.list::<Service>("", &ListOptions::default()).await?;
            if orphan(&going, &others, live.items.iter().flat_map(held)).is_some() {
                let words = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
                return self.tell(range, "False", "Terminating", words).await;
            }
        }
        let left: Vec<String> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
        let body = finalizers_patch(range.metadata.resource_version.as_deref(), &left);
        self.patch(name, &Patch::new(PatchKind::Merge, body)).await?;
        Ok(Next::Done)
    }

    async fn tell(
        &self,
        range: &ServiceCIDR,
        status: &str,
        reason: &str,
        message: &str,
    ) -> Result<Next, Error> {
        let known = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut conditions: Vec<Condition> = known.cloned().collect();
        let told = conditions.iter().find(|condition| condition.type_ == "Ready");
        if told.is_some_and(|told| told.status == status && told.message == message) {
            return Ok(Next::Done);
        }
        conditions.retain(|condition| condition.type_ != "Ready");
        let mut conditions = json!(conditions);
        if let Some(list) = conditions.as_array_mut() {
            list.push(json!({"type": "Ready", "status": status, "reason": reason, "message": message,
                             "lastTransitionTime": format!("{:.0}", Timestamp::now())}));
        }
        let body = json!({"metadata": {"resourceVersion": range.metadata.resource_version},
                          "status": {"conditions": conditions}});
        let name = range.metadata.name.as_deref().unwrap_or_default();
        self.patch(name, &Patch::status(PatchKind::Merge, body)).await?;
        Ok(Next::Done)
    }

    async fn patch(&self, name: &str, patch: &Patch<'_>) -> Result<(), Error> {
        unless_gone(self.client.patch::<ServiceCIDR>("", name, patch).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_when_another_has_what_is_held() {
        let blocks =
            |texts: &[&str]| texts.iter().map(|text| Block::parse(text).unwrap()).collect::<Vec<_>>();
        let going = blocks(&["10.43.1.0/24"]);
        assert!(has_parents(&going, &blocks(&["10.43.0.0/16"])));
        assert!(has_parents(&going, &blocks(&["10.43.1.0/24"])), "a twin");
        assert!(!has_parents(&going, &blocks(&["10.43.1.0/25", "2001:db8::/16"])));
        let held = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let orphan = |others: &[&str], addresses: &[&str]| {
            orphan(&going, &blocks(others), held(addresses).into_iter()).is_some()
        };
        assert!(orphan(&[], &["10.43.1.7"]));
        assert!(!orphan(&[], &["10.43.2.7", "2001:db8::7"]), "another's");
        assert!(!orphan(&["10.43.1.0/25"], &["10.43.1.7"]), "the smaller one has it");
        assert!(orphan(&["10.43.1.0/25"], &["10.43.1.200"]));
    }
}
