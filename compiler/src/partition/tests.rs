//! Tests of the partitioner that do not fit into filetests.

use super::*;
use crate::{
    interp::{self, Precision, Tensor, Tensors},
    pipeline::{self, Axes},
};
use mesh::{
    DType, Layout, Name,
    text::{op_name, parse_source, print},
    verify::{Stage, verify},
};

#[track_caller]
fn local(text: &str, mesh: &str, layout: &str, state: &str) -> (Module, Module) {
    let global = parse_source(text, "test.mesh").unwrap_or_else(|e| panic!("{e}"));
    let mesh = Mesh::parse(mesh).unwrap();
    let resolve = |layout: &str| Layout::parse(layout).unwrap().resolve(&mesh).unwrap();
    let axes = Axes { compute: resolve(layout), state: resolve(state), mesh };
    let local = pipeline::partition(&global, &axes).unwrap_or_else(|e| panic!("{e}"));
    verify(&local, Stage::Local).unwrap_or_else(|e| panic!("{e}"));
    (global, local)
}

/// Numbers that are reproducible and differ from each other.
fn tensor(ty: &Type, salt: usize) -> Tensor {
    let dims: Vec<mesh::Dim> = ty.logical().cloned().collect();
    let number = |i: usize| ((i * 7919 + salt * 104_729) % 1009) as f64 / 1009.0 - 0.5;
    let number = |i: usize| if ty.dtype == DType::S32 { (i % 7) as f64 } else { number(i) };
    Tensor::new(ty.dtype, &dims, (0..ty.elements()).map(number).collect()).unwrap()
}

/// Checks that the interpreter computes the same for both, up to the order of sums.
#[track_caller]
fn same(global: &Module, local: &Module) {
    let f = &global.functions[0];
    let inputs: Tensors = f
        .inputs
        .iter()
        .zip(f.body.param_types())
        .enumerate()
        .map(|(i, (name, ty))| (name.clone(), tensor(ty, i)))
        .collect();
    let states = global.env.states.iter().map(|(_, s)| (s.name.clone(), tensor(&s.ty, 31)));
    let states: Tensors = states.collect();
    let run = |module: &Module| {
        interp::run(module, &f.name, &inputs, &states, Precision::Wide).unwrap_or_else(|e| panic!("{e}"))
    };
    let (one, many) = (run(global), run(local));
    for (name, a) in one.outputs.iter().chain(&one.state) {
        let b = many.outputs.get(name).or_else(|| many.state.get(name)).unwrap();
        let names: Vec<Name> = a.dims().iter().map(|d| d.name.clone()).collect();
        for (x, y) in a.elements().iter().zip(b.ordered(&names).elements()) {
            assert!((x - y).abs() <= 1e-9 * x.abs().max(1.0), "{name}: {x} and {y}");
        }
    }
}

fn ops(module: &Module) -> Vec<&'static str> {
    let mut ops = Vec::new();
    module.functions.iter().for_each(|f| f.body.walk(&mut |_, inst| ops.push(op_name(&inst.op))));
    ops
}

/// An all-to-all is narrow only for large values, which random programs do not have.
#[test]
fn narrow_all_to_alls_mean_the_same() {
    let text = "module m
func f(%x x: f32[expert_batch=4, experts=4, d_ff=2, d=65536]) -> (y: f32[batch=4, experts_all=4, d=65536]) {
  %s = reduce_sum %x {dims=[d_ff]}
  %y = rename %s {pairs=[expert_batch -> batch, experts -> experts_all]}
  return %y
}
";
    let (global, local) = local(text, "expert=4,model=2", "batch:expert,experts:expert,d_ff:model", "");
    assert_eq!(ops(&local), ["reduce_sum", "reduce_scatter", "all_to_all", "all_gather", "rename"]);
    same(&global, &local);
}

const STEP: &str = "module m
state param w: f32[layers=3, d=4, e=8]
state slot m: f32[layers=3, d=4, e=8]
func train_step(%x x: f32[batch=4, d=4]) -> (loss: f32[]) {
  %w = read {state=w}
  %0 = constant {dtype=f32, value=0}
  %z = broadcast %0 {dims=[e=8]}
  %y, %t, %g = scan %x, %z, %w {dim=layers=3, carries=2, xs=1, remat=save_all} (%x: f32[batch=4, d=4], %t: f32[e=8], %w: f32[d=4, e=8]) {
    %h = einsum %x, %w {out=[batch, e], dtype=f32}
    %r = tanh %h
    %o = einsum %r, %w {out=[batch, d], dtype=f32}
    %s = reduce_sum %r {dims=[batch]}
    %t2 = add %t, %s
    %g = einsum %x, %r {out=[d, e], dtype=f32}
    yield %o, %t2, %g
  }
  %m = read {state=m}
  %m2 = add %m, %g
  %w2 = sub %w, %m2
  write %m2 {state=m}
  write %w2 {state=w}
  %ts = reduce_sum %t {dims=[e]}
  %ys = reduce_sum %y {dims=[batch, d]}
  %loss = add %ts, %ys
  return %loss
}
";

#[test]
fn state_layouts_and_loops_mean_the_same() {
    for (mesh, layout, state) in [
        ("data=2,model=2", "batch:data,e:model", ""),
        ("data=2,model=2", "batch:data,e:model", "*:data"),
        ("data=4,model=2", "batch:data,e:model", "*:data,d:data"),
        ("data=2,model=2", "batch:data", "e:model+data"),
        ("data=2", "", "layers:data,*:data"),
        ("data=3", "", "layers:data"),
    ] {
        let (global, local) = local(STEP, mesh, layout, state);
        same(&global, &local);
    }
}

#[test]
fn the_result_is_a_function_of_the_input_and_knows_its_lines() {
    let make = || local(STEP, "data=2,model=2", "batch:data,e:model", "*:data").1;
    let module = make();
    assert_eq!(print(&module), print(&make()));
    for f in &module.functions {
        f.body.walk(&mut |_, inst| assert!(inst.site.line > 0, "{inst:?}"));
    }
}

#[test]
fn one_device_runs_the_same_instructions() {
    let (global, local) = local(STEP, "data=1,model=1", "batch:data,e:model", "*:data");
    assert_eq!(ops(&global), ops(&local));
    same(&global, &local);
}

#[test]
fn what_is_not_for_this_stage_is_turned_down() {
    let text = "module m
func f(%x x: f32[]) -> (g: f32[]) {
  %g = grad %x, %x
  return %g
}
";
    let global = parse_source(text, "test.mesh").unwrap_or_else(|e| panic!("{e}"));
    let none = AxisMap::default();
    let mistakes = partition(&global, &Mesh::default(), &none, &none).unwrap_err();
    assert!(mistakes.to_string().contains("expand gradients first"), "{mistakes}");
}

/// Slices, paddings and concatenations of a split dim, for all shapes that divide into four shards.
#[test]
fn parts_of_split_dims_mean_the_same() {
    let (mut programs, mut exchanged) = (0, 0);
    let mut check = |operands: &[usize], result: usize, operation: &str| {
        let inputs: Vec<String> =
            operands.iter().enumerate().map(|(i, size)| format!("%x{i} x{i}: f32[a={size}, b=2]")).collect();
        let names: Vec<String> = (0..operands.len()).map(|i| format!("%x{i}")).collect();
        let operation = operation.replace("%x", &names.join(", "));
        let text = format!(
            "module m\nfunc f({}) -> (y: f32[a={result}, b=2]) {{\n  %y = {operation}\n  return %y\n}}\n",
            inputs.join(", ")
        );
        let (global, local) = local(&text, "data=4", "a:data", "");
        same(&global, &local);
        programs += 1;
        exchanged += usize::from(!ops(&local).contains(&"all_gather"));
    };
    for size in [4_usize, 8, 16] {
        for (start, stride) in (0..size).flat_map(|start| [1_usize, 2, 3].map(|stride| (start, stride))) {
            for limit in start + 1..=size {
                let result = (limit - start).div_ceil(stride);
                if result.is_multiple_of(4) {
                    let slice = format!("slice %x {{dim=a, start={start}, limit={limit}, stride={stride}}}");
                    check(&[size], result, &slice);
                }
            }
        }
        for (low, high) in (0_usize..9).flat_map(|low| (0_usize..9).map(move |high| (low, high))) {
            if (low + high).is_multiple_of(4) {
                let value = low % 2;
                let pad = format!("pad %x {{dim=a, low={low}, high={high}, value={value}}}");
                check(&[size], size + low + high, &pad);
            }
        }
        check(&[size, 4], size + 4, "concat %x {dim=a}");
        check(&[4, size, 4], size + 8, "concat %x {dim=a}");
    }
    assert!(exchanged > programs / 2 && exchanged < programs, "{exchanged} of {programs}");
}

/// Checks the help for a dim `a` over four devices of which one element is cut off.
#[track_caller]
fn check_cut(size: usize, offers: bool) {
    let rest = size - 1;
    let text = format!(
        "module m\nfunc f(%x x: f32[a={size}]) -> (y: f32[a={rest}]) {{\n  \
         %y = slice %x {{dim=a, start=0, limit={rest}, stride=1}}\n  return %y\n}}\n"
    );
    let global = parse_source(&text, "test.mesh").unwrap_or_else(|e| panic!("{e}"));
    let mesh = Mesh::parse("data=4").unwrap();
    let compute = Layout::parse("a:data").unwrap().resolve(&mesh).unwrap();
    let mistakes = check(&global, &mesh, &compute, &AxisMap::default()).unwrap_err();
    let of_rest = |d: &&Diagnostic| d.message.contains(&format!("dim `a` of size {rest} "));
    let help = mistakes.0.iter().find(of_rest).and_then(|d| d.help.clone()).unwrap();
    assert_eq!(help.contains(&format!("leave it of size {size}")), offers, "{help}");
}

#[test]
fn the_size_before_is_offered_if_it_divides() {
    check_cut(8, true);
    check_cut(6, false);
}
