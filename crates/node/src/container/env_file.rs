//! Files of variables in upstream's strict format: what a POSIX shell would read, and less of it.

/// The value of a key; `None`: the file does not set it. The first line that sets it counts, and what comes
/// after it is not looked at.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Result<Option<&'a str>, String> {
    let mut rest = text;
    let mut number = 1;
    while !rest.is_empty() {
        let wrong = |why: &str| Err(format!("invalid environment variable format at line {number}: {why}"));
        let start = rest.trim_start_matches([' ', '\t']);
        if start.starts_with(['\n', '\r', '#']) || start.is_empty() {
            rest = start.split_once('\n').map_or("", |(_, rest)| rest);
            number += 1;
            continue;
        }
        let line = start.split('\n').next().unwrap_or_default();
        let Some((name, _)) = line.split_once('=') else { return wrong("missing '='") };
        if name.is_empty() {
            return wrong("missing variable name");
        }
        if name.ends_with([' ', '\t']) {
            return wrong("whitespace before '=' is not allowed");
        }
        let Some(quoted) = start[name.len() + 1..].strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let Some((value, after)) = quoted.split_once('\'') else { return wrong("unclosed single quote") };
        let (tail, next) = after.split_once('\n').unwrap_or((after, ""));
        let comment = tail.trim_start_matches([' ', '\t', '\r']);
        if !(comment.is_empty() || comment.starts_with('#') && comment.len() < tail.len()) {
            return wrong("unexpected content after closing quote");
        }
        if name == key {
            return Ok(Some(value));
        }
        number += 1 + value.matches('\n').count();
        rest = next;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_stands_between_the_quotes_and_nothing_of_it_is_expanded() {
        let text = "# first\n\n  A='one'\n\tB='  $HOME \"two\" #x=\\n '  # said\nC='three\n\nfour'\nD=''\n";
        let of = |key| value(text, key).unwrap();
        assert_eq!(of("A"), Some("one"));
        assert_eq!(of("B"), Some("  $HOME \"two\" #x=\\n "));
        assert_eq!(of("C"), Some("three\n\nfour"));
        assert_eq!((of("D"), of("E")), (Some(""), None));
        assert_eq!(value("A='x'", "A"), Ok(Some("x")), "without an end of the line");
        assert_eq!(value("A='1'\nA='2'", "A"), Ok(Some("1")));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, why) in [
            ("A='x'\nB=y\n", "at line 2: value must be enclosed in single quotes"),
            ("A=\"x\"", "at line 1: value must be enclosed in single quotes"),
            ("A= 'x'", "at line 1: value must be enclosed in single quotes"),
            ("A ='x'", "at line 1: whitespace before '=' is not allowed"),
            ("='x'", "at line 1: missing variable name"),
            ("A='x\ny'\nB", "at line 3: missing '='"),
            ("A='x''y'", "at line 1: unexpected content after closing quote"),
            ("A='x'#y", "at line 1: unexpected content after closing quote"),
            ("A='x", "at line 1: unclosed single quote"),
        ] {
            let said = value(text, "Z").unwrap_err();
            assert!(said.ends_with(why), "{text:?}: {said}");
        }
        assert_eq!(value("A='x'\nnonsense", "A"), Ok(Some("x")), "what comes after is not looked at");
    }
}
