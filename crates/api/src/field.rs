//! Paths of fields and the errors of validation, worded as upstream words them.
//!
//! The rules are those of `k8s.io/apimachinery/pkg/util/validation/field`: a [`Path`] names a field, an
//! [`Error`] says what is wrong with it, an [`ErrorList`] collects them and prints as one message.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// Where a field is: `spec.containers[0].name`.
///
/// A path borrows its parent, so that walking a valid object allocates nothing; only an error writes it out.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of a top-level field.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Name(name) }
    }

    /// A field of the object at this path. `name` may be several steps, written with dots.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Name(name) }
    }

    /// An item of the list at this path.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of the map at this path.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Name(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// The field must be set.
    Required,
    /// Another item of the list has the same key.
    Duplicate,
    /// The value breaks a rule.
    Invalid,
    /// The value has the wrong type; printed as `Invalid value`.
    TypeInvalid,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The value names something that is not there.
    NotFound,
    /// The field may not be set, or not be set so, here.
    Forbidden,
    /// The value has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The check itself failed.
    Internal,
}

impl ErrorType {
    /// The word of `metav1.StatusCause.reason`.
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::Internal => "InternalError",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::NotFound => "Not found",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::Internal => "Internal error",
        }
    }

    /// Whether the message of this type never repeats the value.
    const fn hides_value(self) -> bool {
        matches!(self, ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::Internal)
    }
}

impl fmt::Display for ErrorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// What kind of mistake it is.
    pub kind: ErrorType,
    /// The path of the field, written out.
    pub field: String,
    /// The value that is refused; `None` where upstream omits it.
    pub bad_value: Option<Value>,
    /// The rule, in upstream's words; may be empty.
    pub detail: String,
}

impl Error {
    fn with(kind: ErrorType, path: &Path<'_>, bad_value: Option<Value>, detail: impl Into<String>) -> Error {
        Error { kind, field: path.to_string(), bad_value, detail: detail.into() }
    }

    /// The field must be set.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::with(ErrorType::Required, path, None, detail)
    }

    /// Another item has the same key.
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Error {
        Error::with(ErrorType::Duplicate, path, Some(value.into()), "")
    }

    /// The value breaks the rule that `detail` states.
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::with(ErrorType::Invalid, path, Some(value.into()), detail)
    }

    /// The value as a whole breaks the rule that `detail` states, and is not shown.
    pub fn invalid_whole(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::with(ErrorType::Invalid, path, None, detail)
    }

    /// The value has the wrong type.
    pub fn type_invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::with(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }

    /// The value is none of `supported`, which is printed in the order given.
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Error {
        let quoted: Vec<String> = supported.iter().map(|one| go_quote(one)).collect();
        let detail = match quoted.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", quoted.join(", ")),
        };
        Error::with(ErrorType::NotSupported, path, Some(value.into()), detail)
    }

    /// The value names something that does not exist.
    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Error {
        Error::with(ErrorType::NotFound, path, Some(value.into()), "")
    }

    /// The field may not be set so.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::with(ErrorType::Forbidden, path, None, detail)
    }

    /// The value has more than `max_bytes` bytes.
    pub fn too_long(path: &Path<'_>, max_bytes: usize) -> Error {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        Error::with(ErrorType::TooLong, path, None, format!("may not be more than {max_bytes} {unit}"))
    }

    /// The list has `actual` items, more than `max`.
    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Error {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Error::with(ErrorType::TooMany, path, Some(Value::from(actual)), detail)
    }

    /// The check itself failed with `detail`.
    pub fn internal(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::with(ErrorType::Internal, path, None, detail)
    }

    /// The message without the field: what `metav1.StatusCause.message` holds.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if let (false, Some(value)) = (self.kind.hides_value(), &self.bad_value) {
            text.push_str(": ");
            text.push_str(&go_value(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

/// Everything that is wrong with an object, in the order in which it was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ErrorList(pub Vec<Error>);

impl ErrorList {
    /// A list without errors.
    pub const fn new() -> ErrorList {
        ErrorList(Vec::new())
    }

    /// Adds one error.
    pub fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many errors there are, repeated ones counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The errors in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }

    /// The errors without those whose whole text was there before, as `ErrorList.ToAggregate` drops them.
    pub fn distinct(&self) -> Vec<&Error> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter(|error| seen.insert(error.to_string())).collect()
    }
}

/// As `utilerrors.Aggregate` prints: one error plain, several as `[a, b]`.
impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.distinct().as_slice() {
            [] => Ok(()),
            [one] => one.fmt(f),
            many => {
                let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

impl Extend<Error> for ErrorList {
    fn extend<T: IntoIterator<Item = Error>>(&mut self, errors: T) {
        self.0.extend(errors);
    }
}

impl FromIterator<Error> for ErrorList {
    fn from_iter<T: IntoIterator<Item = Error>>(errors: T) -> ErrorList {
        ErrorList(errors.into_iter().collect())
    }
}

impl IntoIterator for ErrorList {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ErrorList {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A value as Go's field errors print it: simple values with `%v`, text with `%q`, the rest as JSON.
fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => go_json(value),
    }
}

/// JSON as `encoding/json` writes it: `<`, `>` and `&` are escaped for the sake of HTML.
pub(crate) fn go_json(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

/// Text in double quotes with Go's escapes (`strconv.Quote`).
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_printable(c) => out.push(c),
            c if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// An approximation of Go's `unicode.IsPrint` above ASCII: no control characters, no spaces but the plain one.
fn is_printable(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace() || matches!(c as u32, 0xad | 0x200b..=0x200f | 0xfeff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_print_names_indices_and_keys() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        assert_eq!(containers.index(3).child("name").to_string(), "spec.containers[3].name");
        assert_eq!(
            Path::new("metadata").child("annotations").key("a/b").to_string(),
            "metadata.annotations[a/b]"
        );
    }

    #[test]
    fn errors_print_in_the_words_of_upstream() {
        let path = Path::new("spec");
        let cases = [
            (Error::required(&path, ""), "spec: Required value"),
            (Error::required(&path, "must be 'x'"), "spec: Required value: must be 'x'"),
            (Error::duplicate(&path, "c"), "spec: Duplicate value: \"c\""),
            (
                Error::invalid(&path, 0, "must be between 1 and 65535, inclusive"),
                "spec: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                Error::invalid(&path, json!(["a<b"]), "may not"),
                "spec: Invalid value: [\"a\\u003cb\"]: may not",
            ),
            (Error::invalid(&path, Value::Null, "x"), "spec: Invalid value: null: x"),
            (
                Error::not_supported(&path, "Foo", &["Always", "Never"]),
                "spec: Unsupported value: \"Foo\": supported values: \"Always\", \"Never\"",
            ),
            (Error::not_found(&path, "nope"), "spec: Not found: \"nope\""),
            (Error::forbidden(&path, "no"), "spec: Forbidden: no"),
            (Error::too_long(&path, 63), "spec: Too long: may not be more than 63 bytes"),
            (Error::too_many(&path, 4, 3), "spec: Too many: 4: must have at most 3 items"),
            (Error::internal(&path, "oh"), "spec: Internal error: oh"),
        ];
        for (error, words) in cases {
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn a_list_prints_one_error_plain_and_several_in_brackets_without_repeats() {
        let path = Path::new("a");
        let mut list = ErrorList::new();
        list.push(Error::required(&path, ""));
        assert_eq!(list.to_string(), "a: Required value");
        list.push(Error::required(&path, ""));
        assert_eq!(list.to_string(), "a: Required value");
        list.push(Error::forbidden(&path, "b"));
        assert_eq!(list.to_string(), "[a: Required value, a: Forbidden: b]");
    }

    #[test]
    fn quoting_follows_go() {
        assert_eq!(go_quote("a\"b\\\n\u{1}\u{a0}ü"), "\"a\\\"b\\\\\\n\\x01\\u00a0ü\"");
    }
}
