//! Label selectors: the text of a query, and `metav1.LabelSelector` of objects.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use super::lexer::{Token, scan};
use super::rules as validate;
use super::{Labels, ParseError};
use crate::field::go_quote;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `!key`
    DoesNotExist,
    /// `key=value`
    Equals,
    /// `key==value`
    DoubleEquals,
    /// `key in (a,b)`
    In,
    /// `key!=value`
    NotEquals,
    /// `key notin (a,b)`
    NotIn,
    /// `key`
    Exists,
    /// `key>1`
    GreaterThan,
    /// `key<1`
    LessThan,
}

/// One condition; a selector is their conjunction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// Sorted, none twice.
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks what the grammar cannot: keys, values and how many of them.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, ParseError> {
        use Operator::*;
        check_key(key)?;
        values.sort();
        values.dedup();
        let shown = || format!("[{}]", values.iter().map(|v| go_quote(v)).collect::<Vec<_>>().join(","));
        let count_rule = match operator {
            In | NotIn if values.is_empty() => Some("for 'in', 'notin' operators, values set can't be empty"),
            Equals | DoubleEquals | NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Exists | DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            GreaterThan | LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        let mut errors: Vec<String> = count_rule
            .map(|rule| format!("values: Invalid value: {}: {rule}", shown()))
            .into_iter()
            .collect();
        for (i, value) in values.iter().enumerate() {
            if matches!(operator, GreaterThan | LessThan) && value.parse::<i64>().is_err() {
                let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(format!("values[{i}]: Invalid value: {}: {rule}", go_quote(value)));
            }
            let wrong = validate::is_valid_label_value(value);
            if !wrong.is_empty() {
                errors.push(format!(
                    "values[{i}][{key}]: Invalid value: {}: {}",
                    go_quote(value),
                    wrong.join("; ")
                ));
            }
        }
        match errors.as_slice() {
            [] => Ok(Self { key: key.to_owned(), operator, values }),
            [one] => Err(one.clone().into()),
            many => Err(format!("[{}]", many.join(", ")).into()),
        }
    }

    /// Whether these labels satisfy the condition.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.value(&self.key);
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(|v| self.has(v)),
            Operator::NotEquals | Operator::NotIn => value.is_none_or(|v| !self.has(v)),
            Operator::GreaterThan => self.compare(value, |ours, theirs| theirs > ours),
            Operator::LessThan => self.compare(value, |ours, theirs| theirs < ours),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|v| v == value)
    }

    fn compare(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let theirs = value.and_then(|v| v.parse().ok());
        let ours = self.values.first().and_then(|v| v.parse().ok());
        matches!((ours, theirs), (Some(ours), Some(theirs)) if holds(ours, theirs))
    }
}

fn check_key(key: &str) -> Result<(), ParseError> {
    let wrong = validate::is_qualified_name(key);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("<nil>: Invalid value: {}: {}", go_quote(key), wrong.join("; ")).into())
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// A conjunction of requirements, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Selects no object, whatever the requirements say.
    nothing: bool,
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

impl LabelSelector {
    /// Selects every object.
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Selects no object: the meaning of an absent `metav1.LabelSelector`.
    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Reads the `labelSelector` of a query.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Parser { tokens: scan(text), position: 0 }.parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From checked requirements.
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Each pair must be there, as in `spec.selector` of a Service. The pairs are not
    /// checked: they come from an object that was. No pairs select everything.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let equals = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: vec![value.to_owned()],
        };
        Self::from_requirements(pairs.into_iter().map(equals).collect())
    }

    /// From the selector of an object: absent selects nothing, empty everything.
    pub fn from_meta(selector: Option<&meta::LabelSelector>) -> Result<Self, ParseError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for e in selector.match_expressions.iter().flatten() {
            let operator = match e.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(format!("{} is not a valid label selector operator", go_quote(other)).into());
                }
            };
            requirements.push(Requirement::new(&e.key, operator, e.values.clone().unwrap_or_default())?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// [`LabelSelector::from_meta`] for a selector that is still JSON; null is absent.
    pub fn from_value(selector: &Value) -> Result<Self, ParseError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let typed: meta::LabelSelector =
            serde_json::from_value(selector.clone()).map_err(|e| ParseError::from(e.to_string()))?;
        Self::from_meta(Some(&typed))
    }

    /// Whether these labels satisfy every requirement.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements, sorted by key; none when it selects everything or nothing.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// Where the parser is: `in` and `notin` are operators only after a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    KeyAndOperator,
    Values,
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

impl Parser {
    fn peek(&self, context: Context) -> (Token, &str) {
        // The last token is End; nothing reads past it but error paths.
        let (token, text) = &self.tokens[self.position.min(self.tokens.len() - 1)];
        match (context, token) {
            (Context::Values, Token::In | Token::NotIn) => (Token::Identifier, text),
            _ => (*token, text),
        }
    }

    fn next(&mut self, context: Context) -> (Token, String) {
        let (token, text) = self.peek(context);
        let taken = (token, text.to_owned());
        self.position += 1;
        taken
    }

    fn parse(mut self) -> Result<Vec<Requirement>, ParseError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek(Context::Values) {
                (Token::Identifier | Token::Not, _) => requirements
                    .push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?),
                (Token::End, _) => return Ok(requirements),
                (_, text) => return Err(expected(text, "!, identifier, or 'end of string'")),
            }
            match self.next(Context::Values) {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => match self.peek(Context::Values) {
                    (Token::Identifier | Token::Not, _) => {}
                    (_, text) => return Err(expected(text, "identifier after ','")),
                },
                (_, text) => return Err(expected(&text, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let (key, unary) = self.key()?;
        if let Some(operator) = unary {
            return Requirement::new(&key, operator, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        Requirement::new(&key, operator, values)
    }

    /// The key, and the operator when it needs no more: `key` or `!key`.
    fn key(&mut self) -> Result<(String, Option<Operator>), ParseError> {
        let (mut token, mut text) = self.next(Context::Values);
        let negated = token == Token::Not;
        if negated {
            (token, text) = self.next(Context::Values);
        }
        if token != Token::Identifier {
            return Err(expected(&text, "identifier"));
        }
        check_key(&text)?;
        let ends = matches!(self.peek(Context::Values).0, Token::End | Token::Comma);
        let operator = match (negated, ends) {
            (true, _) => Some(Operator::DoesNotExist),
            (false, true) => Some(Operator::Exists),
            (false, false) => None,
        };
        Ok((text, operator))
    }

    fn operator(&mut self) -> Result<Operator, ParseError> {
        Ok(match self.next(Context::KeyAndOperator) {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals, _) => Operator::Equals,
            (Token::DoubleEquals, _) => Operator::DoubleEquals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::GreaterThan,
            (Token::Less, _) => Operator::LessThan,
            (_, text) => return Err(expected(&text, BINARY_OPERATORS)),
        })
    }

    fn values(&mut self) -> Result<Vec<String>, ParseError> {
        let (token, text) = self.next(Context::Values);
        if token != Token::Open {
            // Without a comma: so upstream words this one.
            return Err(format!("found '{text}' expected: '('").into());
        }
        match self.peek(Context::Values) {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.identifiers()?;
                self.next(Context::Values);
                Ok(values)
            }
            (Token::Close, _) => {
                self.next(Context::Values);
                Ok(vec![String::new()])
            }
            (_, text) => Err(expected(text, "',', ')' or identifier")),
        }
    }

    /// Up to the closing bracket, which stays; empty values are allowed: `(a,,)`.
    fn identifiers(&mut self) -> Result<Vec<String>, ParseError> {
        let mut values = Vec::new();
        loop {
            match self.next(Context::Values) {
                (Token::Identifier, text) => {
                    values.push(text);
                    match self.peek(Context::Values) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return Err(expected(text, "',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek(Context::Values).0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, text) => return Err(expected(&text, "',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<Vec<String>, ParseError> {
        if matches!(self.peek(Context::Values).0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next(Context::Values) {
            (Token::Identifier, text) => Ok(vec![text]),
            (_, text) => Err(expected(&text, "identifier")),
        }
    }
}

fn expected(found: &str, wanted: &str) -> ParseError {
    format!("found '{found}', expected: {wanted}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels)
    }

    fn error(selector: &str) -> String {
        LabelSelector::parse(selector).unwrap_err().to_string()
    }

    #[test]
    fn every_operator_matches_as_documented() {
        let labels = [("a", "1"), ("b", "x")];
        for good in
            ["", "a=1", "a==1", "a!=2", "a in (1,2)", "a notin (2)", "b", "!c", "c!=1", "a>0", "a<2,b=x"]
        {
            assert!(matches(good, &labels), "{good}");
        }
        for bad in ["a=2", "a!=1", "a in (2)", "a notin (1)", "c", "!a", "a>1", "b<3", "a=1,b=y"] {
            assert!(!matches(bad, &labels), "{bad}");
        }
    }

    #[test]
    fn keywords_may_be_values_and_values_may_be_empty() {
        assert!(matches("a in (in,notin)", &[("a", "in")]));
        assert!(matches("a in (x,,)", &[("a", "")]));
        assert!(matches("a=", &[("a", "")]));
        assert!(matches("a notin ()", &[("a", "v")]));
    }

    #[test]
    fn errors_are_worded_as_upstream_words_them() {
        assert_eq!(error("a=b=c"), "found '=', expected: ',' or 'end of string'");
        assert_eq!(error("a,"), "found '', expected: identifier after ','");
        assert_eq!(error(",a"), "found ',', expected: !, identifier, or 'end of string'");
        assert_eq!(
            error("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert_eq!(error("a in b"), "unable to parse requirement: found 'b' expected: '('");
        assert_eq!(error("!"), "unable to parse requirement: found '', expected: identifier");
        assert_eq!(error("a=b!c").as_str(), "found '!', expected: ',' or 'end of string'");
        assert!(error("a=-b").starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be an empty string or consist of"
        ));
        assert!(
            error("/a=b")
                .starts_with("unable to parse requirement: <nil>: Invalid value: \"/a\": prefix part")
        );
    }

    #[test]
    fn an_absent_selector_of_an_object_selects_nothing_and_an_empty_one_everything() {
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&[] as &[(&str, &str)]));
        assert!(LabelSelector::from_value(&serde_json::json!({})).unwrap().is_everything());
        let expression =
            serde_json::json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]});
        assert!(LabelSelector::from_value(&expression).unwrap().matches(&[("a", "1")] as &[(&str, &str)]));
        let wrong = serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        let error = LabelSelector::from_value(&wrong).unwrap_err().to_string();
        assert_eq!(error, "\"Near\" is not a valid label selector operator");
    }

    #[test]
    fn a_selector_prints_what_it_parsed() {
        for text in ["a=b", "!a,b in (x,y)", "a notin (z),c!=d,e", "n>3"] {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), text);
        }
    }
}
