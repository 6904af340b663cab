//! Layouts do not change training: the same model, seed and text give the same losses in every step, with
//! dropout and jitter.

use models::{
    Activation, Config, Objective,
    config::Positions,
    switch::options::{Balance, RoutingMethod, Scores},
};
use runtime::train;
use std::sync::atomic::AtomicBool;
use tests::training::{Steps, session, small_switch, source};

/// Meshes and state layouts. The layout is always the model's own.
const PLACES: [(&str, &str); 6] = [
    ("", ""),
    ("data=8", ""),
    ("expert=8", ""),
    ("model=8", ""),
    ("data=2,expert=2,model=2", ""),
    ("data=2,expert=4", "*:data"),
];
const STEPS: u64 = 20;

/// Returns the losses of the first steps.
#[track_caller]
fn losses(config: &Config, place: (&str, &str), seed: u32, text: &[&str]) -> Vec<f64> {
    let mut session = session(config, place.0, place.1);
    let data = source(&session, text, 0.0);
    let options = train::Options { steps: STEPS, seed: Some(seed), ..train::Options::default() };
    let mut steps = Steps::default();
    let summary = train::run(&mut session, data, &options, &mut steps, &AtomicBool::new(false));
    summary.unwrap_or_else(|e| panic!("{place:?}: {e}"));
    steps.losses()
}

/// Returns the largest relative difference of the losses of a step.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!((a.len(), b.len()), (STEPS as usize, STEPS as usize));
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / a.abs().max(b.abs())).fold(0.0, f64::max)
}

#[track_caller]
fn places_agree(config: &Config, text: &[&str], places: &[(&str, &str)]) {
    let noise = config.switch.as_ref().map_or(0.0, |s| s.jitter);
    assert!(config.dropout > 0.0 && noise > 0.0, "dropout and jitter are on");
    let one = losses(config, PLACES[0], 1, text);
    assert!(one[STEPS as usize - 1] < one[0] - 1.0, "it learns: {one:?}");
    for place in places {
        let many = losses(config, *place, 1, text);
        let apart = difference(&one, &many);
        eprintln!("{place:?}: at most {apart:.1e} apart");
        assert!(apart <= 1e-4, "{place:?}: {apart:e}\n{one:?}\n{many:?}");
    }
    let other = losses(config, PLACES[0], 2, text);
    assert!(difference(&one, &other) > 1e-3, "another seed is another training");
}

#[test]
fn a_small_switch_transformer() {
    places_agree(&small_switch(), &["LICENSE"], &PLACES[1..]);
    // Microbatches have separate noise.
    let schedule = models::Schedule { microbatches: 2, ..models::Schedule::default() };
    places_agree(&Config { batch: 16, schedule, ..small_switch() }, &["LICENSE"], &PLACES[4..]);
}

/// The options of today's sparse models, and balance over the whole batch.
#[test]
fn sigmoid_gates_shared_experts_and_biases() {
    let plain = small_switch();
    let switch = plain.switch.clone().map(|s| models::Switch {
        routing: RoutingMethod::TopK,
        top_k: 2,
        scores: Scores::Sigmoid,
        balance: Balance::Batch,
        balance_bias: 1e-3,
        shared_experts: 1,
        expert_d_ff: 32,
        ..s
    });
    places_agree(&Config { switch, ..plain }, &["LICENSE"], &PLACES[4..]);
}

/// A decoder-only model, as a language model and with a prefix. `heads` are the 4 heads of keys and values.
#[test]
fn decoder_only_models() {
    let plain = small_switch();
    let alone = Config {
        encoder_layers: 0,
        positions: Positions::Rope,
        kv_heads: 4,
        window: 20,
        activation: Activation::GatedSilu,
        ..plain
    };
    let lm = Config { input_length: 0, target_length: 48, objective: Objective::Lm, ..alone.clone() };
    places_agree(&lm, &["LICENSE"], &PLACES[4..5]);
    let prefix = Config { objective: Objective::PrefixLm, batch: 16, target_length: 32, ..alone };
    places_agree(&prefix, &["LICENSE"], &PLACES[5..]);
}

/// The full size, which takes minutes.
#[test]
fn switch_tiny() {
    if std::env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        return tests::say_skipped("MESH_SLOW=1 trains models/switch_tiny.rs under all layouts");
    }
    let config = Config {
        batch: 32,
        input_length: 128,
        target_length: 128,
        d_model: 256,
        d_ff: 1024,
        d_kv: 32,
        optimizer: models::config::small_model_optimizer(),
        ..small_switch()
    };
    places_agree(&config, &["README.md", "docs", "mesh"], &PLACES[1..]);
}
