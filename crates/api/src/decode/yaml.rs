//! YAML bodies, into the same [`Node`]s as JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::json::{MAX_DEPTH, Node};

/// Deepest nesting of a YAML body. Its parser recurses with large frames: twice as many levels
/// overflow a stack of 2 MiB in a build without optimisation.
const DEPTH_MAX: usize = 64;
const _: () = assert!(DEPTH_MAX < MAX_DEPTH, "what YAML says JSON can say too");

/// Parses one YAML document.
pub(super) fn parse(body: &[u8]) -> Result<Node<'static>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
    };
    let owned: Owned =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("yaml: {error}"))?;
    Ok(owned.0)
}

struct Owned(Node<'static>);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Owned, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Owned)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'static>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Node::Number(value.to_string().into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Node::Number(value.to_string().into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Node::Number(value.to_string().into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Node::String(value.to_owned().into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Node::String(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Owned(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((Owned(key), Owned(value))) = map.next_entry()? {
            entries.push((key_text(key).into(), value));
        }
        Ok(Node::Object(entries))
    }
}

/// JSON has only text keys; Go's converter writes scalars as text.
fn key_text(key: Node<'static>) -> String {
    match key {
        Node::String(text) | Node::Number(text) => text.into_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Null => "null".to_owned(),
        other => other.into_value().to_string(),
    }
}
