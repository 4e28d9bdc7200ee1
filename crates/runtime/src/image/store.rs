//! The store on disk, and who may change it when.
//!
//! Two locks, both plain `flock` on a file, so that a dead process holds nothing:
//!
//! * `index.lock`: held exclusively while `index.json` is replaced, shared while a lease is taken.
//!   A lease is therefore either seen by a removal or comes too late to find the image.
//! * `adding.lock`: held shared while content is being added, exclusively while content that
//!   nobody names is swept away. A sweep that cannot have it is left to the next one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::access::{self, Grant, Grants};
use super::digest::{Digest, Hasher, Hashing};
use super::error::ImageError;
use super::manifest::{DOCUMENT_SIZE_MAX, ImageConfig, Manifest, Platform};
use super::reference::{Reference, is_identifier};
use super::unpack::{self, Limits};
use crate::interface::{Credentials, Image};

const INDEX_VERSION: u32 = 1;
/// The shortest part of an image id that is taken for one.
const ID_PREFIX_MIN: usize = 4;

/// The images of one data directory.
#[derive(Debug)]
pub struct ImageStore {
    pub(super) root: PathBuf,
    platform: Platform,
    limits: Limits,
    cache: Mutex<Option<(Stamp, Arc<IndexFile>)>>,
}

/// What `index.json` holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct IndexFile {
    version: u32,
    pub(super) images: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) image: Image,
    /// The manifest that led to the image; what `export` writes.
    pub(super) manifest: Digest,
    /// Manifest, configuration and layers in `blobs`.
    blobs: Vec<Digest>,
    /// How Pods pulled it; absent when none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grants: Option<Grants>,
}

/// Changes when the file is replaced: a rename gives a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// What `remove` did, in the order it did it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The image, if that was its last name.
    pub deleted: Option<String>,
}

/// What `prune` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids of removed images.
    pub images: Vec<String>,
    /// Bytes that are free again.
    pub bytes: u64,
}

/// An image whose content is in the store, about to get its names.
#[derive(Clone, Debug)]
pub(crate) struct NewImage {
    pub(crate) manifest: Digest,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
    pub(crate) pinned: bool,
    /// What the pull has proved, and of which repository; `None` when it was not a Pod's.
    pub(crate) grant: Option<(String, Grant)>,
}

impl ImageStore {
    /// Opens the store of `data_dir`, making it when there is none.
    pub fn open(data_dir: &Path) -> Result<Self, ImageError> {
        let root = data_dir.join("images");
        for part in ["blobs/sha256", "blobs/sha512", "layers", "ingest", "leases", "uses", "trash"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(ImageError::io("make directory", &path))?;
        }
        // Layers hold set-user-id programs of unknown origin: nobody but root may walk in.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&root, private).map_err(ImageError::io("protect", &root))?;
        let store = Self::look(data_dir);
        store.sweep().map(|_| store)
    }

    /// For those who only look, also on a disk that cannot be written: nothing is made.
    pub fn look(data_dir: &Path) -> Self {
        let (root, platform, limits) = (data_dir.join("images"), Platform::host(), Limits::default());
        ImageStore { root, platform, limits, cache: Mutex::new(None) }
    }

    /// Other limits for what comes in.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The platform images are chosen for.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    pub(super) fn archive_entries_max(&self) -> usize {
        self.limits.archive_entries
    }

    /// All images, by id.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.index()?.images.iter().map(|e| e.image.clone()).collect())
    }

    /// The image of that name, digest, id, or beginning of an id.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let index = self.index()?;
        Ok(find_entry(&index, reference)?.map(|e| e.image.clone()))
    }

    /// Whether the image is here and somebody with these logins may use it by this name.
    pub(crate) fn may_use(&self, reference: &str, logins: &[Credentials]) -> Result<bool, ImageError> {
        let index = self.index()?;
        let Some(entry) = find_entry(&index, reference)? else { return Ok(false) };
        // By its id an image has no repository: such a name can be used, and never be pulled.
        let by_name = Reference::parse(reference).ok().filter(|_| entry.image.id != reference);
        let repository = by_name.map(|reference| reference.name()).unwrap_or_default();
        Ok(access::admits(entry.grants.as_ref(), &repository, logins))
    }

    /// Manifest and content of an image, for `export`.
    pub(crate) fn content_of(&self, reference: &str) -> Result<(Image, Digest), ImageError> {
        let index = self.index()?;
        let entry =
            find_entry(&index, reference)?.ok_or_else(|| ImageError::NotFound(reference.to_owned()))?;
        Ok((entry.image.clone(), entry.manifest.clone()))
    }

    /// The directory of an unpacked layer, as a lower directory of an overlay.
    pub fn layer_directory(&self, diff_id: &str) -> Result<PathBuf, ImageError> {
        let digest = Digest::parse(diff_id).map_err(|e| ImageError::Malformed {
            what: format!("layer name {diff_id:?}"),
            reason: e.to_string(),
        })?;
        Ok(self.layer_home(&digest).join("fs"))
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    fn layer_home(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// Whether content is here in its full length. Digests were checked when it came in.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|m| size == 0 || m.len() == size)
    }

    /// A document of the store, whole.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        read_document(&self.blob_path(digest))
    }

    /// Removes a name; with its last name, or by its id, the image goes.
    pub fn remove(&self, reference: &str) -> Result<Removed, ImageError> {
        let removed = self.change_index(|index| {
            let entry =
                find_entry(index, reference)?.ok_or_else(|| ImageError::NotFound(reference.to_owned()))?;
            let id = entry.image.id.clone();
            self.remove_from(index, &id, reference)
        })?;
        if removed.deleted.is_some() {
            self.sweep()?;
        }
        Ok(removed)
    }

    fn remove_from(&self, index: &mut IndexFile, id: &str, reference: &str) -> Result<Removed, ImageError> {
        let Some(position) = index.images.iter().position(|e| e.image.id == id) else {
            return Err(ImageError::NotFound(reference.to_owned()));
        };
        let image = &mut index.images[position].image;
        let by_tag = Reference::parse(reference).map(|r| r.to_string()).ok();
        let tag = by_tag.filter(|name| image.repo_tags.contains(name));
        if let Some(tag) = tag.filter(|_| image.repo_tags.len() > 1) {
            image.repo_tags.retain(|t| *t != tag);
            return Ok(Removed { untagged: vec![tag], deleted: None });
        }
        if let Some((container, _)) = self.leases()?.into_iter().find(|(_, used)| used == id) {
            return Err(ImageError::InUse { image: reference.to_owned(), container });
        }
        let entry = index.images.remove(position);
        let untagged = entry.image.repo_tags.into_iter().chain(entry.image.repo_digests).collect();
        Ok(Removed { untagged, deleted: Some(entry.image.id) })
    }

    /// Removes images nobody uses: all of them, or those without a name only.
    /// Imported images have no registry to come back from and stay unless they have no name.
    pub fn prune(&self, all: bool) -> Result<Pruned, ImageError> {
        let images = self.change_index(|index| {
            let used: HashSet<String> = self.leases()?.into_iter().map(|(_, image)| image).collect();
            let (kept, gone): (Vec<Entry>, Vec<Entry>) = index.images.drain(..).partition(|e| {
                let named = !e.image.repo_tags.is_empty();
                used.contains(&e.image.id) || (named && (!all || e.image.pinned))
            });
            index.images = kept;
            Ok(gone.into_iter().map(|e| e.image.id).collect())
        })?;
        Ok(Pruned { images, bytes: self.sweep()? })
    }

    /// Begins to add content. While it lives nothing is swept away.
    pub(crate) fn adding(&self) -> Result<Adding<'_>, ImageError> {
        let lock = self.lock("adding.lock", Lock::Shared)?;
        let directory = self.root.join("ingest").join(format!("t-{}", random_name()));
        fs::create_dir_all(&directory).map_err(ImageError::io("make directory", &directory))?;
        Ok(Adding { store: self, directory, _lock: lock })
    }

    /// Gives a complete image its names; a name it shares with another image moves.
    pub(crate) fn commit(&self, new: NewImage) -> Result<Image, ImageError> {
        let mut entry = self.describe(&new)?;
        self.change_index(|index| {
            for other in &mut index.images {
                other.image.repo_tags.retain(|t| !new.tags.contains(t));
            }
            if let Some(at) = index.images.iter().position(|e| e.image.id == entry.image.id) {
                entry.absorb(index.images.remove(at));
            }
            index.images.push(entry.clone());
            index.images.sort_by(|a, b| a.image.id.cmp(&b.image.id));
            Ok(entry.image.clone())
        })
    }

    /// Reads manifest and configuration and checks that all of the image is here.
    fn describe(&self, new: &NewImage) -> Result<Entry, ImageError> {
        let manifest: Manifest = serde_json::from_slice(&self.read_blob(&new.manifest)?).map_err(|e| {
            ImageError::Malformed { what: format!("manifest {}", new.manifest), reason: e.to_string() }
        })?;
        let config = ImageConfig::parse(&self.read_blob(&manifest.config.digest)?)?;
        let mut size = 0;
        let mut blobs = vec![new.manifest.clone(), manifest.config.digest.clone()];
        blobs.extend(manifest.layers.iter().map(|l| l.digest.clone()));
        for digest in &blobs {
            let path = self.blob_path(digest);
            size += fs::metadata(&path).map_err(ImageError::io("find content", &path))?.len();
        }
        for diff_id in config.diff_ids() {
            size += self.layer_size(diff_id)?;
        }
        let image = image_of(&manifest.config.digest, &config, new, size);
        let grants = new.grant.clone().map(|grant| Grants::from([grant]));
        Ok(Entry { image, manifest: new.manifest.clone(), blobs, grants })
    }

    fn layer_size(&self, diff_id: &Digest) -> Result<u64, ImageError> {
        let path = self.layer_home(diff_id).join("size");
        let text = fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    fn index(&self) -> Result<Arc<IndexFile>, ImageError> {
        let path = self.root.join("index.json");
        let stamp = match fs::metadata(&path) {
            Ok(m) => Stamp { inode: m.ino(), size: m.size(), modified: (m.mtime(), m.mtime_nsec()) },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(e) => return Err(ImageError::Io { action: "read", path, source: e }),
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, index)) = cache.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(index.clone());
        }
        let content = fs::read(&path).map_err(ImageError::io("read", &path))?;
        let index: IndexFile = serde_json::from_slice(&content)
            .map_err(|e| ImageError::Malformed { what: path.display().to_string(), reason: e.to_string() })?;
        let index = Arc::new(index);
        *cache = Some((stamp, index.clone()));
        Ok(index)
    }

    /// Replaces `index.json`, durably, by what `change` makes of it; an error leaves it as it was.
    pub(super) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut IndexFile) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _alone = self.lock("index.lock", Lock::Exclusive)?;
        let mut index = IndexFile::clone(&*self.index()?);
        let result = change(&mut index)?;
        index.version = INDEX_VERSION;
        let path = self.root.join("index.json");
        let content = serde_json::to_vec_pretty(&index).map_err(io::Error::other);
        content.and_then(|content| replace_file(&path, &content)).map_err(ImageError::io("write", &path))?;
        Ok(result)
    }

    /// Removes content that no image names and what dead processes left half-made.
    /// Returns the freed bytes; 0 when somebody is adding and the sweep has to wait.
    pub(super) fn sweep(&self) -> Result<u64, ImageError> {
        let Some(lock) = self.try_lock_exclusive("adding.lock")? else { return Ok(0) };
        let index = self.index()?;
        let mut named: HashSet<&str> = HashSet::new();
        for entry in &index.images {
            named.extend(entry.blobs.iter().map(Digest::hex));
            named.extend(entry.image.layers.iter().filter_map(|l| l.split_once(':')).map(|(_, hex)| hex));
        }
        let mut bytes = 0;
        for part in ["blobs/sha256", "blobs/sha512", "layers", "ingest"] {
            bytes += self.discard_unnamed(&self.root.join(part), &named)?;
        }
        // Content is out of the way by rename; the slow part needs no lock.
        drop(lock);
        self.empty_trash();
        Ok(bytes)
    }

    fn discard_unnamed(&self, directory: &Path, named: &HashSet<&str>) -> Result<u64, ImageError> {
        let mut bytes = 0;
        for entry in
            fs::read_dir(directory).map_err(ImageError::io("read", directory))?.filter_map(Result::ok)
        {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| named.contains(n)) {
                continue;
            }
            // A download that was cut is kept for a day: the next pull goes on where it ended.
            if name.to_str().is_some_and(|n| n.ends_with(".partial")) && !older_than_a_day(&entry.path()) {
                continue;
            }
            bytes += stored_size(&entry.path());
            let to = self.root.join("trash").join(random_name());
            ignore_missing(fs::rename(entry.path(), &to))
                .map_err(ImageError::io("discard", &entry.path()))?;
        }
        Ok(bytes)
    }

    fn empty_trash(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("trash")) else { return };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            if let Err(error) = sys::beneath::remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot empty the trash of the image store");
            }
        }
    }

    pub(super) fn lock(&self, name: &str, kind: Lock) -> Result<File, ImageError> {
        let (path, file) = self.lock_file(name)?;
        match kind {
            Lock::Shared => file.lock_shared(),
            Lock::Exclusive => file.lock(),
        }
        .map_err(ImageError::io("lock", &path))?;
        Ok(file)
    }

    fn try_lock_exclusive(&self, name: &str) -> Result<Option<File>, ImageError> {
        let (path, file) = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(ImageError::Io { action: "lock", path, source: e }),
        }
    }

    fn lock_file(&self, name: &str) -> Result<(PathBuf, File), ImageError> {
        let path = self.root.join(name);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(ImageError::io("open", &path))?;
        Ok((path, file))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Lock {
    Shared,
    Exclusive,
}

impl Entry {
    /// Takes over the names of the same image as it was known before.
    fn absorb(&mut self, old: Entry) {
        merge(&mut self.image.repo_tags, old.image.repo_tags);
        merge(&mut self.image.repo_digests, old.image.repo_digests);
        self.image.pinned |= old.image.pinned;
        // Who put it here by hand gave it to everybody, and no Pod's pull takes that back.
        self.grants = old.grants.map(|known| access::merged(known, self.grants.take()));
    }
}

fn merge(into: &mut Vec<String>, from: Vec<String>) {
    for name in from {
        if !into.contains(&name) {
            into.push(name);
        }
    }
}

fn image_of(id: &Digest, config: &ImageConfig, new: &NewImage, size: u64) -> Image {
    let run = config.config.clone().unwrap_or_default();
    Image {
        id: id.to_string(),
        repo_tags: new.tags.clone(),
        repo_digests: new.digests.clone(),
        size,
        user: run.user,
        stop_signal: run.stop_signal,
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        working_dir: run.working_dir,
        volumes: run.volumes.unwrap_or_default().into_keys().collect(),
        layers: config.diff_ids().iter().map(Digest::to_string).collect(),
        pinned: new.pinned,
    }
}

pub(super) fn find_entry<'a>(index: &'a IndexFile, text: &str) -> Result<Option<&'a Entry>, ImageError> {
    if let Some(entry) = index.images.iter().find(|e| e.image.id == text) {
        return Ok(Some(entry));
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let looks_like_id =
        hex.len() >= ID_PREFIX_MIN && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // A name wins over the beginning of an id: `beef` may be a repository.
    match Reference::parse(text) {
        Ok(reference) => {
            let name = reference.to_string();
            let named = |e: &&Entry| {
                let image = &e.image;
                image.repo_tags.contains(&name)
                    || image.repo_digests.contains(&name)
                    || (reference.digest() == Some(&e.manifest) && is_of(image, &reference.name()))
            };
            if let Some(entry) = index.images.iter().find(named) {
                return Ok(Some(entry));
            }
        }
        Err(reason) if !looks_like_id && !is_identifier(hex) => {
            return Err(ImageError::Reference { reference: text.to_owned(), reason });
        }
        Err(_) => {}
    }
    if !looks_like_id {
        return Ok(None);
    }
    let mut fits = index
        .images
        .iter()
        .filter(|e| e.image.id.strip_prefix("sha256:").is_some_and(|i| i.starts_with(hex)));
    match (fits.next(), fits.next()) {
        (Some(entry), None) => Ok(Some(entry)),
        _ => Ok(None),
    }
}

/// One of the image's tags is in this repository.
fn is_of(image: &Image, repository: &str) -> bool {
    image.repo_tags.iter().any(|tag| tag.rsplit_once(':').is_some_and(|(name, _)| name == repository))
}

/// Content on its way into the store. Dropping it removes what did not arrive.
#[derive(Debug)]
pub(crate) struct Adding<'a> {
    store: &'a ImageStore,
    directory: PathBuf,
    _lock: File,
}

impl Adding<'_> {
    /// A path for a new file that vanishes with the transaction.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the download of `digest` is collected; it stays when it is cut, to be continued.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.store.root.join("ingest").join(format!("{}.partial", digest.hex()))
    }

    /// Moves a file whose digest was checked into the content.
    pub(crate) fn keep(&self, file: &Path, digest: &Digest) -> Result<(), ImageError> {
        let to = self.store.blob_path(digest);
        // Synced first: a name in `blobs` promises the whole content, also after a power cut.
        File::open(file).and_then(|f| f.sync_data()).map_err(ImageError::io("sync", file))?;
        fs::rename(file, &to).map_err(ImageError::io("write content", &to))
    }

    /// Stores a document.
    pub(crate) fn put(&self, content: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(content);
        if !self.store.has_blob(&digest, content.len() as u64) {
            let path = self.scratch(digest.hex());
            fs::write(&path, content).map_err(ImageError::io("write", &path))?;
            self.keep(&path, &digest)?;
        }
        Ok(digest)
    }

    /// Unpacks a stored layer unless it is there. Blocks for as long as the disk takes.
    pub(crate) fn unpack(&self, blob: &Digest, diff_id: &Digest) -> Result<(), ImageError> {
        let home = self.store.layer_home(diff_id);
        if home.join("size").exists() {
            return Ok(());
        }
        let path = self.store.blob_path(blob);
        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
        let work = self.scratch(&format!("layer-{}", random_name()));
        let fs_directory = work.join("fs");
        fs::create_dir_all(&fs_directory).map_err(ImageError::io("make directory", &fs_directory))?;
        let size = unpack::unpack(file, diff_id, &fs_directory, &self.store.limits)?;
        let size_file = work.join("size");
        fs::write(&size_file, size.to_string()).map_err(ImageError::io("write", &size_file))?;
        // As with content: the name promises the whole layer.
        let opened = File::open(&work).map_err(ImageError::io("open", &work))?;
        rustix::fs::syncfs(&opened).map_err(ImageError::io("sync", &work))?;
        match fs::rename(&work, &home) {
            // Somebody else was faster; the layer is the same.
            Err(_) if home.join("size").exists() => Ok(()),
            other => other.map_err(ImageError::io("write layer", &home)),
        }
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if let Err(error) = sys::beneath::remove_tree(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %error, "cannot remove unfinished image content");
        }
    }
}

/// Copies an entry of an archive into a new file and returns what it was.
pub(super) fn write_hashed(
    from: &mut impl io::Read,
    path: &Path,
    limit: u64,
) -> Result<(Digest, u64), ImageError> {
    let mut file = Hashing::new(File::create(path).map_err(ImageError::io("write", path))?, Hasher::sha256());
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = from
            .read(&mut buffer)
            .map_err(|e| ImageError::Malformed { what: "archive".into(), reason: e.to_string() })?;
        if n == 0 {
            return Ok(file.finish());
        }
        file.write_all(&buffer[..n]).map_err(ImageError::io("write", path))?;
        if file.length() > limit {
            return Err(ImageError::TooLarge {
                what: "archive entry".into(),
                limit: format!("{limit} bytes"),
            });
        }
    }
}

/// Reads a document, refusing one that is too large to be one.
pub(super) fn read_document(path: &Path) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(ImageError::io("read", path))?.len();
    if size > DOCUMENT_SIZE_MAX {
        let limit = format!("{DOCUMENT_SIZE_MAX} bytes");
        return Err(ImageError::TooLarge { what: format!("document {}", path.display()), limit });
    }
    fs::read(path).map_err(ImageError::io("read", path))
}

fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn older_than_a_day(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok());
    age.is_none_or(|age| age.as_secs() > 24 * 3600)
}

/// Bytes of a blob, or of a layer as its own `size` file says.
fn stored_size(path: &Path) -> u64 {
    let of_layer = fs::read_to_string(path.join("size")).ok().and_then(|t| t.trim().parse().ok());
    of_layer.unwrap_or_else(|| fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 }))
}

/// 16 hexadecimal digits nobody else has.
fn random_name() -> String {
    let mut bytes = [0u8; 8];
    let rng = ring::rand::SystemRandom::new();
    if ring::rand::SecureRandom::fill(&rng, &mut bytes).is_err() {
        // Without the kernel's randomness the address of a local and the clock have to do;
        // the names need to be different, not secret.
        bytes = (crate::clock::now() ^ (u64::from(std::process::id()) << 40)).to_ne_bytes();
    }
    super::digest::hex(&bytes)
}
