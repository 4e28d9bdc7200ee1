//! Image references as people write them, made whole the way Docker does it.
//!
//! The grammar and the texts of the errors are those of `distribution/reference`,
//! which the kubelet prints: `invalid reference format`.

use std::fmt;

use super::digest::{Digest, DigestError};

/// Registry of names without one.
const DEFAULT_DOMAIN: &str = "docker.io";
/// What Docker wrote before.
const LEGACY_DOMAIN: &str = "index.docker.io";
const NAME_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

/// A normalised reference: `docker.io/library/busybox:1.36`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("repository name must have at least one component")]
    Empty,
    /// The grammar does not know it.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Looks like an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// More than 255 characters.
    #[error("repository name must not be more than {NAME_LENGTH_MAX} characters")]
    TooLong,
    /// The part after `@`.
    #[error("{0}")]
    Digest(DigestError),
}

impl Reference {
    /// Parses `text` and adds what Docker adds: the registry, `library/`, and the
    /// tag `latest` when there is neither tag nor digest.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let mut reference = Self::parse_untagged(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".to_owned());
        }
        Ok(reference)
    }

    /// Parses `text` without adding a tag.
    pub fn parse_untagged(text: &str) -> Result<Self, ReferenceError> {
        if is_identifier(text) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split([':', '@']).next().unwrap_or_default();
        if remote.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(remote.to_owned()));
        }
        if text.is_empty() {
            return Err(ReferenceError::Format);
        }
        Self::from_parts(domain, &remainder)
    }

    fn from_parts(domain: &str, remainder: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (remainder, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_domain(domain) || !is_path(path) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Reference {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// What the registry is asked for: the digest when there is one, else the tag.
    pub fn object(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// `name@digest`: how an image is named by its content.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

/// The name that identifies one image: with a digest the tag means nothing and is left out,
/// as in `reference.ParseDockerRef`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

/// A first component with a dot, a port or upper case, or `localhost`, is a registry.
fn split_domain(text: &str) -> (&str, String) {
    let (domain, remainder) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        (domain, format!("library/{remainder}"))
    } else {
        (domain, remainder.to_owned())
    }
}

/// `[A-Za-z][A-Za-z0-9]*…:[[:xdigit:]]{32,}` is the grammar; what fits it and is no known
/// algorithm has an error of its own.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let fits = text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if !fits {
        return Err(ReferenceError::Format);
    }
    Digest::parse(text).map_err(ReferenceError::Digest)
}

pub(crate) fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rfind(':') {
        Some(colon) if !domain[colon..].contains(']') => (&domain[..colon], Some(&domain[colon + 1..])),
        _ => (domain, None),
    };
    let port_fits = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(is_domain_label),
    };
    port_fits && host_fits
}

fn is_domain_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// `[a-z0-9]+((?:[._]|__|[-]+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_fit =
        bytes.first().copied().is_some_and(alphanumeric) && bytes.last().copied().is_some_and(alphanumeric);
    let separators_fit = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    ends_fit && separators_fit
}

/// `[\w][\w.-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn normal(text: &str) -> String {
        match Reference::parse(text) {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn short_names_become_docker_hub_names() {
        assert_eq!(normal("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("busybox:1.36"), "docker.io/library/busybox:1.36");
        assert_eq!(normal("user/app"), "docker.io/user/app:latest");
        assert_eq!(normal("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(normal("localhost/app"), "localhost/app:latest");
        assert_eq!(normal("localhost:5000/app:v1"), "localhost:5000/app:v1");
        assert_eq!(normal("[::1]:5000/app"), "[::1]:5000/app:latest");
        assert_eq!(normal("ghcr.io/a/b__c/d---e"), "ghcr.io/a/b__c/d---e:latest");
        assert_eq!(normal("Registry/app"), "Registry/app:latest");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let text = format!("busybox:1.36@sha256:{HEX}");
        assert_eq!(normal(&text), format!("docker.io/library/busybox@sha256:{HEX}"));
        assert_eq!(Reference::parse(&text).ok().as_ref().and_then(Reference::tag), Some("1.36"));
    }

    #[test]
    fn errors_are_worded_as_upstream() {
        assert_eq!(normal(""), "error: invalid reference format");
        assert_eq!(normal("bad image"), "error: invalid reference format");
        assert_eq!(normal("a//b"), "error: invalid reference format");
        assert_eq!(normal("a:"), "error: invalid reference format");
        assert_eq!(normal("a:-b"), "error: invalid reference format");
        assert_eq!(normal("-a"), "error: invalid reference format");
        assert_eq!(normal("a..b"), "error: invalid reference format");
        assert_eq!(normal("../../etc/passwd"), "error: invalid reference format");
        assert_eq!(normal("a@sha256:12"), "error: invalid reference format");
        let upper = "error: invalid reference format: repository name (library/Busybox) must be lowercase";
        assert_eq!(normal("Busybox:1"), upper);
        let id =
            format!("error: invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings");
        assert_eq!(normal(HEX), id);
        let long = "a".repeat(250);
        assert_eq!(normal(&long), "error: repository name must not be more than 255 characters");
        assert_eq!(normal(&format!("a@sha256:{}", &HEX[..40])), "error: invalid checksum digest length");
        assert_eq!(normal(&format!("a@md5:{}", &HEX[..32])), "error: unsupported digest algorithm");
    }
}
