//! HLO against the reference interpreter on a real plugin: every operation, every collective.

use compiler::interp::{Precision, Tensor, Tensors, run};
use mesh::{
    DType, Dim, Module, Type,
    ir::{Compare, Unary},
    text::parse,
};

/// Returns values that depend only on the position: moderate floats and small integers.
fn fill(ty: &Type, salt: usize) -> Tensor {
    let dims: Vec<Dim> = ty.logical().cloned().collect();
    let number = |i: usize| {
        let h = (i.wrapping_mul(2654435761).wrapping_add(salt.wrapping_mul(40503)) >> 3) % 1000;
        match ty.dtype {
            DType::Pred => (h % 2) as f64,
            DType::S32 => (h % 9) as f64 - 2.0,
            DType::U32 => (h * 4242423) as u32 as f64,
            DType::Bf16 | DType::F32 => Precision::Normal.store(ty.dtype, h as f64 / 250.0 - 2.0),
        }
    };
    Tensor::new(ty.dtype, &dims, (0..ty.elements()).map(number).collect()).unwrap()
}

#[track_caller]
fn check(text: &str) {
    check_within(text, if text.contains("bf16") { 2e-2 } else { 2e-5 });
}

/// Compares with the interpreter; numbers may differ by `tolerance` of the larger of their size and 1.
#[track_caller]
fn check_within(text: &str, tolerance: f64) {
    let module: Module = parse(text, "test.mesh").unwrap_or_else(|e| panic!("{e}"));
    let f = &module.functions[0];
    let inputs: Tensors = f
        .inputs
        .iter()
        .zip(f.body.param_types())
        .enumerate()
        .map(|(i, (n, ty))| (n.clone(), fill(ty, i)))
        .collect();
    let state: Tensors =
        module.env.states.iter().map(|(id, s)| (s.name.clone(), fill(&s.ty, id.0 as usize + 50))).collect();
    let want = run(&module, &f.name, &inputs, &state, Precision::Normal).unwrap_or_else(|e| panic!("{e}"));
    let got = tests::plugin::run(&module, &f.name, &inputs, &state).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for (kind, want, got) in [("output", &want.outputs, &got.outputs), ("state", &want.state, &got.state)] {
        for (name, w) in want {
            let (w, g) = (w.elements(), got[name].ordered(&w.names).elements());
            for (i, (a, b)) in w.iter().zip(&g).enumerate() {
                assert!(
                    (a - b).abs() <= tolerance * a.abs().max(1.0) || a.is_nan() && b.is_nan(),
                    "{kind} {name}[{i}]: {a} in the interpreter, {b} on the plugin\n{text}"
                );
            }
        }
    }
}

/// Makes a function of the given instructions with inputs `%0 a: f32[x=4, y=6]`, `%1 b: f32[y=6, x=4]`,
/// `%2 i: s32[x=4]`, `%3 u: u32[x=4]`.
#[track_caller]
fn check_ops(body: &str, result: &str, ty: &str) {
    check(&format!(
        "module t\nfunc f(%0 a: f32[x=4, y=6], %1 b: f32[y=6, x=4], %2 i: s32[x=4], %3 u: u32[x=4]) -> (out: {ty}) {{\n{body}\n  return {result}\n}}\n"
    ));
}

#[test]
fn elementwise() {
    // Of a negative number, some functions are NaN on both sides.
    for op in Unary::ALL.iter().filter(|op| !matches!(op, Unary::Not | Unary::IsFinite)).map(|op| op.name()) {
        check_ops(&format!("  %4 = {op} %0"), "%4", "f32[x=4, y=6]");
        check_ops(&format!("  %4 = abs %0\n  %5 = {op} %4"), "%5", "f32[x=4, y=6]");
    }
    for op in ["add", "sub", "mul", "div", "rem", "max", "min", "atan2"] {
        check_ops(&format!("  %4 = {op} %0, %1"), "%4", "f32[x=4, y=6]");
    }
    for op in Compare::ALL.iter().map(|op| op.name()) {
        check_ops(&format!("  %4 = {op} %0, %1\n  %5 = select %4, %0, %1"), "%5", "f32[x=4, y=6]");
    }
    for op in ["and", "or", "xor", "shl", "shr"] {
        check_ops(
            &format!(
                "  %4 = cast %2 {{dtype=u32}}\n  %5 = abs %2\n  %6 = cast %5 {{dtype=u32}}\n  %7 = {op} %3, %6"
            ),
            "%7",
            "u32[x=4]",
        );
    }
    check_ops("  %4 = cast %2 {dtype=f32}\n  %5 = mul %4, %1", "%5", "f32[x=4, y=6]");
    check_ops(
        "  %4 = cast %0 {dtype=bf16}\n  %5 = mul %4, %4\n  %6 = cast %5 {dtype=f32}",
        "%6",
        "f32[x=4, y=6]",
    );
    check_ops("  %4 = is_finite %0\n  %5 = not %4\n  %6 = cast %5 {dtype=s32}", "%6", "s32[x=4, y=6]");
}

#[test]
fn contractions_and_reductions() {
    check_ops(
        "  %4 = rename %1 {pairs=[x -> z]}\n  %5 = einsum %0, %4 {out=[z, x], dtype=f32}",
        "%5",
        "f32[z=4, x=4]",
    );
    check_ops("  %4 = einsum %0, %1 {out=[x], dtype=f32}", "%4", "f32[x=4]");
    check_ops("  %4 = einsum %0, %1 {out=[y, x], dtype=f32}", "%4", "f32[y=6, x=4]");
    check_ops("  %4 = einsum %0, %1 {out=[], dtype=f32}", "%4", "f32[]");
    for ty in ["s32", "u32"] {
        for out in ["x, z", "z", "x, y", ""] {
            let dims: Vec<String> = out
                .split(", ")
                .filter(|n| !n.is_empty())
                .map(|n| format!("{n}={}", if n == "y" { 6 } else { 4 }))
                .collect();
            check(&format!(
                "module t\nfunc f(%0 a: {ty}[x=4, y=6], %1 b: {ty}[y=6, z=4]) -> (out: {ty}[{}]) {{\n  \
                 %2 = einsum %0, %1 {{out=[{out}], dtype={ty}}}\n  return %2\n}}\n",
                dims.join(", ")
            ));
        }
    }
    for kind in ["sum", "max", "min", "mean", "logsumexp"] {
        check_ops(&format!("  %4 = reduce_{kind} %0 {{dims=[y]}}"), "%4", "f32[x=4]");
        check_ops(&format!("  %4 = reduce_{kind} %0 {{dims=[x, y]}}"), "%4", "f32[]");
    }
    check_ops("  %4 = argmax %0 {dim=y}", "%4", "s32[x=4]");
}

/// Both ways to multiply bf16 matrices round operands that were f32 before, and results: an operand that is
/// not rounded differs by up to 4e-3.
#[test]
fn products_of_bf16_in_either_type() {
    for products in ["bf16", "f32"] {
        let check = |a: &str, b: &str, out: &str, ty: &str, tolerance: f64| {
            check_within(
                &format!(
                    "module t\nschedule products={products}\n\
                     func f(%0 a: f32[{a}], %1 b: f32[{b}]) -> (out: {ty}[{out}]) {{\n  %2 = mul %0, %0\n  \
                     %3 = cast %2 {{dtype=bf16}}\n  %4 = cast %1 {{dtype=bf16}}\n  \
                     %5 = einsum %3, %4 {{out=[{}], dtype={ty}}}\n  return %5\n}}\n",
                    out.split(", ").map(|d| d.split('=').next().unwrap_or(d)).collect::<Vec<_>>().join(", ")
                ),
                tolerance,
            );
        };
        for (a, b, out) in [
            ("x=4, y=6", "y=6, z=5", "x=4, z=5"),
            ("y=6, x=4", "y=6, z=5", "z=5, x=4"),
            ("x=4, y=6", "z=5, y=6", "x=4, z=5"),
            ("g=3, x=4, y=6", "y=6, g=3, z=5", "x=4, g=3, z=5"),
        ] {
            check(a, b, out, "f32", 2e-5);
            // Sums in another order may round to the next bf16 number.
            check(a, b, out, "bf16", 8e-3);
        }
    }
}

#[test]
fn shapes() {
    check_ops("  %4 = reshape %0 {from=[x, y], to=[z=3, w=8]}", "%4", "f32[z=3, w=8]");
    check_ops("  %4 = reshape %0 {from=[y, x], to=[z=24]}", "%4", "f32[z=24]");
    check_ops(
        "  %4 = reshape %1 {from=[y], to=[p=2, q=3]}\n  %5 = slice %4 {dim=q, start=0, limit=3, stride=2}",
        "%5",
        "f32[p=2, q=2, x=4]",
    );
    check_ops("  %4 = pad %0 {dim=y, low=1, high=2, value=0.5}", "%4", "f32[x=4, y=9]");
    for shift in
        ["by=1, value=0", "by=-2, value=0.5", "by=6, value=2", "by=0, value=1", "by=2, wrap", "by=-1, wrap"]
    {
        check_ops(&format!("  %4 = shift %0 {{dim=y, {shift}}}"), "%4", "f32[x=4, y=6]");
    }
    check_ops("  %4 = concat %0, %1 {dim=y}", "%4", "f32[x=4, y=12]");
    check_ops(
        "  %4 = broadcast %2 {dims=[z=3]}\n  %5 = iota {dim=z=3, dtype=s32}\n  %6 = add %4, %5",
        "%6",
        "s32[z=3, x=4]",
    );
}

/// XLA merges the two slices; the start of the second reaches beyond the first.
#[test]
fn a_slice_of_a_slice_stays_inside() {
    check(
        "module t\nfunc f(%0 s: s32[], %1 x: s32[y=8]) -> (out: s32[y=2]) {\n  %2 = constant {dtype=s32, value=5}\n  \
         %3 = add %0, %2\n  %4 = dynamic_slice %1, %0 {dim=y, size=4}\n  \
         %5 = dynamic_slice %4, %3 {dim=y, size=2}\n  return %5\n}\n",
    );
}

#[test]
fn indices() {
    check_ops("  %4 = one_hot %2 {dim=c=5, dtype=f32}", "%4", "f32[x=4, c=5]");
    check_ops("  %4 = gather %1, %2 {dim=y, outside=zero}", "%4", "f32[x=4]");
    check_ops(
        "  %4 = rename %1 {pairs=[x -> z]}\n  %5 = gather %4, %2 {dim=y, outside=clamp}",
        "%5",
        "f32[x=4, z=4]",
    );
    check_ops("  %4 = scatter_add %2, %0 {dim=c=5, over=[x]}", "%4", "f32[c=5, y=6]");
    check_ops("  %4 = scatter_add %2, %0 {dim=c=5, over=[]}", "%4", "f32[x=4, c=5, y=6]");
    for op in ["scatter_max", "scatter_min"] {
        for ty in ["f32", "bf16", "s32", "u32"] {
            check(&format!(
                "module t\nfunc f(%0 x: {ty}[y=3, c=5], %1 i: s32[n=4], %2 u: {ty}[n=4, y=3]) -> (a: {ty}[y=3, c=5], \
                 b: {ty}[y=3, c=5]) {{\n  %3 = {op} %0, %1, %2 {{dim=c, over=[n]}}\n  \
                 %4 = slice %1 {{dim=n, start=0, limit=3, stride=1}}\n  %5 = rename %4 {{pairs=[n -> y]}}\n  \
                 %6 = reduce_max %2 {{dims=[n]}}\n  %7 = {op} %0, %5, %6 {{dim=c, over=[]}}\n  return %3, %7\n}}\n"
            ));
        }
    }
    check_ops(
        "  %4, %5 = top_k %0 {dim=y, to=k=2}\n  %6 = cast %5 {dtype=f32}\n  %7 = add %4, %6",
        "%7",
        "f32[x=4, k=2]",
    );
    check_ops(
        "  %4 = iota {dim=y=6, dtype=s32}\n  %5 = broadcast %4 {dims=[x=4]}\n  %6, %7 = sort %0, %5 {dim=y, descending}",
        "%7",
        "s32[x=4, y=6]",
    );
    for flags in ["dim=y", "dim=y, exclusive", "dim=y, reverse", "dim=y, exclusive, reverse"] {
        check_ops(&format!("  %4 = cumsum %0 {{{flags}}}"), "%4", "f32[x=4, y=6]");
    }
    check_ops(
        "  %4 = reduce_max %2 {dims=[x]}\n  %5 = dynamic_slice %0, %4 {dim=y, size=3}\n  %6 = dynamic_update %0, %5, %4 {dim=y}",
        "%6",
        "f32[x=4, y=6]",
    );
    check_ops(
        "  %4 = iota {dim=x=4, dtype=s32}\n  %5 = constant {dtype=s32, value=2}\n  %6 = sub %4, %5\n  %7 = rename %6 {pairs=[x -> p]}\n  %8 = add %4, %5\n  %9 = constant {dtype=s32, value=4}\n  %10 = lt %8, %9\n  %11 = constant {dtype=s32, value=-1}\n  %12 = select %10, %8, %11\n  %13 = permute %0, %7, %12 {dim=x, to=p}",
        "%13",
        "f32[p=4, y=6]",
    );
}

#[test]
fn random_numbers() {
    let both =
        "  %4 = reduce_max %3 {dims=[x]}\n  %5 = cast %2 {dtype=u32}\n  %6 = reduce_min %5 {dims=[x]}\n";
    for (dist, dtype) in [
        ("bits", "u32"),
        ("uniform", "f32"),
        ("normal", "f32"),
        ("truncated_normal", "f32"),
        ("bernoulli, p=0.3", "pred"),
    ] {
        check_ops(
            &format!(
                "{both}  %7 = random %4, %6 {{dist={dist}, dims=[p=30, q=40], dtype={dtype}, stream=77}}"
            ),
            "%7",
            &format!("{dtype}[p=30, q=40]"),
        );
    }
}

#[test]
fn state_and_control() {
    for unroll in ["", ", unroll"] {
        for reverse in ["", ", reverse"] {
            check(&format!(
                "module t
state param w: f32[layers=3, d=4, e=4]
state counter step: s32[]
func f(%0 x: f32[b=2, d=4]) -> (y: f32[b=2, d=4], all: f32[layers=3, b=2]) {{
  %1 = read {{state=w}}
  %2, %3 = scan %0, %1, %0 {{dim=layers=3, carries=1, xs=1{reverse}, remat=save_all{unroll}}} (%0: f32[b=2, d=4], %1: f32[d=4, e=4], %2: f32[b=2, d=4]) {{
    %3 = einsum %0, %1 {{out=[b, e], dtype=f32}}
    %4 = rename %3 {{pairs=[e -> d]}}
    %5 = tanh %4
    %6 = add %5, %2
    %7 = reduce_sum %6 {{dims=[d]}}
    yield %6, %7
  }}
  %4 = neg %1
  write %4 {{state=w}}
  %5 = read {{state=step}}
  %6 = constant {{dtype=s32, value=1}}
  %7 = add %5, %6
  write %7 {{state=step}}
  return %2, %3
}}
"
            ));
        }
    }
    check_ops(
        "  %4 = reduce_max %2 {dims=[x]}\n  %5 = constant {dtype=s32, value=1}\n  %6 = gt %4, %5\n  %7 = cond %6, %0, %1 (%0: f32[x=4, y=6], %1: f32[y=6, x=4]) {\n    %2 = add %0, %1\n    yield %2\n  } else (%0: f32[x=4, y=6], %1: f32[y=6, x=4]) {\n    %2 = sub %1, %0\n    yield %2\n  }",
        "%7",
        "f32[x=4, y=6]",
    );
}

#[test]
fn collectives() {
    #[track_caller]
    fn local(param: &str, body: &str, ty: &str) {
        check(&format!(
            "module t\nmesh data=2, model=4\nfunc f(%0 a: {param}) -> (out: {ty}) {{\n{body}\n  return %9\n}}\n"
        ));
    }
    for dtype in ["f32", "bf16"] {
        local(
            &format!("{dtype}[x=8@data, y=8@model]"),
            "  %1 = reduce_sum %0 {dims=[y]}\n  %9 = all_reduce %1 {kind=sum, axes=[model]}",
            &format!("{dtype}[x=8@data]"),
        );
        local(
            &format!("{dtype}[x=8@data, y=8@model]"),
            "  %1 = reduce_sum %0 {dims=[x, y]}\n  %9 = all_reduce %1 {kind=sum, axes=[data, model]}",
            &format!("{dtype}[]"),
        );
        local(
            &format!("{dtype}[x=8@data, y=8@model]"),
            "  %1 = reduce_max %0 {dims=[y]}\n  %9 = all_reduce %1 {kind=max, axes=[model]}",
            &format!("{dtype}[x=8@data]"),
        );
        local(
            &format!("{dtype}[x=16@data+model, y=8]"),
            "  %9 = all_gather %0 {dim=x, axes=[model]}",
            &format!("{dtype}[x=16@data, y=8]"),
        );
        local(
            &format!("{dtype}[x=16@model+data, y=8]"),
            "  %9 = all_gather %0 {dim=x, axes=[model, data]}",
            &format!("{dtype}[x=16, y=8]"),
        );
        local(
            &format!("{dtype}[x=8, y=8@model]"),
            "  %1 = reduce_sum %0 {dims=[y]}\n  %9 = reduce_scatter %1 {dim=x, axes=[model]}",
            &format!("{dtype}[x=8@model]"),
        );
        local(
            &format!("{dtype}[x=16@data+model, y=8, z=3]"),
            "  %9 = all_to_all %0 {from=x, to=y, axes=[model]}",
            &format!("{dtype}[x=16@data, y=8@model, z=3]"),
        );
        local(
            &format!("{dtype}[z=3, y=8, x=16@data+model]"),
            "  %9 = all_to_all %0 {from=x, to=y, axes=[data, model]}",
            &format!("{dtype}[z=3, y=8@data+model, x=16]"),
        );
        for permute in
            ["[model], by=1, wrap", "[model], by=-1", "[model], by=2", "[model], by=4", "[model], by=4, wrap"]
        {
            local(
                &format!("{dtype}[x=8@data, y=8@model]"),
                &format!("  %9 = collective_permute %0 {{dim=y, axes={permute}}}"),
                &format!("{dtype}[x=8@data, y=8@model]"),
            );
        }
        local(
            &format!("{dtype}[x=16@model+data, y=3]"),
            "  %9 = collective_permute %0 {dim=x, axes=[model, data], by=3, wrap}",
            &format!("{dtype}[x=16@model+data, y=3]"),
        );
        local(
            &format!("{dtype}[x=8, y=8]"),
            "  %1 = as_pending %0 {axes=[data, model]}\n  %2 = all_reduce %1 {kind=sum, axes=[data]}\n  %9 = reduce_scatter %2 {dim=y, axes=[model]}",
            &format!("{dtype}[x=8, y=8@model]"),
        );
    }
    local("f32[x=8, y=8@model]", "  %9 = shard %0 {dim=x, axes=[data]}", "f32[x=8@data, y=8@model]");
    local(
        "s32[x=8@data]",
        "  %1 = one_hot %0 {dim=c=8@model, dtype=f32}\n  %9 = rename %1 {pairs=[c -> d]}",
        "f32[x=8@data, d=8@model]",
    );
    local(
        "f32[v=8@model, d=3]",
        "  %1 = iota {dim=x=10@data, dtype=s32}\n  %2 = gather %0, %1 {dim=v, outside=zero}\n  %9 = all_reduce %2 {kind=sum, axes=[model]}",
        "f32[x=10@data, d=3]",
    );
    local(
        "s32[x=8@data]",
        "  %1 = cast %0 {dtype=f32}\n  %2 = scatter_add %0, %1 {dim=c=8@model, over=[x]}\n  %9 = all_reduce %2 {kind=sum, axes=[data]}",
        "f32[c=8@model]",
    );
    local(
        "u32[]",
        "  %9 = random %0, %0 {dist=normal, dims=[p=8@model, q=6@data, r=3], dtype=f32, stream=5}",
        "f32[p=8@model, q=6@data, r=3]",
    );
}
