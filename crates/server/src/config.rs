//! What the server is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use wire::Handler;

use crate::auth::audit::Audit;
use crate::health::Check;
use crate::inflight::Limits;

/// Where the nodes are: for logs, exec, attach, port-forward and proxy.
pub trait Nodes: Send + Sync + 'static {
    /// The kubelet API of a node; `None` when it cannot be reached from here.
    fn handler(&self, node: &str) -> Option<Arc<dyn Handler>>;
}

/// What the server needs to know; everything else is in the store.
#[derive(Clone)]
pub struct Config {
    /// Range of Service addresses, `10.43.0.0/16`. Its first address is the API's own Service.
    pub service_cidr: String,
    /// Where clients reach the server: goes into the Endpoints of `default/kubernetes`.
    pub advertise: SocketAddr,
    /// Certificate of the cluster's authority, PEM; published as `kube-root-ca.crt`.
    pub authority_pem: String,
    /// Key that signs ServiceAccount tokens, PKCS#8 DER of an ECDSA P-256 key.
    pub service_account_key: Vec<u8>,
    /// Issuer of ServiceAccount tokens, also their default audience.
    pub issuer: String,
    /// Whether requests without credentials are taken as `system:anonymous`.
    pub anonymous: bool,
    /// The nodes that can be reached.
    pub nodes: Arc<dyn Nodes>,
    /// What clients may hold at once.
    pub limits: Limits,
    /// Where it is written down who asked for what; `None`: nowhere.
    pub audit: Option<Arc<Audit>>,
    /// Writes what others of the process count, for `/metrics`, in the text format of Prometheus.
    pub metrics: Arc<dyn Fn(&mut String) + Send + Sync>,
    /// What must hold for the server to be healthy, besides its own.
    pub checks: Vec<Check>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("service_cidr", &self.service_cidr)
            .field("advertise", &self.advertise)
            .field("issuer", &self.issuer)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}
