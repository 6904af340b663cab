//! The lexer: words, numbers, strings and marks.
//!
//! A word is what [`crate::Name::is_word`] accepts, except that it ends before `//` (a comment) and `->`.

/// Kinds of token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `d_model`, `models/t5_tiny.rs`.
    Word,
    /// `"any text"`, quotes included.
    Text,
    /// `12`, `-1.5e-3`, `-inf`.
    Number,
    /// `%12`, `%logits`.
    Value,
    /// `->`.
    Arrow,
    /// One of `( ) [ ] { } , : = @ + !`.
    Mark(u8),
    /// The end of the text.
    End,
}

/// A piece of the text, by byte offsets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: u32,
    pub(super) end: u32,
    /// True for the first token of a line.
    pub(super) first: bool,
}

/// Splits `text` (of less than 4 GiB) into tokens, the last of which is [`Kind::End`]. Text that is no token
/// is skipped and reported with its offset.
pub(super) fn lex(text: &str) -> (Vec<Token>, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(text.len() / 4);
    let mut errors = Vec::new();
    let mut at = 0;
    let mut first = true;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\n' => {
                first = true;
                at += 1;
            }
            b' ' | b'\t' | b'\r' => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = line_end(bytes, at),
            _ => {
                let start = at;
                let (found, end) = token(text, at);
                at = end;
                match found {
                    Ok(kind) => tokens.push(Token { kind, start: start as u32, end: end as u32, first }),
                    Err(message) => errors.push((start, message)),
                }
                first = false;
            }
        }
    }
    tokens.push(Token { kind: Kind::End, start: at as u32, end: at as u32, first: true });
    (tokens, errors)
}

/// Returns the kind of the token at `at`, or an error, and the end of the token.
fn token(text: &str, at: usize) -> (Result<Kind, String>, usize) {
    let bytes = text.as_bytes();
    match bytes[at] {
        mark @ (b'(' | b')' | b'[' | b']' | b'{' | b'}' | b',' | b':' | b'=' | b'@' | b'+' | b'!') => {
            (Ok(Kind::Mark(mark)), at + 1)
        }
        b'-' if bytes.get(at + 1) == Some(&b'>') => (Ok(Kind::Arrow), at + 2),
        b'"' => match string_end(bytes, at) {
            Some(end) => (Ok(Kind::Text), end),
            None => {
                let message = "this string does not end on its line: close it with `\"`";
                (Err(message.to_owned()), line_end(bytes, at))
            }
        },
        b'%' if bytes.get(at + 1).is_some_and(|b| is_word_byte(*b)) => {
            (Ok(Kind::Value), word_end(bytes, at + 1))
        }
        b'0'..=b'9' | b'-' => match number_end(bytes, at) {
            Some(end) => (Ok(Kind::Number), end),
            None => (Err("`-` without a number".to_owned()), at + 1),
        },
        b'a'..=b'z' | b'A'..=b'Z' | b'_' => (Ok(Kind::Word), word_end(bytes, at)),
        _ => {
            let c = text[at..].chars().next().unwrap_or('?');
            let message = format!("`{}` is not part of the language outside of strings", c.escape_debug());
            (Err(message), at + c.len_utf8())
        }
    }
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n)
}

fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|b| is_word_byte(*b)) {
        if matches!(&bytes[at..], [b'/', b'/', ..] | [b'-', b'>', ..]) {
            break;
        }
        at += 1;
    }
    at
}

/// Returns the end of the string that opens at `at`; `None` if it does not end on its line.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        match bytes.get(i)? {
            b'"' => return Some(i + 1),
            b'\n' => return None,
            b'\\' if bytes.get(i + 1).is_some_and(|b| *b != b'\n') => i += 2,
            _ => i += 1,
        }
    }
}

/// Returns the end of the number at `at`: digits, a fraction, an exponent; or `-inf` and `-nan`.
fn number_end(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |mut i: usize| {
        while bytes.get(i).is_some_and(u8::is_ascii_digit) {
            i += 1;
        }
        i
    };
    let start = at + usize::from(bytes[at] == b'-');
    let mut end = digits(start);
    if end == start {
        let word = bytes.get(start..start + 3)?;
        return (word == b"inf" || word == b"nan").then_some(start + 3);
    }
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    Some(end)
}
