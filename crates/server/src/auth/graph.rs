//! What leads from a node to objects: its Pods, what they name, and the volumes their claims are bound to.
//!
//! Each Pod, volume and attachment is parsed when it changes; a question looks through the Pods of one node.

use std::collections::HashMap;
use std::sync::Arc;

use api::meta::Object as _;
use api::strategy::admission::references::{Referent, named_by};
use bytes::Bytes;
use k8s_openapi::api::core::v1::PersistentVolume;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::materialized::View;

const PODS: &str = "/core/pods/";
const VOLUMES: &str = "/core/persistentvolumes/";
const ATTACHMENTS: &str = "/storage.k8s.io/volumeattachments/";
/// Below these are the keys of what the graph is made of.
pub(super) const PREFIXES: [&str; 3] = [PODS, VOLUMES, ATTACHMENTS];

/// On the Pods that a node shows of its own accord.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A Pod on a node.
#[derive(Debug)]
struct Placed {
    namespace: String,
    name: String,
    needs: Vec<(Referent, String)>,
}

/// A PersistentVolume that is meant for a claim, each with its namespace.
#[derive(Debug)]
struct Bound {
    claim: (String, String),
    secrets: Vec<(String, String)>,
}

/// The way from nodes to objects.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// By node and key.
    pods: HashMap<String, HashMap<Arc<str>, Placed>>,
    /// The node of each Pod by its key.
    nodes: HashMap<Arc<str>, String>,
    volumes: HashMap<String, Bound>,
    /// The node of each VolumeAttachment by its name.
    attachments: HashMap<String, String>,
}

impl View for Graph {
    fn put(&mut self, key: &Arc<str>, object: &Bytes) {
        self.remove(key);
        if key.starts_with(PODS) {
            let Some((node, placed)) = parse(object).and_then(place) else { return };
            self.nodes.insert(key.clone(), node.clone());
            self.pods.entry(node).or_default().insert(key.clone(), placed);
        } else if let Some(name) = key.strip_prefix(VOLUMES) {
            let Some(bound) = parse(object).and_then(bound) else { return };
            self.volumes.insert(name.to_owned(), bound);
        } else if let Some(name) = key.strip_prefix(ATTACHMENTS) {
            let Some(attachment) = parse::<Value>(object) else { return };
            let Some(node) = attachment["spec"]["nodeName"].as_str() else { return };
            self.attachments.insert(name.to_owned(), node.to_owned());
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(name) = key.strip_prefix(VOLUMES) {
            self.volumes.remove(name);
        } else if let Some(name) = key.strip_prefix(ATTACHMENTS) {
            self.attachments.remove(name);
        } else if let Some(node) = self.nodes.remove(key)
            && let Some(pods) = self.pods.get_mut(&node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.pods.remove(&node);
            }
        }
    }
}

impl Graph {
    /// Whether a way leads from the node to this object.
    pub(super) fn leads(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let needs = |what| self.needs(node, what, (namespace, name));
        match resource {
            "pods" => self.on(node).any(|pod| pod.namespace == namespace && pod.name == name),
            "serviceaccounts" => needs(Referent::Account),
            "secrets" => needs(Referent::Secret) || self.volume_secret(node, namespace, name),
            "configmaps" => needs(Referent::ConfigMap),
            "persistentvolumeclaims" => needs(Referent::Claim),
            "persistentvolumes" => self.volumes.get(name).is_some_and(|volume| self.mounts(node, volume)),
            "resourceclaims" => needs(Referent::ResourceClaim),
            "volumeattachments" => self.attachments.get(name).is_some_and(|of| of == node),
            _ => false,
        }
    }

    fn on(&self, node: &str) -> impl Iterator<Item = &Placed> {
        self.pods.get(node).into_iter().flat_map(HashMap::values)
    }

    fn needs(&self, node: &str, what: Referent, (namespace, name): (&str, &str)) -> bool {
        let mut here = self.on(node).filter(|pod| pod.namespace == namespace);
        here.any(|pod| pod.needs.iter().any(|(of, needed)| *of == what && needed == name))
    }

    fn mounts(&self, node: &str, volume: &Bound) -> bool {
        let (namespace, claim) = &volume.claim;
        self.needs(node, Referent::Claim, (namespace, claim))
    }

    /// Whether the node mounts a volume with this Secret.
    fn volume_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        let with =
            |volume: &&Bound| volume.secrets.iter().any(|(of, secret)| of == namespace && secret == name);
        self.volumes.values().filter(with).any(|volume| self.mounts(node, volume))
    }
}

/// What does not parse was not let in by validation; it leads nowhere.
fn parse<T: DeserializeOwned>(object: &Bytes) -> Option<T> {
    serde_json::from_slice(object).ok()
}

/// Where a Pod is and what it needs. One that a node made itself leads to nothing, or the node could
/// give itself whatever it names.
fn place(pod: Value) -> Option<(String, Placed)> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?.to_owned();
    let meta = pod.meta();
    let needs = if meta.annotation(MIRROR).is_some() { Vec::new() } else { needs(&pod) };
    let (namespace, name) = (meta.namespace().to_owned(), meta.name().to_owned());
    Some((node, Placed { namespace, name, needs }))
}

/// Each once: volumes and many containers often name the same.
fn needs(pod: &Value) -> Vec<(Referent, String)> {
    let mut distinct: Vec<(Referent, String)> = Vec::new();
    for (what, name) in named_by(pod) {
        if !distinct.iter().any(|(of, known)| *of == what && *known == name) {
            distinct.push((what, name.into_owned()));
        }
    }
    distinct
}

/// The claim that a volume is meant for, and the Secrets that the node needs to mount it. It is the
/// volume that says whose it is: a claim may name any volume.
fn bound(volume: PersistentVolume) -> Option<Bound> {
    let spec = volume.spec?;
    let claim = spec.claim_ref?;
    let csi = spec.csi.into_iter();
    let references = csi
        .flat_map(|csi| [csi.node_publish_secret_ref, csi.node_stage_secret_ref, csi.node_expand_secret_ref]);
    let secrets = references.flatten().filter_map(|r| Some((r.namespace?, r.name?))).collect();
    Some(Bound { claim: (claim.namespace?, claim.name?), secrets })
}
