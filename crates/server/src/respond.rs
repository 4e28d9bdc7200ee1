//! The outside of an answer: status line, headers, YAML, pretty print, gzip.

use std::io::Write as _;

use api::status::Status;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use wire::Response;

use crate::negotiate::Format;
use crate::pieces::Pieces;
use crate::query::Query;

/// Bodies from this size on are compressed for those who take it, as upstream does.
const GZIP_FROM: usize = 128 * 1024;

/// How the client wants its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dress {
    /// JSON or YAML.
    pub(crate) format: Format,
    pretty: bool,
    gzip: bool,
}

impl Dress {
    /// What the request asks for, with the format negotiated elsewhere.
    pub(crate) fn of(parts: &Parts, query: &Query, format: Format) -> Self {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let agent = header(header::USER_AGENT);
        let browser = ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name));
        let pretty = if query.has("pretty") { query.flag("pretty") } else { browser };
        Self { format, pretty, gzip: header(header::ACCEPT_ENCODING).contains("gzip") }
    }

    /// An answer out of JSON.
    pub(crate) fn json(self, code: u16, json: Bytes) -> Response {
        let body = match self.format {
            Format::Yaml => yaml(&json).unwrap_or(json),
            Format::Json if self.pretty => pretty(&json).unwrap_or(json),
            Format::Json => line(json),
        };
        let media = match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        };
        self.bytes(code, media, body)
    }

    /// An answer out of pieces of JSON.
    pub(crate) fn pieces(self, code: u16, pieces: Pieces<'_>) -> Response {
        let packs = self.format == Format::Json && !self.pretty && self.gzip && pieces.len() >= GZIP_FROM;
        if !packs {
            return self.json(code, pieces.plain());
        }
        let mut response = Self { gzip: false, ..self }.bytes(code, "application/json", pieces.gzip());
        is_gzip(response.headers_mut());
        response
    }

    /// JSON that is no object, indented and without a newline, as upstream's WriteRawJSON.
    pub(crate) fn raw(self, value: &Value) -> Response {
        self.bytes(200, "application/json", serde_json::to_vec_pretty(value).unwrap_or_default().into())
    }

    /// An answer of any media type.
    pub(crate) fn bytes(self, code: u16, media: &'static str, body: Bytes) -> Response {
        let packed = (self.gzip && body.len() >= GZIP_FROM).then(|| gzip(&body)).flatten();
        let is_packed = packed.is_some();
        let mut response = Response::new(wire::full(packed.unwrap_or(body)));
        *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if is_packed {
            is_gzip(headers);
        }
        response
    }

    /// An error, as a Status.
    pub(crate) fn status(self, status: &Status) -> Response {
        let mut response = self.json(status.code(), status.to_json().into());
        if let Some(seconds) = status.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status.code() == 401 {
            let challenge = HeaderValue::from_static("Basic realm=\"kubernetes-master\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn is_gzip(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Plain text, for health checks and unknown paths.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(wire::full(text));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    response
}

/// Adds `Warning: 299 - "…"` headers, each text once. What HTTP could not carry is left out.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut said: Vec<&String> = Vec::new();
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if said.contains(&warning) {
            continue;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(header::WARNING, value);
            said.push(warning);
        }
    }
}

/// Upstream's encoder ends what it writes with a newline.
fn line(json: Bytes) -> Bytes {
    if json.ends_with(b"\n") {
        return json;
    }
    let mut line = Vec::with_capacity(json.len() + 1);
    line.extend_from_slice(&json);
    line.push(b'\n');
    line.into()
}

fn pretty(json: &[u8]) -> Option<Bytes> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let mut text = serde_json::to_vec_pretty(&value).ok()?;
    text.push(b'\n');
    Some(text.into())
}

fn yaml(json: &[u8]) -> Option<Bytes> {
    let value: Value = serde_json::from_slice(json).ok()?;
    serde_saphyr::to_string(&value).ok().map(Bytes::from)
}

fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}
