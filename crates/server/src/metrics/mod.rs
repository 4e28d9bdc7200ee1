//! `metrics.k8s.io`: what nodes and Pods use, as metrics-server answers it.
//!
//! Nothing is measured while nobody asks: a question asks the nodes that it concerns for their statistics,
//! twice if the last time is too long ago to tell how much is used now.

mod usage;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::kinds::{self, Kind};
use api::meta::{Meta, Object as _};
use api::status::{GroupResource, Status};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Entry, Range};
use tokio::time::{Instant, sleep, timeout};
use wire::Response;

use self::usage::{Statistics, Usage};
use crate::call::Call;
use crate::list::{self, ListOptions, Listed};
use crate::object;
use crate::state::{State, store_failed};

/// The kubelet's own path.
const PATH: &str = "/stats/summary?only_cpu_and_memory=true";
/// How long two measurements answer further questions.
const FRESH: Duration = Duration::from_secs(5);
/// An earlier measurement than this says too little of now.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// The time between two measurements that are made for one question.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// metrics-server's `--kubelet-request-timeout`.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// Nodes that are asked at the same time.
const NODES_AT_ONCE: usize = 32;
/// What a node may answer.
const STATISTICS_MAX: usize = 16 * 1024 * 1024;

/// The last measurements of each node.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Measured>>>>,
}

/// The last two measurements of a node.
#[derive(Debug, Default)]
struct Measured {
    earlier: Option<Arc<Statistics>>,
    later: Option<(Instant, Arc<Statistics>)>,
}

impl Measurements {
    /// How much is used of each of these nodes, and by their Pods. Nodes that do not answer are left out.
    async fn of(&self, state: &State, names: BTreeSet<String>) -> HashMap<String, Usage> {
        let mut used = HashMap::new();
        let mut names = names.into_iter();
        let mut asked = FuturesUnordered::new();
        for name in names.by_ref().take(NODES_AT_ONCE) {
            asked.push(self.ask(state, name));
        }
        while let Some((name, usage)) = asked.next().await {
            used.extend(usage.map(|usage| (name, usage)));
            asked.extend(names.next().map(|name| self.ask(state, name)));
        }
        used
    }

    fn ask<'a>(&'a self, state: &'a State, name: String) -> BoxFuture<'a, (String, Option<Usage>)> {
        async move { (name.clone(), self.node(state, &name).await) }.boxed()
    }

    async fn node(&self, state: &State, name: &str) -> Option<Usage> {
        let measured = {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(nodes.entry(name.to_owned()).or_default())
        };
        // Who asks meanwhile gets the same measurement.
        let mut measured = measured.lock().await;
        let age = measured.later.as_ref().map(|(at, _)| at.elapsed());
        if measured.earlier.is_none() || age.is_none_or(|age| age >= FRESH) {
            if age.is_none_or(|age| age > WINDOW_MAX) {
                measured.later = Some((Instant::now(), scrape(state, name).await?));
                // Not for a state: a rate is measured over time.
                sleep(WINDOW_MIN).await;
            }
            let now = (Instant::now(), scrape(state, name).await?);
            measured.earlier = measured.later.replace(now).map(|(_, earlier)| earlier);
        }
        let (_, later) = measured.later.as_ref()?;
        Some(Usage::between(measured.earlier.as_deref(), later))
    }

    /// Forgets nodes that are no more.
    fn retain(&self, names: &BTreeSet<String>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|name, _| names.contains(name));
    }
}

async fn scrape(state: &State, node: &str) -> Option<Arc<Statistics>> {
    let handler = state.config.nodes.handler(node)?;
    let request = http::Request::builder().uri(PATH).body(wire::empty()).ok()?;
    let read = async {
        let (head, mut body) = handler.handle(request).await.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            bytes.extend_from_slice(frame.ok()?.data_ref().map(AsRef::as_ref).unwrap_or_default());
            if bytes.len() > STATISTICS_MAX {
                return None;
            }
        }
        head.status.is_success().then(|| Statistics::parse(&bytes)).flatten()
    };
    let read = timeout(NODE_TIMEOUT, read).await.ok().flatten();
    if read.is_none() {
        tracing::debug!(node, "the node does not say what it uses");
    }
    read.map(Arc::new)
}

/// Answers a get or a list of the group.
pub(crate) async fn answer(call: &Call) -> Result<Response, Status> {
    let target = &call.target;
    if target.verb == "list" {
        let options = ListOptions::parse(call, false)?;
        let entries = measured_of(call, subjects(call, &options).await?).await;
        return Ok(list::render(call, &Listed { entries, metadata: json!({}) }));
    }
    let subject = subject_kind(call);
    // metrics-server's words for a Pod have its namespace.
    let name = if subject.namespaced {
        format!("{}/{}", target.namespace, target.name)
    } else {
        target.name.clone()
    };
    let key = object::key(subject, &target.namespace, &target.name);
    let entry = call.state.get(&key).await?.ok_or_else(|| Status::not_found(subject, &name))?;
    let found = measured_of(call, vec![entry]).await;
    let resource = if subject.namespaced { "podmetrics" } else { "nodemetrics" };
    let found = found
        .first()
        .ok_or_else(|| Status::not_found(GroupResource { group: &target.group, resource }, &name))?;
    Ok(call.object(200, &found.value))
}

/// What is measured: `nodes` are of core's Nodes, `pods` of its Pods.
fn subject_kind(call: &Call) -> &'static Kind {
    kinds::find("", "v1", &call.resource.plural).expect("what is measured is a node or a Pod")
}

async fn subjects(call: &Call, options: &ListOptions) -> Result<Vec<Arc<Entry>>, Status> {
    let kind = subject_kind(call);
    let prefix = object::prefix(kind, &call.target.namespace);
    let page = call.state.store.range(Range { prefix, ..Range::default() }).await.map_err(store_failed)?;
    let mut entries = page.entries;
    if !kind.namespaced {
        let names = entries.iter().filter_map(|entry| Some(entry.key.rsplit('/').next()?.to_owned()));
        call.state.measurements.retain(&names.collect());
    }
    entries.retain(|entry| options.selection.matches(kind, entry));
    Ok(entries)
}

/// The measurements of these nodes or Pods, in the form of objects; what was not measured is left out.
async fn measured_of(call: &Call, subjects: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    let subjects: Vec<(Arc<Entry>, Value)> = subjects
        .into_iter()
        .filter_map(|entry| Some((Arc::clone(&entry), object::read(&entry.value).ok()?)))
        .collect();
    let of_pods = call.resource.namespaced;
    let node_of = |subject: &Value| {
        let node = subject["spec"]["nodeName"].as_str().unwrap_or_default();
        let name = if of_pods { node } else { subject.meta().name() };
        (!name.is_empty()).then(|| name.to_owned())
    };
    let nodes = subjects.iter().filter_map(|(_, subject)| node_of(subject)).collect();
    let used = call.state.measurements.of(&call.state, nodes).await;
    let measured = subjects.iter().filter_map(|(entry, subject)| {
        let node = used.get(&node_of(subject)?)?;
        let fields = if of_pods { node.pod(subject.meta().uid())? } else { node.node()? };
        let value = render(&call.resource, subject.meta(), call.now, &fields);
        Some(Arc::new(Entry::new(Arc::clone(&entry.key), value, entry.create_revision, entry.revision)))
    });
    measured.collect()
}

/// An object in the form that stored objects have.
fn render(kind: &Kind, subject: Meta<'_>, now: Timestamp, fields: &[(&str, Value)]) -> Bytes {
    let mut metadata = json!({ "name": subject.name(), "creationTimestamp": usage::seconds(now) });
    if !subject.namespace().is_empty() {
        metadata["namespace"] = subject.namespace().into();
    }
    if let Some(labels) = subject.label_map() {
        metadata["labels"] = labels.clone().into();
    }
    let mut out = format!("{}\"metadata\":{metadata}", object::head(kind));
    fields.iter().for_each(|(name, value)| out.push_str(&format!(",\"{name}\":{value}")));
    out.push('}');
    out.into()
}
