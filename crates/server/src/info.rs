//! Paths that are no resource: health, version, discovery.

use std::sync::Arc;

use api::status::Status;
use http::Method;
use http::request::Parts;
use serde_json::json;
use wire::Response;

use crate::auth::{Attributes, User};
use crate::negotiate::Format;
use crate::query::Query;
use crate::respond::{Dress, text};
use crate::state::State;

/// The version of Kubernetes this server speaks.
const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.2");

/// Answers a path that is no resource.
pub(crate) async fn answer(
    state: &Arc<State>,
    parts: &Parts,
    query: &Query,
    user: &User,
) -> Result<Response, Status> {
    let dress = Dress::of(parts, query, Format::Json);
    let path = parts.uri.path();
    let verb = parts.method.as_str().to_ascii_lowercase();
    state.auth.authorize(&Attributes::path(user, &verb, path))?;
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(text(404, "404 page not found\n"));
    }
    match path.trim_end_matches('/') {
        "/version" => Ok(dress.json(200, serde_json::to_vec(&version()).unwrap_or_default().into())),
        "/healthz" | "/livez" | "/readyz" => Ok(health(state, path.trim_matches('/'), query)),
        _ => Ok(text(404, "404 page not found\n")),
    }
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

/// The server answers only after it has opened its store and written what a fresh
/// cluster holds, so that every check that could be asked for holds.
fn health(_state: &Arc<State>, check: &str, query: &Query) -> Response {
    if !query.has("verbose") {
        return text(200, "ok");
    }
    let checks = ["ping", "log", "store", "poststarthook/bootstrap"];
    let lines: String = checks.iter().map(|name| format!("[+]{name} ok\n")).collect();
    text(200, format!("{lines}{check} check passed\n"))
}
