//! Heat maps of expert load as embedded PNG images, with a column per step and a row per expert.
//!
//! The colour is the load relative to an even load on a logarithmic scale: grey is even, blue is less, red is
//! more. The colours are readable on light and dark backgrounds.

use crate::chart::Points;
use flate2::{Compression, Crc, write::ZlibEncoder};
use std::io::Write;

/// Values of several things at once, such as the loads of the experts of a layer, by step.
pub type Rows = Vec<(u64, Vec<f64>)>;

/// Largest number of columns of an image.
const MOST: usize = 600;
/// The ends of the colour scale, as powers of two: a quarter of an even load and four times an even load.
const OCTAVES: f64 = 2.0;

type Pixel = [u8; 3];

const LESS: Pixel = [33, 92, 184];
const EVEN: Pixel = [176, 178, 182];
const MORE: Pixel = [199, 48, 38];
/// The colour of missing values.
const UNKNOWN: Pixel = [120, 120, 120];

/// Renders the loads of a layer's experts, and below them the share of dropped tokens if it is known.
pub fn map(layer: usize, loads: &Rows, dropped: Option<&Points>) -> String {
    let (Some((first, _)), Some((last, one))) = (loads.first(), loads.last()) else { return String::new() };
    let experts = one.len();
    let each = loads.len().div_ceil(MOST).max(1);
    let columns: Vec<Vec<f64>> = loads
        .chunks(each)
        .map(|part| {
            let mean = |e: usize| {
                let known: Vec<f64> =
                    part.iter().filter_map(|(_, v)| v.get(e)).copied().filter(|v| v.is_finite()).collect();
                if known.is_empty() { f64::NAN } else { known.iter().sum::<f64>() / known.len() as f64 }
            };
            (0..experts).map(mean).collect()
        })
        .collect();
    let picture: Vec<Vec<Pixel>> =
        (0..experts).map(|e| columns.iter().map(|c| of_load(c[e] * experts as f64)).collect()).collect();
    let height = (experts * 9).clamp(36, 420);
    let mut out = format!(
        "<figure><figcaption>layer {layer}: {experts} experts, steps {first} to {last}</figcaption>\n\
         <img style=\"height:{height}px\" alt=\"load of the experts of layer {layer} over steps\" src=\"{}\">\n",
        source(&picture)
    );
    if let Some(dropped) = dropped.filter(|d| !d.is_empty()) {
        let each = dropped.len().div_ceil(MOST).max(1);
        let mean = |part: &[(u64, f64)]| part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64;
        let row: Vec<Pixel> = dropped.chunks(each).map(|part| of_share(mean(part))).collect();
        let all = dropped.iter().map(|p| p.1).sum::<f64>() / dropped.len() as f64;
        out += &format!(
            "<img class=\"drops\" alt=\"share of dropped tokens over steps\" src=\"{}\">\n\
             <figcaption>dropped tokens: {:.2} % on average; grey is 0 %, red is 50 % or more</figcaption>\n",
            source(&[row]),
            all * 100.0
        );
    }
    out + "</figure>\n"
}

/// Renders the colour scale.
pub fn legend() -> String {
    let row: Vec<Pixel> =
        (0..130).map(|i| of_load(2f64.powf(OCTAVES * (f64::from(i) / 64.5 - 1.0)))).collect();
    format!(
        "<img class=\"legend\" alt=\"scale\" src=\"{}\"><div class=\"scale\"><span>¼ of an even load</span><span>even</span><span>4 times</span></div>\n",
        source(&[row])
    )
}

fn of_load(relative: f64) -> Pixel {
    if relative.is_nan() {
        return UNKNOWN;
    }
    // A load of 0 has the colour of the lower end.
    let at = (relative.max(1e-9).log2() / OCTAVES).clamp(-1.0, 1.0);
    if at < 0.0 { between(EVEN, LESS, -at) } else { between(EVEN, MORE, at) }
}

fn of_share(share: f64) -> Pixel {
    if share.is_nan() { UNKNOWN } else { between(EVEN, MORE, (share * 2.0).clamp(0.0, 1.0)) }
}

fn between(a: Pixel, b: Pixel, at: f64) -> Pixel {
    std::array::from_fn(|i| (f64::from(a[i]) + (f64::from(b[i]) - f64::from(a[i])) * at).round() as u8)
}

/// Returns an image as the `src` of an `img` element.
fn source(rows: &[Vec<Pixel>]) -> String {
    format!("data:image/png;base64,{}", base64(&png(rows)))
}

/// Encodes an image as PNG: 8 bits per channel, no filter.
fn png(rows: &[Vec<Pixel>]) -> Vec<u8> {
    let width = rows.first().map_or(0, Vec::len) as u32;
    let mut head = [width.to_be_bytes(), (rows.len() as u32).to_be_bytes()].concat();
    head.extend([8, 2, 0, 0, 0]);
    let raw: Vec<u8> =
        rows.iter().flat_map(|row| std::iter::once(0).chain(row.iter().flatten().copied())).collect();
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    let packed =
        packed.write_all(&raw).and_then(|()| packed.finish()).expect("writing to a Vec does not fail");
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [(b"IHDR", &head), (b"IDAT", &packed), (b"IEND", &Vec::new())] {
        let mut crc = Crc::new();
        crc.update(name);
        crc.update(data);
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(name);
        out.extend(data);
        out.extend(crc.sum().to_be_bytes());
    }
    out
}

/// Encodes bytes as base64 (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= part.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::ZlibDecoder;
    use std::io::Read;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!(["", "f", "fo", "foo", "foobar"].map(of), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYmFy"]);
    }

    #[test]
    fn pictures_hold_their_pixels() {
        let bytes = png(&[vec![LESS, MORE], vec![EVEN, UNKNOWN], vec![LESS, LESS]]);
        assert_eq!(&bytes[12..24], b"IHDR\0\0\0\x02\0\0\0\x03");
        let at = bytes.windows(4).position(|w| w == b"IDAT").unwrap();
        let length = u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap()) as usize;
        let mut raw = Vec::new();
        ZlibDecoder::new(&bytes[at + 4..at + 4 + length]).read_to_end(&mut raw).unwrap();
        assert_eq!(raw.len(), 3 * (1 + 2 * 3));
        assert_eq!((&raw[1..4], &raw[4..7]), (&LESS[..], &MORE[..]));
        let crc = u32::from_be_bytes(bytes[at + 4 + length..at + 8 + length].try_into().unwrap());
        let mut ours = Crc::new();
        ours.update(&bytes[at..at + 4 + length]);
        assert_eq!(crc, ours.sum());
    }

    #[test]
    fn an_even_load_is_grey() {
        assert_eq!(
            [0.25, 1.0, 4.0, 0.0, 100.0, f64::NAN].map(of_load),
            [LESS, EVEN, MORE, LESS, MORE, UNKNOWN]
        );
        assert_eq!([0.0, 0.5, 1.0].map(of_share), [EVEN, MORE, MORE]);
    }
}
