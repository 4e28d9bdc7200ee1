//! Indexes: what objects are looked up by, other than their names.

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{Object, key};

/// A way to look objects up: from each to the values it is found under.
///
/// The name tells an index from the others of its kind. Where it is the path of a field that the server
/// selects by, a [`Part`](crate::Part) can be made of it.
#[derive(Debug)]
pub struct Index<K> {
    pub(super) name: &'static str,
    pub(super) values: fn(&K) -> Vec<String>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Index<K> {}

impl<K> Index<K> {
    /// The index `name`, by what `values` says of an object.
    pub const fn new(name: &'static str, values: fn(&K) -> Vec<String>) -> Self {
        Self { name, values }
    }
}

/// Objects by their name in any namespace.
pub const fn by_name<K: Object>() -> Index<K> {
    Index::new("metadata.name", |object| object.metadata().name.iter().cloned().collect())
}

/// Objects by the UIDs of their owners.
pub const fn by_owner<K: Object>() -> Index<K> {
    Index::new("metadata.ownerReferences.uid", |object| {
        object.metadata().owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
    })
}

/// Objects without a controlling owner by their namespace: who selects them may adopt them.
pub const fn orphans<K: Object>() -> Index<K> {
    Index::new("metadata.ownerReferences.controller", |object| {
        let metadata = object.metadata();
        let owned = metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
        if owned { Vec::new() } else { metadata.namespace.iter().cloned().collect() }
    })
}

/// Pods by the node they are bound to; those without one are not in it.
pub const PODS_BY_NODE: Index<Pod> = Index::new("spec.nodeName", |pod| {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    node.filter(|node| !node.is_empty()).into_iter().collect()
});

/// Pods by the keys of the claims they use.
pub const PODS_BY_CLAIM: Index<Pod> = Index::new("spec.volumes.persistentVolumeClaim", claims_of);

/// EndpointSlices by the key of their Service.
pub const SLICES_BY_SERVICE: Index<EndpointSlice> =
    Index::new(SERVICE_NAME, |slice| service_of(slice).into_iter().collect());

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The key of the Service whose endpoints a slice lists.
pub fn service_of(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(key(slice.metadata.namespace.as_deref().unwrap_or_default(), service))
}

/// Whether a Pod is among the endpoints of a Service. A Service without a selector has none of its own.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|labels| !labels.is_empty());
    let labels = pod.metadata.labels.as_ref();
    service.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|selector| {
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
}

/// The keys of the claims that a Pod uses: a generic ephemeral volume's is named after Pod and volume.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(key(namespace, &source.claim_name)),
        (None, Some(_)) => Some(key(namespace, &format!("{name}-{}", volume.name))),
        (None, None) => None,
    });
    claims.collect()
}
