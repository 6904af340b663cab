//! Pipelines of stages over the layers do not change training: the same losses and state as microbatches one
//! after another, with dropout and jitter.

use compiler::{
    interp::{self, Precision, Tensor, Tensors},
    pipeline::{self, Placement},
};
use mesh::{DType, Dim, Layout, Mesh, Module, Site, ir::Remat};
use models::{Config, Method, Optimizer, config::Positions, optimizer::AdamW};
use runtime::train;
use std::sync::atomic::AtomicBool;
use tests::training::{Steps, session, small_switch, source};

/// A model of four layers in each stack, every second one sparse, with all noise.
fn config(stages: usize, microbatches: usize) -> Config {
    let plain = small_switch();
    // Adam's update is the sign of a gradient near 0. Rounding decides that sign unless epsilon is larger.
    let method = Method::AdamW(AdamW { epsilon: 1e-6, ..AdamW::default() });
    let optimizer = Optimizer { method, ..plain.optimizer };
    let schedule = models::Schedule { stages, microbatches, ..plain.schedule };
    Config { batch: 8, encoder_layers: 4, decoder_layers: 4, schedule, optimizer, ..plain }
}

/// The smallest such model, for the interpreter.
fn small(stages: usize, microbatches: usize) -> Config {
    let plain = config(stages, microbatches);
    let switch = plain.switch.clone().map(|s| models::Switch { experts: 2, ..s });
    let (input_length, target_length) = (8, 4);
    let sizes = Config { input_length, target_length, d_model: 8, d_ff: 8, heads: 2, d_kv: 4, ..plain };
    Config { vocab: 64, sentinels: None, switch, ..sizes }
}

/// The same as a decoder-only model with four dense layers.
fn decoder_only(stages: usize, microbatches: usize) -> Config {
    let plain = small(stages, microbatches);
    Config {
        encoder_layers: 0,
        input_length: 0,
        positions: Positions::Rope,
        objective: models::Objective::Lm,
        switch: None,
        ..plain
    }
}

/// Returns a batch with padding at the end of some rows.
fn batch(config: &Config) -> Tensors {
    let rows = |dim: &str, length: usize| {
        let token = |i: usize| match i % length {
            place if place + (i / length) % 5 >= length => 0,
            place => 3 + (i * 7 + place * 13) % 60,
        };
        let dims = [Dim::new("batch", config.batch), Dim::new(dim, length)];
        let values = (0..config.batch * length).map(|i| token(i) as f64).collect();
        Tensor::new(DType::S32, &dims, values).expect("as many values as the dims say")
    };
    let mut all = Tensors::from([
        ("targets".into(), rows("target_length", config.target_length)),
        ("seed".into(), Tensor::scalar(DType::U32, 3.0)),
    ]);
    if config.input_length > 0 {
        all.insert("inputs".into(), rows("length", config.input_length));
    }
    all
}

/// Returns the outputs of a training step in the interpreter, and the state after it.
#[track_caller]
fn step(config: &Config, mesh: &str, layout: &str) -> (Tensors, Tensors) {
    let module = models::program(config, &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
    let layout = Layout::parse(layout).expect("the test's layout is legal").restricted_to(&mesh);
    let placement = Placement { mesh, layout, state_layout: Layout::default() };
    let local = pipeline::compile(module, &placement, &mut pipeline::unobserved);
    let local: Module = local.unwrap_or_else(|d| panic!("{d}")).into_module();
    let run = |function: &str, state: &Tensors| {
        let takes = &local.function(function).expect("the program has it").inputs;
        let given = batch(config).into_iter().filter(|(name, _)| takes.iter().any(|input| input == name));
        let outcome = interp::run(&local, function, &given.collect(), state, Precision::Normal);
        outcome.unwrap_or_else(|d| panic!("{function}: {d}"))
    };
    let after = run("train_step", &run("init", &Tensors::new()).state);
    (after.outputs, after.state)
}

#[track_caller]
fn same(what: &str, a: &Tensors, b: &Tensors) {
    assert!(a.keys().eq(b.keys()), "{what}");
    for (name, x) in a {
        let largest = x.data.iter().fold(1e-3_f64, |m, v| m.max(v.abs()));
        let apart = x.data.iter().zip(&b[name].data).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(apart <= 3e-5 * largest, "{what}: {name}: {apart:e} of {largest:e}");
    }
}

#[track_caller]
fn agree(config: fn(usize, usize) -> Config, cases: &[(usize, usize, &str)]) {
    for (stages, parts, mesh) in cases {
        let (says, state) = step(&config(1, *parts), "", "");
        assert!(says["loss"].data.sum() > 1.0 && says["grad_norm"].data.sum() > 1e-2);
        let piped = config(*stages, *parts);
        let (these, after) = step(&piped, mesh, &piped.layout());
        let what = format!("{stages} stages, {parts} microbatches on {mesh}");
        same(&what, &says, &these);
        same(&what, &state, &after);
    }
}

#[test]
fn a_pipeline_gives_the_step_of_its_microbatches() {
    agree(small, &[(2, 4, "data=2,pipe=2"), (2, 2, "pipe=2,expert=2,model=2")]);
}

#[test]
fn a_pipeline_of_a_decoder_only_model() {
    agree(decoder_only, &[(4, 4, "pipe=4"), (4, 2, "pipe=2,data=2"), (2, 8, "model=2,pipe=2")]);
}

/// The policies decide what each stage saves; the microbatches may be split over the axis of the stages
/// outside of the pipeline.
#[test]
fn remat_policies_and_split_microbatches() {
    let (says, state) = step(&decoder_only(1, 4), "", "");
    for remat in [Remat::SaveContractions, Remat::SaveCarries] {
        let plain = decoder_only(4, 4);
        let piped = Config { schedule: models::Schedule { remat, ..plain.schedule }, ..plain };
        let (these, after) = step(&piped, "pipe=4", "layers:pipe,microbatches:pipe");
        same(&format!("{remat:?}"), &says, &these);
        same(&format!("{remat:?}"), &state, &after);
    }
}

/// The losses of the first steps on devices of the CPU plugin.
#[track_caller]
fn losses(config: &Config, mesh: &str) -> Vec<f64> {
    let mut session = session(config, mesh, "");
    let data = source(&session, &["LICENSE"], 0.0);
    let options = train::Options { steps: 10, seed: Some(1), ..train::Options::default() };
    let mut steps = Steps::default();
    let summary = train::run(&mut session, data, &options, &mut steps, &AtomicBool::new(false));
    summary.unwrap_or_else(|e| panic!("{mesh}: {e}"));
    steps.losses()
}

#[track_caller]
fn devices_agree(config: impl Fn(usize) -> Config, stages: usize, mesh: &str) {
    let one = losses(&config(1), "");
    assert!((one[9] - one[0]).abs() > 0.05, "the losses change: {one:?}");
    let many = losses(&config(stages), mesh);
    let apart = one.iter().zip(&many).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f64::max);
    eprintln!("{mesh}: at most {apart:.1e} apart");
    assert!(apart <= 1e-5, "{mesh}: {apart:e}\n{one:?}\n{many:?}");
}

#[test]
fn a_decoder_only_model_on_four_devices() {
    let vocab = Config::default().vocab;
    devices_agree(|stages| Config { vocab, ..decoder_only(stages, 4) }, 4, "pipe=4");
}

#[test]
fn a_switch_transformer_on_eight_devices() {
    if std::env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        return tests::say_skipped("MESH_SLOW=1 trains a Switch Transformer in two stages on eight devices");
    }
    devices_agree(|stages| Config { batch: 16, ..config(stages, 4) }, 2, "pipe=2,data=2,expert=2");
}

#[test]
fn mistakes_name_the_setting() {
    let config = Config { encoder_layers: 3, ..config(2, 4) };
    let mistakes: Vec<String> = config.mistakes().iter().map(ToString::to_string).collect();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].contains("encoder_layers"), "{mistakes:?}");
}
