//! Writers of names, strings, types, dims and axes, shared by `print` and `attrs`.

use crate::{AxisId, AxisSet, Mesh, Name, TensorDim, Type};
use std::fmt::Write;

/// Appends formatted text. Writing to a string does not fail.
pub(super) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Appends a name: bare if it is a word, else quoted.
pub(super) fn write_name(out: &mut String, name: &str) {
    if Name::is_word(name) && !name.contains("//") {
        out.push_str(name);
    } else {
        write_string(out, name);
    }
}

pub(super) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => push(out, format_args!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

pub(super) fn write_type(out: &mut String, ty: &Type, mesh: &Mesh) {
    out.push_str(ty.dtype.name());
    out.push('[');
    for (i, d) in ty.dims.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_dim(out, d, mesh);
    }
    out.push(']');
    for (word, set) in [("sum", ty.sum), ("max", ty.max), ("min", ty.min)] {
        if set != AxisSet::EMPTY {
            push(out, format_args!("{{{word}: "));
            write_axes(out, set.iter(), mesh, "+");
            out.push('}');
        }
    }
}

/// `batch=32@data+expert`.
pub(super) fn write_dim(out: &mut String, d: &TensorDim, mesh: &Mesh) {
    write_name(out, &d.dim.name);
    push(out, format_args!("={}", d.dim.size));
    if !d.axes.is_empty() {
        out.push('@');
        write_axes(out, d.axes.iter().copied(), mesh, "+");
    }
}

pub(super) fn write_axes(out: &mut String, axes: impl Iterator<Item = AxisId>, mesh: &Mesh, between: &str) {
    for (i, axis) in axes.enumerate() {
        if i > 0 {
            out.push_str(between);
        }
        match mesh.axes().get(axis.0 as usize) {
            Some(axis) => write_name(out, &axis.name),
            None => push(out, format_args!("?{}", axis.0)),
        }
    }
}
