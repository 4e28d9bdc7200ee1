//! Values that containers take from their own Pod: fieldRef and resourceFieldRef.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What is known of the Pod beside its object.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Addresses of the Pod.
    pub pod_ips: Vec<IpAddr>,
    /// Addresses of the node.
    pub host_ips: Vec<IpAddr>,
    /// What the node can give: limits that are not set fall back to it.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// The value of a field path, `metadata.labels['k']` for example.
pub fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    if let Some((map, key)) = keyed(path) {
        return match map {
            "metadata.labels" => text(meta.labels.as_ref().and_then(|labels| labels.get(key))),
            "metadata.annotations" => text(meta.annotations.as_ref().and_then(|notes| notes.get(key))),
            _ => Err(format!("unsupported fieldPath: {path}")),
        };
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(pairs(meta.labels.as_ref())),
        "metadata.annotations" => Ok(pairs(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => Ok(first(&facts.host_ips)),
        "status.hostIPs" => Ok(join(&facts.host_ips)),
        "status.podIP" => Ok(first(&facts.pod_ips)),
        "status.podIPs" => Ok(join(&facts.pod_ips)),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `metadata.labels['k']` in two parts.
fn keyed(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    Some((map, key))
}

/// A map as lines `key="value"`, sorted, with Go's quoting.
fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A string in double quotes as Go's `%q` prints it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char.is_control() && (char as u32) < 0x80 => {
                out.push_str(&format!("\\x{:02x}", char as u32))
            }
            char => out.push(char),
        }
    }
    out + "\""
}

/// The value of `limits.cpu` and its like, in units of the divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: &str,
    facts: &Facts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own);
    let Some((_, container)) = crate::pod::spec::container(pod, name) else {
        return Err(format!("container {name} not found"));
    };
    let Some((list, resource)) = selector.resource.split_once('.') else {
        return Err(format!("unsupported container resource : {}", selector.resource));
    };
    let amount = match list {
        "limits" => limit(&container, facts, resource),
        "requests" => request(&container, resource),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor =
        selector.divisor.as_ref().map(|divisor| parse(&divisor.0)).filter(|divisor| divisor.as_f64() > 0.0);
    Ok(divide(&amount, divisor.as_ref(), resource == "cpu").to_string())
}

fn parse(text: &str) -> Amount {
    text.parse().unwrap_or_default()
}

fn listed(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    list.and_then(|list| list.get(name)).map(|quantity| parse(&quantity.0))
}

/// An unset limit is what the node can give.
fn limit(container: &Container, facts: &Facts, name: &str) -> Amount {
    let own = container.resources.as_ref().and_then(|resources| listed(resources.limits.as_ref(), name));
    own.filter(|amount| amount.as_f64() > 0.0)
        .or_else(|| listed(Some(&facts.allocatable), name))
        .unwrap_or_default()
}

fn request(container: &Container, name: &str) -> Amount {
    container
        .resources
        .as_ref()
        .and_then(|resources| listed(resources.requests.as_ref(), name))
        .unwrap_or_default()
}

fn divide(amount: &Amount, divisor: Option<&Amount>, cpu: bool) -> i64 {
    let number = |amount: &Amount| if cpu { amount.milli_value() } else { amount.value() };
    let unit = divisor.map_or(if cpu { 1000 } else { 1 }, number).max(1);
    number(amount).saturating_add(unit - 1) / unit
}
