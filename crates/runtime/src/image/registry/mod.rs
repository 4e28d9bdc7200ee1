//! A client of registries: Docker Registry v2 and the OCI distribution specification.
//!
//! ```text
//! pull ─► for each endpoint (mirrors, then the registry itself)
//!           for each credential (given ones, the registry's, none)
//!             session: HEAD manifest ─► digest ─► manifest ─► configuration, layers (3 at once)
//! ```
//!
//! [`http`] speaks to one host, by a [`proxy`] where the environment says so, [`auth`] answers challenges, [`session`] asks for objects of
//! one repository, [`pull`] puts an image together. Texts of errors are containerd's: they end
//! up in the Events of Pods, and people search for them.

mod auth;
pub(super) mod fuzzing;
mod http;
mod proxy;
mod pull;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use self::http::{Origin, Scheme};
pub use self::proxy::Proxies;
use super::digest::Digest;
use crate::interface::Credentials;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Registry name to the URLs that are asked before it: `docker.io` to `https://mirror.example`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host` or `host:port`) that are spoken to without TLS. Loopback ones always are,
    /// unless they have an authority in `ca_files`.
    pub insecure: BTreeSet<String>,
    /// Registry to PEM files of authorities that are trusted for it besides the system's.
    pub ca_files: BTreeMap<String, Vec<PathBuf>>,
    /// Registry to what to log in with, after the credentials that a pull brings.
    pub credentials: BTreeMap<String, Credentials>,
    /// What they are reached by, where not directly.
    pub proxies: Proxies,
}

/// How far a pull has come. Called from the pull's own thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEvent {
    /// The name means this manifest or index.
    Resolved(Digest),
    /// A layer is to be had: its length in bytes.
    Layer(Digest, u64),
    /// Bytes of a layer that are here now.
    Downloaded(Digest, u64),
    /// The layer is unpacked.
    Unpacked(Digest),
}

/// Who watches a pull.
pub trait Progress: Send + Sync + 'static {
    /// Something has come further.
    fn event(&self, event: PullEvent);
}

/// Nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: PullEvent) {}
}

/// Where a repository is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    origin: Origin,
    /// In front of `/v2/`: a mirror may live below a path.
    prefix: String,
    /// The registry whose certificates and credentials count.
    host: String,
}

impl Registries {
    /// The endpoints for a registry, in the order they are asked. Mirrors that make no sense are
    /// left out with a warning: the registry itself can still be asked.
    fn endpoints(&self, domain: &str) -> Vec<Endpoint> {
        let mirrors = self.mirrors.get(domain).into_iter().flatten().filter_map(|url| {
            let endpoint = Endpoint::parse(url);
            if endpoint.is_none() {
                tracing::warn!(mirror = %url, "not a URL of a registry mirror");
            }
            endpoint
        });
        mirrors.chain([self.upstream(domain)]).collect()
    }

    fn upstream(&self, domain: &str) -> Endpoint {
        // Docker Hub's API lives under another name than its images.
        let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let plain =
            self.insecure.contains(domain) || is_loopback(domain) && !self.ca_files.contains_key(domain);
        let scheme = if plain { Scheme::Http } else { Scheme::Https };
        Endpoint { origin: Origin::new(scheme, host), prefix: String::new(), host: domain.to_owned() }
    }
}

impl Endpoint {
    /// A mirror's URL, with or without `/v2` at its end. Plain HTTP must be asked for by `http://`.
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) => return None,
            None => (Scheme::Https, url),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("v2").unwrap_or(path).trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        let sane = !host.is_empty() && !host.contains(['@', ' ', '?', '#']);
        sane.then(|| Endpoint { origin: Origin::new(scheme, host), prefix, host: host.to_owned() })
    }
}

fn is_loopback(domain: &str) -> bool {
    let host = http::split_port(domain).0;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod endpoint_tests {
    use super::*;

    fn shown(registries: &Registries, domain: &str) -> Vec<String> {
        registries.endpoints(domain).iter().map(|e| format!("{}{}", e.origin, e.prefix)).collect()
    }

    #[test]
    fn mirrors_are_asked_before_the_registry() {
        let mut registries = Registries::default();
        let mirrors = ["http://127.0.0.1:5000", "mirror.example/proxy/v2/", "ftp://no", "https://"];
        registries.mirrors.insert("docker.io".into(), mirrors.map(str::to_owned).into());
        let expected =
            ["http://127.0.0.1:5000", "https://mirror.example/proxy", "https://registry-1.docker.io"];
        assert_eq!(shown(&registries, "docker.io"), expected);
    }

    #[test]
    fn only_loopback_and_listed_registries_are_spoken_to_in_the_clear() {
        let mut registries = Registries::default();
        registries.insecure.insert("old.example:5000".into());
        registries.ca_files.insert("localhost:5001".into(), Vec::new());
        assert_eq!(shown(&registries, "localhost:5000"), ["http://localhost:5000"]);
        assert_eq!(shown(&registries, "[::1]:5000"), ["http://[::1]:5000"]);
        assert_eq!(shown(&registries, "localhost:5001"), ["https://localhost:5001"]);
        assert_eq!(shown(&registries, "old.example:5000"), ["http://old.example:5000"]);
        assert_eq!(shown(&registries, "old.example"), ["https://old.example"]);
        assert_eq!(shown(&registries, "localhost.example"), ["https://localhost.example"]);
    }
}

#[cfg(test)]
mod tests;
