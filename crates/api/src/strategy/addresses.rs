//! ServiceCIDRs and IPAddresses: from which ranges Services get their addresses, and whose an address is.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::meta::Object as _;
use crate::validate::meta::immutable;
use crate::validate::view::View;
use crate::validate::{check, dns1123_subdomain, name_is_path_segment, parse_cidr_sloppy, parse_ip_sloppy};

/// What says that an IPAddress was made for a Service.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Who makes those.
pub const ALLOCATOR: &str = "ipallocator.k8s.io";

const SPEC: Path<'static> = Path::new("spec");

/// The name of an IPAddress is the address, in the one form that it has.
pub(crate) fn address_name(name: &str, _prefix: bool) -> Vec<String> {
    let Some(address) = parse_ip_sloppy(name) else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()];
    };
    let mut wrong = Vec::new();
    if name.parse::<IpAddr>().is_err() {
        wrong.push("must not have leading 0s".to_owned());
    } else if is_mapped(address) {
        wrong.push("must not be an IPv4-mapped IPv6 address".to_owned());
    } else if address.to_string() != name {
        wrong.push(format!("must be in canonical form ({:?})", address.to_string()));
    }
    wrong
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

pub(crate) fn validate_address(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let (path, parent) = (SPEC.child("parentRef"), new.at(&["spec", "parentRef"]));
    if let Some(old) = old {
        return immutable(parent, old.at(&["spec", "parentRef"]), &path, errors);
    }
    if !parent.is_set() {
        errors.push(Error::required(&SPEC, ""));
        return;
    }
    // That of Services is empty.
    if !parent.str("group").is_empty() {
        dns1123_subdomain(parent.str("group"), &path.child("group"), errors);
    }
    for (field, is_required) in [("resource", true), ("name", true), ("namespace", false)] {
        match parent.str(field) {
            "" if is_required => errors.push(Error::required(&path.child(field), "")),
            "" => {}
            text => check(name_is_path_segment(text, false), text, &path.child(field), errors),
        }
    }
}

pub(crate) fn validate_ranges(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let path = SPEC.child("cidrs");
    let ranges: Vec<&str> = new.get("spec").list("cidrs").map(View::text).collect();
    if let Some(old) = old {
        let before: Vec<&str> = old.get("spec").list("cidrs").map(View::text).collect();
        // One family more may come, and nothing else may change.
        if ranges.len() != 2 || before.len() != 1 || ranges[0] != before[0] {
            return unchanged(new, &before, &ranges, &path, errors);
        }
    }
    let spec = new.get("spec").json();
    if ranges.is_empty() {
        errors.push(Error::required(&path, "at least one CIDR required"));
        return;
    }
    if ranges.len() > 2 {
        errors.push(Error::invalid(&path, spec, "may only hold up to 2 values"));
        return;
    }
    let is_v4 = |range: &&str| parse_cidr_sloppy(range).map(|(address, _)| address.is_ipv4());
    if ranges.len() == 2 && !matches!((is_v4(&ranges[0]), is_v4(&ranges[1])), (Some(a), Some(b)) if a != b) {
        let words =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(Error::invalid(&path, spec, words));
        return;
    }
    for (index, range) in ranges.iter().enumerate() {
        check(range_is_valid(range), range, &path.index(index), errors);
    }
}

fn unchanged(new: View<'_>, before: &[&str], now: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    const IMMUTABLE: &str = "field is immutable";
    if before.len() != now.len() {
        errors.push(Error::invalid(path, new.at(&["spec", "cidrs"]).json(), IMMUTABLE));
        return;
    }
    for (index, (before, now)) in before.iter().zip(now).enumerate() {
        if before != now {
            errors.push(Error::invalid(&path.index(index), *now, IMMUTABLE));
        }
    }
}

/// Upstream's strict rule, for fields that have had it from the beginning.
fn range_is_valid(range: &str) -> Vec<String> {
    let Some((address, bits)) = parse_cidr_sloppy(range) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    };
    let (written, length) = range.split_once('/').unwrap_or((range, ""));
    let mut wrong = Vec::new();
    if written.parse::<IpAddr>().is_err() || length != bits.to_string() {
        wrong.push("must not have leading 0s in IP or prefix length".to_owned());
    } else if is_mapped(address) {
        wrong.push("must not have an IPv4-mapped IPv6 address".to_owned());
    } else {
        if address.to_string() != written {
            wrong.push(format!("must be in canonical form ({:?})", format!("{address}/{bits}")));
        }
        if has_bits_beyond(address, bits) {
            wrong.push("must not have bits set beyond the prefix length".to_owned());
        }
    }
    wrong
}

fn has_bits_beyond(address: IpAddr, bits: u8) -> bool {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_shl(bits.into()).unwrap_or(0) != 0,
        IpAddr::V6(v6) => v6.to_bits().checked_shl(bits.into()).unwrap_or(0) != 0,
    }
}

/// The ranges of a ServiceCIDR from which addresses are given out: of one that is not ready, or on its way
/// out, none. One that nobody has judged yet is ready.
pub fn ranges_in_use(service_cidr: &Value) -> impl Iterator<Item = &str> {
    let conditions = service_cidr["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let in_use = !service_cidr.meta().is_going() && ready.is_none_or(|ready| ready["status"] == "True");
    let ranges = service_cidr["spec"]["cidrs"].as_array().filter(|_| in_use);
    ranges.into_iter().flatten().filter_map(Value::as_str)
}

/// Whether an IPAddress only shows what a Service holds.
pub fn is_shown_for_a_service(ip_address: &Value) -> bool {
    ip_address["metadata"]["labels"][MANAGED_BY] == ALLOCATOR
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(
        rule: fn(View<'_>, Option<View<'_>>, &mut ErrorList),
        new: &Value,
        old: Option<&Value>,
    ) -> Vec<String> {
        let mut errors = ErrorList::new();
        rule(View::new(new), old.map(View::new), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_has_one_name_and_a_parent_for_ever() {
        for name in ["10.43.0.9", "2001:db8::1"] {
            assert_eq!(address_name(name, false), [] as [&str; 0]);
        }
        for (name, wrong) in [
            ("x", "must be a valid IP address"),
            ("10.43.0.09", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            ("2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
        ] {
            assert!(address_name(name, false)[0].starts_with(wrong), "{name}");
        }
        let parent = |parent: Value| json!({"spec": {"parentRef": parent}});
        let whole = parent(json!({"resource": "services", "namespace": "a", "name": "web"}));
        assert_eq!(said(validate_address, &whole, None), [] as [&str; 0]);
        assert_eq!(said(validate_address, &json!({"spec": {}}), None), ["spec: Required value"]);
        let empty = parent(json!({"group": "A", "namespace": "a/b"}));
        let wrong = said(validate_address, &empty, None);
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert_eq!(wrong[1], "spec.parentRef.resource: Required value");
        let other = parent(json!({"resource": "services", "namespace": "a", "name": "other"}));
        assert_eq!(said(validate_address, &other, Some(&whole)).len(), 1);
        assert_eq!(said(validate_address, &whole, Some(&whole)), [] as [&str; 0]);
    }

    #[test]
    fn ranges_are_one_of_each_family_and_only_grow_by_a_family() {
        let of = |ranges: &[&str]| json!({"spec": {"cidrs": ranges}});
        let fine: [&[&str]; 3] = [&["10.0.0.0/24"], &["2001:db8::/64"], &["10.0.0.0/24", "2001:db8::/64"]];
        for ranges in fine {
            assert_eq!(said(validate_ranges, &of(ranges), None), [] as [&str; 0]);
        }
        let wrong: [(&[&str], &str); 6] = [
            (&[], "spec.cidrs: Required value: at least one CIDR required"),
            (&["10.0.0.0/24", "10.1.0.0/24"], "may specify no more than one IP for each IP family"),
            (&["10.0.0.0/24", "2001:db8::/64", "10.1.0.0/24"], "may only hold up to 2 values"),
            (&["10.0.0.1/24"], "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set"),
            (&["10.0.0.0/024"], "must not have leading 0s in IP or prefix length"),
            (&["10.0.0.0"], "must be a valid CIDR value"),
        ];
        for (ranges, words) in wrong {
            let said = said(validate_ranges, &of(ranges), None);
            assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
        }
        let one = of(&["10.0.0.0/24"]);
        let both = of(&["10.0.0.0/24", "2001:db8::/64"]);
        assert_eq!(said(validate_ranges, &both, Some(&one)), [] as [&str; 0]);
        assert_eq!(said(validate_ranges, &one, Some(&one)), [] as [&str; 0]);
        let shorter = said(validate_ranges, &one, Some(&both));
        assert!(shorter[0].ends_with("field is immutable"), "{shorter:?}");
        let other = said(validate_ranges, &of(&["10.9.0.0/24"]), Some(&one));
        assert!(other[0].starts_with("spec.cidrs[0]"), "{other:?}");
    }

    #[test]
    fn a_range_on_its_way_out_or_not_ready_gives_nothing() {
        let of = |metadata: Value, status: Value| json!({"metadata": metadata, "spec": {"cidrs": ["10.0.0.0/24"]}, "status": status});
        let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
        let count = |object: &Value| ranges_in_use(object).count();
        assert_eq!(count(&of(json!({}), json!({}))), 1, "nobody has judged it");
        assert_eq!(count(&of(json!({}), ready("True"))), 1);
        assert_eq!(count(&of(json!({}), ready("False"))), 0);
        let going = json!({"deletionTimestamp": "2027-01-15T08:00:00Z"});
        assert_eq!(count(&of(going, ready("True"))), 0);
    }
}
