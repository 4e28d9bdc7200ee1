//! Reads images out of an archive: what `docker save`, `podman save`, `skopeo copy` and
//! `buildctl` write. OCI layouts and Docker's own form, plain or compressed, any number of images.
//!
//! Two passes, because an archive may come from a pipe and Docker writes the list of images
//! last: first every file goes to disk while it is hashed, then the documents are followed.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::digest::{Digest, Hashing};
use super::entries;
use super::error::ImageError;
use super::manifest::{
    Descriptor, Document, ImageConfig, Index, Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD, OCI_MANIFEST, Platform,
};
use super::reference::Reference;
use super::store::{Adding, ImageStore, NewImage, read_document, write_hashed};
use super::unpack::{Compression, decompress};
use crate::interface::Image;

/// An index in an index in an index is refused.
const INDEX_DEPTH_MAX: u32 = 4;
const LINK_DEPTH_MAX: u32 = 8;
const NAME_CONTAINERD: &str = "io.containerd.image.name";
const NAME_OCI: &str = "org.opencontainers.image.ref.name";

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Name for the image of an archive that holds exactly one, instead of the names in it.
    pub name: Option<String>,
}

impl ImageStore {
    /// Imports all images of an archive, with the names it gives them, and returns them.
    /// Blocks; nothing is named unless the whole archive is good.
    pub fn import(&self, source: impl Read, options: &ImportOptions) -> Result<Vec<Image>, ImageError> {
        let adding = self.adding()?;
        let files = Files::collect(source, &adding, self.archive_entries_max())?;
        let importer = Importer { store: self, adding: &adding, files: &files };
        let mut found = importer.images()?;
        rename_only_image(&mut found, options)?;
        let mut new = Vec::with_capacity(found.len());
        for found in &found {
            new.push(importer.take_in(found)?);
        }
        new.into_iter().map(|new| self.commit(new)).collect()
    }
}

fn rename_only_image(found: &mut [Found], options: &ImportOptions) -> Result<(), ImageError> {
    let Some(name) = &options.name else { return Ok(()) };
    let reference = parse_name(name)?;
    match found {
        [only] => {
            only.names = vec![reference];
            Ok(())
        }
        several => Err(ImageError::Malformed {
            what: "archive".into(),
            reason: format!("it holds {} images, a name can be given to one only", several.len()),
        }),
    }
}

fn no_archive() -> ImageError {
    let reason = "it is no tar archive, plain or compressed with gzip or zstd".to_owned();
    ImageError::Malformed { what: "archive".into(), reason }
}

fn parse_name(name: &str) -> Result<Reference, ImageError> {
    Reference::parse(name).map_err(|reason| ImageError::Reference { reference: name.to_owned(), reason })
}

/// The files of an archive, on disk.
struct Files {
    files: HashMap<PathBuf, Stored>,
    links: HashMap<PathBuf, PathBuf>,
}

#[derive(Clone)]
struct Stored {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl Files {
    fn collect(source: impl Read, adding: &Adding<'_>, entries_max: usize) -> Result<Self, ImageError> {
        let broken =
            |e: std::io::Error| ImageError::Malformed { what: "archive".into(), reason: e.to_string() };
        // The reader quotes what it found, which for any other file is that file's text.
        let at_entry = |at, error| if at == 0 { no_archive() } else { broken(error) };
        let mut all = Files { files: HashMap::new(), links: HashMap::new() };
        entries::for_each(decompress(source).map_err(broken)?, at_entry, |entry| {
            if all.files.len() + all.links.len() >= entries_max {
                let limit = format!("{entries_max} entries");
                return Err(ImageError::TooLarge { what: "archive".into(), limit });
            }
            let name = entry.path().map_err(broken)?.into_owned();
            let Some(name) = inside(Path::new(""), &name) else { return Ok(()) };
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
                let path = adding.scratch(&format!("f{}", all.files.len()));
                let size = entry.size();
                let (digest, size) = write_hashed(entry, &path, size)?;
                all.files.insert(name, Stored { path, digest, size });
            } else if let Some(target) = entry.link_name().map_err(broken)? {
                // `docker save` of old links a layer it has written before.
                let base =
                    if kind.is_hard_link() { Path::new("") } else { name.parent().unwrap_or(Path::new("")) };
                if let Some(target) = inside(base, &target) {
                    all.links.insert(name, target);
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    fn get(&self, name: &Path) -> Option<&Stored> {
        let mut name = name;
        for _ in 0..LINK_DEPTH_MAX {
            if let Some(stored) = self.files.get(name) {
                return Some(stored);
            }
            name = self.links.get(name)?;
        }
        None
    }

    fn named(&self, name: &str) -> Option<&Stored> {
        self.get(&inside(Path::new(""), Path::new(name))?)
    }

    fn blob(&self, digest: &Digest) -> Option<&Stored> {
        self.get(&Path::new("blobs").join(digest.algorithm()).join(digest.hex()))
    }
}

/// `path` as seen from `base`, both inside the archive; `None` when it leaves it.
fn inside(base: &Path, path: &Path) -> Option<PathBuf> {
    let mut result = if path.is_absolute() { PathBuf::new() } else { base.to_owned() };
    for component in path.components() {
        match component {
            Component::Normal(part) => result.push(part),
            Component::ParentDir => {
                if !result.pop() {
                    return None;
                }
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(result)
}

/// An image of an archive.
struct Found {
    names: Vec<Reference>,
    content: Content,
}

enum Content {
    /// OCI: the manifest leads to the rest.
    Manifest { descriptor: Descriptor, stored: Stored },
    /// Docker: files by name; we write the manifest.
    Files { config: Stored, layers: Vec<Stored> },
}

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

struct Importer<'a> {
    store: &'a ImageStore,
    adding: &'a Adding<'a>,
    files: &'a Files,
}

impl Importer<'_> {
    fn images(&self) -> Result<Vec<Found>, ImageError> {
        let docker = match self.files.named("manifest.json") {
            Some(stored) => parse::<Vec<DockerImage>>("manifest.json", stored)?,
            None => Vec::new(),
        };
        let found = match self.files.named("index.json") {
            Some(stored) => self.oci_images(&parse("index.json", stored)?, &docker)?,
            None => docker.iter().map(|image| self.docker_image(image)).collect::<Result<_, _>>()?,
        };
        if found.is_empty() {
            let reason =
                "neither index.json (OCI) nor manifest.json (Docker) names an image in it".to_owned();
            return Err(ImageError::Malformed { what: "archive".into(), reason });
        }
        Ok(found)
    }

    fn oci_images(&self, index: &Index, docker: &[DockerImage]) -> Result<Vec<Found>, ImageError> {
        let mut found: Vec<Found> = Vec::new();
        for descriptor in &index.manifests {
            let (manifest, stored) = self.choose(descriptor, INDEX_DEPTH_MAX)?;
            let names = self.oci_names(descriptor, &stored, docker)?;
            match found.iter_mut().find(|f| f.is_manifest(&manifest.digest)) {
                Some(same) => same.names.extend(names),
                None => {
                    found.push(Found { names, content: Content::Manifest { descriptor: manifest, stored } });
                }
            }
        }
        Ok(found)
    }

    /// Follows indexes to the manifest for this machine.
    fn choose(&self, descriptor: &Descriptor, depth: u32) -> Result<(Descriptor, Stored), ImageError> {
        let stored = self.checked_blob(descriptor)?;
        let content = read_document(&stored.path)?;
        let index = match Document::parse(&content, &descriptor.media_type)? {
            Document::Manifest(_) => return Ok((descriptor.clone(), stored)),
            Document::Index(_) if depth == 0 => {
                let reason = format!("indexes are nested more than {INDEX_DEPTH_MAX} deep");
                return Err(ImageError::Malformed { what: "archive".into(), reason });
            }
            Document::Index(index) => index,
        };
        // An archive of a multi-platform image often holds one platform only: take what is there.
        let candidates = index.choose(self.store.platform());
        let here = candidates.into_iter().find(|d| self.files.blob(&d.digest).is_some());
        match here {
            Some(inner) => self.choose(inner, depth - 1),
            None => {
                let Platform { os, architecture, .. } = self.store.platform();
                Err(ImageError::Platform { wanted: format!("{os}/{architecture}") })
            }
        }
    }

    /// The name of an OCI image: containerd's note, the standard's if it is a whole name,
    /// else what Docker's list in the same archive says.
    fn oci_names(
        &self,
        descriptor: &Descriptor,
        manifest: &Stored,
        docker: &[DockerImage],
    ) -> Result<Vec<Reference>, ImageError> {
        let note = |key: &str| descriptor.annotations.get(key);
        if let Some(name) = note(NAME_CONTAINERD) {
            return Ok(vec![parse_name(name)?]);
        }
        if let Some(name) = note(NAME_OCI).filter(|n| n.contains(['/', ':'])) {
            return Ok(vec![parse_name(name)?]);
        }
        let Ok(Document::Manifest(manifest)) = Document::parse(&read_document(&manifest.path)?, OCI_MANIFEST)
        else {
            return Ok(Vec::new());
        };
        let same = |image: &&DockerImage| {
            self.files.named(&image.config).is_some_and(|config| config.digest == manifest.config.digest)
        };
        let tags = docker.iter().filter(same).flat_map(|image| image.repo_tags.iter().flatten());
        tags.map(|tag| parse_name(tag)).collect()
    }

    fn docker_image(&self, image: &DockerImage) -> Result<Found, ImageError> {
        let file = |name: &String| {
            self.files.named(name).cloned().ok_or_else(|| ImageError::Malformed {
                what: "archive".into(),
                reason: format!("manifest.json names {name:?}, which is not in it"),
            })
        };
        Ok(Found {
            names: image.repo_tags.iter().flatten().map(|t| parse_name(t)).collect::<Result<_, _>>()?,
            content: Content::Files {
                config: file(&image.config)?,
                layers: image.layers.iter().flatten().map(file).collect::<Result<_, _>>()?,
            },
        })
    }

    /// Brings the content into the store, unpacked, and says how to name it.
    fn take_in(&self, found: &Found) -> Result<NewImage, ImageError> {
        let manifest = match &found.content {
            Content::Manifest { descriptor, stored } => self.take_in_manifest(descriptor, stored)?,
            Content::Files { config, layers } => self.take_in_files(config, layers)?,
        };
        let tags = found.names.iter().filter(|n| n.digest().is_none()).map(Reference::to_string).collect();
        // No registry vouches for the digest of an archive: only what the archive itself names so is
        // a repository digest, as containerd has it.
        let named = found.names.iter().filter(|n| n.digest().is_some());
        let digests = named.map(Reference::to_string).collect();
        Ok(NewImage { manifest, tags, digests, pinned: true, grant: None })
    }

    fn take_in_manifest(&self, descriptor: &Descriptor, stored: &Stored) -> Result<Digest, ImageError> {
        let content = read_document(&stored.path)?;
        let Document::Manifest(manifest) = Document::parse(&content, &descriptor.media_type)? else {
            return Err(ImageError::Malformed { what: "manifest".into(), reason: "it is an index".into() });
        };
        let config_content = self.document(&manifest.config)?;
        let config = ImageConfig::parse(&config_content)?;
        config.check_platform(self.store.platform())?;
        if config.diff_ids().len() != manifest.layers.len() {
            return Err(layer_count(manifest.layers.len(), config.diff_ids().len()));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(config.diff_ids()) {
            self.take_in_layer(layer, diff_id)?;
        }
        self.adding.put(&config_content)?;
        self.adding.put(&content)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if self.store.has_blob(&descriptor.digest, descriptor.size) {
            return self.store.read_blob(&descriptor.digest);
        }
        read_document(&self.checked_blob(descriptor)?.path)
    }

    fn take_in_layer(&self, layer: &Descriptor, diff_id: &Digest) -> Result<(), ImageError> {
        if !self.store.has_blob(&layer.digest, layer.size) {
            let stored = self.checked_blob(layer)?;
            self.keep(&stored, &layer.digest)?;
        }
        self.adding.unpack(&layer.digest, diff_id)
    }

    fn keep(&self, stored: &Stored, digest: &Digest) -> Result<(), ImageError> {
        // The same file may be a layer of several images of the archive.
        if self.store.has_blob(digest, stored.size) {
            return Ok(());
        }
        self.adding.keep(&stored.path, digest)
    }

    /// A file of `blobs/` that is what its name and the descriptor say.
    fn checked_blob(&self, descriptor: &Descriptor) -> Result<Stored, ImageError> {
        let missing =
            || ImageError::Missing { what: "the archive".into(), digest: descriptor.digest.clone() };
        let stored = self.files.blob(&descriptor.digest).ok_or_else(missing)?.clone();
        if descriptor.size != 0 && descriptor.size != stored.size {
            return Err(ImageError::Size {
                what: format!("blob {}", descriptor.digest),
                expected: descriptor.size,
                actual: stored.size,
            });
        }
        let actual = actual_digest(&stored, &descriptor.digest)?;
        if actual != descriptor.digest {
            let what = "a blob of the archive".to_owned();
            return Err(ImageError::Digest { what, expected: descriptor.digest.clone(), actual });
        }
        Ok(stored)
    }

    fn take_in_files(&self, config: &Stored, layers: &[Stored]) -> Result<Digest, ImageError> {
        let config_content = read_document(&config.path)?;
        let parsed = ImageConfig::parse(&config_content)?;
        parsed.check_platform(self.store.platform())?;
        if parsed.diff_ids().len() != layers.len() {
            return Err(layer_count(layers.len(), parsed.diff_ids().len()));
        }
        let mut descriptors = Vec::with_capacity(layers.len());
        for (layer, diff_id) in layers.iter().zip(parsed.diff_ids()) {
            let media_type = layer_type(layer, self.store)?;
            self.keep(layer, &layer.digest)?;
            self.adding.unpack(&layer.digest, diff_id)?;
            descriptors.push(descriptor(media_type, &layer.digest, layer.size));
        }
        let id = self.adding.put(&config_content)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: descriptor(OCI_CONFIG, &id, config_content.len() as u64),
            layers: descriptors,
        };
        let content = serde_json::to_vec(&manifest)
            .map_err(|e| ImageError::Malformed { what: "manifest".into(), reason: e.to_string() })?;
        self.adding.put(&content)
    }
}

impl Found {
    fn is_manifest(&self, digest: &Digest) -> bool {
        matches!(&self.content, Content::Manifest { descriptor, .. } if descriptor.digest == *digest)
    }
}

fn layer_count(layers: usize, diff_ids: usize) -> ImageError {
    ImageError::Malformed {
        what: "image".into(),
        reason: format!("the manifest has {layers} layers, the configuration {diff_ids}"),
    }
}

pub(super) fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations: Default::default(),
    }
}

/// Files were hashed with SHA-256 as they came; another algorithm reads them again.
fn actual_digest(stored: &Stored, expected: &Digest) -> Result<Digest, ImageError> {
    if expected.algorithm() == "sha256" {
        return Ok(stored.digest.clone());
    }
    let file = fs::File::open(&stored.path).map_err(ImageError::io("open", &stored.path))?;
    let mut hashed = Hashing::new(file, expected.hasher());
    std::io::copy(&mut hashed, &mut std::io::sink()).map_err(ImageError::io("read", &stored.path))?;
    Ok(hashed.finish().0)
}

fn layer_type(layer: &Stored, store: &ImageStore) -> Result<&'static str, ImageError> {
    // The second image that has the layer finds it in the store.
    let path = if layer.path.exists() { layer.path.clone() } else { store.blob_path(&layer.digest) };
    let mut magic = Vec::new();
    let file = fs::File::open(&path).map_err(ImageError::io("open", &path))?;
    file.take(6).read_to_end(&mut magic).map_err(ImageError::io("read", &path))?;
    Ok(match Compression::of(&magic) {
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
        Compression::None | Compression::Foreign(_) => OCI_LAYER,
    })
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, stored: &Stored) -> Result<T, ImageError> {
    serde_json::from_slice(&read_document(&stored.path)?)
        .map_err(|e| ImageError::Malformed { what: name.to_owned(), reason: e.to_string() })
}
