//! Registry logins from imagePullSecrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use runtime::Credentials;
use serde::Deserialize;

#[derive(Deserialize)]
struct DockerConfig {
    auths: std::collections::BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// The logins of the secrets that fit the image's registry, the most specific first.
pub(crate) fn for_image(image: &str, secrets: &[&Secret]) -> Vec<Credentials> {
    let repository = repository(image);
    let mut found: Vec<(usize, Credentials)> = Vec::new();
    for secret in secrets {
        for (server, auth) in auths(secret) {
            let prefix = normalise(&server);
            if matches(&prefix, &repository) {
                found.push((prefix.len(), Credentials { origin: origin(secret), ..credentials(auth) }));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

/// Which Secret it is; one that was made anew is another.
fn origin(secret: &Secret) -> String {
    let meta = &secret.metadata;
    let [namespace, name, uid] =
        [&meta.namespace, &meta.name, &meta.uid].map(|part| part.as_deref().unwrap_or_default());
    format!("secret {namespace}/{name} {uid}")
}

/// Both formats: `.dockerconfigjson`, and the older `.dockercfg` without the outer object.
fn auths(secret: &Secret) -> Vec<(String, Auth)> {
    let data =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let new = data(".dockerconfigjson").and_then(|json| serde_json::from_slice::<DockerConfig>(json).ok());
    let old = data(".dockercfg").and_then(|json| serde_json::from_slice(json).ok());
    new.map(|config| config.auths).or(old).into_iter().flatten().collect()
}

fn credentials(auth: Auth) -> Credentials {
    let decoded = STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) =
        pair.map_or((auth.username, auth.password), |(user, word)| (user.into(), word.into()));
    Credentials { username, password, identity_token: auth.identitytoken, origin: String::new() }
}

/// `docker.io/library/nginx` of `nginx:1.27`.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let (head, tail) = name.rsplit_once('/').unwrap_or(("", name));
    let tail = tail.split(':').next().unwrap_or(tail);
    let name = if head.is_empty() { tail.to_string() } else { format!("{head}/{tail}") };
    let first = name.split('/').next().unwrap_or_default();
    match name.contains('/') && (first.contains(['.', ':']) || first == "localhost") {
        true => name,
        false if name.contains('/') => format!("docker.io/{name}"),
        false => format!("docker.io/library/{name}"),
    }
}

/// A server as docker writes it: `https://index.docker.io/v1/` is Docker Hub.
fn normalise(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
    if matches!(bare, "index.docker.io" | "registry-1.docker.io") { "docker.io".into() } else { bare.into() }
}

fn matches(prefix: &str, repository: &str) -> bool {
    let host = |text: &str| text.split('/').next().unwrap_or_default().to_string();
    let (wanted, actual) = (host(prefix), host(repository));
    let same_host = match wanted.strip_prefix("*.") {
        Some(domain) => actual.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => wanted == actual,
    };
    let path = |text: &str| text.split_once('/').map(|(_, path)| path.to_string()).unwrap_or_default();
    let (wanted, actual) = (path(prefix), path(repository));
    same_host && (wanted.is_empty() || actual == wanted || actual.starts_with(&format!("{wanted}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_fit_by_registry_and_path() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "*.example.com": {"username": "star"},
            "reg.example.com/team": {"username": "team"}}}"#;
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "data": {".dockerconfigjson": STANDARD.encode(config)}
        }))
        .unwrap();
        let users = |image: &str| -> Vec<String> {
            for_image(image, &[&secret]).into_iter().map(|one| one.username).collect()
        };
        assert_eq!(users("nginx:1.27"), ["u"]);
        assert_eq!(users("reg.example.com/team/app@sha256:00"), ["team", "star"]);
        assert_eq!(users("reg.example.com/teams/app"), ["star"]);
        assert!(users("localhost:5000/x").is_empty());
    }
}
