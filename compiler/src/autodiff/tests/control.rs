//! Gradients through loops and conditionals, under every policy and in both directions.

use super::*;
use mesh::ir::{Remat, Scan};

/// A scan whose body is built by `make` from its parameters' types.
fn scan(
    b: &mut B,
    op: (usize, usize, bool, Remat),
    layers: usize,
    args: &[Value],
    make: &dyn Fn(&mut B, &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let (carries, xs, reverse, remat) = op;
    let mut inner = BodyBuilder::new(b.env);
    let params: Vec<Value> = (args.iter().enumerate())
        .map(|(i, a)| {
            let mut ty = b.ty(*a).clone();
            if (carries..carries + xs).contains(&i) {
                ty.dims.retain(|d| d.dim.name != *"layers");
            }
            inner.param(ty, None)
        })
        .collect();
    let results = make(&mut inner, &params);
    let body = inner.finish(results);
    let dim = Dim::new("layers", layers);
    let op = Scan { dim, carries, xs, reverse, remat, unroll: false, barrier: false, body };
    b.emit(Op::Control(Control::Scan(Box::new(op))), args, &Site::default()).unwrap()
}

/// Every policy in both directions.
fn ways() -> impl Iterator<Item = (bool, Remat)> {
    let all =
        [Remat::SaveAll, Remat::SaveLong, Remat::SaveCompact, Remat::SaveContractions, Remat::SaveCarries];
    [false, true].into_iter().flat_map(move |reverse| all.map(|remat| (reverse, remat)))
}

/// `h ← h + v · gelu(W h)`, `y = Σ h²`; `W` sliced, `v` captured.
fn residual_layer(b: &mut B, p: &[Value]) -> Vec<Value> {
    let z = einsum(b, &["f"], p[0], p[1]);
    let a = un(b, Unary::Gelu, z);
    let out = einsum(b, &["d"], a, p[2]);
    let h = bin(b, Binary::Add, p[0], out);
    let square = bin(b, Binary::Mul, h, h);
    let y = sum(b, square);
    vec![h, y]
}

#[test]
fn scans_with_carries_slices_and_captures() {
    for (reverse, remat) in ways() {
        check_between(&["f32[d=2]", "f32[layers=3,d=2,f=2]", "f32[f=2,d=2]"], (-0.5, 0.7), |b, x| {
            let out = scan(b, (1, 1, reverse, remat), 3, x, &residual_layer);
            let h = sum(b, out[0]);
            bin(b, Binary::Add, h, out[1])
        });
        // One of the two results is used.
        for used in [0, 1] {
            check_between(&["f32[d=2]", "f32[layers=3,d=2,f=2]", "f32[f=2,d=2]"], (-0.5, 0.7), |b, x| {
                scan(b, (1, 1, reverse, remat), 3, x, &residual_layer)[used]
            });
        }
    }
}

#[test]
fn scans_whose_carries_feed_each_other() {
    for (reverse, remat) in ways() {
        // (a, b, n) ← (b, a·x + c, n + 1): a gets its cotangent through b; n is an integer.
        check(&["f32[d=2]", "f32[d=2]", "f32[layers=4,d=2]", "f32[]"], |b, x| {
            let start = num(b, DType::S32, 1.0);
            let args = [x[0], x[1], start, x[2], x[3]];
            let out = scan(b, (3, 1, reverse, remat), 4, &args, &|b, p| {
                let product = bin(b, Binary::Mul, p[0], p[3]);
                let next = bin(b, Binary::Add, product, p[4]);
                let one = num(b, DType::S32, 1.0);
                let count = bin(b, Binary::Add, p[2], one);
                let factor = put(b, Elementwise::Cast(DType::F32), &[count]);
                let y = bin(b, Binary::Mul, p[0], factor);
                vec![p[1], next, count, y]
            });
            let y = put(b, Reduce::Over { kind: ReduceKind::Sum, dims: names(&["layers"]) }, &[out[3]]);
            bin(b, Binary::Add, out[0], y)
        });
    }
}

#[test]
fn scans_that_carry_a_dim_named_like_theirs() {
    for (reverse, remat) in ways() {
        // The carry has a dim `layers` itself, so that the saved stack needs another name for it.
        check(&["f32[layers=2,d=2]", "f32[layers=2]"], |b, x| {
            let carry = x[0];
            let out = scan(b, (1, 1, reverse, remat), 2, &[carry, x[1]], &|b, p| {
                let y = bin(b, Binary::Mul, p[0], p[0]);
                vec![bin(b, Binary::Mul, y, p[1])]
            });
            out[0]
        });
    }
}

#[test]
fn scans_in_scans() {
    for (_, remat) in ways() {
        check(&["f32[d=2]", "f32[layers=2,d=2]", "f32[]"], |b, x| {
            let out = scan(b, (1, 1, false, remat), 2, x, &|b, p| {
                // The inner scan runs over `steps`.
                let env = b.env;
                let mut inner = BodyBuilder::new(env);
                let h = inner.param(ty("f32[d=2]"), None);
                let w = inner.param(ty("f32[d=2]"), None);
                let product = bin(&mut inner, Binary::Mul, h, w);
                let next = un(&mut inner, Unary::Tanh, product);
                let next = bin(&mut inner, Binary::Add, next, h);
                let body = inner.finish(vec![next]);
                let op = Scan {
                    dim: Dim::new("steps", 2),
                    carries: 1,
                    xs: 0,
                    reverse: true,
                    remat,
                    unroll: false,
                    barrier: false,
                    body,
                };
                let h = b.emit(Op::Control(Control::Scan(Box::new(op))), &[p[0], p[1]], &Site::default());
                let h = h.unwrap()[0];
                vec![bin(b, Binary::Mul, h, p[2])]
            });
            out[0]
        });
    }
}

#[test]
fn gradients_inside_a_scan_and_through_it() {
    for (reverse, remat) in ways() {
        check(&["f32[d=2]", "f32[layers=2,d=2]"], |b, x| {
            let out = scan(b, (1, 1, reverse, remat), 2, x, &|b, p| {
                let y = bin(b, Binary::Mul, p[0], p[1]);
                let y = un(b, Unary::Sin, y);
                let loss = sum(b, y);
                let g = b.emit(Op::Control(Control::Grad), &[loss, p[0]], &Site::default()).unwrap()[0];
                vec![bin(b, Binary::Sub, p[0], g)]
            });
            out[0]
        });
    }
}

#[test]
fn gradients_of_gradients_through_a_scan() {
    for (reverse, remat) in ways() {
        check_between(&["f32[d=2]", "f32[layers=2,d=2,f=2]", "f32[f=2,d=2]"], (-0.5, 0.7), |b, x| {
            let out = scan(b, (1, 1, reverse, remat), 2, x, &residual_layer);
            let loss = sum(b, out[0]);
            let first = b.emit(Op::Control(Control::Grad), &[loss, x[1]], &Site::default()).unwrap()[0];
            bin(b, Binary::Mul, first, first)
        });
    }
}

#[test]
fn conditionals() {
    for limit in [0.0, 5.0] {
        check(&["f32[a=2]", "f32[]", "f32[a=2]"], |b, x| {
            let limit = num(b, DType::F32, limit);
            let p = put(b, Elementwise::Compare(Compare::Lt), &[x[1], limit]);
            let branch = |product: bool| {
                let mut inner = BodyBuilder::new(b.env);
                let a = inner.param(ty("f32[a=2]"), None);
                let s = inner.param(ty("f32[]"), None);
                let c = inner.param(ty("f32[a=2]"), None);
                let y = if product {
                    let y = bin(&mut inner, Binary::Mul, a, s);
                    un(&mut inner, Unary::Tanh, y)
                } else {
                    bin(&mut inner, Binary::Mul, c, c)
                };
                Box::new(inner.finish(vec![y, a]))
            };
            let op = Control::Cond { then: branch(true), otherwise: branch(false) };
            let out = b.emit(Op::Control(op), &[p, x[0], x[1], x[2]], &Site::default()).unwrap();
            bin(b, Binary::Mul, out[0], out[1])
        });
    }
}
