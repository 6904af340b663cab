//! Literals: `1`, `{1, 2}`, `{ { 1, 2 }, { 3, 4 } }`.
//!
//! Floating-point numbers print with the fewest digits that parse to the same value.

use half::{bf16, f16};

use crate::xla::{LiteralProto, PrimitiveType};

/// Returns the literal with all its elements.
pub fn literal(literal: &LiteralProto) -> String {
    literal_within(literal, usize::MAX)
}

/// Returns the literal, or `{...}` if it has more than `limit` elements.
pub(super) fn literal_within(literal: &LiteralProto, limit: usize) -> String {
    let Some(shape) = &literal.shape else { return "/* literal without a shape */".to_string() };
    if shape.element_type() == PrimitiveType::Tuple {
        let elements = literal.tuple_literals.iter().map(|element| literal_within(element, limit));
        return format!("( {} )", super::join(elements));
    }
    let Some(count) = elements(&shape.dimensions) else {
        return "/* literal of an impossible shape */".into();
    };
    if count > limit {
        return "{...}".to_string();
    }
    let scalar = shape.dimensions.is_empty();
    match words(literal, shape.element_type(), scalar) {
        Some(words) if words.len() == count => nested(&shape.dimensions, &mut words.into_iter()),
        Some(words) => format!("/* {} elements for a shape of {count} */", words.len()),
        None => format!("/* literal of {} */", super::dtype_name(shape.element_type())),
    }
}

/// Returns the number of elements of an array; `None` if it is negative or overflows.
fn elements(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(usize::try_from(dim).ok()?))
}

/// Returns the elements as text, row-major; `None` for element types without literals in our messages.
fn words(literal: &LiteralProto, element_type: PrimitiveType, scalar: bool) -> Option<Vec<String>> {
    fn all<T: ToString>(values: &[T]) -> Option<Vec<String>> {
        Some(values.iter().map(ToString::to_string).collect())
    }
    fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
        bytes.as_chunks::<2>().0.iter().copied()
    }
    match element_type {
        PrimitiveType::Pred if scalar => all(&literal.preds),
        PrimitiveType::Pred => all(&literal.preds.iter().map(|&p| u8::from(p)).collect::<Vec<_>>()),
        PrimitiveType::S8 => all(&literal.s8s.iter().map(|&b| b.cast_signed()).collect::<Vec<_>>()),
        PrimitiveType::U8 => all(&literal.u8s),
        PrimitiveType::S16 => all(&pairs(&literal.s16s).map(i16::from_le_bytes).collect::<Vec<_>>()),
        PrimitiveType::U16 => all(&pairs(&literal.u16s).map(u16::from_le_bytes).collect::<Vec<_>>()),
        PrimitiveType::S32 => all(&literal.s32s),
        PrimitiveType::U32 => all(&literal.u32s),
        PrimitiveType::S64 => all(&literal.s64s),
        PrimitiveType::U64 => all(&literal.u64s),
        PrimitiveType::F16 => Some(pairs(&literal.f16s).map(|b| format_f16(f16::from_le_bytes(b))).collect()),
        PrimitiveType::Bf16 => {
            Some(pairs(&literal.bf16s).map(|b| format_bf16(bf16::from_le_bytes(b))).collect())
        }
        PrimitiveType::F32 => Some(literal.f32s.iter().map(|&x| format_f32(x)).collect()),
        PrimitiveType::F64 => Some(literal.f64s.iter().map(|&x| format_f64(x)).collect()),
        PrimitiveType::Invalid
        | PrimitiveType::S1
        | PrimitiveType::S2
        | PrimitiveType::S4
        | PrimitiveType::U1
        | PrimitiveType::U2
        | PrimitiveType::U4
        | PrimitiveType::C64
        | PrimitiveType::C128
        | PrimitiveType::Tuple
        | PrimitiveType::OpaqueType
        | PrimitiveType::Token
        | PrimitiveType::F8e5m2
        | PrimitiveType::F8e4m3
        | PrimitiveType::F8e4m3fn
        | PrimitiveType::F8e4m3b11fnuz
        | PrimitiveType::F8e3m4
        | PrimitiveType::F8e5m2fnuz
        | PrimitiveType::F8e4m3fnuz
        | PrimitiveType::F4e2m1fn
        | PrimitiveType::F8e8m0fnu => None,
    }
}

/// Nests `words`, one per element, in braces by dimension.
fn nested(dims: &[i64], words: &mut impl Iterator<Item = String>) -> String {
    match dims {
        [] => words.next().unwrap_or_default(),
        // XLA prints an array without elements as one row, regardless of its rank.
        _ if dims.contains(&0) => "{  }".to_string(),
        &[size] => format!("{{{}}}", super::join((0..size).map(|_| words.next().unwrap_or_default()))),
        [size, rest @ ..] => format!("{{ {} }}", super::join((0..*size).map(|_| row(rest, words)))),
    }
}

/// A row of an array of rank 2 or more. Unlike an array of rank 1, it has spaces inside the braces.
fn row(dims: &[i64], words: &mut impl Iterator<Item = String>) -> String {
    match dims {
        [] => words.next().unwrap_or_default(),
        [size, rest @ ..] => format!("{{ {} }}", super::join((0..*size).map(|_| row(rest, words)))),
    }
}

/// Returns the shortest decimal that parses to `value`.
pub fn format_f32(value: f32) -> String {
    special(f64::from(value)).unwrap_or_else(|| compact(&format!("{value:e}")))
}

fn format_f64(value: f64) -> String {
    special(value).unwrap_or_else(|| compact(&format!("{value:e}")))
}

/// Returns the shortest decimal that parses to `value`, through `f32` or directly.
pub fn format_bf16(value: bf16) -> String {
    narrow(value.to_f64(), |text| text.parse().is_ok_and(|x: f64| bf16::from_f64(x) == value))
}

/// Returns the shortest decimal that parses to `value`, through `f32` or directly.
pub fn format_f16(value: f16) -> String {
    narrow(value.to_f64(), |text| text.parse().is_ok_and(|x: f64| f16::from_f64(x) == value))
}

/// Returns the shortest decimal of `value` that `same` accepts. Nine significant digits suffice for `f32`,
/// and hence for both half precisions.
fn narrow(value: f64, same: impl Fn(&str) -> bool) -> String {
    special(value).unwrap_or_else(|| {
        let texts = (0..9).map(|digits| format!("{value:.digits$e}"));
        let text = texts.into_iter().find(|text| same(text));
        compact(&text.unwrap_or_else(|| format!("{value:e}")))
    })
}

/// Infinities, NaN, and -0, whose sign XLA's parser keeps only in `-0.0`.
fn special(value: f64) -> Option<String> {
    if value.is_nan() {
        Some(if value.is_sign_negative() { "-nan" } else { "nan" }.to_string())
    } else if value.is_infinite() {
        Some(if value < 0.0 { "-inf" } else { "inf" }.to_string())
    } else if value == 0.0 && value.is_sign_negative() {
        Some("-0.0".to_string())
    } else {
        None
    }
}

/// Converts `1.25e-1` to `0.125`. Exponents stay if plain notation would be long.
fn compact(scientific: &str) -> String {
    let parts = scientific.split_once('e').and_then(|(m, e)| Some((m, e.parse::<i32>().ok()?)));
    let Some((mantissa, exponent)) = parts else { return scientific.to_string() };
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    match exponent {
        0..=8 => {
            let point = exponent as usize + 1;
            let whole = format!("{digits:0<point$}");
            let (whole, fraction) = whole.split_at(point);
            let dot = if fraction.is_empty() { "" } else { "." };
            format!("{sign}{whole}{dot}{fraction}")
        }
        -5..=-1 => format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1) as usize)),
        _ => {
            let (first, fraction) = digits.split_at(1);
            let dot = if fraction.is_empty() { "" } else { "." };
            format!("{sign}{first}{dot}{fraction}e{exponent}")
        }
    }
}
