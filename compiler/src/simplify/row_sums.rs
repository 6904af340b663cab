//! Sums that a product computes on the way (Local only, with the schedule entry `attention_minor=query`). The
//! pass applies to a tensor that a body sums over a dim and also contracts with another tensor over the same
//! dim (attention weights: their sums, and their product with the values). The other tensor gets a column of
//! ones, and the sums become a column of the product. Matrix units have room for one more column where heads
//! are narrow, and the wide tensor is read once instead of twice.

use mesh::{
    Body, BodyBuilder, DType, Env, Inst, Module, Name, Op, Site, Type, Value,
    ir::{Contract, Elementwise, Reduce, ReduceKind, Shape},
    schedule::AttentionMinor,
};

/// Rewrites all functions. Returns true if any sum became part of a product.
pub fn run(module: &mut Module) -> bool {
    if module.schedule.attention_minor != AttentionMinor::Query {
        return false;
    }
    let env = &module.env;
    module.functions.iter_mut().fold(false, |changed, f| body(env, &mut f.body) | changed)
}

fn body(env: &Env, body: &mut Body) -> bool {
    let mut changed = false;
    for inner in body.insts.iter_mut().flat_map(|inst| inst.op.bodies_mut()) {
        changed |= self::body(env, inner);
    }
    while let Some(pair) = (0..body.insts.len()).find_map(|i| find(body, i)) {
        let Some(joined) = join(env, body, &pair) else { break };
        *body = joined;
        changed = true;
    }
    changed
}

/// A sum and a product of the same tensor over the same dim.
struct Pair {
    /// The positions of the sum and of the product.
    sum: usize,
    product: usize,
    /// The other factor, and its dim that gets one more element.
    factor: Value,
    wide: Name,
}

/// The pair of the sum at `i` and a product that can compute it.
fn find(body: &Body, i: usize) -> Option<Pair> {
    let Inst { op: Op::Reduce(Reduce::Over { kind: ReduceKind::Sum, dims }), args, results, .. } =
        &body.insts[i]
    else {
        return None;
    };
    let ([dim], [sum]) = (&dims[..], &results[..]) else { return None };
    let cast = body.insts.iter().find(|inst| inst.results.contains(&args[0]))?;
    let Op::Elementwise(Elementwise::Cast(DType::F32)) = cast.op else { return None };
    let rows = cast.args[0];
    let split = |ty: &Type, name: &Name| ty.dim(name).is_none_or(|d| !d.axes.is_empty());
    if body.ty(rows).dtype != DType::Bf16 || split(body.ty(rows), dim) {
        return None;
    }
    let product = body.insts.iter().position(|inst| {
        matches!(inst.op, Op::Contract(_))
            && inst.args.len() == 2
            && inst.args.contains(&rows)
            && suits(body, inst, rows, dim, *sum).is_some()
    })?;
    let (factor, wide) = suits(body, &body.insts[product], rows, dim, *sum)?;
    // Users of the sum must come after the product.
    let early = body.insts[..product].iter().any(|inst| inst.args.contains(sum));
    (!early).then_some(Pair { sum: i, product, factor, wide })
}

/// The other factor of a product that sums `rows` over `dim` only, and its one dim that `rows` lacks.
fn suits(body: &Body, product: &Inst, rows: Value, dim: &Name, sum: Value) -> Option<(Value, Name)> {
    let factor = *product.args.iter().find(|a| **a != rows)?;
    let Op::Contract(Contract { out, dtype: DType::Bf16 }) = &product.op else { return None };
    let (x, y) = (body.ty(rows), body.ty(factor));
    let mut others = y.dims.iter().filter(|d| !x.has(&d.dim.name));
    let wide = others.next().filter(|d| d.axes.is_empty())?;
    let rest: Vec<&Name> = out.iter().filter(|n| **n != wide.dim.name).collect();
    let summed = y.has(dim) && !out.contains(dim) && out.contains(&wide.dim.name);
    let alike = body.ty(sum).names().eq(rest) && body.ty(sum).dtype == DType::F32;
    (others.next().is_none() && summed && alike && y.dtype == DType::Bf16)
        .then(|| (factor, wide.dim.name.clone()))
}

/// The body with the pair as one product. `None` if type inference refuses it.
fn join(env: &Env, body: &Body, pair: &Pair) -> Option<Body> {
    let Pair { sum, product, factor, wide } = pair;
    let mut b = BodyBuilder { env, body: Body { insts: Vec::new(), ..body.clone() } };
    for (i, inst) in body.insts.iter().enumerate() {
        if i == *product {
            let made = both(&mut b, inst, *factor, wide, &body.insts[*sum].site)?;
            for (value, old) in made.into_iter().zip([inst.results[0], body.insts[*sum].results[0]]) {
                if b.body.ty(value) != body.ty(old) {
                    return None;
                }
                let maker = b.body.insts.iter_mut().find(|inst| inst.results.contains(&value))?;
                maker.results[0] = old;
            }
        } else if i != *sum {
            b.body.insts.push(inst.clone());
        }
    }
    b.body.compact();
    Some(b.body)
}

/// The product with a column of ones added to the factor, split into the product proper and the sums.
fn both(
    b: &mut BodyBuilder,
    product: &Inst,
    factor: Value,
    wide: &Name,
    of_sum: &Site,
) -> Option<[Value; 2]> {
    let Op::Contract(Contract { out, dtype }) = &product.op else { return None };
    let (size, site) = (b.body.ty(factor).size(wide)?, &product.site);
    let mut emit = |op: Op, args: &[Value], site: &Site| b.emit1(op, args, site).ok();
    let ones = Shape::Pad { dim: wide.clone(), low: 0, high: 1, value: 1.0 };
    let ones = emit(Op::Shape(ones), &[factor], site)?;
    let args: Vec<Value> = product.args.iter().map(|a| if *a == factor { ones } else { *a }).collect();
    let contract = Contract { out: out.clone(), dtype: DType::F32 };
    let all = emit(Op::Contract(contract), &args, site)?;
    let part = |start, limit| Op::Shape(Shape::Slice { dim: wide.clone(), start, limit, stride: 1 });
    let proper = emit(part(0, size), &[all], site)?;
    let proper = emit(Op::Elementwise(Elementwise::Cast(*dtype)), &[proper], site)?;
    let column = emit(part(size, size + 1), &[all], of_sum)?;
    let sums =
        emit(Op::Shape(Shape::Reshape { from: vec![wide.clone()], to: Vec::new() }), &[column], of_sum)?;
    Some([proper, sums])
}
