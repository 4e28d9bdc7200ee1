//! `$(NAME)` in commands, arguments, values and sub-paths.

/// Replaces `$(NAME)` by what `lookup` knows; `$$` is one dollar; what is unknown stays.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match after.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                &after[1..]
            }
            Some(b'(') => expand_name(&mut out, after, &lookup),
            _ => {
                out.push('$');
                after
            }
        };
    }
    out + rest
}

/// Handles what follows the dollar of `$(…`; returns the rest.
fn expand_name<'a>(out: &mut String, after: &'a str, lookup: &impl Fn(&str) -> Option<String>) -> &'a str {
    let Some(end) = after.find(')') else {
        out.push_str("$(");
        return &after[1..];
    };
    let name = &after[1..end];
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => out.push_str(&format!("$({name})")),
    }
    &after[end + 1..]
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn references_are_replaced_as_upstream_does() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_string());
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
