//! The example models: they learn in the reference interpreter, and give the same results under their
//! layouts.

use compiler::{
    interp::{self, Precision, Tensor, Tensors},
    pipeline::{self, Placement},
};
use mesh::{
    DType, Dim, Layout, Mesh, Module,
    dsl::{self, Args, Program},
};

#[allow(dead_code, reason = "its main is for meshc")]
#[path = "../../models/decoder.rs"]
mod decoder;
#[allow(dead_code, reason = "its main is for meshc")]
#[path = "../../models/heterogeneous.rs"]
mod heterogeneous;

const BATCH: usize = 4;
const LENGTH: usize = 12;
const VOCAB: usize = 16;

/// Returns the program with small sizes and `settings`.
#[track_caller]
fn module(program: fn(&Args) -> Program, settings: &str) -> Module {
    let sizes = format!("batch={BATCH} length={LENGTH} vocab={VOCAB} d_model=16 {settings}");
    let words = sizes.split_whitespace().flat_map(|word| ["--set".to_owned(), word.to_owned()]);
    dsl::run(words, program).unwrap_or_else(|d| panic!("{d}"))
}

/// Returns the losses of training steps on one device or on a mesh.
#[track_caller]
fn losses(module: &Module, mesh: &str, steps: usize) -> Vec<f64> {
    let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
    let layout =
        Layout::parse(module.meta("layout").unwrap_or_default()).expect("the model's layout is legal");
    let placement = Placement { layout: layout.restricted_to(&mesh), mesh, state_layout: Layout::default() };
    let local = pipeline::compile(module.clone(), &placement, &mut pipeline::unobserved);
    let local = local.unwrap_or_else(|d| panic!("{d}"));
    let call = |function: &str, inputs: &Tensors, state: &Tensors| {
        interp::run(local.module(), function, inputs, state, Precision::Normal)
            .unwrap_or_else(|d| panic!("{d}"))
    };
    let seed = Tensors::from([("seed".into(), Tensor::scalar(DType::U32, 3.0))]);
    let mut state = call("init", &seed, &Tensors::new()).state;
    let tokens = |name, length: usize| {
        let dims = [Dim::new("batch", BATCH), Dim::new(name, length)];
        let token = |i: usize| (1 + (i / length * 5 + i % length * 3) % (VOCAB - 1)) as f64;
        let elements = (0..BATCH * length).map(token).collect();
        Tensor::new(DType::S32, &dims, elements).expect("as many elements as the dims have")
    };
    let inputs = Tensors::from([("targets".into(), tokens("length", LENGTH))]);
    let mut all = Vec::new();
    for _ in 0..steps {
        let outcome = call("train_step", &inputs, &state);
        state = outcome.state;
        all.push(outcome.outputs["loss"].data.sum());
    }
    all
}

#[track_caller]
fn check(program: fn(&Args) -> Program, settings: &str, mesh: &str) {
    let module = module(program, settings);
    let one = losses(&module, "", 12);
    assert!(one.iter().all(|loss| loss.is_finite()) && one[11] < 0.8 * one[0], "{one:?}");
    for (a, b) in one.iter().zip(losses(&module, mesh, 3)) {
        assert!((a - b).abs() < 1e-4 * a, "{mesh}: {a} and {b}");
    }
}

#[test]
fn a_decoder_from_primitives_learns() {
    check(decoder::program, "layers=2 heads=2 d_kv=8 d_ff=32 lr=0.02", "data=2,model=2");
}

#[test]
fn experts_of_two_sizes_learn() {
    check(
        heterogeneous::program,
        "small_experts=2 large_experts=2 small_d_ff=8 large_d_ff=32",
        "data=2,expert=2",
    );
}
