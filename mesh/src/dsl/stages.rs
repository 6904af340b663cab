//! Pipelines: a scan inside a map, whose iterations are divided into stages that work at once, each on
//! another slice of the map (GPipe, Huang et al. 2019).
//!
//! The scan becomes a scan over *ticks*. In a tick every stage applies its iterations to one slice; all
//! stages are one dim, by which the body is vectorized. Between two ticks the carries move to the next stage
//! by a `shift`, the first stage takes the next slice, and the last stage's result is complete. For m slices
//! and s stages there are m + s − 1 ticks, in s − 1 of which a stage has no work.
//!
//! The dim of stages has the name of the scan's dim, so that one rule of a layout splits parameters and
//! stages.

use super::vectorize::{self, Vectorizer, widened};
use crate::{
    Body, BodyBuilder, DType, Diagnostic, Dim, Env, Inst, Name, Op, Site, TensorDim, Type, Value,
    ir::{Binary, Compare, Control, Edge, Elementwise, Index, Outside, Reduce, ReduceKind, Scan, Shape},
};

/// The name of the dim of ticks.
pub const TICKS: &str = "ticks";

/// The beginning of the name of the dim of a stage's iterations, before the name of the scan's dim.
pub const STAGE: &str = "stage_";

/// The dims of a pipeline.
struct Dims {
    /// The slices of the map.
    map: Dim,
    /// The iterations of the scan.
    all: Dim,
    /// The stages, by the name of `all`.
    stages: Dim,
    /// The iterations of one stage.
    own: Dim,
    /// The ticks.
    ticks: Dim,
    /// The slices, as a dim that stages look up: no rule of a layout for the map's dim applies to it.
    queue: Name,
}

impl Dims {
    fn new(map: &Dim, all: &Dim, stages: usize) -> Result<Self, Diagnostic> {
        if !all.size.is_multiple_of(stages) {
            let message = format!("{all} does not divide into {stages} stages");
            let help = format!("choose a number of stages that divides {}", all.size);
            return Err(Diagnostic::new("", message).help(help));
        }
        Ok(Self {
            map: map.clone(),
            all: all.clone(),
            stages: Dim::new(all.name.clone(), stages),
            own: Dim::new(format!("{STAGE}{}", all.name), all.size / stages),
            ticks: Dim::new(TICKS, map.size + stages - 1),
            queue: "queue".into(),
        })
    }
}

/// Adds the pipeline of `scan`, the operation of `inst`. Returns the results of the scan, with the dim of the
/// map; those that are not `used` are arbitrary values.
pub(super) fn pipeline(
    v: &mut Vectorizer<'_, '_>,
    inst: &Inst,
    scan: &Scan,
    stages: usize,
    used: &[bool],
) -> Result<Vec<Value>, Diagnostic> {
    if scan.reverse {
        let message = format!("the pipeline over {} runs in reverse", scan.dim);
        return Err(Diagnostic::new("", message).help("give a scan with stages the other direction"));
    }
    let d = Dims::new(v.dim, &scan.dim, stages)?;
    let site = &inst.site;
    let args: Vec<Value> = inst.args.iter().map(|a| v.at(*a)).collect();
    let (carries, rest) = args.split_at(scan.carries);
    let (mut operands, mut feeds, mut types) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for x in carries {
        let x = v.widen(*x, site)?;
        let mut slice = v.b.ty(x).clone();
        slice.dims.retain(|dim| dim.dim.name != d.map.name);
        operands.push(zeros(v.b, &widened(&slice, &d.stages), site)?);
        types[0].push(slice);
        let x = rename(v.b, x, &d.map.name, &d.ticks.name, site)?;
        let pad = Shape::Pad { dim: d.ticks.name.clone(), low: 0, high: stages - 1, value: 0.0 };
        feeds.push(v.b.emit1(Op::Shape(pad), &[x], site)?);
    }
    operands.append(&mut feeds);
    operands.push(iota(v.b, &d.ticks, site)?);
    for (i, x) in rest.iter().enumerate() {
        let x = if i < scan.xs { divided(v.b, *x, &d, site)? } else { *x };
        let x = if v.has(x) { rename(v.b, x, &d.map.name, &d.queue, site)? } else { x };
        types[1].push(v.b.ty(x).clone());
        operands.push(x);
    }
    let [slices, imports] = types;
    let body = tick(v.b.env, &d, scan, &slices, &imports, used, site)?;
    let (ticks, xs) = (d.ticks.clone(), scan.carries + 1);
    let ticks = Scan { dim: ticks, carries: scan.carries, xs, reverse: false, unroll: false, body, ..*scan };
    let made = v.b.emit(Op::Control(Control::Scan(Box::new(ticks))), &operands, site)?;
    let mut outputs = made[scan.carries..].iter().copied();
    let mut results = Vec::new();
    for (i, used) in used.iter().enumerate() {
        let stacked = outputs.next().filter(|_| *used);
        results.push(match stacked {
            Some(y) if i < scan.carries => last(v.b, y, &d, site)?,
            Some(y) => each(v.b, y, &d, site)?,
            None => made[0],
        });
    }
    Ok(results)
}

/// The body of the scan over ticks. `slices` are the types of the carries of one stage, `imports` those of
/// slices and captures of all stages. It returns the carries of the next tick, and the results of the scan.
fn tick(
    env: &Env,
    d: &Dims,
    scan: &Scan,
    slices: &[Type],
    imports: &[Type],
    used: &[bool],
    site: &Site,
) -> Result<Body, Diagnostic> {
    let mut b = BodyBuilder::new(env);
    let states: Vec<Value> = slices.iter().map(|ty| b.param(widened(ty, &d.stages), None)).collect();
    let feeds: Vec<Value> = slices.iter().map(|ty| b.param(ty.clone(), None)).collect();
    let now = b.param(Type::scalar(DType::S32), None);
    let imports: Vec<Value> = imports.iter().map(|ty| b.param(ty.clone(), None)).collect();
    let stage = iota(&mut b, &d.stages, site)?;
    let first = equal(&mut b, stage, 0, site)?;
    // The slice of the map on which each stage works; outside of the dim if it has no work.
    let turn = b.emit1(Op::Elementwise(Elementwise::Binary(Binary::Sub)), &[now, stage], site)?;
    let mut args = Vec::new();
    for (state, feed) in states.iter().zip(feeds) {
        args.push(b.emit1(Op::Elementwise(Elementwise::Select), &[first, feed, *state], site)?);
    }
    for x in imports {
        let look_up = Op::Index(Index::Gather { dim: d.queue.clone(), outside: Outside::Clamp });
        args.push(if b.ty(x).has(&d.queue) { b.emit1(look_up, &[x, turn], site)? } else { x });
    }
    let has: Vec<bool> = args.iter().map(|x| b.ty(*x).has(&d.stages.name)).collect();
    let (body, _) = vectorize::body(env, &scan.body, &d.stages, &has, &vec![true; used.len()])?;
    let own = Scan { dim: d.own.clone(), body, ..*scan };
    let made = b.emit(Op::Control(Control::Scan(Box::new(own))), &args, site)?;
    let mut results = Vec::new();
    for y in &made[..scan.carries] {
        let on = Shape::Shift { dim: d.stages.name.clone(), by: 1, edge: Edge::Fill(0.0) };
        results.push(b.emit1(Op::Shape(on), &[*y], site)?);
    }
    results.extend(made);
    Ok(b.finish(results))
}

/// The results of the last stage for all slices, out of `y`, a carry after each tick.
fn last(b: &mut BodyBuilder<'_>, y: Value, d: &Dims, site: &Site) -> Result<Value, Diagnostic> {
    let (stages, ticks) = (&d.stages, &d.ticks);
    let late = Shape::Slice { dim: ticks.name.clone(), start: stages.size - 1, limit: ticks.size, stride: 1 };
    let y = b.emit1(Op::Shape(late), &[y], site)?;
    let stage = iota(b, stages, site)?;
    let is_last = equal(b, stage, stages.size - 1, site)?;
    let zero = b.emit1(Op::Shape(Shape::Constant { dtype: b.ty(y).dtype, value: 0.0 }), &[], site)?;
    let y = b.emit1(Op::Elementwise(Elementwise::Select), &[is_last, y, zero], site)?;
    let sum = Reduce::Over { kind: ReduceKind::Sum, dims: vec![stages.name.clone()] };
    let y = b.emit1(Op::Reduce(sum), &[y], site)?;
    rename(b, y, &ticks.name, &d.map.name, site)
}

/// The stacked results of the iterations for all slices, out of `y`, which has those of each tick: stage i
/// works on slice j in tick i + j.
fn each(b: &mut BodyBuilder<'_>, y: Value, d: &Dims, site: &Site) -> Result<Value, Diagnostic> {
    let slice = iota(b, &Dim::new(d.queue.clone(), d.map.size), site)?;
    let stage = iota(b, &d.stages, site)?;
    let at = b.emit1(Op::Elementwise(Elementwise::Binary(Binary::Add)), &[slice, stage], site)?;
    let pick = Index::Gather { dim: d.ticks.name.clone(), outside: Outside::Clamp };
    let y = b.emit1(Op::Index(pick), &[y, at], site)?;
    let from = vec![d.stages.name.clone(), d.own.name.clone()];
    let y = b.emit1(Op::Shape(Shape::Reshape { from, to: vec![whole(&d.all)] }), &[y], site)?;
    rename(b, y, &d.queue, &d.map.name, site)
}

/// Divides the iterations of `x` into stages.
fn divided(b: &mut BodyBuilder<'_>, x: Value, d: &Dims, site: &Site) -> Result<Value, Diagnostic> {
    let to = vec![whole(&d.stages), whole(&d.own)];
    b.emit1(Op::Shape(Shape::Reshape { from: vec![d.all.name.clone()], to }), &[x], site)
}

fn zeros(b: &mut BodyBuilder<'_>, ty: &Type, site: &Site) -> Result<Value, Diagnostic> {
    let zero = b.emit1(Op::Shape(Shape::Constant { dtype: ty.dtype, value: 0.0 }), &[], site)?;
    b.emit1(Op::Shape(Shape::Broadcast { dims: ty.dims.clone() }), &[zero], site)
}

fn iota(b: &mut BodyBuilder<'_>, dim: &Dim, site: &Site) -> Result<Value, Diagnostic> {
    b.emit1(Op::Shape(Shape::Iota { dim: whole(dim), dtype: DType::S32 }), &[], site)
}

fn equal(b: &mut BodyBuilder<'_>, x: Value, number: usize, site: &Site) -> Result<Value, Diagnostic> {
    let number = Shape::Constant { dtype: DType::S32, value: number as f64 };
    let number = b.emit1(Op::Shape(number), &[], site)?;
    b.emit1(Op::Elementwise(Elementwise::Compare(Compare::Eq)), &[x, number], site)
}

fn rename(
    b: &mut BodyBuilder<'_>,
    x: Value,
    from: &Name,
    to: &Name,
    site: &Site,
) -> Result<Value, Diagnostic> {
    b.emit1(Op::Shape(Shape::Rename { pairs: vec![(from.clone(), to.clone())] }), &[x], site)
}

fn whole(dim: &Dim) -> TensorDim {
    TensorDim { dim: dim.clone(), axes: Vec::new() }
}
