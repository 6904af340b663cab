//! Value parsers of numeric options: an invalid number is refused before anything is loaded.
//!
//! Each returns the reason for which clap then names the option and the value.

/// Parses an integer of at least 1.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    integer(text, 1)
}

/// Parses a number of steps, at least 1.
pub fn steps(text: &str) -> Result<u64, String> {
    integer(text, 1)
}

/// Parses an integer of at least 2.
pub fn at_least_two(text: &str) -> Result<usize, String> {
    integer(text, 2)
}

/// Parses an integer of at least 0.
pub fn whole(text: &str) -> Result<usize, String> {
    integer(text, 0)
}

/// Parses an integer of 32 bits, at least 0.
pub fn whole_32(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("must be an integer from 0 to {}", u32::MAX))
}

/// Parses an integer of 64 bits, at least 0.
pub fn whole_64(text: &str) -> Result<u64, String> {
    integer(text, 0)
}

/// Parses a finite number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

/// Parses a finite number of at least 0.
pub fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "at least 0")
}

/// Parses a finite number.
pub fn finite(text: &str) -> Result<f64, String> {
    number(text, |_| true, "a number")
}

/// Parses a number of bytes, such as `500MB` or `4GiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => Some(1),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok().filter(|number| *number > 0);
    let size = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    size.ok_or_else(|| "a size is a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 4GiB".into())
}

/// Parses a share of a whole that leaves something: in [0, 1).
pub fn share(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "in [0, 1)")
}

/// Parses a share of a whole that is neither empty nor everything: in (0, 1).
pub fn inner_share(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x < 1.0, "in (0, 1)")
}

/// Parses a probability mass: in (0, 1].
pub fn probability(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "in (0, 1]")
}

fn integer<N: TryFrom<u64>>(text: &str, least: u64) -> Result<N, String> {
    let wrong = || format!("must be an integer of at least {least}");
    let n: u64 = text.parse().map_err(|_| wrong())?;
    if n < least {
        return Err(wrong());
    }
    N::try_from(n).map_err(|_| "must be smaller".to_owned())
}

fn number(text: &str, is_valid: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|_| format!("must be {range}"))?;
    if x.is_finite() && is_valid(x) { Ok(x) } else { Err(format!("must be {range}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<N>(parse: fn(&str) -> Result<N, String>, good: &[&str], bad: &[&str]) {
        good.iter().for_each(|text| assert!(parse(text).is_ok(), "`{text}`"));
        bad.iter().for_each(|text| assert!(parse(text).is_err(), "`{text}`"));
    }

    #[test]
    fn ranges() {
        check(at_least_one, &["1", "18446744073709551615"], &["0", "-1", "1.5", "", "18446744073709551616"]);
        check(at_least_two, &["2"], &["1"]);
        check(whole, &["0", "7"], &["-1", "x"]);
        check(
            bytes,
            &["1", "5B", "20GiB", "500MB"],
            &["0", "-1", "4 GiB", "4gib", "1.5GiB", "99999999999TiB", ""],
        );
        check(whole_64, &["0", "18446744073709551615"], &["-1", "18446744073709551616"]);
        check(whole_32, &["0", "4294967295"], &["-1", "4294967296", "1.5"]);
        check(positive, &["0.5", "1e9"], &["0", "-0.5", "inf", "nan", "x"]);
        check(not_negative, &["0", "2"], &["-1e-9", "nan"]);
        check(finite, &["-3", "0"], &["inf", "-inf", "nan"]);
        check(share, &["0", "0.999"], &["1", "-0.1", "1.5", "nan"]);
        check(inner_share, &["0.05"], &["0", "1"]);
        check(probability, &["1", "0.9"], &["0", "1.1"]);
    }
}
