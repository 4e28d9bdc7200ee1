//! The documents that tell clients what is served: legacy, one for each group-version,
//! and aggregated, everything in one.
//!
//! They are made once, as bytes, with an entity tag; answering is a copy of a pointer.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::digest;
use serde::Serialize;

use crate::kinds::{GroupVersion, Kind, Kinds, Name, Subresource};

/// The media type of aggregated documents, as it is asked for and answered.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A document that does not change while the server runs.
#[derive(Debug, Clone)]
pub struct Document {
    /// JSON.
    pub body: Bytes,
    /// The `ETag` header, quotes included: the SHA-512 of the body in hexadecimal.
    pub etag: String,
}

impl Document {
    fn new(document: &impl Serialize) -> Self {
        let body = serde_json::to_vec(document).expect("documents hold nothing JSON could refuse");
        let body = Bytes::from(body);
        let mut etag = String::with_capacity(130);
        etag.push('"');
        for byte in digest::digest(&digest::SHA512, &body).as_ref() {
            etag.push_str(&format!("{byte:02X}"));
        }
        etag.push('"');
        Self { body, etag }
    }
}

/// All discovery documents of a set of resources.
#[derive(Debug)]
pub struct Discovery {
    core: Document,
    groups: Document,
    by_group: HashMap<String, Document>,
    by_version: HashMap<(String, String), Document>,
    aggregated_core: Document,
    aggregated_groups: Document,
}

impl Discovery {
    /// Of these kinds. `address` is where clients reach the server: `10.0.0.1:6443`.
    pub fn new(kinds: &Kinds, address: &str) -> Self {
        let of = |gv: &GroupVersion| -> Vec<&Kind> {
            let all = kinds.all().iter().map(|kind| &**kind);
            all.filter(|kind| kind.group == gv.group && kind.version == gv.version).collect()
        };
        let versions: Versions<'_> = kinds.group_versions().iter().map(|gv| (gv, of(gv))).collect();
        let mut groups: Vec<&str> =
            versions.iter().map(|(gv, _)| &*gv.group).filter(|group| !group.is_empty()).collect();
        groups.dedup();
        let list: Vec<Group<'_>> = groups.iter().map(|name| group(name, &versions)).collect();
        let by_version =
            versions.iter().map(|(gv, list)| (key(gv), Document::new(&resource_list(gv, list)))).collect();
        let aggregated: Vec<AggregatedGroup<'_>> =
            groups.iter().map(|name| aggregated_group(name, &versions)).collect();
        let by_group = |name: &&str| ((*name).to_owned(), Document::new(&group_document(name, &versions)));
        Self {
            core: Document::new(&ApiVersions {
                kind: "APIVersions",
                versions: ["v1"],
                server_addresses: [ServerAddress { client_cidr: "0.0.0.0/0", server_address: address }],
            }),
            groups: Document::new(&GroupList { kind: "APIGroupList", api_version: "v1", groups: list }),
            by_group: groups.iter().map(by_group).collect(),
            by_version,
            aggregated_core: Document::new(&aggregated_list(vec![aggregated_group("", &versions)])),
            aggregated_groups: Document::new(&aggregated_list(aggregated)),
        }
    }

    /// `/api`
    pub fn core(&self) -> &Document {
        &self.core
    }

    /// `/apis`
    pub fn groups(&self) -> &Document {
        &self.groups
    }

    /// `/apis/<group>`
    pub fn group(&self, group: &str) -> Option<&Document> {
        self.by_group.get(group)
    }

    /// `/api/v1` (the group is empty) and `/apis/<group>/<version>`
    pub fn resources(&self, group: &str, version: &str) -> Option<&Document> {
        self.by_version.get(&(group.to_owned(), version.to_owned()))
    }

    /// `/api` for those who accept [`AGGREGATED`].
    pub fn aggregated_core(&self) -> &Document {
        &self.aggregated_core
    }

    /// `/apis` for those who accept [`AGGREGATED`].
    pub fn aggregated_groups(&self) -> &Document {
        &self.aggregated_groups
    }
}

/// Group-versions in the order of discovery, each with its kinds.
type Versions<'a> = Vec<(&'a GroupVersion, Vec<&'a Kind>)>;

fn key(gv: &GroupVersion) -> (String, String) {
    (gv.group.to_string(), gv.version.to_string())
}

// The documents as types: they say the order of the fields, which people see with `--raw`.

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiVersions<'a> {
    kind: &'static str,
    versions: [&'static str; 1],
    #[serde(rename = "serverAddressByClientCIDRs")]
    server_addresses: [ServerAddress<'a>; 1],
}

#[derive(Serialize)]
struct ServerAddress<'a> {
    #[serde(rename = "clientCIDR")]
    client_cidr: &'static str,
    #[serde(rename = "serverAddress")]
    server_address: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupList<'a> {
    kind: &'static str,
    api_version: &'static str,
    groups: Vec<Group<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group<'a> {
    /// Said by the document of one group, not by the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    name: &'a str,
    versions: Vec<Version<'a>>,
    preferred_version: Version<'a>,
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    group_version: Name,
    version: &'a str,
}

fn group<'a>(name: &'a str, versions: &Versions<'a>) -> Group<'a> {
    let versions = versions.iter().map(|(gv, _)| *gv).filter(|gv| gv.group == name);
    let versions: Vec<Version<'_>> =
        versions.map(|gv| Version { group_version: gv.api_version(), version: &gv.version }).collect();
    let preferred_version = versions.first().cloned().expect("groups are taken from their versions");
    Group { kind: None, api_version: None, name, versions, preferred_version }
}

fn group_document<'a>(name: &'a str, versions: &Versions<'a>) -> Group<'a> {
    Group { kind: Some("APIGroup"), api_version: Some("v1"), ..group(name, versions) }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceList<'a> {
    kind: &'static str,
    /// The core group's document is older than this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    group_version: Name,
    resources: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    name: String,
    singular_name: &'a str,
    namespaced: bool,
    /// Group and version of the kind, when they are not those of the list.
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    kind: &'a str,
    verbs: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'a [Name],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'a [Name],
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

fn resource_list<'a>(gv: &GroupVersion, resources: &[&'a Kind]) -> ResourceList<'a> {
    let mut entries = Vec::new();
    for resource in resources {
        entries.push(entry(resource));
        entries.extend(resource.subresources.iter().map(|part| part_entry(resource, part)));
    }
    ResourceList {
        kind: "APIResourceList",
        api_version: (!gv.group.is_empty()).then_some("v1"),
        group_version: gv.api_version(),
        resources: entries,
    }
}

fn entry(r: &Kind) -> Entry<'_> {
    Entry {
        name: r.plural.to_string(),
        singular_name: &r.singular,
        namespaced: r.namespaced,
        group: "",
        version: "",
        kind: &r.kind,
        verbs: r.verbs,
        short_names: &r.short_names,
        categories: &r.categories,
        storage_version_hash: r.is_stored().then(|| storage_version_hash(r)),
    }
}

fn part_entry<'a>(r: &'a Kind, part: &'a Subresource) -> Entry<'a> {
    let foreign = part.group != r.group || part.version != r.version;
    Entry {
        name: format!("{}/{}", r.plural, part.name),
        singular_name: "",
        group: if foreign { &part.group } else { "" },
        version: if foreign { &part.version } else { "" },
        kind: &part.kind,
        verbs: part.verbs,
        short_names: &[],
        categories: &[],
        storage_version_hash: None,
        ..entry(r)
    }
}

/// Tells clients whether a resource's stored form changed: eight bytes of a SHA-256.
pub fn storage_version_hash(r: &Kind) -> String {
    let stored = format!("{}/{}/{}", r.stored.group, r.stored.version, r.kind);
    STANDARD.encode(&digest::digest(&digest::SHA256, stored.as_bytes()).as_ref()[..8])
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedList<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata<'a>,
    items: Vec<AggregatedGroup<'a>>,
}

#[derive(Serialize, Default)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
}

#[derive(Serialize)]
struct AggregatedGroup<'a> {
    metadata: Metadata<'a>,
    versions: Vec<AggregatedVersion<'a>>,
}

#[derive(Serialize)]
struct AggregatedVersion<'a> {
    version: &'a str,
    resources: Vec<AggregatedResource<'a>>,
    freshness: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedResource<'a> {
    resource: &'a str,
    response_kind: ResponseKind<'a>,
    scope: &'static str,
    singular_resource: &'a str,
    verbs: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'a [Name],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'a [Name],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<AggregatedSubresource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedSubresource<'a> {
    subresource: &'a str,
    response_kind: ResponseKind<'a>,
    verbs: &'static [&'static str],
}

#[derive(Serialize)]
struct ResponseKind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

fn aggregated_list(items: Vec<AggregatedGroup<'_>>) -> AggregatedList<'_> {
    AggregatedList {
        kind: "APIGroupDiscoveryList",
        api_version: "apidiscovery.k8s.io/v2",
        metadata: Metadata::default(),
        items,
    }
}

fn aggregated_group<'a>(name: &'a str, versions: &Versions<'a>) -> AggregatedGroup<'a> {
    let of_group = versions.iter().filter(|(gv, _)| gv.group == name);
    let versions = of_group.map(|(gv, kinds)| AggregatedVersion {
        version: &gv.version,
        resources: kinds.iter().map(|r| aggregated_resource(r)).collect(),
        freshness: "Current",
    });
    let versions = versions.collect();
    AggregatedGroup { metadata: Metadata { name }, versions }
}

fn aggregated_resource<'a>(r: &'a Kind) -> AggregatedResource<'a> {
    let part = |part: &'a Subresource| AggregatedSubresource {
        subresource: part.name,
        response_kind: ResponseKind { group: &part.group, version: &part.version, kind: &part.kind },
        verbs: part.verbs,
    };
    AggregatedResource {
        resource: &r.plural,
        response_kind: ResponseKind { group: &r.group, version: &r.version, kind: &r.kind },
        scope: if r.namespaced { "Namespaced" } else { "Cluster" },
        singular_resource: &r.singular,
        verbs: r.verbs,
        short_names: &r.short_names,
        categories: &r.categories,
        subresources: r.subresources.iter().map(part).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::{all, built_in, find};

    fn discovery() -> Discovery {
        Discovery::new(built_in(), "10.0.0.1:6443")
    }

    fn parse(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    #[test]
    fn the_core_document_is_as_recorded() {
        assert_eq!(
            discovery().core().body,
            r#"{"kind":"APIVersions","versions":["v1"],"serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"10.0.0.1:6443"}]}"#
        );
    }

    #[test]
    fn storage_version_hashes_are_those_of_kubernetes() {
        for (group, plural, hash) in [
            ("", "pods", "xPOwRZ+Yhw8="),
            ("", "configmaps", "qFsyl6wFWjQ="),
            ("events.k8s.io", "events", "r2yiGXH7wu8="),
        ] {
            assert_eq!(storage_version_hash(find(group, "v1", plural).unwrap()), hash);
        }
    }

    #[test]
    fn subresources_of_foreign_kinds_say_group_and_version() {
        let document = parse(discovery().resources("", "v1").unwrap());
        let find = |name: &str| {
            document["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap()
        };
        assert_eq!(find("pods/eviction")["group"], "policy");
        assert_eq!(find("pods/status").get("group"), None);
        assert_eq!(find("pods")["shortNames"], json!(["po"]));
    }

    #[test]
    fn groups_come_in_the_order_of_kubernetes_with_their_preferred_version() {
        let document = parse(discovery().groups());
        let names: Vec<&str> =
            document["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names[..4], ["apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io"]);
        let autoscaling = parse(discovery().group("autoscaling").unwrap());
        assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
        assert_eq!(autoscaling["versions"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_aggregated_documents_hold_every_resource_once() {
        let d = discovery();
        let count = |document: &Document| -> usize {
            let items = parse(document)["items"].as_array().unwrap().clone();
            let versions = items.iter().flat_map(|i| i["versions"].as_array().unwrap().clone());
            versions.map(|v| v["resources"].as_array().unwrap().len()).sum()
        };
        assert_eq!(count(d.aggregated_core()) + count(d.aggregated_groups()), all().len());
        assert_eq!(d.aggregated_core().etag.len(), 130);
    }
}
