//! What each volume of a Pod is, and what must be read before it can be mounted.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Pod, ProjectedVolumeSource, SecretProjection, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};

use super::payload::{self, Projection};
use crate::pod::spec::spec;

/// One volume.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name in the Pod.
    pub name: String,
    /// What it is.
    pub source: Source,
    /// What its files are made of.
    pub projections: Vec<Projection>,
    /// Read-only whatever the mounts say.
    pub read_only: bool,
}

/// What a volume is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Scratch space.
    EmptyDir {
        /// A tmpfs.
        memory: bool,
        /// Of this size.
        size: Option<u64>,
    },
    /// Scratch space in huge pages.
    HugePages {
        /// Bytes of a page; `None`: as the kernel has them.
        page: Option<u64>,
        /// Of this size.
        size: Option<u64>,
    },
    /// A bound claim on a block device of the node.
    Block {
        /// The device.
        path: PathBuf,
    },
    /// A path of the node.
    HostPath {
        /// The path.
        path: PathBuf,
        /// Its type.
        kind: String,
    },
    /// A bound claim on a path of the node.
    Claimed {
        /// The path.
        path: PathBuf,
        /// Kind of the PersistentVolume.
        plugin: &'static str,
        /// The fsGroup applies. Not to an admin's directory of the host, as upstream.
        grouped: bool,
    },
    /// Files made of objects; secrets only in memory.
    Files {
        /// On tmpfs.
        memory: bool,
    },
    /// What is in an image. Containers that mount it bring it.
    Image {
        /// Its name.
        reference: String,
        /// Always, IfNotPresent, Never.
        pull_policy: String,
    },
    /// Not for this node.
    Unsupported {
        /// Which.
        plugin: &'static str,
    },
}

impl Source {
    /// Name of upstream's plug-in; part of the path.
    pub fn plugin(&self) -> &'static str {
        match self {
            Source::EmptyDir { .. } | Source::HugePages { .. } => "kubernetes.io/empty-dir",
            Source::Block { .. } => "kubernetes.io/local-volume",
            Source::HostPath { .. } => "kubernetes.io/host-path",
            Source::Claimed { plugin, .. } | Source::Unsupported { plugin } => plugin,
            Source::Files { .. } => "kubernetes.io/projected",
            Source::Image { .. } => "kubernetes.io/image",
        }
    }
}

/// What has to be read for the volumes of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// ConfigMaps.
    pub config_maps: Vec<String>,
    /// Secrets.
    pub secrets: Vec<String>,
}

/// Plans a volume. A claim comes with the source that it is bound to, or why it is not.
pub fn plan(pod: &Pod, volume: &Volume, claimed: Option<Result<Source, String>>) -> Result<Plan, String> {
    let (source, projections) = match claimed {
        Some(claimed) => (claimed?, Vec::new()),
        None => own_source(pod, volume),
    };
    let claim_says = volume.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only) == Some(true);
    // Files of objects change only with their objects, and images never, as upstream's plug-ins have it.
    let read_only = claim_says || matches!(source, Source::Files { .. } | Source::Image { .. });
    Ok(Plan { name: volume.name.clone(), source, projections, read_only })
}

/// The claim behind a volume: its own, or the one made from its template.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(claim.claim_name.clone());
    }
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name))
}

fn own_source(pod: &Pod, volume: &Volume) -> (Source, Vec<Projection>) {
    let files = |memory, list| (Source::Files { memory }, list);
    if let Some(path) = &volume.host_path {
        let kind = path.type_.clone().unwrap_or_default();
        return (Source::HostPath { path: path.path.clone().into(), kind }, Vec::new());
    }
    if let Some(source) = &volume.config_map {
        let projection = ConfigMapProjection {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional,
        };
        return files(false, vec![Projection::ConfigMap(projection, mode(source.default_mode))]);
    }
    if let Some(source) = &volume.secret {
        let projection = SecretProjection {
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone(),
            optional: source.optional,
        };
        return files(true, vec![Projection::Secret(projection, mode(source.default_mode))]);
    }
    if let Some(source) = &volume.downward_api {
        let items = source.items.clone().unwrap_or_default();
        return files(true, vec![Projection::Downward(items, mode(source.default_mode))]);
    }
    if let Some(source) = &volume.projected {
        return files(true, projected(pod, source));
    }
    if let Some(image) = &volume.image {
        let reference = image.reference.clone().unwrap_or_default();
        let pull_policy = image.pull_policy.clone().unwrap_or_default();
        return (Source::Image { reference, pull_policy }, Vec::new());
    }
    match unsupported(volume) {
        Some(plugin) => (Source::Unsupported { plugin }, Vec::new()),
        None => (empty_dir(pod, volume), Vec::new()),
    }
}

/// A volume without any source is an emptyDir, as upstream defaults it.
fn empty_dir(pod: &Pod, volume: &Volume) -> Source {
    let source = volume.empty_dir.as_ref();
    let medium = source.and_then(|source| source.medium.as_deref()).unwrap_or_default();
    let limit = source.and_then(|source| source.size_limit.as_ref());
    let size =
        limit.and_then(|limit| limit.0.parse::<api::quantity::Quantity>().ok()).map(|size| size.value());
    let size = size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
    if let Some(page) = medium.strip_prefix("HugePages") {
        return Source::HugePages { page: page_size(pod, page), size };
    }
    let memory = medium == "Memory";
    Source::EmptyDir { memory, size: if memory { smaller(size, memory_of(pod)) } else { size } }
}

/// The size of a page: as the medium names it, or the only one that the Pod asks for.
fn page_size(pod: &Pod, named: &str) -> Option<u64> {
    let bytes = |text: &str| u64::try_from(text.parse::<api::quantity::Quantity>().ok()?.value()).ok();
    if let Some(size) = named.strip_prefix('-') {
        return bytes(size);
    }
    let spec = spec(pod);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources = containers.filter_map(|container| container.resources.as_ref());
    let limits = resources.filter_map(|resources| resources.limits.as_ref());
    let mut sizes =
        limits.flat_map(|limits| limits.keys()).filter_map(|name| name.strip_prefix("hugepages-"));
    sizes.next().and_then(bytes)
}

/// What all of a Pod may take of memory; files in memory can never be more.
fn memory_of(pod: &Pod) -> Option<u64> {
    u64::try_from(crate::container::resources::pod(pod).memory_limit).ok().filter(|limit| *limit > 0)
}

fn smaller(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

fn projected(pod: &Pod, source: &ProjectedVolumeSource) -> Vec<Projection> {
    let mode = mode(source.default_mode);
    source.sources.iter().flatten().flat_map(|one| projections(pod, one, mode)).collect()
}

fn projections(pod: &Pod, one: &VolumeProjection, mode: u32) -> Vec<Projection> {
    let mut all = Vec::new();
    all.extend(one.config_map.clone().map(|source| Projection::ConfigMap(source, mode)));
    all.extend(one.secret.clone().map(|source| Projection::Secret(source, mode)));
    all.extend(
        one.downward_api
            .as_ref()
            .map(|source| Projection::Downward(source.items.clone().unwrap_or_default(), mode)),
    );
    all.extend(one.service_account_token.clone().map(|source| token(pod, source, mode)));
    all.extend(one.cluster_trust_bundle.as_ref().map(|_| Projection::Unsupported("clusterTrustBundle")));
    all.extend(one.pod_certificate.as_ref().map(|_| Projection::Unsupported("podCertificate")));
    all
}

/// A token is narrowed to its one reader: the user all containers share, or the fsGroup.
fn token(pod: &Pod, source: ServiceAccountTokenProjection, mode: u32) -> Projection {
    let spec = spec(pod);
    let whole = spec.security_context.as_ref();
    let users = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|container| {
        let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
        own.or(whole.and_then(|context| context.run_as_user))
    });
    let users: Vec<Option<i64>> = users.collect();
    let same =
        users.first().copied().flatten().filter(|first| users.iter().all(|user| user == &Some(*first)));
    let owner = same.and_then(|user| u32::try_from(user).ok());
    let grouped = whole.and_then(|context| context.fs_group).is_some();
    let mode = if owner.is_some() || grouped { 0o600 } else { mode };
    Projection::Token { source, mode, owner }
}

/// The kind of a volume that this node cannot mount.
fn unsupported(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.nfs.is_some(), "kubernetes.io/nfs"),
        (volume.csi.is_some(), "kubernetes.io/csi"),
        (volume.iscsi.is_some(), "kubernetes.io/iscsi"),
        (volume.fc.is_some(), "kubernetes.io/fc"),
        (volume.git_repo.is_some(), "kubernetes.io/git-repo"),
        (volume.flex_volume.is_some(), "kubernetes.io/flexvolume"),
        (volume.cephfs.is_some(), "kubernetes.io/cephfs"),
        (volume.rbd.is_some(), "kubernetes.io/rbd"),
        (volume.glusterfs.is_some(), "kubernetes.io/glusterfs"),
        (volume.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (volume.aws_elastic_block_store.is_some(), "kubernetes.io/aws-ebs"),
        (volume.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (volume.azure_file.is_some(), "kubernetes.io/azure-file"),
        (volume.cinder.is_some(), "kubernetes.io/cinder"),
        (volume.flocker.is_some(), "kubernetes.io/flocker"),
        (volume.vsphere_volume.is_some(), "kubernetes.io/vsphere-volume"),
        (volume.quobyte.is_some(), "kubernetes.io/quobyte"),
        (volume.photon_persistent_disk.is_some(), "kubernetes.io/photon-pd"),
        (volume.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
        (volume.scale_io.is_some(), "kubernetes.io/scaleio"),
        (volume.storageos.is_some(), "kubernetes.io/storageos"),
    ];
    kinds.into_iter().find(|(named, _)| *named).map(|(_, plugin)| plugin)
}

impl Plan {
    /// ConfigMaps and Secrets whose contents it shows.
    pub fn needs(&self) -> Needs {
        payload::needs(&self.projections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_in_memory_take_no_more_than_the_pod_may_have() {
        let size = |limits: serde_json::Value, empty_dir: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "containers": [{"name": "c", "resources": {"limits": limits}}],
                "volumes": [{"name": "v", "emptyDir": empty_dir}]
            }}))
            .unwrap();
            let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
            match plan(&pod, &volume, None).unwrap().source {
                Source::EmptyDir { size, .. } => size.map(|size| size >> 20),
                other => panic!("{other:?}"),
            }
        };
        let (pod, none) = (json!({"memory": "64Mi"}), json!({}));
        assert_eq!(size(pod.clone(), json!({"medium": "Memory"})), Some(64));
        assert_eq!(size(pod.clone(), json!({"medium": "Memory", "sizeLimit": "8Mi"})), Some(8));
        assert_eq!(size(pod.clone(), json!({"medium": "Memory", "sizeLimit": "1Gi"})), Some(64));
        assert_eq!(size(none.clone(), json!({"medium": "Memory", "sizeLimit": "1Gi"})), Some(1024));
        assert_eq!(size(none, json!({"medium": "Memory"})), None);
        assert_eq!(size(pod, json!({"sizeLimit": "1Gi"})), Some(1024), "on the disk it is another matter");
    }
}
