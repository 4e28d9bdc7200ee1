//! Host name and /etc/hosts of a Pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

/// Host name, and domain when the Pod has a subdomain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return (name.into(), String::new()) };
    if let Some(over) = spec.hostname_override.as_deref().filter(|text| !text.is_empty()) {
        return (over.into(), String::new());
    }
    let host = spec.hostname.as_deref().filter(|text| !text.is_empty()).unwrap_or(name);
    // The kernel takes 64 characters; the API's names go to 253. Upstream cuts at 63.
    let host = host.get(..63).unwrap_or(host).trim_end_matches(['-', '.']);
    let domain = spec.subdomain.as_deref().filter(|text| !text.is_empty());
    let domain =
        domain.map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}")).unwrap_or_default();
    (host.into(), domain)
}

/// What the kernel is told: the host name, or all of it with setHostnameAsFQDN.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (host, domain) = hostname(pod, cluster_domain);
    let whole = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if !whole || domain.is_empty() {
        return Ok(host);
    }
    let fqdn = format!("{host}.{domain}");
    if fqdn.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// /etc/hosts of a Pod with its own network.
pub fn file(ips: &[IpAddr], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let line = if domain.is_empty() {
            format!("{ip}\t{hostname}\n")
        } else {
            format!("{ip}\t{hostname}.{domain}\t{hostname}\n")
        };
        text.push_str(&line);
    }
    text + &entries(aliases)
}

/// /etc/hosts of a Pod on the node's network: the node's, with the Pod's aliases.
pub fn host_network_file(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", entries(aliases))
}

fn entries(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|alias| {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        format!("{}\t{names}\n", alias.ip)
    });
    "\n# Entries added by HostAliases.\n".to_string() + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_follow_the_pods_own_line() {
        let alias = HostAlias { ip: "192.0.2.9".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = file(&["10.42.0.2".parse().unwrap()], "web", "sub.ns.svc.cluster.local", &[alias]);
        let end = "10.42.0.2\tweb.sub.ns.svc.cluster.local\tweb\n\n# Entries added by HostAliases.\n192.0.2.9\ta\tb\n";
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with(end), "{text}");
    }
}
