//! The instance's certificate authority and what it signs.
//!
//! ```text
//! <pki>/ca.crt, ca.key ── Authority ─┬─ ServingCertificate ── TLS listener
//!                                    ├─ client certificates (user, groups)
//!                                    └─ certificates for keys of others
//! ```
//!
//! The authority lives ten years and is signed anew, with the same key, in its last: what it has signed stays
//! good, and so does who trusts its former certificate. Everything it signs lives one year. A serving
//! certificate is replaced in the running listener a month before it ends:
//! open connections keep theirs, new ones see the new one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Identity;

mod request;

pub use request::Order;

/// How long an authority is valid.
pub const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
/// How long a certificate that it signs is valid.
pub const CERTIFICATE_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365);
/// An authority with less than this left is signed anew when it is opened.
pub const AUTHORITY_RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// A certificate with less than this left is replaced.
pub const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// Clocks of clients may be behind by this much.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(60);

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was being done: read, write, create.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file holds something that is not the PEM expected there.
    #[error("{what} is not a usable certificate or key: {reason}")]
    Malformed {
        /// Which file or argument.
        what: String,
        /// Why it was refused.
        reason: String,
    },
    /// Signing or key generation failed.
    #[error("failed to issue a certificate for {subject}")]
    Issue {
        /// The common name asked for.
        subject: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// A client certificate was asked for with more groups than can be written.
    #[error("a certificate carries at most two groups, not {0}")]
    Groups(usize),
    /// The authority itself is no longer valid.
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The TLS library refused the configuration.
    #[error("failed to configure TLS: {0}")]
    Tls(String),
}

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, without its authority.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
    /// The end of its validity.
    pub not_after: Timestamp,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The certificate authority of an instance.
pub struct Authority {
    certificate_pem: String,
    certificate_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads `ca.crt` and `ca.key` from `dir`, or makes them there.
    ///
    /// One of the two alone is an error: making a new pair would silently
    /// invalidate every kubeconfig that was handed out.
    pub fn open(dir: &Path, name: &str, now: Timestamp) -> Result<Self, Error> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !certificate.exists() && !key.exists() {
            fs::create_dir_all(dir).map_err(file_error("create", dir))?;
            let (certificate_pem, key_pem) = make_authority(name, now)?;
            // The key first: a crash between the two leaves a key without a
            // certificate, and that is repaired here on the next start.
            write_private(&key, key_pem.as_bytes())?;
            write_private(&certificate, certificate_pem.as_bytes())?;
            return Self::from_pem(certificate_pem, &key_pem);
        }
        if !certificate.exists() {
            let key_pem = fs::read_to_string(&key).map_err(file_error("read", &key))?;
            let certificate_pem = sign_authority(name, &parse_key("ca.key", &key_pem)?, now)?;
            write_private(&certificate, certificate_pem.as_bytes())?;
            return Self::from_pem(certificate_pem, &key_pem);
        }
        let certificate_pem = fs::read_to_string(&certificate).map_err(file_error("read", &certificate))?;
        let key_pem = fs::read_to_string(&key).map_err(file_error("read", &key))?;
        let (_, until) = validity(&certificate_pem)?;
        if now.duration_until(until) > AUTHORITY_RENEW_BEFORE {
            return Self::from_pem(certificate_pem, &key_pem);
        }
        // By the same key and of the same name: certificates that it has signed are good under the new one, and
        // those who trust the old one go on until that ends.
        let certificate_pem = sign_authority(name, &parse_key("ca.key", &key_pem)?, now)?;
        write_private(&certificate, certificate_pem.as_bytes())?;
        tracing::warn!(%until, "the certificate of the authority was signed anew: hand out new kubeconfigs");
        Self::from_pem(certificate_pem, &key_pem)
    }

    /// An authority from PEM texts, for example one that the user brought.
    pub fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { what: "ca.crt".into(), reason };
        let certificate_der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| malformed(e.to_string()))?;
        let key = parse_key("ca.key", key_pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate_der, key).map_err(|e| malformed(e.to_string()))?;
        Ok(Self { certificate_pem, certificate_der, issuer })
    }

    /// The authority's certificate, for kubeconfigs and `kube-root-ca.crt`.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate as DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate_der
    }

    /// A certificate for a server known by `names`: DNS names and addresses.
    pub fn issue_server(&self, common_name: &str, names: &[String], now: Timestamp) -> Result<Issued, Error> {
        let mut params = CertificateParams::new(names.to_vec()).map_err(issue_error(common_name))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, (common_name, &[]), CERTIFICATE_LIFETIME, now)
    }

    /// A certificate by which a client proves that it is `user` in `groups`,
    /// of which there are two at most.
    pub fn issue_client(&self, user: &str, groups: &[String], now: Timestamp) -> Result<Issued, Error> {
        self.issue_client_for(user, groups, CERTIFICATE_LIFETIME, now)
    }

    /// The same for so long.
    pub fn issue_client_for(
        &self,
        user: &str,
        groups: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        if groups.len() > 2 {
            return Err(Error::Groups(groups.len()));
        }
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, (user, groups), lifetime, now)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        (subject, groups): (&str, &[String]),
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let not_after = now.saturating_add(lifetime).unwrap_or(now);
        let key = KeyPair::generate().map_err(issue_error(subject))?;
        params.distinguished_name = distinguished_name(subject, groups);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, not_after);
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue_error(subject))?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), not_after })
    }

    /// The TLS configuration of a listener: clients may show a certificate of
    /// this authority, or none; HTTP/2 is preferred.
    ///
    /// Session tickets are off: a kubectl process never resumes, and the cache
    /// would hold memory for nobody.
    pub fn server_config(&self, certificate: Arc<ServingCertificate>) -> Result<Arc<ServerConfig>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate_der.clone()).map_err(|e| Error::Tls(e.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| Error::Tls(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Tls(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// A serving certificate that renews itself without a restart.
pub struct ServingCertificate {
    authority: Arc<Authority>,
    common_name: String,
    names: RwLock<Vec<String>>,
    current: RwLock<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

impl std::fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingCertificate").field("common_name", &self.common_name).finish_non_exhaustive()
    }
}

impl ServingCertificate {
    /// Issues the first certificate. It is kept in memory only: issuing takes
    /// a millisecond, and a key that is never on disk cannot be stolen there.
    pub fn issue(
        authority: Arc<Authority>,
        common_name: &str,
        names: Vec<String>,
        now: Timestamp,
    ) -> Result<Arc<Self>, Error> {
        let current = RwLock::new(issue_current(&authority, common_name, &names, now)?);
        let names = RwLock::new(names);
        Ok(Arc::new(Self { authority, common_name: common_name.into(), names, current }))
    }

    /// Replaces the certificate when its end is near; says whether it did.
    pub fn renew_if_due(&self, now: Timestamp) -> Result<bool, Error> {
        if now.duration_until(self.not_after()) > RENEW_BEFORE {
            return Ok(false);
        }
        self.reissue(now).map(|()| true)
    }

    /// Replaces the certificate when the server has other names by now; says whether it did.
    pub fn rename(&self, names: Vec<String>, now: Timestamp) -> Result<bool, Error> {
        {
            let mut current = self.names.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if *current == names {
                return Ok(false);
            }
            *current = names;
        }
        self.reissue(now).map(|()| true)
    }

    fn reissue(&self, now: Timestamp) -> Result<(), Error> {
        let names = self.names.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let next = issue_current(&self.authority, &self.common_name, &names, now)?;
        *self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = next;
        Ok(())
    }

    /// The end of the current certificate.
    pub fn not_after(&self) -> Timestamp {
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).not_after
    }

    /// Renews in time until `shutdown`. A machine may sleep for months, so the
    /// wall clock is compared once an hour instead of one long timer.
    pub async fn keep_fresh(&self, shutdown: CancellationToken) {
        let mut hourly = tokio::time::interval(Duration::from_secs(3600));
        // Cancel-safe: the interval keeps its next tick when the future is dropped.
        while shutdown.run_until_cancelled(hourly.tick()).await.is_some() {
            match self.renew_if_due(Timestamp::now()) {
                Ok(true) => tracing::info!(name = %self.common_name, "serving certificate renewed"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "serving certificate not renewed"),
            }
        }
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).key.clone())
    }
}

fn issue_current(
    authority: &Authority,
    name: &str,
    names: &[String],
    now: Timestamp,
) -> Result<Current, Error> {
    let issued = authority.issue_server(name, names, now)?;
    let malformed = |reason: String| Error::Malformed { what: name.into(), reason };
    let certificate = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes())
        .map_err(|e| malformed(e.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let signer =
        rustls::crypto::ring::sign::any_supported_type(&key).map_err(|e| Error::Tls(e.to_string()))?;
    let chain = vec![certificate, authority.certificate_der.clone()];
    Ok(Current { key: Arc::new(CertifiedKey::new(chain, signer)), not_after: issued.not_after })
}

/// Who a client certificate speaks for: common name (the last, as Go reads names) and organisations,
/// as the API server's x509 authenticator reads them. `None` without a common name.
pub fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let certificate_sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Identity { user, groups, certificate_sha256 })
}

/// From when until when the first certificate of a PEM text is valid.
pub fn validity(pem: &str) -> Result<(Timestamp, Timestamp), Error> {
    let malformed = |reason: String| Error::Malformed { what: "a certificate".into(), reason };
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| malformed(e.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| malformed(e.to_string()))?;
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp());
    let (from, until) = (time(parsed.validity().not_before), time(parsed.validity().not_after));
    Ok((from.map_err(|e| malformed(e.to_string()))?, until.map_err(|e| malformed(e.to_string()))?))
}

/// Writes a file that only the owner reads, all of it or nothing.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself must survive a power cut.
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(file_error("write", path))
}

fn make_authority(name: &str, now: Timestamp) -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(issue_error(name))?;
    Ok((sign_authority(name, &key, now)?, key.serialize_pem()))
}

fn sign_authority(name: &str, key: &KeyPair, now: Timestamp) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, now, now.saturating_add(AUTHORITY_LIFETIME).unwrap_or(now));
    Ok(params.self_signed(key).map_err(issue_error(name))?.pem())
}

fn distinguished_name(common_name: &str, organisations: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // The library keeps one value per type; the second organisation goes under
    // the same object identifier written as a custom type.
    let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    for (kind, organisation) in types.into_iter().zip(organisations) {
        name.push(kind, organisation.as_str());
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, not_after: Timestamp) {
    let at = |time: Timestamp| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or_default())
    };
    params.not_before = at(now.saturating_sub(CLOCK_SKEW).unwrap_or(now));
    params.not_after = at(not_after);
}

fn parse_key(what: &str, pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(pem).map_err(|e| Error::Malformed { what: what.into(), reason: e.to_string() })
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

fn issue_error(subject: &str) -> impl FnOnce(rcgen::Error) -> Error + '_ {
    move |source| Error::Issue { subject: subject.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn an_authority_survives_a_restart_and_keeps_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), "monopod-ca", now()).unwrap();
        let again = Authority::open(dir.path(), "monopod-ca", now()).unwrap();
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_instead_of_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path(), "monopod-ca", now()).unwrap();
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(matches!(
            Authority::open(dir.path(), "monopod-ca", now()),
            Err(Error::File { action: "read", .. })
        ));
    }

    #[test]
    fn a_client_certificate_carries_user_and_every_group() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "monopod-ca", now()).unwrap();
        let groups = vec!["system:masters".to_owned(), "dev".to_owned()];
        let issued = authority.issue_client("admin", &groups, now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
        let who = identity(&der).unwrap();
        assert_eq!((who.user.as_str(), who.groups), ("admin", groups));
        assert_eq!(who.certificate_sha256.len(), 64);
    }

    #[test]
    fn a_serving_certificate_is_renewed_only_in_its_last_month() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path(), "monopod-ca", now()).unwrap());
        let serving =
            ServingCertificate::issue(authority, "server", vec!["localhost".into()], now()).unwrap();
        assert!(!serving.renew_if_due(now() + SignedDuration::from_hours(24 * 300)).unwrap());
        let late = now() + SignedDuration::from_hours(24 * 340);
        assert!(serving.renew_if_due(late).unwrap());
        assert_eq!(serving.not_after(), late + CERTIFICATE_LIFETIME);
    }

    #[test]
    fn an_authority_in_its_last_year_is_signed_anew_and_what_it_signed_stays_good() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), "monopod-ca", now()).unwrap();
        let before = first.issue_client("ann", &[], now()).unwrap();
        let late = now() + SignedDuration::from_hours(24 * 365 * 9 + 24);
        let second = Authority::open(dir.path(), "monopod-ca", late).unwrap();
        assert_ne!(first.certificate_pem(), second.certificate_pem());
        assert_eq!(validity(second.certificate_pem()).unwrap().1, late + AUTHORITY_LIFETIME);
        let signed = |issued: &Issued, authority: &Authority| {
            let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            let (_, issuer) = X509Certificate::from_der(&authority.certificate_der).unwrap();
            certificate.issuer() == issuer.subject()
                && certificate.verify_signature(Some(issuer.public_key())).is_ok()
        };
        assert!(signed(&before, &second), "what was handed out before");
        let after = second.issue_client("bob", &[], late).unwrap();
        assert!(signed(&after, &first), "for who trusts the former certificate");
        let again = Authority::open(dir.path(), "monopod-ca", late).unwrap();
        assert_eq!(again.certificate_pem(), second.certificate_pem(), "once");
    }

    #[test]
    fn a_certificate_gets_the_names_that_a_server_has_by_now() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path(), "monopod-ca", now()).unwrap());
        let serving =
            ServingCertificate::issue(authority, "server", vec!["localhost".into()], now()).unwrap();
        assert!(!serving.rename(vec!["localhost".into()], now()).unwrap());
        assert!(serving.rename(vec!["localhost".into(), "192.0.2.7".into()], now()).unwrap());
        let current = serving.current.read().unwrap();
        let (_, certificate) = X509Certificate::from_der(&current.key.cert[0]).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len();
        assert_eq!(names, 2);
    }
}
