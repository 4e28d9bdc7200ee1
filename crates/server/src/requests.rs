//! What the server counts of its requests, under upstream's names.

use std::fmt::Write as _;
use std::time::Instant;

use store::Range;
use telemetry::{Counter, Family, Gauge, Held, Histogram};
use wire::Response;

use crate::auth::audit;
use crate::inflight::Class;
use crate::object;
use crate::path::Route;
use crate::state::State;

/// Upstream's.
const SECONDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

static DURATION: Family<Histogram> = Family::histogram(
    "apiserver_request_duration_seconds",
    "Response latency distribution in seconds for each verb, group, version, resource, subresource and scope.",
    &["verb", "group", "version", "resource", "subresource", "scope", "component"],
    SECONDS,
);
static TOTAL: Family<Counter> = Family::new(
    "apiserver_request_total",
    "Counter of apiserver requests broken out for each verb, group, version, resource, scope and code.",
    &["verb", "group", "version", "resource", "subresource", "scope", "component", "code"],
);
static IN_FLIGHT: Family<Gauge> = Family::new(
    "apiserver_current_inflight_requests",
    "Number of requests being answered now per request kind.",
    &["request_kind"],
);
static LONG_RUNNING: Family<Gauge> = Family::new(
    "apiserver_longrunning_requests",
    "Number of active long-running requests broken out by verb, group, version and resource.",
    &["verb", "group", "version", "resource"],
);
static REFUSED: Family<Counter> = Family::new(
    "apiserver_request_terminations_total",
    "Number of requests which apiserver terminated in self-defense.",
    &["verb"],
);

/// The labels of a request for a resource.
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    lasts: bool,
}

impl Labels {
    /// None for paths that are no resource, and for what is not served: names that clients make up.
    fn of(state: &State, route: &Route) -> Option<Self> {
        let Route::Resource(target) = route else { return None };
        state.registry.kinds().find(&target.group, &target.version, &target.resource)?;
        let scope = match (target.name.is_empty(), target.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Some(Self {
            verb: word(target.verb),
            group: target.group.to_string(),
            version: target.version.to_string(),
            resource: target.resource.to_string(),
            subresource: target.subresource.to_string(),
            scope,
            lasts: target.is_long_running(),
        })
    }
}

/// Upstream's words in its metrics.
fn word(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

/// A request that is being answered.
pub(crate) struct Counting {
    labels: Option<Labels>,
    _held: Option<Held>,
    began: Instant,
}

impl Counting {
    /// Before the body is read, as upstream counts: a client that sends slowly is part of what is measured. What
    /// the request is about is copied here, because those who answer it take it apart.
    pub(crate) fn begin(state: &State, route: &Route, class: Option<Class>) -> Self {
        let held = class.and_then(kind).map(|kind| IN_FLIGHT.at(&[kind]).hold());
        Self { labels: Labels::of(state, route), _held: held, began: Instant::now() }
    }

    /// It was answered so.
    pub(crate) fn end(self, response: &Response) {
        let Some(Labels { verb, group, version, resource, subresource, scope, lasts }) = self.labels else {
            return;
        };
        let values = [verb, &group, &version, &resource, &subresource, scope, "apiserver"];
        // A stream lasts as long as its client likes, which says nothing of the server.
        if !lasts {
            DURATION.observe(&values, self.began.elapsed());
        }
        let code = response.status();
        let [verb, group, version, resource, subresource, scope, component] = values;
        TOTAL.at(&[verb, group, version, resource, subresource, scope, component, code.as_str()]).inc();
        if code == http::StatusCode::TOO_MANY_REQUESTS {
            REFUSED.at(&[verb]).inc();
        }
    }
}

/// Upstream's two kinds; what lasts has a gauge of its own, for it would hide the others.
fn kind(class: Class) -> Option<&'static str> {
    match class {
        Class::Read => Some("readOnly"),
        Class::Write => Some("mutating"),
        Class::Stream => None,
    }
}

/// Counts a watch until it ends.
pub(crate) fn watching(group: &str, version: &str, resource: &str) -> Held {
    LONG_RUNNING.at(&["WATCH", group, version, resource]).hold()
}

/// All that the server knows.
pub(crate) async fn write(state: &State, out: &mut String) {
    DURATION.write(out);
    TOTAL.write(out);
    IN_FLIGHT.write(out);
    LONG_RUNNING.write(out);
    REFUSED.write(out);
    audit::WRITTEN.write(out);
    audit::LOST.write(out);
    let _ = writeln!(
        out,
        "# HELP apiserver_resource_objects Number of stored objects.\n# TYPE apiserver_resource_objects gauge"
    );
    let kinds = state.registry.kinds();
    for one in kinds.all().iter().filter(|one| one.is_stored() && one.is_storage()) {
        let range = Range { prefix: object::prefix(one, ""), limit: 1, ..Range::default() };
        // The store answers from memory; one that is closing has nothing more to say.
        let Ok(page) = state.store.range(range).await else { return };
        let count = page.entries.len() + page.remaining;
        let (group, plural) = (&*one.group, &*one.plural);
        let _ =
            writeln!(out, "apiserver_resource_objects{{group=\"{group}\",resource=\"{plural}\"}} {count}");
    }
    let revision = state.store.revision() as f64;
    telemetry::write_counter("monopod_store_revision", "Revision of the last write.", revision, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_have_upstreams_names() {
        assert_eq!(["create", "update", "watch", "impersonate"].map(word), ["POST", "PUT", "WATCH", "other"]);
    }
}
