//! NetworkPolicies: selectors, ports and blocks of addresses.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::{SelectorValues, label_selector};
use crate::validate::view::View;
use crate::validate::{cidr_for_legacy_field, is_valid_port_name, is_valid_port_num, parse_cidr_sloppy};

const SPEC: Path<'static> = Path::new("spec");
// As upstream shows them, which is not by the alphabet here.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];
/// Each list of rules, with what its peers are called.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub(crate) fn validate(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    let kept = old.map(|old| blocks(old.get("spec"))).unwrap_or_default();
    let values = match old.is_some_and(|old| has_invalid_selector(old.get("spec"))) {
        true => SelectorValues::Unchecked,
        false => SelectorValues::Checked,
    };
    label_selector(spec.get("podSelector"), values, &SPEC.child("podSelector"), errors);
    for (direction, peers) in DIRECTIONS {
        let list = SPEC.child(direction);
        for (index, one) in spec.list(direction).enumerate() {
            rule(one, peers, values, &kept, &list.index(index), errors);
        }
    }
    policy_types(spec, errors);
}

fn rule(
    rule: View<'_>,
    peers: &str,
    values: SelectorValues,
    kept: &[&str],
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let list = path.child("ports");
    for (number, one) in rule.list("ports").enumerate() {
        port(one, &list.index(number), errors);
    }
    let list = path.child(peers);
    for (number, one) in rule.list(peers).enumerate() {
        peer(one, values, kept, &list.index(number), errors);
    }
}

/// An object from before the rule for values keeps them.
fn has_invalid_selector(spec: View<'_>) -> bool {
    let mut errors = ErrorList::new();
    label_selector(spec.get("podSelector"), SelectorValues::Checked, &SPEC, &mut errors);
    !errors.is_empty()
}

/// Every range that a policy names: one that was accepted once stays accepted.
fn blocks(spec: View<'_>) -> Vec<&str> {
    let mut found = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for peer in spec.list(direction).flat_map(|rule| rule.list(peers)) {
            let block = peer.get("ipBlock");
            found.push(block.str("cidr"));
            found.extend(block.list("except").map(View::text));
        }
    }
    found
}

fn port(port: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let protocol = port.get("protocol");
    if protocol.is_set() && !PROTOCOLS.contains(&protocol.text()) {
        errors.push(Error::not_supported(&path.child("protocol"), protocol.text(), &PROTOCOLS));
    }
    let (given, end) = (port.get("port").value(), port.get("endPort").as_int());
    match given {
        Some(Value::String(name)) => {
            let wrong = is_valid_port_name(name);
            errors.extend(wrong.into_iter().map(|w| Error::invalid(&path.child("port"), name.clone(), w)));
        }
        Some(number) => number_of_port(number.as_i64().unwrap_or(0), &path.child("port"), errors),
        None => {}
    }
    if let Some(end) = end {
        end_of_range(given, end, &path.child("endPort"), errors);
    }
}

/// Only of a number a range can go on.
fn end_of_range(first: Option<&Value>, end: i64, path: &Path<'_>, errors: &mut ErrorList) {
    let words = match first {
        None => "may not be specified when `port` is not specified",
        Some(Value::String(_)) => "may not be specified when `port` is non-numeric",
        Some(first) => {
            if end < first.as_i64().unwrap_or(0) {
                errors.push(Error::invalid(path, end, "must be greater than or equal to `port`"));
            }
            return number_of_port(end, path, errors);
        }
    };
    errors.push(Error::invalid(path, end, words));
}

fn number_of_port(number: i64, path: &Path<'_>, errors: &mut ErrorList) {
    errors.extend(is_valid_port_num(number).into_iter().map(|words| Error::invalid(path, number, words)));
}

fn peer(peer: View<'_>, values: SelectorValues, kept: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    let selectors = ["podSelector", "namespaceSelector"];
    for name in selectors {
        label_selector(peer.get(name), values, &path.child(name), errors);
    }
    let block = peer.get("ipBlock");
    if block.is_set() {
        ip_block(block, kept, &path.child("ipBlock"), errors);
    }
    let selects = selectors.iter().any(|name| peer.get(name).is_set());
    match (block.is_set(), selects) {
        (false, false) => errors.push(Error::required(path, "must specify a peer")),
        (true, true) => {
            errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
}

fn ip_block(block: View<'_>, kept: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    let whole = block.str("cidr");
    if whole.is_empty() {
        errors.push(Error::required(&path.child("cidr"), ""));
        return;
    }
    cidr_for_legacy_field(whole, kept, &path.child("cidr"), errors);
    let Some((network, bits)) = parse_cidr_sloppy(whole) else { return };
    let list = path.child("except");
    for (index, except) in block.list("except").map(View::text).enumerate() {
        let at = list.index(index);
        cidr_for_legacy_field(except, kept, &at, errors);
        let Some((inner, inner_bits)) = parse_cidr_sloppy(except) else { continue };
        if inner_bits <= bits || !shares_prefix(network, inner, bits) {
            errors.push(Error::invalid(&at, except, "must be a strict subset of `cidr`"));
        }
    }
}

fn shares_prefix(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= u32::from(bits)
}

fn policy_types(spec: View<'_>, errors: &mut ErrorList) {
    let path = SPEC.child("policyTypes");
    if spec.list("policyTypes").len() > TYPES.len() {
        let given = spec.get("policyTypes").json();
        errors.push(Error::invalid(&path, given, "may not specify more than two policyTypes"));
        return;
    }
    for (index, given) in spec.list("policyTypes").map(View::text).enumerate() {
        if !TYPES.contains(&given) {
            errors.push(Error::not_supported(&path.index(index), given, &TYPES));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::kinds::by_kind;
    use crate::strategy::{validate_create, validate_update};

    fn policy(spec: Value) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": "1"}, "spec": spec})
    }

    fn wrong(spec: Value) -> String {
        validate_create(by_kind("networking.k8s.io/v1", "NetworkPolicy").unwrap(), &policy(spec)).to_string()
    }

    fn port(port: Value) -> String {
        wrong(json!({"podSelector": {}, "ingress": [{"ports": [port]}]}))
    }

    fn peer(peer: Value) -> String {
        wrong(json!({"podSelector": {}, "egress": [{"to": [peer]}]}))
    }

    #[test]
    fn ports_are_numbers_ranges_or_names() {
        for good in
            [json!({}), json!({"port": 80, "endPort": 80}), json!({"protocol": "SCTP", "port": "http"})]
        {
            assert_eq!(port(good), "");
        }
        assert_eq!(
            port(json!({"protocol": "ICMP"})),
            r#"spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP""#
        );
        assert_eq!(
            port(json!({"port": 90, "endPort": 80})),
            "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"
        );
        assert_eq!(
            port(json!({"port": "http", "endPort": 80})),
            "spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when `port` is non-numeric"
        );
        assert_eq!(
            port(json!({"endPort": 80})),
            "spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when `port` is not specified"
        );
        assert_eq!(
            port(json!({"port": 0})),
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"
        );
    }

    #[test]
    fn a_peer_is_selected_or_a_block() {
        assert_eq!(peer(json!({"podSelector": {}, "namespaceSelector": {}})), "");
        assert_eq!(peer(json!({})), "spec.egress[0].to[0]: Required value: must specify a peer");
        assert_eq!(
            peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"
        );
        assert_eq!(peer(json!({"ipBlock": {}})), "spec.egress[0].to[0].ipBlock.cidr: Required value");
        assert_eq!(
            peer(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
            r#"spec.egress[0].to[0].ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#
        );
        let except = |except: &str| peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": [except]}}));
        assert_eq!(except("10.1.0.0/16"), "");
        for outside in ["11.0.0.0/16", "10.0.0.0/8", "fd00::/16"] {
            assert_eq!(
                except(outside),
                format!(
                    "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: {outside:?}: must be a strict subset of `cidr`"
                )
            );
        }
    }

    #[test]
    fn types_are_at_most_the_two() {
        assert_eq!(
            wrong(json!({"podSelector": {}, "policyTypes": ["Both"]})),
            r#"spec.policyTypes[0]: Unsupported value: "Both": supported values: "Ingress", "Egress""#
        );
        let three = wrong(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress", "Ingress"]}));
        assert!(three.ends_with("may not specify more than two policyTypes"), "{three}");
    }

    #[test]
    fn a_range_that_was_accepted_once_stays_so() {
        let kind = by_kind("networking.k8s.io/v1", "NetworkPolicy").unwrap();
        let odd = |extra: &str| {
            policy(json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": extra}}]}]}))
        };
        assert_eq!(validate_update(kind, None, &odd("10.0.0.0/99"), &odd("10.0.0.0/99")).to_string(), "");
        assert_ne!(validate_update(kind, None, &odd("10.0.0.0/98"), &odd("10.0.0.0/99")).to_string(), "");
    }
}
