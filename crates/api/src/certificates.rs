//! Certificate signing requests: what is in one, in the words of Go's libraries where it is none.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// Signs for whoever talks to the API.
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs for nodes that talk to the API.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs for nodes that are talked to.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs anything; only requests of versions before v1 could name it.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// What a PKCS #10 request asks to be certified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SigningRequest {
    /// The common name: the user of a client certificate.
    pub common_name: String,
    /// The organisations: its groups.
    pub organizations: Vec<String>,
    /// DNS names by which a server is known.
    pub dns_names: Vec<String>,
    /// Addresses by which a server is known.
    pub ip_addresses: Vec<IpAddr>,
    /// Mail addresses.
    pub email_addresses: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// The whole request.
    pub der: Vec<u8>,
}

impl SigningRequest {
    /// Reads `spec.request`: PEM, in base64 as JSON carries bytes.
    pub fn parse(request: &str) -> Result<Self, String> {
        Self::parse_pem(&BASE64.decode(request).unwrap_or_default())
    }

    /// Reads a request in PEM.
    pub fn parse_pem(pem: &[u8]) -> Result<Self, String> {
        let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
        let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
        let der = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?.contents;
        let parsed = read(&der)?;
        let subject = &parsed.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).ok()
        };
        let mut request = Self {
            // The last one counts, as Go reads a name.
            common_name: subject.iter_common_name().filter_map(text).last().unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
            ..Self::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| request.add(name));
            }
        }
        Ok(Self { der, ..request })
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.email_addresses.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                self.ip_addresses.extend(address.ok());
            }
            _ => {}
        }
    }

    /// Whether its author holds the key that is to be certified.
    pub fn check_signature(&self) -> Result<(), String> {
        read(&self.der)?.verify_signature().map_err(|error| match error {
            X509Error::SignatureUnsupportedAlgorithm => {
                "x509: cannot verify signature: algorithm unimplemented".to_owned()
            }
            _ => "x509: signature verification failure".to_owned(),
        })
    }
}

/// The end of the first certificate of a chain in PEM, unless it is none.
pub fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let block = Pem::iter_from_buffer(pem).next()?.ok()?;
    let seconds = block.parse_x509().ok()?.validity().not_after.timestamp();
    Timestamp::from_second(seconds).ok()
}

fn read(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|_| "x509: malformed certificate request".to_owned())?;
    if rest.is_empty() { Ok(request) } else { Err("asn1: syntax error: trailing data".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_its_signature_checked() {
        // CN=clerk, O=ferry, a DNS name and an address, signed with a P-256 key.
        const REQUEST: &str = concat!(
            "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQkZUQ0J2QUlCQURBZ01RNHdEQVlEVlFRS0RBVm1aWEp5ZVRFT01Bd0dB",
            "MVVFQXd3RlkyeGxjbXN3V1RBVApCZ2NxaGtqT1BRSUJCZ2dxaGtqT1BRTUJCd05DQUFSQ2NwalpOVXlsYXFXeWVRN1JuTGt0Vm9nemprempsL0Y2",
            "CkVoQmE0Y0NNY0NwbjFiaFNOWmV4dDNvVS9ONGQyUFQrVjhRbkhzT29DckhYNE9YaXNqS2RvRG93T0FZSktvWkkKaHZjTkFRa09NU3N3S1RBbkJn",
            "TlZIUkVFSURBZWdoWmtaWE5yTG1abGNuSjVMbVY0WVcxd2JHVXVZMjl0aHdUQQpBQUlKTUFvR0NDcUdTTTQ5QkFNQ0EwZ0FNRVVDSUZtRmZReWZM",
            "SUkzeW1YRzlDZW1XMjdhbU9jc2phMlk2RXhFCnlDZlB6RDRiQWlFQTFMbGllckJLTkEwcm0yZTBIOWgyckVrVHFnaXV6QS9hQmp1RUhzOFZDUE09",
            "Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo="
        );
        let mut request = SigningRequest::parse(REQUEST).expect("a request");
        assert_eq!(
            (request.common_name.as_str(), request.organizations.as_slice()),
            ("clerk", &["ferry".to_owned()][..])
        );
        assert_eq!(request.dns_names, ["desk.ferry.example.com"]);
        assert_eq!(request.ip_addresses, ["192.0.2.9".parse::<IpAddr>().expect("an address")]);
        assert_eq!(request.check_signature(), Ok(()));
        let last = request.der.len() - 1;
        request.der[last] ^= 1;
        assert!(request.check_signature().is_err());
        let wrong = "PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(SigningRequest::parse("Zm9yZ2Vk"), Err(wrong.to_owned()));
        assert_eq!(SigningRequest::parse("no base64"), Err(wrong.to_owned()));
    }
}
