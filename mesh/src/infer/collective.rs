//! Result types of collectives.

use super::{complete, count, dtype, find, linear};
use crate::{
    AxisId, AxisSet, DType, Diagnostic, Env, Name, Type,
    ir::{Collective, Pending},
};

pub(super) fn infer(env: &Env, op: &Collective, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    count(args, 1, "a collective")?;
    let mut ty = args[0].clone();
    match op {
        Collective::AllReduce { kind, axes } => {
            let pending = match kind {
                Pending::Sum => &mut ty.sum,
                Pending::Max => &mut ty.max,
                Pending::Min => &mut ty.min,
            };
            pending_over(env, args[0], *pending, *axes)?;
            *pending = pending.minus(*axes);
        }
        Collective::AllGather { dim, axes } => {
            linear(env, args[0], "all_gather")?;
            strip(env, &mut ty, dim, axes)?;
        }
        Collective::ReduceScatter { dim, axes } => {
            let set: AxisSet = axes.iter().copied().collect();
            pending_over(env, args[0], ty.sum, set)?;
            linear(env, args[0], "reduce_scatter")?;
            ty.sum = ty.sum.minus(set);
            extend(&mut ty, dim, axes)?;
        }
        Collective::AllToAll { from, to, axes } => {
            linear(env, args[0], "all_to_all")?;
            strip(env, &mut ty, from, axes)?;
            extend(&mut ty, to, axes)?;
        }
        Collective::Permute { dim, axes, by, wrap: _ } => {
            linear(env, args[0], "collective_permute")?;
            permute(env, args[0], dim, axes, *by)?;
        }
        Collective::Shard { dim, axes } => {
            linear(env, args[0], "shard")?;
            extend(&mut ty, dim, axes)?;
        }
        Collective::AsPending { axes } => {
            dtype(args[0], |d| d != DType::Pred, "a number", "as_pending")?;
            linear(env, args[0], "as_pending")?;
            if !ty.sum.intersect(*axes).is_empty() {
                complete(env, args[0], "as_pending")?;
            }
            ty.sum = ty.sum.union(*axes);
        }
    }
    Ok(vec![ty])
}

/// Checks that there is at least one axis to reduce over, and that all are among the `pending` ones.
fn pending_over(env: &Env, ty: &Type, pending: AxisSet, axes: AxisSet) -> Result<(), Diagnostic> {
    if !axes.is_empty() && axes.minus(pending).is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new(
        "collective_l1",
        format!("nothing of this kind is pending over these axes: {}", ty.display(&env.mesh)),
    )
    .help("reduce only over axes of the pending sum, max or min"))
}

/// Checks that `axes` are all axes of a dim, and that shards move by at most their number.
fn permute(env: &Env, ty: &Type, dim: &Name, axes: &[AxisId], by: isize) -> Result<(), Diagnostic> {
    let d = find(ty, dim, "collective_permute")?;
    // Only axes of a valid type have a product: the axes of an operation may repeat.
    if !axes.is_empty() && d.axes == axes && by.unsigned_abs() <= env.mesh.product(axes) {
        return Ok(());
    }
    let text = ty.display(&env.mesh);
    Err(Diagnostic::new(
        "collective_l4",
        format!("shards of dim `{dim}` cannot move by {by} over these axes: {text}"),
    )
    .help("name all axes of the dim, in its order, and move by at most the number of its shards"))
}

/// Removes `axes` from the end of a dim's axes.
fn strip(env: &Env, ty: &mut Type, dim: &Name, axes: &[AxisId]) -> Result<(), Diagnostic> {
    let text = ty.display(&env.mesh).to_string();
    find(ty, dim, "collective")?;
    let d = ty.dims.iter_mut().find(|d| d.dim.name == *dim).expect("the line above found it");
    if axes.is_empty() || !d.axes.ends_with(axes) {
        return Err(Diagnostic::new(
            "collective_l2",
            format!("dim `{dim}` does not end with these axes: {text}"),
        )
        .help("take the last axes of the dim, in its order"));
    }
    d.axes.truncate(d.axes.len() - axes.len());
    Ok(())
}

/// Splits a dim further. [`super::check_type`] reports axes that are used twice.
fn extend(ty: &mut Type, dim: &Name, axes: &[AxisId]) -> Result<(), Diagnostic> {
    find(ty, dim, "collective")?;
    if axes.is_empty() {
        return Err(Diagnostic::new("collective_l3", format!("no axes to split dim `{dim}` over")));
    }
    ty.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.axes.extend(axes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dim, Mesh, TensorDim};

    #[test]
    fn axes_of_a_permute_may_not_repeat() {
        let env = Env { mesh: Mesh::parse("data=2").expect("a valid mesh"), ..Env::default() };
        let data = AxisId(0);
        let dim = TensorDim { dim: Dim::new("a", 4), axes: vec![data] };
        let ty = Type { dims: vec![dim], ..Type::scalar(DType::F32) };
        let permute = |axes| Collective::Permute { dim: "a".into(), axes, by: 1, wrap: true };
        assert!(infer(&env, &permute(vec![data]), &[&ty]).is_ok());
        // The number of shards of so many axes does not fit into 64 bits.
        let error = infer(&env, &permute(vec![data; 64]), &[&ty]).expect_err("the axes repeat");
        assert_eq!(error.label, "collective_l4");
    }
}
