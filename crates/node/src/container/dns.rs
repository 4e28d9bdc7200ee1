//! resolv.conf of a Pod: dnsPolicy, dnsConfig and the node's own.

use k8s_openapi::api::core::v1::PodSpec;
use runtime::DnsConfig;
use std::net::IpAddr;

/// At most so many servers (the C library reads no more).
const SERVERS_MAX: usize = 3;
/// At most so many search domains.
const SEARCHES_MAX: usize = 32;
/// At most so many characters of search domains.
const SEARCH_CHARACTERS_MAX: usize = 2048;

/// What the node says about DNS.
#[derive(Clone, Debug, Default)]
pub struct NodeDns {
    /// The node's own resolv.conf.
    pub host: DnsConfig,
    /// The cluster's server, if there is one.
    pub cluster: Option<IpAddr>,
    /// `cluster.local`.
    pub domain: String,
}

/// Reads a resolv.conf; as in the C library the last `search` wins.
pub fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_string)),
            Some("search" | "domain") => config.searches = words.map(str::to_string).collect(),
            Some("options") => config.options.extend(words.map(str::to_string)),
            _ => {}
        }
    }
    config
}

/// The Pod's DNS, and the events to record about it.
pub fn config(
    spec: &PodSpec,
    namespace: &str,
    pod: &str,
    node: &NodeDns,
) -> (DnsConfig, Vec<(&'static str, String)>) {
    let mut events = Vec::new();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = match (policy, cluster, node.cluster) {
        ("None", ..) => DnsConfig::default(),
        (_, true, Some(server)) => cluster_first(server, namespace, node),
        (_, true, None) => {
            events.push(("MissingClusterDNS", missing_cluster_dns(pod, policy)));
            node.host.clone()
        }
        _ => node.host.clone(),
    };
    merge(&mut config, spec);
    cut(&mut config, &mut events);
    (config, events)
}

fn missing_cluster_dns(pod: &str, policy: &str) -> String {
    format!(
        "pod: {pod:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using {policy:?} policy. \
         Falling back to \"Default\" policy."
    )
}

fn cluster_first(server: IpAddr, namespace: &str, node: &NodeDns) -> DnsConfig {
    let domain = &node.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    let own =
        node.host.searches.iter().filter(|search| !searches.contains(search)).cloned().collect::<Vec<_>>();
    searches.extend(own);
    DnsConfig { servers: vec![server.to_string()], searches, options: vec!["ndots:5".into()] }
}

fn merge(config: &mut DnsConfig, spec: &PodSpec) {
    let Some(own) = &spec.dns_config else { return };
    for server in own.nameservers.iter().flatten() {
        if !config.servers.contains(server) {
            config.servers.push(server.clone());
        }
    }
    for search in own.searches.iter().flatten() {
        if !config.searches.contains(search) {
            config.searches.push(search.clone());
        }
    }
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        config.options.retain(|known| known.split(':').next() != Some(name));
        config.options.push(match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.clone(),
        });
    }
}

fn cut(config: &mut DnsConfig, events: &mut Vec<(&'static str, String)>) {
    if config.servers.len() > SERVERS_MAX {
        config.servers.truncate(SERVERS_MAX);
        let kept = config.servers.join(" ");
        let text = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {kept}"
        );
        events.push(("DNSConfigForming", text));
    }
    let before = config.searches.len();
    config.searches.truncate(SEARCHES_MAX);
    while config.searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        config.searches.pop();
    }
    if config.searches.len() < before {
        let kept = config.searches.join(" ");
        let text = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {kept}"
        );
        events.push(("DNSConfigForming", text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(cluster: Option<&str>) -> NodeDns {
        NodeDns {
            host: parse("# x\nnameserver 192.0.2.1\nsearch corp.example\noptions timeout:2\n"),
            cluster: cluster.map(|ip| ip.parse().unwrap()),
            domain: "cluster.local".into(),
        }
    }

    fn spec(json: serde_json::Value) -> PodSpec {
        let mut json = json;
        json["containers"] = serde_json::json!([]);
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn cluster_first_searches_the_namespace_then_the_node() {
        let wanted = spec(
            serde_json::json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
        );
        let (config, events) = config(&wanted, "ns", "p", &node(Some("10.43.0.10")));
        assert_eq!(config.servers, ["10.43.0.10"]);
        assert_eq!(
            config.searches,
            ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
        );
        assert_eq!(config.options, ["ndots:2", "edns0"]);
        assert!(events.is_empty());
    }

    #[test]
    fn without_cluster_dns_the_node_answers_and_the_user_is_told() {
        let (config, events) = config(&spec(serde_json::json!({})), "ns", "p", &node(None));
        assert_eq!(config.servers, ["192.0.2.1"]);
        assert_eq!(events[0].0, "MissingClusterDNS");
    }

    #[test]
    fn the_host_network_asks_the_node_unless_told_otherwise() {
        let server = |policy| {
            let spec = spec(serde_json::json!({"hostNetwork": true, "dnsPolicy": policy}));
            config(&spec, "ns", "p", &node(Some("10.43.0.10"))).0.servers
        };
        assert_eq!(server("ClusterFirst"), ["192.0.2.1"]);
        assert_eq!(server("ClusterFirstWithHostNet"), ["10.43.0.10"]);
        assert_eq!(server("None"), Vec::<String>::new());
    }
}
