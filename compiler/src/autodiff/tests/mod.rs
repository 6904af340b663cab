//! Gradients compared with finite differences, by the interpreter in 64 bits.

mod control;
mod dsl;

use super::*;
use crate::{
    interp::{Precision, Tensor, Tensors, run},
    pipeline, simplify,
};
use mesh::{
    BodyBuilder, DType, Dim, Function, Name, TensorDim, Type,
    ir::{
        Binary, Compare, Contract, Dist, Elementwise, Index, Outside, Random, Reduce, ReduceKind, Shape,
        Unary,
    },
};

type B<'a> = BodyBuilder<'a>;

fn ty(text: &str) -> Type {
    let (dtype, dims) = text.split_once('[').unwrap();
    let dims = dims.trim_end_matches(']').split(',').filter(|d| !d.is_empty());
    let dims = dims.map(|d| d.trim().split_once('=').unwrap());
    Type::new(DType::parse(dtype).unwrap(), dims.map(|(name, size)| Dim::new(name, size.parse().unwrap())))
}

fn dim(name: &str, size: usize) -> TensorDim {
    TensorDim { dim: Dim::new(name, size), axes: vec![] }
}

fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|n| Name::from(*n)).collect()
}

fn put(b: &mut B, op: impl Into<tape::Emit>, args: &[Value]) -> Value {
    b.emit1(op.into().0, args, &Site::default()).unwrap()
}

fn un(b: &mut B, op: Unary, x: Value) -> Value {
    put(b, Elementwise::Unary(op), &[x])
}

fn bin(b: &mut B, op: Binary, x: Value, y: Value) -> Value {
    put(b, Elementwise::Binary(op), &[x, y])
}

fn num(b: &mut B, dtype: DType, value: f64) -> Value {
    put(b, Shape::Constant { dtype, value }, &[])
}

fn scaled(b: &mut B, x: Value, factor: f64) -> Value {
    let factor = num(b, b.ty(x).dtype, factor);
    bin(b, Binary::Mul, x, factor)
}

fn sum(b: &mut B, x: Value) -> Value {
    let dims: Vec<Name> = b.ty(x).names().cloned().collect();
    put(b, Reduce::Over { kind: ReduceKind::Sum, dims }, &[x])
}

fn einsum(b: &mut B, out: &[&str], x: Value, y: Value) -> Value {
    let dtype = b.ty(x).dtype;
    put(b, Op::Contract(Contract { out: names(out), dtype }), &[x, y])
}

/// An integer index by formula: `(7·i + 3) mod modulus - below`, along `dims`.
fn index(b: &mut B, dims: &[TensorDim], modulus: usize, below: usize) -> Value {
    let mut sum = num(b, DType::S32, 3.0);
    for d in dims {
        let iota = put(b, Shape::Iota { dim: d.clone(), dtype: DType::S32 }, &[]);
        let iota = scaled(b, iota, 7.0);
        sum = bin(b, Binary::Add, iota, sum);
    }
    let modulus = num(b, DType::S32, modulus as f64);
    let rest = bin(b, Binary::Rem, sum, modulus);
    let below = num(b, DType::S32, below as f64);
    bin(b, Binary::Sub, rest, below)
}

/// Numbers between `low` and `high`, far enough from each other not to change order under a small step.
fn samples(ty: &Type, low: f64, high: f64, salt: usize) -> Tensor {
    let count = ty.elements();
    let step = |i: usize| ((i * 37 + salt * 11) % 101) as f64 / 101.0 + i as f64 * 1e-4;
    let dims: Vec<Dim> = ty.logical().cloned().collect();
    let data = (0..count).map(|i| low + (high - low) * step(i)).collect();
    Tensor::new(ty.dtype, &dims, data).unwrap()
}

/// A module with one function, whose first result is the loss and whose other results are the gradients.
fn program(params: &[&str], make: &dyn Fn(&mut B, &[Value]) -> Value) -> Module {
    let env = Env::default();
    let mut b = BodyBuilder::new(&env);
    let inputs: Vec<Name> = (0..params.len()).map(|i| format!("x{i}").into()).collect();
    let xs: Vec<Value> = params.iter().zip(&inputs).map(|(p, n)| b.param(ty(p), Some(n.clone()))).collect();
    let loss = make(&mut b, &xs);
    let wrt: Vec<Value> = xs.iter().copied().filter(|x| b.ty(*x).dtype.is_float()).collect();
    let args: Vec<Value> = std::iter::once(loss).chain(wrt).collect();
    let gradients = b.emit(Op::Control(Control::Grad), &args, &Site::default()).unwrap();
    let results: Vec<Value> = std::iter::once(loss).chain(gradients).collect();
    let outputs = (0..results.len()).map(|i| format!("y{i}").into()).collect();
    let body = b.finish(results);
    let functions = vec![Function { name: "f".into(), inputs, outputs, body }];
    Module { name: "gradients".into(), functions, ..Module::default() }
}

fn verified(module: &Module) {
    mesh::verify::verify(module, mesh::verify::Stage::Global).unwrap();
}

/// The program after all passes, which compute the same bits except for the sign of zeros.
fn simplified(module: &Module, inputs: &Tensors) -> Module {
    let mut simple = module.clone();
    for pass in [simplify::fold::run, simplify::cse::run, simplify::hoist::run, simplify::dce::run] {
        pass(&mut simple);
        verified(&simple);
    }
    let simple = pipeline::simplify(&simple).unwrap();
    verified(&simple);
    assert_eq!(pipeline::simplify(&simple).unwrap(), simple, "simplify is not finished");
    let call = |module| run(module, "f", inputs, &Tensors::new(), Precision::Normal).unwrap().outputs;
    for ((_, a), (_, b)) in call(module).iter().zip(&call(&simple)) {
        assert_eq!(a.names, b.names, "the order of dims");
        for (a, b) in a.elements().into_iter().zip(b.elements()) {
            assert!(a == b || a.is_nan() && b.is_nan(), "{a} becomes {b}");
        }
    }
    simple
}

#[track_caller]
fn compare(params: &[&str], (low, high): (f64, f64), make: &dyn Fn(&mut B, &[Value]) -> Value) {
    let mut asked = program(params, make);
    let module = expand(&asked).unwrap();
    verified(&module);
    let body = &module.functions[0].body;
    let types: Vec<&Type> = body.result_types().collect();
    assert_eq!(types, asked.functions[0].body.result_types().collect::<Vec<_>>(), "types change");
    let inputs: Tensors = (module.functions[0].inputs.iter().cloned())
        .zip(params.iter().enumerate().map(|(i, p)| samples(&ty(p), low, high, i)))
        .collect();
    let module = simplified(&module, &inputs);
    // Simplifying before differentiation does not change a gradient.
    asked = pipeline::simplify(&asked).unwrap();
    verified(&asked);
    let prepared = expand(&asked).unwrap();
    verified(&prepared);
    let call =
        |inputs: &Tensors| run(&module, "f", inputs, &Tensors::new(), Precision::Wide).unwrap().outputs;
    let outputs = call(&inputs);
    let others = run(&prepared, "f", &inputs, &Tensors::new(), Precision::Wide).unwrap().outputs;
    for (name, other) in others {
        for (a, b) in outputs[&name].elements().into_iter().zip(other.elements()) {
            assert!((a - b).abs() <= 1e-6 * (1.0 + a.abs()), "{a} becomes {b}");
        }
    }
    let wanted = inputs.keys().filter(|n| inputs[*n].dtype.is_float());
    for (output, name) in (1..).zip(wanted) {
        let gradient = outputs[&*format!("y{output}")].elements();
        for (i, have) in gradient.into_iter().enumerate() {
            let at = |step: f64| {
                let mut moved = inputs.clone();
                let tensor = moved.get_mut(name).unwrap();
                *tensor.data.iter_mut().nth(i).unwrap() += step;
                call(&moved)["y0"].number()
            };
            let h = 1e-5;
            let want = (at(h) - at(-h)) / (2.0 * h);
            assert!(
                (have - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "d/d{name}[{i}]: the gradient is {have}, the finite difference {want}, in\n{}",
                mesh::text::print(&module)
            );
        }
    }
}

/// Checks the gradients of the sum of the result of `make` (whose cotangent has no dims) and of the sum of
/// its sines (whose cotangent has all).
#[track_caller]
fn check_between(params: &[&str], range: (f64, f64), make: impl Fn(&mut B, &[Value]) -> Value) {
    compare(params, range, &|b, xs| {
        let y = make(b, xs);
        sum(b, y)
    });
    compare(params, range, &|b, xs| {
        let y = make(b, xs);
        let y = scaled(b, y, 1.3);
        let y = un(b, Unary::Sin, y);
        sum(b, y)
    });
}

#[track_caller]
fn check(params: &[&str], make: impl Fn(&mut B, &[Value]) -> Value) {
    check_between(params, (0.2, 1.7), make);
}

#[test]
fn functions_of_one_number() {
    for op in [
        Unary::Neg,
        Unary::Abs,
        Unary::Exp,
        Unary::Expm1,
        Unary::Erf,
        Unary::Log,
        Unary::Log1p,
        Unary::Sqrt,
        Unary::Rsqrt,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Logistic,
        Unary::Relu,
        Unary::Gelu,
        Unary::Sign,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
    ] {
        check(&["f32[a=3]"], |b, x| un(b, op, x[0]));
    }
    for op in [Unary::Abs, Unary::Relu, Unary::Gelu, Unary::Tanh, Unary::Sign] {
        check_between(&["f32[a=5]"], (-1.5, 1.5), |b, x| un(b, op, x[0]));
    }
}

#[test]
fn functions_of_two_numbers_sum_over_what_was_broadcast() {
    for op in [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Rem,
        Binary::Pow,
        Binary::Atan2,
        Binary::Max,
        Binary::Min,
    ] {
        for shapes in [
            ["f32[a=2,b=3]", "f32[b=3,a=2]"],
            ["f32[a=2,b=3]", "f32[b=3]"],
            ["f32[]", "f32[b=3]"],
            ["f32[a=2]", "f32[b=3]"],
        ] {
            check(&shapes, |b, x| bin(b, op, x[0], x[1]));
        }
    }
    check(&["f32[a=3]"], |b, x| bin(b, Binary::Mul, x[0], x[0]));
    check(&["f32[a=3]"], |b, x| bin(b, Binary::Div, x[0], x[0]));
}

#[test]
fn selects_casts_and_stopped_gradients() {
    check(&["f32[a=3]", "f32[b=2]", "f32[]"], |b, x| {
        let one = num(b, DType::F32, 0.9);
        let p = put(b, Elementwise::Compare(Compare::Gt), &[x[0], one]);
        put(b, Elementwise::Select, &[p, x[1], x[2]])
    });
    check(&["f32[a=3]"], |b, x| {
        let narrow = put(b, Elementwise::Cast(DType::Bf16), &[x[0]]);
        let square = bin(b, Binary::Mul, narrow, narrow);
        put(b, Elementwise::Cast(DType::F32), &[square])
    });
}

#[test]
fn a_stopped_gradient_is_zero() {
    let module = program(&["f32[a=2]"], &|b, x| {
        let stopped = put(b, Elementwise::StopGradient, &[x[0]]);
        let y = bin(b, Binary::Mul, stopped, x[0]);
        sum(b, y)
    });
    let module = expand(&module).unwrap();
    let x = samples(&ty("f32[a=2]"), 0.3, 2.0, 0);
    let inputs = [(Name::from("x0"), x.clone())].into();
    let outputs = run(&module, "f", &inputs, &Tensors::new(), Precision::Wide).unwrap().outputs;
    assert_eq!(outputs["y1"], x);
}

#[test]
fn einsums() {
    check(&["f32[i=2,j=3]", "f32[j=3,k=2]"], |b, x| einsum(b, &["i", "k"], x[0], x[1]));
    check(&["f32[n=2,i=2,j=3]", "f32[j=3,n=2,k=2]"], |b, x| einsum(b, &["k", "n", "i"], x[0], x[1]));
    check(&["f32[i=2,j=3]", "f32[k=2]"], |b, x| einsum(b, &["k"], x[0], x[1]));
    check(&["f32[i=2,j=3]", "f32[]"], |b, x| einsum(b, &["j", "i"], x[0], x[1]));
    check(&["f32[i=3]"], |b, x| einsum(b, &[], x[0], x[0]));
}

#[test]
fn folds() {
    for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::Min, ReduceKind::LogSumExp] {
        for dims in [&["a"][..], &["b", "a"], &[]] {
            check(&["f32[a=3,b=2]"], |b, x| put(b, Reduce::Over { kind, dims: names(dims) }, &[x[0]]));
        }
    }
    check(&["f32[a=3,b=2]"], |b, x| {
        let lse = put(b, Reduce::Over { kind: ReduceKind::LogSumExp, dims: names(&["b"]) }, &[x[0]]);
        let log = bin(b, Binary::Sub, x[0], lse);
        let softmax = un(b, Unary::Exp, log);
        bin(b, Binary::Mul, softmax, log)
    });
}

#[test]
fn equal_largest_elements_share_the_gradient() {
    let module = program(&["f32[a=3]"], &|b, x| {
        let y = put(b, Reduce::Over { kind: ReduceKind::Max, dims: names(&["a"]) }, &[x[0]]);
        sum(b, y)
    });
    let module = expand(&module).unwrap();
    let x = Tensor::new(DType::F32, &[Dim::new("a", 3)], vec![2.0, 1.0, 2.0]).unwrap();
    let inputs = [(Name::from("x0"), x)].into();
    let outputs = run(&module, "f", &inputs, &Tensors::new(), Precision::Wide).unwrap().outputs;
    assert_eq!(outputs["y1"].elements(), [0.5, 0.0, 0.5]);
}

#[test]
fn movement() {
    check(&["f32[a=2,b=3]"], |b, x| {
        put(b, Shape::Rename { pairs: vec![("a".into(), "b".into()), ("b".into(), "a".into())] }, &[x[0]])
    });
    check(&["f32[a=2,b=3,c=2]"], |b, x| {
        put(b, Shape::Reshape { from: names(&["a", "c"]), to: vec![dim("d", 4)] }, &[x[0]])
    });
    check(&["f32[a=4]"], |b, x| {
        let y = put(b, Shape::Reshape { from: names(&["a"]), to: vec![dim("b", 2), dim("c", 2)] }, &[x[0]]);
        put(b, Reduce::Over { kind: ReduceKind::Max, dims: names(&["b"]) }, &[y])
    });
    check(&["f32[]"], |b, x| put(b, Shape::Reshape { from: vec![], to: vec![dim("a", 1)] }, &[x[0]]));
    check(&["f32[a=1]"], |b, x| put(b, Shape::Reshape { from: names(&["a"]), to: vec![] }, &[x[0]]));
    check(&["f32[a=2]"], |b, x| put(b, Shape::Broadcast { dims: vec![dim("b", 3)] }, &[x[0]]));
    check(&["f32[a=2,b=3]"], |b, x| {
        put(b, Shape::Pad { dim: "b".into(), low: 1, high: 2, value: 0.5 }, &[x[0]])
    });
    check(&["f32[a=2,b=3]", "f32[b=1,a=2]"], |b, x| {
        put(b, Shape::Concat { dim: "b".into() }, &[x[0], x[1], x[0]])
    });
}

#[test]
fn slices_with_every_stride() {
    for (start, limit, stride) in
        [(0, 7, 1), (2, 5, 1), (0, 7, 2), (1, 6, 3), (3, 4, 2), (0, 6, 2), (0, 7, 6)]
    {
        check(&["f32[a=7,row=2]"], |b, x| {
            put(b, Shape::Slice { dim: "a".into(), start, limit, stride }, &[x[0]])
        });
    }
}

#[test]
fn gathers_and_scatters() {
    for outside in [Outside::Zero, Outside::Clamp] {
        let gather = Index::Gather { dim: "v".into(), outside };
        check(&["f32[v=4,d=2]"], |b, x| {
            let index = index(b, &[dim("n", 3), dim("m", 2)], 6, 1);
            put(b, gather.clone(), &[x[0], index])
        });
        check(&["f32[d=2,n=3,v=4]"], |b, x| {
            let index = index(b, &[dim("n", 3), dim("m", 2)], 6, 1);
            put(b, gather.clone(), &[x[0], index])
        });
        check(&["f32[n=3,v=4]"], |b, x| {
            let index = index(b, &[dim("n", 3)], 4, 0);
            put(b, gather.clone(), &[x[0], index])
        });
    }
    for over in [&["m"][..], &["n", "m"], &[]] {
        check(&["f32[d=2,n=3,m=2]"], |b, x| {
            let index = index(b, &[dim("n", 3), dim("m", 2)], 6, 1);
            put(b, Index::ScatterAdd { dim: dim("v", 4), over: names(over) }, &[index, x[0]])
        });
    }
}

#[test]
fn a_permutation_is_its_own_kind_of_gradient() {
    check(&["f32[g=2,n=4,d=2]"], |b, x| {
        // Position j takes element 5 - 2j, if there is one.
        let (two, five) = (num(b, DType::S32, 2.0), num(b, DType::S32, 5.0));
        let groups = |b: &mut B, x| put(b, Shape::Broadcast { dims: vec![dim("g", 2)] }, &[x]);
        let slot = put(b, Shape::Iota { dim: dim("s", 4), dtype: DType::S32 }, &[]);
        let twice = bin(b, Binary::Mul, slot, two);
        let forward = bin(b, Binary::Sub, five, twice);
        let place = put(b, Shape::Iota { dim: dim("n", 4), dtype: DType::S32 }, &[]);
        let rest = bin(b, Binary::Sub, five, place);
        let half = bin(b, Binary::Div, rest, two);
        let odd = bin(b, Binary::Rem, place, two);
        let zero = num(b, DType::S32, 0.0);
        let goes = put(b, Elementwise::Compare(Compare::Ne), &[odd, zero]);
        let nowhere = num(b, DType::S32, -1.0);
        let inverse = put(b, Elementwise::Select, &[goes, half, nowhere]);
        let (forward, inverse) = (groups(b, forward), groups(b, inverse));
        put(b, Index::Permute { dim: "n".into(), to: "s".into() }, &[x[0], forward, inverse])
    });
}

#[test]
fn what_orders_elements() {
    for to in ["k", "a"] {
        check(&["f32[b=2,a=5]"], |b, x| {
            let op = Op::Index(Index::TopK { dim: "a".into(), to: Dim::new(to, 2) });
            b.emit(op, &[x[0]], &Site::default()).unwrap()[0]
        });
    }
    for descending in [false, true] {
        check(&["f32[b=2,a=5]", "f32[a=5,b=2]", "f32[a=5,b=2]"], |b, x| {
            let op = Op::Index(Index::Sort { dim: "a".into(), descending });
            let sorted = b.emit(op, x, &Site::default()).unwrap();
            let product = bin(b, Binary::Mul, sorted[0], sorted[1]);
            let rank = put(b, Shape::Iota { dim: dim("a", 5), dtype: DType::F32 }, &[]);
            bin(b, Binary::Mul, product, rank)
        });
    }
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        check(&["f32[b=2,a=4]"], |b, x| {
            put(b, Index::CumSum { dim: "a".into(), exclusive, reverse }, &[x[0]])
        });
    }
}

#[test]
fn slices_at_a_computed_place() {
    for start in [-1.0, 0.0, 1.0, 4.0] {
        check(&["f32[a=5,b=2]"], |b, x| {
            let start = num(b, DType::S32, start);
            put(b, Index::DynamicSlice { dim: "a".into(), size: 2 }, &[x[0], start])
        });
        check(&["f32[a=5,b=2]", "f32[b=2,a=3]"], |b, x| {
            let start = num(b, DType::S32, start);
            put(b, Index::DynamicUpdate { dim: "a".into() }, &[x[0], x[1], start])
        });
    }
}

#[test]
fn random_numbers_are_constants() {
    check(&["f32[a=4]"], |b, x| {
        let (seed, counter) = (num(b, DType::U32, 1.0), num(b, DType::U32, 2.0));
        let random = Random { dist: Dist::Uniform, dims: vec![dim("a", 4)], dtype: DType::F32, stream: 3 };
        let noise = put(b, Op::Random(random), &[seed, counter]);
        bin(b, Binary::Mul, noise, x[0])
    });
}

#[test]
fn gradients_of_gradients() {
    check(&["f32[a=3]", "f32[a=3,b=2]"], |b, x| {
        let cube = bin(b, Binary::Mul, x[0], x[0]);
        let y = einsum(b, &["b"], cube, x[1]);
        let y = un(b, Unary::Tanh, y);
        let loss = sum(b, y);
        let first = b.emit(Op::Control(Control::Grad), &[loss, x[0]], &Site::default()).unwrap()[0];
        bin(b, Binary::Mul, first, first)
    });
}

#[test]
fn a_value_between_is_a_variable_too() {
    compare(&["f32[a=3]"], (0.2, 1.0), &|b, x| {
        let y = un(b, Unary::Exp, x[0]);
        let z = bin(b, Binary::Mul, y, y);
        let loss = sum(b, z);
        // d loss / d y = 2 y = 2 e^x.
        let g = b.emit(Op::Control(Control::Grad), &[loss, y], &Site::default()).unwrap()[0];
        sum(b, g)
    });
}

#[test]
fn what_does_not_matter_has_gradient_zero() {
    check(&["f32[a=2]", "f32[b=3,c=2]"], |b, x| un(b, Unary::Exp, x[0]));
}
