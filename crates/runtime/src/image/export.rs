//! Writes images into one OCI archive that Docker and podman load too.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::archive::descriptor;
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{Descriptor, Index, Manifest, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use super::store::ImageStore;
use crate::interface::Image;

/// One image of Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Writes the named images into an OCI archive: content as it came, so digests stay the same.
    pub fn export(&self, references: &[String], out: impl Write) -> Result<(), ImageError> {
        let mut writer = Writer {
            store: self,
            tar: tar::Builder::new(out),
            written: HashSet::new(),
            index: Vec::new(),
            docker: Vec::new(),
        };
        for reference in references {
            let (image, manifest) = self.content_of(reference)?;
            writer.image(reference, &image, &manifest)?;
        }
        writer.finish().map(|_| ())
    }
}

struct Writer<'a, W: Write> {
    store: &'a ImageStore,
    tar: tar::Builder<W>,
    written: HashSet<Digest>,
    index: Vec<Descriptor>,
    docker: Vec<DockerImage>,
}

impl<W: Write> Writer<'_, W> {
    fn image(&mut self, asked: &str, image: &Image, digest: &Digest) -> Result<(), ImageError> {
        let content = self.store.read_blob(digest)?;
        let manifest: Manifest = serde_json::from_slice(&content).map_err(|e| ImageError::Malformed {
            what: format!("manifest {digest}"),
            reason: e.to_string(),
        })?;
        self.blob(digest)?;
        self.blob(&manifest.config.digest)?;
        for layer in &manifest.layers {
            self.blob(&layer.digest)?;
        }
        let names = names(asked, image);
        self.docker.push(DockerImage {
            config: blob_name(&manifest.config.digest),
            repo_tags: names.clone(),
            layers: manifest.layers.iter().map(|l| blob_name(&l.digest)).collect(),
        });
        let media_type = if manifest.media_type.is_empty() { OCI_MANIFEST } else { &manifest.media_type };
        let plain = descriptor(media_type, digest, content.len() as u64);
        let named = names.iter().map(|name| Descriptor { annotations: notes(name), ..plain.clone() });
        let before = self.index.len();
        self.index.extend(named);
        if self.index.len() == before {
            self.index.push(plain);
        }
        Ok(())
    }

    fn blob(&mut self, digest: &Digest) -> Result<(), ImageError> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let path = self.store.blob_path(digest);
        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
        let size = file.metadata().map_err(ImageError::io("read", &path))?.len();
        self.entry(&blob_name(digest), size, file)
    }

    fn entry(&mut self, name: &str, size: u64, content: impl io::Read) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        // No times and owners: the same images give the same archive.
        header.set_mtime(0);
        self.tar
            .append_data(&mut header, name, content)
            .map_err(ImageError::io("write archive entry", Path::new(name)))
    }

    fn document(&mut self, name: &str, content: &impl Serialize) -> Result<(), ImageError> {
        let content = serde_json::to_vec(content)
            .map_err(|e| ImageError::Malformed { what: name.to_owned(), reason: e.to_string() })?;
        self.entry(name, content.len() as u64, content.as_slice())
    }

    fn finish(mut self) -> Result<W, ImageError> {
        self.document("oci-layout", &BTreeMap::from([("imageLayoutVersion", "1.0.0")]))?;
        let manifests = std::mem::take(&mut self.index);
        let index = Index { schema_version: 2, media_type: OCI_INDEX.to_owned(), manifests };
        self.document("index.json", &index)?;
        let docker = std::mem::take(&mut self.docker);
        self.document("manifest.json", &docker)?;
        self.tar
            .into_inner()
            .and_then(|mut out| out.flush().map(|()| out))
            .map_err(ImageError::io("write", Path::new("archive")))
    }
}

/// The name that was asked for; all of them when the image was asked for by its id.
fn names(asked: &str, image: &Image) -> Vec<String> {
    let asked = Reference::parse(asked).map(|r| r.to_string()).ok();
    match asked.filter(|name| image.repo_tags.contains(name)) {
        Some(name) => vec![name],
        None => image.repo_tags.clone(),
    }
}

fn notes(name: &str) -> BTreeMap<String, String> {
    let tag = Reference::parse(name).ok().and_then(|r| r.tag().map(str::to_owned)).unwrap_or_default();
    BTreeMap::from([
        ("io.containerd.image.name".to_owned(), name.to_owned()),
        ("org.opencontainers.image.ref.name".to_owned(), tag),
    ])
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
