//! Who answers a request: by host, then by path.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::sign::CertifiedKey;

use crate::Endpoint;

/// What all Ingresses say together. It is built as a whole and never changed.
#[derive(Default)]
pub struct Table {
    /// By the name itself, and for `*.name` by `.name`; rules for every host have the empty name.
    pub(crate) hosts: HashMap<String, Vec<Route>>,
    pub(crate) default: Option<Arc<Upstream>>,
    /// By the same names.
    pub(crate) certificates: HashMap<String, Arc<CertifiedKey>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates: Vec<_> = self.certificates.keys().collect();
        f.debug_struct("Table")
            .field("hosts", &self.hosts)
            .field("default", &self.default)
            .field("certificates", &certificates)
            .finish()
    }
}

/// How a rule's path is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathType {
    /// The whole path, to the letter.
    Exact,
    /// Its first elements. What is left to the implementation is a prefix here, as with the others.
    Prefix,
}

/// One path of a host.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) path: String,
    pub(crate) kind: PathType,
    pub(crate) upstream: Arc<Upstream>,
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        match self.kind {
            PathType::Exact => path == self.path,
            PathType::Prefix => {
                // Element by element: `/a` and `/a/` are above `/a/b`, and not above `/ab`.
                let prefix = self.path.strip_suffix('/').unwrap_or(&self.path);
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// Puts the routes of a host in the order in which they are tried: the longest path first, and of two that are
/// equally long the exact one. What is equal by that stays as it was, which is the oldest Ingress first.
pub(crate) fn order(routes: &mut [Route]) {
    routes.sort_by_key(|route| (std::cmp::Reverse(route.path.len()), route.kind != PathType::Exact));
}

/// The port of a Service, and the Pods that serve it.
#[derive(Debug)]
pub struct Upstream {
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Turns go round: a new table begins anew.
    next: AtomicUsize,
}

impl Upstream {
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        Upstream { endpoints, next: AtomicUsize::new(0) }
    }

    /// All of them, beginning with the one whose turn it is.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let begin = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len().max(1);
        let (before, from) = self.endpoints.split_at(begin);
        from.iter().chain(before)
    }

    /// The addresses, in order.
    pub fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.to().address).collect()
    }
}

/// What the table says of a host and path.
#[derive(Debug)]
pub enum Matched<'a> {
    /// These answer; there may be none of them.
    Upstream(&'a Arc<Upstream>),
    /// No rule is about it.
    Nothing,
}

/// `.name` of what `*.name` stands for: one label more.
fn parent(host: &str) -> Option<&str> {
    let (label, _) = host.split_once('.')?;
    (!label.is_empty()).then(|| &host[label.len()..])
}

impl Table {
    /// Who answers for this host, in lower case and without a port, and this path.
    ///
    /// The name itself comes before the wildcard, and that before the rules for all hosts; who has no path for
    /// the request leaves it to the next, and all to the default backend.
    pub fn find(&self, host: &str, path: &str) -> Matched<'_> {
        let own = Some(host).filter(|host| !host.is_empty() && !host.starts_with('.'));
        let names = [own, parent(host), Some("")];
        let lists = names.into_iter().flatten().filter_map(|name| self.hosts.get(name));
        let route = lists.flatten().find(|route| route.matches(path));
        let upstream = route.map(|route| &route.upstream).or(self.default.as_ref());
        upstream.map_or(Matched::Nothing, Matched::Upstream)
    }

    /// The certificate for a server name.
    pub(crate) fn certificate(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let exact = self.certificates.get(name).filter(|_| !name.starts_with('.'));
        exact.or_else(|| self.certificates.get(parent(name)?))
    }
}
