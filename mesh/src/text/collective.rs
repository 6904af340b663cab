//! Collectives as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
    words,
};
use crate::ir::{Collective, Pending};

pub(super) const NAMES: &[&str] = &[
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "collective_permute",
    "shard",
    "as_pending",
];

words!(pending, PENDING, Pending { Sum = "sum", Max = "max", Min = "min" });

pub(super) fn name(op: &Collective) -> &'static str {
    match op {
        Collective::AllReduce { .. } => "all_reduce",
        Collective::AllGather { .. } => "all_gather",
        Collective::ReduceScatter { .. } => "reduce_scatter",
        Collective::AllToAll { .. } => "all_to_all",
        Collective::Permute { .. } => "collective_permute",
        Collective::Shard { .. } => "shard",
        Collective::AsPending { .. } => "as_pending",
    }
}

pub(super) fn attributes(op: &Collective, a: &mut AttrWriter<'_>) {
    match op {
        Collective::AllReduce { kind, axes } => {
            a.name("kind", pending(*kind));
            a.axes("axes", axes.iter());
        }
        Collective::AllGather { dim, axes }
        | Collective::ReduceScatter { dim, axes }
        | Collective::Shard { dim, axes } => {
            a.name("dim", dim);
            a.axes("axes", axes.iter().copied());
        }
        Collective::AllToAll { from, to, axes } => {
            a.name("from", from);
            a.name("to", to);
            a.axes("axes", axes.iter().copied());
        }
        Collective::Permute { dim, axes, by, wrap } => {
            a.name("dim", dim);
            a.axes("axes", axes.iter().copied());
            a.offset("by", *by);
            a.flag("wrap", *wrap);
        }
        Collective::AsPending { axes } => a.axes("axes", axes.iter()),
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Collective>> {
    Ok(Some(match name {
        "all_reduce" => Collective::AllReduce { kind: a.choice("kind", PENDING)?, axes: a.axis_set("axes")? },
        "all_gather" => Collective::AllGather { dim: a.name("dim")?, axes: a.axes("axes")? },
        "reduce_scatter" => Collective::ReduceScatter { dim: a.name("dim")?, axes: a.axes("axes")? },
        "all_to_all" => {
            Collective::AllToAll { from: a.name("from")?, to: a.name("to")?, axes: a.axes("axes")? }
        }
        "collective_permute" => Collective::Permute {
            dim: a.name("dim")?,
            axes: a.axes("axes")?,
            by: a.offset("by")?,
            wrap: a.flag("wrap")?,
        },
        "shard" => Collective::Shard { dim: a.name("dim")?, axes: a.axes("axes")? },
        "as_pending" => Collective::AsPending { axes: a.axis_set("axes")? },
        _ => return Ok(None),
    }))
}
