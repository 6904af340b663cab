//! Shapes: `f32[4,8]{1,0}`, `(f32[], s32[2]{0})`.

use crate::xla::{LayoutProto, PrimitiveType, ShapeProto};

/// Returns the name of an element type in HLO text and in the manifest.
pub fn dtype_name(element_type: PrimitiveType) -> &'static str {
    match element_type {
        PrimitiveType::Invalid => "invalid",
        PrimitiveType::Pred => "pred",
        PrimitiveType::S1 => "s1",
        PrimitiveType::S2 => "s2",
        PrimitiveType::S4 => "s4",
        PrimitiveType::S8 => "s8",
        PrimitiveType::S16 => "s16",
        PrimitiveType::S32 => "s32",
        PrimitiveType::S64 => "s64",
        PrimitiveType::U1 => "u1",
        PrimitiveType::U2 => "u2",
        PrimitiveType::U4 => "u4",
        PrimitiveType::U8 => "u8",
        PrimitiveType::U16 => "u16",
        PrimitiveType::U32 => "u32",
        PrimitiveType::U64 => "u64",
        PrimitiveType::F16 => "f16",
        PrimitiveType::F32 => "f32",
        PrimitiveType::F64 => "f64",
        PrimitiveType::Bf16 => "bf16",
        PrimitiveType::C64 => "c64",
        PrimitiveType::C128 => "c128",
        PrimitiveType::Tuple => "tuple",
        PrimitiveType::OpaqueType => "opaque",
        PrimitiveType::Token => "token",
        PrimitiveType::F8e5m2 => "f8e5m2",
        PrimitiveType::F8e4m3 => "f8e4m3",
        PrimitiveType::F8e4m3fn => "f8e4m3fn",
        PrimitiveType::F8e4m3b11fnuz => "f8e4m3b11fnuz",
        PrimitiveType::F8e3m4 => "f8e3m4",
        PrimitiveType::F8e5m2fnuz => "f8e5m2fnuz",
        PrimitiveType::F8e4m3fnuz => "f8e4m3fnuz",
        PrimitiveType::F4e2m1fn => "f4e2m1fn",
        PrimitiveType::F8e8m0fnu => "f8e8m0fnu",
    }
}

/// Returns the shape with its layout, if it has one.
pub fn shape(shape: &ShapeProto) -> String {
    print(shape, true)
}

/// Returns the shape without layouts.
pub fn shape_without_layout(shape: &ShapeProto) -> String {
    print(shape, false)
}

/// Returns shapes with layouts, separated by commas; every fifth one has its number in a comment.
pub(super) fn list(shapes: &[ShapeProto]) -> String {
    elements(shapes, true)
}

fn elements(shapes: &[ShapeProto], layout: bool) -> String {
    super::join(shapes.iter().enumerate().map(|(i, element)| {
        let number = if i > 0 && i % 5 == 0 { format!("/*index={i}*/") } else { String::new() };
        format!("{number}{}", print(element, layout))
    }))
}

fn print(shape: &ShapeProto, layout: bool) -> String {
    if shape.element_type() == PrimitiveType::Tuple {
        return format!("({})", elements(&shape.tuple_shapes, layout));
    }
    let dims: Vec<String> =
        shape.dimensions.iter().enumerate().map(|(i, size)| dim(shape, i, *size)).collect();
    let mut out = format!("{}[{}]", dtype_name(shape.element_type()), dims.join(","));
    if let Some(layout) = shape.layout.as_ref().filter(|_| layout) {
        out.push_str(&print_layout(layout));
    }
    out
}

/// Returns the size of a dimension, with `<=` if it is only an upper bound.
fn dim(shape: &ShapeProto, i: usize, size: i64) -> String {
    match shape.is_dynamic_dimension.get(i) {
        Some(true) => format!("<={size}"),
        Some(false) | None => size.to_string(),
    }
}

/// `{1,0:T(8,128)S(1)}`; the empty text for the default layout of a scalar.
fn print_layout(layout: &LayoutProto) -> String {
    let mut extra = String::new();
    for (i, tile) in layout.tiles.iter().enumerate() {
        // The smallest `i64` stands for a dimension that the tile merges with the next one.
        let sizes = tile.dimensions.iter();
        let sizes: Vec<String> =
            sizes.map(|&size| if size == i64::MIN { "*".to_string() } else { size.to_string() }).collect();
        extra.push_str(if i == 0 { "T" } else { "" });
        extra.push_str(&format!("({})", sizes.join(",")));
    }
    if layout.element_size_in_bits != 0 {
        extra.push_str(&format!("E({})", layout.element_size_in_bits));
    }
    if layout.memory_space != 0 {
        extra.push_str(&format!("S({})", layout.memory_space));
    }
    if layout.minor_to_major.is_empty() && extra.is_empty() {
        return String::new();
    }
    let order: Vec<String> = layout.minor_to_major.iter().map(i64::to_string).collect();
    let colon = if extra.is_empty() { "" } else { ":" };
    format!("{{{}{colon}{extra}}}", order.join(","))
}
