//! Paths that are no resource: health, version, discovery, keys, metrics.

use std::sync::Arc;

use api::discovery::{AGGREGATED, Document};
use api::kinds::Kinds;
use api::openapi;
use api::status::Status;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;
use wire::Response;

use crate::auth::{Attributes, User};
use crate::health::{self, Check};
use crate::negotiate::{self, Format};
use crate::query::Query;
use crate::requests;
use crate::respond::{Dress, text};
use crate::state::State;

/// The version of Kubernetes this server speaks.
const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.2");
const JSON: &str = "application/json";

/// What is answered to everybody, always: upstream's `system:public-info-viewer`.
pub(crate) fn is_public(path: &str) -> bool {
    let path = path.trim_matches('/');
    path == "version" || health::KINDS.contains(&path)
}

/// Answers a path that is no resource.
pub(crate) async fn answer(
    state: &Arc<State>,
    parts: &Parts,
    query: &Query,
    user: &User,
) -> Result<Response, Status> {
    let path = parts.uri.path();
    let verb = parts.method.as_str().to_ascii_lowercase();
    state.auth.authorize(&Attributes::path(user, &verb, path))?;
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(not_found());
    }
    let format = negotiate::accept(&parts.headers, false).map_or(Format::Json, |accepted| accepted.format);
    let dress = Dress::of(parts, query, format);
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match *segments.as_slice() {
        [] => Ok(dress.raw(&paths(&state.registry.kinds(), &state.config.checks))),
        ["version"] => Ok(dress.raw(&version())),
        ["metrics"] => Ok(metrics(state, dress).await),
        [".well-known", "openid-configuration"] => {
            Ok(dress.bytes(200, JSON, state.auth.openid_configuration().into()))
        }
        ["openid", "v1", "jwks"] => {
            Ok(dress.bytes(200, "application/jwk-set+json", state.auth.jwks().into()))
        }
        ["openapi", "v2"] => Ok(openapi_v2(&state.registry.kinds(), parts, dress)),
        ["openapi", "v3"] => Ok(dress.bytes(200, JSON, encode(&openapi::v3_index(&state.registry.kinds())))),
        ["openapi", "v3", ref rest @ ..] => {
            let (kinds, path) = (state.registry.kinds(), rest.join("/"));
            let hash = openapi::v3_hash(&kinds, &path);
            let make = || openapi::v3(&kinds, &path);
            Ok(hash.map_or_else(not_found, |hash| openapi(parts, dress, &hash, JSON, make)))
        }
        [kind, ref rest @ ..] if health::KINDS.contains(&kind) => {
            let answer = health::answer(&state.config.checks, kind, &rest.join("/"), query);
            Ok(answer.unwrap_or_else(not_found))
        }
        _ => Ok(discovery(state, parts, dress, &segments).unwrap_or_else(not_found)),
    }
}

fn not_found() -> Response {
    text(404, "404 page not found\n")
}

fn encode(value: &serde_json::Value) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn version() -> serde_json::Value {
    let (major, minor, version) = VERSION;
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": "35",
        "gitVersion": version,
        "gitCommit": option_env!("MONOPOD_COMMIT").unwrap_or("unknown"),
        "gitTreeState": "clean",
        "buildDate": option_env!("MONOPOD_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "none",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/`: everything that can be asked for.
fn paths(kinds: &Kinds, checks: &[Check]) -> serde_json::Value {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
        .map(str::to_owned)
        .to_vec();
    for gv in kinds.group_versions().iter().filter(|gv| !gv.group.is_empty()) {
        paths.push(format!("/apis/{}", gv.group));
        paths.push(format!("/apis/{}", gv.api_version()));
    }
    for check in health::KINDS {
        paths.push(format!("/{check}"));
        paths.extend(health::names(checks).map(|name| format!("/{check}/{name}")));
    }
    paths.extend(
        ["/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openid/v1/jwks", "/version"]
            .map(str::to_owned),
    );
    paths.sort_unstable();
    paths.dedup();
    json!({ "paths": paths })
}

fn discovery(state: &State, parts: &Parts, dress: Dress, path: &[&str]) -> Option<Response> {
    let documents = state.registry.discovery();
    let parameters = [("g", "apidiscovery.k8s.io"), ("v", "v2"), ("as", "APIGroupDiscoveryList")];
    let aggregated = negotiate::asks_for(&parts.headers, "application/json", &parameters);
    let document = match *path {
        ["api"] if aggregated => documents.aggregated_core(),
        ["apis"] if aggregated => documents.aggregated_groups(),
        ["api"] => documents.core(),
        ["apis"] => documents.groups(),
        ["api", version] => documents.resources("", version)?,
        ["apis", group] => documents.group(group)?,
        ["apis", group, version] => documents.resources(group, version)?,
        _ => return None,
    };
    let aggregated = aggregated && path.len() == 1;
    Some(write_document(parts, dress, document, aggregated))
}

fn write_document(parts: &Parts, dress: Dress, document: &Document, aggregated: bool) -> Response {
    let known = parts
        .headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|tag| tag.as_bytes() == document.etag.as_bytes());
    let mut response = match (known && aggregated, aggregated) {
        (true, _) => {
            let mut response = Response::new(wire::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        (false, true) => dress.bytes(200, AGGREGATED, document.body.clone()),
        (false, false) => dress.json(200, document.body.clone()),
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Accept"));
    if aggregated && let Ok(tag) = HeaderValue::from_str(&document.etag) {
        headers.insert(header::ETAG, tag);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    }
    response
}

/// The OpenAPI v2 document. kubectl asks for it in protobuf only.
fn openapi_v2(kinds: &Kinds, parts: &Parts, dress: Dress) -> Response {
    let hash = openapi::v2_hash(kinds);
    let [_, answered] = openapi::V2_PROTOBUF;
    if openapi::V2_PROTOBUF.iter().any(|media| negotiate::asks_for(&parts.headers, media, &[])) {
        return openapi(parts, dress, &hash, answered, || Some(openapi::v2_protobuf(kinds)));
    }
    openapi(parts, dress, &hash, JSON, || Some(openapi::v2(kinds)))
}

/// An OpenAPI document; those that are asked for by their hash may be kept for ever.
fn openapi(
    parts: &Parts,
    dress: Dress,
    hash: &str,
    media: &'static str,
    make: impl FnOnce() -> Option<openapi::Document>,
) -> Response {
    let tag = format!("\"{hash}\"");
    let known =
        parts.headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(wire::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        match make() {
            Some(document) => dress.bytes(200, media, document.body.into()),
            None => return not_found(),
        }
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    if parts.uri.query().is_some_and(|query| query.contains("hash=")) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    response
}

/// All numbers of the process in the text format of Prometheus.
async fn metrics(state: &State, dress: Dress) -> Response {
    let mut lines = String::new();
    requests::write(state, &mut lines).await;
    (state.config.metrics)(&mut lines);
    dress.bytes(200, "text/plain; version=0.0.4; charset=utf-8", lines.into())
}
