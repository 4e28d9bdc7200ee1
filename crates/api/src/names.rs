//! Names and identifiers the server makes, from random bytes that the caller brings.

/// The characters of generated names: no vowels and no look-alikes, so that no suffix
/// spells a word or is misread.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Characters appended to `generateName`.
pub const SUFFIX_LENGTH: usize = 5;
/// Longest name that is generated: a DNS label.
const MAX_NAME: usize = 63;

/// `generateName` with its suffix; a long base is cut so that 63 characters are left.
pub fn generate(base: &str, random: [u8; SUFFIX_LENGTH]) -> String {
    let mut end = base.len().min(MAX_NAME - SUFFIX_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = String::with_capacity(end + SUFFIX_LENGTH);
    name.push_str(&base[..end]);
    name.push_str(&suffix(random));
    name
}

/// Random bytes in the alphabet of generated names.
pub fn suffix<const N: usize>(random: [u8; N]) -> String {
    random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// A random uid: RFC 9562 version 4.
pub fn uuid_v4(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut out = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        for nibble in [byte >> 4, byte & 0x0f] {
            out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_is_the_base_and_five_characters() {
        assert_eq!(generate("web-", [0, 1, 26, 27, 255]), "web-bc9bq");
        let long = generate(&"x".repeat(80), [0; 5]);
        assert_eq!(long.len(), 63);
        assert!(long.ends_with("xbbbbb"));
    }

    #[test]
    fn a_uid_says_its_version_and_variant() {
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
