//! Kubeconfigs: the administrator's, those of others, and entries in the user's own file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::HttpsConfig;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::cli::KubeconfigFlags;
use crate::instance::need_root;
use crate::{access, install};

/// The name of our cluster and context in any file.
const NAME: &str = "monopod";
const ADMINISTRATOR: &str = "kubernetes-admin";

/// The administrator's kubeconfig with everything embedded, so that it can be copied anywhere.
pub(crate) fn render(server: &str, authority_pem: &str, certificate_pem: &str, key_pem: &str) -> String {
    render_for(ADMINISTRATOR, server, authority_pem, certificate_pem, key_pem)
}

/// Written by hand: the order of keys is that of kubectl, and a diff of two files shows what differs.
fn render_for(user: &str, server: &str, authority_pem: &str, certificate_pem: &str, key_pem: &str) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: {NAME}\ncontexts:\n- context:\n    cluster: {NAME}\n    user: {user}\n  name: {NAME}\ncurrent-context: {NAME}\npreferences: {{}}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(authority_pem),
        encode(certificate_pem),
        encode(key_pem)
    )
}

/// Prints the kubeconfig that `up` wrote, or makes one for another user.
pub(crate) fn run(data_dir: &Path, other: &KubeconfigFlags) -> Result<()> {
    match &other.user {
        Some(user) => crate::say(for_user(data_dir, user, other)?.trim_end()),
        None => print(data_dir),
    }
}

/// A client certificate of the instance's own authority. It cannot be taken back before it ends, which is why
/// it has a short life unless told otherwise; what its user may do is for RBAC to say, and to take back.
fn for_user(data_dir: &Path, user: &str, asked: &KubeconfigFlags) -> Result<String> {
    need_root("kubeconfig --user", "it signs with the authority's key")?;
    ensure!(is_plain(user), "--user {user:?}: letters, digits and any of : . _ - @ are possible");
    let lifetime = install::lifetime(&asked.expires).context("--expires")?;
    let data_dir = crate::instance::canonical(data_dir);
    let authority = access::authority(&data_dir)?;
    let server = match &asked.server {
        Some(server) => server.clone(),
        None => {
            let noted = access::noted(&data_dir.join("state"));
            access::reachable(noted.context("no address is known yet: run `monopod up`, or give --server")?)
                .to_string()
        }
    };
    let issued = authority.issue_client_for(user, &asked.group, lifetime, Timestamp::now())?;
    let server = format!("https://{server}");
    Ok(render_for(user, &server, authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem))
}

/// The name stands in YAML and in certificates as it is.
fn is_plain(user: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'_' | b'-' | b'@');
    !user.is_empty()
        && user.len() <= 64
        && user.bytes().all(plain)
        && !user.ends_with(':')
        && !user.starts_with(['-', '@', ':'])
}

/// The file as it was written, byte for byte.
fn print(data_dir: &Path) -> Result<()> {
    let file = data_dir.join("kubeconfig");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("cannot read {} (has `monopod up` run with this data directory?)", file.display())
    })?;
    crate::say(text.trim_end())
}

/// The lists of a kubeconfig whose entries have names.
/// In this order they stand in files that kubectl writes.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

/// A user's file with our entries in the place of those of the same names. A file that leads somewhere
/// already goes on leading there.
pub(crate) fn merge(theirs: &str, ours: &str) -> Result<String> {
    if theirs.trim().is_empty() {
        return Ok(ours.to_owned());
    }
    let (mut merged, ours) = (parsed(theirs)?, parsed(ours)?);
    for list in LISTS {
        let mut all = entries(&merged, list);
        for entry in entries(&ours, list) {
            all.retain(|one| one["name"] != entry["name"]);
            all.push(entry);
        }
        merged.insert(list.to_owned(), all.into());
    }
    if merged.get("current-context").and_then(Value::as_str).is_none_or(str::is_empty) {
        merged.insert("current-context".to_owned(), NAME.into());
    }
    written(&merged)
}

/// A user's file without our entries; `None` when it has none.
pub(crate) fn without(theirs: &str) -> Result<Option<String>> {
    let mut left = parsed(theirs)?;
    let named = |one: &Value| one["name"] == NAME || one["name"] == ADMINISTRATOR;
    let context = entries(&left, "contexts").into_iter().find(|one| one["name"] == NAME);
    if context.is_none_or(|context| context["context"]["user"] != ADMINISTRATOR) {
        return Ok(None);
    }
    for list in LISTS {
        let kept: Vec<Value> = entries(&left, list).into_iter().filter(|one| !named(one)).collect();
        left.insert(list.to_owned(), kept.into());
    }
    if left.get("current-context").is_some_and(|current| current == NAME) {
        left.insert("current-context".to_owned(), "".into());
    }
    written(&left).map(Some)
}

/// Any YAML that kubectl takes, read as data: what it means is none of our business here.
fn parsed(text: &str) -> Result<Map<String, Value>> {
    serde_saphyr::from_str(text).context("it is no kubeconfig")
}

/// Comments of the user are lost by it, so the file as it was is kept by those who call this.
fn written(config: &Map<String, Value>) -> Result<String> {
    serde_saphyr::to_string(config).context("cannot write a kubeconfig")
}

/// The entries of one list; none where there is no such list.
fn entries(config: &Map<String, Value>, list: &str) -> Vec<Value> {
    config.get(list).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Reads a kubeconfig that [`render`] wrote: how this program talks to its own daemon.
pub(crate) fn read(file: &Path) -> Result<HttpsConfig> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    client::kubeconfig::parse(&text).with_context(|| format!("cannot use {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("kubeconfig");
        std::fs::write(&file, render("https://127.0.0.1:6443", "CA", "CERT", "KEY")).expect("written");
        let access = read(&file).expect("read");
        assert_eq!((access.server.as_str(), access.authority_pem.as_str()), ("127.0.0.1:6443", "CA"));
    }

    #[test]
    fn a_users_other_clusters_stay_and_ours_come_and_go() {
        let ours = render("https://127.0.0.1:6443", "CA", "CERT", "KEY");
        assert_eq!(merge("", &ours).expect("merged"), ours);
        let theirs = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  cluster: {server: 'https://work'}\ncontexts:\n- name: work\n  context: {cluster: work, user: me}\nusers:\n- name: me\n  user: {token: 'no: \"quotes\"'}\n";
        let merged = merge(theirs, &ours).expect("merged");
        let config = parsed(&merged).expect("read");
        assert_eq!(config["current-context"], "work");
        assert_eq!(LISTS.map(|list| entries(&config, list).len()), [2, 2, 2]);
        assert_eq!(entries(&config, "users")[0]["user"]["token"], "no: \"quotes\"");
        let again = merge(&merged, &render("https://127.0.0.1:7000", "CA", "CERT", "KEY")).expect("merged");
        let config = parsed(&again).expect("read");
        assert_eq!(entries(&config, "clusters").len(), 2, "replaced, not added");
        assert_eq!(entries(&config, "clusters")[1]["cluster"]["server"], "https://127.0.0.1:7000");
        let left = parsed(&without(&again).expect("read").expect("ours were there")).expect("read");
        assert_eq!(left, parsed(theirs).expect("read"));
        assert_eq!(without(theirs).expect("read"), None);
        assert!(merge("- a list", &ours).is_err());
    }

    #[test]
    fn a_user_is_a_plain_word() {
        for good in ["ann", "system:serviceaccount:a:b", "ann@example.com"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "a b", "a\n", "a:", "-a", "a#b", "{}"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
