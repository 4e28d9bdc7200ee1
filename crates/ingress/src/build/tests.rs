//! Tables of Ingresses as people write them.

use serde_json::{Value, json};

use super::*;
use crate::Matched;

fn of<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn class() -> Arc<IngressClass> {
    Arc::new(crate::class::built_in())
}

fn ingress(name: &str, created: &str, spec: Value) -> Arc<Ingress> {
    of(
        json!({"metadata": {"namespace": "a", "name": name, "uid": name, "creationTimestamp": created}, "spec": spec}),
    )
}

fn backend(service: &str, port: Value) -> Value {
    json!({"service": {"name": service, "port": port}})
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(path, kind, service)| {
            json!({"path": path, "pathType": kind, "backend": backend(service, json!({"number": 80}))})
        })
        .collect();
    if host.is_empty() {
        json!({"http": {"paths": paths}})
    } else {
        json!({"host": host, "http": {"paths": paths}})
    }
}

/// Services `s1` to `s9` have one Pod each, 10.0.0.1 to 10.0.0.9.
fn service(_: &str, name: &str) -> Option<Arc<Service>> {
    let spec = match name {
        "outside" => json!({"type": "ExternalName", "externalName": "example.com"}),
        "h2c" => json!({"ports": [{"name": "g", "port": 80, "appProtocol": "kubernetes.io/h2c"}]}),
        "tls" => json!({"ports": [{"name": "g", "port": 80, "appProtocol": "https"}]}),
        "none" => return None,
        _ => json!({"ports": [{"name": "web", "port": 80}, {"name": "other", "port": 81}]}),
    };
    Some(of(json!({"metadata": {"namespace": "a", "name": name}, "spec": spec})))
}

fn slices(_: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
    let endpoint = |last: &str, conditions: Value| json!({"addresses": [format!("10.0.0.{last}")], "targetRef": {"uid": last}, "conditions": conditions});
    let leaves = json!({"ready": false, "serving": true, "terminating": true});
    let endpoints = match name {
        "leaving" => vec![endpoint("1", leaves), endpoint("2", json!({"ready": false, "serving": false}))],
        "mixed" => {
            vec![endpoint("1", leaves), endpoint("2", json!({"ready": true})), endpoint("3", json!({}))]
        }
        "h2c" => vec![endpoint("1", json!({}))],
        _ => vec![endpoint(name.trim_start_matches('s'), json!({"ready": true}))],
    };
    let ports = if name == "h2c" {
        json!([{"name": "g", "port": 9000}])
    } else {
        json!([{"name": "other", "port": 8081}, {"name": "web", "port": 8080, "protocol": "TCP"}])
    };
    vec![of(json!({"metadata": {}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}))]
}

fn secret(_: &str, name: &str) -> Option<Arc<Secret>> {
    if name == "broken" {
        let data = json!({"tls.crt": "bm90aGluZw==", "tls.key": ""});
        return Some(of(json!({"metadata": {"namespace": "a", "name": name}, "data": data})));
    }
    let issued = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let base64 = |text: String| serde_json::to_value(k8s_openapi::ByteString(text.into_bytes())).unwrap();
    let data =
        json!({"tls.crt": base64(issued.cert.pem()), "tls.key": base64(issued.signing_key.serialize_pem())});
    (name != "absent").then(|| of(json!({"metadata": {"namespace": "a", "name": name}, "data": data})))
}

fn built(ingresses: Vec<Arc<Ingress>>, classes: Vec<Arc<IngressClass>>) -> (Table, Vec<String>) {
    let world = World { ingresses, classes, service: &service, slices: &slices, secret: &secret };
    let (table, findings) = build(&world);
    (table, findings.into_iter().map(|finding| finding.message).collect())
}

fn one(spec: Value) -> (Table, Vec<String>) {
    built(vec![ingress("one", "2026-01-01T00:00:00Z", spec)], vec![class()])
}

/// Who answers: the addresses, or why nobody does.
fn who(table: &Table, host: &str, path: &str) -> String {
    match table.find(host, path) {
        Matched::Nothing => "404".to_owned(),
        Matched::Upstream(upstream) => {
            let addresses =
                upstream.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            if addresses.is_empty() { "503".to_owned() } else { addresses }
        }
    }
}

/// The last number of the one address.
fn number(table: &Table, host: &str, path: &str) -> String {
    let who = who(table, host, path);
    who.strip_prefix("10.0.0.").and_then(|rest| rest.strip_suffix(":8080")).unwrap_or(&who).to_owned()
}

/// The table of examples of upstream's documentation.
#[test]
fn paths_match_as_upstreams_examples_say() {
    let cases = [
        ("Prefix", &["/"][..], "/any/path", Some("/")),
        ("Exact", &["/foo"], "/foo", Some("/foo")),
        ("Exact", &["/foo"], "/bar", None),
        ("Exact", &["/foo"], "/foo/", None),
        ("Exact", &["/foo/"], "/foo", None),
        ("Prefix", &["/foo"], "/foo", Some("/foo")),
        ("Prefix", &["/foo"], "/foo/", Some("/foo")),
        ("Prefix", &["/foo/"], "/foo", Some("/foo/")),
        ("Prefix", &["/foo/"], "/foo/", Some("/foo/")),
        ("Prefix", &["/aaa/bb"], "/aaa/bbb", None),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
        ("Prefix", &["/aaa/bbb/"], "/aaa/bbb", Some("/aaa/bbb/")),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbb/ccc", Some("/aaa/bbb")),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbbxyz", None),
        ("Prefix", &["/", "/aaa"], "/aaa/ccc", Some("/aaa")),
        ("Prefix", &["/", "/aaa", "/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
        ("Prefix", &["/", "/aaa", "/aaa/bbb"], "/ccc", Some("/")),
        ("Prefix", &["/aaa"], "/ccc", None),
        ("ImplementationSpecific", &["/foo"], "/foo/bar", Some("/foo")),
    ];
    for (kind, paths, asked, wanted) in cases {
        let names: Vec<String> = (1..=paths.len()).map(|number| format!("s{number}")).collect();
        let rules: Vec<_> =
            paths.iter().zip(&names).map(|(path, name)| (*path, kind, name.as_str())).collect();
        let (table, findings) = one(json!({"rules": [rule("", &rules)]}));
        assert_eq!(findings, Vec::<String>::new());
        let found = number(&table, "x", asked);
        let wanted = wanted.map_or("404".to_owned(), |wanted| {
            (paths.iter().position(|path| *path == wanted).unwrap() + 1).to_string()
        });
        assert_eq!(found, wanted, "{kind} {paths:?} {asked}");
    }
}

#[test]
fn of_two_that_match_the_longer_path_counts_and_then_the_exact_one() {
    let rules =
        [rule("", &[("/foo", "Prefix", "s1"), ("/foo", "Exact", "s2"), ("/foo/bar", "Prefix", "s3")])];
    let (table, _) = one(json!({"rules": rules}));
    assert_eq!(number(&table, "x", "/foo"), "2");
    assert_eq!(number(&table, "x", "/foo/x"), "1");
    assert_eq!(number(&table, "x", "/foo/bar"), "3");
}

#[test]
fn hosts_are_tried_from_the_name_over_the_wildcard_to_all_and_the_default() {
    let rules = [
        rule("a.example.com", &[("/own", "Prefix", "s1")]),
        rule("*.example.com", &[("/", "Prefix", "s2")]),
        rule("", &[("/all", "Prefix", "s3")]),
    ];
    let (table, _) = one(json!({"rules": rules, "defaultBackend": backend("s4", json!({"name": "web"}))}));
    assert_eq!(number(&table, "a.example.com", "/own"), "1");
    assert_eq!(number(&table, "a.example.com", "/"), "2");
    assert_eq!(number(&table, "b.example.com", "/all"), "2");
    assert_eq!(number(&table, "example.com", "/all"), "3", "a wildcard is one label");
    assert_eq!(number(&table, "a.b.example.com", "/all"), "3", "and no more");
    assert_eq!(number(&table, "", "/"), "4");
    assert_eq!(number(&table, ".example.com", "/"), "4", "no label is none");
}

#[test]
fn the_oldest_ingress_counts_where_two_say_the_same() {
    let spec = |service| json!({"rules": [rule("h", &[("/", "Prefix", service)])]});
    let young = ingress("a", "2026-01-02T00:00:00Z", spec("s1"));
    let old = ingress("b", "2026-01-01T00:00:00Z", spec("s2"));
    let (table, _) = built(vec![young, old], vec![class()]);
    assert_eq!(number(&table, "h", "/"), "2");
}

#[test]
fn only_our_classes_are_served_and_what_has_none_while_ours_is_the_default() {
    let of_class = |class: Value, annotation: Value| -> Arc<Ingress> {
        let annotations =
            if annotation.is_null() { json!({}) } else { json!({"kubernetes.io/ingress.class": annotation}) };
        of(json!({"metadata": {"namespace": "a", "name": "i", "annotations": annotations},
                  "spec": {"ingressClassName": class, "rules": [rule("", &[("/", "Prefix", "s1")])]}}))
    };
    let other: Arc<IngressClass> =
        of(json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}));
    let mine: Arc<IngressClass> =
        of(json!({"metadata": {"name": "mine"}, "spec": {"controller": crate::CONTROLLER}}));
    let served = |ingress: Arc<Ingress>, classes: &[&Arc<IngressClass>]| {
        let (table, _) = built(vec![ingress], classes.iter().map(|class| (*class).clone()).collect());
        number(&table, "x", "/") == "1"
    };
    let built_in = class();
    let all = [&built_in, &other, &mine];
    assert!(served(of_class(json!("monopod"), Value::Null), &all));
    assert!(served(of_class(json!("mine"), Value::Null), &all));
    assert!(served(of_class(Value::Null, json!("monopod")), &all));
    assert!(served(of_class(Value::Null, Value::Null), &all));
    assert!(!served(of_class(Value::Null, Value::Null), &[&other, &mine]), "no default");
    assert!(!served(of_class(json!("nginx"), Value::Null), &all));
    assert!(!served(of_class(Value::Null, json!("nginx")), &all));
    assert!(!served(of_class(json!("nosuch"), Value::Null), &all));
}

#[test]
fn only_ready_pods_are_asked_and_those_that_leave_where_there_is_no_other() {
    let rules = [rule("", &[("/mixed", "Prefix", "mixed"), ("/leaving", "Prefix", "leaving")])];
    let (table, _) = one(json!({"rules": rules}));
    assert_eq!(who(&table, "", "/mixed"), "10.0.0.2:8080 10.0.0.3:8080");
    assert_eq!(who(&table, "", "/leaving"), "10.0.0.1:8080");
}

#[test]
fn what_cannot_be_is_said_and_answered_as_nobody() {
    let paths = json!([
        {"path": "/a", "pathType": "Prefix", "backend": backend("none", json!({"number": 80}))},
        {"path": "/b", "pathType": "Prefix", "backend": backend("s1", json!({"number": 90}))},
        {"path": "/c", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}}},
        {"path": "/d", "pathType": "Prefix", "backend": backend("outside", json!({"number": 80}))},
        {"path": "/e", "pathType": "Prefix", "backend": backend("tls", json!({"number": 80}))},
        {"path": "/f", "pathType": "Prefix", "backend": backend("s1", json!({"name": "other"}))},
    ]);
    let tls = json!([{"secretName": "absent", "hosts": ["h"]}, {"secretName": "broken", "hosts": ["h"]}]);
    let (table, findings) = one(json!({"rules": [{"http": {"paths": paths}}], "tls": tls}));
    for path in ["/a", "/b", "/c", "/d", "/e"] {
        assert_eq!(who(&table, "", path), "503", "{path}");
    }
    assert_eq!(who(&table, "", "/f"), "10.0.0.1:8081");
    assert_eq!(who(&table, "", "/z"), "404");
    assert_eq!(
        findings,
        [
            r#"could not find service "a/none""#,
            r#"could not find port "90" in service "a/s1""#,
            "resource backends are not supported",
            r#"service "a/outside" is of type ExternalName, which has no endpoints to send to"#,
            r#"appProtocol "https" of service "a/tls" is not spoken to Pods"#,
            r#"could not find secret "a/absent" of type kubernetes.io/tls"#,
            r#"secret "a/broken": tls.crt has no certificate"#,
        ]
    );
}

#[test]
fn certificates_are_found_by_name_and_by_wildcard() {
    let rules = [rule("rule.example.com", &[("/", "Prefix", "s1")])];
    let tls = json!([{"secretName": "named", "hosts": ["a.example.com"]}, {"secretName": "wild", "hosts": ["*.example.com"]},
                     {"secretName": "unnamed"}]);
    let (table, findings) = one(json!({"rules": rules, "tls": tls}));
    assert_eq!(findings, Vec::<String>::new());
    let certificate = |name: &str| table.certificate(name).map(Arc::as_ptr);
    let [named, wild, unnamed] = ["a.example.com", "b.example.com", "rule.example.com"].map(certificate);
    assert!(named.is_some() && wild.is_some() && unnamed.is_some());
    assert!(named != wild && wild != unnamed && named != unnamed);
    assert_eq!(certificate("example.com"), None);
    assert_eq!(certificate("a.b.example.com"), None);
}

#[test]
fn an_endpoint_stays_the_same_from_table_to_table_and_is_given_back_when_nothing_leads_there() {
    let (mut endpoints, mut certificates) = (Endpoints::default(), Certificates::default());
    let mut made = |services: &[&str]| {
        let paths: Vec<_> = services.iter().map(|service| ("/", "Prefix", *service)).collect();
        let ingresses = vec![ingress("one", "2026-01-01T00:00:00Z", json!({"rules": [rule("", &paths)]}))];
        let classes = vec![class()];
        let world = World { ingresses, classes, service: &service, slices: &slices, secret: &secret };
        let (table, ours, _) = build_with(&world, &mut endpoints, &mut certificates);
        assert_eq!(ours.len(), 1);
        let first = match table.find("", "/") {
            Matched::Upstream(upstream) => upstream.endpoints.first().map(Arc::as_ptr),
            Matched::Nothing => None,
        };
        let gone: Vec<String> = endpoints.take_unused().iter().map(|gone| gone.to().pod.clone()).collect();
        (first, gone)
    };
    let (first, gone) = made(&["s1", "s2"]);
    assert!(first.is_some() && gone.is_empty());
    assert_eq!(made(&["s1"]), (first, vec!["2".to_owned()]));
    assert_eq!(made(&["h2c"]).1, ["1"]);
    assert!(made(&["h2c"]).1.is_empty());
}
