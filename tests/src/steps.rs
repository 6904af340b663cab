//! Single training steps of whole models in the reference interpreter, on one device or several.

use compiler::interp::{self, Precision, Tensor, Tensors};
use compiler::pipeline::{self, Placement};
use mesh::{DType, Dim, Layout, Mesh, Module, Site};
use models::Config;

/// Returns the tokens of a batch, with padding at the end of some rows.
pub fn batch(config: &Config) -> Tensors {
    let rows = |dim: &str, length: usize| {
        let token = |i: usize| match i % length {
            place if place + (i / length) % 5 >= length => 0,
            place => 3 + (i * 7 + place * 13) % 250,
        };
        let dims = [Dim::new("batch", config.batch), Dim::new(dim, length)];
        let values = (0..config.batch * length).map(|i| token(i) as f64).collect();
        Tensor::new(DType::S32, &dims, values).expect("as many values as the dims say")
    };
    Tensors::from([
        ("inputs".into(), rows("length", config.input_length)),
        ("targets".into(), rows("target_length", config.target_length)),
        ("seed".into(), Tensor::scalar(DType::U32, 3.0)),
    ])
}

/// Returns the outputs of a training step, and the parameters and slots after it.
pub fn step(config: &Config, mesh: &str, state_layout: &str) -> (Tensors, Tensors) {
    step_from(config, mesh, state_layout, None)
}

/// [`step`] from the given state; `None` means the initial values.
pub fn step_from(
    config: &Config,
    mesh: &str,
    state_layout: &str,
    from: Option<&Tensors>,
) -> (Tensors, Tensors) {
    call(config, "train_step", [mesh, state_layout], from)
}

/// Returns the outputs of an evaluation with the initial values.
pub fn evaluate(config: &Config, mesh: &str) -> Tensors {
    call(config, "eval_step", [mesh, ""], None).0
}

/// Calls a function of the training program with [`batch`]; returns its outputs, and the state after it.
fn call(
    config: &Config,
    function: &str,
    [mesh, state_layout]: [&str; 2],
    from: Option<&Tensors>,
) -> (Tensors, Tensors) {
    let module = models::program(config, &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
    let layout = Layout::parse(&config.layout()).expect("the model's layout is legal").restricted_to(&mesh);
    let state_layout = Layout::parse(state_layout).expect("the test's layout is legal");
    let placement = Placement { mesh, layout, state_layout };
    let local = pipeline::compile(module, &placement, &mut pipeline::unobserved);
    let local: Module = local.unwrap_or_else(|d| panic!("{d}")).into_module();
    let run = |function: &str, given: &Tensors, state: &Tensors| {
        let takes = &local.function(function).expect("the program has it").inputs;
        let given = given.iter().filter(|(name, _)| takes.iter().any(|input| input == *name));
        let given: Tensors = given.map(|(name, x)| (name.clone(), x.clone())).collect();
        let outcome = interp::run(&local, function, &given, state, Precision::Normal);
        outcome.unwrap_or_else(|d| panic!("{function}: {d}"))
    };
    let given = batch(config);
    let state = from.cloned().unwrap_or_else(|| run("init", &given, &Tensors::new()).state);
    let after = run(function, &given, &state);
    (after.outputs, after.state)
}

/// Asserts that two sets of values are the same, up to the order of sums.
#[track_caller]
pub fn same(what: &str, a: &Tensors, b: &Tensors) {
    assert!(a.keys().eq(b.keys()), "{what}");
    for (name, x) in a {
        let largest = x.data.iter().fold(1e-3_f64, |m, v| m.max(v.abs()));
        let apart = x.data.iter().zip(&b[name].data).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(apart <= 2e-5 * largest, "{what}: {name}: {apart:e} of {largest:e}");
    }
}
