//! Plans the collectives that change a value's sharding. All collectives are created here.
//!
//! For each dim, compare the axes it has with the axes it is to have, behind their longest common prefix.
//! Those axes *leave* or *enter* the dim. An axis that leaves one dim and enters another is moved by an
//! all-to-all. An axis that enters and over which the value is pending is reduce-scattered. An axis that
//! enters and is replicated costs nothing. An axis that only leaves is gathered. The order of steps keeps
//! what is sent small: shard first, then exchange, then reduce, then gather.
//!
//! An all-to-all of a value that is replicated or pending over other axes sends every copy. It can be
//! *narrow*: the devices along those axes first take a shard each (`narrow`), and gather the shards among
//! themselves after the exchange.

use crate::cost::wire::{self, wire_bytes};
use mesh::{
    AxisId, AxisSet, Mesh, Name, TensorDim, Type,
    ir::{Collective, Pending},
};

/// The collectives that change sharding `from` into `to`. Both have the same dims; neither has a pending max
/// or min.
pub fn plan(mesh: &Mesh, from: &Type, to: &Type) -> Vec<Collective> {
    let steps = direct(from, to);
    if !steps.iter().any(exchanges) {
        return steps;
    }
    let narrow = narrow(mesh, from, to).filter(|narrow| {
        let late = (narrow.len().saturating_sub(steps.len())) as u64 * LATENCY;
        cost(mesh, from, narrow).0 + late < cost(mesh, from, &steps).0
    });
    narrow.unwrap_or(steps)
}

/// The bytes that one more collective has to save.
const LATENCY: u64 = 256 << 10;

/// The cost by which plans are compared: bytes sent, then the number of steps. Bytes of an all-to-all weigh
/// more the more devices take part: rings send to neighbours, while an all-to-all crosses the machine, whose
/// width grows with the square root of its size.
pub fn cost(mesh: &Mesh, from: &Type, steps: &[Collective]) -> (u64, usize) {
    let mut now = from.clone();
    let mut bytes = 0;
    for step in steps {
        let sent = wire_bytes(mesh, step, &now);
        let devices = wire::axes(step).iter().map(|a| mesh.size(a)).product::<usize>();
        bytes += if exchanges(step) { (sent as f64 * crossing(devices)) as u64 } else { sent };
        advance(&mut now, step);
    }
    (bytes, steps.len())
}

fn crossing(devices: usize) -> f64 {
    f64::max(1.0, (devices as f64).sqrt() / 4.0)
}

/// True if a step is an all-to-all.
pub fn exchanges(step: &Collective) -> bool {
    matches!(step, Collective::AllToAll { from: _, to: _, axes: _ })
}

/// A plan that first splits the largest unchanged dim further, over all axes along which the value is pending
/// or replicated.
fn narrow(mesh: &Mesh, from: &Type, to: &Type) -> Option<Vec<Collective>> {
    let busy = from.split().union(to.split()).union(to.sum);
    let axes: Vec<AxisId> = mesh.ids().filter(|a| !busy.contains(*a) && mesh.size(*a) > 1).collect();
    let parts = mesh.product(&axes);
    let fits = |d: &&TensorDim| {
        let local = d.dim.size / mesh.product(&d.axes);
        to.axes_of(&d.dim.name) == d.axes && local.is_multiple_of(parts)
    };
    let dim = from.dims.iter().filter(fits).max_by_key(|d| d.dim.size / mesh.product(&d.axes))?;
    if axes.is_empty() {
        return None;
    }
    let split = |ty: &Type| {
        let mut ty = ty.clone();
        ty.dims.iter_mut().filter(|d| d.dim.name == dim.dim.name).for_each(|d| d.axes.extend(&axes));
        ty.sum = ty.sum.intersect(to.sum);
        ty
    };
    let (near, far) = (split(from), split(to));
    Some([direct(from, &near), direct(&near, &far), direct(&far, to)].concat())
}

fn direct(from: &Type, to: &Type) -> Vec<Collective> {
    let mut now = from.clone();
    let mut steps = Vec::new();
    let to_reduce = from.sum.minus(to.sum);
    loop {
        let pending_axes = now.sum.intersect(to_reduce);
        let step = cut(&now, to)
            .or_else(|| scatter(&now, to, pending_axes))
            .or_else(|| exchange(&now, to))
            .or_else(|| {
                (!pending_axes.is_empty())
                    .then_some(Collective::AllReduce { kind: Pending::Sum, axes: pending_axes })
            })
            .or_else(|| gather(&now, to));
        let Some(step) = step else { break };
        advance(&mut now, &step);
        steps.push(step);
    }
    let missing = to.sum.minus(now.sum);
    if !missing.is_empty() {
        steps.push(Collective::AsPending { axes: missing });
    }
    steps
}

/// Applies `step`, which must be legal, to a type.
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
        Collective::Permute { dim: _, axes: _, by: _, wrap: _ } => {}
        Collective::Shard { dim, axes } => extend(ty, dim, axes),
        Collective::AsPending { axes } => ty.sum = ty.sum.union(*axes),
    }
}

/// Dims that no axis leaves and that some axes enter, with the axes that enter.
fn entering<'t>(now: &'t Type, to: &'t Type) -> impl Iterator<Item = (&'t Name, &'t [AxisId])> {
    now.dims.iter().filter_map(|d| {
        let rest = to.axes_of(&d.dim.name).strip_prefix(&d.axes[..])?;
        (!rest.is_empty()).then_some((&d.dim.name, rest))
    })
}

/// Dims that some axes leave, with those axes.
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

fn scatter(now: &Type, to: &Type, pending_axes: AxisSet) -> Option<Collective> {
    entering(now, to).find_map(|(dim, axes)| {
        let axes: Vec<AxisId> = axes.iter().copied().take_while(|a| pending_axes.contains(*a)).collect();
        (!axes.is_empty()).then(|| Collective::ReduceScatter { dim: dim.clone(), axes })
    })
}

fn exchange(now: &Type, to: &Type) -> Option<Collective> {
    entering(now, to).find_map(|(dim, enter)| {
        leaving(now, to).find_map(|(from, leave)| {
            // The longest list of axes that is both the end of what leaves and the start of what enters.
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
    // Otherwise axes change places in a cycle. A gather where the fewest axes leave breaks it.
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
            ty.dims.push(TensorDim { dim: Dim::new(name, 16), axes });
        }
        ty
    }

    #[track_caller]
    fn check(from: &str, to: &str, expect: &str) {
        let mesh = Mesh::parse("data=2,expert=2,model=2").unwrap();
        let (from, to) = (ty(&mesh, from), ty(&mesh, to));
        steps(mesh, from, to, expect);
    }

    #[track_caller]
    fn steps(mesh: Mesh, from: Type, to: Type, expect: &str) {
        let steps = plan(&mesh, &from, &to);
        let words: Vec<&str> = steps
            .iter()
            .map(|s| match s {
                Collective::AllReduce { .. } => "all_reduce",
                Collective::AllGather { .. } => "all_gather",
                Collective::ReduceScatter { .. } => "reduce_scatter",
                Collective::AllToAll { .. } => "all_to_all",
                Collective::Permute { .. } => "collective_permute",
                Collective::Shard { .. } => "shard",
                Collective::AsPending { .. } => "as_pending",
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
        check("a", "a {data}", "as_pending");
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

    #[test]
    fn an_all_to_all_of_copies_is_narrow_where_that_pays() {
        let wide = |mesh: &str, from: &str, to: &str, expect: &str| {
            let mesh = Mesh::parse(mesh).unwrap();
            let large = |text: &str| {
                let mut ty = ty(&mesh, text);
                ty.dims.iter_mut().for_each(|d| d.dim.size = if d.dim.name == "w" { 4096 } else { 64 });
                ty
            };
            steps(mesh.clone(), large(from), large(to), expect);
        };
        // A pending sum is sent once instead of once by each device that holds a part.
        let narrow = "reduce_scatter all_to_all all_gather";
        wide("expert=4,model=4", "a@expert b w {model}", "a b@expert w", narrow);
        // A value that stays pending cannot be split.
        wide("expert=4,model=4", "a@expert b w {model}", "a b@expert w {model}", "all_to_all");
        // Copies are split where the all-to-all would cross a large machine.
        wide("expert=4,model=4", "a@expert b w", "a b@expert w", "all_to_all");
        wide("expert=64,model=4", "a@expert b w", "a b@expert w", "shard all_to_all all_gather");
        // Small values do not justify another collective.
        check("a@expert b w {model}", "a b@expert w", "all_to_all all_reduce");
    }
}
