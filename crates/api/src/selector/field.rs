//! Field selectors, and the selectable fields of objects.

use std::fmt;

use serde_json::Value;

use super::{Labels, ParseError};
use crate::field::go_quote;
use crate::kinds::{Kind, Name, SelectableField};

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

/// One term: the field has, or has not, the value. An absent field is the empty text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

/// A conjunction of terms over the selectable fields of one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Selects every object.
    pub const fn everything() -> Self {
        Self { terms: Vec::new() }
    }

    /// The one object of this name.
    pub fn name(name: &str) -> Self {
        Self { terms: vec![Term { field: NAME.to_owned(), equal: true, value: name.to_owned() }] }
    }

    /// Reads the `fieldSelector` of a query; unknown fields are refused as the kind refuses them.
    pub fn parse(resource: &Kind, text: &str) -> Result<Self, ParseError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'").into());
            };
            let value = unescape(value)?;
            terms.push(Term { field: supported(resource, field)?, equal, value });
        }
        Ok(Self { terms })
    }

    /// Whether these fields satisfy every term.
    pub fn matches(&self, fields: &(impl Labels + ?Sized)) -> bool {
        self.terms.iter().all(|t| (fields.value(&t.field).unwrap_or_default() == t.value) == t.equal)
    }

    /// The value a field must have, for those who keep an index by it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// The one name it asks for: `kubectl wait` and `kubectl delete` do.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact(NAME)
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms as (field, equal, value).
    pub fn terms(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        self.terms.iter().map(|t| (t.field.as_str(), t.equal, t.value.as_str()))
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if t.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", t.field, escape(&t.value))?;
        }
        Ok(())
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// At commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// At the first operator: `!=`, `==` or `=`.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ParseError> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some(escaped @ ('\\' | ',' | '='))) => out.push(escaped),
            ('\\', Some(other)) => {
                let text = format!("invalid field selector: invalid escape sequence: \\{other} in {value}");
                return Err(text.into());
            }
            ('\\', None) => {
                return Err(format!("invalid field selector: invalid escape sequence: \\ in {value}").into());
            }
            (',' | '=', _) => {
                return Err(format!("invalid field selector: unescaped character in value: {c}").into());
            }
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

/// The field's present name, or the refusal in the words of the kind.
fn supported(resource: &Kind, field: &str) -> Result<String, ParseError> {
    let known = resource.selectable_fields.iter().any(|f| f.name == field);
    if known || field == NAME || field == NAMESPACE {
        return Ok(field.to_owned());
    }
    Ok((resource.rules.unlisted_field)(resource, field)?.to_owned())
}

/// No field is selected but those that are listed.
pub(crate) fn unlisted(resource: &Kind, field: &str) -> Result<&'static str, String> {
    if !resource.selectable_fields.is_empty() {
        return Err(format!("field label not supported: {field}"));
    }
    let (field, name, namespace) = (go_quote(field), go_quote(NAME), go_quote(NAMESPACE));
    Err(format!("{field} is not a known field selector: only {name}, {namespace}"))
}

/// Pods know `spec.nodeName` also by the name it has in the oldest clients.
pub(crate) fn unlisted_of_pod(resource: &Kind, field: &str) -> Result<&'static str, String> {
    if field == "spec.host" { Ok("spec.nodeName") } else { unlisted(resource, field) }
}

pub(crate) fn unlisted_of_job(_: &Kind, field: &str) -> Result<&'static str, String> {
    Err(format!("field label {} not supported for batchv1.Job", go_quote(field)))
}

pub(crate) fn unlisted_of_slice(resource: &Kind, field: &str) -> Result<&'static str, String> {
    Err(format!("field label not supported for {}, Kind={}: {field}", resource.api_version(), resource.kind))
}

/// The selectable fields of an object, sorted by name: what [`FieldSelector::matches`] takes. The object
/// is of the stored version, and the fields those of every version it is served in.
pub fn fields(storage: &Kind, object: &Value) -> Vec<(Name, String)> {
    let metadata = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let mut pairs = vec![(NAME.into(), metadata("name")), (NAMESPACE.into(), metadata("namespace"))];
    pairs.extend(storage.noted_fields().iter().map(|f| (f.name.clone(), field_value(f, object))));
    pairs.sort_unstable();
    pairs
}

fn field_value(field: &SelectableField, object: &Value) -> String {
    let found = field.pointers.iter().filter_map(|p| object.pointer(p)).find_map(|v| match v {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(v.to_string()),
        _ => None,
    });
    found.unwrap_or_else(|| field.absent.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::find;

    fn pods() -> &'static Kind {
        find("", "v1", "pods").unwrap()
    }

    #[test]
    fn terms_are_joined_and_absent_fields_are_empty() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "one"}});
        let fields = fields(pods(), &pod);
        let matches = |text: &str| FieldSelector::parse(pods(), text).unwrap().matches(&fields);
        for good in [
            "",
            "metadata.name=a",
            "spec.nodeName==one,metadata.namespace!=x",
            "status.phase=",
            "spec.host=one",
        ] {
            assert!(matches(good), "{good}");
        }
        assert!(matches("spec.hostNetwork=false"));
        assert!(!matches("metadata.name!=a"));
        assert!(!matches("status.phase=Running"));
    }

    #[test]
    fn unknown_fields_are_refused_in_the_words_of_the_kind() {
        let error = |r: &Kind, text: &str| FieldSelector::parse(r, text).unwrap_err().to_string();
        assert_eq!(error(pods(), "data.x=1"), "field label not supported: data.x");
        assert_eq!(
            error(find("", "v1", "configmaps").unwrap(), "data.x=1"),
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            error(find("batch", "v1", "jobs").unwrap(), "x=1"),
            "field label \"x\" not supported for batchv1.Job"
        );
        assert_eq!(error(pods(), "abc"), "invalid selector: 'abc'; can't understand 'abc'");
    }

    #[test]
    fn values_may_hold_escaped_separators() {
        let selector = FieldSelector::parse(pods(), r"metadata.name=a\,b\=c").unwrap();
        assert_eq!(selector.exact_name(), Some("a,b=c"));
        assert_eq!(selector.to_string(), r"metadata.name=a\,b\=c");
        assert!(FieldSelector::parse(pods(), r"metadata.name=a\x").is_err());
    }

    #[test]
    fn both_event_groups_select_the_same_stored_object() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"name": "p"}, "reportingComponent": "kubelet"});
        for (group, selector) in
            [("", "involvedObject.name=p,source=kubelet"), ("events.k8s.io", "regarding.name=p")]
        {
            let resource = find(group, "v1", "events").unwrap();
            let fields = fields(resource.storage(), &event);
            assert!(FieldSelector::parse(resource, selector).unwrap().matches(&fields));
        }
    }
}
