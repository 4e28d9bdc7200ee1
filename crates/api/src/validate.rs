//! The rules for names, labels, annotations and other small texts, with upstream's long explanations.
//!
//! Functions that start with `is_` answer with a list of what is wrong with a bare text, as
//! `k8s.io/apimachinery/pkg/util/validation` does; an empty list means the text is good. The functions of
//! [`meta`] apply them to `metadata`.

pub mod meta;
pub(crate) mod times;
pub(crate) mod view;

use std::net::IpAddr;

use crate::field::{Error, ErrorList, Path};

const DNS1123_LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1123_UNDERSCORE_FORMAT: &str =
    "[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*";
const DNS1123_UNDERSCORE_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL_FORMAT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_NAME_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_NAME_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_FORMAT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const CONFIG_MAP_KEY_FORMAT: &str = "[-._a-zA-Z0-9]+";
const CONFIG_MAP_KEY_MESSAGE: &str =
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
const HTTP_HEADER_FORMAT: &str = "[-A-Za-z0-9]+";
const HTTP_HEADER_MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-'";
const ENV_VAR_NAME_MESSAGE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// The longest DNS label, in bytes.
pub const DNS1123_LABEL_MAX: usize = 63;
/// The longest DNS subdomain, in bytes.
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;

/// What upstream answers when a value lies outside of `low..=high`.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// What upstream answers when a name is longer than `max` bytes. It has two words for them: labels and qualified
/// names are told the other one.
pub fn max_len(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// Upstream's `RegexError`: the rule, examples, and the regular expression.
fn pattern(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let quoted: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
    format!("{message} (e.g. {}, regex used for validation is '{format}')", quoted.join(",  or "))
}

fn alphanumeric(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Whether all bytes are of `inner` and the first and last of `edge`; false for an empty text.
fn framed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        bytes @ [first, .., last] => edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b)),
        [only] => edge(*only),
    }
}

fn label_form(text: &str) -> bool {
    framed(text, lower_alphanumeric, |b| lower_alphanumeric(b) || b == b'-')
}

fn subdomain_form(text: &str) -> bool {
    text.split('.').all(label_form)
}

fn qualified_form(text: &str) -> bool {
    framed(text, alphanumeric, |b| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 1123 label: the name of a Namespace, a container, a volume.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        errors.push(max_len(DNS1123_LABEL_MAX));
    }
    if !label_form(value) {
        // A subdomain is the more frequent mistake than a broken label, and has an explanation of its own.
        errors.push(match subdomain_form(value) {
            true => "must not contain dots".to_owned(),
            false => pattern(DNS1123_LABEL_MESSAGE, DNS1123_LABEL_FORMAT, &["my-name", "123-abc"]),
        });
    }
    errors
}

/// RFC 1123 subdomain: the name of most objects.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    if !subdomain_form(value) {
        errors.push(pattern(DNS1123_SUBDOMAIN_MESSAGE, DNS1123_SUBDOMAIN_FORMAT, &["example.com"]));
    }
    errors
}

/// RFC 1123 subdomain that may have underscores, as search domains do.
pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    let edge = |b| lower_alphanumeric(b) || b == b'_';
    if !value.split('.').all(|part| framed(part, edge, |b| edge(b) || b == b'-')) {
        errors.push(pattern(DNS1123_UNDERSCORE_MESSAGE, DNS1123_UNDERSCORE_FORMAT, &["example.com"]));
    }
    errors
}

/// RFC 1035 label: the name of a Service.
pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        errors.push(max_len(DNS1123_LABEL_MAX));
    }
    if !(label_form(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(pattern(DNS1035_LABEL_MESSAGE, DNS1035_LABEL_FORMAT, &["my-name", "abc-123"]));
    }
    errors
}

/// A wildcard domain such as `*.example.com`.
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain_form) {
        errors.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{DNS1123_SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// A qualified name such as `example.com/MyName`: the key of a label.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors
                    .extend(is_dns1123_subdomain(prefix).iter().map(|error| format!("prefix part {error}")));
            }
            *name
        }
        _ => {
            let rule =
                pattern(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME_FORMAT, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_bytes(63)));
    }
    if !qualified_form(name) {
        let rule = pattern(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME_FORMAT, &["MyName", "my.name", "123-abc"]);
        errors.push(format!("name part {rule}"));
    }
    errors
}

/// The value of a label.
pub fn is_valid_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(max_bytes(63));
    }
    if !value.is_empty() && !qualified_form(value) {
        errors.push(pattern(LABEL_VALUE_MESSAGE, LABEL_VALUE_FORMAT, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A port number.
pub fn is_valid_port_num(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65535)] }
}

/// The name of a port (IANA service name).
pub fn is_valid_port_name(port: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if port.len() > 15 {
        errors.push(max_len(15));
    }
    if port.is_empty() || !port.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !port.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if port.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if port.starts_with('-') || port.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// An address as old fields accept it: IPv4 with leading zeros is read as upstream reads it.
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    if value.contains(':') {
        return (!value.contains('%')).then(|| value.parse().ok()).flatten();
    }
    let octets: Vec<&str> = value.split('.').collect();
    let plain = |octet: &&str| !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit());
    if octets.len() != 4 || !octets.iter().all(plain) {
        return None;
    }
    let parsed: Option<Vec<u8>> = octets.iter().map(|octet| octet.parse().ok()).collect();
    let bytes: [u8; 4] = parsed?.try_into().ok()?;
    Some(IpAddr::from(bytes))
}

/// Refuses what is no address, in fields older than the strict rule.
pub fn ip_for_legacy_field(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if parse_ip_sloppy(value).is_none() {
        errors.push(Error::invalid(
            path,
            value,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
}

/// A range as old fields accept it: the address that is written, and how many bits are the network's.
pub fn parse_cidr_sloppy(value: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = value.split_once('/')?;
    let address = parse_ip_sloppy(address)?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits = bits.parse().ok().filter(|bits| plain && *bits <= whole)?;
    Some((address, bits))
}

/// Refuses what is no range, in fields older than the strict rule; what the object had before is kept.
pub fn cidr_for_legacy_field(value: &str, kept: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    if !kept.contains(&value) && parse_cidr_sloppy(value).is_none() {
        let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(Error::invalid(path, value, words));
    }
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    let good = |b: u8| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(good) {
        errors.push(pattern(
            CONFIG_MAP_KEY_MESSAGE,
            CONFIG_MAP_KEY_FORMAT,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(chdir_words(value));
    errors
}

/// A text must not be, or begin like, the parent directory.
fn chdir_words(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable (relaxed rule, GA in 1.34).
pub fn is_relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if value.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        errors.push(ENV_VAR_NAME_MESSAGE.to_owned());
    }
    errors
}

/// The name of an HTTP header.
pub fn is_http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| alphanumeric(b) || b == b'-') {
        return Vec::new();
    }
    vec![pattern(HTTP_HEADER_MESSAGE, HTTP_HEADER_FORMAT, &["X-Header-Name"])]
}

/// A number with `%` behind it.
pub fn is_valid_percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![pattern(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// What is wrong with the name of an object.
///
/// `prefix` is true for `generateName`, to which letters will be added: it may end in dashes.
pub type NameRule = fn(&str, bool) -> Vec<String>;

/// A prefix is checked as if the last dash were already followed by a letter.
fn mask_trailing_dash(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => format!("{}a", rest.trim_end_matches('-')),
        _ => name.to_owned(),
    }
}

/// Names of most kinds.
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&mask_trailing_dash(name, prefix))
}

/// Names of Namespaces.
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&mask_trailing_dash(name, prefix))
}

/// Names of Services.
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&mask_trailing_dash(name, prefix))
}

/// Names that are one segment of a URL: those of RBAC objects.
pub fn name_is_path_segment(name: &str, _prefix: bool) -> Vec<String> {
    match name {
        "." | ".." => return vec![format!("may not be '{name}'")],
        _ => {}
    }
    ["/", "%"]
        .iter()
        .filter(|bad| name.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// Adds `Invalid value` for every message of a rule.
pub fn check(messages: Vec<String>, value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    errors.extend(messages.into_iter().map(|message| Error::invalid(path, value, message)));
}

/// The field must hold an RFC 1123 label.
pub fn dns1123_label(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    check(is_dns1123_label(value), value, path, errors);
}

/// The field must hold an RFC 1123 subdomain.
pub fn dns1123_subdomain(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    check(is_dns1123_subdomain(value), value, path, errors);
}

/// The field must hold a qualified name.
pub fn qualified_name(value: &str, path: &Path<'_>, errors: &mut ErrorList) {
    check(is_qualified_name(value), value, path, errors);
}

/// The field must not be negative.
pub fn non_negative(value: i64, path: &Path<'_>, errors: &mut ErrorList) {
    if value < 0 {
        errors.push(Error::invalid(path, value, "must be greater than or equal to 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_are_refused_with_the_expression_of_upstream() {
        assert!(is_dns1123_label("a-1").is_empty());
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            is_dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert!(is_dns1123_subdomain("a.b-c.d").is_empty());
        assert_eq!(
            is_dns1123_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(is_dns1035_label("9svc").len(), 1);
        assert_eq!(is_dns1035_label("").len(), 1);
        assert_eq!(is_dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
    }

    #[test]
    fn qualified_names_tell_which_part_is_wrong() {
        assert!(is_qualified_name("example.com/My_Name.1").is_empty());
        assert_eq!(
            is_qualified_name("bad key"),
            [
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
        assert_eq!(is_qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(is_qualified_name("a/").len(), 2);
        assert_eq!(is_qualified_name("a/b/c").len(), 1);
    }

    #[test]
    fn port_names_follow_iana() {
        assert!(is_valid_port_name("http-2").is_empty());
        assert_eq!(is_valid_port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(is_valid_port_name("a--b"), ["must not contain consecutive hyphens"]);
        assert_eq!(is_valid_port_name("-a"), ["must not begin or end with a hyphen"]);
        assert_eq!(is_valid_port_name("abcdefghijklmnop"), ["must be no more than 15 characters"]);
    }

    #[test]
    fn a_name_prefix_may_end_in_a_dash() {
        assert!(name_is_dns_subdomain("gen-", true).is_empty());
        assert!(!name_is_dns_subdomain("gen-", false).is_empty());
        assert!(!name_is_dns_subdomain("-", true).is_empty());
    }

    #[test]
    fn keys_of_config_maps_cannot_leave_their_directory() {
        assert!(is_config_map_key("a.b_C-1").is_empty());
        assert_eq!(is_config_map_key(".."), ["must not be '..'"]);
        assert_eq!(is_config_map_key("..a"), ["must not start with '..'"]);
        assert_eq!(is_config_map_key("a/b").len(), 1);
    }

    #[test]
    fn addresses_with_leading_zeros_are_decimal() {
        assert_eq!(parse_ip_sloppy("010.0.0.1"), "10.0.0.1".parse().ok());
        assert_eq!(parse_ip_sloppy("::1"), "::1".parse().ok());
        assert_eq!(parse_ip_sloppy("1.2.3"), None);
        assert_eq!(parse_ip_sloppy("1.2.3.256"), None);
    }
}
