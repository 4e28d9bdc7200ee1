//! Kubeconfigs: which server, whom to trust, and how to prove who we are.
//!
//! What a file refers to is not followed (`certificate-authority: PATH`, `exec`, auth providers): this
//! program reads those that carry everything, as it writes them, and says what another one lacks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::{Credential, HttpsConfig};

/// Deepest nesting of a file; real ones have five. The parser recurses.
const DEPTH_MAX: usize = 64;

/// Why a text is no kubeconfig that can be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// It is no YAML, or its fields have other types.
    #[error("it is no kubeconfig")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A name leads nowhere; the text is client-go's.
    #[error("{kind} {name:?} does not exist")]
    Missing {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name that was looked for.
        name: String,
    },
    /// The server is not spoken to by `https://HOST[:PORT]`.
    #[error("server {0:?} is not of the form https://HOST[:PORT]")]
    Server(String),
    /// The entry does not have what is needed to use it.
    #[error("{kind} {name:?} has no {field}")]
    Lacks {
        /// `cluster` or `user`.
        kind: &'static str,
        /// The entry's name.
        name: String,
        /// The field.
        field: &'static str,
    },
    /// A field of base64 holds something else.
    #[error("{field} is not base64 of text")]
    Data {
        /// The field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

/// Reads what the current context of a kubeconfig says.
pub fn parse(text: &str) -> Result<HttpsConfig, KubeconfigError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
    };
    let config: Kubeconfig = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| KubeconfigError::Syntax(error.into()))?;
    let wanted = &config.current_context;
    let context = config.contexts.iter().find(|context| context.name == *wanted);
    let context = &context.ok_or_else(|| missing("context", wanted))?.context;
    let cluster = config.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
    let user = config.users.into_iter().find(|user| user.name == context.user);
    let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?;
    let user = user.ok_or_else(|| missing("user", &context.user))?;
    let (server, authority_pem) = cluster.resolve()?;
    Ok(HttpsConfig { server, authority_pem, credential: user.credential()? })
}

fn missing(kind: &'static str, name: &str) -> KubeconfigError {
    KubeconfigError::Missing { kind, name: name.to_owned() }
}

impl NamedCluster {
    /// Host and port of the server, and the authority that its certificate comes from.
    fn resolve(self) -> Result<(String, String), KubeconfigError> {
        let Cluster { server, certificate_authority_data } = self.cluster;
        let field = "certificate-authority-data";
        let authority = certificate_authority_data.ok_or(KubeconfigError::Lacks {
            kind: "cluster",
            name: self.name,
            field,
        })?;
        let Some(host) = server.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest))
        else {
            return Err(KubeconfigError::Server(server));
        };
        // A path in front of `/api` is for proxies; nobody of ours is asked through one.
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return Err(KubeconfigError::Server(server));
        }
        Ok((host.to_owned(), decoded(field, &authority)?))
    }
}

impl NamedUser {
    fn credential(self) -> Result<Credential, KubeconfigError> {
        let User { client_certificate_data, client_key_data, token } = self.user;
        // client-go's order: a certificate is shown with the connection, before any token is read.
        match (client_certificate_data, client_key_data, token) {
            (Some(certificate), Some(key), _) => Ok(Credential::Certificate {
                certificate_pem: decoded("client-certificate-data", &certificate)?,
                key_pem: decoded("client-key-data", &key)?,
            }),
            (None, _, Some(token)) => Ok(Credential::Token(token)),
            (certificate, ..) => {
                let field = if certificate.is_some() {
                    "client-key-data"
                } else {
                    "client-certificate-data or token"
                };
                Err(KubeconfigError::Lacks { kind: "user", name: self.name, field })
            }
        }
    }
}

fn decoded(field: &'static str, data: &str) -> Result<String, KubeconfigError> {
    let bytes = STANDARD.decode(data).map_err(|_| KubeconfigError::Data { field })?;
    String::from_utf8(bytes).map_err(|_| KubeconfigError::Data { field })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clusters, contexts and users; the second context counts.
    fn text(current: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {current}\npreferences: {{}}\n\
             contexts:\n- {{name: a, context: {{cluster: one, user: ann}}}}\n\
             - {{name: b, context: {{cluster: two, user: bob, namespace: x}}}}\n\
             clusters:\n- {{name: one, cluster: {{server: 'http://127.0.0.1:1', certificate-authority-data: Q0E=}}}}\n\
             - {{name: two, cluster: {{server: 'https://127.0.0.1:6443/', certificate-authority-data: Q0E=}}}}\n\
             users:\n- {{name: ann, user: {{token: secret}}}}\n- {{name: bob, user: {{{user}}}}}\n"
        )
    }

    fn refusal(text: &str) -> String {
        parse(text).expect_err("it is refused").to_string()
    }

    #[test]
    fn the_current_context_says_which_cluster_and_user() {
        let config =
            parse(&text("b", "client-certificate-data: Q0VSVA==, client-key-data: S0VZ, token: t")).unwrap();
        assert_eq!((config.server.as_str(), config.authority_pem.as_str()), ("127.0.0.1:6443", "CA"));
        let Credential::Certificate { certificate_pem, key_pem } = config.credential else {
            panic!("a certificate comes first");
        };
        assert_eq!((certificate_pem.as_str(), key_pem.as_str()), ("CERT", "KEY"));
        let config = parse(&text("b", "token: secret")).unwrap();
        assert!(matches!(config.credential, Credential::Token(token) if token == "secret"));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(refusal("[]"), "it is no kubeconfig");
        assert_eq!(refusal("kind: Config"), r#"context "" does not exist"#);
        assert_eq!(refusal(&text("c", "")), r#"context "c" does not exist"#);
        let other = text("b", "").replace("name: two", "name: three");
        assert_eq!(refusal(&other), r#"cluster "two" does not exist"#);
        assert_eq!(refusal(&text("b", "")), r#"user "bob" has no client-certificate-data or token"#);
        let half = text("b", "client-certificate-data: Q0VSVA==");
        assert_eq!(refusal(&half), r#"user "bob" has no client-key-data"#);
        let broken = text("b", "client-certificate-data: '?', client-key-data: S0VZ");
        assert_eq!(refusal(&broken), "client-certificate-data is not base64 of text");
        let plain = r#"server "http://127.0.0.1:1" is not of the form https://HOST[:PORT]"#;
        assert_eq!(refusal(&text("a", "")), plain);
    }
}
