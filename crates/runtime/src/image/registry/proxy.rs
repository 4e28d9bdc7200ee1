//! Proxies on the way to registries: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, by the rules of Go's
//! `httpproxy`, which containerd and Docker go by.

use std::net::IpAddr;

use base64::Engine;
use http::{HeaderMap, HeaderValue, header};

use super::http::{Origin, Scheme, split_port};

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    exceptions: Vec<Exception>,
}

/// Where to connect to instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// Value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    Address(IpAddr, Option<u16>),
    Network(IpAddr, u8),
    /// The domain begins with a dot; `itself` says whether the name without it is meant too.
    Domain {
        domain: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Reads the variables; the lower-case names, which more programs know, count where the others are not set.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.is_empty());
            set(name).or_else(|| set(&name.to_lowercase()))
        };
        let exceptions = either("NO_PROXY").unwrap_or_default();
        Proxies {
            http: either("HTTP_PROXY"),
            https: either("HTTPS_PROXY"),
            exceptions: exceptions.split(',').filter_map(exception).collect(),
        }
    }

    /// The proxy for an origin, if it is reached by one.
    ///
    /// # Errors
    /// The variable has no meaning, or one that is not supported.
    pub(super) fn find(&self, origin: &Origin) -> Result<Option<Proxy>, String> {
        let (host, port) = origin.target();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
        let asked = match origin.scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        let address: Option<IpAddr> = host.parse().ok();
        // The node's own registries are never behind a proxy.
        let own = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        match asked {
            Some(url) if !own && !self.excepts(&host, address, port) => parse(url).map(Some),
            _ => Ok(None),
        }
    }

    fn excepts(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        self.exceptions.iter().any(|exception| match exception {
            Exception::All => true,
            Exception::Address(one, of) => address == Some(*one) && of.is_none_or(|of| of == port),
            Exception::Network(network, bits) => address.is_some_and(|one| within(one, *network, *bits)),
            Exception::Domain { domain, itself, port: of } => {
                let meant = host.ends_with(domain.as_str()) || (*itself && host == &domain[1..]);
                address.is_none() && meant && of.is_none_or(|of| of == port)
            }
        })
    }
}

impl Proxy {
    /// Adds the login, if there is one.
    pub(super) fn authorize(&self, headers: &mut HeaderMap) {
        let login = self.authorization.as_deref().and_then(|value| HeaderValue::from_str(value).ok());
        headers.extend(login.map(|login| (header::PROXY_AUTHORIZATION, login)));
    }
}

fn exception(entry: &str) -> Option<Exception> {
    let entry = entry.trim().to_lowercase();
    if entry == "*" {
        return Some(Exception::All);
    }
    if let Some((network, bits)) = entry.split_once('/') {
        return Some(Exception::Network(network.parse().ok()?, bits.parse().ok()?));
    }
    if let Ok(address) = entry.parse() {
        return Some(Exception::Address(address, None));
    }
    let (host, port) = split_port(&entry);
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Some(Exception::Address(address, port));
    }
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    let itself = !host.starts_with('.');
    let domain = if itself { format!(".{host}") } else { host.to_owned() };
    (domain.len() > 1).then_some(Exception::Domain { domain, itself, port })
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |one: u128, other: u128, width: u32| {
        u32::from(bits) <= width && (bits == 0 || (one ^ other) >> (width - u32::from(bits)) == 0)
    };
    match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => same(one.to_bits().into(), other.to_bits().into(), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => same(one.to_bits(), other.to_bits(), 128),
        _ => false,
    }
}

/// `http://user:password@host:port`; without a scheme it is the same. The words are Go's.
fn parse(text: &str) -> Result<Proxy, String> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("proxyconnect: unknown proxy scheme {scheme:?}")),
        None => text,
    };
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (login, authority) = match rest.rsplit_once('@') {
        Some((login, authority)) => (Some(login), authority),
        None => (None, rest),
    };
    let (host, port) = split_port(authority);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(':') && host.parse::<IpAddr>().is_err() {
        return Err(format!("invalid proxy address {authority:?}"));
    }
    let basic = |login: &str| {
        let login: Vec<u8> = percent_encoding::percent_decode_str(login).collect();
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
    };
    Ok(Proxy { host: host.to_owned(), port: port.unwrap_or(80), authorization: login.map(basic) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(|name| {
            variables.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_variables_mean_what_they_mean_in_go() {
        let set = proxies(&[
            ("https_proxy", "http://ann:s%3Acret@proxy.example:3128/"),
            ("HTTP_PROXY", "10.0.0.1:8080"),
            (
                "NO_PROXY",
                "in.example, .sub.example,*.star.example,192.0.2.0/24,2001:db8::1,port.example:5000,[::2]:1",
            ),
        ]);
        let by = |scheme, authority: &str| {
            let found = set.find(&Origin::new(scheme, authority)).expect("a good address");
            found.map(|proxy| format!("{}:{}", proxy.host, proxy.port))
        };
        assert_eq!(by(Scheme::Https, "registry-1.docker.io").as_deref(), Some("proxy.example:3128"));
        assert_eq!(by(Scheme::Http, "other.example:5000").as_deref(), Some("10.0.0.1:8080"));
        let direct = [
            "localhost:5000",
            "127.0.0.1",
            "[::1]:5000",
            "in.example",
            "A.IN.example:5000",
            "a.sub.example",
            "a.star.example",
            "192.0.2.7:5000",
            "[2001:db8::1]",
            "port.example:5000",
            "[::2]:1",
        ];
        for authority in direct {
            assert_eq!(by(Scheme::Https, authority), None, "{authority}");
        }
        let led = ["sub.example", "notin.example", "192.0.3.7", "[2001:db8::2]", "port.example", "[::2]:2"];
        for authority in led {
            assert!(by(Scheme::Https, authority).is_some(), "{authority}");
        }
        let proxy = set.find(&Origin::new(Scheme::Https, "a.b")).expect("a good address").expect("one");
        assert_eq!(proxy.authorization.as_deref(), Some("Basic YW5uOnM6Y3JldA=="));
        assert_eq!(proxies(&[]).find(&Origin::new(Scheme::Https, "a.b")), Ok(None));
        let all = proxies(&[("HTTPS_PROXY", "p"), ("no_proxy", "*")]);
        assert_eq!(all.find(&Origin::new(Scheme::Https, "a.b")), Ok(None));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let find = |url: &str| proxies(&[("HTTPS_PROXY", url)]).find(&Origin::new(Scheme::Https, "a.b"));
        assert_eq!(find("socks5://p:1"), Err("proxyconnect: unknown proxy scheme \"socks5\"".to_owned()));
        assert_eq!(find("http://:80"), Err("invalid proxy address \":80\"".to_owned()));
    }
}
