//! Events that say what a room did, as the upstream recorder writes them.
//!
//! ```text
//! room ─ Recorder::event ─ queue ─ Correlator ─┬─ new: create
//!                                              ├─ seen before: patch count
//!                                              └─ too many: drop
//! ```

mod correlate;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Client, Error, Object, Patch, PatchKind, Retry};
use correlate::{Correlator, Decision};

/// Is the event the normal course of things?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something may be wrong.
    Warning,
}

impl EventType {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// A reference to an object, for events about it.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A container of a Pod: the reference with the field path that kubectl shows.
pub fn container_reference(pod: &ObjectReference, field: &str, container: &str) -> ObjectReference {
    ObjectReference { field_path: Some(format!("spec.{field}{{{container}}}")), ..pod.clone() }
}

/// Takes events and never makes its caller wait.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Noted>,
}

/// What a room reports.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    pub(crate) about: ObjectReference,
    pub(crate) kind: EventType,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) at: Timestamp,
}

/// The upstream broadcaster's queue; when the server is away for longer than
/// this many events, the newest are lost, as upstream.
const QUEUE_MAX: usize = 1000;
/// The server's limit of an event's message, in bytes.
const MESSAGE_MAX: usize = 1024;

impl Recorder {
    /// A recorder for `component` (`kubelet`, `default-scheduler`) on `host`
    /// (may be empty), whose writing is a task of `tasks`.
    pub fn spawn(
        client: Client,
        component: &str,
        host: &str,
        tasks: &mut JoinSet<()>,
        shutdown: CancellationToken,
    ) -> Self {
        let (queue, received) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { client, correlator: Correlator::new(component, host) };
        tasks.spawn(writer.run(received, shutdown));
        Self { queue }
    }

    /// Records that something happened to `about`.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        self.annotated(about, kind, reason, message, BTreeMap::new());
    }

    /// [`Recorder::event`] with annotations on the Event.
    pub fn annotated(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
        annotations: BTreeMap<String, String>,
    ) {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        let (about, reason, at) = (about.clone(), reason.to_owned(), Timestamp::now());
        let noted = Noted { about, kind, reason, message, annotations, at };
        if self.queue.try_send(noted).is_err() {
            tracing::warn!("event dropped: the queue is full");
        }
    }
}

struct Writer {
    client: Client,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut received: mpsc::Receiver<Noted>, shutdown: CancellationToken) {
        // Cancel-safe: `recv` takes nothing when it is dropped.
        while let Some(Some(noted)) = shutdown.run_until_cancelled(received.recv()).await {
            self.write(noted, &shutdown).await;
        }
        // What was reported before the end is still written, once each.
        let ended = CancellationToken::new();
        ended.cancel();
        received.close();
        while let Some(noted) = received.recv().await {
            self.write(noted, &ended).await;
        }
    }

    async fn write(&mut self, noted: Noted, shutdown: &CancellationToken) {
        let decision = self.correlator.observe(noted);
        if let Decision::Create(event) = &decision {
            log(event);
        }
        let namespace = decision.namespace().to_owned();
        // Upstream tries twelve times, ten seconds apart.
        for _ in 0..12 {
            let Err(error) = self.attempt(&namespace, &decision).await else { return };
            let Retry::After(pause) = error.retry() else {
                return tracing::debug!(%error, "event refused");
            };
            if shutdown.is_cancelled()
                || shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
            {
                return;
            }
        }
    }

    async fn attempt(&mut self, namespace: &str, decision: &Decision) -> Result<(), Error> {
        let event = match decision {
            Decision::Drop => return Ok(()),
            Decision::Create(event) => event,
            Decision::Patch { name, body, event } => {
                let patch = Patch::new(PatchKind::Strategic, body.clone());
                match self.client.patch::<Event>(namespace, name, &patch).await {
                    // The server forgets events after an hour.
                    Err(error) if error.is_not_found() => event,
                    result => return result.map(drop),
                }
            }
        };
        self.client.create(namespace, &**event).await.map(drop)
    }
}

/// What a person wants to read in the log who has no API to ask: once, and not what is usual.
fn log(event: &Event) {
    const TOLD: [&str; 5] = ["Pulled", "Evicted", "Preempted", "NodeReady", "Killing"];
    let (reason, message) = (event.reason.as_deref().unwrap_or_default(), event.message.as_deref());
    let about = &event.involved_object;
    let name =
        crate::key(about.namespace.as_deref().unwrap_or_default(), about.name.as_deref().unwrap_or_default());
    let (kind, message) = (about.kind.as_deref().unwrap_or_default(), message.unwrap_or_default());
    // An image that was there is none that was pulled.
    let usual = reason == "Pulled" && !message.starts_with("Successfully pulled");
    if event.type_.as_deref() == Some("Warning") || (TOLD.contains(&reason) && !usual) {
        tracing::info!(kind, name, reason, "{message}");
    }
}

/// `<object>.<hex>`, as upstream names events; the object's name alone when
/// both would be too long together.
fn event_name(object: &str, at: Timestamp) -> String {
    let suffix = format!(".{:x}", at.as_nanosecond());
    let room = 253 - suffix.len();
    let cut = object.floor_char_boundary(room.min(object.len()));
    format!("{}{suffix}", &object[..cut])
}

fn event_metadata(
    about: &ObjectReference,
    annotations: BTreeMap<String, String>,
    at: Timestamp,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(event_name(about.name.as_deref().unwrap_or_default(), at)),
        namespace: Some(namespace_of(about)),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(about: &ObjectReference) -> String {
    about.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned())
}
