//! Optimizers against torch, transformers and Mesh TensorFlow (`optimizers` and `mtf_adafactor` of the
//! reference folder), and steps with non-finite gradients.
//!
//! The folder is `../shared/oracle` beside the repository, or `MESH_ORACLE`. It is not part of the
//! repository; without it the tests are skipped with a message.

use compiler::{
    interp::{self, Precision as Rounding, Tensor, Tensors},
    pipeline::{self, Placement},
};
use mesh::{
    DType, Dim, Layout, Mesh, Module,
    dsl::{Init, Program},
};
use models::{
    LrSchedule, Method, Optimizer, Weights,
    optimizer::{Adafactor, AdamW, Update},
};
use safetensors::SafeTensors;
use std::{cell::RefCell, fs};
use tests::{moe::error, oracle, plugin};

/// The tolerance, relative to the largest element of a tensor.
const NEAR: f64 = 2e-6;

type Parameter = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// Parameters by name, with the dims that stack matrices and those of rows and columns.
const PARAMETERS: [Parameter; 4] = [
    ("experts", &["e"], &["x"], &["y"]),
    ("matrix", &[], &["r"], &["c"]),
    ("vector", &[], &["v"], &[]),
    ("wide", &[], &["h"], &["w"]),
];

fn file(case: &str) -> Option<Vec<u8>> {
    let path = oracle::folder()?.join(case).join("expected.safetensors");
    Some(fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display())))
}

/// Returns the sizes and elements of a tensor; `None` if the file does not contain it.
fn read(file: &SafeTensors<'_>, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let view = file.tensor(name).ok()?;
    assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
    let words = view.data().chunks_exact(4);
    let numbers = words.map(|w| f64::from(f32::from_le_bytes(w.try_into().expect("four bytes"))));
    Some((view.shape().to_vec(), numbers.collect()))
}

/// A program whose gradients are its inputs, with the initial parameters.
struct Bench {
    module: Module,
    initial: Tensors,
    plugin: RefCell<Option<plugin::Ready>>,
}

/// A mesh, a layout and a state layout.
type Place = [&'static str; 3];

const ONE: Place = ["", "", ""];
const TWO: Place = ["data=2", "", "*:data"];
/// Layouts on eight devices: within matrices, across matrices, and with a different state layout.
const EIGHT: [Place; 3] = [
    ["data=2,model=4", "x:model,c:data,h:data,w:model", ""],
    ["data=4,model=2", "x:data,r:model,h:model,w:data", ""],
    ["data=2,model=4", "x:model,w:model", "*:data"],
];

impl Bench {
    /// Opens a session with the parameters `given` under a layout.
    fn new(optimizer: &Optimizer, given: &[(&str, Vec<usize>, Vec<f64>)], place: Place) -> Self {
        let [mesh, layout, state] = place;
        let p = Program::new("optimizer");
        let weights = Weights::new(&p);
        let mut initial = Tensors::new();
        let mut parameters = Vec::new();
        for (name, sizes, values) in given {
            let (_, stack, rows, columns) = PARAMETERS.iter().find(|r| r.0 == *name).expect("it is known");
            let names = [*stack, rows, columns].concat();
            let dims: Vec<Dim> = names.iter().zip(sizes).map(|(n, size)| Dim::new(*n, *size)).collect();
            let of =
                |names: &[&str]| dims.iter().filter(|d| names.contains(&d.name.as_str())).collect::<Vec<_>>();
            let all: Vec<&Dim> = dims.iter().collect();
            weights.matrix(name, &all, &of(rows), &of(columns), Init::Zeros);
            initial
                .insert((*name).into(), Tensor::new(DType::F32, &dims, values.clone()).expect("sizes agree"));
            parameters.push((name.to_string(), dims));
        }
        let step = p.counter("step", DType::S32, Init::Zeros);
        let update = Update::new(&p, optimizer, weights.all());
        p.function("train", |g| {
            let products = weights.all().into_iter().zip(&parameters).map(|(weight, (name, dims))| {
                let slope = g.input(format!("grad.{name}"), DType::F32, dims);
                (weight.state.read(g) * slope).sum_all()
            });
            let loss = products.reduce(|a, b| a + b).expect("there are parameters");
            let now = step.read(g);
            let report = update.apply(g, loss, &update.gradients(g, loss), now);
            step.assign(now + 1);
            g.output("rate", report.rate);
            g.output("norm", report.grad_norm);
            if let Some(skipped) = report.skipped {
                g.output("skipped_steps", skipped);
            }
        });
        let mut module = p.finish().unwrap_or_else(|d| panic!("{d}"));
        module.functions.retain(|f| f.name == *"train");
        let parse = |text: &str| Layout::parse(text).expect("the test's layouts are legal");
        let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
        let mut layout = parse(layout);
        layout
            .rules
            .retain(|(name, _)| parameters.iter().flat_map(|(_, dims)| dims).any(|d| d.name == *name));
        let placement = Placement { mesh, layout, state_layout: parse(state) };
        let local = pipeline::compile(module, &placement, &mut pipeline::unobserved);
        let module = local.unwrap_or_else(|d| panic!("{d}")).into_module();
        for (_, s) in module.env.states.iter() {
            let dims: Vec<Dim> = s.ty.logical().cloned().collect();
            let zeros = Tensor::new(s.ty.dtype, &dims, vec![0.0; s.ty.elements()]).expect("sizes agree");
            initial.entry(s.name.clone()).or_insert(zeros);
        }
        Self { module, initial, plugin: RefCell::default() }
    }

    /// Returns state and outputs after a step.
    fn step(&self, on_plugin: bool, gradients: &Tensors, state: &Tensors) -> (Tensors, Tensors) {
        let outcome = if on_plugin {
            let mut ready = self.plugin.borrow_mut();
            let compile = || plugin::ready(&self.module, "train", &[]).unwrap_or_else(|e| panic!("{e}"));
            ready.get_or_insert_with(compile).call(gradients, state)
        } else {
            interp::run(&self.module, "train", gradients, state, Rounding::Normal).map_err(|d| d.to_string())
        };
        let outcome = outcome.unwrap_or_else(|e| panic!("{e}"));
        (outcome.state, outcome.outputs)
    }

    fn gradients(&self, values: &dyn Fn(&str) -> Vec<f64>) -> Tensors {
        let parameters = PARAMETERS.iter().filter_map(|(name, ..)| Some((*name, self.initial.get(*name)?)));
        let gradient = |(name, like): (&str, &Tensor)| {
            let dims: Vec<Dim> = like.dims();
            (
                format!("grad.{name}").into(),
                Tensor::new(DType::F32, &dims, values(name)).expect("sizes agree"),
            )
        };
        parameters.map(gradient).collect()
    }
}

/// Runs the five steps of `kind` under all layouts and compares all parameters after each step.
#[track_caller]
fn check(case: &str, kind: &str, method: Method, schedule: LrSchedule) {
    let Some(bytes) = file(case) else { return };
    let file = SafeTensors::deserialize(&bytes).expect("the file is safetensors");
    let optimizer = Optimizer { method, schedule, clip: 0.0, ..Optimizer::default() };
    let given: Vec<_> = PARAMETERS
        .iter()
        .filter_map(|(name, ..)| read(&file, &format!("init.{name}")).map(|(sizes, v)| (*name, sizes, v)))
        .collect();
    assert_eq!(given.len(), 3, "{case} has three parameters");
    let one = [(false, ONE), (true, ONE), (false, TWO), (false, EIGHT[0])];
    for (on_plugin, place) in one.into_iter().chain(EIGHT.map(|place| (true, place))) {
        let bench = Bench::new(&optimizer, &given, place);
        let (mut state, mut worst) = (bench.initial.clone(), 0.0f64);
        for step in 1..=5 {
            let gradients =
                bench.gradients(&|name| read(&file, &format!("grad.{step}.{name}")).expect("it is there").1);
            state = bench.step(on_plugin, &gradients, &state).0;
            for (name, sizes, before) in &given {
                let (shape, want) = read(&file, &format!("{kind}.{step}.{name}")).expect("it is there");
                let (_, stack, rows, columns) =
                    PARAMETERS.iter().find(|r| r.0 == *name).expect("it is known");
                let names: Vec<mesh::Name> =
                    [*stack, rows, columns].concat().iter().map(|n| (*n).into()).collect();
                let have = state[*name].ordered(&names);
                let mut apart = if shape == *sizes {
                    error(&have, &[], &want)
                } else {
                    // The first rows, and the distance of all elements from their initial values.
                    let moved =
                        have.elements().iter().zip(before).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    let norm =
                        read(&file, &format!("{kind}.{step}.{name}.change_norm")).expect("it is there").1[0];
                    let most = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                    let rows =
                        have.elements().iter().zip(&want).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
                    (rows / most).max((moved - norm).abs() / norm)
                };
                if apart.is_nan() {
                    apart = f64::INFINITY;
                }
                worst = worst.max(apart);
                assert!(
                    apart <= NEAR,
                    "{kind}, step {step}, {name}, plugin {on_plugin}, {place:?}: {apart:e}"
                );
            }
        }
        eprintln!("{case} {kind}, plugin {on_plugin}, {place:?}: {worst:.1e}");
    }
}

#[test]
fn adamw_is_torchs() {
    let method = AdamW { weight_decay: 0.01, ..AdamW::default() };
    check("optimizers", "adamw", Method::AdamW(method), LrSchedule::constant(0.01));
}

#[test]
fn adafactor_is_transformers() {
    // `relative_step`: min(1e-2, 1 / sqrt(t)).
    let own = LrSchedule::t5(1.0, 10_000);
    check("optimizers", "adafactor_relative_scaled", Method::Adafactor(Adafactor::transformers()), own);
    let unscaled = Adafactor { relative: false, ..Adafactor::transformers() };
    check("optimizers", "adafactor_fixed_unscaled", Method::Adafactor(unscaled), LrSchedule::constant(0.03));
}

#[test]
fn adafactor_is_mesh_tensorflows() {
    let own = |rate| LrSchedule::t5(rate, 10_000);
    check("mtf_adafactor", "default", Method::Adafactor(Adafactor::mesh_tf()), own(1.0));
    let unscaled = Adafactor { relative: false, ..Adafactor::mesh_tf() };
    check("mtf_adafactor", "unscaled", Method::Adafactor(unscaled), own(0.05));
}

/// Returns values between -1 and 1 for a parameter in a step.
fn some(step: usize, name: &str, n: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from(((step * 31 + name.len() * 7 + i * 13) as f32).sin())).collect()
}

#[test]
fn a_step_that_is_not_finite_changes_no_bit() {
    let given = [("matrix", vec![6, 10], some(9, "matrix", 60)), ("vector", vec![7], some(9, "vector", 7))];
    let factored = Adafactor { factored_from: 2, beta1: 0.9, weight_decay: 0.1, ..Adafactor::t5x() };
    for method in [Method::Sgd, Method::adamw(), Method::Adafactor(factored)] {
        let optimizer = Optimizer { method, schedule: LrSchedule::t5(0.1, 2), ..Optimizer::default() };
        for (on_plugin, place) in [(false, ONE), (true, ONE), (true, TWO)] {
            let bench = Bench::new(&optimizer, &given, place);
            let (mut state, mut without) = (bench.initial.clone(), bench.initial.clone());
            let bad = [(2, f64::NAN), (3, f64::INFINITY), (5, f64::NEG_INFINITY)];
            let mut skipped = 0.0;
            for step in 1..=6 {
                let odd = bad.iter().find(|b| b.0 == step).map(|b| b.1);
                let gradients = bench.gradients(&|name| {
                    let n = given.iter().find(|g| g.0 == name).map_or(0, |g| g.2.len());
                    let mut values = some(step, name, n);
                    if let Some(odd) = odd.filter(|_| name == "vector") {
                        values[3] = odd;
                    }
                    values
                });
                let before = state.clone();
                let (after, outputs) = bench.step(on_plugin, &gradients, &state);
                state = after;
                skipped += f64::from(u8::from(odd.is_some()));
                assert_eq!(outputs["skipped_steps"].number(), skipped);
                assert_eq!(state["step"].number(), step as f64, "the step counts batches");
                let bits =
                    |t: &Tensor| t.elements().iter().map(|x| (*x as f32).to_bits()).collect::<Vec<_>>();
                for (name, was) in before.iter().filter(|(n, _)| !matches!(n.as_str(), "step" | "skipped")) {
                    let same = bits(was) == bits(&state[name]);
                    assert_eq!(same, odd.is_some(), "{name} in step {step}, plugin {on_plugin}");
                }
                if odd.is_none() {
                    without = bench.step(on_plugin, &gradients, &without).0;
                }
            }
            // The state is as if these batches had not occurred.
            for name in state.keys().filter(|n| !matches!(n.as_str(), "step" | "skipped")) {
                assert_eq!(state[name].elements(), without[name].elements(), "{name}, plugin {on_plugin}");
            }
        }
    }
    // Without the guard, one such step makes all parameters NaN.
    let optimizer = Optimizer { method: Method::adamw(), skip_non_finite: false, ..Optimizer::default() };
    let bench = Bench::new(&optimizer, &given, ONE);
    let bad = bench.gradients(&|name| vec![f64::NAN; if name == "matrix" { 60 } else { 7 }]);
    let (state, outputs) = bench.step(false, &bad, &bench.initial);
    assert!(state["vector"].elements().iter().all(|x| x.is_nan()) && !outputs.contains_key("skipped_steps"));
}

#[test]
fn the_gradient_is_limited_by_its_norm_over_all_parameters() {
    let given = [("matrix", vec![6, 10], vec![0.0; 60]), ("vector", vec![7], vec![0.0; 7])];
    for (clip, large) in [(0.5, true), (1e3, false), (0.0, false)] {
        let optimizer = Optimizer {
            method: Method::Sgd,
            schedule: LrSchedule::constant(1.0),
            clip,
            ..Optimizer::default()
        };
        let bench = Bench::new(&optimizer, &given, TWO);
        let gradients = bench.gradients(&|name| some(1, name, if name == "matrix" { 60 } else { 7 }));
        let (state, outputs) = bench.step(true, &gradients, &bench.initial);
        let norm = |tensors: &mut dyn Iterator<Item = &Tensor>| {
            tensors.flat_map(|t| t.elements()).map(|x| x * x).sum::<f64>().sqrt()
        };
        let (before, after) =
            (norm(&mut gradients.values()), norm(&mut [&state["matrix"], &state["vector"]].into_iter()));
        assert!((outputs["norm"].number() - before).abs() < 1e-5, "the norm is of what came in");
        assert!((after - if large { clip } else { before }).abs() < 1e-5, "{clip}: {before} {after}");
    }
}

/// Returns the state of `w` after three steps, either stacked along `layers` or as separate parameters.
fn moved(method: &Method, layers: usize, stacked: bool) -> Vec<f64> {
    let (layer, rows, columns) = (Dim::new("layers", layers), Dim::new("r", 4), Dim::new("c", 6));
    let optimizer =
        Optimizer { method: method.clone(), schedule: LrSchedule::t5(0.1, 4), ..Optimizer::default() };
    let p = Program::new("stacked");
    let weights = Weights::new(&p);
    let declare = |name: String| {
        weights.matrix(&name, &[&rows, &columns], &[&rows], &[&columns], Init::Zeros);
    };
    match stacked {
        true => weights.stacked(&layer, || declare("w".into())),
        false => (0..layers).for_each(|i| declare(format!("w{i}"))),
    }
    let step = p.counter("step", DType::S32, Init::Zeros);
    let update = Update::new(&p, &optimizer, weights.all());
    let mut whole = vec![rows.clone(), columns.clone()];
    if stacked {
        whole.insert(0, layer);
    }
    p.function("train", |g| {
        let products = weights.all().into_iter().enumerate().map(|(i, weight)| {
            (weight.state.read(g) * g.input(format!("slope{i}"), DType::F32, &whole)).sum_all()
        });
        let loss = products.reduce(|a, b| a + b).expect("there are parameters");
        update.apply(g, loss, &update.gradients(g, loss), step.read(g));
        step.assign(step.read(g) + 1);
    });
    let mut module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    module.functions.retain(|f| f.name == *"train");
    let place =
        Placement { mesh: Mesh::default(), layout: Layout::default(), state_layout: Layout::default() };
    let local = pipeline::compile(module, &place, &mut pipeline::unobserved);
    let module = local.unwrap_or_else(|d| panic!("{d}")).into_module();
    // Layers have different magnitudes, so that statistics shared by mistake are visible.
    let numbers = |step: usize, i: usize| -> Vec<f64> {
        let size = f64::from(2f32.powi(i as i32 - 4));
        some(step, "w", 24 * layers)[i * 24..(i + 1) * 24]
            .iter()
            .map(|x| f64::from((x * size) as f32))
            .collect()
    };
    let tensor = |step: usize, i: usize| match stacked {
        true => (0..layers).flat_map(|i| numbers(step, i)).collect(),
        false => numbers(step, i),
    };
    let mut state = Tensors::new();
    let mut count = 0;
    for (_, s) in module.env.states.iter() {
        let dims: Vec<Dim> = s.ty.logical().cloned().collect();
        let value = match s.kind {
            mesh::StateKind::Param => tensor(9, count),
            mesh::StateKind::Slot | mesh::StateKind::Counter => vec![0.0; s.ty.elements()],
        };
        count += usize::from(s.kind == mesh::StateKind::Param);
        state.insert(s.name.clone(), Tensor::new(s.ty.dtype, &dims, value).expect("sizes agree"));
    }
    for step in 1..=3 {
        let slope = |i| Tensor::new(DType::F32, &whole, tensor(step, i)).expect("sizes agree");
        let inputs: Tensors = (0..count).map(|i| (format!("slope{i}").into(), slope(i))).collect();
        state = interp::run(&module, "train", &inputs, &state, Rounding::Wide)
            .unwrap_or_else(|d| panic!("{d}"))
            .state;
    }
    let names: Vec<mesh::Name> = whole.iter().map(|d| d.name.clone()).collect();
    let of = |name: String| state[name.as_str()].ordered(&names).elements();
    if stacked { of("w".into()) } else { (0..layers).flat_map(|i| of(format!("w{i}"))).collect() }
}

#[test]
fn stacked_layers_move_as_if_they_were_apart() {
    // More layers than rows or columns: `layers` must not be taken for one of the two largest dims.
    let layers = 8;
    for kind in [Adafactor::t5x(), Adafactor::transformers(), Adafactor::mesh_tf()] {
        for factored_from in [2, 128] {
            let method = Method::Adafactor(Adafactor { factored_from, ..kind });
            let (a, b) = (moved(&method, layers, true), moved(&method, layers, false));
            let apart = a.iter().zip(&b).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(a.len() == 24 * layers && apart < 1e-9, "{method:?}: {apart:e}");
        }
    }
}
