//! Which stacks a loop fills in the place of one that it slices: known to whoever emits the loop, and to whoever
//! counts what it holds.

use mesh::{
    Op, Value,
    ir::{Binary, Elementwise, Scan},
};

/// For each y of a loop, the number of the argument in whose place it is filled, if it is that of an x with
/// something added: the row is read before it is written, and by nobody else.
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
    // What is given twice has one place only.
    for k in 0..places.len() {
        if places[..k].contains(&places[k]) {
            places[k] = None;
        }
    }
    places
}
