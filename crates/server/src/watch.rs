//! Watches: a stream of changes, each a line of JSON.
//!
//! There is no task for a watch: the body is a stream that the connection polls.
//! It reads the store's shared history when it is woken; nothing is queued for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::{Kind, Kinds};
use api::status::Status;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderValue, header};
use jiff::Timestamp;
use serde_json::json;
use store::{Entry, Event, EventKind, Watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use wire::{BoxError, Response};

use crate::call::Call;
use crate::list::{ListOptions, collect, reach};
use crate::negotiate::{Format, Shape};
use crate::object::{self, Selection};
use crate::requests;
use crate::view::{self, Include};

/// How often a quiet watch is told how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` lasts this long, and up to as long again.
const LASTS: Duration = Duration::from_secs(1800);

/// How the objects of a watch are written.
struct Writer {
    resource: Arc<Kind>,
    shape: Shape,
    include: Include,
    /// Tables name their columns in the first event only.
    columns_sent: bool,
}

impl Writer {
    fn line(&mut self, out: &mut BytesMut, kind: &str, stored: &Bytes, now: Timestamp) {
        let object = match self.shape {
            Shape::Table => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                view::table_of_one(&self.resource, stored, self.include, now, columns)
            }
            shape => view::object(&self.resource, stored, shape, self.include, now),
        };
        raw_line(out, kind, &object);
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, initial_events_end: bool) {
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_events_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let (kind, version) = (&*self.resource.kind, self.resource.api_version());
        let object = match self.shape {
            Shape::Object => json!({ "kind": kind, "apiVersion": version, "metadata": metadata }),
            Shape::Metadata => view::metadata(&json!({ "metadata": metadata })),
            Shape::Table => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let object = view::metadata(&json!({ "metadata": metadata }));
                let list = json!({ "resourceVersion": revision.to_string() });
                let table = view::bookmark_table(&self.resource, &list, &object, columns);
                return raw_line(out, "BOOKMARK", &table);
            }
        };
        raw_line(out, "BOOKMARK", &view::encode(&object));
    }
}

fn raw_line(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// What a change is to one who selects: an object that begins to match is new, one
/// that ceases to match is gone.
fn change(resource: &Kind, selection: &Selection, event: &Event) -> Option<(&'static str, Bytes)> {
    let entry = &event.entry;
    let before = event.previous.as_deref().filter(|entry| selection.matches(resource, entry));
    let after = (event.kind == EventKind::Put && selection.matches(resource, entry)).then_some(entry);
    match (before, after) {
        (None, Some(now)) => Some(("ADDED", now.value.clone())),
        (Some(_), Some(now)) => Some(("MODIFIED", now.value.clone())),
        (Some(_), None) if event.kind == EventKind::Delete => Some(("DELETED", entry.value.clone())),
        (Some(gone), None) => Some(("DELETED", object::stamp(&gone.value, entry.revision))),
        (None, None) => None,
    }
}

/// A watch on its way.
struct Running {
    writer: Writer,
    selection: Selection,
    /// Of the answer's start: what exists already, in chunks.
    initial: VecDeque<Arc<Entry>>,
    /// The bookmark that ends the initial events, still to be sent.
    initial_end: Option<u64>,
    watch: Box<dyn Watch>,
    /// What is served: a watch ends with its kind.
    kinds: tokio::sync::watch::Receiver<Arc<Kinds>>,
    bookmarks: Option<Interval>,
    until: Instant,
    ended: bool,
    /// Counts it as long as it is here.
    _counted: telemetry::Held,
}

/// Entries of the initial state that go into one chunk.
const CHUNK: usize = 64;

/// Answers a watch.
pub(crate) async fn watch(call: &Call) -> Result<Response, Status> {
    let options = ListOptions::parse(call, true)?;
    if call.accepted.format != Format::Json {
        return Err(Status::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let body = match begin(call, options).await {
        Ok(running) => wire::body_from_stream(stream::unfold(running, |mut running| async move {
            let chunk = running.next().await?;
            Some((Ok::<_, BoxError>(chunk), running))
        })),
        // Clients look for it in the stream: some would ask for the same version for ever when
        // the request itself failed.
        Err(status) => {
            let mut line = BytesMut::new();
            raw_line(&mut line, "ERROR", &status.to_json());
            wire::full(line.freeze())
        }
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

async fn begin(call: &Call, options: ListOptions) -> Result<Running, Status> {
    let prefix = options.prefix(call);
    let initial_events = options.initial_events.unwrap_or(options.version.unwrap_or(0) == 0);
    let (initial, after) = match options.version {
        Some(version) if version > 0 && !initial_events => {
            let current = call.state.store.revision();
            // A version that was never made was read from a store that is no more. To have
            // nothing new after it would be a lie: the client must list again.
            let unknown = |_| Status::too_old_resource_version(version, current);
            reach(call, version).await.map_err(unknown)?;
            (VecDeque::new(), version)
        }
        version => {
            if let Some(version) = version.filter(|version| *version > 0) {
                reach(call, version).await?;
            }
            let everything = ListOptions::all(options.selection.clone());
            let listed = collect(call, &everything).await?;
            let revision = listed.metadata["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            let entries = if initial_events { listed.entries.into() } else { VecDeque::new() };
            (entries, revision.unwrap_or_default())
        }
    };
    let watch = call.state.store.watch(&prefix, after).await.map_err(crate::state::store_failed)?;
    let initial_end = (options.initial_events == Some(true)).then_some(after);
    let bookmarks = options.bookmarks.then(|| {
        let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let lasts = options.timeout.unwrap_or_else(|| LASTS + LASTS.mul_f64(call.state.random_fraction()));
    Ok(Running {
        writer: Writer {
            resource: call.resource.clone(),
            shape: call.accepted.shape,
            include: call.include(),
            columns_sent: false,
        },
        selection: options.selection,
        initial,
        initial_end: initial_end.filter(|_| options.bookmarks),
        watch,
        kinds: call.state.registry.subscribe(),
        bookmarks,
        until: Instant::now() + lasts.min(Duration::from_secs(86_400 * 365)),
        ended: false,
        _counted: requests::watching(&call.resource.group, &call.resource.version, &call.resource.plural),
    })
}

impl Running {
    /// The next lines; `None` when the watch has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.initial_chunk() {
            return Some(chunk);
        }
        while !self.ended {
            let mut out = BytesMut::new();
            // Each arm may be cancelled: `Watch::next` keeps what it has not handed
            // over, an interval keeps its tick.
            tokio::select! {
                biased;
                events = self.watch.next() => self.write_events(events, &mut out),
                () = tick(&mut self.bookmarks) => {
                    let revision = self.watch.progress();
                    self.writer.bookmark(&mut out, revision, false);
                }
                // Cancel-safe: it only looks, again and again.
                () = withdrawn(&mut self.kinds, &self.writer.resource) => self.ended = true,
                () = tokio::time::sleep_until(self.until) => {
                    self.ended = true;
                    if self.bookmarks.is_some() {
                        let revision = self.watch.progress();
                        self.writer.bookmark(&mut out, revision, false);
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
        None
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        if self.initial.is_empty() && self.initial_end.is_none() {
            return None;
        }
        let mut out = BytesMut::new();
        let (count, now) = (CHUNK.min(self.initial.len()), Timestamp::now());
        for entry in self.initial.drain(..count) {
            self.writer.line(&mut out, "ADDED", &entry.value, now);
        }
        if self.initial.is_empty()
            && let Some(revision) = self.initial_end.take()
        {
            self.writer.bookmark(&mut out, revision, true);
        }
        Some(out.freeze())
    }

    fn write_events(&mut self, events: Result<Vec<Arc<Event>>, store::Error>, out: &mut BytesMut) {
        match events {
            Ok(events) => {
                let now = Timestamp::now();
                for event in events {
                    let change = change(&self.writer.resource, &self.selection, &event);
                    if let Some((kind, object)) = change {
                        self.writer.line(out, kind, &object, now);
                    }
                }
            }
            Err(err) => {
                self.ended = true;
                raw_line(out, "ERROR", &crate::state::store_failed(err).to_json());
            }
        }
    }
}

/// Waits until a kind is served no more.
async fn withdrawn(kinds: &mut tokio::sync::watch::Receiver<Arc<Kinds>>, kind: &Arc<Kind>) {
    if kinds.wait_for(|kinds| !kinds.serves(kind)).await.is_err() {
        // The server is gone, and with it whoever could withdraw something.
        std::future::pending::<()>().await;
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
