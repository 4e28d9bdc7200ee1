//! What all Ingresses say together, as one table.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use client::key;
use k8s_openapi::api::core::v1::{Secret, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as Listed, EndpointSlice};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressServiceBackend, IngressTLS,
};

use crate::certificate::Certificates;
use crate::class::is_ours;
use crate::table::{PathType, Route, Table, Upstream, order};
use crate::{Endpoints, To};

/// HTTP/2 without TLS, as the enhancement 3726 names it.
const H2C: &str = "kubernetes.io/h2c";

/// What a table is made of.
pub struct World<'a> {
    /// All Ingresses, also those of other classes.
    pub ingresses: Vec<Arc<Ingress>>,
    /// All classes.
    pub classes: Vec<Arc<IngressClass>>,
    /// A Service by namespace and name.
    pub service: &'a dyn Fn(&str, &str) -> Option<Arc<Service>>,
    /// The EndpointSlices of a Service by namespace and name.
    pub slices: &'a dyn Fn(&str, &str) -> Vec<Arc<EndpointSlice>>,
    /// A Secret by namespace and name.
    pub secret: &'a dyn Fn(&str, &str) -> Option<Arc<Secret>>,
}

impl fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("ingresses", &self.ingresses.len()).finish_non_exhaustive()
    }
}

/// Something in an Ingress that cannot be as it says.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Whose.
    pub ingress: Arc<Ingress>,
    /// Why not, in the words of an Event.
    pub message: String,
}

/// The table of all that is ours, whose Ingresses these are, and what is wrong in them.
///
/// Endpoints that were there before are the same afterwards; those that nothing leads to any more are for the
/// caller to take ([`Endpoints::take_unused`]).
pub(crate) fn build_with(
    world: &World<'_>,
    endpoints: &mut Endpoints,
    certificates: &mut Certificates,
) -> (Table, Vec<Arc<Ingress>>, Vec<Finding>) {
    let ours = world.ingresses.iter().filter(|ingress| is_ours(ingress, &world.classes));
    let mut ours: Vec<Arc<Ingress>> = ours.cloned().collect();
    // Of two that say different things of the same, the older one counts.
    ours.sort_by_cached_key(|ingress| {
        let metadata = &ingress.metadata;
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, metadata.namespace.clone(), metadata.name.clone())
    });
    endpoints.begin();
    let (table, findings) = (Table::default(), Vec::new());
    let mut builder = Builder { world, endpoints, upstreams: HashMap::new(), table, findings };
    let mut secrets = BTreeSet::new();
    for ingress in &ours {
        builder.rules(ingress);
        builder.tls(ingress, certificates, &mut secrets);
    }
    certificates.keep(|key| secrets.contains(key));
    let Builder { mut table, findings, .. } = builder;
    table.hosts.values_mut().for_each(|routes| order(routes));
    (table, ours, findings)
}

/// `build_with` for those who need neither what was before nor what comes after.
pub fn build(world: &World<'_>) -> (Table, Vec<Finding>) {
    let (table, _, findings) = build_with(world, &mut Endpoints::default(), &mut Certificates::default());
    (table, findings)
}

/// A port of a Service: its key, and the port as the Ingress names it.
type Port = (String, String);

struct Builder<'a> {
    world: &'a World<'a>,
    endpoints: &'a mut Endpoints,
    upstreams: HashMap<Port, Result<Arc<Upstream>, String>>,
    table: Table,
    findings: Vec<Finding>,
}

impl Builder<'_> {
    fn rules(&mut self, ingress: &Arc<Ingress>) {
        let Some(spec) = &ingress.spec else { return };
        if let Some(backend) = &spec.default_backend {
            let upstream = self.upstream(ingress, backend);
            self.table.default.get_or_insert(upstream);
        }
        for rule in spec.rules.iter().flatten() {
            let host = table_name(rule.host.as_deref().unwrap_or_default());
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            let mut routes: Vec<Route> = paths.map(|path| self.route(ingress, path)).collect();
            // A rule without paths leads to the Ingress's own default backend.
            if let (None, Some(backend)) = (&rule.http, &spec.default_backend) {
                let upstream = self.upstream(ingress, backend);
                routes.push(Route { path: "/".to_owned(), kind: PathType::Prefix, upstream });
            }
            self.table.hosts.entry(host).or_default().extend(routes);
        }
    }

    fn route(&mut self, ingress: &Arc<Ingress>, path: &HTTPIngressPath) -> Route {
        let kind = if path.path_type == "Exact" { PathType::Exact } else { PathType::Prefix };
        let text = path.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        Route { path: text, kind, upstream: self.upstream(ingress, &path.backend) }
    }

    /// Without endpoints when something is wrong: who asks is told that nobody is there, not that there is no
    /// such page.
    fn upstream(&mut self, ingress: &Arc<Ingress>, backend: &IngressBackend) -> Arc<Upstream> {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let found = match &backend.service {
            Some(service) => self.of_service(namespace, service),
            None => Err("resource backends are not supported".to_owned()),
        };
        found.unwrap_or_else(|message| {
            self.find_fault(ingress, message);
            Arc::new(Upstream::new(Vec::new()))
        })
    }

    fn find_fault(&mut self, ingress: &Arc<Ingress>, message: String) {
        let is_known =
            |finding: &Finding| Arc::ptr_eq(&finding.ingress, ingress) && finding.message == message;
        if !self.findings.iter().any(is_known) {
            self.findings.push(Finding { ingress: ingress.clone(), message });
        }
    }

    fn of_service(
        &mut self,
        namespace: &str,
        backend: &IngressServiceBackend,
    ) -> Result<Arc<Upstream>, String> {
        let port = backend.port.clone().unwrap_or_default();
        let port = port
            .name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| port.number.map(|number| number.to_string()).unwrap_or_default());
        let asked = (key(namespace, &backend.name), port);
        if let Some(known) = self.upstreams.get(&asked) {
            return known.clone();
        }
        let found = self.look_up(namespace, &backend.name, &asked);
        self.upstreams.insert(asked, found.clone());
        found
    }

    fn look_up(&mut self, namespace: &str, name: &str, (key, port): &Port) -> Result<Arc<Upstream>, String> {
        let service = (self.world.service)(namespace, name);
        let service = service.ok_or_else(|| format!("could not find service {key:?}"))?;
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            return Err(format!(
                "service {key:?} is of type ExternalName, which has no endpoints to send to"
            ));
        }
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let is_meant =
            |one: &&ServicePort| one.name.as_deref() == Some(port) || one.port.to_string() == *port;
        let meant = ports.iter().find(is_meant);
        let port = meant.ok_or_else(|| format!("could not find port {port:?} in service {key:?}"))?;
        let h2c = match port.app_protocol.as_deref() {
            Some(H2C) => true,
            Some(other @ ("https" | "kubernetes.io/wss")) => {
                return Err(format!("appProtocol {other:?} of service {key:?} is not spoken to Pods"));
            }
            _ => false,
        };
        let to = targets(&(self.world.slices)(namespace, name), port, h2c);
        Ok(Arc::new(Upstream::new(to.into_iter().map(|to| self.endpoints.of(to)).collect())))
    }

    fn tls(&mut self, ingress: &Arc<Ingress>, certificates: &mut Certificates, asked: &mut BTreeSet<String>) {
        let Some(spec) = &ingress.spec else { return };
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        for tls in spec.tls.iter().flatten() {
            let Some(name) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let key = key(namespace, name);
            let certificate = match (self.world.secret)(namespace, name) {
                Some(secret) => certificates.of(&secret).map_err(|why| format!("secret {key:?}: {why}")),
                None => Err(format!("could not find secret {key:?} of type kubernetes.io/tls")),
            };
            asked.insert(key);
            match certificate {
                Ok(certificate) => {
                    for host in hosts(tls, ingress) {
                        self.table.certificates.entry(host).or_insert_with(|| certificate.clone());
                    }
                }
                Err(message) => self.find_fault(ingress, message),
            }
        }
    }
}

/// What a certificate is for: the hosts it is given for, or those of the rules.
fn hosts(tls: &IngressTLS, ingress: &Ingress) -> Vec<String> {
    let named = tls.hosts.iter().flatten();
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    let mut hosts: Vec<String> = named.map(|host| table_name(host)).collect();
    if hosts.is_empty() {
        hosts = rules.filter_map(|rule| rule.host.as_deref()).map(table_name).collect();
    }
    hosts
}

/// `.name` for `*.name`.
fn table_name(host: &str) -> String {
    host.strip_prefix('*').unwrap_or(host).to_lowercase()
}

/// Where a Service's port leads: to all that are ready, and when there is none, to those that leave and
/// still serve, as kube-proxy does.
fn targets(slices: &[Arc<EndpointSlice>], port: &ServicePort, h2c: bool) -> Vec<To> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let Some(number) = number_in(slice, port) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let leaves = conditions.terminating == Some(true);
            let to = to(endpoint, number, h2c);
            if conditions.ready != Some(false) && !leaves {
                ready.extend(to);
            } else if leaves && conditions.serving != Some(false) {
                serving.extend(to);
            }
        }
    }
    if ready.is_empty() { serving } else { ready }.into_iter().collect()
}

fn number_in(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let mut ports = slice.ports.iter().flatten();
    let listed = ports.find(|listed| {
        let protocol = listed.protocol.as_deref().unwrap_or("TCP");
        listed.name.as_deref().unwrap_or_default() == name && protocol == "TCP"
    })?;
    u16::try_from(listed.port?).ok()
}

fn to(endpoint: &Listed, port: u16, h2c: bool) -> Option<To> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    Some(To { address: SocketAddr::new(address, port), pod, h2c })
}

#[cfg(test)]
mod tests;
