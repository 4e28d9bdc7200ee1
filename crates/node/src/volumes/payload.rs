//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection,
    ServiceAccountTokenProjection,
};

use super::atomic::{File, Files};
use super::plan::Needs;
use crate::container::env::Sources;
use crate::container::fields::{self, Facts};

/// One source of files, with the mode of files that name none.
#[derive(Clone, Debug)]
pub enum Projection {
    /// Keys of a ConfigMap.
    ConfigMap(ConfigMapProjection, u32),
    /// Keys of a Secret.
    Secret(SecretProjection, u32),
    /// Fields of the Pod.
    Downward(Vec<DownwardAPIVolumeFile>, u32),
    /// A token of the Pod's service account.
    Token {
        /// What token.
        source: ServiceAccountTokenProjection,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        owner: Option<u32>,
    },
    /// Not for this node.
    Unsupported(&'static str),
}

/// What must be read for these projections.
pub fn needs(projections: &[Projection]) -> Needs {
    let mut needs = Needs::default();
    for projection in projections {
        match projection {
            Projection::ConfigMap(source, _) => needs.config_maps.push(source.name.clone()),
            Projection::Secret(source, _) => needs.secrets.push(source.name.clone()),
            Projection::Downward(..) | Projection::Token { .. } | Projection::Unsupported(_) => {}
        }
    }
    needs
}

/// Makes the files; `tokens` are by path in the volume. Later projections win.
pub fn files(
    pod: &Pod,
    facts: &Facts,
    projections: &[Projection],
    sources: &Sources,
    tokens: &BTreeMap<String, String>,
) -> Result<Files, String> {
    let mut files = Files::new();
    for projection in projections {
        match projection {
            Projection::ConfigMap(source, mode) => config_map(sources, source, *mode, &mut files)?,
            Projection::Secret(source, mode) => secret(sources, source, *mode, &mut files)?,
            Projection::Downward(items, mode) => downward(pod, facts, items, *mode, &mut files)?,
            Projection::Token { source, mode, owner } => {
                let token = tokens.get(&source.path).ok_or("failed to fetch token: no token was issued")?;
                let file = File { data: token.clone().into_bytes(), mode: *mode, owner: *owner };
                files.insert(source.path.clone(), file);
            }
            Projection::Unsupported(kind) => {
                return Err(format!("projection of {kind} is not supported by this node"));
            }
        }
    }
    Ok(files)
}

fn config_map(
    sources: &Sources,
    source: &ConfigMapProjection,
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let Some(map) = sources.config_maps.get(&source.name) else {
        return absent("configmap", &source.name, optional);
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    select(text.chain(binary).collect(), source.items.as_deref(), mode, optional, "configmap", files)
}

fn secret(sources: &Sources, source: &SecretProjection, mode: u32, files: &mut Files) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let Some(secret) = sources.secrets.get(&source.name) else {
        return absent("secret", &source.name, optional);
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    select(data.collect(), source.items.as_deref(), mode, optional, "secret", files)
}

fn absent(kind: &str, name: &str, optional: bool) -> Result<(), String> {
    if optional { Ok(()) } else { Err(format!("{kind} {name:?} not found")) }
}

/// All keys, or the listed ones under their paths.
fn select(
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    kind: &str,
    files: &mut Files,
) -> Result<(), String> {
    let own_mode = |mode_of: Option<i32>| mode_of.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
    let file = |data: &[u8], mode| File { data: data.to_vec(), mode, owner: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(data.into_iter().map(|(key, value)| (key.to_string(), file(value, mode))));
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => drop(files.insert(item.path.clone(), file(value, own_mode(item.mode)))),
            None if optional => {}
            None if kind == "secret" => {
                return Err(format!("references non-existent secret key: {}", item.key));
            }
            None => return Err(format!("{kind} references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    facts: &Facts,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    files: &mut Files,
) -> Result<(), String> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => fields::field(pod, facts, &reference.field_path)?,
            (None, Some(selector)) => fields::resource(pod, "", facts, selector)?,
            (None, None) => continue,
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        files.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::plan::plan;
    use std::collections::HashMap;
    use std::sync::Arc;

    #[test]
    fn a_projected_volume_shows_token_map_and_fields() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "vols", "b": "x\"y"}},
            "spec": {"containers": [], "securityContext": {"fsGroup": 5}, "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "x/ca.crt", "mode": 256}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ]}}]}
        }))
        .unwrap();
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        let plan = plan(&pod, volume, None).unwrap();
        assert_eq!(plan.needs().config_maps, ["ca"]);
        let ca =
            serde_json::from_value(serde_json::json!({"data": {"ca.crt": "PEM", "other": "1"}})).unwrap();
        let sources =
            Sources { config_maps: HashMap::from([("ca".into(), Arc::new(ca))]), ..Sources::default() };
        let tokens = BTreeMap::from([("token".to_string(), "T".to_string())]);
        let files = files(&pod, &Facts::default(), &plan.projections, &sources, &tokens).unwrap();
        let shown: Vec<String> = files
            .iter()
            .map(|(path, file)| format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.data)))
            .collect();
        assert_eq!(shown, ["labels 644 app=\"vols\"\nb=\"x\\\"y\"", "token 600 T", "x/ca.crt 400 PEM"]);
        let error = super::files(&pod, &Facts::default(), &plan.projections, &Sources::default(), &tokens)
            .unwrap_err();
        assert_eq!(error, "configmap \"ca\" not found");
    }
}
