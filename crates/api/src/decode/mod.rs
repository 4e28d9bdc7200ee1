//! Bytes of a client into an object: strict where asked, in upstream's words.
//!
//! ```text
//! body ─ json / yaml ─ Node (order, duplicates) ─ walk over the schema ─ Value
//! ```
//!
//! The result is what Go's decoder and encoder would make of the body: unknown fields
//! and nulls are gone, quantities, times and zero values are canonical. Everything
//! that is written (created, replaced, patched, applied) passes here, so two objects
//! are equal when their values are.

mod embedded;
mod scalar;
mod walk;
mod yaml;

use std::fmt::Write as _;

use serde_json::Value;

use crate::json::{self, Node};
use crate::kinds::Kind;
use crate::protobuf;
use crate::schema::{self, Struct, Type};
use crate::status::Status;

/// The media types of bodies that are understood.
pub const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// The query parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Unknown and duplicate fields are dropped without a word.
    Ignore,
    /// They are dropped and named in warnings; the default of the server.
    #[default]
    Warn,
    /// They are refused.
    Strict,
}

impl FieldValidation {
    /// The parameter's value; "" is the default. `None` for a word that is not of the three.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// An object that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object, with apiVersion and kind.
    pub object: Value,
    /// Texts for `Warning` headers, in the order of the body.
    pub warnings: Vec<String>,
}

/// Reads the body of a create or replace of `resource`. `media_type` is the Content-Type
/// header, "" when there was none.
pub fn decode(
    resource: &Kind,
    body: &[u8],
    media_type: &str,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let known = (resource.api_version(), &*resource.kind, Some(resource.schema()));
    decode_known(known, body, media_type, validation)
}

/// Reads a body that must be of one kind: subresources (Scale, Eviction, Binding), DeleteOptions.
pub fn decode_kind(
    api_version: &str,
    kind: &str,
    body: &[u8],
    media_type: &str,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    decode_known((api_version, kind, schema::kind(api_version, kind)), body, media_type, validation)
}

fn decode_known(
    (api_version, kind, known): (&str, &str, Option<&Struct>),
    body: &[u8],
    media_type: &str,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let unrecognized = |why: String| {
        let data = summary(body);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({data})"
        ))
    };
    let unpacked;
    let node = match format(media_type)? {
        Format::Protobuf => {
            unpacked = protobuf::read(body, api_version, kind).map_err(|e| unrecognized(e.to_string()))?;
            Node::from_value(&unpacked)
        }
        Format::Json => json::parse(body).map_err(|e| unrecognized(unreadable(&e)))?,
        Format::Yaml => yaml::parse(body).map_err(|e| unrecognized(unreadable(&e)))?,
    };
    let (sent_version, sent_kind) = names(&node).map_err(unrecognized)?;
    let (sent_version, sent_kind) = (or_default(sent_version, api_version), or_default(sent_kind, kind));
    let refused = |why: String| {
        let version = sent_version.rsplit('/').next().unwrap_or_default();
        Status::bad_request(format!(
            "{sent_kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
        ))
    };
    let expected = sent_version == api_version && sent_kind == kind;
    let known = if expected { known } else { schema::kind(&sent_version, &sent_kind) };
    let Some(schema) = known else {
        return Err(refused(not_registered(&sent_version, &sent_kind)));
    };
    let mut decoded = typed(node, schema, walk::Purpose::Object, validation).map_err(refused)?;
    if sent_kind != kind {
        return Err(refused(unknown_conversion(&sent_version, &sent_kind, api_version, kind)));
    }
    if sent_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({sent_version}) does not match the expected API version ({api_version})"
        )));
    }
    decoded.object["apiVersion"] = api_version.into();
    decoded.object["kind"] = kind.into();
    Ok(decoded)
}

/// Brings a value that is already in memory (the result of a patch) into the form that
/// decoding gives. The error is the sentence of Go's decoder, for the caller to frame.
pub fn canonical(schema: &Struct, value: &Value, validation: FieldValidation) -> Result<Decoded, String> {
    typed(Node::from_value(value), schema, walk::Purpose::Object, validation)
}

/// As [`canonical`], for the result of a strategic merge patch: errors are those of
/// upstream's converter.
pub(crate) fn converted(
    schema: &Struct,
    value: &Value,
    validation: FieldValidation,
) -> Result<Decoded, String> {
    typed(Node::from_value(value), schema, walk::Purpose::Converted, validation)
}

/// An object of the kind in which nothing is set, as Go's encoder writes it.
pub(crate) fn empty(schema: &Struct) -> Value {
    walk::zero(Type::Struct(schema))
}

/// Why the body of an apply does not fit its schema, and which object it names.
pub(crate) struct Misfit {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) why: String,
}

/// Reads the body of a server-side apply (YAML or JSON): only what it says. The first
/// error is that the body cannot be read, the second that it does not fit the schema.
pub(crate) fn intent(schema: &Struct, body: &[u8]) -> Result<Result<Value, Misfit>, String> {
    let node = match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        // YAML has objects in braces too, which are no JSON where their keys lack quotes.
        Some(b'{') => json::parse(body).or_else(|_| yaml::parse(body))?,
        _ => yaml::parse(body)?,
    };
    let named = |key: &str| match node.get("metadata").and_then(|metadata| metadata.get(key)) {
        Some(Node::String(text)) => text.to_string(),
        _ => String::new(),
    };
    let (namespace, name) = (named("namespace"), named("name"));
    let walked = walk::walk(node, schema, walk::Purpose::Intent);
    Ok(walked.map(|walked| walked.value).map_err(|why| Misfit { namespace, name, why }))
}

fn typed(
    node: Node<'_>,
    schema: &Struct,
    purpose: walk::Purpose,
    validation: FieldValidation,
) -> Result<Decoded, String> {
    let walked = walk::walk(node, schema, purpose)?;
    match validation {
        FieldValidation::Strict if !walked.strict.is_empty() => {
            Err(format!("strict decoding error: {}", walked.strict.join(", ")))
        }
        FieldValidation::Warn => Ok(Decoded { object: walked.value, warnings: walked.strict }),
        _ => Ok(Decoded { object: walked.value, warnings: Vec::new() }),
    }
}

enum Format {
    Json,
    Yaml,
    Protobuf,
}

fn format(media_type: &str) -> Result<Format, Status> {
    let name = media_type.split(';').next().unwrap_or_default().trim();
    match name.to_ascii_lowercase().as_str() {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        protobuf::MEDIA_TYPE => Ok(Format::Protobuf),
        _ => Err(Status::unsupported_media_type(MEDIA_TYPES)),
    }
}

fn unreadable(error: &str) -> String {
    format!("couldn't get version/kind; json parse error: {error}")
}

/// apiVersion and kind of a body, "" where absent.
fn names<'n>(node: &'n Node<'_>) -> Result<(&'n str, &'n str), String> {
    const TARGET: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let field = |name: &str| match node.get(name) {
        None | Some(Node::Null) => Ok(""),
        Some(Node::String(text)) => Ok(text.as_ref()),
        Some(other) => {
            let word = other.go_word();
            Err(unreadable(&format!(
                "json: cannot unmarshal {word} into Go struct field .{name} of type string"
            )))
        }
    };
    match node {
        Node::Object(_) => {
            let (version, kind) = (field("apiVersion")?, field("kind")?);
            match version.matches('/').count() {
                0 | 1 => Ok((version, kind)),
                _ => Err(format!("unexpected GroupVersion string: {version}")),
            }
        }
        Node::Null => Ok(("", "")),
        other => Err(unreadable(&format!(
            "json: cannot unmarshal {} into Go value of type {TARGET}",
            other.go_word()
        ))),
    }
}

fn or_default(sent: &str, default: &str) -> String {
    if sent.is_empty() { default.into() } else { sent.into() }
}

fn not_registered(api_version: &str, kind: &str) -> String {
    format!(
        "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    )
}

fn unknown_conversion(sent_version: &str, sent_kind: &str, api_version: &str, kind: &str) -> String {
    let version = sent_version.rsplit('/').next().unwrap_or_default();
    let group = match api_version.split_once('/') {
        Some((group, _)) => group.split('.').next().unwrap_or_default(),
        None => "core",
    };
    format!("converting ({version}.{sent_kind}) to ({group}.{kind}): unknown conversion")
}

/// The start of a body, as upstream quotes it in errors.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let head = &body[..body.len().min(SHOWN)];
    let mut text = match body.first() {
        None => return "<empty>".into(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    };
    if body.len() > SHOWN {
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests;
