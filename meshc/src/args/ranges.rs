//! Ranges of numeric options.

/// Parses a whole number from 1.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{text}` is not a whole number from 1"))
}
