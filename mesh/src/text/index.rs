//! Indexing operations as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
    words,
};
use crate::ir::{Extreme, Index, Outside};

pub(super) const NAMES: &[&str] = &[
    "one_hot",
    "gather",
    "scatter_add",
    "scatter_max",
    "scatter_min",
    "permute",
    "top_k",
    "sort",
    "cumsum",
    "dynamic_slice",
    "dynamic_update",
];

words!(outside, OUTSIDE, Outside { Zero = "zero", Clamp = "clamp" });

pub(super) fn name(op: &Index) -> &'static str {
    match op {
        Index::OneHot { .. } => "one_hot",
        Index::Gather { .. } => "gather",
        Index::ScatterAdd { .. } => "scatter_add",
        Index::ScatterExtreme { kind: Extreme::Max, .. } => "scatter_max",
        Index::ScatterExtreme { kind: Extreme::Min, .. } => "scatter_min",
        Index::Permute { .. } => "permute",
        Index::TopK { .. } => "top_k",
        Index::Sort { .. } => "sort",
        Index::CumSum { .. } => "cumsum",
        Index::DynamicSlice { .. } => "dynamic_slice",
        Index::DynamicUpdate { .. } => "dynamic_update",
    }
}

pub(super) fn attributes(op: &Index, a: &mut AttrWriter<'_>) {
    match op {
        Index::OneHot { dim, dtype } => {
            a.dim("dim", dim);
            a.name("dtype", dtype.name());
        }
        Index::Gather { dim, outside: kind } => {
            a.name("dim", dim);
            a.name("outside", outside(*kind));
        }
        Index::ScatterAdd { dim, over } => {
            a.dim("dim", dim);
            a.names("over", over);
        }
        Index::ScatterExtreme { kind: _, dim, over } => {
            a.name("dim", dim);
            a.names("over", over);
        }
        Index::Permute { dim, to } => {
            a.name("dim", dim);
            a.name("to", to);
        }
        Index::TopK { dim, to } => {
            a.name("dim", dim);
            a.whole_dim("to", to);
        }
        Index::Sort { dim, descending } => {
            a.name("dim", dim);
            a.flag("descending", *descending);
        }
        Index::CumSum { dim, exclusive, reverse } => {
            a.name("dim", dim);
            a.flag("exclusive", *exclusive);
            a.flag("reverse", *reverse);
        }
        Index::DynamicSlice { dim, size } => {
            a.name("dim", dim);
            a.size("size", *size);
        }
        Index::DynamicUpdate { dim } => a.name("dim", dim),
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Index>> {
    Ok(Some(match name {
        "one_hot" => Index::OneHot { dim: a.dim("dim")?, dtype: a.dtype("dtype")? },
        "gather" => Index::Gather { dim: a.name("dim")?, outside: a.choice("outside", OUTSIDE)? },
        "scatter_add" => Index::ScatterAdd { dim: a.dim("dim")?, over: a.names("over")? },
        "scatter_max" => scatter_extreme(Extreme::Max, a)?,
        "scatter_min" => scatter_extreme(Extreme::Min, a)?,
        "permute" => Index::Permute { dim: a.name("dim")?, to: a.name("to")? },
        "top_k" => Index::TopK { dim: a.name("dim")?, to: a.whole_dim("to")? },
        "sort" => Index::Sort { dim: a.name("dim")?, descending: a.flag("descending")? },
        "cumsum" => Index::CumSum {
            dim: a.name("dim")?,
            exclusive: a.flag("exclusive")?,
            reverse: a.flag("reverse")?,
        },
        "dynamic_slice" => Index::DynamicSlice { dim: a.name("dim")?, size: a.size("size")? },
        "dynamic_update" => Index::DynamicUpdate { dim: a.name("dim")? },
        _ => return Ok(None),
    }))
}

fn scatter_extreme(kind: Extreme, a: &mut Attrs<'_, '_>) -> Parsed<Index> {
    Ok(Index::ScatterExtreme { kind, dim: a.name("dim")?, over: a.names("over")? })
}
