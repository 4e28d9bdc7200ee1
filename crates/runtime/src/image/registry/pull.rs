//! Putting an image together: resolve, choose, download, verify, unpack, name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, TryStreamExt};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::http::Client;
use super::session::{Failure, Session};
use super::{Endpoint, Progress, PullEvent, Registries};
use crate::image::access::Grant;
use crate::image::digest::{Digest, Hashing};
use crate::image::manifest::{Descriptor, Document, ImageConfig, Manifest};
use crate::image::store::{Adding, NewImage};
use crate::image::{ImageError, ImageStore, Reference};
use crate::interface::{Credentials, Image};

/// Layers on their way at the same time, as with Docker.
const LAYERS_AT_ONCE: usize = 3;
/// How often a download that was cut is continued. Counted anew whenever bytes have come.
const CUTS_MAX: u32 = 5;
/// A server that sends nothing for this long is given up and asked again.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const CUT_PAUSE: Duration = Duration::from_millis(500);

impl ImageStore {
    /// Pulls an image by its name. Content that is here is not fetched again, and an image that is
    /// complete costs one request.
    ///
    /// The work is done on a thread of its own with its own small runtime: writing layers to a busy
    /// disk may block for seconds, and nobody else shall wait for it. Dropping the future ends it.
    pub async fn pull(
        self: Arc<Self>,
        reference: &str,
        registries: &Registries,
        credentials: Vec<Credentials>,
        progress: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        self.pull_as(Puller::ByHand, reference, registries, credentials, progress).await
    }

    /// [`ImageStore::pull`] for a Pod: the image is then for those who could pull it too.
    pub(crate) async fn pull_for_pod(
        self: Arc<Self>,
        reference: &str,
        registries: &Registries,
        credentials: Vec<Credentials>,
    ) -> Result<Image, ImageError> {
        self.pull_as(Puller::Pod, reference, registries, credentials, Arc::new(super::Silent)).await
    }

    async fn pull_as(
        self: Arc<Self>,
        puller: Puller,
        reference: &str,
        registries: &Registries,
        credentials: Vec<Credentials>,
        progress: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        let reference = Reference::parse(reference)
            .map_err(|reason| ImageError::Reference { reference: reference.to_owned(), reason })?;
        let (sender, receiver) = oneshot::channel();
        let registries = registries.clone();
        let asked = Asked { puller, reference, registries, credentials };
        let work = move || run(&self, &asked, progress.as_ref(), sender);
        std::thread::Builder::new()
            .name("pull".into())
            .spawn(work)
            .map_err(ImageError::io("start a thread for", Path::new("a pull")))?;
        receiver.await.map_err(|_| ImageError::Canceled)?
    }
}

/// Who wants an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Puller {
    /// Whoever administers the node: what comes is everybody's.
    ByHand,
    /// A Pod, with its own logins.
    Pod,
}

/// What is to be pulled, and how.
struct Asked {
    puller: Puller,
    reference: Reference,
    registries: Registries,
    credentials: Vec<Credentials>,
}

fn run(
    store: &ImageStore,
    asked: &Asked,
    progress: &dyn Progress,
    mut result: oneshot::Sender<Result<Image, ImageError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = result.send(Err(ImageError::io("start a runtime for", Path::new("a pull"))(e)));
            return;
        }
    };
    runtime.block_on(async {
        let pulled = tokio::select! {
            // Cancel-safe because half of an image is no image: what came stays as a partial file.
            () = result.closed() => return,
            pulled = pull(store, asked, progress) => pulled,
        };
        // Whoever asked may have left in this moment; the image is here all the same.
        let _ = result.send(pulled);
    });
}

async fn pull(store: &ImageStore, asked: &Asked, progress: &dyn Progress) -> Result<Image, ImageError> {
    let Asked { puller, reference, registries, credentials } = asked;
    let authorities = registries.ca_files.get(reference.domain()).cloned().unwrap_or_default();
    let client = Client::new(&authorities, registries.proxies.clone())
        .map_err(|e| registry_error(reference, &Failure::from(e), Step::Resolve))?;
    let mut keys: Vec<Option<&Credentials>> = credentials.iter().map(Some).collect();
    keys.extend(registries.credentials.get(reference.domain()).map(Some));
    keys.push(None);
    let mut last = Failure::NotFound;
    for endpoint in &registries.endpoints(reference.domain()) {
        match open(&client, endpoint, reference, &keys).await {
            Ok((session, digest, key)) => {
                // Beyond the Pod's own logins there are the node's, and none.
                let proved = (*puller == Puller::Pod).then(|| Grant::of(credentials.get(key)));
                let grant = proved.map(|grant| (reference.name(), grant));
                return Assembly { store, reference, session, progress, grant }.image(digest).await;
            }
            // What the registry itself says counts, and it comes last.
            Err(failure) => last = failure,
        }
    }
    Err(registry_error(reference, &last, Step::Resolve))
}

/// Finds credentials that the endpoint takes (their place among the keys is the last answer), and what
/// the reference means there.
async fn open<'a>(
    client: &'a Client,
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    keys: &[Option<&'a Credentials>],
) -> Result<(Session<'a>, Option<Digest>, usize), Failure> {
    let mut first: Option<Failure> = None;
    for (place, key) in keys.iter().enumerate() {
        let session = Session::new(client, endpoint, reference.domain(), reference.path(), *key);
        match session.resolve(reference.object()).await {
            Ok(resolved) => return Ok((session, resolved.digest, place)),
            Err(failure @ Failure::Denied(_)) => first = first.or(Some(failure)),
            Err(failure) => return Err(failure),
        }
    }
    Err(first.unwrap_or(Failure::NotFound))
}

/// Where in a pull something failed: containerd words them differently.
#[derive(Clone, Copy)]
enum Step {
    Resolve,
    Copy,
}

fn registry_error(reference: &Reference, failure: &Failure, step: Step) -> ImageError {
    let name = reference.to_string();
    let cause = failure.text(&name);
    let message = match step {
        Step::Resolve => {
            format!(
                "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {cause}"
            )
        }
        Step::Copy => {
            format!(
                "failed to pull and unpack image \"{name}\": failed to copy: httpReadSeeker: failed open: {cause}"
            )
        }
    };
    ImageError::Registry { message, unreachable: failure.unreachable() }
}

struct Assembly<'a> {
    store: &'a ImageStore,
    reference: &'a Reference,
    session: Session<'a>,
    progress: &'a dyn Progress,
    grant: Option<(String, Grant)>,
}

impl Assembly<'_> {
    async fn image(&self, digest: Option<Digest>) -> Result<Image, ImageError> {
        self.assemble(digest).await.map_err(|error| self.in_context(error))
    }

    fn in_context(&self, error: ImageError) -> ImageError {
        match error {
            ImageError::Registry { .. } => error,
            other => ImageError::Registry {
                message: format!(
                    "failed to pull and unpack image \"{}\": {}",
                    self.reference,
                    other.full_text()
                ),
                unreachable: false,
            },
        }
    }

    fn failed(&self, failure: &Failure) -> ImageError {
        registry_error(self.reference, failure, Step::Copy)
    }

    async fn assemble(&self, digest: Option<Digest>) -> Result<Image, ImageError> {
        if let Some(asked) = self.reference.digest() {
            // The registry's word counts for tags only.
            if digest.as_ref().is_some_and(|said| said != asked) {
                let (what, expected) = ("the manifest".to_owned(), asked.clone());
                return Err(ImageError::Digest {
                    what,
                    expected,
                    actual: digest.unwrap_or_else(|| asked.clone()),
                });
            }
        }
        if let Some(known) = digest.as_ref().and_then(|digest| self.known(digest)) {
            return self.name(known?);
        }
        let adding = self.store.adding()?;
        let object = digest.as_ref().map_or(self.reference.object(), Digest::as_str).to_owned();
        let (content, media_type) = self
            .session
            .manifest(&object)
            .await
            .map_err(|f| registry_error(self.reference, &f, Step::Resolve))?;
        let target = self.verify("the manifest", digest.as_ref(), &content)?;
        self.progress.event(PullEvent::Resolved(target.clone()));
        let (content, manifest) = self.choose(content.to_vec(), &media_type).await?;
        let config = self.config(&adding, &manifest).await?;
        self.layers(&adding, &manifest, &config).await?;
        let manifest = adding.put(&content)?;
        self.store.commit(self.new_image(manifest, &target))
    }

    /// The image, if the same manifest or index was pulled before.
    fn known(&self, digest: &Digest) -> Option<Result<(Digest, Digest), ImageError>> {
        let name = self.reference.with_digest(digest);
        match self.store.find(&name) {
            Ok(Some(image)) => {
                let manifest = self.store.content_of(&image.id).map(|(_, manifest)| manifest);
                Some(manifest.map(|manifest| (manifest, digest.clone())))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn name(&self, (manifest, target): (Digest, Digest)) -> Result<Image, ImageError> {
        let _adding = self.store.adding()?;
        self.store.commit(self.new_image(manifest, &target))
    }

    fn new_image(&self, manifest: Digest, target: &Digest) -> NewImage {
        let by_tag = self.reference.digest().is_none();
        NewImage {
            manifest,
            tags: if by_tag { vec![self.reference.to_string()] } else { Vec::new() },
            digests: vec![self.reference.with_digest(target)],
            pinned: false,
            grant: self.grant.clone(),
        }
    }

    fn verify(&self, what: &str, expected: Option<&Digest>, content: &[u8]) -> Result<Digest, ImageError> {
        let expected = expected.or(self.reference.digest());
        let mut hasher = expected.map_or_else(crate::image::Hasher::sha256, Digest::hasher);
        hasher.update(content);
        let actual = hasher.finish();
        match expected {
            Some(expected) if *expected != actual => {
                Err(ImageError::Digest { what: what.to_owned(), expected: expected.clone(), actual })
            }
            _ => Ok(actual),
        }
    }

    /// Follows an index to the manifest for this machine.
    async fn choose(&self, content: Vec<u8>, media_type: &str) -> Result<(Vec<u8>, Manifest), ImageError> {
        let index = match Document::parse(&content, media_type)? {
            Document::Manifest(manifest) => return Ok((content, manifest)),
            Document::Index(index) => index,
        };
        let platform = self.store.platform();
        let chosen = index.choose(platform).into_iter().next().ok_or_else(|| ImageError::Platform {
            wanted: format!("{}/{}", platform.os, platform.architecture),
        })?;
        let (content, media_type) =
            self.session.manifest(chosen.digest.as_str()).await.map_err(|f| self.failed(&f))?;
        self.verify("a manifest", Some(&chosen.digest), &content)?;
        match Document::parse(&content, &media_type)? {
            Document::Manifest(manifest) => Ok((content.to_vec(), manifest)),
            Document::Index(_) => {
                let reason = "an index leads to another index".to_owned();
                Err(ImageError::Malformed { what: "index".into(), reason })
            }
        }
    }

    async fn config(&self, adding: &Adding<'_>, manifest: &Manifest) -> Result<ImageConfig, ImageError> {
        let limit = crate::image::DOCUMENT_SIZE_MAX;
        if manifest.config.size > limit {
            return Err(ImageError::TooLarge {
                what: "image configuration".into(),
                limit: format!("{limit} bytes"),
            });
        }
        self.blob(adding, &manifest.config, Watch::No).await?;
        let config = ImageConfig::parse(&self.store.read_blob(&manifest.config.digest)?)?;
        config.check_platform(self.store.platform())?;
        let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids().len());
        if layers != diff_ids {
            let reason = format!("the manifest has {layers} layers, the configuration {diff_ids}");
            return Err(ImageError::Malformed { what: "image".into(), reason });
        }
        Ok(config)
    }

    async fn layers(
        &self,
        adding: &Adding<'_>,
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Result<(), ImageError> {
        for layer in &manifest.layers {
            self.progress.event(PullEvent::Layer(layer.digest.clone(), layer.size));
        }
        let work = manifest.layers.iter().zip(config.diff_ids());
        stream::iter(work.map(Ok))
            .try_for_each_concurrent(LAYERS_AT_ONCE, |(layer, diff_id)| self.layer(adding, layer, diff_id))
            .await
    }

    async fn layer(
        &self,
        adding: &Adding<'_>,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<(), ImageError> {
        self.blob(adding, layer, Watch::Yes).await?;
        // On this thread: the other downloads wait meanwhile, and what they would bring the kernel
        // keeps for them. A second thread would only share the disk.
        adding.unpack(&layer.digest, diff_id)?;
        self.progress.event(PullEvent::Unpacked(layer.digest.clone()));
        Ok(())
    }

    /// Brings one blob into the store unless it is there.
    async fn blob(&self, adding: &Adding<'_>, blob: &Descriptor, watch: Watch) -> Result<(), ImageError> {
        if self.store.has_blob(&blob.digest, blob.size) {
            return Ok(());
        }
        let (path, file) = open_partial(adding, &blob.digest)?;
        let mut download = Download::resume(blob, file, &path)?;
        let mut cuts = 0;
        while download.length() < blob.size {
            let before = download.length();
            match self.transfer(&mut download, blob, &path, watch).await {
                Ok(()) => break,
                Err(Transfer::Fatal(error)) => return Err(error),
                Err(Transfer::Cut(failure)) => {
                    cuts = if download.length() > before { 1 } else { cuts + 1 };
                    if cuts > CUTS_MAX {
                        return Err(self.failed(&failure));
                    }
                    tokio::time::sleep(CUT_PAUSE * cuts).await;
                }
            }
        }
        download.check(blob, &path)?;
        adding.keep(&path, &blob.digest)
    }

    async fn transfer(
        &self,
        download: &mut Download,
        blob: &Descriptor,
        path: &Path,
        watch: Watch,
    ) -> Result<(), Transfer> {
        let answer = self.session.blob(&blob.digest, download.length()).await.map_err(|failure| {
            if failure.again() { Transfer::Cut(failure) } else { Transfer::Fatal(self.failed(&failure)) }
        })?;
        if answer.status() != StatusCode::PARTIAL_CONTENT && download.length() > 0 {
            // The registry does not know ranges.
            download.restart(blob).map_err(|e| Transfer::Fatal(ImageError::io("rewrite", path)(e)))?;
        }
        let mut body = answer.into_body();
        loop {
            let frame = match timeout(SILENCE_MAX, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return download.end_of_body(blob),
                Ok(Some(Err(error))) => return Err(cut(error.to_string())),
                Err(_) => return Err(cut("i/o timeout".into())),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            download.write(&bytes, blob).map_err(|e| Transfer::Fatal(ImageError::io("write", path)(e)))?;
            if watch == Watch::Yes {
                self.progress.event(PullEvent::Downloaded(blob.digest.clone(), download.length()));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Yes,
    No,
}

enum Transfer {
    /// Asking again may help.
    Cut(Failure),
    Fatal(ImageError),
}

fn cut(text: String) -> Transfer {
    Transfer::Cut(Failure::Status { text, again: true })
}

/// The partial file of a blob, ours alone; when another process is at it, a file of our own.
fn open_partial(adding: &Adding<'_>, digest: &Digest) -> Result<(std::path::PathBuf, File), ImageError> {
    let open = |path: &Path| File::options().create(true).truncate(false).read(true).write(true).open(path);
    let path = adding.partial(digest);
    let file = open(&path).map_err(ImageError::io("open", &path))?;
    if file.try_lock().is_ok() {
        return Ok((path, file));
    }
    let path = adding.scratch(digest.hex());
    let file = open(&path).map_err(ImageError::io("open", &path))?;
    Ok((path, file))
}

/// A blob on its way, with the digest of what is here.
struct Download(Hashing<File>);

impl Download {
    /// Goes on where an earlier one was cut: what is there has to be hashed first.
    fn resume(blob: &Descriptor, file: File, path: &Path) -> Result<Self, ImageError> {
        let length = file.metadata().map_err(ImageError::io("read", path))?.len();
        if length > blob.size {
            file.set_len(0).map_err(ImageError::io("rewrite", path))?;
        }
        let mut hashing = Hashing::new(file, blob.digest.hasher());
        let mut buffer = vec![0; 128 << 10];
        while hashing.read(&mut buffer).map_err(ImageError::io("read", path))? > 0 {}
        Ok(Download(hashing))
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    fn restart(&mut self, blob: &Descriptor) -> io::Result<()> {
        let mut file = self.0.inner().try_clone()?;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        self.0 = Hashing::new(file, blob.digest.hasher());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], blob: &Descriptor) -> io::Result<()> {
        if self.length() + bytes.len() as u64 > blob.size {
            return Err(io::Error::other(format!(
                "the registry sends more than the {} bytes it promised",
                blob.size
            )));
        }
        self.0.write_all(bytes)
    }

    fn end_of_body(&self, blob: &Descriptor) -> Result<(), Transfer> {
        if self.length() < blob.size { Err(cut("unexpected EOF".into())) } else { Ok(()) }
    }

    fn check(self, blob: &Descriptor, path: &Path) -> Result<(), ImageError> {
        let (actual, _) = self.0.finish();
        if actual == blob.digest {
            return Ok(());
        }
        // A partial file that cannot become whole is of no use to the next pull.
        let _ = std::fs::remove_file(path);
        Err(ImageError::Digest {
            what: "a blob from the registry".into(),
            expected: blob.digest.clone(),
            actual,
        })
    }
}
