//! Reports on the paper's models against the paper's numbers (Fedus et al. 2022, Table 9), and the
//! collectives of a Switch Transformer's step.

use compiler::pipeline::{Placement, compile, unobserved};
use mesh::{Layout, Mesh, Site};
use models::{Config, Switch, zoo};
use report::{Direction, Report, report};

#[allow(dead_code, reason = "its main is for meshc")]
#[path = "../../models/switch_tiny.rs"]
mod switch_tiny;
#[allow(dead_code, reason = "its main is for meshc")]
#[path = "../../models/t5_tiny.rs"]
mod t5_tiny;

/// Returns the report on the training step of a model under its own layout.
#[track_caller]
fn step(config: &Config, mesh: &str, state: &str) -> Report {
    let module = models::program(config, &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
    let layout = Layout::parse(module.meta("layout").unwrap_or("")).expect("the model's layout is legal");
    let state_layout = Layout::parse(state).expect("the test's state layout is legal");
    let placement = Placement { layout: layout.restricted_to(&mesh), state_layout, mesh };
    let local = compile(module, &placement, &mut unobserved).unwrap_or_else(|d| panic!("{d}"));
    report(local.module(), Some("train_step")).unwrap_or_else(|d| panic!("{d}"))
}

/// Checks millions of parameters and billions of FLOPs per sequence, both to one decimal.
#[track_caller]
fn counts(config: &Config, parameters: f64, flops: f64) {
    let report = step(config, "", "");
    let tenth = |n: u64, unit: f64| (n as f64 / unit * 10.0).round() / 10.0;
    assert_eq!(tenth(report.parameters, 1e6), parameters);
    assert_eq!(tenth(report.flops_per_sequence, 1e9), flops);
}

#[test]
fn dense_models_have_the_papers_numbers() {
    counts(&zoo::t5_base(), 222.9, 124.6);
    counts(&zoo::t5_large(), 737.7, 424.9);
    counts(&zoo::t5_v1_1_xxl(), 11_135.3, 6_260.2);
    // The other sizes of T5, from their checkpoints.
    counts(&zoo::t5_small(), 60.5, 30.9);
    counts(&zoo::t5_11b(), 11_307.3, 6_686.5);
    counts(&zoo::t5_v1_1_small(), 77.0, 30.9);
    counts(&zoo::t5_v1_1_base(), 247.6, 124.6);
    counts(&zoo::t5_v1_1_large(), 783.2, 432.8);
    counts(&zoo::mt5_base(), 582.4, 338.4);
}

#[test]
fn experts_add_parameters_and_no_arithmetic() {
    counts(&zoo::switch_base(128), 7_415.2, 124.6);
    counts(&zoo::switch_base_table9(), 7_415.2, 124.6);
    // A second expert for every token: 6 more layers of 2 · 768 · 3072 parameters in either stack, 35.4
    // billion.
    counts(&zoo::moe_base(), 7_415.2, 160.0);
    counts(&zoo::switch_large(), 26_309.3, 424.9);
    counts(&zoo::switch_large_table9(), 27_120.9, 432.8);
    counts(&zoo::switch_xxl(), 394_543.5, 6_260.2);
    counts(&zoo::switch_xxl_table9(), 201_263.7, 6_260.2);
    counts(&zoo::switch_c(), 1_571_327.9, 869.1);
    counts(&zoo::switch_c_table9(), 1_571_375.8, 894.0);
    counts(&zoo::mswitch_base(), 7_774.7, 338.4);
}

#[test]
fn switch_base_grows_with_its_experts() {
    // The teachers of the paper's Table 7, in millions; Table 7 rounds to 1.1, 2.0, 3.8, 7.4 and 14.7
    // billion.
    for (experts, parameters) in
        [(8, 619.3), (16, 1_072.4), (32, 1_978.5), (64, 3_790.7), (128, 7_415.2), (256, 14_664.2)]
    {
        counts(&zoo::switch_base(experts), parameters, 124.6);
    }
}

/// Numbers of programs that no machine holds stop at the largest number.
#[test]
fn programs_of_any_size_have_reports() {
    const MOST: usize = i32::MAX as usize;
    let tiny = || Config { d_model: 8, d_ff: 16, heads: 2, d_kv: 4, vocab: 64, batch: 8, ..zoo::t5_tiny() };
    let deep = || Config { encoder_layers: MOST, decoder_layers: MOST, ..tiny() };
    let sparse =
        |config: Config| Config { switch: Some(Switch { experts: 8, ..Switch::default() }), ..config };
    for (name, config) in [
        ("deep", deep()),
        ("wide", Config { d_model: 1 << 25, d_ff: 1 << 25, vocab: 1 << 20, ..tiny() }),
        ("large batch", Config { batch: 1 << 30, vocab: 1 << 20, ..tiny() }),
        ("sparse", sparse(deep())),
    ] {
        for (mesh, state) in [("", ""), ("data=2,expert=2,model=2", "*:data")] {
            let report = step(&config, mesh, state);
            assert!(report.flops_per_device > 1 << 50, "{name} on `{mesh}`");
            assert!(report.peak_bytes_per_device.total > 1 << 34, "{name} on `{mesh}`");
            assert!(report.to_string().contains("FLOPs"), "{name} on `{mesh}`");
        }
    }
}

#[test]
fn model_files_and_built_in_models_of_the_same_name_are_the_same() {
    assert_eq!(switch_tiny::config(), zoo::switch_tiny());
    assert_eq!(t5_tiny::config(), zoo::t5_tiny());
}

/// A sparse model with two encoder and two decoder layers.
fn sparse() -> Config {
    Config {
        d_model: 64,
        d_ff: 128,
        d_kv: 8,
        heads: 8,
        input_length: 32,
        target_length: 32,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(Switch { experts: 8, ..Switch::default() }),
        precision: models::Precision::Selective,
        ..Config::default()
    }
}

/// Returns the number of collectives of a kind whose axes satisfy `test`.
fn count(report: &Report, kind: &str, test: impl Fn(&report::CollectiveUse) -> bool) -> u64 {
    report.collectives.iter().filter(|c| c.kind == kind && test(c)).map(|c| c.count).sum()
}

#[test]
fn a_sparse_layer_takes_four_all_to_alls() {
    let report = step(&sparse(), "data=2,expert=2,model=2", "");
    // Four layers, dispatch and combine, forward and backward; all bf16.
    for direction in [Direction::Forward, Direction::Backward] {
        let of =
            |c: &report::CollectiveUse| c.direction == direction && c.axes == ["expert"] && c.dtype == "bf16";
        assert_eq!(count(&report, "all_to_all", of), 8);
    }
    assert_eq!(count(&report, "all_to_all", |_| true), 16);
    // Attention and experts each reduce one pending sum over `model` in each direction. The decoder also has
    // cross-attention, for which the gradient of the encoder's output is reduced once for all layers, and
    // embeddings add some.
    let large = |c: &report::CollectiveUse| c.axes == ["model"] && c.bytes >= 32 * 32 * 64 * 2 / 4;
    assert_eq!(count(&report, "all_reduce", |c| large(c) && c.direction == Direction::Forward), 4 + 4 + 2);
    assert_eq!(
        count(&report, "all_reduce", |c| large(c) && c.direction == Direction::Backward),
        4 + 4 + 2 + 2
    );
}

#[test]
fn a_state_layout_splits_what_is_stored_and_sends_no_gradient_whole() {
    let plain = step(&sparse(), "data=4", "");
    let split = step(&sparse(), "data=4", "*:data");
    let stored = |r: &Report| r.state.iter().map(|s| s.bytes_per_device).sum::<u64>();
    assert!(stored(&split) * 4 < stored(&plain) + stored(&plain) / 20);
    // Gradients of parameters are scattered; what is left are statistics.
    let gradient = |c: &report::CollectiveUse| c.bytes > 4096;
    assert!(count(&plain, "all_reduce", gradient) > 0);
    assert_eq!(count(&split, "all_reduce", gradient), 0);
    assert!(count(&split, "reduce_scatter", gradient) > 0);
    // Parameters are gathered as bfloat16, but for what the router and the lookup need.
    let wide = |c: &report::CollectiveUse| c.dtype == "f32" && !c.source.contains("router");
    assert_eq!(
        count(&split, "all_gather", |c| wide(c) && !c.source.contains("embedding") && c.bytes > 4096),
        0
    );
}

/// Stages of a pipeline have work in 4 of 5 ticks. The papers' count of FLOPs is that without a pipeline.
#[test]
fn pipelines_have_bubbles() {
    let with = |stages| {
        let plain = zoo::switch_tiny();
        let schedule = models::Schedule { stages, microbatches: 4, ..plain.schedule };
        Config { schedule, ..plain }
    };
    let (whole, piped) = (step(&with(1), "", ""), step(&with(2), "pipe=2", ""));
    assert!(whole.pipelines.is_empty() && whole.flops_per_device_by_purpose.bubbles == 0);
    let found: Vec<_> = piped.pipelines.iter().map(|p| (&*p.scope, p.stages, p.microbatches)).collect();
    assert_eq!(found, [("encoder", 2, 4), ("decoder", 2, 4)]);
    assert!(piped.pipelines.iter().all(|p| p.bubbles == 0.2));
    assert_eq!(piped.flops_per_sequence, whole.flops_per_sequence);
    // All but the logits: half of the layers in each of two stages, 5 ticks instead of 4.
    let share = piped.flops_per_device as f64 / (whole.flops_per_device as f64 / 2.0);
    assert!(share > 1.2 && share <= 1.25, "{share}");
    let bubbles = piped.flops_per_device_by_purpose.bubbles as f64 / piped.flops_per_device as f64;
    assert!(bubbles > 0.19 && bubbles <= 0.2, "{bubbles}");
}
