//! Under which names the API is reached, now: its certificate has them all.
//!
//! A host gets other addresses while the daemon runs: from a DHCP server, by a cable, by its administrator.
//! A certificate that lacks one of them is a client that stays away, with words that few understand.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use sys::netlink::Link;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire::pki::ServingCertificate;

use crate::instance::Ranges;

/// Where a host gets and loses addresses by the hour, somebody waits for a new one no longer than this.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the names are made of.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) node: String,
    /// Names and addresses that were asked for.
    pub(crate) more: Vec<String>,
    pub(crate) ranges: Ranges,
    pub(crate) listening: SocketAddr,
}

impl Names {
    /// All of them, as they are now.
    pub(crate) fn now(&self) -> Vec<String> {
        let of_host = match self.listening.ip() {
            ip if ip.is_unspecified() => addresses(),
            ip => vec![ip],
        };
        self.with(&of_host)
    }

    /// The names for these addresses of the host. What was asked for and what is the host's may be the same, and
    /// a certificate names each once.
    fn with(&self, of_host: &[IpAddr]) -> Vec<String> {
        let service = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
        ];
        let mut names: Vec<String> = service.into_iter().map(str::to_owned).collect();
        names.push(self.node.clone());
        names.push(self.ranges.services.address(1).to_string());
        names.push(self.ranges.pods.address(1).to_string());
        names.extend(self.more.iter().cloned());
        names.extend(of_host.iter().map(IpAddr::to_string));
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// The host's own addresses; those of a link alone are reached by no name.
fn addresses() -> Vec<IpAddr> {
    let found = Link::open().and_then(|links| links.addresses()).unwrap_or_default();
    let is_local = |address: &IpAddr| match address {
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
        IpAddr::V4(v4) => v4.is_link_local(),
    };
    let mut all: Vec<IpAddr> =
        found.into_iter().map(|(_, address, _)| address).filter(|address| !is_local(address)).collect();
    // In one order, so that the same addresses are the same names.
    all.sort_unstable();
    all
}

/// Gives the certificate the names that the host has by then, until `shutdown`.
pub(crate) async fn follow(names: Names, certificate: Arc<ServingCertificate>, shutdown: CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Cancel-safe: the interval keeps its next tick when the future is dropped.
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        match certificate.rename(names.now(), Timestamp::now()) {
            Ok(true) => {
                tracing::info!("the host's addresses have changed; the API's certificate has them now")
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the API's certificate lacks an address of the host"),
        }
    }
}

/// Refuses what no certificate can name.
pub(crate) fn check(name: &str) -> Result<()> {
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A star stands for one label, the first.
    let host = name.strip_prefix("*.").unwrap_or(name);
    let is_name = host.len() <= 253 && host.split('.').all(label);
    ensure!(
        name.parse::<IpAddr>().is_ok() || is_name,
        "--tls-san {name:?}: a DNS name or an IP address is needed"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_there_once_with_those_asked_for_and_the_hosts_own() {
        let names = Names {
            node: "localhost".into(),
            more: vec!["api.example.com".into(), "192.0.2.7".into()],
            ranges: Ranges::first(),
            listening: "0.0.0.0:6443".parse().expect("an address"),
        };
        let all = names.with(&["192.0.2.7".parse().expect("an address"), "127.0.0.1".parse().expect("one")]);
        let count = |wanted: &str| all.iter().filter(|name| *name == wanted).count();
        for name in ["localhost", "127.0.0.1", "192.0.2.7", "api.example.com", "10.42.0.1", "10.43.0.1"] {
            assert_eq!(count(name), 1, "{name} in {all:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for good in ["a.example.com", "*.example.com", "::1", "192.0.2.1"] {
            check(good).expect(good);
        }
        for bad in ["", "a b", "https://a", "a/b", "*", "a..b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
