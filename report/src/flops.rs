//! FLOPs of a program.
//!
//! *Per device*: two FLOPs for each multiply-add of each einsum on one device, times the trips of the loops
//! around it.
//!
//! *Per sequence* is the number by which papers compare models, forward only, as Kaplan et al. (2020) and the
//! Switch Transformers paper count: `2·N` per token for the `N` parameters that the token meets, plus
//! `2·L·d_attn·n` for attention over `n` positions in each of `L` layers. Computed from the program, that is
//! two for each multiply-add of the forward einsums, with these exceptions:
//! - einsums of two operands that both depend on the data, such as attention's two, count half, because the
//!   formula has one of the two;
//! - a tensor that every iteration of a loop gets again, as a decoder's layers get the encoder's output,
//!   counts for the tokens of the loop's carry, because in the formula a decoder's parameters meet the
//!   decoder's tokens only;
//! - einsums with a one-hot operand (embedding by product, dispatch and combine by product) do not count, nor
//!   do those in a scope with `router`, `dispatch`, `combine` or `rehearsal` in its path;
//! - experts' einsums count for tokens, not for expert slots: after a permutation, or a product with a
//!   one-hot, puts tokens into more or fewer expert slots, einsums are scaled by tokens / slots, until
//!   another leads back;
//! - a gather in a scope `experts` gives an expert's matrix, and not data.

use super::{
    FlopsByPhase,
    part::part,
    pipelines::trips_with_work,
    saturating::{add, product, sum as sum_of},
    trips,
};
use mesh::{
    Body, Function, Inst, Mesh, Op, Type, Value,
    arena::Id,
    dsl::REHEARSAL,
    ir::{Contract, Control, Elementwise, Index, Phase, Scan, StateOp},
};

/// FLOPs of one device in one step. Of a conditional, the more expensive branch counts.
pub(super) fn per_device(mesh: &Mesh, f: &Function) -> FlopsByPhase {
    device_body(mesh, &f.body)
}

fn device_body(mesh: &Mesh, body: &Body) -> FlopsByPhase {
    let mut sum = FlopsByPhase::default();
    for inst in &body.insts {
        if let Op::Contract(op) = &inst.op {
            let n = dims(body, inst, op).map(|d| (d.dim.size / mesh.product(&d.axes)) as u64);
            add(sum.of(inst.site.phase), product(n.chain([2])));
        }
        let inner: Vec<FlopsByPhase> = inst.op.bodies().iter().map(|b| device_body(mesh, b)).collect();
        if let Some(most) = inner.into_iter().max_by_key(|b| sum_of([b.forward, b.backward])) {
            add(&mut sum.forward, product([most.forward, trips(&inst.op)]));
            add(&mut sum.backward, product([most.backward, trips(&inst.op)]));
        }
    }
    sum
}

/// All dims of an einsum, each once.
pub(super) fn dims<'b>(
    body: &'b Body,
    inst: &Inst,
    _: &Contract,
) -> impl Iterator<Item = &'b mesh::TensorDim> {
    let (a, b) = (body.ty(inst.args[0]), body.ty(inst.args[1]));
    a.dims.iter().chain(b.dims.iter().filter(|d| !a.has(&d.dim.name)))
}

/// Forward FLOPs of a whole step on all devices together, as papers count.
pub(super) fn per_step(f: &Function) -> u128 {
    let inputs = vec![Fact { data: true, ..Fact::default() }; f.body.params.len()];
    let mut sum = 0.0;
    walk(&f.body, &inputs, 1.0, &mut sum, &mut Slots::default());
    sum as u128
}

/// Expert slots per token in the forward einsums of experts; 1 if there are no expert slots.
pub(super) fn slots(f: &Function) -> f64 {
    let inputs = vec![Fact { data: true, ..Fact::default() }; f.body.params.len()];
    let mut met = Slots::default();
    walk(&f.body, &inputs, 1.0, &mut 0.0, &mut met);
    if met.tokens > 0.0 { met.slots / met.tokens } else { 1.0 }
}

/// FLOPs of experts: on all expert slots, and the share that is on tokens.
#[derive(Default)]
struct Slots {
    slots: f64,
    tokens: f64,
}

/// Facts about a value.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Fact {
    /// True if it depends on the function's inputs, and not on state alone.
    data: bool,
    /// True if it is a one-hot, or an elementwise function of one.
    one_hot: bool,
    /// Expert slots per token.
    slots: f64,
    /// Tokens that the formula counts per token of the value.
    counted: f64,
}

impl Default for Fact {
    fn default() -> Self {
        Self { data: false, one_hot: false, slots: 1.0, counted: 1.0 }
    }
}

/// Adds the FLOPs of a body's forward einsums to `sum` and returns the facts about its results.
fn walk(body: &Body, params: &[Fact], times: f64, sum: &mut f64, met: &mut Slots) -> Vec<Fact> {
    let mut facts = vec![Fact::default(); body.values.len()];
    for (p, fact) in body.params.iter().zip(params) {
        facts[p.index()] = *fact;
    }
    for inst in &body.insts {
        let args: Vec<Fact> = inst.args.iter().map(|a| facts[a.index()]).collect();
        let results = inner(inst, &args, times, sum, met)
            .unwrap_or_else(|| vec![result(body, inst, &args); inst.results.len()]);
        for (r, fact) in inst.results.iter().zip(results) {
            facts[r.index()] = fact;
        }
        if let Op::Contract(op) = &inst.op {
            *sum += times * counted(body, inst, op, &args);
            let slots = merge(&args).slots;
            if inst.site.phase == Phase::Forward && slots != 1.0 && part(&inst.site.scope) == "experts" {
                let n: f64 = dims(body, inst, op).map(|d| d.dim.size as f64).product();
                met.slots += times * n;
                met.tokens += times * n / slots;
            }
        }
    }
    body.results.iter().map(|r: &Value| facts[r.index()]).collect()
}

/// The facts about results of an operation with bodies, which are walked.
fn inner(inst: &Inst, args: &[Fact], times: f64, sum: &mut f64, met: &mut Slots) -> Option<Vec<Fact>> {
    let Op::Control(control) = &inst.op else { return None };
    match control {
        Control::Scan(op) => Some(scan(op, args, times, sum, met)),
        Control::Cond { then, otherwise } => {
            let (mut a, mut b) = (0.0, 0.0);
            let facts = walk(then, &args[1..], times, &mut a, met);
            let other = walk(otherwise, &args[1..], times, &mut b, &mut Slots::default());
            *sum += f64::max(a, b);
            Some(facts.into_iter().zip(other).map(|(a, b)| merge(&[a, b])).collect())
        }
        Control::Grad => None,
    }
}

fn scan(op: &Scan, args: &[Fact], times: f64, sum: &mut f64, met: &mut Slots) -> Vec<Fact> {
    let mut params = args.to_vec();
    if let Some(carry) =
        (0..op.carries).find(|i| args[*i].data && op.body.ty(op.body.params[*i]).dims.len() > 1)
    {
        let carry = op.body.ty(op.body.params[carry]);
        for (p, fact) in op.body.params.iter().zip(&mut params).skip(op.slices().end) {
            fact.counted = tokens(carry, op.body.ty(*p));
        }
    }
    // A carry's facts after one iteration hold from the next one on.
    for _ in 0..=op.carries {
        let results = walk(&op.body, &params, 0.0, &mut 0.0, &mut Slots::default());
        for (p, r) in params.iter_mut().zip(&results).take(op.carries) {
            p.data |= r.data;
        }
    }
    // A stage of a pipeline without work counts no sequence.
    walk(&op.body, &params, times * trips_with_work(op) as f64, sum, met)
}

/// Elements of `carry` per element of `other`, in the dims that only one of them has.
fn tokens(carry: &Type, other: &Type) -> f64 {
    let alone = |a: &Type, b: &Type| -> f64 {
        a.logical().filter(|d| !b.has(&d.name)).map(|d| d.size as f64).product()
    };
    alone(carry, other) / alone(other, carry)
}

fn merge(args: &[Fact]) -> Fact {
    let other = |of: fn(&Fact) -> f64| args.iter().map(of).fold(1.0, |s, a| if a == 1.0 { s } else { a });
    Fact {
        data: args.iter().any(|a| a.data),
        one_hot: args.iter().any(|a| a.one_hot),
        slots: other(|a| a.slots),
        counted: other(|a| a.counted),
    }
}

fn result(body: &Body, inst: &Inst, args: &[Fact]) -> Fact {
    let all = merge(args);
    let plain = Fact { one_hot: false, counted: 1.0, ..all };
    match &inst.op {
        Op::Index(Index::OneHot { dim: _, dtype: _ }) => Fact { one_hot: true, ..all },
        Op::Index(Index::Permute { dim, to }) => {
            let size = |ty: &Type, name| ty.size(name).unwrap_or(1) as f64;
            let (from, into) = (body.ty(inst.args[0]), body.ty(inst.results[0]));
            Fact { slots: moved(args[0].slots, size(into, to) / size(from, dim)), ..plain }
        }
        Op::Index(Index::Gather { dim: _, outside: _ }) => {
            // The matrix of an expert is a parameter, whatever chose the expert.
            let data = if part(&inst.site.scope) == "experts" { args[0].data } else { all.data };
            Fact { data, slots: args[1].slots, ..plain }
        }
        Op::Index(
            Index::ScatterAdd { dim: _, over: _ }
            | Index::ScatterExtreme { kind: _, dim: _, over: _ }
            | Index::TopK { dim: _, to: _ }
            | Index::Sort { dim: _, descending: _ }
            | Index::CumSum { dim: _, exclusive: _, reverse: _ }
            | Index::DynamicSlice { dim: _, size: _ }
            | Index::DynamicUpdate { dim: _ },
        ) => plain,
        Op::Elementwise(Elementwise::Compare(_)) => plain,
        Op::State(StateOp::Read(_) | StateOp::Write(_)) => Fact::default(),
        Op::Elementwise(_) | Op::Shape(_) | Op::Collective(_) => all,
        Op::Contract(op) => match args {
            [x, mask] | [mask, x] if mask.one_hot && x.data && !x.one_hot => {
                let (a, b) = (body.ty(inst.args[0]), body.ty(inst.args[1]));
                let gone = dims(body, inst, op).filter(|d| !op.out.contains(&d.dim.name));
                let mask = if std::ptr::eq(mask, &args[0]) { (a, b) } else { (b, a) };
                let come = mask.0.dims.iter().filter(|d| !mask.1.has(&d.dim.name));
                let size = |d: &mesh::TensorDim| d.dim.size as f64;
                let ratio = come.map(size).product::<f64>() / gone.map(size).product::<f64>();
                Fact { slots: moved(x.slots, ratio), ..plain }
            }
            _ => plain,
        },
        Op::Reduce(_) | Op::Random(_) | Op::Control(_) => plain,
    }
}

/// Expert slots per token after tokens were put into `ratio` times as many slots. Back at the tokens there is
/// one again, whatever was rounded.
fn moved(slots: f64, ratio: f64) -> f64 {
    let slots = slots * ratio;
    if (slots - 1.0).abs() < 1e-9 { 1.0 } else { slots }
}

/// The FLOPs that one einsum counts for.
fn counted(body: &Body, inst: &Inst, op: &Contract, args: &[Fact]) -> f64 {
    let scope = inst.site.scope.as_str();
    let routing = ["router", "dispatch", "combine", REHEARSAL].iter().any(|word| scope.contains(word));
    if inst.site.phase != Phase::Forward || routing || args.iter().any(|a| a.one_hot) {
        return 0.0;
    }
    let share = if args.iter().all(|a| a.data) { 0.5 } else { merge(args).counted };
    let n: f64 = dims(body, inst, op).map(|d| d.dim.size as f64).product();
    2.0 * n * share / merge(args).slots
}
