//! Decides which stacked loop outputs reuse an input's buffer. Used by the emitter and the memory estimate.

use mesh::{
    Op, Value,
    ir::{Binary, Elementwise, Scan},
};

/// For each y of a loop, the argument whose buffer it reuses: that of an x to which something is added, if
/// the row is read before it is written and has no other use.
pub fn places(scan: &Scan) -> Vec<Option<usize>> {
    let body = &scan.body;
    let of = |y: &Value| {
        let maker = body.insts.iter().find(|inst| inst.results.contains(y))?;
        if maker.op != Op::Elementwise(Elementwise::Binary(Binary::Add)) {
            return None;
        }
        let x = scan.slices().find(|x| maker.args.contains(&body.params[*x]))?;
        let p = body.params[x];
        let uses = body.insts.iter().flat_map(|inst| &inst.args).chain(&body.results).filter(|a| **a == p);
        (uses.count() == 1 && body.ty(p).matches(body.ty(*y))).then_some(x)
    };
    let mut places: Vec<Option<usize>> = body.results[scan.carries..].iter().map(of).collect();
    // An x that several ys could reuse is reused by the first.
    for k in 0..places.len() {
        if places[..k].contains(&places[k]) {
            places[k] = None;
        }
    }
    places
}
