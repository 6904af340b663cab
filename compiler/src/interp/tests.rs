//! The meaning of operations, by example. (Random programs test that every layout means the same.)

use super::*;
use mesh::ir::{
    Binary, Collective, Contract, Control, Dist, Edge, Elementwise, Index, Outside, Pending, Random,
    ReduceKind,
};
use mesh::ir::{Reduce, Remat, Scan, Shape, Unary};
use mesh::{AxisSet, BodyBuilder, DType, Dim, Function, Layout, Site};

/// A tensor from text such as `s32[a=2,b=1] 3 4`.
#[track_caller]
fn tensor(text: &str) -> Tensor {
    let (dtype, rest) = text.split_once('[').unwrap();
    let (dims, elements) = rest.split_once(']').unwrap();
    let dims: Vec<Dim> = dims
        .split(',')
        .filter(|d| !d.is_empty())
        .map(|d| d.split_once('=').unwrap())
        .map(|(name, size)| Dim::new(name, size.parse().unwrap()))
        .collect();
    let elements = elements.split_whitespace().map(|x| x.parse().unwrap()).collect();
    Tensor::new(DType::parse(dtype).unwrap(), &dims, elements).unwrap()
}

/// Runs `op` on the operands, on each device of `mesh` under `layout`, and gathers the reduced result.
#[track_caller]
fn try_op(mesh: &str, layout: &str, op: Op, args: &[&str]) -> Result<Vec<Tensor>, Diagnostic> {
    let mesh = Mesh::parse(mesh).unwrap();
    let layout = Layout::parse(layout).unwrap().resolve(&mesh).unwrap();
    let mut module = Module { env: mesh::Env { mesh, ..Default::default() }, ..Default::default() };
    let args: Vec<Tensor> = args.iter().map(|text| tensor(text)).collect();
    let mut b = BodyBuilder::new(&module.env);
    let params: Vec<Value> =
        args.iter().map(|x| b.param(layout.apply(&Type::new(x.dtype, x.dims())), None)).collect();
    let mut results = b.emit(op, &params, &Site::default()).unwrap();
    for value in &mut results {
        for (kind, axes) in [(Pending::Sum, b.ty(*value).sum), (Pending::Max, b.ty(*value).max)] {
            if !axes.is_empty() {
                let all_reduce = Op::Collective(Collective::AllReduce { kind, axes });
                *value = b.emit1(all_reduce, &[*value], &Site::default()).unwrap();
            }
        }
    }
    let names = |letter: char, n: usize| (0..n).map(|i| Name::from(format!("{letter}{i}"))).collect();
    let (inputs, outputs): (Vec<Name>, Vec<Name>) = (names('x', args.len()), names('y', results.len()));
    let body = b.finish(results);
    module.functions =
        vec![Function { name: "f".into(), inputs: inputs.clone(), outputs: outputs.clone(), body }];
    let inputs = inputs.into_iter().zip(args).collect();
    let outcome = run(&module, "f", &inputs, &Tensors::new(), Precision::Normal)?;
    Ok(outputs.iter().map(|name| outcome.outputs[name].clone()).collect())
}

#[track_caller]
fn check_on(mesh: &str, layout: &str, op: Op, args: &[&str], expect: &[&str]) {
    let have = try_op(mesh, layout, op, args).unwrap();
    let want: Vec<Tensor> = expect.iter().map(|text| tensor(text)).collect();
    // Compares bits, so that NaN equals itself and the zeros differ.
    let bits = |x: &[Tensor]| x.iter().map(|x| (x.dtype, x.dims(), x.to_bytes())).collect::<Vec<_>>();
    assert_eq!(bits(&have), bits(&want), "{have:?}\n{want:?}");
}

#[track_caller]
fn check(op: Op, args: &[&str], expect: &str) {
    check_on("", "", op, args, &[expect]);
}

fn binary(op: Binary) -> Op {
    Op::Elementwise(Elementwise::Binary(op))
}

fn unary(op: Unary) -> Op {
    Op::Elementwise(Elementwise::Unary(op))
}

#[test]
fn binary_operations_broadcast_by_name() {
    check(binary(Binary::Sub), &["f32[a=2] 10 20", "f32[b=2,a=2] 1 2 3 4"], "f32[a=2,b=2] 9 7 18 16");
    check(
        Op::Elementwise(Elementwise::Select),
        &["pred[c=2] 1 0", "s32[a=2] 1 2", "s32[] 9"],
        "s32[a=2,c=2] 1 9 2 9",
    );
}

#[test]
fn whole_numbers_wrap() {
    check(binary(Binary::Mul), &["u32[] 4294967295", "u32[a=2] 4294967295 2"], "u32[a=2] 1 4294967294");
    check(binary(Binary::Mul), &["s32[] -2147483648", "s32[] 3"], "s32[] -2147483648");
    check(binary(Binary::Div), &["s32[a=3] 7 -7 5", "s32[a=3] -2 2 0"], "s32[a=3] -3 -3 -1");
    check(binary(Binary::Rem), &["s32[a=3] 7 -7 5", "s32[a=3] -2 2 0"], "s32[a=3] 1 -1 5");
    check(binary(Binary::Shl), &["u32[] 3", "u32[a=3] 1 31 32"], "u32[a=3] 6 2147483648 0");
    check(unary(Unary::Not), &["u32[] 1"], "u32[] 4294967294");
    check(unary(Unary::Not), &["s32[] 5"], "s32[] -6");
    check(unary(Unary::Neg), &["u32[] 1"], "u32[] 4294967295");
}

#[test]
fn nan_and_signs() {
    check(binary(Binary::Max), &["f32[a=3] NaN 1 2", "f32[a=3] 1 NaN 1"], "f32[a=3] NaN NaN 2");
    check(unary(Unary::Ceil), &["f32[a=3] -1.5 1.2 2"], "f32[a=3] -1 2 2");
    check(unary(Unary::Round), &["f32[a=5] -1.5 0.5 1.5 2.5 2.6"], "f32[a=5] -2 0 2 2 3");
    check(unary(Unary::Expm1), &["f32[a=2] 0 0.0000001"], "f32[a=2] 0 0.00000010000000500000017");
    check(unary(Unary::Erf), &["f32[a=3] -1 0 0.5"], "f32[a=3] -0.8427007929497149 0 0.5204998778130465");
    check(unary(Unary::Sign), &["f32[a=4] -3 -0 0 NaN"], "f32[a=4] -1 -0 0 NaN");
    check(unary(Unary::Relu), &["f32[a=3] -3 2 NaN"], "f32[a=3] 0 2 NaN");
    let cast = |to| Op::Elementwise(Elementwise::Cast(to));
    check(cast(DType::S32), &["f32[a=4] -1.9 1.9 1e20 NaN"], "s32[a=4] -1 1 2147483647 0");
    check(cast(DType::U32), &["s32[] -1"], "u32[] 4294967295");
    check(cast(DType::Pred), &["f32[a=3] 0 0.5 -0"], "pred[a=3] 0 1 0");
    check(cast(DType::Bf16), &["f32[a=2] 1.00390625 1.01171875"], "bf16[a=2] 1 1.015625");
}

#[test]
fn einsum_sums_what_is_not_in_the_result() {
    let contract = |out: &[&str]| {
        Op::Contract(Contract { out: out.iter().map(|n| Name::from(*n)).collect(), dtype: DType::F32 })
    };
    let (a, b) = ("f32[b=2,m=2,k=2] 1 2 3 4 5 6 7 8", "f32[k=2,n=1,b=2] 1 2 3 4");
    // b=0: [[1,2],[3,4]]·[1,3]; b=1: [[5,6],[7,8]]·[2,4].
    check(contract(&["m", "b"]), &[a, b], "f32[m=2,b=2] 7 34 15 46");
    check(contract(&["n", "b", "m"]), &[a, b], "f32[n=1,b=2,m=2] 7 15 34 46");
    check(contract(&[]), &[a, b], "f32[] 102");
    for layout in ["k:x", "b:x", "m:x", "b:y,k:x", "m:y,k:x", "m:x,b:y"] {
        check_on("x=2,y=2", layout, contract(&["m", "b"]), &[a, b], &["f32[m=2,b=2] 7 34 15 46"]);
    }
}

#[test]
fn folds() {
    let fold = |kind| Op::Reduce(Reduce::Over { kind, dims: vec!["b".into()] });
    let x = "f32[a=2,b=2] 1 2 5 4";
    check(fold(ReduceKind::Sum), &[x], "f32[a=2] 3 9");
    check(fold(ReduceKind::Mean), &[x], "f32[a=2] 1.5 4.5");
    check(fold(ReduceKind::Min), &[x], "f32[a=2] 1 4");
    check(fold(ReduceKind::Max), &["pred[a=2,b=2] 0 0 0 1"], "pred[a=2] 0 1");
    check(
        fold(ReduceKind::LogSumExp),
        &["f32[a=3,b=2] 1000 1000 -inf -inf inf 0"],
        "f32[a=3] 1000.69314718 -inf inf",
    );
    check_on("x=2", "b:x", fold(ReduceKind::Max), &[x], &["f32[a=2] 2 5"]);
    let arg_max = Op::Reduce(Reduce::ArgMax { dim: "b".into() });
    check(arg_max, &["f32[a=2,b=3] 1 2 2 0 NaN 9"], "s32[a=2] 1 1");
}

#[test]
fn reshape_takes_dims_in_the_order_given() {
    let reshape = |from: &[&str], to: &[(&str, usize)]| {
        let to = to.iter().map(|(n, s)| TensorDim { dim: Dim::new(*n, *s), axes: Vec::new() }).collect();
        Op::Shape(Shape::Reshape { from: from.iter().map(|n| Name::from(*n)).collect(), to })
    };
    let x = "s32[a=2,b=2,c=2] 0 1 2 3 4 5 6 7";
    check(reshape(&["c", "a"], &[("d", 4)]), &[x], "s32[b=2,d=4] 0 4 1 5 2 6 3 7");
    check(reshape(&["b"], &[("d", 1), ("e", 2)]), &["s32[a=2,b=2] 0 1 2 3"], "s32[a=2,d=1,e=2] 0 1 2 3");
    check(reshape(&[], &[("d", 1)]), &["s32[a=2] 0 1"], "s32[a=2,d=1] 0 1");
}

#[test]
fn movement() {
    let slice = Shape::Slice { dim: "a".into(), start: 1, limit: 5, stride: 2 };
    check(Op::Shape(slice), &["s32[a=6] 0 1 2 3 4 5"], "s32[a=2] 1 3");
    let pad = Shape::Pad { dim: "a".into(), low: 1, high: 2, value: -1.0 };
    check(Op::Shape(pad), &["s32[a=2] 7 8"], "s32[a=5] -1 7 8 -1 -1");
    let shift = |by, edge| Op::Shape(Shape::Shift { dim: "a".into(), by, edge });
    check(shift(1, Edge::Fill(9.0)), &["s32[a=3,b=2] 1 2 3 4 5 6"], "s32[a=3,b=2] 9 9 1 2 3 4");
    check(shift(-2, Edge::Fill(0.0)), &["s32[a=3] 1 2 3"], "s32[a=3] 3 0 0");
    check(shift(3, Edge::Fill(0.0)), &["s32[a=3] 1 2 3"], "s32[a=3] 0 0 0");
    check(shift(1, Edge::Wrap), &["s32[a=3] 1 2 3"], "s32[a=3] 3 1 2");
    check(shift(-1, Edge::Wrap), &["s32[a=3] 1 2 3"], "s32[a=3] 2 3 1");
    let concat = Op::Shape(Shape::Concat { dim: "a".into() });
    check(concat, &["s32[a=1,b=2] 1 2", "s32[b=2,a=2] 3 4 5 6"], "s32[a=3,b=2] 1 2 3 5 4 6");
    let slice = Op::Index(Index::DynamicSlice { dim: "a".into(), size: 2 });
    check(slice, &["s32[a=3] 1 2 3", "s32[] 7"], "s32[a=2] 2 3");
    let update = Op::Index(Index::DynamicUpdate { dim: "a".into() });
    check(update, &["s32[a=3] 1 2 3", "s32[a=2] 8 9", "s32[] -5"], "s32[a=3] 8 9 3");
}

#[test]
fn indices_outside_read_zero_or_the_nearest_and_are_dropped() {
    let gather = |outside| Op::Index(Index::Gather { dim: "v".into(), outside });
    let x = "f32[v=4,d=2] 1 2 3 4 5 6 7 8";
    let index = "s32[i=4] 3 -1 4 0";
    for (mesh, layout) in [("", ""), ("x=2", "v:x"), ("x=2,y=2", "v:y+x"), ("x=2", "i:x"), ("x=2", "d:x")] {
        check_on(mesh, layout, gather(Outside::Zero), &[x, index], &["f32[i=4,d=2] 7 8 0 0 0 0 1 2"]);
        let hot = Index::OneHot { dim: split(mesh, layout, "v", 4), dtype: DType::F32 };
        let expect = "f32[i=4,v=4] 0 0 0 1 0 0 0 0 0 0 0 0 1 0 0 0";
        check_on(mesh, layout, Op::Index(hot), &[index], &[expect]);
        let add = Index::ScatterAdd { dim: split(mesh, layout, "v", 4), over: vec!["i".into()] };
        let updates = "f32[i=4,d=2] 1 2 3 4 5 6 7 8";
        let expect = "f32[v=4,d=2] 8 10 0 0 0 0 0 0";
        check_on(mesh, layout, Op::Index(add), &["s32[i=4] 0 -1 4 0", updates], &[expect]);
    }
    check(gather(Outside::Clamp), &[x, index], "f32[i=4,d=2] 7 8 1 2 7 8 1 2");
    check(gather(Outside::Zero), &["f32[b=2,v=2] 1 2 3 4", "s32[i=1,b=2] 1 0"], "f32[i=1,b=2] 2 3");
}

fn split(mesh: &str, layout: &str, name: &str, size: usize) -> TensorDim {
    let mesh = Mesh::parse(mesh).unwrap();
    let layout = Layout::parse(layout).unwrap().resolve(&mesh).unwrap();
    TensorDim { dim: Dim::new(name, size), axes: layout.axes(name).to_vec() }
}

#[test]
fn permute_moves_and_checks_that_its_indices_agree() {
    let permute = || Op::Index(Index::Permute { dim: "a".into(), to: "t".into() });
    let x = "f32[a=3,d=1] 1 2 3";
    check(permute(), &[x, "s32[t=2] 2 -1", "s32[a=3] -1 -1 0"], "f32[t=2,d=1] 3 0");
    for (forward, inverse) in [
        ("s32[t=2] 2 -1", "s32[a=3] -1 -1 1"),
        ("s32[t=2] 2 -1", "s32[a=3] 1 -1 0"),
        ("s32[t=2] 2 2", "s32[a=3] -1 -1 0"),
    ] {
        let error = try_op("", "", permute(), &[x, forward, inverse]).unwrap_err();
        assert!(error.message.contains("leads from"), "{error}");
    }
}

#[test]
fn orders() {
    let top_k = Op::Index(Index::TopK { dim: "a".into(), to: Dim::new("k", 3) });
    check_on("", "", top_k, &["f32[a=4] 1 3 1 3"], &["f32[k=3] 3 3 1", "s32[k=3] 1 3 0"]);
    let sort = |descending| Op::Index(Index::Sort { dim: "a".into(), descending });
    let (key, payload) = ("s32[a=4] 2 1 2 0", "f32[a=4] 0 1 2 3");
    check_on("", "", sort(false), &[key, payload], &["s32[a=4] 0 1 2 2", "f32[a=4] 3 1 0 2"]);
    check_on("", "", sort(true), &[key, payload], &["s32[a=4] 2 2 1 0", "f32[a=4] 0 2 1 3"]);
    let cumsum = |exclusive, reverse| Op::Index(Index::CumSum { dim: "a".into(), exclusive, reverse });
    check(cumsum(false, false), &["s32[a=3] 1 2 3"], "s32[a=3] 1 3 6");
    check(cumsum(true, false), &["s32[a=3] 1 2 3"], "s32[a=3] 0 1 3");
    check(cumsum(false, true), &["s32[a=3] 1 2 3"], "s32[a=3] 6 5 3");
    check(cumsum(true, true), &["s32[a=3] 1 2 3"], "s32[a=3] 5 3 0");
}

#[test]
fn shards_of_iota_and_random_are_parts_of_the_whole() {
    let random = |mesh, layout| {
        Op::Random(Random {
            dist: Dist::Bits,
            dims: vec![split(mesh, layout, "a", 4), split(mesh, layout, "b", 2)],
            dtype: DType::U32,
            stream: 5,
        })
    };
    let whole = try_op("", "", random("", ""), &["u32[] 1", "u32[] 2"]).unwrap();
    let first = mesh::random::bits(1, 2, 5, (0, 3));
    assert_eq!(whole[0].data[[1, 1]], f64::from(first));
    for layout in ["a:x", "b:y", "a:y+x", "a:x,b:y"] {
        let random = random("x=2,y=2", layout);
        assert_eq!(try_op("x=2,y=2", layout, random, &["u32[] 1", "u32[] 2"]).unwrap(), whole);
    }
    let iota = Shape::Iota { dim: split("x=2,y=2", "a:y+x", "a", 4), dtype: DType::S32 };
    check_on("x=2,y=2", "a:y+x", Op::Shape(iota), &[], &["s32[a=4] 0 1 2 3"]);
}

#[test]
fn scan_goes_step_by_step() {
    let env = mesh::Env::default();
    let scalar = || Type::scalar(DType::S32);
    let mut b = BodyBuilder::new(&env);
    let [carry, x, by] = [0; 3].map(|_| b.param(scalar(), None));
    let site = Site::default();
    let product = b.emit1(binary(Binary::Mul), &[carry, by], &site).unwrap();
    let next = b.emit1(binary(Binary::Add), &[product, x], &site).unwrap();
    let body = b.finish(vec![next, carry]);
    let scan = |reverse| {
        let (remat, dim) = (Remat::default(), Dim::new("l", 3));
        Op::Control(Control::Scan(Box::new(Scan {
            dim,
            carries: 1,
            xs: 1,
            reverse,
            remat,
            unroll: false,
            barrier: false,
            body: body.clone(),
        })))
    };
    let args = ["s32[] 0", "s32[l=3] 1 2 3", "s32[] 10"];
    check_on("", "", scan(false), &args, &["s32[] 123", "s32[l=3] 0 1 12"]);
    check_on("", "", scan(true), &args, &["s32[] 321", "s32[l=3] 32 3 0"]);
}

#[test]
fn cond_runs_one_branch() {
    let env = mesh::Env::default();
    let branch = |op| {
        let mut b = BodyBuilder::new(&env);
        let x = b.param(Type::scalar(DType::F32), None);
        let y = b.emit1(unary(op), &[x], &Site::default()).unwrap();
        Box::new(b.finish(vec![y]))
    };
    let cond = || Op::Control(Control::Cond { then: branch(Unary::Neg), otherwise: branch(Unary::Abs) });
    check(cond(), &["pred[] 1", "f32[] -2"], "f32[] 2");
    check(cond(), &["pred[] 0", "f32[] 3"], "f32[] 3");
}

#[test]
fn collectives_move_shards() {
    let mesh = Mesh::parse("x=2,y=2").unwrap();
    let (x, y) = (mesh.find("x").unwrap(), mesh.find("y").unwrap());
    #[track_caller]
    fn check(mesh: &Mesh, op: Collective, parts: [&str; 4], expect: [&str; 4]) {
        let parts: Vec<Tensor> = parts.iter().map(|text| tensor(text)).collect();
        let have = collective::eval(mesh, Precision::Normal, &op, &parts);
        assert_eq!(have, expect.map(tensor));
    }
    let parts = ["f32[a=2] 0 1", "f32[a=2] 2 3", "f32[a=2] 4 5", "f32[a=2] 6 7"];
    let reduce = |kind, axes: &[_]| Collective::AllReduce { kind, axes: axes.iter().copied().collect() };
    check(
        &mesh,
        reduce(Pending::Sum, &[x]),
        parts,
        ["f32[a=2] 4 6", "f32[a=2] 8 10", "f32[a=2] 4 6", "f32[a=2] 8 10"],
    );
    check(&mesh, reduce(Pending::Max, &[x, y]), parts, ["f32[a=2] 6 7"; 4]);
    let gather = Collective::AllGather { dim: "a".into(), axes: vec![y, x] };
    check(&mesh, gather, parts, ["f32[a=8] 0 1 4 5 2 3 6 7"; 4]);
    let scatter = Collective::ReduceScatter { dim: "a".into(), axes: vec![y] };
    check(&mesh, scatter, parts, ["f32[a=1] 2", "f32[a=1] 4", "f32[a=1] 10", "f32[a=1] 12"]);
    let shard = Collective::Shard { dim: "a".into(), axes: vec![x] };
    check(&mesh, shard, parts, ["f32[a=1] 0", "f32[a=1] 2", "f32[a=1] 5", "f32[a=1] 7"]);
    let as_pending = Collective::AsPending { axes: AxisSet::one(x) };
    check(&mesh, as_pending, parts, [parts[0], parts[1], "f32[a=2] 0 0", "f32[a=2] 0 0"]);
    let swap = Collective::AllToAll { from: "b".into(), to: "a".into(), axes: vec![y] };
    check(
        &mesh,
        swap,
        ["f32[a=2,b=1] 0 1", "f32[a=2,b=1] 2 3", "f32[a=2,b=1] 4 5", "f32[a=2,b=1] 6 7"],
        ["f32[a=1,b=2] 0 2", "f32[a=1,b=2] 1 3", "f32[a=1,b=2] 4 6", "f32[a=1,b=2] 5 7"],
    );
    let permute = |axes, by, wrap| Collective::Permute { dim: "a".into(), axes, by, wrap };
    check(&mesh, permute(vec![x, y], 1, true), parts, [parts[3], parts[0], parts[1], parts[2]]);
    check(&mesh, permute(vec![y, x], -1, false), parts, [parts[2], parts[3], parts[1], "f32[a=2] 0 0"]);
}

#[test]
fn bad_calls_are_errors() {
    let mut module = Module { name: "p".into(), ..Default::default() };
    let decl = |name: &str| mesh::StateDecl {
        name: name.into(),
        kind: mesh::StateKind::Counter,
        ty: Type::scalar(DType::S32),
        site: Site::default(),
    };
    let step = module.env.states.push(decl("step"));
    let mut b = BodyBuilder::new(&module.env);
    let site = Site::default();
    let x = b.param(Type::scalar(DType::S32), None);
    let old = b.emit1(Op::State(mesh::ir::StateOp::Read(step)), &[], &site).unwrap();
    let new = b.emit1(binary(Binary::Add), &[old, x], &site).unwrap();
    b.emit(Op::State(mesh::ir::StateOp::Write(step)), &[new], &site).unwrap();
    let body = b.finish(vec![old]);
    module.functions =
        vec![Function { name: "f".into(), inputs: vec!["x".into()], outputs: vec!["old".into()], body }];

    let named = |name: &str, text| Tensors::from([(Name::from(name), tensor(text))]);
    let call = |f, inputs, state| run(&module, f, &inputs, &state, Precision::Normal);
    let outcome = call("f", named("x", "s32[] 2"), named("step", "s32[] 5")).unwrap();
    assert_eq!(outcome.outputs, named("old", "s32[] 5"));
    assert_eq!(outcome.state, named("step", "s32[] 7"));
    for (f, inputs, state, part) in [
        ("g", named("x", "s32[] 2"), named("step", "s32[] 5"), "no function `g`"),
        ("f", named("y", "s32[] 2"), named("step", "s32[] 5"), "no value for input `x`"),
        ("f", named("x", "s32[] 2"), named("stop", "s32[] 5"), "no value for state `step`"),
        ("f", named("x", "f32[] 2"), named("step", "s32[] 5"), "the value is f32[], not s32[]"),
    ] {
        let error = call(f, inputs, state).unwrap_err();
        assert!(error.message.contains(part), "{error}");
    }
}
