//! Query parameters, read as upstream's conversion reads them.

use api::status::Status;

use crate::path;

/// The parameters of a request, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URI after `?`.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decode = |text: &str| path::decode(&text.replace('+', " "));
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    /// The first value of a parameter, empty when it is not given.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The same without one parameter.
    pub(crate) fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|(key, _)| key != name).cloned().collect())
    }

    /// Adds a parameter.
    pub(crate) fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The part of a URI after `?`.
    pub(crate) fn encode(&self) -> String {
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{}={}", path::encode(name), path::encode(value)))
            .collect();
        pairs.join("&")
    }

    /// Whether the parameter is given at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Anything but `false` and `0` is true, as in upstream.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.text(name).to_ascii_lowercase().as_str(), "false" | "0")
    }

    /// A number; `None` when not given.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        if !self.has(name) {
            return Ok(None);
        }
        let text = self.text(name);
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_read_as_upstream_does() {
        let query = Query::parse(Some("watch=1&labelSelector=a%3Db,c&x=a+b&command=ls&command=-l&pretty"));
        assert!(query.flag("watch") && query.flag("pretty") && !query.flag("other"));
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert_eq!(query.text("x"), "a b");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "-l"]);
        assert!(!Query::parse(Some("watch=False")).flag("watch"));
        let err = Query::parse(Some("limit=x")).number("limit").expect_err("no number");
        assert_eq!(err.message, "strconv.ParseInt: parsing \"x\": invalid syntax");
    }
}
