//! The shards of tensors by device: a grid of devices for each tensor. Devices of one colour hold the same
//! elements.

use crate::{
    Report,
    part::{PARTS, part},
    placed::Placed,
    table::size,
};
use mesh::{AxisId, Mesh};
use page::html::{escape, section};

/// The largest number of devices that are labelled with their shard.
const WRITTEN: usize = 64;
/// The number of letters that fit into the smallest labelled square.
const WIDE: usize = 5;

/// The section, if the mesh has more than one device.
pub(super) fn devices(report: &Report) -> String {
    let Ok(mesh) = Mesh::parse(&report.mesh) else { return String::new() };
    if mesh.devices() == 1 {
        return String::new();
    }
    let note = format!(
        "Each square is a device of the mesh {}, numbered row by row with the last axis fastest. Devices of the same \
         colour hold the same shard; grey tensors are replicated.",
        escape(&report.mesh)
    );
    section("Shards by device", &note, &grids(report, &mesh))
}

/// The grids of the largest parameter of each part of the model, and of the inputs.
fn grids(report: &Report, mesh: &Mesh) -> String {
    let mut chosen: Vec<&Placed> = Vec::new();
    for name in PARTS {
        let of_part = report.placed.iter().filter(|p| p.kind == "param" && part_of(p) == name);
        chosen.extend(of_part.max_by_key(|p| p.dims.iter().map(|d| d.size).product::<usize>()));
    }
    chosen.extend(report.placed.iter().filter(|p| p.kind == "input" && !p.dims.is_empty()));
    let grids: String = chosen.iter().map(|p| grid(p, mesh)).collect();
    if grids.is_empty() { grids } else { format!("<div class=\"grids\">{grids}</div>") }
}

/// The part of the model that a parameter belongs to.
fn part_of(tensor: &Placed) -> &'static str {
    let routed = tensor.dims.iter().any(|d| d.name == "experts");
    match part(&tensor.name) {
        "dense FFN" | "attention" | "other" if routed => "experts",
        other => other,
    }
}

/// A dim that is split: its name, its size and its axes.
type Split<'a> = (&'a str, usize, Vec<AxisId>);

fn grid(tensor: &Placed, mesh: &Mesh) -> String {
    let devices = mesh.devices();
    let columns = columns(devices);
    let side = (320 / columns).clamp(4, 36);
    let dims = tensor.dims.iter();
    let split: Vec<Split> = dims
        .map(|d| (d.name.as_str(), d.size, d.axes.iter().filter_map(|a| mesh.find(a)).collect()))
        .filter(|(_, _, axes): &Split| !axes.is_empty())
        .collect();
    let shards: usize = split.iter().map(|(_, _, axes)| mesh.product(axes)).product();
    let square =
        |device| square(device, (device % columns * side, device / columns * side), side, &split, mesh);
    let svg: String = (0..devices).map(square).collect();
    let (width, height) = (columns * side, devices.div_ceil(columns) * side);
    let shape: Vec<String> = tensor
        .dims
        .iter()
        .map(|d| match d.axes.as_slice() {
            [] => format!("{} {}", d.name, d.size),
            axes => format!("{} {} over {}", d.name, d.size, axes.join("+")),
        })
        .collect();
    let copies = devices / shards.max(1);
    let copies = if copies == 1 { "no copies".to_owned() } else { format!("{copies} copies of each part") };
    format!(
        "<figure><figcaption><b>{}</b> ({})<br><small>{} · {} a device, {copies}</small></figcaption>\
         <svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">{svg}</svg>\
         <small>{}</small></figure>",
        escape(&tensor.name),
        if tensor.kind == "input" { "tokens" } else { "weights" },
        escape(&shape.join(", ")),
        size(tensor.bytes),
        escape(&directions(mesh, columns))
    )
}

/// Names the axes of the mesh along rows and columns of a grid, if a number of axes makes up a row.
fn directions(mesh: &Mesh, columns: usize) -> String {
    let axes = mesh.axes();
    for first in 0..=axes.len() {
        let (rows, row) = axes.split_at(first);
        if row.iter().map(|axis| axis.size).product::<usize>() == columns {
            let names = |axes: &[mesh::Axis]| -> String {
                let names: Vec<&str> = axes.iter().map(|axis| &*axis.name).collect();
                if names.is_empty() { "one".to_owned() } else { names.join(", ") }
            };
            return format!("columns: {}; rows: {}", names(row), names(rows));
        }
    }
    "devices row by row".to_owned()
}

/// The square of one device, at `(x, y)`: its colour is the number of its shard, its title the range of each
/// split dim, and its labels the number of the device and the range or the number of its part, if there is
/// room.
fn square(device: usize, (x, y): (usize, usize), side: usize, split: &[Split], mesh: &Mesh) -> String {
    let (mut shard, mut shards) = (0, 1);
    let mut ranges = Vec::new();
    for (name, size, axes) in split {
        let (at, parts) = (mesh.index_along(device, axes), mesh.product(axes));
        let each = size / parts;
        (shard, shards) = (shard * parts + at, shards * parts);
        let (from, to) = (at * each, (at + 1) * each - 1);
        ranges.push((*name, if from == to { format!("{from}") } else { format!("{from}–{to}") }));
    }
    let colour = match shards {
        1 => "#c9ced8".to_owned(),
        n => format!("hsl({} 65% {}%)", shard * 360 / n, 62 + 14 * (shard % 2)),
    };
    let named: Vec<String> = ranges.iter().map(|(name, range)| format!("{name} {range}")).collect();
    let title = if named.is_empty() { "all of it".to_owned() } else { named.join(", ") };
    let square = format!(
        "<rect x=\"{x}\" y=\"{y}\" width=\"{0}\" height=\"{0}\" fill=\"{colour}\"><title>device {device}: {1}</title></rect>",
        side - 1,
        escape(&title)
    );
    if mesh.devices() > WRITTEN || side < 28 {
        return square;
    }
    let number =
        format!("<text x=\"{}\" y=\"{}\" style=\"font-size:6px;fill:#1b1f24\">{device}</text>", x + 2, y + 7);
    match ranges.as_slice() {
        [] => square + &number,
        [(_, range)] => square + &number + &label(x + side / 2, y + side / 2 + 6, range),
        // With several split dims, only the number of the part is unique.
        _ => square + &number + &label(x + side / 2, y + side / 2 + 6, &format!("#{shard}")),
    }
}

/// The label of a device; a range that is too wide for a square takes two lines.
fn label(x: usize, y: usize, range: &str) -> String {
    let text = |y: usize, text: &str| {
        format!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" style=\"font-size:8px;fill:#1b1f24\">{text}</text>"
        )
    };
    match range.split_once('–') {
        Some((from, to)) if range.chars().count() > WIDE => {
            text(y - 5, &format!("{from}–")) + &text(y + 5, to)
        }
        Some(_) | None => text(y, range),
    }
}

/// The number of devices in a row.
fn columns(devices: usize) -> usize {
    (1..=devices).find(|n| n * n >= devices && devices.is_multiple_of(*n)).unwrap_or(devices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placed::PlacedDim;

    #[test]
    fn devices_with_the_same_part_have_the_same_colour() {
        let dims = vec![
            PlacedDim { name: "experts".into(), size: 8, axes: vec!["expert".into()] },
            PlacedDim { name: "d_ff".into(), size: 6, axes: vec![] },
        ];
        let name = "decoder/block_1/ffn/wi".to_owned();
        let tensor = Placed { name, kind: "param".into(), dtype: "f32".into(), dims, bytes: 96 };
        assert_eq!(part_of(&tensor), "experts");
        let svg = grid(&tensor, &Mesh::parse("data=2,expert=4").unwrap());
        assert_eq!(svg.matches("<rect").count(), 8);
        assert_eq!(svg.matches("hsl(90 ").count(), 2);
        assert!(svg.contains("<title>device 5: experts 2–3</title>"), "{svg}");
        assert!(svg.contains("2 copies of each part"), "{svg}");
        assert!(svg.contains(">2–3</text>"), "{svg}");
        assert!(svg.contains("columns: expert; rows: data") && svg.contains(">7</text>"), "{svg}");
        // Four parts of two split dims have four labels.
        let dims = ["experts", "d_ff"].into_iter().zip(["data", "expert"]);
        let dims = dims.map(|(name, axis)| PlacedDim { name: name.into(), size: 8, axes: vec![axis.into()] });
        let both = Placed { dims: dims.collect(), ..tensor };
        let svg = grid(&both, &Mesh::parse("data=2,expert=4").unwrap());
        for part in 0..8 {
            assert_eq!(svg.matches(&format!(">#{part}</text>")).count(), 1, "{svg}");
        }
        let two = label(20, 30, "1024–1087");
        assert!(
            two.contains("y=\"25\"") && two.contains(">1024–</text>") && two.contains(">1087</text>"),
            "{two}"
        );
        assert_eq!([columns(32), columns(2048), columns(1), columns(7)], [8, 64, 1, 7]);
    }
}
