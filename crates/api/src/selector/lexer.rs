//! The words of a label selector.

/// A word of the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A symbol run that begins no operator.
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

/// Keywords and symbols; everything else is an identifier.
fn known(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// All tokens with their texts, ending with [`Token::End`].
pub(super) fn scan(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    // Upstream's lexer takes a NUL for the end of the text.
    let mut rest = text.split('\0').next().unwrap_or_default().trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, length, literal) = if is_symbol(first) { symbol(rest) } else { word(rest) };
        tokens.push((token, literal));
        rest = rest[length..].trim_start_matches(is_space);
    }
    tokens.push((Token::End, String::new()));
    tokens
}

fn word(rest: &str) -> (Token, usize, String) {
    let length = rest.find(|c| is_symbol(c) || is_space(c)).unwrap_or(rest.len());
    let literal = &rest[..length];
    (known(literal).unwrap_or(Token::Identifier), length, literal.to_owned())
}

/// The longest operator at the start: `==` before `=`, but `=!` is `=` and then `!`.
fn symbol(rest: &str) -> (Token, usize, String) {
    let run = &rest[..rest.find(|c| !is_symbol(c)).unwrap_or(rest.len())];
    let longest = (1..=run.len().min(2)).rev().find_map(|n| Some((known(&run[..n])?, n)));
    match longest {
        Some((token, length)) => (token, length, run[..length].to_owned()),
        None => (Token::Error, run.len(), format!("error expected: keyword found '{run}'")),
    }
}
