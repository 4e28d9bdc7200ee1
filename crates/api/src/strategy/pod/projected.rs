//! Projected volumes and the files of the downward API.

use std::collections::BTreeSet;

use super::env::{self, Reader};
use super::volume::{key_paths, local_non_reserved_path, mode};
use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::{self, SelectorValues};
use crate::validate::view::View;
use crate::validate::{is_dns1123_subdomain, name_is_dns_subdomain};

/// A volume of the downward API.
pub(super) fn downward(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    mode(source, "defaultMode", path, errors);
    source.list("items").for_each(|item| downward_file(item, path, errors));
}

/// Upstream names the volume, not the item, in these errors.
fn downward_file(file: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let target = file.str("path");
    if target.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    local_non_reserved_path(target, &path.child("path"), errors);
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        env::field_ref(field, Reader::File, &path.child("fieldRef"), errors);
        if resource.is_set() {
            let words = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(Error::invalid(path, "resource", words));
        }
    } else if resource.is_set() {
        env::resource_ref(resource, Reader::File, &path.child("resourceFieldRef"), errors);
    } else {
        errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required"));
    }
    mode(file, "mode", path, errors);
}

/// The files that the sources of one volume make; two may not make the same.
#[derive(Default)]
struct Files<'a>(BTreeSet<&'a str>);

impl<'a> Files<'a> {
    fn add(&mut self, file: &'a str, shown: &str, path: &Path<'_>, errors: &mut ErrorList) {
        if !file.is_empty() && !self.0.insert(file) {
            errors.push(Error::invalid(path, shown, "conflicting duplicate paths"));
        }
    }
}

pub(super) fn projected(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    mode(source, "defaultMode", path, errors);
    let mut files = Files::default();
    let sources = path.child("sources");
    for (index, projection) in source.list("sources").enumerate() {
        let at = sources.index(index);
        let mut count = 0;
        for name in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let one = projection.get(name);
            if !one.is_set() {
                continue;
            }
            count += 1;
            let own = at.child(name);
            match name {
                "secret" | "configMap" => object_files(one, &mut files, &own, path, errors),
                "downwardAPI" => {
                    for file in one.list("items") {
                        downward_file(file, &own, errors);
                        files.add(file.str("path"), file.str("path"), path, errors);
                    }
                }
                "serviceAccountToken" => token(one, &own, path, errors),
                "clusterTrustBundle" => trust_bundle(one, &mut files, &own, path, errors),
                _ => certificate(one, &mut files, &own, path, errors),
            }
        }
        if count > 1 {
            errors.push(Error::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn object_files<'a>(
    source: View<'a>,
    files: &mut Files<'a>,
    own: &Path<'_>,
    volume: &Path<'_>,
    errors: &mut ErrorList,
) {
    if source.str("name").is_empty() {
        errors.push(Error::required(&own.child("name"), ""));
    }
    key_paths(source, own, errors);
    for item in source.list("items") {
        files.add(item.str("path"), source.str("name"), volume, errors);
    }
}

fn token(source: View<'_>, own: &Path<'_>, volume: &Path<'_>, errors: &mut ErrorList) {
    let (seconds, at) = (source.int("expirationSeconds"), own.child("expirationSeconds"));
    if seconds < 600 {
        errors.push(Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        errors.push(Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    match source.str("path") {
        "" => errors.push(Error::required(&volume.child("path"), "")),
        file => local_non_reserved_path(file, &volume.child("path"), errors),
    }
}

fn trust_bundle<'a>(
    source: View<'a>,
    files: &mut Files<'a>,
    own: &Path<'_>,
    volume: &Path<'_>,
    errors: &mut ErrorList,
) {
    let (name, signer) = (source.get("name"), source.get("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => {
            errors.push(Error::invalid(own, source.json(), "only one of name and signerName may be used"));
        }
        (true, false) => bundle_name(source, own, errors),
        (false, true) => {
            if signer.text().is_empty() {
                errors.push(Error::required(&own.child("signerName"), "must be a valid signer name"));
            }
            signer_name(signer.text(), &own.child("signerName"), errors);
            let at = own.child("labelSelector");
            meta::label_selector(source.get("labelSelector"), SelectorValues::Checked, &at, errors);
        }
        (false, false) => errors.push(Error::required(own, "either name or signerName must be specified")),
    }
    let file = source.str("path");
    if file.is_empty() {
        errors.push(Error::required(&own.child("path"), ""));
    }
    local_non_reserved_path(file, &own.child("path"), errors);
    files.add(file, file, volume, errors);
}

fn bundle_name(source: View<'_>, own: &Path<'_>, errors: &mut ErrorList) {
    let name = source.str("name");
    if name.is_empty() {
        errors.push(Error::required(&own.child("name"), "must be a valid object name"));
    }
    // A bundle of a signer has the signer's name in front, with colons for slashes.
    let last = name.rsplit(':').next().unwrap_or(name);
    for words in name_is_dns_subdomain(last, false) {
        let words = format!("not a valid clustertrustbundlename: {words}");
        errors.push(Error::invalid(&own.child("name"), name, words));
    }
    if source.get("labelSelector").is_set() {
        let words = "labelSelector must be unset if name is specified";
        errors.push(Error::invalid(&own.child("labelSelector"), source.get("labelSelector").json(), words));
    }
}

/// A signer is `<domain>/<path>`.
fn signer_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [domain, signer] => {
            for words in is_dns1123_subdomain(domain) {
                errors.push(Error::invalid(path, *domain, format!("validating label \"{domain}\": {words}")));
            }
            for words in is_dns1123_subdomain(signer) {
                errors.push(Error::invalid(path, *signer, format!("validating label \"{signer}\": {words}")));
            }
        }
        _ => {
            let words = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.push(Error::invalid(path, name, words));
        }
    }
}

fn certificate<'a>(
    source: View<'a>,
    files: &mut Files<'a>,
    own: &Path<'_>,
    volume: &Path<'_>,
    errors: &mut ErrorList,
) {
    signer_name(source.str("signerName"), &own.child("signerName"), errors);
    let keys = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    if !keys.contains(&source.str("keyType")) {
        errors.push(Error::not_supported(&own.child("keyType"), source.str("keyType"), &keys));
    }
    if let Some(seconds) = source.get("maxExpirationSeconds").as_int() {
        let at = own.child("maxExpirationSeconds");
        if seconds < 3600 {
            errors.push(Error::invalid(&at, seconds, "if provided, maxExpirationSeconds must be >= 3600"));
        }
        let longest = if source.str("signerName").starts_with("kubernetes.io/") { 86400 } else { 7_862_400 };
        if seconds > longest {
            let words = format!("if provided, maxExpirationSeconds must be <= {longest}");
            errors.push(Error::invalid(&at, seconds, words));
        }
    }
    let mut count = 0;
    for name in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let file = source.str(name);
        if file.is_empty() {
            continue;
        }
        count += 1;
        local_non_reserved_path(file, &own.child(name), errors);
        files.add(file, file, volume, errors);
    }
    if count == 0 {
        let words = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(Error::required(own, words));
    }
}
