//! What a name of the cluster stands for, by the specification.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::Zone;
use crate::zone::{Endpoint, Named, Port};

/// Seconds that an answer may be kept: CoreDNS' own default. Short, because a rolling update
/// changes the endpoints of a headless Service every few seconds.
const TTL: u32 = 5;
/// The version of the specification, at `dns-version`.
const VERSION: &str = "1.1.0";
/// An ExternalName may lead to another one; a circle ends here.
const ALIASES_MAX: usize = 8;

/// What to say.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// These records, and those that the reader will ask for next.
    Records(Vec<Record>, Vec<Record>),
    /// The name is there, but has no such record: NODATA, with this SOA.
    NoData(Box<Record>),
    /// There is no such name: NXDOMAIN, with this SOA.
    NoName(Box<Record>),
    /// These aliases, then what others know about this name.
    Alias(Vec<Record>, Box<Name>),
    /// Not the cluster's name.
    Forward,
}

/// A part of an answer, before it has an owner's name.
enum Found {
    Data(Vec<RData>, Vec<Record>),
    Alias(String),
    NoData,
    NoName,
}

/// Answers one question.
pub fn answer(zone: &Zone, query: &Query) -> Answer {
    let labels = labels(query.name());
    let Some(depth) = labels.len().checked_sub(zone.domain.len()) else {
        return reverse(zone, &labels, query);
    };
    if labels[depth..] != zone.domain {
        return reverse(zone, &labels, query);
    }
    follow(zone, query, labels[..depth].to_vec())
}

/// Follows aliases as long as they stay in the cluster.
fn follow(zone: &Zone, query: &Query, mut below: Vec<String>) -> Answer {
    let mut owner = query.name().clone();
    let mut aliases = Vec::new();
    for _ in 0..ALIASES_MAX {
        let below_now: Vec<&str> = below.iter().map(String::as_str).collect();
        let target = match look_up(zone, &below_now, query.query_type()) {
            Found::Data(data, additional) => {
                aliases.extend(data.into_iter().map(|one| record(owner.clone(), one)));
                return Answer::Records(aliases, additional);
            }
            Found::Alias(target) => target,
            // The alias itself exists, whatever it leads to.
            Found::NoData | Found::NoName if !aliases.is_empty() => {
                return Answer::Records(aliases, Vec::new());
            }
            Found::NoData => return Answer::NoData(soa(zone)),
            Found::NoName => return Answer::NoName(soa(zone)),
        };
        let Ok(name) = Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) else {
            return Answer::NoData(soa(zone));
        };
        aliases.push(record(owner, RData::CNAME(CNAME(name.clone()))));
        let labels = labels(&name);
        let inside = labels.len().checked_sub(zone.domain.len());
        match inside.filter(|depth| labels[*depth..] == zone.domain) {
            _ if query.query_type() == RecordType::CNAME => return Answer::Records(aliases, Vec::new()),
            None => return Answer::Alias(aliases, Box::new(name)),
            Some(depth) => (owner, below) = (name, labels[..depth].to_vec()),
        }
    }
    Answer::Records(aliases, Vec::new())
}

/// Looks up a name without the cluster's domain.
fn look_up(zone: &Zone, below: &[&str], kind: RecordType) -> Found {
    match below {
        [] => apex(zone, kind),
        ["dns-version"] if kind == RecordType::TXT => {
            Found::Data(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))], Vec::new())
        }
        ["dns-version" | "svc" | "pod"] | [_, "pod"] => Found::NoData,
        [namespace, "svc"] => exists(zone.has_namespace(namespace)),
        [name, namespace, "svc"] => service(zone, name, namespace, kind),
        [label, name, namespace, "svc"] => below_service(zone, label, name, namespace, kind),
        [port, protocol, name, namespace, "svc"] => ports(zone, [port, protocol, name, namespace], kind),
        [address, _, "pod"] => match address.replace('-', ".").parse() {
            Ok(address) => addresses(&[address], kind),
            Err(_) => Found::NoName,
        },
        _ => Found::NoName,
    }
}

fn exists(known: bool) -> Found {
    if known { Found::NoData } else { Found::NoName }
}

fn apex(zone: &Zone, kind: RecordType) -> Found {
    match kind {
        RecordType::SOA => Found::Data(vec![soa(zone).data], Vec::new()),
        RecordType::NS => {
            let server = name_below(zone, "kube-dns.kube-system.svc");
            Found::Data(vec![RData::NS(NS(server))], Vec::new())
        }
        _ => Found::NoData,
    }
}

fn service(zone: &Zone, name: &str, namespace: &str, kind: RecordType) -> Found {
    match zone.service(namespace, name) {
        None => Found::NoName,
        Some(Named::External(target)) if target.parse::<IpAddr>().is_ok() => Found::NoData,
        Some(Named::External(target)) => Found::Alias(target.clone()),
        Some(_) if kind == RecordType::SRV => service_ports(zone, name, namespace, |_| true),
        Some(Named::Addresses { addresses: own, .. }) => addresses(own, kind),
        Some(Named::Headless(endpoints)) => {
            let mut all: Vec<IpAddr> = endpoints.iter().map(|one| one.address).collect();
            all.dedup();
            // Upstream answers NXDOMAIN for a headless Service that has nobody.
            if all.is_empty() { Found::NoName } else { addresses(&all, kind) }
        }
    }
}

/// `hostname.web.shop.svc`, or the `_tcp` above port names.
fn below_service(zone: &Zone, label: &str, name: &str, namespace: &str, kind: RecordType) -> Found {
    if let Some(protocol) = label.strip_prefix('_') {
        let known = |port: &Port| port.protocol == protocol;
        let found = service_ports(zone, name, namespace, known);
        return exists(matches!(found, Found::Data(..)));
    }
    let Some(Named::Headless(endpoints)) = zone.service(namespace, name) else { return Found::NoName };
    let own: Vec<IpAddr> =
        endpoints.iter().filter(|one| one.hostname == label).map(|one| one.address).collect();
    if own.is_empty() { Found::NoName } else { addresses(&own, kind) }
}

fn ports(zone: &Zone, [port, protocol, name, namespace]: [&str; 4], kind: RecordType) -> Found {
    let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
        return Found::NoName;
    };
    let wanted = |one: &Port| one.name == port && one.protocol == protocol;
    match service_ports(zone, name, namespace, wanted) {
        Found::Data(..) if kind != RecordType::SRV => Found::NoData,
        Found::NoData => Found::NoName,
        found => found,
    }
}

/// SRV records of the ports that are wanted, with the addresses of their targets.
fn service_ports(zone: &Zone, name: &str, namespace: &str, wanted: impl Fn(&Port) -> bool) -> Found {
    let own = format!("{name}.{namespace}.svc");
    let (mut data, mut additional) = (Vec::new(), Vec::new());
    let mut add = |target: &Name, ports: &[Port], addresses: &[IpAddr]| {
        let before = data.len();
        let srv = |port: &Port| RData::SRV(SRV::new(0, 100, port.number, target.clone()));
        data.extend(ports.iter().filter(|port| wanted(port)).map(srv));
        if data.len() > before {
            additional.extend(addresses.iter().map(|ip| record(target.clone(), address_data(*ip))));
        }
    };
    match zone.service(namespace, name) {
        Some(Named::Addresses { addresses, ports }) => add(&name_below(zone, &own), ports, addresses),
        Some(Named::Headless(endpoints)) => {
            for Endpoint { hostname, address, ports } in endpoints {
                add(&name_below(zone, &format!("{hostname}.{own}")), ports, &[*address]);
            }
        }
        Some(Named::External(_)) | None => return Found::NoName,
    }
    if data.is_empty() { Found::NoData } else { Found::Data(data, additional) }
}

fn addresses(addresses: &[IpAddr], kind: RecordType) -> Found {
    let asked = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let data: Vec<RData> = addresses.iter().filter(asked).map(|ip| address_data(*ip)).collect();
    if data.is_empty() { Found::NoData } else { Found::Data(data, Vec::new()) }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// Addresses of the cluster have names of the cluster or none; others are others' to name.
fn reverse(zone: &Zone, labels: &[String], query: &Query) -> Answer {
    let [d, c, b, a, "in-addr", "arpa"] = labels.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        return Answer::Forward;
    };
    let Ok(address) = format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>() else { return Answer::Forward };
    let soa = || {
        let mut soa = soa(zone);
        soa.name = arpa();
        soa
    };
    match (zone.name_of(address.into()), query.query_type()) {
        (Some(name), RecordType::PTR | RecordType::ANY) => {
            let data = RData::PTR(PTR(name_below(zone, name)));
            Answer::Records(vec![record(query.name().clone(), data)], Vec::new())
        }
        (Some(_), _) => Answer::NoData(soa()),
        (None, _) if zone.owns(address) => Answer::NoName(soa()),
        (None, _) => Answer::Forward,
    }
}

fn arpa() -> Name {
    Name::from_labels(["in-addr", "arpa"]).unwrap_or_default()
}

/// Who answers for the cluster's domain. A resolver may keep a "no" as long as its last field says.
fn soa(zone: &Zone) -> Box<Record> {
    let data = SOA::new(
        name_below(zone, "ns.dns"),
        name_below(zone, "hostmaster"),
        // Nobody copies the zone, so nobody compares its number.
        1,
        7200,
        1800,
        86400,
        TTL,
    );
    Box::new(record(name_below(zone, ""), RData::SOA(data)))
}

/// Names of Kubernetes objects are valid labels; a foreign one that is not becomes the root.
fn name_below(zone: &Zone, below: &str) -> Name {
    let labels = below.split('.').filter(|label| !label.is_empty());
    let labels = labels.chain(zone.domain.iter().map(String::as_str)).map(str::as_bytes);
    let mut name = Name::from_labels(labels).unwrap_or_default();
    name.set_fqdn(true);
    name
}

fn record(owner: Name, data: RData) -> Record {
    Record::from_rdata(owner, TTL, data)
}

/// The labels in lower case: names do not care for case (RFC 1035, 2.3.3).
fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests;
