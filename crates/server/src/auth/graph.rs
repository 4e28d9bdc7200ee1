//! What leads from a node to objects: its Pods, what they name, and the volumes their claims are bound to.
//!
//! Each Pod, volume and attachment is parsed when it changes; a question looks through the Pods of one node.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PersistentVolume, Pod, PodSpec, Volume};
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

/// What Pods need of their namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Account,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
}

/// A Pod on a node.
#[derive(Debug)]
struct Placed {
    namespace: String,
    name: String,
    needs: Vec<(What, String)>,
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
            "serviceaccounts" => needs(What::Account),
            "secrets" => needs(What::Secret) || self.volume_secret(node, namespace, name),
            "configmaps" => needs(What::ConfigMap),
            "persistentvolumeclaims" => needs(What::Claim),
            "persistentvolumes" => self.volumes.get(name).is_some_and(|volume| self.mounts(node, volume)),
            "resourceclaims" => needs(What::ResourceClaim),
            "volumeattachments" => self.attachments.get(name).is_some_and(|of| of == node),
            _ => false,
        }
    }

    fn on(&self, node: &str) -> impl Iterator<Item = &Placed> {
        self.pods.get(node).into_iter().flat_map(HashMap::values)
    }

    fn needs(&self, node: &str, what: What, (namespace, name): (&str, &str)) -> bool {
        let mut here = self.on(node).filter(|pod| pod.namespace == namespace);
        here.any(|pod| pod.needs.iter().any(|(of, needed)| *of == what && needed == name))
    }

    fn mounts(&self, node: &str, volume: &Bound) -> bool {
        let (namespace, claim) = &volume.claim;
        self.needs(node, What::Claim, (namespace, claim))
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
fn place(pod: Pod) -> Option<(String, Placed)> {
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.clone().filter(|node| !node.is_empty())?;
    let is_mirror = pod.metadata.annotations.iter().flatten().any(|(name, _)| name == MIRROR);
    let needs = if is_mirror { Vec::new() } else { needs(&pod, spec) };
    let (namespace, name) =
        (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default());
    Some((node, Placed { namespace, name, needs }))
}

fn needs(pod: &Pod, spec: &PodSpec) -> Vec<(What, String)> {
    let account = spec.service_account_name.iter().map(|name| (What::Account, name.as_str()));
    let pulls = spec.image_pull_secrets.iter().flatten().map(|r| (What::Secret, r.name.as_str()));
    let named = account.chain(pulls).chain(of_containers(spec)).chain(of_volumes(spec));
    let mut needs: Vec<_> = named.map(|(what, name)| (what, name.to_owned())).collect();
    needs.extend(claims(pod, spec).map(|claim| (What::Claim, claim)));
    needs.extend(resource_claims(pod).map(|claim| (What::ResourceClaim, claim.to_owned())));
    // Volumes and many containers often name the same.
    let mut distinct = Vec::with_capacity(needs.len());
    for need in needs {
        if !distinct.contains(&need) {
            distinct.push(need);
        }
    }
    distinct
}

/// What containers take their environment from.
fn of_containers(spec: &PodSpec) -> impl Iterator<Item = (What, &str)> {
    let usual = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let usual = usual.map(|Container { env, env_from, .. }| (env, env_from));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|EphemeralContainer { env, env_from, .. }| (env, env_from));
    usual.chain(ephemeral).flat_map(|(env, env_from)| {
        let values = env.iter().flatten().filter_map(|e| e.value_from.as_ref()).flat_map(|from| {
            let secret = from.secret_key_ref.iter().map(|r| (What::Secret, r.name.as_str()));
            secret.chain(from.config_map_key_ref.iter().map(|r| (What::ConfigMap, r.name.as_str())))
        });
        let whole = env_from.iter().flatten().flat_map(|from| {
            let secret = from.secret_ref.iter().map(|r| (What::Secret, r.name.as_str()));
            secret.chain(from.config_map_ref.iter().map(|r| (What::ConfigMap, r.name.as_str())))
        });
        values.chain(whole)
    })
}

/// What volumes are made of, and the Secrets with which the node mounts them.
fn of_volumes(spec: &PodSpec) -> impl Iterator<Item = (What, &str)> {
    spec.volumes.iter().flatten().flat_map(|volume| {
        let secret = volume.secret.iter().filter_map(|source| source.secret_name.as_deref());
        let config_map = volume.config_map.iter().map(|source| source.name.as_str());
        let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
        let projected = projected.flat_map(|source| {
            let secret = source.secret.iter().map(|secret| (What::Secret, secret.name.as_str()));
            secret.chain(source.config_map.iter().map(|map| (What::ConfigMap, map.name.as_str())))
        });
        let secrets = secret.chain(credentials(volume)).map(|name| (What::Secret, name));
        secrets.chain(config_map.map(|name| (What::ConfigMap, name))).chain(projected)
    })
}

fn credentials(volume: &Volume) -> impl Iterator<Item = &str> {
    let csi = volume.csi.as_ref().and_then(|c| c.node_publish_secret_ref.as_ref());
    let others = [
        volume.cephfs.as_ref().and_then(|c| c.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|c| c.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|c| c.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|c| c.secret_ref.as_ref()),
    ];
    let azure = volume.azure_file.as_ref().map(|a| a.secret_name.as_str());
    csi.into_iter().chain(others.into_iter().flatten()).map(|r| r.name.as_str()).chain(azure)
}

/// The claims a Pod mounts; a generic ephemeral volume's is named after Pod and volume.
fn claims<'a>(pod: &'a Pod, spec: &'a PodSpec) -> impl Iterator<Item = String> + 'a {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    spec.volumes.iter().flatten().filter_map(move |v| match &v.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => v.ephemeral.as_ref().map(|_| format!("{name}-{}", v.name)),
    })
}

fn resource_claims(pod: &Pod) -> impl Iterator<Item = &str> {
    let direct = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    let made = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let direct = direct.filter_map(|claim| claim.resource_claim_name.as_deref());
    direct.chain(made.filter_map(|claim| claim.resource_claim_name.as_deref()))
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
