//! The environment variables that tell of Services.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// Variables of all Services a container is told of: those of its namespace when it wants
/// links, and always `kubernetes` of the namespace `default`.
pub fn variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let own = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = own == "default" && name == "kubernetes";
        // A namesake in the Pod's own namespace does not hide the real one.
        if master || links && own == namespace && name != "kubernetes" {
            add(&mut all, name, service);
        }
    }
    all
}

fn add(all: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let prefix = name.to_uppercase().replace('-', "_");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    all.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    all.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    for (index, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let name = name.to_uppercase().replace('-', "_");
            all.insert(format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            all.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        all.insert(format!("{link}_PORT"), port.port.to_string());
        all.insert(format!("{link}_ADDR"), ip.to_string());
        all.insert(link, url);
    }
}
