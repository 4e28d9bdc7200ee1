//! Certificates from Secrets, and which one a client gets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use client::key_of;
use k8s_openapi::api::core::v1::Secret;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::Served;

/// What was made of each Secret, so that a new table does not read them all again.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    known: HashMap<String, (Option<String>, Read)>,
}

type Read = Result<Arc<CertifiedKey>, String>;

impl Certificates {
    /// The certificate of a Secret, or why there is none.
    pub(crate) fn of(&mut self, secret: &Secret) -> Read {
        let key = key_of(secret);
        let version = &secret.metadata.resource_version;
        if let Some((of, read)) = self.known.get(&key)
            && of == version
        {
            return read.clone();
        }
        let now = read(secret).map(Arc::new);
        self.known.insert(key, (version.clone(), now.clone()));
        now
    }

    /// Forgets what is no longer asked for.
    pub(crate) fn keep(&mut self, still: impl Fn(&str) -> bool) {
        self.known.retain(|key, _| still(key));
    }
}

fn read(secret: &Secret) -> Result<CertifiedKey, String> {
    let data = |name: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        found.ok_or_else(|| format!("it has no {name}"))
    };
    let (chain, key) = (data("tls.crt")?, data("tls.key")?);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate".to_owned());
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key is no private key: {error}"))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| error.to_string())
}

/// Chooses by the server name that the client asks for.
struct BySni {
    served: Served,
    /// For names that no Ingress has a certificate for.
    fallback: Arc<dyn ResolvesServerCert>,
}

impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BySni").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.served.table();
        // The library gives the name in lower case.
        let found = hello.server_name().and_then(|name| table.certificate(name).cloned());
        found.or_else(|| self.fallback.resolve(hello))
    }
}

/// What the HTTPS listener speaks.
pub(crate) fn server_config(
    served: Served,
    fallback: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(BySni { served, fallback }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
