//! The administrator's kubeconfig.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Credential, HttpsConfig};
use serde::Deserialize;

/// A kubeconfig with everything embedded, so that it can be copied anywhere.
pub(crate) fn render(server: &str, authority_pem: &str, certificate_pem: &str, key_pem: &str) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: monopod\ncontexts:\n- context:\n    cluster: monopod\n    user: kubernetes-admin\n  name: monopod\ncurrent-context: monopod\npreferences: {{}}\nusers:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(authority_pem),
        encode(certificate_pem),
        encode(key_pem)
    )
}

/// Prints the kubeconfig that `up` wrote.
pub(crate) fn print(data_dir: &Path) -> Result<()> {
    let file = data_dir.join("kubeconfig");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("cannot read {} (has `monopod up` run with this data directory?)", file.display())
    })?;
    crate::say(text.trim_end())
}

#[derive(Debug, Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

/// Reads a kubeconfig that [`render`] wrote: how this program talks to its own daemon.
pub(crate) fn read(file: &Path) -> Result<HttpsConfig> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let parsed: Kubeconfig =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is no kubeconfig", file.display()))?;
    let (cluster, user) = parsed
        .clusters
        .first()
        .zip(parsed.users.first())
        .with_context(|| format!("{} names no cluster or user", file.display()))?;
    let decode = |data: &str| Ok::<_, anyhow::Error>(String::from_utf8(STANDARD.decode(data)?)?);
    Ok(HttpsConfig {
        server: cluster.cluster.server.trim_start_matches("https://").to_owned(),
        authority_pem: decode(&cluster.cluster.certificate_authority_data)?,
        credential: Credential::Certificate {
            certificate_pem: decode(&user.user.client_certificate_data)?,
            key_pem: decode(&user.user.client_key_data)?,
        },
    })
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
}
