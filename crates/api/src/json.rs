//! JSON as Go reads it: order and duplicates kept, errors in Go's words.
//!
//! A [`Node`] borrows from the body where it can. Parsing keeps its own stack, so no
//! body can overflow the program's; what walks a `Node` afterwards may recurse,
//! because [`MAX_DEPTH`] bounds it.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// Deepest nesting that is read, whatever the format. Go's limit is 10 000 with the same message.
///
/// It is below that of every reader of what is stored: serde_json, which all typed clients of this
/// program use, reads 127 levels, and a list or a table puts up to four around an object.
pub(crate) const MAX_DEPTH: usize = 112;

/// The sentence for what nests deeper.
pub(crate) const TOO_DEEP: &str = "exceeded max depth";

/// A parsed value that still knows how it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Null,
    Bool(bool),
    /// The number's text: whether it is an integer, and how large, is decided by its target.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    /// Entries in the order of the body, duplicates included.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl<'a> Node<'a> {
    /// The word Go's decoder uses for this value in "cannot unmarshal …".
    pub(crate) fn go_word(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "bool",
            Node::Number(_) => "number",
            Node::String(_) => "string",
            Node::Array(_) => "array",
            Node::Object(_) => "object",
        }
    }

    /// How deep it nests: 0 for scalars.
    pub(crate) fn depth(&self) -> usize {
        match self {
            Node::Array(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Node::Object(entries) => 1 + entries.iter().map(|entry| entry.1.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// The last value of a key, as Go's decoder would keep it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node<'a>> {
        match self {
            Node::Object(entries) => entries.iter().rev().find(|entry| entry.0 == key).map(|entry| &entry.1),
            _ => None,
        }
    }

    /// Free-form JSON; the last of duplicate keys wins.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(value),
            Node::Number(text) => number(&text),
            Node::String(text) => Value::String(text.into_owned()),
            Node::Array(items) => Value::Array(items.into_iter().map(Node::into_value).collect()),
            Node::Object(entries) => {
                let entries = entries.into_iter().map(|(key, node)| (key.into_owned(), node.into_value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// A value that is already in memory, borrowed.
    pub(crate) fn from_value(value: &'a Value) -> Node<'a> {
        match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(*value),
            Value::Number(number) => Node::Number(number.to_string().into()),
            Value::String(text) => Node::String(text.as_str().into()),
            Value::Array(items) => Node::Array(items.iter().map(Node::from_value).collect()),
            Value::Object(map) => Node::Object(
                map.iter().map(|(key, value)| (key.as_str().into(), Node::from_value(value))).collect(),
            ),
        }
    }
}

/// Integers stay integers, as Go keeps int64 apart from float64.
fn number(text: &str) -> Value {
    if let Ok(integer) = text.parse::<i64>() {
        return integer.into();
    }
    if let Ok(integer) = text.parse::<u64>() {
        return integer.into();
    }
    text.parse::<f64>().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

/// Parses one JSON document. The error is the sentence of Go's scanner.
pub(crate) fn parse(body: &[u8]) -> Result<Node<'_>, String> {
    let mut parser = Parser { body, at: 0 };
    let node = parser.document()?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(node),
        Some(byte) => Err(invalid(byte, "after top-level value")),
    }
}

/// An array or object that is still open.
enum Open<'a> {
    Array(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, str>, Node<'a>)>, Cow<'a, str>),
}

struct Parser<'a> {
    body: &'a [u8],
    at: usize,
}

/// What came at the place of a value.
enum Step<'a> {
    Value(Node<'a>),
    Opened(Open<'a>),
}

impl<'a> Parser<'a> {
    fn document(&mut self) -> Result<Node<'a>, String> {
        let mut stack: Vec<Open<'a>> = Vec::new();
        loop {
            let mut value = match self.value()? {
                Step::Value(value) => value,
                Step::Opened(_) if stack.len() >= MAX_DEPTH => return Err(TOO_DEEP.into()),
                Step::Opened(open) => {
                    stack.push(open);
                    continue;
                }
            };
            loop {
                match stack.pop() {
                    None => return Ok(value),
                    Some(open) => match self.attach(open, value)? {
                        Step::Value(closed) => value = closed,
                        Step::Opened(open) => {
                            stack.push(open);
                            break;
                        }
                    },
                }
            }
        }
    }

    /// Puts a finished value into the innermost open container, and closes that or goes on.
    fn attach(&mut self, open: Open<'a>, value: Node<'a>) -> Result<Step<'a>, String> {
        self.skip_space();
        let next = self.peek().ok_or_else(end)?;
        self.at += 1;
        match open {
            Open::Array(mut items) => {
                items.push(value);
                match next {
                    b',' => Ok(Step::Opened(Open::Array(items))),
                    b']' => Ok(Step::Value(Node::Array(items))),
                    other => Err(invalid(other, "after array element")),
                }
            }
            Open::Object(mut entries, key) => {
                entries.push((key, value));
                match next {
                    b',' => {
                        let key = self.key()?;
                        Ok(Step::Opened(Open::Object(entries, key)))
                    }
                    b'}' => Ok(Step::Value(Node::Object(entries))),
                    other => Err(invalid(other, "after object key:value pair")),
                }
            }
        }
    }

    fn value(&mut self) -> Result<Step<'a>, String> {
        self.skip_space();
        match self.peek().ok_or_else(end)? {
            b'{' => {
                self.at += 1;
                self.skip_space();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(Step::Value(Node::Object(Vec::new())));
                }
                let key = self.key()?;
                Ok(Step::Opened(Open::Object(Vec::new(), key)))
            }
            b'[' => {
                self.at += 1;
                self.skip_space();
                if self.peek() == Some(b']') {
                    self.at += 1;
                    return Ok(Step::Value(Node::Array(Vec::new())));
                }
                Ok(Step::Opened(Open::Array(Vec::new())))
            }
            b'"' => self.string().map(|text| Step::Value(Node::String(text))),
            b'-' | b'0'..=b'9' => self.number().map(|text| Step::Value(Node::Number(text.into()))),
            b't' => self.literal("true", Node::Bool(true)),
            b'f' => self.literal("false", Node::Bool(false)),
            b'n' => self.literal("null", Node::Null),
            other => Err(invalid(other, "looking for beginning of value")),
        }
    }

    /// A key and the colon after it.
    fn key(&mut self) -> Result<Cow<'a, str>, String> {
        self.skip_space();
        match self.peek().ok_or_else(end)? {
            b'"' => {}
            other => return Err(invalid(other, "looking for beginning of object key string")),
        }
        let key = self.string()?;
        self.skip_space();
        match self.peek().ok_or_else(end)? {
            b':' => {
                self.at += 1;
                Ok(key)
            }
            other => Err(invalid(other, "after object key")),
        }
    }

    fn literal(&mut self, word: &str, node: Node<'a>) -> Result<Step<'a>, String> {
        for expected in word.bytes() {
            match self.peek().ok_or_else(end)? {
                byte if byte == expected => self.at += 1,
                byte => {
                    let place = format!("in literal {word} (expecting {})", quote(expected));
                    return Err(invalid(byte, &place));
                }
            }
        }
        Ok(Step::Value(node))
    }

    fn number(&mut self) -> Result<&'a str, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek().ok_or_else(end)? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            other => return Err(invalid(other, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.require_digit("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.require_digit("in exponent of numeric literal")?;
        }
        Ok(std::str::from_utf8(&self.body[start..self.at]).unwrap_or_default())
    }

    fn require_digit(&mut self, place: &str) -> Result<(), String> {
        match self.peek().ok_or_else(end)? {
            b'0'..=b'9' => {
                self.digits();
                Ok(())
            }
            other => Err(invalid(other, place)),
        }
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let start = self.at;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    let raw = &self.body[start..self.at];
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(raw));
                }
                b'\\' => return self.escaped(start),
                0..0x20 => return Err(invalid(byte, "in string literal")),
                _ => self.at += 1,
            }
        }
        Err(end())
    }

    /// The rest of a string from its first backslash on.
    fn escaped(&mut self, start: usize) -> Result<Cow<'a, str>, String> {
        let mut text = self.body[start..self.at].to_vec();
        loop {
            let byte = self.peek().ok_or_else(end)?;
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(&text).into_owned().into());
                }
                b'\\' => {
                    self.at += 1;
                    let decoded = self.escape()?;
                    text.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
                }
                0..0x20 => return Err(invalid(byte, "in string literal")),
                _ => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let byte = self.peek().ok_or_else(end)?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            other => return Err(invalid(other, "in string escape code")),
        })
    }

    /// `\uXXXX` after the `u`; halves of a pair that stand alone become U+FFFD, as in Go.
    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        if self.body[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or_else(end)?;
            let digit = char::from(byte).to_digit(16);
            let digit = digit.ok_or_else(|| invalid(byte, "in \\u hexadecimal character escape"))?;
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }
}

fn end() -> String {
    "unexpected end of JSON input".into()
}

fn invalid(byte: u8, place: &str) -> String {
    format!("invalid character {} {place}", quote(byte))
}

/// Go's quoteChar.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'\\' => r"'\\'".into(),
        7 => r"'\a'".into(),
        8 => r"'\b'".into(),
        9 => r"'\t'".into(),
        10 => r"'\n'".into(),
        11 => r"'\v'".into(),
        12 => r"'\f'".into(),
        13 => r"'\r'".into(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_json_is_told_in_the_words_of_go() {
        for (body, message) in [
            ("{broken", "invalid character 'b' looking for beginning of object key string"),
            ("", "unexpected end of JSON input"),
            ("{\"a\":1", "unexpected end of JSON input"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("nul!", "invalid character '!' in literal null (expecting 'l')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err(), message, "{body}");
        }
    }

    #[test]
    fn invalid_text_is_replaced_and_pairs_are_joined() {
        assert_eq!(parse(b"\"a\xffb\"").unwrap(), Node::String("a\u{fffd}b".into()));
        assert_eq!(parse(br#""\ud83d\ude00 \ud800x""#).unwrap(), Node::String("😀 \u{fffd}x".into()));
    }

    #[test]
    fn nesting_is_bounded_without_using_the_stack() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(parse(deep.as_bytes()).unwrap_err(), "exceeded max depth");
    }

    #[test]
    fn what_serde_writes_is_read_back() {
        let value = serde_json::json!({"a": [1, -2.5, true, null, "x\n\u{1}é"], "b": {"c": {}, "d": []}});
        let text = serde_json::to_vec(&value).unwrap();
        assert_eq!(parse(&text).unwrap().into_value(), value);
    }
}
