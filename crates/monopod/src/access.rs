//! How the program talks to its own daemon, whatever became of the kubeconfig: the address is noted beside
//! the data, and whoever may read the authority's key needs nobody to vouch for him.
//!
//! So `status` and `support-bundle` do not depend on where the administrator keeps the file, nor on the age of
//! the certificate in it, nor on whether the daemon could write it at its last start.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use client::{Credential, HttpsConfig};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wire::pki::Authority;

/// In `state`: where the API was last served.
const FILE: &str = "api.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    address: SocketAddr,
}

/// Where the API was last served, if it ever was.
pub(crate) fn noted(state: &Path) -> Option<SocketAddr> {
    let noted: Noted = serde_json::from_slice(&fs::read(state.join(FILE)).ok()?).ok()?;
    Some(noted.address)
}

/// Notes where it is served now.
pub(crate) fn note(state: &Path, address: SocketAddr) -> Result<()> {
    if noted(state) == Some(address) {
        return Ok(());
    }
    wire::pki::write_private(&state.join(FILE), &serde_json::to_vec(&Noted { address })?)?;
    Ok(())
}

/// Where clients of this host reach what listens at an address: none connects to 0.0.0.0 everywhere.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Access as an administrator, for this program alone.
pub(crate) fn own(data_dir: &Path) -> Result<HttpsConfig> {
    let address = noted(&data_dir.join("state")).context("no address of the API is noted")?;
    let authority = authority(data_dir)?;
    let admin =
        authority.issue_client("kubernetes-admin", &["system:masters".to_owned()], Timestamp::now())?;
    Ok(HttpsConfig {
        server: reachable(address).to_string(),
        authority_pem: authority.certificate_pem().to_owned(),
        credential: Credential::Certificate {
            certificate_pem: admin.certificate_pem,
            key_pem: admin.key_pem,
        },
    })
}

/// The instance's authority, which must be there: to ask is no reason to make one.
pub(crate) fn authority(data_dir: &Path) -> Result<Authority> {
    let read = |name: &str| -> Result<String> {
        let file = data_dir.join("pki").join(name);
        let text = fs::read_to_string(&file);
        text.map_err(|err: io::Error| anyhow::anyhow!("cannot read {}: {err}", file.display()))
    };
    Ok(Authority::from_pem(read("ca.crt")?, &read("ca.key")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_noted_and_one_that_listens_everywhere_is_asked_on_loopback() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(noted(state.path()), None);
        let address = "0.0.0.0:6444".parse().expect("an address");
        note(state.path(), address).expect("written");
        assert_eq!(noted(state.path()), Some(address));
        assert_eq!(reachable(address).to_string(), "127.0.0.1:6444");
    }
}
