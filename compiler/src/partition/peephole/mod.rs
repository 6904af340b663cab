//! Rewrites of one instruction and its producers in a Local module.
//!
//! The partitioner decides value by value and never takes back a collective. These rewrites improve what it
//! could not foresee: `cancel` removes pairs that undo each other, `scatter` replaces an all-reduce whose
//! result is sharded, `merge` joins all-reduces of values that are added, and `sink` moves an all-reduce
//! behind an operation that makes its operand smaller. The order in which they are tried is in
//! `pipeline::order`.

pub(crate) mod cancel;
pub(crate) mod merge;
pub(crate) mod scatter;
pub(crate) mod sink;

use mesh::{
    AxisSet, Body, BodyBuilder, Diagnostic, Env, Inst, Module, Value,
    arena::Id,
    ir::{Collective, Op, Pending, StateOp},
};

/// Applies peepholes to all bodies until none applies; at each instruction, the first that applies. Returns
/// true if any did.
pub(crate) fn run(module: &mut Module, peepholes: &[Peephole]) -> Result<bool, Diagnostic> {
    let mut changed = false;
    for f in &mut module.functions {
        let (body, better) = body(&module.env, peepholes, &f.body).map_err(|d| d.in_function(&f.name))?;
        f.body = body;
        changed |= better;
    }
    Ok(changed)
}

/// A rewrite of one instruction and its producers. Returns the replacement for the result, or `None` if it
/// does not apply. The producers it replaces must have no other use.
pub(crate) type Peephole = fn(&mut Rewrite<'_>, &Inst) -> Result<Option<Value>, Diagnostic>;

fn body(env: &Env, peepholes: &[Peephole], old: &Body) -> Result<(Body, bool), Diagnostic> {
    let mut round = once(env, peepholes, old, true)?;
    let changed = round.applied || round.inner;
    // Every round that changes something removes a collective, or moves it to a smaller value.
    while round.applied {
        round = once(env, peepholes, &round.body, false)?;
    }
    Ok((round.body, changed))
}

/// The outcome of one round over a body.
struct Round {
    body: Body,
    /// True if a peephole applied to an instruction of the body itself.
    applied: bool,
    /// True if one applied inside a nested body.
    inner: bool,
}

/// Runs one round. Nested bodies are rewritten if `nested`, which holds in the first round only.
fn once(env: &Env, peepholes: &[Peephole], old: &Body, nested: bool) -> Result<Round, Diagnostic> {
    let live = live(old);
    let mut rewrite = Rewrite::new(env, old, &live);
    let (mut applied, mut inner) = (false, false);
    for (inst, _) in old.insts.iter().zip(&live).filter(|(_, live)| **live) {
        if let Some(value) = rewrite.better(peepholes, inst)? {
            applied = true;
            rewrite.map[inst.results[0].index()] = Some(value);
            continue;
        }
        let mut op = inst.op.clone();
        for old in op.bodies_mut().into_iter().filter(|_| nested) {
            let (new, changed) = body(env, peepholes, old)?;
            *old = new;
            inner |= changed;
        }
        rewrite.keep(inst, op)?;
    }
    let results = old.results.iter().map(|r| rewrite.new_of(*r)).collect::<Result<_, _>>()?;
    Ok(Round { body: rewrite.b.finish(results), applied, inner })
}

/// True for each instruction that a result or a write needs.
fn live(body: &Body) -> Vec<bool> {
    let mut needed = vec![false; body.values.len()];
    body.results.iter().for_each(|r| needed[r.index()] = true);
    let mut live = vec![false; body.insts.len()];
    for (i, inst) in body.insts.iter().enumerate().rev() {
        let writes = matches!(inst.op, Op::State(StateOp::Write(_)));
        live[i] = writes || inst.results.iter().any(|r| needed[r.index()]);
        if live[i] {
            inst.args.iter().for_each(|a| needed[a.index()] = true);
        }
    }
    live
}

/// A body being rewritten.
pub(crate) struct Rewrite<'r> {
    old: &'r Body,
    b: BodyBuilder<'r>,
    /// For each old value, the new one.
    map: Vec<Option<Value>>,
    /// For each old value, the number of uses by live instructions and results.
    uses: Vec<usize>,
    /// For each old value, the instruction that makes it.
    makers: Vec<Option<usize>>,
}

impl<'r> Rewrite<'r> {
    fn new(env: &'r Env, old: &'r Body, live: &[bool]) -> Self {
        let n = old.values.len();
        let (mut uses, mut makers) = (vec![0; n], vec![None; n]);
        for (i, inst) in old.insts.iter().enumerate().filter(|(i, _)| live[*i]) {
            inst.args.iter().for_each(|a| uses[a.index()] += 1);
            inst.results.iter().for_each(|r| makers[r.index()] = Some(i));
        }
        for r in &old.results {
            uses[r.index()] += 1;
        }
        let mut rewrite = Self { old, b: BodyBuilder::new(env), map: vec![None; n], uses, makers };
        for p in &old.params {
            let data = &old.values[*p];
            rewrite.map[p.index()] = Some(rewrite.b.param(data.ty.clone(), data.name.clone()));
        }
        rewrite
    }

    fn new_of(&self, old: Value) -> Result<Value, Diagnostic> {
        self.map[old.index()]
            .ok_or_else(|| Diagnostic::new("", format!("{old} is used before it is defined")))
    }

    /// The instruction that makes an old value.
    fn maker(&self, v: Value) -> Option<&'r Inst> {
        self.makers[v.index()].map(|i| &self.old.insts[i])
    }

    /// The operand of the collective that makes `v`, and the collective.
    fn collective(&self, v: Value) -> Option<(Value, &'r Collective)> {
        let inst = self.maker(v)?;
        let Op::Collective(op) = &inst.op else { return None };
        Some((inst.args[0], op))
    }

    /// The operand and axes of the all-reduced sum that makes `v`, if `v` has one use.
    fn lone_sum(&self, v: Value) -> Option<(Value, AxisSet)> {
        if self.uses[v.index()] != 1 {
            return None;
        }
        match self.collective(v)? {
            (x, Collective::AllReduce { kind: Pending::Sum, axes }) => Some((x, *axes)),
            (_, Collective::AllReduce { kind: Pending::Max | Pending::Min, axes: _ })
            | (_, Collective::AllGather { dim: _, axes: _ })
            | (_, Collective::ReduceScatter { dim: _, axes: _ })
            | (_, Collective::AllToAll { from: _, to: _, axes: _ })
            | (_, Collective::Permute { dim: _, axes: _, by: _, wrap: _ })
            | (_, Collective::Shard { dim: _, axes: _ } | Collective::AsPending { axes: _ }) => None,
        }
    }

    /// Emits an instruction at the site of an old one.
    fn emit(&mut self, op: Op, args: &[Value], at: &Inst) -> Result<Value, Diagnostic> {
        self.b.emit1(op, args, &at.site)
    }

    /// Emits an all-reduce at the site of the instruction that makes the old value `like`.
    fn all_reduce(&mut self, x: Value, axes: AxisSet, like: Value) -> Result<Value, Diagnostic> {
        let site = self.maker(like).map(|inst| inst.site.clone()).unwrap_or_default();
        self.b.emit1(Op::Collective(Collective::AllReduce { kind: Pending::Sum, axes }), &[x], &site)
    }

    /// The value with which the first peephole that applies replaces an instruction's result.
    fn better(&mut self, peepholes: &[Peephole], inst: &Inst) -> Result<Option<Value>, Diagnostic> {
        for peephole in peepholes {
            if let Some(value) = peephole(self, inst)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Copies an old instruction, with `op` as its operation.
    fn keep(&mut self, inst: &Inst, op: Op) -> Result<(), Diagnostic> {
        let args = inst.args.iter().map(|a| self.new_of(*a)).collect::<Result<Vec<_>, _>>()?;
        let results = self.b.emit(op, &args, &inst.site)?;
        for (old, new) in inst.results.iter().zip(results) {
            self.b.body.values[new].name.clone_from(&self.old.values[*old].name);
            self.map[old.index()] = Some(new);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::{
        text::{parse, print},
        verify::{Stage, verify},
    };

    /// Checks the names of the instructions that a function over `x`, `y`, `z` is rewritten to.
    #[track_caller]
    fn check(insts: &str, expect: &str) {
        let text = format!(
            "module m\nmesh data=2, model=2\nfunc f(%x x: f32[a=4@data, b=4], %y y: f32[a=4@data, b=4], \
             %z z: f32[a=4@data, b=4]) -> (out: {insts}\n}}\n"
        );
        let mut module = parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
        let all = [cancel::run, scatter::run, merge::run, sink::run];
        run(&mut module, &all).unwrap_or_else(|e| panic!("{e}"));
        verify(&module, Stage::Local).unwrap_or_else(|e| panic!("{e}"));
        let text = print(&module);
        let words: Vec<&str> =
            text.lines().filter_map(|l| l.trim().split_once(" = ")?.1.split(' ').next()).collect();
        assert_eq!(words.join(" "), expect, "{text}");
    }

    #[test]
    fn pairs_that_undo_each_other_go() {
        check(
            "f32[a=4@data, b=4]) {\n %1 = all_gather %x {dim=a, axes=[data]}\n \
             %2 = shard %1 {dim=a, axes=[data]}\n return %2",
            "",
        );
        check(
            "f32[a=4@data, b=4]) {\n %1 = shard %x {dim=b, axes=[model]}\n \
             %2 = all_gather %1 {dim=b, axes=[model]}\n return %2",
            "",
        );
        check(
            "f32[a=4@data, b=4]) {\n %1 = shard %x {dim=b, axes=[model]}\n \
             %2 = all_to_all %1 {from=b, to=a, axes=[model]}\n \
             %3 = all_to_all %2 {from=a, to=b, axes=[model]}\n \
             %4 = all_gather %3 {dim=b, axes=[model]}\n return %4",
            "",
        );
        check(
            "f32[a=4@data, b=4]) {\n %1 = collective_permute %x {dim=a, axes=[data], by=1, wrap}\n \
             %2 = collective_permute %1 {dim=a, axes=[data], by=-1, wrap}\n return %2",
            "",
        );
        // Without `wrap`, zeros enter.
        check(
            "f32[a=4@data, b=4]) {\n %1 = collective_permute %x {dim=a, axes=[data], by=1}\n \
             %2 = collective_permute %1 {dim=a, axes=[data], by=-1}\n return %2",
            "collective_permute collective_permute",
        );
        check(
            "f32[a=4@data, b=4]) {\n %1 = as_pending %x {axes=[model]}\n \
             %2 = all_reduce %1 {kind=sum, axes=[model]}\n return %2",
            "",
        );
    }

    #[test]
    fn a_sum_that_is_cut_is_scattered() {
        check(
            "f32[b=4@data]) {\n %1 = reduce_sum %x {dims=[a]}\n \
             %2 = all_reduce %1 {kind=sum, axes=[data]}\n %3 = shard %2 {dim=b, axes=[data]}\n return %3",
            "reduce_sum reduce_scatter",
        );
    }

    #[test]
    fn sums_that_are_added_are_reduced_together() {
        let sum = |to: &str, of: &str| {
            format!(
                "%{to}p = reduce_sum %{of} {{dims=[a]}}\n %{to} = all_reduce %{to}p {{kind=sum, axes=[data]}}\n"
            )
        };
        check(
            &format!("f32[b=4]) {{\n {} {} %3 = add %1, %2\n return %3", sum("1", "x"), sum("2", "y")),
            "reduce_sum reduce_sum add all_reduce",
        );
        check(
            &format!(
                "f32[b=4]) {{\n {} {} {} %e = exp %3\n %4 = add %e, %1\n %5 = add %4, %2\n return %5",
                sum("1", "x"),
                sum("2", "y"),
                sum("3", "z")
            ),
            "reduce_sum reduce_sum reduce_sum all_reduce exp add all_reduce add",
        );
        let cut = |sum: String| sum.replace("all_reduce", "reduce_scatter").replace("kind=sum", "dim=b");
        let (a, b) = (cut(sum("1", "x")), cut(sum("2", "y")));
        check(
            &format!("f32[b=4@data]) {{\n {a} {b} %3 = add %1, %2\n return %3"),
            "reduce_sum reduce_sum add reduce_scatter",
        );
        // One of the two has another use.
        check(
            &format!(
                "f32[b=4]) {{\n {} {} %3 = add %1, %2\n %4 = mul %1, %3\n return %4",
                sum("1", "x"),
                sum("2", "y")
            ),
            "reduce_sum all_reduce reduce_sum all_reduce add mul",
        );
    }

    #[test]
    fn a_smaller_value_is_sent() {
        check(
            "f32[]) {\n %1 = reduce_sum %x {dims=[a]}\n %2 = all_reduce %1 {kind=sum, axes=[data]}\n \
             %3 = reduce_sum %2 {dims=[b]}\n return %3",
            "reduce_sum reduce_sum all_reduce",
        );
        check(
            "bf16[b=4]) {\n %1 = reduce_sum %x {dims=[a]}\n %2 = all_reduce %1 {kind=sum, axes=[data]}\n \
             %3 = cast %2 {dtype=bf16}\n return %3",
            "reduce_sum cast all_reduce",
        );
        // A maximum is not linear.
        check(
            "f32[]) {\n %1 = reduce_sum %x {dims=[a]}\n %2 = all_reduce %1 {kind=sum, axes=[data]}\n \
             %3 = reduce_max %2 {dims=[b]}\n return %3",
            "reduce_sum all_reduce reduce_max",
        );
    }
}
