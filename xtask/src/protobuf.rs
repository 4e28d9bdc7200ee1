//! The protobuf field numbers of the API, taken from the k8s-pb crate's source (development time).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::host::root;

/// Reads the unpacked source of the crate and writes `crates/api/protobuf/numbers.txt`.
pub(crate) fn generate(source: &Path) -> Result<()> {
    let mut messages = BTreeMap::new();
    let mut queue = vec![source.join("src")];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                queue.push(path);
            } else if let Some(package) = package(source, &path) {
                read(&std::fs::read_to_string(&path)?, &package, &mut messages);
            }
        }
    }
    let out = root().join("crates/api/protobuf/numbers.txt");
    std::fs::create_dir_all(out.parent().context("the file has a folder")?)?;
    std::fs::write(&out, render(&messages)).with_context(|| out.display().to_string())
}

type Messages = BTreeMap<String, Vec<(u32, String, Option<String>)>>;

/// `src/api/core/v1/mod.rs` is `io.k8s.api.core.v1`; alpha and beta groups are not served.
fn package(source: &Path, file: &Path) -> Option<String> {
    let inside = file.strip_prefix(source.join("src")).ok()?.parent()?.to_str()?.replace('/', ".");
    let stable = !inside.contains("alpha") && !inside.contains("beta");
    let served = inside.starts_with("api.") || inside.starts_with("apimachinery.");
    (stable && served).then(|| format!("io.k8s.{inside}"))
}

fn read(text: &str, package: &str, messages: &mut Messages) {
    let (mut message, mut tag) = (String::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ") {
            message = format!("{package}.{}", name.trim_end_matches(['{', ' ', '}']));
            messages.entry(message.clone()).or_default();
        } else if line.starts_with("#[prost(") && line.contains("tag = \"") {
            tag = line
                .rsplit_once("tag = \"")
                .and_then(|(_, rest)| rest.split('"').next()?.parse::<u32>().ok());
        } else if let Some((number, (name, of))) =
            tag.zip(line.strip_prefix("pub ").and_then(|field| field.split_once(':')))
        {
            let name = name.trim_start_matches("r#").replace('_', "").to_lowercase();
            messages.entry(message.clone()).or_default().push((
                number,
                name,
                message_type(of.trim(), package),
            ));
            tag = None;
        }
    }
}

/// The message a field holds directly: what may be embedded without a name in JSON.
fn message_type(of: &str, package: &str) -> Option<String> {
    let inner = of.strip_prefix("::core::option::Option<")?.trim_end_matches([',', '>']);
    let mut at: Vec<&str> = package.split('.').collect();
    let mut name = inner;
    while let Some(rest) = name.strip_prefix("super::") {
        at.pop();
        name = rest;
    }
    let first = name.rsplit("::").next()?.chars().next()?;
    (first.is_ascii_uppercase() && !name.starts_with("::"))
        .then(|| format!("{}.{}", at.join("."), name.replace("::", ".")))
}

/// A line with the message's name, then a line for each field: number, name, message; all in lower
/// case, for the crate writes names in its own case.
fn render(messages: &Messages) -> String {
    let mut text = String::new();
    for (name, fields) in messages.iter().filter(|(_, fields)| !fields.is_empty()) {
        let _ = writeln!(text, "{}", name.to_lowercase());
        for (number, field, message) in fields {
            let message =
                message.as_deref().map(|message| format!(" {}", message.to_lowercase())).unwrap_or_default();
            let _ = writeln!(text, " {number} {field}{message}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_messages_are_read() {
        let source = "pub struct Probe {\n #[prost(message, optional, tag = \"1\")]\n pub handler: ::core::option::Option<ProbeHandler>,\n #[prost(int32, optional, tag = \"2\")]\n pub initial_delay_seconds: ::core::option::Option<i32>,\n}";
        let mut messages = Messages::new();
        read(source, "io.k8s.api.core.v1", &mut messages);
        assert_eq!(
            render(&messages),
            "io.k8s.api.core.v1.probe\n 1 handler io.k8s.api.core.v1.probehandler\n 2 initialdelayseconds\n"
        );
    }
}
