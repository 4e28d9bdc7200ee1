//! The key that signs ServiceAccount tokens.

use std::path::Path;

use anyhow::{Context, Result};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

/// Reads the key (PKCS#8 DER, ECDSA P-256), or makes it: every token of the cluster depends on it.
pub(crate) fn service_account(pki: &Path) -> Result<Vec<u8>> {
    let file = pki.join("sa.key");
    match std::fs::read(&file) {
        Ok(key) => Ok(key),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => make(&file),
        Err(err) => Err(err).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn make(file: &Path) -> Result<Vec<u8>> {
    // P-256 signs fast, and each verifier of tokens takes ES256.
    let key =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &ring::rand::SystemRandom::new());
    let key = key.ok().context("the kernel gives no random bytes")?;
    wire::pki::write_private(file, key.as_ref())?;
    Ok(key.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::service_account;

    #[test]
    fn the_key_stays_the_same() {
        let pki = tempfile::tempdir().expect("a temporary directory");
        let first = service_account(pki.path()).expect("made");
        assert_eq!(service_account(pki.path()).expect("read"), first);
    }
}
