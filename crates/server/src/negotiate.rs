//! What form an answer takes: Accept, and the media types of bodies.

use api::status::Status;
use http::{HeaderMap, header};

/// The media types upstream names when nothing fits; protobuf is not among ours.
const SERVED: &[&str] = &["application/json", "application/yaml"];

/// How the bytes of an answer are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What of an object is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    Object,
    /// Rows for `kubectl get`.
    Table,
    /// The metadata only.
    Metadata,
}

/// What the client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// JSON or YAML.
    pub(crate) format: Format,
    /// Object, table or metadata.
    pub(crate) shape: Shape,
}

/// One clause of an Accept header.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: u32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| media.contains('/') || *media == "*")?;
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality =
            parameters.iter().find(|(name, _)| *name == "q").map_or(1.0, |(_, q)| q.parse().unwrap_or(1.0));
        Some(Self { media, parameters, quality: quality_in_thousandths(quality) })
    }

    fn get(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    fn accepted(&self, list: bool) -> Option<Accepted> {
        let format = match self.media.to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" | "*" => Format::Json,
            "application/yaml" | "text/yaml" | "application/x-yaml" => Format::Yaml,
            _ => return None,
        };
        let meta = self.get("g") == "meta.k8s.io" && self.get("v") == "v1";
        let shape = match self.get("as") {
            "" => Shape::Object,
            "Table" if meta => Shape::Table,
            "PartialObjectMetadataList" if meta && list => Shape::Metadata,
            "PartialObjectMetadata" if meta && !list => Shape::Metadata,
            _ => return None,
        };
        Some(Accepted { format, shape })
    }
}

fn quality_in_thousandths(quality: f32) -> u32 {
    if quality.is_finite() && quality > 0.0 { (quality.min(1.0) * 1000.0) as u32 } else { 0 }
}

/// Picks the first form the client asks for that can be served; `list` is whether a
/// collection is answered (a watch answers single objects).
pub(crate) fn accept(headers: &HeaderMap, list: bool) -> Result<Accepted, Status> {
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(Accepted { format: Format::Json, shape: Shape::Object });
    }
    let fits = clauses.iter().filter(|clause| clause.quality > 0).find_map(|clause| clause.accepted(list));
    fits.ok_or_else(|| Status::not_acceptable(SERVED))
}

fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<_> = texts.flat_map(|text| text.split(',')).filter_map(Clause::parse).collect();
    clauses.sort_by_key(|clause| std::cmp::Reverse(clause.quality));
    clauses
}

/// Whether the client asks for this media type by name, with these parameters:
/// for documents that are not objects.
pub(crate) fn asks_for(headers: &HeaderMap, media: &str, parameters: &[(&str, &str)]) -> bool {
    clauses(headers).iter().any(|clause| {
        clause.media == media && parameters.iter().all(|(name, value)| clause.get(name) == *value)
    })
}

/// The media type of a body, without parameters; empty when not said.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &'static str, list: bool) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, http::HeaderValue::from_static(text));
        accept(&headers, list).map_err(|status| status.code())
    }

    #[test]
    fn the_first_form_that_can_be_served_is_taken() {
        let json = |shape| Ok(Accepted { format: Format::Json, shape });
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accepted(kubectl, true), json(Shape::Table));
        assert_eq!(
            accepted("application/vnd.kubernetes.protobuf,application/json", true),
            json(Shape::Object)
        );
        assert_eq!(accepted("*/*", false), json(Shape::Object));
        assert_eq!(
            accepted("application/yaml", false),
            Ok(Accepted { format: Format::Yaml, shape: Shape::Object })
        );
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(accepted(metadata, true), json(Shape::Metadata));
        assert_eq!(accepted("application/yaml;q=0.1, application/json", false), json(Shape::Object));
    }

    #[test]
    fn what_cannot_be_served_is_406() {
        assert_eq!(accepted("application/vnd.kubernetes.protobuf", false), Err(406));
        assert_eq!(accepted("application/json;as=Table;g=meta.k8s.io;v=v9", true), Err(406));
        assert_eq!(accepted("text/html;q=0", true), Err(406));
    }
}
