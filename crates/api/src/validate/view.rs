//! Reading JSON as Go reads a struct: what is absent is the zero value.

use serde_json::Value;
use serde_json::map::Map;

/// A value that may be absent; every accessor answers with Go's zero value then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(Option<&'a Value>);

impl<'a> View<'a> {
    pub(crate) fn new(value: &'a Value) -> View<'a> {
        View(Some(value).filter(|value| !value.is_null()))
    }

    /// A field of an object.
    pub(crate) fn get(self, name: &str) -> View<'a> {
        View(self.0.and_then(|value| value.get(name)).filter(|value| !value.is_null()))
    }

    /// A field below other fields.
    pub(crate) fn at(self, names: &[&str]) -> View<'a> {
        names.iter().fold(self, |view, name| view.get(name))
    }

    /// Whether the value is there (a pointer that is not nil).
    pub(crate) fn is_set(self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn value(self) -> Option<&'a Value> {
        self.0
    }

    /// The value, or null: what an error shows.
    pub(crate) fn json(self) -> Value {
        self.0.cloned().unwrap_or(Value::Null)
    }

    pub(crate) fn text(self) -> &'a str {
        self.0.and_then(Value::as_str).unwrap_or("")
    }

    /// The text of a field.
    pub(crate) fn str(self, name: &str) -> &'a str {
        self.get(name).text()
    }

    pub(crate) fn as_int(self) -> Option<i64> {
        self.0.and_then(Value::as_i64)
    }

    /// The number in a field; zero when absent.
    pub(crate) fn int(self, name: &str) -> i64 {
        self.get(name).as_int().unwrap_or(0)
    }

    /// The truth of a field; false when absent.
    pub(crate) fn flag(self, name: &str) -> bool {
        self.opt_flag(name).unwrap_or(false)
    }

    pub(crate) fn opt_flag(self, name: &str) -> Option<bool> {
        self.get(name).0.and_then(Value::as_bool)
    }

    /// The items of a list in a field; none when absent.
    pub(crate) fn list(
        self,
        name: &str,
    ) -> impl ExactSizeIterator<Item = View<'a>> + DoubleEndedIterator + 'a {
        self.get(name)
            .0
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .map(View::new)
    }

    /// The entries of a map in a field, by key; none when absent.
    pub(crate) fn map(self, name: &str) -> impl Iterator<Item = (&'a str, View<'a>)> + 'a {
        let object = self.get(name).0.and_then(Value::as_object);
        object.into_iter().flat_map(Map::iter).map(|(key, value)| (key.as_str(), View::new(value)))
    }

    /// Whether the field is a map or list with something in it.
    pub(crate) fn has_items(self, name: &str) -> bool {
        match self.get(name).0 {
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(entries)) => !entries.is_empty(),
            _ => false,
        }
    }
}
