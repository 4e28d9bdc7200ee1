//! Certificates for keys of others: what a PKCS #10 request asks for, with the uses and the time its signer grants.
//!
//! The encoding is not rcgen's: that keeps one value of each attribute of a name, where a client has as many
//! organisations as groups, and it guesses the parameters of the key from the request's signature. Of the
//! request its key, its names and the attributes of its subject that Go knows come into the certificate, no
//! extension that it asks for.

use jiff::Timestamp;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SigningKey,
};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;
use yasna::models::{ObjectIdentifier, TaggedDerValue};
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, DERWriterSeq, PCBit, Tag, construct_der};

use super::{Authority, Error, issue_error};

/// What is to be signed.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The request (PKCS #10) in DER.
    pub request: &'a [u8],
    /// The extension KeyUsage; its first bit, digitalSignature, is the lowest here.
    pub key_usage: u16,
    /// The extension ExtendedKeyUsage.
    pub extended_key_usages: &'a [&'static [u64]],
    /// When it becomes valid.
    pub not_before: Timestamp,
    /// When it ends, unless the authority ends before.
    pub not_after: Timestamp,
}

/// Attributes of a subject below 2.5.4 in the order in which Go writes them, and whether all values count
/// or only the last: country, organisation, unit, locality, province, street, postal code, common name and
/// serial number.
const ATTRIBUTES: [(u64, bool); 9] =
    [(6, true), (10, true), (11, true), (7, true), (8, true), (9, true), (17, true), (3, false), (5, false)];

impl Authority {
    /// Signs the key of a request and returns the certificate as PEM.
    pub fn certify(&self, order: &Order<'_>, now: Timestamp) -> Result<String, Error> {
        let malformed = |reason: String| Error::Malformed { what: "the request".into(), reason };
        let (_, request) =
            X509CertificationRequest::from_der(order.request).map_err(|e| malformed(e.to_string()))?;
        request.verify_signature().map_err(|e| malformed(e.to_string()))?;
        let (_, issuer) =
            X509Certificate::from_der(&self.certificate_der).map_err(|e| malformed(e.to_string()))?;
        let end = Timestamp::from_second(issuer.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
        if end <= now || end <= order.not_before {
            return Err(Error::Expired(end));
        }
        let key = self.issuer.key();
        let algorithm = algorithm(key)?;
        let mut serial = [0; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| Error::Random)?;
        let certificate = Tbs {
            serial: u128::from_be_bytes(serial) >> 1,
            algorithm: &algorithm,
            issuer: &issuer,
            request: &request,
            order,
            not_after: order.not_after.min(end),
        };
        let tbs = construct_der(|writer| certificate.write(writer));
        let signature = key.sign(&tbs).map_err(issue_error("a request"))?;
        let der = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&tbs);
                writer.next().write_der(&algorithm);
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem(&der))
    }
}

/// What is signed: the certificate without its signature.
struct Tbs<'a> {
    serial: u128,
    algorithm: &'a [u8],
    issuer: &'a X509Certificate<'a>,
    request: &'a X509CertificationRequest<'a>,
    order: &'a Order<'a>,
    not_after: Timestamp,
}

impl Tbs<'_> {
    fn write(&self, writer: DERWriter<'_>) {
        let asked = &self.request.certification_request_info;
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            writer.next().write_bigint_bytes(&self.serial.to_be_bytes(), true);
            writer.next().write_der(self.algorithm);
            writer.next().write_der(self.issuer.subject().as_raw());
            writer.next().write_sequence(|writer| {
                write_time(writer.next(), self.order.not_before);
                write_time(writer.next(), self.not_after);
            });
            write_subject(writer.next(), &asked.subject);
            writer.next().write_der(asked.subject_pki.raw);
            writer.next().write_tagged(Tag::context(3), |writer| {
                writer.write_sequence(|writer| self.write_extensions(writer));
            });
        });
    }

    fn write_extensions(&self, writer: &mut DERWriterSeq<'_>) {
        if self.order.key_usage != 0 {
            write_extension(writer, 15, true, &key_usage(self.order.key_usage));
        }
        if !self.order.extended_key_usages.is_empty() {
            let content = construct_der(|writer| {
                writer.write_sequence(|writer| {
                    for usage in self.order.extended_key_usages {
                        writer.next().write_oid(&ObjectIdentifier::from_slice(usage));
                    }
                });
            });
            write_extension(writer, 37, false, &content);
        }
        // Basic constraints: not an authority.
        write_extension(writer, 19, true, &construct_der(|writer| writer.write_sequence(|_| ())));
        if let Some(identifier) = key_identifier(self.issuer) {
            let content = construct_der(|writer| {
                writer.write_sequence(|writer| write_context(writer.next(), 0, identifier));
            });
            write_extension(writer, 35, false, &content);
        }
        if let Some(names) = alternative_names(self.request) {
            let has_subject = values(&self.request.certification_request_info.subject).next().is_some();
            write_extension(writer, 17, !has_subject, &names);
        }
    }
}

/// An extension below 2.5.29.
fn write_extension(writer: &mut DERWriterSeq<'_>, number: u64, critical: bool, content: &[u8]) {
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 29, number]));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(content);
    });
}

/// Bytes under a tag whose meaning the place decides.
fn write_context(writer: DERWriter<'_>, number: u64, bytes: &[u8]) {
    let value = TaggedDerValue::from_tag_pc_and_bytes(Tag::context(number), PCBit::Primitive, bytes.to_vec());
    writer.write_tagged_der(&value);
}

/// Two digits of the year as long as they are clear (RFC 5280, 4.1.2.5).
fn write_time(writer: DERWriter<'_>, time: Timestamp) {
    let text = time.strftime("%Y%m%d%H%M%SZ").to_string();
    let (tag, text) = match text.get(..4) {
        Some(year) if ("1950".."2050").contains(&year) => (TAG_UTCTIME, &text[2..]),
        _ => (TAG_GENERALIZEDTIME, text.as_str()),
    };
    let value = TaggedDerValue::from_tag_pc_and_bytes(tag, PCBit::Primitive, text.as_bytes().to_vec());
    writer.write_tagged_der(&value);
}

/// The attributes that count, each with its values.
fn values<'a>(subject: &'a X509Name<'_>) -> impl Iterator<Item = (u64, Vec<&'a str>)> {
    ATTRIBUTES.into_iter().filter_map(|(number, all)| {
        let of_type = subject
            .iter_attributes()
            .filter(move |attribute| attribute.attr_type().iter().is_some_and(|id| id.eq([2, 5, 4, number])));
        let mut values: Vec<&str> = of_type.filter_map(|attribute| attribute.as_str().ok()).collect();
        if !all {
            // Two names could be read as one by who signs and as the other by who is asked.
            values.drain(..values.len().saturating_sub(1));
        }
        (!values.is_empty()).then_some((number, values))
    })
}

fn write_subject(writer: DERWriter<'_>, subject: &X509Name<'_>) {
    writer.write_sequence(|writer| {
        for (number, values) in values(subject) {
            writer.next().write_set_of(|writer| {
                for value in values {
                    writer.next().write_sequence(|writer| {
                        writer.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 4, number]));
                        writer.next().write_utf8_string(value);
                    });
                }
            });
        }
    });
}

/// Names of hosts, mail addresses, addresses and URIs; other kinds are not taken over.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    let mut names: Vec<(u64, &[u8])> = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(asked) = extension else { continue };
        names.extend(asked.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((2, name.as_bytes())),
            GeneralName::RFC822Name(name) => Some((1, name.as_bytes())),
            GeneralName::IPAddress(address) => Some((7, *address)),
            GeneralName::URI(uri) => Some((6, uri.as_bytes())),
            _ => None,
        }));
    }
    let write = |writer: &mut DERWriterSeq<'_>| {
        for (number, bytes) in &names {
            write_context(writer.next(), *number, bytes);
        }
    };
    (!names.is_empty()).then(|| construct_der(|writer| writer.write_sequence(write)))
}

fn key_usage(bits: u16) -> Vec<u8> {
    let bytes = bits.to_le_bytes().map(u8::reverse_bits);
    let length = usize::try_from(u16::BITS - bits.leading_zeros()).unwrap_or_default();
    construct_der(|writer| writer.write_bitvec_bytes(&bytes[..length.div_ceil(8)], length))
}

fn key_identifier<'a>(issuer: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    issuer.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}

/// How the authority signs, as it stands in a certificate.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, Error> {
    const RSA_SHA256: &[u64] = &[1, 2, 840, 113_549, 1, 1, 11];
    let known: [(_, &[u64]); 4] = [
        (&PKCS_ECDSA_P256_SHA256, &[1, 2, 840, 10_045, 4, 3, 2]),
        (&PKCS_ECDSA_P384_SHA384, &[1, 2, 840, 10_045, 4, 3, 3]),
        (&PKCS_ED25519, &[1, 3, 101, 112]),
        (&PKCS_RSA_SHA256, RSA_SHA256),
    ];
    let found = known.into_iter().find(|(algorithm, _)| *algorithm == key.algorithm());
    let Some((_, identifier)) = found else {
        let reason = "it signs by an algorithm that is not known here".to_owned();
        return Err(Error::Malformed { what: "ca.key".into(), reason });
    };
    Ok(construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&ObjectIdentifier::from_slice(identifier));
            if identifier == RSA_SHA256 {
                writer.next().write_null();
            }
        });
    }))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for at in (0..text.len()).step_by(64) {
        pem.push_str(&text[at..text.len().min(at + 64)]);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use rcgen::{CertificateParams, CustomExtension, DnType, SanType};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn authority() -> Authority {
        Authority::open(tempfile::tempdir().unwrap().path(), "monopod-ca", now()).unwrap()
    }

    fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    fn certify(authority: &Authority, request: &[u8], not_after: Timestamp) -> CertificateDer<'static> {
        let order = Order {
            request,
            key_usage: 0b1_0000_0101,
            extended_key_usages: &[CLIENT_AUTH],
            not_before: now(),
            not_after,
        };
        let pem = authority.certify(&order, now()).unwrap();
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_granted_and_is_signed_by_its_authority() {
        let authority = authority();
        let asked = request(|params| {
            params.distinguished_name.push(DnType::CommonName, "ann");
            params.distinguished_name.push(DnType::OrganizationName, "staff");
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "crew");
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
            ];
            // What it asks of its own is not for it to say: basic constraints of an authority.
            let wish = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
            params.custom_extensions = vec![wish];
        });
        let end = now() + SignedDuration::from_hours(1);
        let der = certify(&authority, &asked, end);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let (_, issuer) = X509Certificate::from_der(authority.certificate_der()).unwrap();
        certificate.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(certificate.issuer().as_raw(), issuer.subject().as_raw());
        let identity = crate::pki::identity(&der).unwrap();
        assert_eq!((identity.user.as_str(), identity.groups.len()), ("ann", 2));
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.decipher_only());
        assert_eq!(usage.flags, 0b1_0000_0101);
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 2);
        assert_eq!(certificate.validity().not_after.timestamp(), end.as_second());
        let (_, parsed) = X509CertificationRequest::from_der(&asked).unwrap();
        assert_eq!(certificate.public_key().raw, parsed.certification_request_info.subject_pki.raw);
    }

    #[test]
    fn who_has_two_names_is_known_by_the_one_that_was_judged() {
        let asked = request(|params| {
            params.distinguished_name.push(DnType::CommonName, "system:admin");
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "system:node:a");
        });
        let der = certify(&authority(), &asked, now() + SignedDuration::from_hours(1));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject().iter_common_name().count(), 1);
        assert_eq!(crate::pki::identity(&der).unwrap().user, "system:node:a");
    }

    #[test]
    fn nothing_outlives_its_authority_and_an_authority_that_has_ended_signs_nothing() {
        let authority = authority();
        let asked = request(|params| params.distinguished_name.push(DnType::CommonName, "ann"));
        let der = certify(&authority, &asked, now() + SignedDuration::from_hours(24 * 365 * 40));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let (_, issuer) = X509Certificate::from_der(authority.certificate_der()).unwrap();
        assert_eq!(certificate.validity().not_after, issuer.validity().not_after);
        let late = now() + SignedDuration::from_hours(24 * 365 * 11);
        let order = Order {
            request: &asked,
            key_usage: 1,
            extended_key_usages: &[],
            not_before: late,
            not_after: late + SignedDuration::from_hours(1),
        };
        assert!(matches!(authority.certify(&order, late), Err(Error::Expired(_))));
    }

    #[test]
    fn a_request_that_somebody_changed_is_refused() {
        let mut asked = request(|params| params.distinguished_name.push(DnType::CommonName, "ann"));
        let at = asked.windows(3).position(|bytes| bytes == b"ann").unwrap();
        asked[at..at + 3].copy_from_slice(b"bob");
        let order = Order {
            request: &asked,
            key_usage: 1,
            extended_key_usages: &[],
            not_before: now(),
            not_after: now(),
        };
        assert!(matches!(authority().certify(&order, now()), Err(Error::Malformed { .. })));
    }

    #[test]
    fn times_are_written_as_short_as_they_may() {
        let written = |time: &str| construct_der(|writer| write_time(writer, time.parse().unwrap()));
        assert_eq!(written("2049-12-31T23:59:59Z"), b"\x17\x0d491231235959Z");
        assert_eq!(written("2050-01-01T00:00:00Z"), b"\x18\x0f20500101000000Z");
    }
}
