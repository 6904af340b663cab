//! Control characters, made visible: names in other people's files may contain escape sequences, which a
//! terminal obeys, and marks that reverse the direction of text.

use std::{borrow::Cow, fmt::Write};

/// Returns a text in which control characters, except tabs and ends of lines, and marks of direction are
/// written as in JSON: `\u001b`. Text without them is returned as it is, and JSON stays JSON.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String does not fail");
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// True for characters that a reader does not see and that change what he sees.
fn is_hidden(c: char) -> bool {
    let is_direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_direction || c.is_control() && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(visible(text), expect);
    }

    #[test]
    fn escapes_are_visible_and_text_is_unchanged() {
        check("näive\t\u{1f600}\n", "näive\t\u{1f600}\n");
        check("a\u{1b}[31mb\r\u{7f}", "a\\u001b[31mb\\u000d\\u007f");
        // The one-character forms of `ESC [` and `ESC ]`, and a right-to-left override.
        check("\u{9b}2J\u{9d}0;x\u{7}", "\\u009b2J\\u009d0;x\\u0007");
        check("a\u{202e}b", "a\\u202eb");
    }
}
