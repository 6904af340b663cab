//! From one lay of a value over the mesh to another: the one place where collectives come from.
//!
//! Relative to the axes of each dim, take the longest common prefix of what a dim has and what it is to
//! have. Axes behind it *leave* or *enter* the dim. An axis that leaves one dim and enters another moves by
//! an all-to-all; one that enters and over which a sum is owed, by a reduce-scatter; one that enters and is
//! free costs nothing; what only leaves is gathered. Steps are taken in the order that keeps what is sent
//! small: cut first, then move, then settle, then gather.

use crate::wire::wire_bytes;
use mesh::{
    AxisId, AxisSet, Mesh, Name, Type,
    ir::{Collective, Owed},
};

/// The collectives that turn a value that lies as `from` into one that lies as `to`. Both have the same
/// dims; neither owes a max or min.
pub fn plan(from: &Type, to: &Type) -> Vec<Collective> {
    let mut now = from.clone();
    let mut steps = Vec::new();
    let settle = from.sum.minus(to.sum);
    loop {
        let owed = now.sum.intersect(settle);
        let step = cut(&now, to)
            .or_else(|| scatter(&now, to, owed))
            .or_else(|| exchange(&now, to))
            .or_else(|| (!owed.is_empty()).then_some(Collective::AllReduce { kind: Owed::Sum, axes: owed }))
            .or_else(|| gather(&now, to));
        let Some(step) = step else { break };
        advance(&mut now, &step);
        steps.push(step);
    }
    let missing = to.sum.minus(now.sum);
    if !missing.is_empty() {
        steps.push(Collective::Owe { axes: missing });
    }
    steps
}

/// Bytes sent by `steps`, then how many steps there are: what plans are compared by.
pub fn cost(mesh: &Mesh, from: &Type, steps: &[Collective]) -> (u64, usize) {
    let mut now = from.clone();
    let mut bytes = 0;
    for step in steps {
        bytes += wire_bytes(mesh, step, &now);
        advance(&mut now, step);
    }
    (bytes, steps.len())
}

/// What `step` makes of a type (of which it is known to be legal).
fn advance(ty: &mut Type, step: &Collective) {
    let extend = |ty: &mut Type, dim: &Name, axes: &[AxisId]| {
        ty.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.axes.extend(axes));
    };
    let strip = |ty: &mut Type, dim: &Name, axes: &[AxisId]| {
        let dims = ty.dims.iter_mut().filter(|d| d.dim.name == *dim);
        dims.for_each(|d| d.axes.truncate(d.axes.len() - axes.len()));
    };
    match step {
        Collective::AllReduce { kind: _, axes } => ty.sum = ty.sum.minus(*axes),
        Collective::AllGather { dim, axes } => strip(ty, dim, axes),
        Collective::ReduceScatter { dim, axes } => {
            ty.sum = ty.sum.minus(axes.iter().copied().collect());
            extend(ty, dim, axes);
        }
        Collective::AllToAll { from, to, axes } => {
            strip(ty, from, axes);
            extend(ty, to, axes);
        }
        Collective::Shard { dim, axes } => extend(ty, dim, axes),
        Collective::Owe { axes } => ty.sum = ty.sum.union(*axes),
    }
}

/// Dims from which nothing has to leave and into which something has to enter, with what enters.
fn entering<'t>(now: &'t Type, to: &'t Type) -> impl Iterator<Item = (&'t Name, &'t [AxisId])> {
    now.dims.iter().filter_map(|d| {
        let rest = to.axes_of(&d.dim.name).strip_prefix(&d.axes[..])?;
        (!rest.is_empty()).then_some((&d.dim.name, rest))
    })
}

/// Dims from which something has to leave, with what leaves.
fn leaving<'t>(now: &'t Type, to: &'t Type) -> impl Iterator<Item = (&'t Name, &'t [AxisId])> {
    now.dims.iter().filter_map(|d| {
        let common = d.axes.iter().zip(to.axes_of(&d.dim.name)).take_while(|(a, b)| a == b).count();
        let rest = &d.axes[common..];
        (!rest.is_empty()).then_some((&d.dim.name, rest))
    })
}

fn cut(now: &Type, to: &Type) -> Option<Collective> {
    let used = now.split().union(now.sum);
    entering(now, to).find_map(|(dim, axes)| {
        let axes: Vec<AxisId> = axes.iter().copied().take_while(|a| !used.contains(*a)).collect();
        (!axes.is_empty()).then(|| Collective::Shard { dim: dim.clone(), axes })
    })
}

fn scatter(now: &Type, to: &Type, owed: AxisSet) -> Option<Collective> {
    entering(now, to).find_map(|(dim, axes)| {
        let axes: Vec<AxisId> = axes.iter().copied().take_while(|a| owed.contains(*a)).collect();
        (!axes.is_empty()).then(|| Collective::ReduceScatter { dim: dim.clone(), axes })
    })
}

fn exchange(now: &Type, to: &Type) -> Option<Collective> {
    entering(now, to).find_map(|(dim, enter)| {
        leaving(now, to).find_map(|(from, leave)| {
            // The longest run that is both the end of what leaves and the start of what enters.
            let longest = enter.len().min(leave.len());
            let run = (1..=longest).rev().find(|n| leave.ends_with(&enter[..*n]))?;
            let axes = enter[..run].to_vec();
            Some(Collective::AllToAll { from: from.clone(), to: dim.clone(), axes })
        })
    })
}

fn gather(now: &Type, to: &Type) -> Option<Collective> {
    let wanted = to.split();
    let pure = leaving(now, to).find_map(|(dim, axes)| {
        let start = axes.len() - axes.iter().rev().take_while(|a| !wanted.contains(**a)).count();
        let axes = axes[start..].to_vec();
        (!axes.is_empty()).then(|| Collective::AllGather { dim: dim.clone(), axes })
    });
    // Otherwise axes change places in a circle, which one gather opens, where the least has to leave.
    pure.or_else(|| {
        let (dim, axes) = leaving(now, to).min_by_key(|(_, axes)| axes.len())?;
        Some(Collective::AllGather { dim: dim.clone(), axes: axes[axes.len() - 1..].to_vec() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::{DType, Dim, Env, infer::infer, ir::Op};

    /// Types as `batch@data+expert length {model}`, all dims of size 16.
    fn ty(mesh: &Mesh, text: &str) -> Type {
        let mut ty = Type::new(DType::F32, []);
        let axes = |text: &str| text.split('+').map(|a| mesh.find(a).unwrap()).collect::<Vec<_>>();
        for word in text.split_whitespace() {
            if let Some(sum) = word.strip_prefix('{') {
                ty.sum = axes(sum.trim_end_matches('}')).into_iter().collect();
                continue;
            }
            let (name, split) = word.split_once('@').unwrap_or((word, ""));
            let axes = if split.is_empty() { Vec::new() } else { axes(split) };
            ty.dims.push(mesh::TensorDim { dim: Dim::new(name, 16), axes });
        }
        ty
    }

    #[track_caller]
    fn check(from: &str, to: &str, expect: &str) {
        let mesh = Mesh::parse("data=2,expert=2,model=2").unwrap();
        let (from, to) = (ty(&mesh, from), ty(&mesh, to));
        let steps = plan(&from, &to);
        let words: Vec<&str> = steps
            .iter()
            .map(|s| match s {
                Collective::AllReduce { .. } => "all_reduce",
                Collective::AllGather { .. } => "all_gather",
                Collective::ReduceScatter { .. } => "reduce_scatter",
                Collective::AllToAll { .. } => "all_to_all",
                Collective::Shard { .. } => "shard",
                Collective::Owe { .. } => "owe",
            })
            .collect();
        assert_eq!(words.join(" "), expect);
        let env = Env { mesh, ..Env::default() };
        let end = steps.into_iter().fold(from, |now, step| {
            infer(&env, &Op::Collective(step), &[&now]).unwrap_or_else(|e| panic!("{e}")).remove(0)
        });
        assert!(end.matches(&to), "{} is not {}", end.display(&env.mesh), to.display(&env.mesh));
    }

    #[test]
    fn each_change_has_its_collective() {
        check("a b@data", "a b@data", "");
        check("a@data", "a", "all_gather");
        check("a", "a@data", "shard");
        check("a {data}", "a", "all_reduce");
        check("a {data}", "a@data", "reduce_scatter");
        check("a", "a {data}", "owe");
        check("a@data+expert b", "a@data b@expert", "all_to_all");
    }

    #[test]
    fn what_is_sent_is_cut_first_and_gathered_last() {
        check("a@data b", "a b@model", "shard all_gather");
        check("a@data {model}", "a", "all_reduce all_gather");
        check("a@data {model}", "a@model", "all_reduce all_gather shard");
        check("a {data+model}", "a@data", "reduce_scatter all_reduce");
        check("a {data+model}", "a {model}", "all_reduce");
    }

    #[test]
    fn circles_and_wrong_orders_are_opened_by_a_gather() {
        check("a@data b@model", "a@model b@data", "all_gather all_to_all shard");
        check("a@data+model", "a@model+data", "all_gather all_gather shard");
        check("a@data+expert+model b c", "a@data b@expert c@model", "all_to_all all_to_all");
        check("a@expert+model b", "a b@expert", "all_gather all_to_all");
        check("a@data+expert b@model", "a@model b@data+expert", "all_gather all_to_all shard");
    }
}
