//! The gradient of every operation, and of random programs, against finite differences.
//!
//! [`ROWS`] is a table with a row for each operation. The same macro generates a `match` without `_` from the
//! rows, so that an operation without a row does not compile.

use mesh::ir::{
    Binary, Collective, Compare, Contract, Control, Edge, Elementwise, Extreme, Index, Outside, Reduce,
    ReduceKind, Remat, Scan, Shape, StateOp, Unary,
};
use mesh::{BodyBuilder, DType, Dim, Module, Name, Op, Site, StateDecl, StateKind, TensorDim, Type, Value};
use tests::differences::{Build, Input, check, check_in, floats, parse, these};

/// The check of an operation's gradient.
enum Row {
    /// Runs the checks and returns the checked programs.
    Checked(fn() -> Vec<Module>),
    /// The reason why the operation has no gradient.
    None(&'static str),
}
use Row::{Checked, None as No};

macro_rules! rows {
    ($($pattern:pat => $row:expr,)*) => {
        /// All operations with the checks of their gradients.
        const ROWS: &[(&str, Row)] = &[$((stringify!($pattern), $row)),*];

        /// Returns the row of an operation.
        fn row(op: &Op) -> &'static str {
            match op {
                $($pattern => stringify!($pattern),)*
            }
        }
    };
}

const WHOLE: &str = "it takes and gives whole numbers or truth values";
const SOURCE: &str = "it has no float operand";

rows! {
    Op::Elementwise(Elementwise::Unary(Unary::Neg)) => Checked(|| unary(Unary::Neg, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Abs)) => Checked(|| unary(Unary::Abs, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Sign)) => Checked(|| unary(Unary::Sign, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Exp)) => Checked(|| unary(Unary::Exp, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Expm1)) => Checked(|| unary(Unary::Expm1, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Log)) => Checked(|| unary(Unary::Log, 0.2, 3.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Log1p)) => Checked(|| unary(Unary::Log1p, -0.6, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Sqrt)) => Checked(|| unary(Unary::Sqrt, 0.2, 3.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Rsqrt)) => Checked(|| unary(Unary::Rsqrt, 0.2, 3.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Sin)) => Checked(|| unary(Unary::Sin, -4.0, 4.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Cos)) => Checked(|| unary(Unary::Cos, -4.0, 4.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Tanh)) => Checked(|| unary(Unary::Tanh, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Logistic)) => Checked(|| unary(Unary::Logistic, -4.0, 4.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Relu)) => Checked(|| unary(Unary::Relu, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Gelu)) => Checked(|| unary(Unary::Gelu, -3.0, 3.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Erf)) => Checked(|| unary(Unary::Erf, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Floor)) => Checked(|| unary(Unary::Floor, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Ceil)) => Checked(|| unary(Unary::Ceil, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Round)) => Checked(|| unary(Unary::Round, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::RoundBf16)) => Checked(|| unary(Unary::RoundBf16, -2.0, 2.0)),
    Op::Elementwise(Elementwise::Unary(Unary::Not)) => No(WHOLE),
    Op::Elementwise(Elementwise::Unary(Unary::IsFinite)) => No("it gives truth values"),
    Op::Elementwise(Elementwise::Binary(Binary::Add)) => Checked(|| binary(Binary::Add, [-2.0, 2.0], [-2.0, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Sub)) => Checked(|| binary(Binary::Sub, [-2.0, 2.0], [-2.0, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Mul)) => Checked(|| binary(Binary::Mul, [-2.0, 2.0], [-2.0, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Div)) => Checked(|| binary(Binary::Div, [-2.0, 2.0], [0.4, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Rem)) => Checked(|| binary(Binary::Rem, [-6.0, 6.0], [1.1, 1.4])),
    Op::Elementwise(Elementwise::Binary(Binary::Pow)) => Checked(|| binary(Binary::Pow, [0.3, 2.0], [-2.0, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Atan2)) => Checked(|| binary(Binary::Atan2, [-2.0, 2.0], [0.3, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Max)) => Checked(|| binary(Binary::Max, [-2.0, 2.0], [-2.0, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::Min)) => Checked(|| binary(Binary::Min, [-2.0, 2.0], [-2.0, 2.0])),
    Op::Elementwise(Elementwise::Binary(Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr)) => No(WHOLE),
    Op::Elementwise(Elementwise::Compare(
        Compare::Eq | Compare::Ne | Compare::Lt | Compare::Le | Compare::Gt | Compare::Ge
    )) => No("it gives truth values"),
    Op::Elementwise(Elementwise::Select) => Checked(select),
    Op::Elementwise(Elementwise::Cast(_)) => Checked(cast),
    Op::Elementwise(Elementwise::StopGradient) => Checked(stop_gradient),
    Op::Elementwise(Elementwise::WithGradient) => Checked(with_gradient),
    Op::Contract(_) => Checked(contract),
    Op::Reduce(Reduce::Over { kind: ReduceKind::Sum, dims: _ }) => Checked(|| fold(ReduceKind::Sum)),
    Op::Reduce(Reduce::Over { kind: ReduceKind::Max, dims: _ }) => Checked(|| fold(ReduceKind::Max)),
    Op::Reduce(Reduce::Over { kind: ReduceKind::Min, dims: _ }) => Checked(|| fold(ReduceKind::Min)),
    Op::Reduce(Reduce::Over { kind: ReduceKind::Mean, dims: _ }) => Checked(|| fold(ReduceKind::Mean)),
    Op::Reduce(Reduce::Over { kind: ReduceKind::LogSumExp, dims: _ }) => Checked(|| fold(ReduceKind::LogSumExp)),
    Op::Reduce(Reduce::ArgMax { dim: _ }) => No("it gives whole numbers"),
    Op::Shape(Shape::Constant { dtype: _, value: _ }) => No(SOURCE),
    Op::Shape(Shape::Iota { dim: _, dtype: _ }) => No(SOURCE),
    Op::Shape(Shape::Rename { pairs: _ }) => Checked(rename),
    Op::Shape(Shape::Reshape { from: _, to: _ }) => Checked(reshape),
    Op::Shape(Shape::Broadcast { dims: _ }) => Checked(broadcast),
    Op::Shape(Shape::Slice { dim: _, start: _, limit: _, stride: _ }) => Checked(slice),
    Op::Shape(Shape::Pad { dim: _, low: _, high: _, value: _ }) => Checked(pad),
    Op::Shape(Shape::Concat { dim: _ }) => Checked(concat),
    Op::Shape(Shape::Shift { dim: _, by: _, edge: Edge::Fill(_) }) => Checked(shift),
    Op::Shape(Shape::Shift { dim: _, by: _, edge: Edge::Wrap }) => Checked(roll),
    Op::Index(Index::OneHot { dim: _, dtype: _ }) => No(SOURCE),
    Op::Index(Index::Gather { dim: _, outside: Outside::Zero }) => Checked(|| gather(Outside::Zero)),
    Op::Index(Index::Gather { dim: _, outside: Outside::Clamp }) => Checked(|| gather(Outside::Clamp)),
    Op::Index(Index::ScatterAdd { dim: _, over: _ }) => Checked(|| scatter(None)),
    Op::Index(Index::ScatterExtreme { kind: Extreme::Max, dim: _, over: _ }) => Checked(|| scatter(Some(Extreme::Max))),
    Op::Index(Index::ScatterExtreme { kind: Extreme::Min, dim: _, over: _ }) => Checked(|| scatter(Some(Extreme::Min))),
    Op::Index(Index::Permute { dim: _, to: _ }) => Checked(permute),
    Op::Index(Index::TopK { dim: _, to: _ }) => Checked(top_k),
    Op::Index(Index::Sort { dim: _, descending: _ }) => Checked(sort),
    Op::Index(Index::CumSum { dim: _, exclusive: _, reverse: _ }) => Checked(cumsum),
    Op::Index(Index::DynamicSlice { dim: _, size: _ }) => Checked(dynamic_slice),
    Op::Index(Index::DynamicUpdate { dim: _ }) => Checked(dynamic_update),
    Op::Random(_) => No("it is a function of whole numbers"),
    Op::State(StateOp::Read(_)) => Checked(read),
    Op::State(StateOp::Write(_)) => No("it has no result"),
    Op::Control(Control::Scan(_)) => Checked(scan),
    Op::Control(Control::Cond { then: _, otherwise: _ }) => Checked(cond),
    Op::Control(Control::Grad) => Checked(gradient_of_gradient),
    Op::Collective(
        Collective::AllReduce { kind: _, axes: _ }
        | Collective::AllGather { dim: _, axes: _ }
        | Collective::ReduceScatter { dim: _, axes: _ }
        | Collective::AllToAll { from: _, to: _, axes: _ }
        | Collective::Permute { dim: _, axes: _, by: _, wrap: _ }
        | Collective::Shard { dim: _, axes: _ }
        | Collective::AsPending { axes: _ }
    ) => No("gradients are taken before a program is partitioned"),
}

#[test]
fn the_gradient_of_every_operation_is_that_of_finite_differences() {
    for (name, row_of) in ROWS {
        let programs = match row_of {
            Checked(run) => run(),
            No(reason) => {
                println!("{name} has no gradient: {reason}");
                continue;
            }
        };
        for module in programs {
            let mut found = false;
            module.functions[0].body.walk(&mut |_, inst| found |= row(&inst.op) == *name);
            assert!(
                found,
                "the row {name} checks a program without that operation\n{}",
                mesh::text::print(&module)
            );
        }
    }
}

/// The table is also the list of operations that random programs must contain.
#[test]
fn random_programs_have_every_operation() {
    let mut counts: Vec<(&str, usize)> = ROWS.iter().map(|(name, _)| (*name, 0)).collect();
    for seed in 0..520 {
        let case = tests::generate::case(seed, 2, 14);
        let programs = tests::law::prepare(&case).unwrap();
        for function in case.module.functions.iter().chain(&programs.local.functions) {
            function.body.walk(&mut |_, inst| {
                let name = row(&inst.op);
                counts.iter_mut().filter(|(n, _)| *n == name).for_each(|(_, count)| *count += 1);
            });
        }
    }
    counts.retain(|(_, count)| *count < 10);
    assert!(counts.is_empty(), "these are in random programs fewer than 10 times: {counts:?}");
}

// Elementwise

/// Dims of operands: equal, different, in another order, and a scalar.
const PAIRS: [(&str, &str); 5] =
    [("a=3", "a=3"), ("a=2,b=3", "c=2,b=3"), ("a=2,b=3", "b=3,a=2"), ("", "a=4"), ("a=3,b=2", "")];

fn unary(op: Unary, low: f64, high: f64) -> Vec<Module> {
    let op = || Op::Elementwise(Elementwise::Unary(op));
    let dims = ["", "a=7", "a=2,b=4"];
    dims.iter().map(|d| check(&[floats(d, low, high)], &|b, x| b.all(op(), x))).collect()
}

fn binary(op: Binary, a: [f64; 2], b: [f64; 2]) -> Vec<Module> {
    let op = || Op::Elementwise(Elementwise::Binary(op));
    let mut checked: Vec<Module> = PAIRS
        .iter()
        .map(|(da, db)| check(&[floats(da, a[0], a[1]), floats(db, b[0], b[1])], &|g, x| g.all(op(), x)))
        .collect();
    // Both operands are the same value.
    if a[0] < b[0] || a[0] > 0.0 {
        return checked;
    }
    checked.push(check(&[floats("a=3", a[0], a[1])], &|g, x| {
        let twice = mul(g, x[0], x[0]);
        let sum = g.one(op(), &[x[0], x[0]]);
        vec![g.one(op(), &[twice, twice]), sum]
    }));
    checked
}

fn mul(b: &mut Build<'_>, x: Value, y: Value) -> Value {
    b.one(Op::Elementwise(Elementwise::Binary(Binary::Mul)), &[x, y])
}

fn tanh(b: &mut Build<'_>, x: Value) -> Value {
    b.one(Op::Elementwise(Elementwise::Unary(Unary::Tanh)), &[x])
}

fn select() -> Vec<Module> {
    let dims = [("a=4", "a=4", "a=4"), ("c=2", "a=2", "b=3"), ("a=2,b=3", "", "b=3"), ("", "a=3", "a=3")];
    let select = |b: &mut Build<'_>, x: &[Value]| b.all(Op::Elementwise(Elementwise::Select), x);
    dims.iter()
        .map(|(p, a, b)| {
            let p = these(DType::Pred, p, &[1.0, 0.0, 0.0, 1.0, 1.0]);
            check(&[p, floats(a, -1.0, 1.0), floats(b, -1.0, 1.0)], &select)
        })
        .collect()
}

fn cast() -> Vec<Module> {
    let cast = |to| Op::Elementwise(Elementwise::Cast(to));
    let by = |middle: DType| {
        check(&[floats("a=3", -2.0, 2.0)], &|b, x| {
            let there = b.one(cast(middle), x);
            let back = b.one(cast(DType::F32), &[there]);
            vec![mul(b, back, x[0])]
        })
    };
    [DType::F32, DType::Bf16, DType::S32, DType::Pred].map(by).into()
}

/// Values and gradient are those of the product, but by different operands.
fn with_gradient() -> Vec<Module> {
    let module = check(&[floats("a=3", -2.0, 2.0), floats("a=3", -2.0, 2.0)], &|b, x| {
        let y = mul(b, x[0], x[1]);
        let held = b.one(Op::Elementwise(Elementwise::StopGradient), &[y]);
        vec![b.one(Op::Elementwise(Elementwise::WithGradient), &[held, y])]
    });
    vec![module]
}

/// Finite differences ignore `stop_gradient`, so a separate input takes its place; its gradient must be zero.
fn stop_gradient() -> Vec<Module> {
    let stop = |b: &mut Build<'_>, x: Value| b.one(Op::Elementwise(Elementwise::StopGradient), &[x]);
    let module = check(&[these(DType::S32, "a=3", &[2.0, -1.0, 5.0]), floats("a=3", -2.0, 2.0)], &|b, x| {
        let held = b.one(Op::Elementwise(Elementwise::Cast(DType::F32)), &[x[0]]);
        let held = stop(b, held);
        vec![mul(b, held, x[1])]
    });
    let env = mesh::Env::default();
    let mut b = Build(BodyBuilder::new(&env));
    let x = b.0.param(Type::scalar(DType::F32), None);
    let held = stop(&mut b, x);
    let product = mul(&mut b, x, held);
    let d = b.one(Op::Control(Control::Grad), &[product, x]);
    let body = b.0.finish(vec![d]);
    let function =
        mesh::Function { name: "f".into(), inputs: vec!["x".into()], outputs: vec!["d".into()], body };
    let module_of_x = Module { name: "x".into(), functions: vec![function], ..Module::default() };
    let expanded = tests::law::lower(&module_of_x).unwrap();
    let inputs = [(Name::from("x"), compiler::interp::Tensor::scalar(DType::F32, 3.0))].into();
    let outcome =
        compiler::interp::run(&expanded, "f", &inputs, &Default::default(), Default::default()).unwrap();
    assert_eq!(outcome.outputs["d"].number(), 3.0, "d/dx of x · stop(x) is x, not 2x");
    vec![module, module_of_x]
}

// Contract

fn contract() -> Vec<Module> {
    let contract = |out: &str| {
        let out = out.split(',').filter(|n| !n.is_empty()).map(Name::from).collect();
        Op::Contract(Contract { out, dtype: DType::F32 })
    };
    let mut checked: Vec<Module> = [
        ("m=2,k=3", "k=3,n=2", "m,n"),
        ("m=2,k=3", "k=3,n=2", "n,m"),
        ("b=2,m=2,k=2", "k=2,b=2,n=3", "m,b,n"),
        ("b=2,k=3", "b=2,k=3", "b"),
        ("a=3", "a=3", ""),
        ("a=2", "b=3", "b,a"),
        ("a=2,c=2", "b=3,c=2", "a"),
        ("a=2", "", "a"),
        ("", "", ""),
        ("a=2,b=2,c=2", "c=2,d=2,a=2", "d,b"),
    ]
    .iter()
    .map(|(x, y, out)| check(&[floats(x, -2.0, 2.0), floats(y, -2.0, 2.0)], &|b, v| b.all(contract(out), v)))
    .collect();
    checked.push(check(&[floats("m=2,k=3", -2.0, 2.0)], &|b, x| b.all(contract("m"), &[x[0], x[0]])));
    checked.push(check(&[floats("m=2,k=3", -2.0, 2.0), floats("k=3", -2.0, 2.0)], &|b, x| {
        let narrow: Vec<Value> =
            x.iter().map(|v| b.one(Op::Elementwise(Elementwise::Cast(DType::Bf16)), &[*v])).collect();
        b.all(Op::Contract(Contract { out: vec!["m".into()], dtype: DType::Bf16 }), &narrow)
    }));
    checked
}

// Reduce

fn fold(kind: ReduceKind) -> Vec<Module> {
    let dims: [&[&str]; 4] = [&["a"], &["b", "a"], &["c", "a"], &[]];
    dims.iter()
        .map(|dims| {
            let dims: Vec<Name> = dims.iter().map(|n| Name::from(*n)).collect();
            let fold = Op::Reduce(Reduce::Over { kind, dims });
            check(&[floats("a=2,b=3,c=2", -2.0, 2.0)], &|b, x| b.all(fold.clone(), x))
        })
        .collect()
}

// Shape

fn whole(dims: &str) -> Vec<TensorDim> {
    parse(dims).into_iter().map(|dim| TensorDim { dim, axes: Vec::new() }).collect()
}

/// Checks an operation with one operand of these dims.
fn on(dims: &str, op: Op) -> Module {
    check(&[floats(dims, -2.0, 2.0)], &|b, x| b.all(op.clone(), x))
}

fn rename() -> Vec<Module> {
    let rename = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(f, t)| (Name::from(*f), Name::from(*t))).collect();
        Op::Shape(Shape::Rename { pairs })
    };
    let transposed = check(&[floats("a=2,b=2", -2.0, 2.0)], &|b, x| {
        let turned = b.one(rename(&[("a", "b"), ("b", "a")]), x);
        vec![mul(b, turned, x[0])]
    });
    vec![on("a=2,b=3", rename(&[("a", "z")])), on("a=2,b=3", rename(&[("a", "b"), ("b", "a")])), transposed]
}

fn reshape() -> Vec<Module> {
    let reshape = |from: &[&str], to: &str| {
        Op::Shape(Shape::Reshape { from: from.iter().map(|n| Name::from(*n)).collect(), to: whole(to) })
    };
    vec![
        on("a=2,b=3", reshape(&["a", "b"], "ab=6")),
        on("a=2,b=3,c=2", reshape(&["c", "a"], "d=4")),
        on("a=6,b=2", reshape(&["a"], "c=3,d=2")),
        on("a=2,b=6", reshape(&["a", "b"], "a=4,c=3")),
        on("a=2", reshape(&[], "one=1")),
        on("a=2,one=1", reshape(&["one"], "")),
    ]
}

fn broadcast() -> Vec<Module> {
    let broadcast = |dims| Op::Shape(Shape::Broadcast { dims: whole(dims) });
    vec![on("a=2", broadcast("b=3")), on("", broadcast("b=3,c=2")), on("a=2,b=2", broadcast("c=2"))]
}

fn slice() -> Vec<Module> {
    let slice = |start, limit, stride| Op::Shape(Shape::Slice { dim: "a".into(), start, limit, stride });
    let cases =
        [slice(1, 4, 1), slice(0, 7, 3), slice(1, 7, 2), slice(2, 3, 1), slice(0, 7, 1), slice(1, 6, 4)];
    cases.map(|op| on("a=7,b=2", op)).into()
}

fn pad() -> Vec<Module> {
    let pad = |low, high, value| Op::Shape(Shape::Pad { dim: "a".into(), low, high, value });
    [pad(1, 2, 0.0), pad(0, 3, 1.5), pad(0, 0, 0.0), pad(2, 0, -1.0)].map(|op| on("a=3,b=2", op)).into()
}

fn concat() -> Vec<Module> {
    let concat = || Op::Shape(Shape::Concat { dim: "a".into() });
    let inputs = [floats("a=2,b=2", -2.0, 2.0), floats("b=2,a=1", -2.0, 2.0), floats("a=3,b=2", -2.0, 2.0)];
    vec![
        check(&inputs, &|b, x| b.all(concat(), x)),
        check(&inputs[..1], &|b, x| b.all(concat(), x)),
        check(&inputs[..2], &|b, x| b.all(concat(), &[x[0], x[1], x[0]])),
    ]
}

fn shift() -> Vec<Module> {
    let shift = |by, value| Op::Shape(Shape::Shift { dim: "a".into(), by, edge: Edge::Fill(value) });
    [shift(1, 0.0), shift(-2, 1.5), shift(5, 0.0), shift(-5, 0.0)].map(|op| on("a=5,b=2", op)).into()
}

fn roll() -> Vec<Module> {
    let roll = |by| Op::Shape(Shape::Shift { dim: "a".into(), by, edge: Edge::Wrap });
    [roll(1), roll(-2), roll(5)].map(|op| on("a=5,b=2", op)).into()
}

// Index

fn indices(dims: &str, numbers: &[f64]) -> Input {
    these(DType::S32, dims, numbers)
}

fn gather(outside: Outside) -> Vec<Module> {
    let gather = || Op::Index(Index::Gather { dim: "v".into(), outside });
    let numbers = [3.0, -1.0, 4.0, 0.0, 3.0, 1.0];
    [
        ("v=4", "i=5"),
        ("v=4", ""),
        ("d=2,v=4", "i=2,j=3"),
        ("b=2,v=4,d=2", "b=2,i=3"),
        ("v=4,b=2,c=2", "c=2,b=2"),
    ]
    .iter()
    .map(|(x, i)| check(&[floats(x, -2.0, 2.0), indices(i, &numbers)], &|b, v| b.all(gather(), v)))
    .collect()
}

/// Elements that are extreme and elements that are not, places without an update, and dropped updates.
fn scatter(kind: Option<Extreme>) -> Vec<Module> {
    let numbers = [2.0, -1.0, 0.0, 2.0, 3.0, 0.0];
    let cases: [(&str, &str, &str, &[&str]); 5] = [
        ("v=3", "i=6", "i=6", &["i"]),
        ("v=3,d=2", "i=4", "d=2,i=4", &["i"]),
        ("d=2,v=3,b=2", "b=2,i=3", "i=3,b=2,d=2", &["i"]),
        ("b=3,v=3,d=2", "b=3", "b=3,d=2", &[]),
        ("v=3", "i=2,j=3", "j=3,i=2", &["j", "i"]),
    ];
    let run = |(x, i, u, over): &(&str, &str, &str, &[&str])| {
        let over: Vec<Name> = over.iter().map(|n| Name::from(*n)).collect();
        let add = Index::ScatterAdd { dim: whole("v=3").remove(0), over: over.clone() };
        let mut inputs = vec![indices(i, &numbers), floats(u, -2.1, 2.2)];
        let Some(kind) = kind else { return check(&inputs, &|b, v| b.all(Op::Index(add.clone()), v)) };
        inputs.insert(0, floats(x, -2.0, 2.0));
        let extreme = Index::ScatterExtreme { kind, dim: "v".into(), over };
        check(&inputs, &|b, v| b.all(Op::Index(extreme.clone()), v))
    };
    cases.iter().map(run).collect()
}

fn permute() -> Vec<Module> {
    let permute = || Op::Index(Index::Permute { dim: "a".into(), to: "t".into() });
    let (forward, inverse) = (&[2.0, -1.0, 0.0, 9.0], &[2.0, -1.0, 0.0]);
    vec![
        check(&[floats("a=3,d=2", -2.0, 2.0), indices("t=4", forward), indices("a=3", inverse)], &|b, x| {
            b.all(permute(), x)
        }),
        check(
            &[floats("d=2,a=3,b=2", -2.0, 2.0), indices("b=2,t=4", forward), indices("b=2,a=3", inverse)],
            &|b, x| b.all(permute(), x),
        ),
    ]
}

fn top_k() -> Vec<Module> {
    let top_k = |k| Op::Index(Index::TopK { dim: "a".into(), to: Dim::new("k", k) });
    let same_name = Op::Index(Index::TopK { dim: "a".into(), to: Dim::new("a", 2) });
    let last_only = check(&[floats("a=4,b=2", -2.0, 2.0)], &|b, x| {
        let values = b.all(top_k(2), x)[0];
        vec![tanh(b, values)]
    });
    vec![on("a=5", top_k(1)), on("b=2,a=4,c=2", top_k(3)), on("a=4", same_name), last_only]
}

fn sort() -> Vec<Module> {
    let sort = |descending| Op::Index(Index::Sort { dim: "a".into(), descending });
    let two = [floats("a=4,b=2", -2.0, 2.0), floats("b=2,a=4", -2.0, 2.0)];
    let whole_key = [indices("a=4", &[3.0, 1.0, 3.0, 0.0]), floats("a=4", -2.0, 2.0)];
    vec![
        on("a=5", sort(false)),
        check(&two, &|b, x| b.all(sort(true), x)),
        check(&whole_key, &|b, x| b.all(sort(false), x)),
        check(&two[..1], &|b, x| b.all(sort(false), &[x[0], x[0]])),
    ]
}

fn cumsum() -> Vec<Module> {
    let cumsum = |exclusive, reverse| Op::Index(Index::CumSum { dim: "a".into(), exclusive, reverse });
    let all = [cumsum(false, false), cumsum(false, true), cumsum(true, false), cumsum(true, true)];
    all.map(|op| on("b=2,a=4", op)).into()
}

fn dynamic_slice() -> Vec<Module> {
    let slice = || Op::Index(Index::DynamicSlice { dim: "a".into(), size: 2 });
    let at = |start| check(&[floats("a=5,b=2", -2.0, 2.0), indices("", &[start])], &|b, x| b.all(slice(), x));
    [1.0, -3.0, 4.0].map(at).into()
}

fn dynamic_update() -> Vec<Module> {
    let update = || Op::Index(Index::DynamicUpdate { dim: "a".into() });
    let at = |start| {
        let (x, part) = (floats("a=5,b=2", -2.0, 2.0), floats("b=2,a=2", -2.0, 2.0));
        check(&[x, part, indices("", &[start])], &|b, x| b.all(update(), x))
    };
    [1.0, -3.0, 4.0].map(at).into()
}

// State and control

/// State is constant during a call, so only the other operand has a gradient.
fn read() -> Vec<Module> {
    let mut module = Module { name: "checked".into(), ..Module::default() };
    let ty = Type::new(DType::F32, parse("a=3"));
    let kind = StateKind::Param;
    let state = module.env.states.push(StateDecl { name: "w".into(), kind, ty, site: Site::default() });
    let w = compiler::interp::Tensor::new(DType::F32, &parse("a=3"), vec![1.0, -2.0, 3.0]).unwrap();
    let values = [(Name::from("w"), w)].into();
    vec![check_in(module, &values, &[floats("a=3", -2.0, 2.0)], &|b, x| {
        let w = b.one(Op::State(StateOp::Read(state)), &[]);
        vec![mul(b, w, x[0])]
    })]
}

/// Makes a body with parameters of the given types.
fn body(types: &[&str], build: impl Fn(&mut Build<'_>, &[Value]) -> Vec<Value>) -> mesh::Body {
    let env = mesh::Env::default();
    let mut b = Build(BodyBuilder::new(&env));
    let params: Vec<Value> =
        types.iter().map(|dims| b.0.param(Type::new(DType::F32, parse(dims)), None)).collect();
    let results = build(&mut b, &params);
    b.0.finish(results)
}

fn add(b: &mut Build<'_>, x: Value, y: Value) -> Value {
    b.one(Op::Elementwise(Elementwise::Binary(Binary::Add)), &[x, y])
}

fn matmul(b: &mut Build<'_>, x: Value, y: Value, out: &str) -> Value {
    b.one(Op::Contract(Contract { out: vec![out.into()], dtype: DType::F32 }), &[x, y])
}

/// Every remat policy, forward and reverse, as a loop and unrolled: a recurrence with sliced weights, a
/// capture, an unused carry, and stacked results.
fn scan() -> Vec<Module> {
    let mut checked = Vec::new();
    for remat in
        [Remat::SaveAll, Remat::SaveLong, Remat::SaveCompact, Remat::SaveContractions, Remat::SaveCarries]
    {
        for (reverse, unroll) in [(false, false), (true, false), (false, true)] {
            // carries h, n; sliced w; captured c.
            let step = body(&["d=2", "", "d=2,e=2", "d=2"], |b, p| {
                let product = matmul(b, p[0], p[2], "e");
                let active = tanh(b, product);
                let pairs = vec![("e".into(), "d".into())];
                let back = b.one(Op::Shape(Shape::Rename { pairs }), &[active]);
                let next = add(b, back, p[3]);
                let count = mul(b, p[1], p[1]);
                let seen = mul(b, next, p[0]);
                vec![next, count, seen, product]
            });
            let scan = || {
                let (dim, body) = (Dim::new("l", 3), step.clone());
                let scan = Scan { dim, carries: 2, xs: 1, reverse, remat, unroll, barrier: false, body };
                Op::Control(Control::Scan(Box::new(scan)))
            };
            let inputs = [
                floats("d=2", -1.0, 1.0),
                floats("", 0.2, 0.9),
                floats("d=2,l=3,e=2", -1.0, 1.0),
                floats("d=2", -1.0, 1.0),
            ];
            checked.push(check(&inputs, &|b, x| b.all(scan(), x)));
            // The loss depends only on the last carry, or only on one stacked result.
            checked.push(check(&inputs, &|b, x| vec![b.all(scan(), x)[0]]));
            checked.push(check(&inputs, &|b, x| vec![b.all(scan(), x)[3]]));
        }
    }
    checked.extend(rolled());
    checked
}

/// Loops that roll a carry, once round or not, which the backward pass rolls back. They use its value before
/// the roll, after it, or both.
fn rolled() -> Vec<Module> {
    let mut checked = Vec::new();
    for (remat, by, count) in [
        (Remat::SaveCarries, 1, 3),
        (Remat::SaveCarries, -1, 2),
        (Remat::SaveAll, 2, 4),
        (Remat::SaveAll, 1, 6),
    ] {
        for (before, after) in [(true, false), (false, true), (true, true)] {
            let step = body(&["d=3,e=2", "d=3,e=2", "d=3,e=2"], |b, p| {
                let roll = Shape::Shift { dim: "d".into(), by, edge: Edge::Wrap };
                let rolled = b.one(Op::Shape(roll), &[p[0]]);
                let product = mul(b, if before { p[0] } else { rolled }, p[2]);
                let product = if before && after { mul(b, product, rolled) } else { product };
                let active = tanh(b, product);
                vec![rolled, add(b, p[1], active)]
            });
            let scan = || {
                let (dim, body) = (Dim::new("l", count), step.clone());
                let scan = Scan {
                    dim,
                    carries: 2,
                    xs: 0,
                    reverse: false,
                    remat,
                    unroll: false,
                    barrier: false,
                    body,
                };
                Op::Control(Control::Scan(Box::new(scan)))
            };
            let inputs = ["d=3,e=2"; 3].map(|dims| floats(dims, -1.0, 1.0));
            checked.push(check(&inputs, &|b, x| b.all(scan(), x)));
            checked.push(check(&inputs, &|b, x| vec![b.all(scan(), x)[1]]));
        }
    }
    checked
}

fn cond() -> Vec<Module> {
    let then = || body(&["a=2", "a=2"], |b, p| vec![mul(b, p[0], p[1]), p[0]]);
    let otherwise = || body(&["a=2", "a=2"], |b, p| vec![tanh(b, p[0]), p[1]]);
    [0.0, 1.0]
        .map(|p| {
            let inputs = [these(DType::Pred, "", &[p]), floats("a=2", -2.0, 2.0), floats("a=2", -2.0, 2.0)];
            let cond = || Control::Cond { then: Box::new(then()), otherwise: Box::new(otherwise()) };
            check(&inputs, &|b, x| b.all(Op::Control(cond()), x))
        })
        .into()
}

fn gradient_of_gradient() -> Vec<Module> {
    vec![check(&[floats("a=3", -1.0, 1.0), floats("a=3", -1.0, 1.0)], &|b, x| {
        let y = tanh(b, x[0]);
        let y = mul(b, y, x[1]);
        let y = mul(b, y, x[0]);
        let loss = b.one(Op::Reduce(Reduce::Over { kind: ReduceKind::Sum, dims: vec!["a".into()] }), &[y]);
        b.all(Op::Control(Control::Grad), &[loss, x[0], x[1]])
    })]
}

// Whole programs

/// Random programs, differentiated with respect to every float input.
fn programs(from: u64, to: u64) {
    use compiler::interp::{Tensor, Tensors};
    use tests::differences::{Probe, near};
    use tests::generate::{case, rng::Rng};
    let (mut checked, mut doubtful) = (0, 0);
    for seed in from..to {
        let mut case = case(seed, 1, 14);
        if !ask_for_all(&mut case.module) {
            continue;
        }
        let mut rng = Rng::new(seed);
        let mut inputs: Tensors = case.inputs.values().next().cloned().unwrap();
        for x in inputs.values_mut().filter(|x| x.dtype.is_float()) {
            // Inputs are moved off their usual grid: no ties, no zeros.
            x.data.mapv_inplace(|v| v + rng.between(1, 999) as f64 / 16_000.0 - 1.0 / 32.0);
        }
        let probe = Probe::new(&case.module, inputs.clone(), &case.state);
        for (name, x) in inputs.iter().filter(|(_, x)| x.dtype.is_float()) {
            let direction = Tensor { data: x.data.mapv(|_| rng.between(-8, 8) as f64 / 8.0), ..x.clone() };
            let (slope, claim) = (probe.slope(name, &direction), probe.claim(name, &direction));
            checked += 1;
            // The quotients disagree if a step crosses a discontinuity, or if the third derivative is large.
            if slope.doubt > 1e-3 * slope.value.abs().max(1.0) {
                doubtful += 1;
                continue;
            }
            assert!(
                near(slope.value, claim),
                "seed {seed}: along a direction in {name} the gradient gives {claim}, finite differences {slope:?}\n{}",
                mesh::text::print(&case.module)
            );
        }
    }
    assert!(checked > 100 && doubtful * 20 < checked, "{doubtful} of {checked} slopes are doubtful");
}

/// Changes the program to return its loss and the loss's gradients with respect to all float inputs. Returns
/// false if the program requests no gradient.
fn ask_for_all(module: &mut Module) -> bool {
    let env = module.env.clone();
    let function = &mut module.functions[0];
    let is_grad = |op: &Op| matches!(op, Op::Control(Control::Grad));
    let Some(at) = function.body.insts.iter().position(|inst| is_grad(&inst.op)) else { return false };
    let loss = function.body.insts[at].args[0];
    function.body.insts.truncate(at);
    // Finite differences see values and not where gradients go.
    fn open(body: &mut mesh::Body) {
        for inst in &mut body.insts {
            if let Op::Elementwise(op @ Elementwise::StopGradient) = &mut inst.op {
                *op = Elementwise::Cast(body.values[inst.results[0]].ty.dtype);
            }
            if let Op::Elementwise(op @ Elementwise::WithGradient) = &mut inst.op {
                *op = Elementwise::Binary(Binary::Add);
            }
            inst.op.bodies_mut().into_iter().for_each(open);
        }
    }
    open(&mut function.body);
    function.body.results = vec![loss];
    tests::generate::shrink::prune(&mut function.body, false);
    let loss = function.body.results[0];
    let mut b = Build(BodyBuilder { env: &env, body: std::mem::take(&mut function.body) });
    let floats: Vec<Value> =
        b.0.body.params.iter().copied().filter(|v| b.0.ty(*v).dtype.is_float()).collect();
    let gradients = b.all(Op::Control(Control::Grad), &[vec![loss], floats.clone()].concat());
    let names = floats.iter().map(|v| b.0.body.values[*v].name.clone().unwrap());
    function.outputs =
        [Name::from("loss")].into_iter().chain(names.map(|n| format!("d{n}").into())).collect();
    function.body = b.0.finish([vec![loss], gradients].concat());
    true
}

#[test]
fn gradients_of_random_programs_are_those_of_finite_differences_1() {
    programs(0, 150);
}

#[test]
fn gradients_of_random_programs_are_those_of_finite_differences_2() {
    programs(150, 300);
}
