//! Heat maps of expert load as embedded PNG images, with a column per step and a row per expert.
//!
//! The colour is the load relative to an even load on a logarithmic scale: grey is even, blue is less, red is
//! more. The colours are readable on light and dark backgrounds.

use crate::chart::Points;
use base64::{Engine, engine::general_purpose::STANDARD};

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
    format!("data:image/png;base64,{}", STANDARD.encode(png(rows)))
}

/// Encodes an image as PNG.
fn png(rows: &[Vec<Pixel>]) -> Vec<u8> {
    let (width, height) = (rows.first().map_or(0, Vec::len) as u32, rows.len() as u32);
    let pixels: Vec<u8> = rows.iter().flatten().flatten().copied().collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.expect("an image has columns and rows of the same length, and a Vec takes them");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_hold_their_pixels() {
        let bytes = png(&[vec![LESS, MORE], vec![EVEN, UNKNOWN], vec![LESS, LESS]]);
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (2, 3, png::ColorType::Rgb));
        assert_eq!(pixels, [LESS, MORE, EVEN, UNKNOWN, LESS, LESS].concat());
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
