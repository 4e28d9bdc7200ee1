//! A manifest as the Pod that the node runs: what the API would do to it, done here.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use api::decode::{FieldValidation, decode};
use api::strategy::admission::references::{Referent, names};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::pod::spec::{HASH, SOURCE};

/// Reads a manifest, and sums it up: another content, another file or another node is another Pod, also
/// where manifests name their UID. The errors are upstream's.
pub(super) fn pod(text: &[u8], file: &Path, node: &str) -> Result<(Pod, String), String> {
    let kind = api::kinds::find("", "v1", "pods").ok_or("there are no Pods")?;
    let decoded = decode(kind, text, "application/yaml", FieldValidation::Ignore);
    let mut pod = decoded.map_err(|status| format!("couldn't parse as pod({})", status.message))?.object;
    if pod["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
        return Err("invalid pod: name is needed for the pod".into());
    }
    // It becomes part of paths.
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') || uid.len() > 64 {
        return Err(format!("invalid pod: metadata.uid: Invalid value: {uid:?}"));
    }
    api::defaults::apply(kind, &mut pod);
    let digest = digest(&pod, file, node);
    complete(&mut pod, &digest, node);
    let errors = api::strategy::validate_create(kind, &pod);
    if !errors.0.is_empty() {
        return Err(format!("invalid pod: {errors}"));
    }
    if let Some(what) = referenced(&pod) {
        return Err(format!("static pods may not reference {what}"));
    }
    let pod = serde_json::from_value(pod).map_err(|err| format!("invalid pod: {err}"))?;
    Ok((pod, digest))
}

/// Name, UID, node and what else marks it as a Pod of this node's file.
fn complete(pod: &mut Value, digest: &str, node: &str) {
    let metadata = &mut pod["metadata"];
    if metadata["uid"].as_str().unwrap_or_default().is_empty() {
        metadata["uid"] = digest.into();
    }
    let uid = metadata["uid"].clone();
    let name = metadata["name"].as_str().unwrap_or_default();
    metadata["name"] = format!("{name}-{}", node.to_lowercase()).into();
    if metadata["namespace"].as_str().unwrap_or_default().is_empty() {
        metadata["namespace"] = "default".into();
    }
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][HASH] = uid;
    metadata["annotations"][SOURCE] = "file".into();
    pod["spec"]["nodeName"] = node.into();
    tolerate_all(&mut pod["spec"]);
    pod["status"] = json!({"phase": "Pending"});
}

/// Trouble of the node does not drive away what belongs to it.
fn tolerate_all(spec: &mut Value) {
    let all = json!({"operator": "Exists", "effect": "NoExecute"});
    match spec["tolerations"].as_array_mut() {
        Some(list) if list.contains(&all) => {}
        Some(list) => list.push(all),
        None => spec["tolerations"] = json!([all]),
    }
}

/// Upstream hashes its own structures, whose sums nobody else can make.
fn digest(pod: &Value, file: &Path, node: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    hash.update(pod.to_string().as_bytes());
    hash.update(format!("\0host:{node}\0file:").as_bytes());
    hash.update(file.as_os_str().as_bytes());
    hash.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What of the API a Pod names that must run without one.
fn referenced(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let listed = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    let direct = [
        (!spec["serviceAccountName"].as_str().unwrap_or_default().is_empty(), "serviceaccounts"),
        (names(pod, Referent::Secret), "secrets"),
        (names(pod, Referent::ConfigMap), "configmaps"),
        (listed(&spec["resourceClaims"]), "resourceclaims"),
    ];
    if let Some((_, what)) = direct.into_iter().find(|(named, _)| *named) {
        return Some(what.into());
    }
    spec["volumes"].as_array()?.iter().find_map(referenced_by_volume)
}

fn referenced_by_volume(volume: &Value) -> Option<String> {
    let of = |source: &str, what: &str| volume[source].is_object().then(|| what.to_owned());
    let projected = volume["projected"]["sources"].as_array().into_iter().flatten();
    let projected = projected.filter_map(|source| {
        let kinds = [
            ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
            ("clusterTrustBundle", "clustertrustbundles"),
            ("podCertificate", "podcertificates"),
        ];
        kinds.into_iter().find(|(kind, _)| source[*kind].is_object()).map(|(_, what)| what.to_owned())
    });
    of("csi", "csidrivers (via CSI volumes)")
        .or_else(|| of("glusterfs", "endpoints (via glusterFS volumes)"))
        .or_else(|| of("persistentVolumeClaim", "persistentvolumeclaims"))
        .or_else(|| of("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"))
        .or_else(|| projected.into_iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<Pod, String> {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {spec}\n");
        pod(text.as_bytes(), Path::new("/m/a.yaml"), "n1").map(|(pod, _)| pod)
    }

    #[test]
    fn a_manifest_is_completed_as_upstreams_node_does() {
        let pod = read("{containers: [{name: c, image: \"a:1\"}]}").unwrap();
        let meta = &pod.metadata;
        assert_eq!((meta.name.as_deref(), meta.namespace.as_deref()), (Some("a-n1"), Some("default")));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("n1"), Some("Always")));
        let toleration = &spec.tolerations.as_ref().unwrap()[0];
        assert_eq!(
            (toleration.operator.as_deref(), toleration.effect.as_deref()),
            (Some("Exists"), Some("NoExecute"))
        );
        let annotations = meta.annotations.as_ref().unwrap();
        assert_eq!(annotations.get(HASH), meta.uid.as_ref());
        assert_eq!(annotations.get(SOURCE).map(String::as_str), Some("file"));
        assert_eq!(meta.uid.as_ref().map(String::len), Some(32));
        assert_eq!(spec.service_account_name, None);
    }

    #[test]
    fn what_a_pod_without_an_api_cannot_have_is_refused_by_name() {
        let volume = |source: &str| {
            format!("{{containers: [{{name: c, image: a}}], volumes: [{{name: v, {source}}}]}}")
        };
        let container = |more: &str| format!("{{containers: [{{name: c, image: a, {more}}}]}}");
        for (spec, what) in [
            ("{serviceAccountName: x, containers: [{name: c, image: a}]}".to_owned(), "serviceaccounts"),
            (volume("secret: {secretName: x}"), "secrets"),
            (container("envFrom: [{secretRef: {name: x}}]"), "secrets"),
            (volume("configMap: {name: x}"), "configmaps"),
            (container("env: [{name: A, valueFrom: {configMapKeyRef: {name: x, key: k}}}]"), "configmaps"),
            (volume("persistentVolumeClaim: {claimName: x}"), "persistentvolumeclaims"),
            (volume("csi: {driver: x}"), "csidrivers (via CSI volumes)"),
            (
                volume(
                    "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}",
                ),
                "persistentvolumeclaims (via ephemeral volumes)",
            ),
        ] {
            assert_eq!(read(&spec).map(drop), Err(format!("static pods may not reference {what}")), "{spec}");
        }
        assert!(read(&volume("emptyDir: {}")).is_ok() && read(&volume("hostPath: {path: /tmp}")).is_ok());
        let facts = "projected: {sources: [{downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}";
        assert!(read(&volume(facts)).is_ok());
    }

    #[test]
    fn what_is_no_pod_or_a_wrong_one_is_refused_with_the_reason() {
        let at = |text: &str| pod(text.as_bytes(), Path::new("/m/a"), "n1").unwrap_err();
        assert!(
            at("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}")
                .starts_with("couldn't parse as pod(")
        );
        assert!(at("{").starts_with("couldn't parse as pod("));
        assert_eq!(
            at("apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: [{name: c, image: a}]}"),
            "invalid pod: name is needed for the pod"
        );
        assert!(
            read("{containers: []}").unwrap_err().starts_with("invalid pod: "),
            "{:?}",
            read("{containers: []}")
        );
    }
}
