//! Endpoints and EndpointSlices.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::immutable;
use crate::validate::view::View;
use crate::validate::{
    dns1123_label, dns1123_subdomain, inclusive_range, ip_for_legacy_field, is_valid_port_num,
    parse_ip_sloppy, qualified_name,
};

/// An address that traffic can be sent to: not this host's own, and not of one link only.
pub(super) fn usable_address(address: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(ip) = parse_ip_sloppy(address) else {
        errors.push(Error::invalid(path, address, "must be a valid IP address"));
        return;
    };
    let (link, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    let words = if ip.is_unspecified() {
        format!("may not be unspecified ({address})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return;
    };
    errors.push(Error::invalid(path, address, words));
}

pub(crate) fn endpoints(new: View<'_>, errors: &mut ErrorList) {
    let list = Path::new("subsets");
    for (index, subset) in new.list("subsets").enumerate() {
        let at = list.index(index);
        if !subset.has_items("addresses") && !subset.has_items("notReadyAddresses") {
            errors.push(Error::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for name in ["addresses", "notReadyAddresses"] {
            let addresses = at.child(name);
            for (number, address) in subset.list(name).enumerate() {
                endpoint_address(address, &addresses.index(number), errors);
            }
        }
        let ports = at.child("ports");
        let several = subset.list("ports").len() > 1;
        for (number, port) in subset.list("ports").enumerate() {
            endpoint_port(port, several, &ports.index(number), errors);
        }
    }
}

/// Of slices: said when one is made.
pub(crate) fn slice_warnings(slice: &Value, old: Option<&Value>) -> Vec<String> {
    let names = old.is_none() && View::new(slice).str("addressType") == "FQDN";
    names.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
}

pub(crate) fn warnings(_: &Value, _: Option<&Value>) -> Vec<String> {
    vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
}

fn endpoint_address(address: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    ip_for_legacy_field(address.str("ip"), &path.child("ip"), errors);
    let name = address.str("hostname");
    if !name.is_empty() {
        dns1123_label(name, &path.child("hostname"), errors);
    }
    if address.get("nodeName").is_set() {
        dns1123_subdomain(address.str("nodeName"), &path.child("nodeName"), errors);
    }
    usable_address(address.str("ip"), &path.child("ip"), errors);
}

fn endpoint_port(port: View<'_>, named: bool, path: &Path<'_>, errors: &mut ErrorList) {
    match port.str("name") {
        "" if named => errors.push(Error::required(&path.child("name"), "")),
        "" => {}
        name => dns1123_label(name, &path.child("name"), errors),
    }
    let number = port.int("port");
    errors.extend(
        is_valid_port_num(number).into_iter().map(|words| Error::invalid(&path.child("port"), number, words)),
    );
    protocol(port, path, errors);
    if port.get("appProtocol").is_set() {
        qualified_name(port.str("appProtocol"), &path.child("appProtocol"), errors);
    }
}

fn protocol(port: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (protocol, known) = (port.str("protocol"), ["SCTP", "TCP", "UDP"]);
    match protocol {
        "" => errors.push(Error::required(&path.child("protocol"), "")),
        other if !known.contains(&other) => {
            errors.push(Error::not_supported(&path.child("protocol"), other, &known))
        }
        _ => {}
    }
}

/// The most endpoints, and the most ports, of one slice.
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20000;
/// The most addresses of one endpoint.
const ADDRESSES_MAX: usize = 100;

pub(crate) fn slice(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let (family, path) = (new.str("addressType"), Path::new("addressType"));
    let families = ["FQDN", "IPv4", "IPv6"];
    match family {
        "" => errors.push(Error::required(&path, "")),
        other if !families.contains(&other) => errors.push(Error::not_supported(&path, other, &families)),
        _ => {}
    }
    slice_endpoints(new, family, errors);
    slice_ports(new, errors);
    if let Some(old) = old {
        immutable(new.get("addressType"), old.get("addressType"), &path, errors);
    }
}

fn slice_endpoints(new: View<'_>, family: &str, errors: &mut ErrorList) {
    let list = Path::new("endpoints");
    let count = new.list("endpoints").len();
    if count > ENDPOINTS_MAX {
        errors.push(Error::too_many(&list, count, ENDPOINTS_MAX));
        return;
    }
    for (index, endpoint) in new.list("endpoints").enumerate() {
        let at = list.index(index);
        let addresses = at.child("addresses");
        match endpoint.list("addresses").len() {
            0 => errors.push(Error::required(&addresses, "must contain at least 1 address")),
            count if count > ADDRESSES_MAX => errors.push(Error::too_many(&addresses, count, ADDRESSES_MAX)),
            _ => {}
        }
        for (number, address) in endpoint.list("addresses").enumerate() {
            slice_address(address.text(), family, &addresses.index(number), errors);
        }
        if endpoint.get("nodeName").is_set() {
            dns1123_subdomain(endpoint.str("nodeName"), &at.child("nodeName"), errors);
        }
        if endpoint.get("hostname").is_set() {
            dns1123_label(endpoint.str("hostname"), &at.child("hostname"), errors);
        }
    }
}

fn slice_address(address: &str, family: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let parsed = parse_ip_sloppy(address);
    match family {
        "IPv4" | "IPv6" => {
            usable_address(address, path, errors);
            if parsed.is_some_and(|ip| ip.is_ipv4() != (family == "IPv4")) {
                errors.push(Error::invalid(path, address, format!("must be a valid {family} address")));
            }
        }
        "FQDN" => dns1123_subdomain(address, path, errors),
        _ => {}
    }
}

fn slice_ports(new: View<'_>, errors: &mut ErrorList) {
    let list = Path::new("ports");
    let count = new.list("ports").len();
    if count > PORTS_MAX {
        errors.push(Error::too_many(&list, count, PORTS_MAX));
        return;
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, port) in new.list("ports").enumerate() {
        let (at, name) = (list.index(index), port.str("name"));
        if !name.is_empty() {
            dns1123_label(name, &at.child("name"), errors);
        }
        if !names.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        protocol(port, &at, errors);
        if let Some(number) = port.get("port").as_int().filter(|number| !(1..=65535).contains(number)) {
            errors.push(Error::invalid(&at.child("port"), number, inclusive_range(1, 65535)));
        }
        if port.get("appProtocol").is_set() {
            qualified_name(port.str("appProtocol"), &at.child("appProtocol"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_have_addresses_that_can_be_reached() {
        let mut errors = ErrorList::new();
        endpoints(View::new(&json!({"subsets": [{}, {"addresses": [{"ip": "127.0.0.1"}]}]})), &mut errors);
        assert_eq!(
            errors.to_string(),
            "[subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`, subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)]"
        );
    }

    #[test]
    fn a_slice_holds_addresses_of_its_family() {
        let mut errors = ErrorList::new();
        let object = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}, {}],
            "ports": [{"name": "a", "protocol": "TCP", "port": 0}]});
        slice(View::new(&object), None, &mut errors);
        assert_eq!(
            errors.to_string(),
            "[endpoints[1].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address, endpoints[2].addresses: Required value: must contain at least 1 address, ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive]"
        );
    }
}
