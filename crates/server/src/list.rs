//! Collections: which entries a list answers, and how they are written.

use std::sync::Arc;
use std::time::Duration;

use api::field::{Error, ErrorList, Path};
use api::selector::{FieldSelector, LabelSelector};
use api::status::{GroupKind, Status};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Entry, Page, Range};
use wire::Response;

use crate::call::Call;
use crate::negotiate::Shape;
use crate::object::{self, Selection};
use crate::pieces::Pieces;
use crate::view;

/// How long a read waits for a revision that has not happened yet.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

/// The parameters of lists and watches.
#[derive(Debug, Default)]
pub(crate) struct ListOptions {
    /// What is selected.
    pub(crate) selection: Selection,
    /// `resourceVersion`: `None` when not given, 0 for "any".
    pub(crate) version: Option<u64>,
    exact: bool,
    limit: usize,
    continued: String,
    /// `allowWatchBookmarks`.
    pub(crate) bookmarks: bool,
    /// `sendInitialEvents`; `None` when not given.
    pub(crate) initial_events: Option<bool>,
    /// `timeoutSeconds`.
    pub(crate) timeout: Option<Duration>,
}

impl ListOptions {
    /// Reads and checks the parameters of a list, a watch or a deletecollection.
    pub(crate) fn parse(call: &Call, watching: bool) -> Result<Self, Status> {
        let query = &call.query;
        let labels = LabelSelector::parse(query.text("labelSelector"))?;
        let fields = FieldSelector::parse(&call.resource, query.text("fieldSelector"))?;
        let errors = check(query, watching);
        if !errors.is_empty() {
            let kind = GroupKind { group: "meta.k8s.io", kind: "ListOptions" };
            return Err(Status::invalid(kind, "", &errors));
        }
        let version = parse_version(query.text("resourceVersion"))?;
        let limit = query.number("limit")?.unwrap_or(0).max(0);
        let seconds = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
        let exact = match query.text("resourceVersionMatch") {
            "Exact" => true,
            // Upstream's legacy rule: a limit makes an unmatched version exact.
            "" => limit > 0 && version.is_some_and(|version| version > 0),
            _ => false,
        };
        Ok(Self {
            selection: Selection { labels, fields },
            version,
            exact,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            continued: query.text("continue").to_owned(),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
            timeout: seconds.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        })
    }

    /// The latest state of everything selected.
    pub(crate) fn all(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// The narrowest key prefix that holds everything selected: of one object when
    /// the selector names it.
    pub(crate) fn prefix(&self, call: &Call) -> String {
        let namespace = &call.target.namespace;
        let prefix = object::prefix(&call.resource, namespace);
        match self.selection.fields.exact_name() {
            Some(name) if !call.resource.namespaced || !namespace.is_empty() => prefix + name,
            _ => prefix,
        }
    }
}

/// Upstream's ValidateListOptions.
fn check(query: &crate::query::Query, watching: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let matching = query.text("resourceVersionMatch");
    let version = query.text("resourceVersion");
    let path = Path::new("resourceVersionMatch");
    let mut forbid = |path: &Path<'_>, why: &str| errors.push(Error::forbidden(path, why));
    if query.has("sendInitialEvents") {
        let path = Path::new("sendInitialEvents");
        if !watching {
            forbid(&path, "sendInitialEvents is forbidden for list");
        } else if matching != "NotOlderThan" {
            let path = Path::new("resourceVersionMatch");
            forbid(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
    } else if matching.is_empty() {
    } else if watching {
        forbid(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    } else if version.is_empty() {
        forbid(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !watching && !matching.is_empty() {
        if !query.text("continue").is_empty() {
            forbid(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
        if matching == "Exact" && version == "0" {
            forbid(&path, "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if !matches!(matching, "" | "Exact" | "NotOlderThan") {
        errors.push(Error::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
    }
    errors
}

fn parse_version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        let errors = ErrorList(vec![Error::invalid(&Path::new("resourceVersion"), text, why)]);
        Status::invalid(GroupKind { group: "meta.k8s.io", kind: "ListOptions" }, "", &errors)
    })
}

/// Where a paginated list goes on: upstream's token.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    /// The revision of the first page; -1 for "whatever is latest".
    rv: i64,
    /// The key after which to go on, relative to the prefix, with a NUL behind it.
    start: String,
}

impl Continue {
    fn encode(revision: i64, prefix: &str, last: &str) -> String {
        let start = format!("{}\0", last.strip_prefix(prefix).unwrap_or(last));
        let token = Self { v: "meta.k8s.io/v1".into(), rv: revision, start };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let invalid = |why: String| Status::bad_request(format!("continue key is not valid: {why}"));
        let json =
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|err| invalid(err.to_string()))?;
        let token: Self = serde_json::from_slice(&json).map_err(|err| invalid(err.to_string()))?;
        if token.v != "meta.k8s.io/v1" || token.rv == 0 || token.start.is_empty() {
            return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
        }
        Ok(token)
    }
}

/// What a list answers.
pub(crate) struct Listed {
    /// The entries.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The metadata of the list.
    pub(crate) metadata: Value,
}

/// Collects the entries of a list.
pub(crate) async fn collect(call: &Call, options: &ListOptions) -> Result<Listed, Status> {
    let prefix = options.prefix(call);
    let mut range = Range { prefix: prefix.clone(), ..Range::default() };
    let mut consistent = true;
    if !options.continued.is_empty() {
        if options.version.is_some_and(|version| version > 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Continue::decode(&options.continued)?;
        range.after = Some(prefix.clone() + token.start.trim_end_matches('\0'));
        range.revision = u64::try_from(token.rv).ok();
        consistent = token.rv > 0;
    } else if let Some(version) = options.version.filter(|version| *version > 0) {
        reach(call, version).await?;
        range.revision = options.exact.then_some(version);
    }
    let everything = options.selection.is_everything();
    if everything {
        range.limit = options.limit;
    }
    let after = range.after.clone();
    let page = match call.state.store.range(range).await {
        Err(store::Error::Compacted { .. }) if consistent && after.is_some() => {
            let fresh = Continue::encode(-1, &prefix, after.as_deref().unwrap_or_default());
            return Err(Status::continue_expired(fresh));
        }
        Err(store::Error::Compacted { requested, oldest }) => {
            return Err(Status::too_old_resource_version(requested, oldest));
        }
        page => page.map_err(crate::state::store_failed)?,
    };
    Ok(select(call, options, page, &prefix))
}

fn select(call: &Call, options: &ListOptions, page: Page, prefix: &str) -> Listed {
    let everything = options.selection.is_everything();
    let (mut entries, mut more) = (page.entries, page.remaining > 0);
    // A prefix that is a whole key also covers longer names.
    if let Some(name) = options.selection.fields.exact_name() {
        entries.retain(|entry| entry.key.rsplit('/').next() == Some(name));
    }
    if !everything {
        entries.retain(|entry| options.selection.matches(&call.resource, entry));
        more = options.limit > 0 && entries.len() > options.limit;
        if more {
            entries.truncate(options.limit);
        }
    }
    let mut metadata = json!({ "resourceVersion": page.revision.to_string() });
    if let (true, Some(last)) = (more, entries.last()) {
        let revision = i64::try_from(page.revision).unwrap_or(-1);
        metadata["continue"] = Continue::encode(revision, prefix, &last.key).into();
        if everything {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    Listed { entries, metadata }
}

/// Waits until a revision has happened, as long as upstream does.
pub(crate) async fn reach(call: &Call, version: u64) -> Result<(), Status> {
    let store = &call.state.store;
    let current = store.revision();
    if current >= version {
        return Ok(());
    }
    let too_large = || Status::too_large_resource_version(version, store.revision());
    let mut watch = store.watch("/", current).await.map_err(|_| too_large())?;
    let reached = async { while watch.progress() < version && watch.next().await.is_ok() {} };
    let _ = tokio::time::timeout(FUTURE_WAIT, reached).await;
    if store.revision() >= version { Ok(()) } else { Err(too_large()) }
}

/// Answers a list.
pub(crate) async fn list(call: &Call) -> Result<Response, Status> {
    let options = ListOptions::parse(call, false)?;
    let listed = collect(call, &options).await?;
    Ok(render(call, &listed))
}

/// Writes a list in the form that was asked for.
pub(crate) fn render(call: &Call, listed: &Listed) -> Response {
    let (resource, entries) = (&call.resource, &listed.entries);
    let mut list = match call.accepted.shape {
        Shape::Object => items(call, listed),
        Shape::Metadata => view::metadata_list(resource, &listed.metadata, entries),
        Shape::Table => view::table(resource, &listed.metadata, entries, call.include(), call.now),
    };
    // Upstream's encoder ends what it writes with a newline.
    list.fresh().push(b'\n');
    call.dress().pieces(200, list)
}

/// A list as it is mostly asked for: the stored bytes, one after another.
fn items<'a>(call: &Call, listed: &'a Listed) -> Pieces<'a> {
    let (kind, version) = (&*call.resource.kind, call.resource.api_version());
    let mut out = Pieces::default();
    let head = format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":");
    out.fresh().extend_from_slice(head.as_bytes());
    out.fresh().extend_from_slice(&view::encode(&listed.metadata));
    out.fresh().extend_from_slice(b",\"items\":[");
    for (index, entry) in listed.entries.iter().enumerate() {
        if index > 0 {
            out.fresh().push(b',');
        }
        view::write_item(&call.resource, entry, &mut out);
    }
    out.fresh().extend_from_slice(b"]}");
    out
}
