//! Einsum.

use super::{Names, Tensor};
use crate::{DType, Diagnostic, Name, Op, Site, Type, infer::with_hint, ir::Contract};

/// Returns the product of all operands, summed over the dims that are not in `out`. Dims of several operands
/// are matched by name. Products and sums are `f32`; the result has the element type of the operands.
///
/// More than two operands become a chain of products of two. Each step multiplies the cheapest pair.
#[track_caller]
pub fn einsum<'g, const N: usize>(operands: [Tensor<'g>; N], out: impl Names) -> Tensor<'g> {
    const { assert!(N > 0, "einsum takes at least one operand") };
    let site = operands[0].graph.site();
    lower(&operands, &out.names(), None, &site)
}

/// [`einsum`] with another float type for its result, such as `f32` from `bf16` operands.
#[track_caller]
pub fn einsum_as<'g, const N: usize>(dtype: DType, operands: [Tensor<'g>; N], out: impl Names) -> Tensor<'g> {
    const { assert!(N > 0, "einsum takes at least one operand") };
    let site = operands[0].graph.site();
    lower(&operands, &out.names(), Some(dtype), &site)
}

fn lower<'g>(operands: &[Tensor<'g>], out: &[Name], dtype: Option<DType>, site: &Site) -> Tensor<'g> {
    let graph = operands[0].graph;
    let Some(mut types) = operands.iter().map(|x| x.ty()).collect::<Option<Vec<Type>>>() else {
        // Poison, or a tensor of a closed body: `emit` reports the latter.
        let op = Op::Contract(Contract { out: out.to_vec(), dtype: DType::F32 });
        return graph.emit1(op, operands, site);
    };
    let mut rest = operands.to_vec();
    let result = dtype.unwrap_or(types[0].dtype);
    if let [x] = rest[..] {
        return alone(x, &types[0], out, result, site);
    }
    while rest.len() > 2 {
        let (i, j) = cheapest(&types);
        let (b, tb) = (rest.remove(j), types.remove(j));
        let (a, ta) = (rest.remove(i), types.remove(i));
        let needed = |n: &Name| out.contains(n) || types.iter().any(|t| t.has(n));
        let extra = tb.names().filter(|n| !ta.has(n));
        let kept: Vec<Name> = ta.names().chain(extra).filter(|n| needed(n)).cloned().collect();
        let op = Op::Contract(Contract { out: kept, dtype: ta.dtype });
        let product = a.apply(op, &[b], site);
        let Some(ty) = product.ty() else { return graph.poison() };
        rest.push(product);
        types.push(ty);
    }
    rest[0].apply(Op::Contract(Contract { out: out.to_vec(), dtype: result }), &[rest[1]], site)
}

/// Lowers an einsum of one operand: a sum over the dims that are not in `out`.
fn alone<'g>(x: Tensor<'g>, ty: &Type, out: &[Name], dtype: DType, site: &Site) -> Tensor<'g> {
    if let Some(name) = out.iter().find(|n| !ty.has(n)) {
        let known: Vec<_> = ty.names().map(|n| n.to_string()).collect();
        let message = format!("einsum: the result's dim `{name}` is not in the operand");
        return x.wrong(
            Diagnostic::new("contract_c3", message).help(with_hint(
                name,
                ty.names(),
                &format!("its dims are {}", known.join(", ")),
            )),
            site,
        );
    }
    let gone: Vec<Name> = ty.names().filter(|n| !out.contains(n)).cloned().collect();
    let x = if dtype == ty.dtype { x } else { x.cast_at(dtype, site) };
    if gone.is_empty() { x } else { x.reduce_at(crate::ir::ReduceKind::Sum, gone, site) }
}

/// Returns the pair whose product needs the fewest multiplications, the first of equals.
fn cheapest(types: &[Type]) -> (usize, usize) {
    let cost = |a: &Type, b: &Type| {
        let extra = b.logical().filter(|d| !a.has(&d.name)).map(|d| d.size as u128);
        a.elements() as u128 * extra.product::<u128>()
    };
    let pairs = (0..types.len()).flat_map(|i| (i + 1..types.len()).map(move |j| (i, j)));
    pairs.min_by_key(|(i, j)| cost(&types[*i], &types[*j])).expect("there are more than two operands")
}
