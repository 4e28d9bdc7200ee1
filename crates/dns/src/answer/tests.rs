//! What each name of a zone with some Services is answered with.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn zone() -> Zone {
    let service = |namespace: &str, name: &str, spec: Value| {
        let service = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(service).unwrap())
    };
    let web = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"],
                     "ports": [{"name": "http", "port": 80}, {"port": 81}]});
    let services = [
        service("shop", "web", web),
        service("shop", "both", json!({"clusterIP": "10.43.0.6", "clusterIPs": ["10.43.0.6", "fd00::6"]})),
        service("shop", "db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("shop", "nobody", json!({"clusterIP": "None"})),
        service("shop", "out", json!({"type": "ExternalName", "externalName": "example.com"})),
        service("shop", "in", json!({"type": "ExternalName", "externalName": "WEB.shop.svc.cluster.local."})),
        service(
            "shop",
            "circle",
            json!({"type": "ExternalName", "externalName": "circle.shop.svc.cluster.local"}),
        ),
        service("shop", "number", json!({"type": "ExternalName", "externalName": "192.0.2.1"})),
    ];
    let slice = json!({
        "metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.42.0.7"], "hostname": "db-0", "conditions": {"ready": true}},
                      {"addresses": ["10.42.0.8"], "conditions": {"ready": true}},
                      {"addresses": ["10.42.0.9"], "hostname": "db-2", "conditions": {"ready": false}}]});
    let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
    let ranges = ["10.42.0.0/16".to_owned(), "10.43.0.0/16".to_owned()];
    Zone::new("cluster.local", &ranges, &services, &slices)
}

/// The answer as a reader sees it.
fn ask(name: &str, kind: RecordType) -> String {
    let query = Query::query(Name::from_ascii(name).unwrap(), kind);
    let show = |records: Vec<Record>| {
        let one = |r: &Record| format!("{} {} {}", r.name, r.record_type(), r.data);
        records.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    match answer(&zone(), &query) {
        Answer::Records(records, additional) if additional.is_empty() => show(records),
        Answer::Records(records, additional) => format!("{} + {}", show(records), show(additional)),
        Answer::NoData(soa) => format!("NODATA {}", soa.name),
        Answer::NoName(soa) => format!("NXDOMAIN {}", soa.name),
        Answer::Alias(records, name) => format!("{} → {name}", show(records)),
        Answer::Forward => "elsewhere".to_owned(),
    }
}

#[test]
fn a_service_has_its_address_and_no_other_record() {
    let web = "web.shop.svc.cluster.local.";
    assert_eq!(ask(web, RecordType::A), format!("{web} A 10.43.0.5"));
    assert_eq!(ask("Web.Shop.SVC.Cluster.Local.", RecordType::A), "Web.Shop.SVC.Cluster.Local. A 10.43.0.5");
    assert_eq!(ask(web, RecordType::AAAA), "NODATA cluster.local.");
    assert_eq!(ask("5.0.43.10.in-addr.arpa.", RecordType::PTR), format!("5.0.43.10.in-addr.arpa. PTR {web}"));
}

#[test]
fn named_ports_have_srv_records_that_bring_the_address() {
    let web = "web.shop.svc.cluster.local.";
    let expected = format!("_http._tcp.{web} SRV 0 100 80 {web} + {web} A 10.43.0.5");
    assert_eq!(ask(&format!("_http._tcp.{web}"), RecordType::SRV), expected);
    assert_eq!(ask(&format!("_http._udp.{web}"), RecordType::SRV), "NXDOMAIN cluster.local.");
    assert_eq!(ask(&format!("_http._tcp.{web}"), RecordType::A), "NODATA cluster.local.");
    assert_eq!(ask(&format!("_tcp.{web}"), RecordType::A), "NODATA cluster.local.");
}

#[test]
fn a_headless_service_is_its_ready_endpoints() {
    let db = "db.shop.svc.cluster.local.";
    assert_eq!(ask(db, RecordType::A), format!("{db} A 10.42.0.7; {db} A 10.42.0.8"));
    assert_eq!(ask(&format!("db-0.{db}"), RecordType::A), format!("db-0.{db} A 10.42.0.7"));
    assert_eq!(ask(&format!("10-42-0-8.{db}"), RecordType::A), format!("10-42-0-8.{db} A 10.42.0.8"));
    assert_eq!(ask(&format!("db-2.{db}"), RecordType::A), "NXDOMAIN cluster.local.");
    let srv = ask(&format!("_sql._tcp.{db}"), RecordType::SRV);
    assert!(srv.contains(&format!("SRV 0 100 5432 db-0.{db}; ")), "{srv}");
    assert!(srv.ends_with(&format!("+ db-0.{db} A 10.42.0.7; 10-42-0-8.{db} A 10.42.0.8")), "{srv}");
    let reverse = "7.0.42.10.in-addr.arpa.";
    assert_eq!(ask(reverse, RecordType::PTR), format!("{reverse} PTR db-0.{db}"));
    assert_eq!(ask("nobody.shop.svc.cluster.local.", RecordType::A), "NXDOMAIN cluster.local.");
}

#[test]
fn an_external_name_is_an_alias_that_is_followed() {
    let name = |name: &str| format!("{name}.shop.svc.cluster.local.");
    let (out, inside) = (name("out"), name("in"));
    assert_eq!(ask(&out, RecordType::A), format!("{out} CNAME example.com. → example.com."));
    assert_eq!(ask(&out, RecordType::CNAME), format!("{out} CNAME example.com."));
    let web = ask(&inside, RecordType::A);
    assert!(web.eq_ignore_ascii_case(&format!("{inside} CNAME {0}; {0} A 10.43.0.5", name("web"))), "{web}");
    assert_eq!(ask(&name("circle"), RecordType::A).matches("CNAME").count(), ALIASES_MAX);
    assert_eq!(ask(&name("number"), RecordType::A), "NODATA cluster.local.");
}

#[test]
fn what_lies_between_exists_and_what_is_missing_does_not() {
    for there in ["cluster.local.", "svc.cluster.local.", "shop.svc.cluster.local.", "pod.cluster.local."] {
        assert_eq!(ask(there, RecordType::A), "NODATA cluster.local.", "{there}");
    }
    for missing in ["no.shop.svc.cluster.local.", "no.svc.cluster.local.", "a.b.web.shop.svc.cluster.local."]
    {
        assert_eq!(ask(missing, RecordType::A), "NXDOMAIN cluster.local.", "{missing}");
    }
    // What a search list makes of a full name must end at once.
    let doubled = "web.shop.svc.cluster.local.shop.svc.cluster.local.";
    assert_eq!(ask(doubled, RecordType::A), "NXDOMAIN cluster.local.");
}

#[test]
fn pods_are_named_by_their_address() {
    let pod = "10-42-0-7.shop.pod.cluster.local.";
    assert_eq!(ask(pod, RecordType::A), format!("{pod} A 10.42.0.7"));
    assert_eq!(ask("web.shop.pod.cluster.local.", RecordType::A), "NXDOMAIN cluster.local.");
}

#[test]
fn other_names_are_others_to_answer() {
    for other in
        ["example.com.", "local.", ".", "xcluster.local.", "1.2.0.192.in-addr.arpa.", "42.10.in-addr.arpa."]
    {
        assert_eq!(ask(other, RecordType::A), "elsewhere", "{other}");
    }
    assert_eq!(ask("99.0.42.10.in-addr.arpa.", RecordType::PTR), "NXDOMAIN in-addr.arpa.");
}

#[test]
fn the_domain_tells_who_serves_it_and_by_which_rules() {
    assert!(ask("cluster.local.", RecordType::SOA).starts_with("cluster.local. SOA ns.dns.cluster.local. "));
    let server = "kube-dns.kube-system.svc.cluster.local.";
    assert_eq!(ask("cluster.local.", RecordType::NS), format!("cluster.local. NS {server}"));
    assert_eq!(ask("dns-version.cluster.local.", RecordType::TXT), "dns-version.cluster.local. TXT 1.1.0");
}

#[test]
fn addresses_of_both_families_have_their_own_types_of_records() {
    let both = "both.shop.svc.cluster.local.";
    assert_eq!(ask(both, RecordType::A), format!("{both} A 10.43.0.6"));
    assert_eq!(ask(both, RecordType::AAAA), format!("{both} AAAA fd00::6"));
}
