//! Objects as rooms keep them: decoded without `metadata.managedFields`.
//!
//! Who owns which field is the server's business, and it is often half of an object. It is cut out of the
//! bytes before they are decoded, so that it is neither parsed nor allocated (client-go's users have
//! `TransformStripManagedFields` for the same). Annotations stay, `last-applied-configuration` too: a
//! Pod may read all of its annotations through a downwardAPI volume.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;

/// Decodes an object without its managed fields.
pub(crate) fn decode<K: DeserializeOwned>(json: &[u8]) -> Result<K, serde_json::Error> {
    serde_json::from_slice(&without_managed_fields(json))
}

fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    match managed_fields(json) {
        Some(cut) => Cow::Owned([&json[..cut.start], &json[cut.end..]].concat()),
        None => Cow::Borrowed(json),
    }
}

/// Where the managed fields are, with their name and one comma. `None` also for what is not JSON:
/// whoever decodes it says so better.
fn managed_fields(json: &[u8]) -> Option<Range<usize>> {
    let mut object = Scanner { json, at: 0 };
    object.member(b"\"metadata\"")?;
    let begin = object.at;
    let name = object.member(b"\"managedFields\"")?;
    object.value()?;
    let end = object.at;
    if object.take(b',').is_some() {
        return Some(name..object.at);
    }
    // The last member takes the comma before it, if it is not the only one.
    let comma = json[begin..name].iter().rposition(|byte| !byte.is_ascii_whitespace())? + begin;
    Some(if json[comma] == b',' { comma..end } else { name..end })
}

/// Walks over JSON without reading it.
struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.json.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Enters an object and stops before the value of this member; answers where its name begins.
    fn member(&mut self, name: &[u8]) -> Option<usize> {
        self.take(b'{')?;
        loop {
            self.peek()?;
            let begin = self.at;
            self.string()?;
            let found = &self.json[begin..self.at] == name;
            self.take(b':')?;
            if found {
                return Some(begin);
            }
            self.value()?;
            self.take(b',')?;
        }
    }

    /// Passes over a value, however deep it nests.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => self.scalar()?,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            match self.json.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    /// A number or a word; at least one byte, so that a walk over nonsense ends.
    fn scalar(&mut self) -> Option<()> {
        let rest = self.json.get(self.at..)?;
        let end = rest.iter().position(|byte| b",]}: \t\r\n".contains(byte)).unwrap_or(rest.len());
        self.at += end;
        (end > 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text(json: &str) -> String {
        String::from_utf8(without_managed_fields(json.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn managed_fields_are_cut_wherever_they_stand() {
        let cut = |metadata: &str| text(&format!(r#"{{"kind":"X","metadata":{{{metadata}}},"spec":{{}}}}"#));
        let left = |metadata: &str| format!(r#"{{"kind":"X","metadata":{{{metadata}}},"spec":{{}}}}"#);
        assert_eq!(cut(r#""managedFields":[{"a":"}]\""}],"name":"n""#), left(r#""name":"n""#));
        assert_eq!(cut(r#""name":"n","managedFields":[]"#), left(r#""name":"n""#));
        assert_eq!(
            cut(r#""uid":"u", "managedFields" : [{"v": {"f:a": {}}}] , "name":"n""#),
            left(r#""uid":"u",  "name":"n""#)
        );
        assert_eq!(cut(r#""managedFields":null"#), left(""));
    }

    #[test]
    fn only_those_of_the_object_itself_are_cut() {
        let object = json!({
            "spec": {"template": {"metadata": {"managedFields": [1]}}},
            "metadata": {"annotations": {"managedFields": "\"managedFields\":[]"}, "name": "n"},
        });
        assert_eq!(text(&object.to_string()), object.to_string());
        let owned =
            json!({"metadata": {"labels": {"a": "b"}, "managedFields": [{"manager": "m"}]}, "spec": object});
        let mut bare = owned.clone();
        bare["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(serde_json::from_str::<Value>(&text(&owned.to_string())).unwrap(), bare);
    }

    #[test]
    fn what_is_no_json_is_left_to_the_decoder() {
        for broken in ["", "{", "[]", "7", r#"{"metadata":{"managedFields":"#] {
            assert_eq!(text(broken), broken);
        }
        let whole = r#"{"metadata":{"a":1,"managedFields":[{"b":[true,-1.5e3,null]}]}}"#;
        for end in 0..whole.len() {
            text(&whole[..end]);
        }
    }
}
