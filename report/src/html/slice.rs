//! The slice that a function was compiled for: its torus, and the step time by part against the peak of the
//! matrix units.

use crate::compiled::Compiled;
use compiler::cost::target::Slice;
use page::{
    bars::bars,
    html::{escape, section},
};
use std::fmt::Write;

/// The side of a chip in pixels.
const SIDE: usize = 40;
/// The largest number of chips that are drawn.
const MOST: usize = 4096;

/// Returns the slice of a target such as `tpu:v5e:2x4`; `None` if it has none.
fn slice_of(target: &str) -> Option<Slice> {
    Slice::parse(target.strip_prefix("tpu:")?).ok()
}

/// The section of the torus, if the function was compiled for a slice.
pub(super) fn torus(compiled: Option<&Compiled>) -> String {
    let Some(slice) = compiled.and_then(|compiled| slice_of(&compiled.target)) else { return String::new() };
    let chips = slice.devices() / slice.mode.devices;
    let note = format!(
        "{} chips on {} hosts, TensorCores of a chip: {}; each chip has links to its neighbours along each dim, and is {}. \
         A square is a chip with the numbers of its devices; chips of one colour are those of one host.",
        chips,
        slice.hosts() * slice.slices,
        slice.generation.cores,
        match slice.mode.devices {
            1 => "one device".to_owned(),
            devices => format!("{devices} devices"),
        }
    );
    if chips > MOST {
        return section("Torus", &note, &format!("<p>More than {MOST} chips are not drawn.</p>"));
    }
    let processes = slice.processes();
    let sizes: Vec<usize> = slice.shape.iter().copied().chain([1, 1, 1]).take(3).collect();
    let in_plane = sizes[0] * sizes[1];
    let planes = (0..chips / in_plane).map(|plane| {
        let (of_slice, z) = (plane / sizes[2], plane % sizes[2]);
        let name = [
            (slice.slices > 1).then(|| format!("slice {of_slice}")),
            (sizes[2] > 1).then(|| format!("z = {z}")),
        ];
        let name: Vec<String> = name.into_iter().flatten().collect();
        plane_of(&slice, &processes, (plane * in_plane, [sizes[0], sizes[1]]), &name.join(", "))
    });
    section("Torus", &note, &format!("<div class=\"grids\">{}</div>", planes.collect::<String>()))
}

/// A plane of the torus: chips from `first` on, x to the right and y downwards.
fn plane_of(
    slice: &Slice,
    processes: &[usize],
    (first, [columns, rows]): (usize, [usize; 2]),
    name: &str,
) -> String {
    let hosts = slice.hosts() * slice.slices;
    let mut svg = String::new();
    for chip in 0..columns * rows {
        let (x, y) = (chip % columns, chip / columns);
        let devices = (first + chip) * slice.mode.devices;
        let numbers: Vec<String> =
            (devices..devices + slice.mode.devices).map(|device| device.to_string()).collect();
        let (numbers, host) = (numbers.join(","), processes[devices]);
        let colour = format!("hsl({} 55% {}%)", host * 360 / hosts, 70 + 12 * (host % 2));
        let (left, top) = (x * SIDE, y * SIDE);
        // Writing to a string does not fail.
        let _ = write!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{0}\" height=\"{0}\" fill=\"{colour}\"><title>chip ({x}, {y}): \
             devices {numbers}, host {host}</title></rect><text x=\"{1}\" y=\"{2}\" text-anchor=\"middle\" \
             style=\"font-size:9px;fill:#1b1f24\">{numbers}</text>",
            SIDE - 2,
            left + SIDE / 2 - 1,
            top + SIDE / 2 + 3,
        );
    }
    let (width, height) = (columns * SIDE, rows * SIDE);
    format!(
        "<figure><figcaption>{}</figcaption><svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
         {height}\" role=\"img\">{svg}</svg><small>x to the right, {columns}; y downwards, {rows}</small></figure>",
        escape(name)
    )
}

/// The time of each part of the model on a slice: the cycles that the compiler estimates, and the time that
/// its products would take at the peak of the matrix units.
pub(super) fn roofline(compiled: Option<&Compiled>) -> String {
    let Some(compiled) = compiled else { return String::new() };
    let (Some(slice), Some(program)) = (slice_of(&compiled.target), &compiled.program) else {
        return String::new();
    };
    let speed = slice.speed();
    let parts = program.parts.iter().filter(|part| part.estimated_cycles > 0);
    let mut rows: Vec<(String, Vec<f64>)> = parts
        .map(|part| {
            let times =
                vec![part.estimated_cycles as f64 / speed.hertz, part.matmul_flops as f64 / speed.flops];
            (part.part.clone(), times)
        })
        .collect();
    if let Some(time) = &program.time {
        rows.push(("collectives, not covered".to_owned(), vec![time.exposed]));
    }
    let note = "Blue is the time that the plugin's compiler estimates, orange the time of the products at the peak \
                of the matrix units: a part whose bars differ is bound by memory, or by products of small dims.";
    let chart = bars(&rows, |seconds| format!("{:.3} ms", seconds * 1e3));
    if chart.is_empty() { chart } else { section("Step time by part", note, &chart) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimized::{Optimized, PartUse};

    fn compiled(target: &str, parts: &[(&str, u64, u64)]) -> Compiled {
        let part = |(part, matmul_flops, estimated_cycles): &(&str, u64, u64)| PartUse {
            part: (*part).to_owned(),
            matmul_flops: *matmul_flops,
            estimated_cycles: *estimated_cycles,
        };
        let program = Optimized { parts: parts.iter().map(part).collect(), ..Optimized::default() };
        Compiled { target: target.to_owned(), program: Some(program), ..Compiled::default() }
    }

    /// Checks the numbers of chips and of planes, and titles of chips.
    #[track_caller]
    fn check(target: &str, chips: usize, planes: usize, titles: &[&str]) {
        let html = torus(Some(&compiled(target, &[])));
        assert_eq!((html.matches("<rect").count(), html.matches("<svg").count()), (chips, planes), "{html}");
        for title in titles {
            assert!(html.contains(&format!("<title>{title}</title>")), "`{title}` is not in {html}");
        }
    }

    #[test]
    fn a_torus_has_chips_devices_and_hosts() {
        let v5e = ["chip (0, 0): devices 0, host 0", "chip (3, 3): devices 15, host 3"];
        check("tpu:v5e:4x4", 16, 1, &v5e);
        // Two cores of a chip are two devices.
        check("tpu:v3:4x4", 16, 1, &["chip (1, 0): devices 2,3, host 0"]);
        // A host of a v4 has 2x2x1 chips.
        check("tpu:v4:2x2x4:megacore", 16, 4, &["chip (1, 1): devices 15, host 3"]);
        check("tpu:v5e:2x4:slices=2", 16, 2, &["chip (1, 3): devices 15, host 3"]);
        assert_eq!(torus(Some(&compiled("cpu", &[]))), "");
        assert_eq!(torus(None), "");
    }

    #[test]
    fn parts_have_their_time_and_that_of_their_products_at_peak() {
        let speed = Slice::parse("v5e:2x4").unwrap().speed();
        let parts = [("experts", (speed.flops / 1e3) as u64, (speed.hertz / 250.0) as u64), ("router", 0, 0)];
        let html = roofline(Some(&compiled("tpu:v5e:2x4", &parts)));
        assert!(html.contains("4.000 ms") && html.contains("1.000 ms") && !html.contains("router"), "{html}");
        assert_eq!(roofline(Some(&compiled("cpu", &parts))), "");
    }
}
