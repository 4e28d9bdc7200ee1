//! What a certificate may be used for: from the names of the API to the extensions of X.509.

/// Bits of KeyUsage by the names of the API, from the lowest.
const KEY: [(&str, u16); 10] = [
    ("signing", 1),
    ("digital signature", 1),
    ("content commitment", 1 << 1),
    ("key encipherment", 1 << 2),
    ("data encipherment", 1 << 3),
    ("key agreement", 1 << 4),
    ("cert sign", 1 << 5),
    ("crl sign", 1 << 6),
    ("encipher only", 1 << 7),
    ("decipher only", 1 << 8),
];

/// Purposes of ExtendedKeyUsage, in the order in which Go writes them.
const EXTENDED: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", EMAIL),
    ("s/mime", EMAIL),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];
const EMAIL: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 4];

/// The bits of KeyUsage, and the purposes of ExtendedKeyUsage. Other names never pass the API.
pub(super) fn bits(usages: &[&str]) -> (u16, Vec<&'static [u64]>) {
    let has = |name: &str| usages.contains(&name);
    let key = KEY.iter().filter(|(name, _)| has(name)).fold(0, |bits, (_, bit)| bits | bit);
    let mut extended: Vec<&[u64]> =
        EXTENDED.iter().filter(|(name, _)| has(name)).map(|(_, purpose)| *purpose).collect();
    extended.dedup();
    (key, extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits_and_purposes_once_each() {
        let (key, extended) =
            bits(&["client auth", "s/mime", "key encipherment", "signing", "email protection"]);
        assert_eq!(key, 0b101);
        assert_eq!(extended, [&[1, 3, 6, 1, 5, 5, 7, 3, 2][..], EMAIL]);
    }
}
