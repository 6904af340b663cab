//! Creation and movement as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
};
use crate::ir::{Edge, Shape};

pub(super) const NAMES: &[&str] =
    &["constant", "iota", "rename", "reshape", "broadcast", "slice", "pad", "concat", "shift"];

pub(super) fn name(op: &Shape) -> &'static str {
    match op {
        Shape::Constant { .. } => "constant",
        Shape::Iota { .. } => "iota",
        Shape::Rename { .. } => "rename",
        Shape::Reshape { .. } => "reshape",
        Shape::Broadcast { .. } => "broadcast",
        Shape::Slice { .. } => "slice",
        Shape::Pad { .. } => "pad",
        Shape::Concat { .. } => "concat",
        Shape::Shift { .. } => "shift",
    }
}

pub(super) fn attributes(op: &Shape, a: &mut AttrWriter<'_>) {
    match op {
        Shape::Constant { dtype, value } => {
            a.name("dtype", dtype.name());
            a.float("value", *value);
        }
        Shape::Iota { dim, dtype } => {
            a.dim("dim", dim);
            a.name("dtype", dtype.name());
        }
        Shape::Rename { pairs } => a.pairs("pairs", pairs),
        Shape::Reshape { from, to } => {
            a.names("from", from);
            a.dims("to", to);
        }
        Shape::Broadcast { dims } => a.dims("dims", dims),
        Shape::Slice { dim, start, limit, stride } => {
            a.name("dim", dim);
            a.size("start", *start);
            a.size("limit", *limit);
            a.size("stride", *stride);
        }
        Shape::Pad { dim, low, high, value } => {
            a.name("dim", dim);
            a.size("low", *low);
            a.size("high", *high);
            a.float("value", *value);
        }
        Shape::Concat { dim } => a.name("dim", dim),
        Shape::Shift { dim, by, edge } => {
            a.name("dim", dim);
            a.offset("by", *by);
            match edge {
                Edge::Fill(value) => a.float("value", *value),
                Edge::Wrap => a.flag("wrap", true),
            }
        }
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Shape>> {
    Ok(Some(match name {
        "constant" => Shape::Constant { dtype: a.dtype("dtype")?, value: a.float("value")? },
        "iota" => Shape::Iota { dim: a.dim("dim")?, dtype: a.dtype("dtype")? },
        "rename" => Shape::Rename { pairs: a.pairs("pairs")? },
        "reshape" => Shape::Reshape { from: a.names("from")?, to: a.dims("to")? },
        "broadcast" => Shape::Broadcast { dims: a.dims("dims")? },
        "slice" => Shape::Slice {
            dim: a.name("dim")?,
            start: a.size("start")?,
            limit: a.size("limit")?,
            stride: a.size("stride")?,
        },
        "pad" => Shape::Pad {
            dim: a.name("dim")?,
            low: a.size("low")?,
            high: a.size("high")?,
            value: a.float("value")?,
        },
        "concat" => Shape::Concat { dim: a.name("dim")? },
        "shift" => Shape::Shift {
            dim: a.name("dim")?,
            by: a.offset("by")?,
            edge: if a.flag("wrap")? { Edge::Wrap } else { Edge::Fill(a.float("value")?) },
        },
        _ => return Ok(None),
    }))
}
