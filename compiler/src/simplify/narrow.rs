//! Makes what loops stack narrow (Global only): where a loop stacks a float that it has just cast to a wider
//! type, it stacks the narrow value, and the cast comes after the loop. With the schedule entry
//! `gather=step`, sliced values become narrow too: if the only use of a slice is a cast to one narrower float
//! type, the cast comes before the loop. Stored parameters that are split further than the layout says are
//! then gathered once a step, in the narrow type, instead of by every loop for every layer.

use crate::{cost::wire, facts::only_cast};
use mesh::{
    Body, BodyBuilder, DType, Env, Inst, Module, Op, Value,
    ir::{Control, Elementwise, Scan},
};

/// Rewrites all functions. Returns true if any cast moved.
pub fn run(module: &mut Module) -> bool {
    let slices = wire::gathers_once(module);
    let env = &module.env;
    module.functions.iter_mut().fold(false, |changed, f| body(env, &mut f.body, slices) | changed)
}

fn body(env: &Env, body: &mut Body, slices: bool) -> bool {
    let mut changed = false;
    let insts = std::mem::take(&mut body.insts);
    let mut outer = BodyBuilder { env, body: std::mem::take(body) };
    for mut inst in insts {
        for inner in inst.op.bodies_mut() {
            changed |= self::body(env, inner, slices);
        }
        let mut casts = Vec::new();
        if let Op::Control(Control::Scan(scan)) = &mut inst.op {
            if slices {
                changed |= before(&mut outer, scan, &mut inst.args, &inst.site);
            }
            casts = after(&mut outer, scan, &mut inst.results);
        }
        changed |= !casts.is_empty();
        let site = inst.site.clone();
        outer.body.insts.push(inst);
        for (narrow, to, wide) in casts {
            let op = Op::Elementwise(Elementwise::Cast(to));
            outer.body.insts.push(Inst { op, args: vec![narrow], results: vec![wide], site: site.clone() });
        }
    }
    *body = outer.body;
    body.compact();
    changed
}

/// Moves casts of slices before the loop. Returns true if there was such a cast.
fn before(outer: &mut BodyBuilder<'_>, scan: &mut Scan, args: &mut [Value], site: &mesh::Site) -> bool {
    let mut changed = false;
    for (i, arg) in args.iter_mut().enumerate().skip(scan.carries).take(scan.xs) {
        let param = scan.body.params[i];
        let Some(to) = only_cast(&scan.body, param) else { continue };
        let Ok(cast) = outer.emit1(Op::Elementwise(Elementwise::Cast(to)), &[*arg], site) else { continue };
        *arg = cast;
        scan.body.values[param].ty.dtype = to;
        // Casts to the type that the value now has are the value itself.
        let same: Vec<Value> =
            scan.body.insts.iter().filter(|inst| inst.args == [param]).map(|inst| inst.results[0]).collect();
        scan.body.insts.retain(|inst| inst.args != [param]);
        let rename = |v: &mut Value| *v = if same.contains(v) { param } else { *v };
        scan.body.insts.iter_mut().flat_map(|inst| &mut inst.args).for_each(rename);
        scan.body.results.iter_mut().for_each(rename);
        changed = true;
    }
    changed
}

/// Stacks narrow values. Returns the casts to apply after the loop: the narrow value, the type, the wide
/// value.
fn after(outer: &mut BodyBuilder<'_>, scan: &mut Scan, results: &mut [Value]) -> Vec<(Value, DType, Value)> {
    let mut casts = Vec::new();
    for (k, result) in results.iter_mut().enumerate().skip(scan.carries) {
        let wide = scan.body.results[k];
        let maker = scan.body.insts.iter().find(|inst| inst.results.contains(&wide));
        let Some(Inst { op: Op::Elementwise(Elementwise::Cast(to)), args, .. }) = maker else { continue };
        let (to, narrow) = (*to, args[0]);
        let from = scan.body.ty(narrow).dtype;
        if !from.is_float() || !to.is_float() || from.bytes() >= to.bytes() {
            continue;
        }
        scan.body.results[k] = narrow;
        let mut data = outer.body.values[*result].clone();
        data.ty.dtype = from;
        data.name = None;
        let stacked = outer.body.values.push(data);
        casts.push((stacked, to, *result));
        *result = stacked;
    }
    casts
}
