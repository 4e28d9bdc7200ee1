//! Label and field selectors: parsing with upstream's errors, and matching.
//!
//! Both match against anything that answers [`Labels`]: the sorted pairs of an index,
//! the map of an object's metadata, a `BTreeMap`.

pub(crate) mod field;
mod label;
mod lexer;
mod rules;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use field::{FieldSelector, fields};
pub use label::{LabelSelector, Operator, Requirement};

/// A set of names with values: the labels of an object, or its selectable fields.
pub trait Labels {
    /// The value of this name.
    fn value(&self, name: &str) -> Option<&str>;
}

/// Pairs sorted by name, as an index keeps them.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn value(&self, name: &str) -> Option<&str> {
        let at = self.binary_search_by(|(k, _)| k.as_ref().cmp(name)).ok()?;
        Some(self[at].1.as_ref())
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for Vec<(K, V)> {
    fn value(&self, name: &str) -> Option<&str> {
        self.as_slice().value(name)
    }
}

impl Labels for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn value(&self, name: &str) -> Option<&str> {
        self.as_ref()?.value(name)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn value(&self, name: &str) -> Option<&str> {
        (**self).value(name)
    }
}

/// An object: its `metadata.labels`.
impl Labels for Value {
    fn value(&self, name: &str) -> Option<&str> {
        self.get("metadata")?.get("labels")?.get(name)?.as_str()
    }
}

/// Why a selector is refused, in upstream's words: the message of a 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub Cow<'static, str>);

impl From<String> for ParseError {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ParseError> for crate::status::Status {
    fn from(error: ParseError) -> Self {
        Self::bad_request(error.0)
    }
}
