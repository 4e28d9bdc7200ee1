//! The JSON documents of an image: manifests, indexes and configurations, OCI's and Docker's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;

/// Documents beyond this size are refused before they are parsed.
pub(crate) const DOCUMENT_SIZE_MAX: u64 = 8 << 20;
/// More layers than an overlay mount takes are refused.
const LAYERS_MAX: usize = 500;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_MANIFEST_V1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_MANIFEST_V1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    #[serde(default)]
    pub size: u64,
    /// For which machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free notes; names of images in archives are here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Operating system and processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
    }

    /// Whether an image made for `self` runs on `host`.
    pub(crate) fn runs_on(&self, host: &Platform) -> bool {
        self.os == host.os && self.architecture == host.architecture
    }
}

/// One image for one platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Several manifests to choose from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

/// Either of the two.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Parses a manifest or an index. `media_type` may be empty or a lie of a server that does not
    /// know better: what the document says of itself, then its shape, decide.
    pub(crate) fn parse(content: &[u8], media_type: &str) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            media_type: String,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let malformed =
            |e: serde_json::Error| ImageError::Malformed { what: "manifest".into(), reason: e.to_string() };
        let shape: Shape = serde_json::from_slice(content).map_err(malformed)?;
        let kind = if shape.media_type.is_empty() { media_type } else { &shape.media_type };
        if shape.fs_layers.is_some() || kind == DOCKER_MANIFEST_V1 || kind == DOCKER_MANIFEST_V1_SIGNED {
            return Err(ImageError::SchemaOne { media_type: DOCKER_MANIFEST_V1_SIGNED.into() });
        }
        if kind == OCI_INDEX || kind == DOCKER_LIST || shape.manifests.is_some() {
            return Ok(Document::Index(serde_json::from_slice(content).map_err(malformed)?));
        }
        let manifest: Manifest = serde_json::from_slice(content).map_err(malformed)?;
        if manifest.layers.len() > LAYERS_MAX {
            let reason = format!("{} layers are more than {LAYERS_MAX}", manifest.layers.len());
            return Err(ImageError::Malformed { what: "manifest".into(), reason });
        }
        Ok(Document::Manifest(manifest))
    }
}

impl Index {
    /// The manifests that run here, best first: those that say so before those that say nothing.
    pub(crate) fn choose(&self, host: &Platform) -> Vec<&Descriptor> {
        let says_so = self.manifests.iter().filter(|d| d.platform.as_ref().is_some_and(|p| p.runs_on(host)));
        let silent = self.manifests.iter().filter(|d| d.platform.is_none());
        says_so.chain(silent).collect()
    }
}

/// The configuration of an image: what of it the runtime uses.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: Option<ExecutionConfig>,
    pub(crate) rootfs: RootFs,
}

/// How to run it. Docker writes `null` for what is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecutionConfig {
    pub(crate) user: String,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: String,
    pub(crate) stop_signal: String,
    pub(crate) volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// The layers by content.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    pub(crate) fn parse(content: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(content)
            .map_err(|e| ImageError::Malformed { what: "image configuration".into(), reason: e.to_string() })
    }

    /// Refuses an image for another machine. Images that say nothing are let through.
    pub(crate) fn check_platform(&self, host: &Platform) -> Result<(), ImageError> {
        let fits = |said: &str, here: &str| said.is_empty() || said == here;
        if fits(&self.os, &host.os) && fits(&self.architecture, &host.architecture) {
            return Ok(());
        }
        Err(ImageError::Platform { wanted: format!("{}/{}", host.os, host.architecture) })
    }

    pub(crate) fn diff_ids(&self) -> &[Digest] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_offers_this_machine_and_never_attestations() {
        let d = |hex: char| format!("sha256:{}", hex.to_string().repeat(64));
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[
              {{"digest":"{}","size":1,"platform":{{"architecture":"unknown","os":"unknown"}}}},
              {{"digest":"{}","size":1,"platform":{{"architecture":"s390x","os":"linux"}}}},
              {{"digest":"{}","size":1}},
              {{"digest":"{}","size":1,"platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
            d('a'),
            d('b'),
            d('c'),
            d('d')
        );
        let Ok(Document::Index(index)) = Document::parse(text.as_bytes(), "") else { panic!("not an index") };
        let host = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
        let chosen: Vec<&str> = index.choose(&host).iter().map(|d| &d.digest.hex()[..1]).collect();
        assert_eq!(chosen, ["d", "c"]);
    }

    #[test]
    fn schema_one_is_refused_by_name() {
        let error = Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, "").map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("is no longer supported"), "{error}");
    }

    #[test]
    fn nulls_of_docker_are_empty_lists() {
        let config = ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Volumes":{"/data":{}}},"rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert!(config.diff_ids().is_empty());
        assert!(config.config.unwrap_or_default().cmd.is_none());
    }
}
