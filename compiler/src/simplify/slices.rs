//! Casts parameters that need no gather inside the loops that slice them (Local only). With the schedule
//! entry `gather=step`, `narrow` casts whole parameters to the type of activations, so that what is gathered
//! is narrow. A parameter that turns out not to be gathered needs no narrow copy: it is cast slice by slice.

use crate::cost::wire;
use mesh::{
    Body, DType, Inst, Module, Op, Value,
    ir::{Control, Elementwise, StateOp},
};

/// Rewrites all functions. Returns true if any cast moved into a loop.
pub fn run(module: &mut Module) -> bool {
    if !wire::gathers_once(module) {
        return false;
    }
    module.functions.iter_mut().fold(false, |changed, f| body(&mut f.body) | changed)
}

fn body(body: &mut Body) -> bool {
    let mut insts = std::mem::take(&mut body.insts);
    let casts = casts(body, &insts);
    let mut changed = false;
    for inst in &mut insts {
        for inner in inst.op.bodies_mut() {
            changed |= self::body(inner);
        }
        let Op::Control(Control::Scan(scan)) = &mut inst.op else { continue };
        for i in scan.slices() {
            let Some(cast) = casts.iter().find(|c| c.narrow == inst.args[i]) else { continue };
            inst.args[i] = cast.wide;
            inside(&mut scan.body, i, body.ty(cast.wide).dtype, cast.to);
            changed = true;
        }
    }
    body.insts = insts;
    changed
}

/// A cast of a parameter whose result is only sliced by loops.
struct Cast {
    narrow: Value,
    wide: Value,
    to: DType,
}

fn casts(body: &Body, insts: &[Inst]) -> Vec<Cast> {
    let read = |v: Value| {
        insts.iter().any(|inst| matches!(inst.op, Op::State(StateOp::Read(_))) && inst.results.contains(&v))
    };
    let cast = |inst: &Inst| {
        let Op::Elementwise(Elementwise::Cast(to)) = inst.op else { return None };
        let (wide, narrow) = (inst.args[0], inst.results[0]);
        let from = body.ty(wide).dtype;
        let narrower = from.is_float() && to.is_float() && to.bytes() < from.bytes();
        let only = !body.results.contains(&narrow) && insts.iter().all(|user| only_sliced(user, narrow));
        (narrower && only && read(wide)).then_some(Cast { narrow, wide, to })
    };
    insts.iter().filter_map(cast).collect()
}

/// True if `user` uses `v` only as a slice.
fn only_sliced(user: &Inst, v: Value) -> bool {
    let slices =
        |i: usize| matches!(&user.op, Op::Control(Control::Scan(scan)) if scan.slices().contains(&i));
    user.args.iter().enumerate().all(|(i, a)| *a != v || slices(i))
}

/// Gives parameter `i` the type `from`, and casts it first thing in the body.
fn inside(body: &mut Body, i: usize, from: DType, to: DType) {
    let narrow = body.params[i];
    let mut data = body.values[narrow].clone();
    data.ty.dtype = from;
    let wide = body.values.push(data);
    body.params[i] = wide;
    let site = body.insts.first().map(|inst| inst.site.clone()).unwrap_or_default();
    let op = Op::Elementwise(Elementwise::Cast(to));
    body.insts.insert(0, Inst { op, args: vec![wide], results: vec![narrow], site });
    body.compact();
}

#[cfg(test)]
mod tests {
    use mesh::{
        text::{parse, print},
        verify::{Stage, verify},
    };

    /// The lines with casts after the pass, in a program that gathers once a step or layer by layer.
    fn casts(gather: &str) -> Vec<String> {
        let text = format!(
            "module m
mesh data=2
schedule gather={gather}
state param w: f32[layers=4, d=8, e=8]
state param v: f32[layers=4, d=8@data, e=8]
func f(%x x: bf16[d=8]) -> (y: bf16[d=8]) {{
  %w = read {{state=w}}
  %v = read {{state=v}}
  %own = cast %w {{dtype=bf16}}
  %part = cast %v {{dtype=bf16}}
  %sent = all_gather %part {{dim=d, axes=[data]}}
  %y = scan %x, %own, %sent {{dim=layers=4, carries=1, xs=2, remat=save_all}} \
             (%c: bf16[d=8], %p: bf16[d=8, e=8], %q: bf16[d=8, e=8]) {{
    %h = einsum %c, %p {{out=[e], dtype=bf16}}
    %i = einsum %h, %q {{out=[d], dtype=bf16}}
    yield %i
  }}
  return %y
}}
"
        );
        let mut module = parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
        super::run(&mut module);
        crate::simplify::dce::run(&mut module);
        verify(&module, Stage::Local).unwrap_or_else(|e| panic!("{e}"));
        let text = print(&module);
        text.lines().filter(|l| l.contains(" cast ")).map(|l| l.trim_end().to_owned()).collect()
    }

    #[test]
    fn what_is_not_gathered_is_cast_slice_by_slice() {
        let lines = casts("step");
        // The cast of `v` is outside, that of `w` inside.
        let depth = |l: &String| l.len() - l.trim_start().len();
        assert_eq!(lines.iter().map(depth).collect::<Vec<_>>(), [2, 4], "{lines:?}");
        assert!(lines[0].contains("layers=4") && !lines[1].contains("layers=4"), "{lines:?}");
        assert_eq!(casts("layer").iter().map(depth).collect::<Vec<_>>(), [2, 2]);
    }
}
