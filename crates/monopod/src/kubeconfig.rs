//! The administrator's kubeconfig.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::HttpsConfig;

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
}
