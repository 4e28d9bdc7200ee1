//! Services and what leads to them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cell::{Cell, cell};
use super::common::{Row, few, join, scalar, text};

pub(crate) fn service(row: Row<'_>) -> Vec<Cell> {
    let ports: Vec<String> = row.list("/spec/ports").iter().map(port).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    let ip = row.at("/spec/clusterIPs/0").and_then(Value::as_str).unwrap_or("<none>");
    vec![
        cell(row.name()),
        cell(row.text("/spec/type")),
        cell(ip),
        cell(external_ip(row)),
        cell(ports),
        row.age(),
        cell(row.labels("/spec/selector")),
    ]
}

/// `80/TCP`, or `80:30080/TCP` with a node port.
fn port(port: &Value) -> String {
    let (number, protocol) = (port["port"].as_i64().unwrap_or_default(), text(port, "protocol"));
    match port["nodePort"].as_i64() {
        Some(node @ 1..) => format!("{number}:{node}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn external_ip(row: Row<'_>) -> String {
    let given: Vec<String> =
        row.list("/spec/externalIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match row.text("/spec/type") {
        "ClusterIP" | "NodePort" if given.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => given.join(","),
        "LoadBalancer" => {
            let mut all = load_balancer(row);
            all.extend(given);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => row.text("/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or names at which a load balancer is reached, sorted.
fn load_balancer(row: Row<'_>) -> Vec<String> {
    let ingress = row.list("/status/loadBalancer/ingress").iter();
    let named = |i: &Value| {
        [text(i, "ip"), text(i, "hostname")].into_iter().find(|n| !n.is_empty()).map(str::to_owned)
    };
    ingress.filter_map(named).collect::<BTreeSet<_>>().into_iter().collect()
}

pub(crate) fn endpoints(row: Row<'_>) -> Vec<Cell> {
    let mut all = Vec::new();
    for subset in row.list("/subsets") {
        let part = Row { object: subset };
        let addresses: Vec<&str> = part.list("/addresses").iter().map(|a| text(a, "ip")).collect();
        let ports = part.list("/ports");
        if ports.is_empty() {
            all.extend(addresses.iter().map(|ip| (*ip).to_owned()));
        }
        for port in ports {
            let port = port["port"].as_i64().unwrap_or_default();
            all.extend(addresses.iter().map(|ip| host_port(ip, port)));
        }
    }
    let shown = if row.list("/subsets").is_empty() { "<none>".to_owned() } else { few(&all, "") };
    vec![cell(row.name()), cell(shown), row.age()]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(crate) fn endpoint_slice(row: Row<'_>) -> Vec<Cell> {
    let port = |p: &Value| {
        let name = p["name"].as_str().map(str::to_owned);
        scalar(p.get("port")).or(name).unwrap_or_else(|| "*".to_owned())
    };
    let ports: Vec<String> = row.list("/ports").iter().map(port).collect();
    let addresses =
        row.list("/endpoints").iter().flat_map(|e| e["addresses"].as_array().into_iter().flatten());
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    vec![
        cell(row.name()),
        cell(row.text("/addressType")),
        cell(few(&ports, "<unset>")),
        cell(few(&addresses, "<unset>")),
        row.age(),
    ]
}

pub(crate) fn ingress(row: Row<'_>) -> Vec<Cell> {
    let tls = !row.list("/spec/tls").is_empty();
    vec![
        cell(row.name()),
        cell(row.text_or("/spec/ingressClassName", "<none>")),
        cell(hosts(row.list("/spec/rules"))),
        cell(load_balancer(row).join(",")),
        cell(if tls { "80, 443" } else { "80" }),
        row.age(),
    ]
}

/// The first three hosts; rules beyond are counted, whether or not they name a host.
fn hosts(rules: &[Value]) -> String {
    const MAX: usize = 3;
    let named: Vec<&str> = rules.iter().map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
    let shown = &named[..named.len().min(MAX)];
    let last = rules.iter().rposition(|r| shown.last().is_some_and(|h| text(r, "host") == *h));
    match last {
        None => "*".to_owned(),
        Some(last) if shown.len() == MAX && last + 1 < rules.len() => {
            format!("{} + {} more...", shown.join(","), rules.len() - MAX)
        }
        Some(_) => shown.join(","),
    }
}

pub(crate) fn ingress_class(row: Row<'_>) -> Vec<Cell> {
    let parameters = match row.at("/spec/parameters") {
        None | Some(Value::Null) => "<none>".to_owned(),
        Some(p) => {
            let group = p["apiGroup"].as_str().map(|g| format!(".{g}")).unwrap_or_default();
            format!("{}{group}/{}", text(p, "kind"), text(p, "name"))
        }
    };
    vec![cell(row.name()), cell(row.text("/spec/controller")), cell(parameters), row.age()]
}

pub(crate) fn network_policy(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.selector("/spec/podSelector")), row.age()]
}

pub(crate) fn service_cidr(row: Row<'_>) -> Vec<Cell> {
    let cidrs = join(row.list("/spec/cidrs"), |c| c.as_str().unwrap_or_default());
    vec![cell(row.name()), cell(cidrs), row.age()]
}

pub(crate) fn ip_address(row: Row<'_>) -> Vec<Cell> {
    let parent = match row.at("/spec/parentRef") {
        None | Some(Value::Null) => "<none>".to_owned(),
        Some(p) => {
            let group = Some(text(p, "group")).filter(|g| !g.is_empty()).map(|g| format!(".{g}"));
            let namespace = Some(text(p, "namespace")).filter(|n| !n.is_empty()).map(|n| format!("{n}/"));
            format!(
                "{}{}/{}{}",
                text(p, "resource"),
                group.unwrap_or_default(),
                namespace.unwrap_or_default(),
                text(p, "name")
            )
        }
    };
    vec![cell(row.name()), cell(parent)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cell::shown;
    use super::*;

    fn row(object: &Value) -> Row<'_> {
        Row { object }
    }

    #[test]
    fn a_service_shows_how_it_is_reached() {
        let np = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.7"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}});
        assert_eq!(shown(service(row(&np)))[1..5], ["NodePort", "10.0.0.7", "<none>", "80:30080/TCP"]);
        let name = json!({"spec": {"type": "ExternalName", "externalName": "x.example.com"}});
        assert_eq!(shown(service(row(&name)))[1..5], ["ExternalName", "<none>", "x.example.com", "<none>"]);
        let headless = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["None"]}});
        assert_eq!(shown(service(row(&headless)))[2], "None");
        let balancer = json!({"spec": {"type": "LoadBalancer"}});
        assert_eq!(shown(service(row(&balancer)))[3], "<pending>");
    }

    #[test]
    fn endpoints_are_cut_after_three() {
        let object = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]});
        assert_eq!(shown(endpoints(row(&object)))[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...");
        assert_eq!(shown(endpoints(row(&json!({}))))[1], "<none>");
    }

    #[test]
    fn a_slice_without_endpoints_is_unset() {
        assert_eq!(
            shown(endpoint_slice(row(&json!({"addressType": "IPv4"}))))[1..4],
            ["IPv4", "<unset>", "<unset>"]
        );
    }

    #[test]
    fn an_ingress_shows_its_hosts() {
        let with = |hosts: &[&str]| {
            let rules: Vec<Value> = hosts.iter().map(|h| json!({"host": h})).collect();
            shown(ingress(row(&json!({"spec": {"rules": rules}}))))[2].clone()
        };
        assert_eq!(with(&[]), "*");
        assert_eq!(with(&["a", "b"]), "a,b");
        assert_eq!(with(&["a", "b", "c", "d", "e"]), "a,b,c + 2 more...");
    }
}
