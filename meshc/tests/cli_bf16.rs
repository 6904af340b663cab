//! Parameters in bf16 through the command line: training, checkpoints, and resumed runs.

use crate::support::{Ran, Workplace, cpu_plugin, text};
use mesh::{
    DType, Dim, Task,
    dsl::{Init, Program},
    task::Objective,
};
use serde_json::Value;

/// A program whose parameter is stored in bf16, with a mean of its gradients in f32.
fn program() -> String {
    let p = Program::new("narrow");
    let (batch, length, vocab) = (Dim::new("batch", 4), Dim::new("target_length", 8), Dim::new("vocab", 384));
    p.task(Task { vocab: 384, batch: 4, target_length: 8, ..Task::train(Objective::Lm) });
    let w = p.param_as(DType::Bf16, "w", &vocab, Init::Normal(0.1));
    let mean = p.slot("w/mean", DType::F32, &vocab, Init::Zeros);
    p.function("train_step", |g| {
        let targets = g.input("targets", DType::S32, [&batch, &length]);
        let logits = w.read(g).cast(DType::F32);
        let correct = logits.gather("vocab", targets);
        let loss = (logits.logsumexp("vocab") - correct).mean_all();
        let gradient = g.grad(loss, &[w.read(g)])[0];
        assert_eq!(gradient.dtype(), DType::Bf16);
        let next = mean.read(g) * 0.5 + gradient.cast(DType::F32) * 0.5;
        w.assign((logits - next * 4.0).cast(DType::Bf16));
        mean.assign(next);
        g.output("loss", loss);
    });
    mesh::text::print(&p.finish().unwrap_or_else(|d| panic!("{d}")))
}

#[test]
fn a_parameter_in_bf16_is_trained_saved_and_resumed() {
    let place = Workplace::new();
    place.write("narrow.mesh", program());
    let text = text();
    let train = |more: &[&str]| {
        let base = ["train", "narrow.mesh", "--data", &text, "--save-every", "2", "--seed", "1"];
        let mut command = place.meshc(&[&base[..], more].concat());
        Ran::new(command.env("MESH_PJRT_PLUGIN", cpu_plugin()).output().expect("meshc starts")).succeeds();
    };
    train(&["--run-dir", "whole", "--steps", "4"]);
    train(&["--run-dir", "parts", "--steps", "2"]);
    train(&["--run-dir", "parts", "--steps", "4", "--resume"]);
    train(&["--run-dir", "interpreted", "--steps", "4", "--plugin", "interpreter"]);
    let losses = |run: &str| -> Vec<f64> {
        let lines = place.metrics(&format!("{run}/metrics.jsonl"));
        lines.iter().filter_map(|line| line["loss"].as_f64()).collect()
    };
    let whole = losses("whole");
    assert_eq!(whole.len(), 4);
    assert!(whole[3] < whole[0], "{whole:?}");
    assert_eq!(losses("parts"), whole);
    // Sums in another order may round a gradient to the other neighbour.
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-2;
    assert!(losses("interpreted").iter().zip(&whole).all(near), "{:?} {whole:?}", losses("interpreted"));
    let listed = place.run(&["checkpoint", "list", "parts/checkpoints/step_00000004"]).succeeds();
    assert!(listed.out.contains("bf16"), "{}", listed.out);
    let lines: Vec<Value> = place.metrics("parts/metrics.jsonl");
    assert_eq!(lines.len(), 4);
}
