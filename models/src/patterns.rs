//! Patterns of parameter names.

use std::{convert::Infallible, fmt, str::FromStr};

/// Patterns of names, separated by commas. `*` stands for any text, also with slashes and also empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Returns true if a pattern describes all of `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }

    /// True if there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the patterns that describe none of `names`.
    pub fn idle<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Vec<&str> {
        let idle = |pattern: &&String| !names.clone().any(|name| matches(pattern, name));
        self.0.iter().filter(idle).map(String::as_str).collect()
    }
}

impl From<&str> for Patterns {
    fn from(text: &str) -> Self {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        Self(words.map(str::to_owned).collect())
    }
}

impl FromStr for Patterns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Returns true if the pattern describes all of `name`.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(patterns: &str, name: &str, expected: bool) {
        assert_eq!(Patterns::from(patterns).has(name), expected, "{name}");
    }

    #[test]
    fn patterns_describe_whole_names() {
        check("", "embedding", false);
        check("embedding", "embedding", true);
        check("embedding", "embedding/x", false);
        check("encoder/*, embedding", "encoder/ffn/wi", true);
        check("encoder/*,embedding", "embedding", true);
        check("encoder/*,embedding", "decoder/ffn/wi", false);
        check("*/ffn/*", "encoder/block_0/ffn/wi", true);
        check("*/ffn/*", "encoder/ffn", false);
        check("*/w*o", "ffn/wo", true);
        check("a*a", "a", false);
        check("*a*b*c", "xaybzc", true);
        check("*a*b*c", "xaybzcd", false);
        check("*a*b*c", "xbyazc", false);
    }

    #[test]
    fn patterns_without_a_name_are_found() {
        let patterns = Patterns::from("a/*,b,*");
        assert_eq!(patterns.idle(["a/x", "c"].into_iter()), ["b"], "`*` describes all");
        assert_eq!(patterns.to_string(), "a/*,b,*");
    }
}
