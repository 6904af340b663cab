//! Models of transformers 4.57.6 compared with their results: hidden states, logits, routing, losses,
//! gradients, gradient descent, greedy generation. On one device, and on eight devices under three layouts
//! (one of them for each model without `MESH_SLOW=1`).
//!
//! The directory with the results is `../shared/oracle` beside the repository, or `MESH_ORACLE`. It is not
//! part of the repository; without it the tests are skipped.

use crate::support::{Ran, Workplace, cpu_plugin, oracle, say_skipped};
use serde_json::Value;

/// Devices and layouts: one device; the model's own layout; tensor and expert parallelism; split state.
const PLACES: [&[&str]; 4] = [
    &[],
    &["--devices", "8"],
    &["--devices", "8", "--layout", "heads:model,d_ff:model,vocab:model,experts:expert"],
    &["--devices", "8", "--layout", "batch:data,d_kv:model", "--state-layout", "*:data"],
];
/// Devices and layouts for models without experts.
const DENSE: [&[&str]; 4] = [
    &[],
    &["--devices", "8"],
    &["--devices", "8", "--layout", "heads:model,d_ff:model+data,vocab:model"],
    &["--devices", "8", "--layout", "batch:data,d_kv:model", "--state-layout", "*:data"],
];

/// Checks that all expected values of a case are compared and within their tolerances: on one device and at
/// place `other`, and at all places with `MESH_SLOW=1`.
#[track_caller]
fn check(name: &str, places: [&[&str]; 4], other: usize) {
    let slow = std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1");
    let places = if slow { places.to_vec() } else { vec![places[0], places[other]] };
    if !slow {
        say_skipped("MESH_SLOW=1 compares it under two more layouts");
    }
    let Some(dir) = oracle(name) else { return };
    let bytes = std::fs::read(dir.join("expected.safetensors")).expect("the case is whole");
    let expected = safetensors::SafeTensors::deserialize(&bytes).expect("the case is whole");
    let meta = std::fs::read(dir.join("meta.json")).expect("the case is whole");
    let meta: Value = serde_json::from_slice(&meta).expect("the case is whole");
    let folder = dir.display().to_string();
    for place in places {
        let args = [&["convert", "--verify", &folder, "--json"], place].concat();
        let there = Workplace::new();
        let mut command = there.meshc(&args);
        command.env("MESH_PJRT_PLUGIN", cpu_plugin());
        if place.is_empty() {
            // One device shows that XLA's optimizations change nothing; the others are about the layout.
            command.env_remove("XLA_FLAGS");
        }
        let ran = Ran::new(command.output().expect("meshc starts")).succeeds();
        let said: Value = serde_json::from_str(&ran.out).expect("--json prints JSON");
        for tensor in expected.names() {
            let got = &said["tensors"][tensor];
            let number =
                |key: &str| got[key].as_f64().unwrap_or_else(|| panic!("{place:?}: {tensor}: {got}"));
            let (measure, limit) = limit(name, tensor);
            let off = number(measure);
            assert!(off <= limit, "{place:?}: `{tensor}` is {off:e} off");
        }
        numbers(&said, &meta["scalars"], "", if name == "switch_bf16" { 0.05 } else { 2e-5 });
        numbers(&said, &meta["scalars_f32"], "f32.", 2e-5);
        for (i, want) in meta["train_sgd"]["losses"].as_array().into_iter().flatten().enumerate() {
            let got = &said["losses"][format!("train_sgd.{i}")]["got"];
            let off = (number(got) - number(want)).abs();
            assert!(off <= 1e-3, "{place:?}: loss {i} of gradient descent is {off:e} off");
        }
        for (parameter, norms) in meta["grad_norms"].as_object().into_iter().flatten() {
            for (total, want) in norms.as_object().expect("norms are by total") {
                let got = number(&said["norms"][format!("{total}.{parameter}")]["got"]);
                let limit = if name == "switch_bf16" { 0.3 } else { 5e-4 };
                let off = (got - number(want)).abs();
                assert!(off <= limit * number(want), "{place:?}: norm of {total}.{parameter}: {got}");
            }
        }
    }
}

#[track_caller]
fn numbers(said: &Value, wanted: &Value, prefix: &str, limit: f64) {
    for (name, want) in wanted.as_object().into_iter().flatten() {
        let got = &said["losses"][format!("{prefix}{name}")]["got"];
        let off = (number(got) - number(want)).abs();
        assert!(off <= limit, "`{prefix}{name}` is {got} and not {want}");
    }
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Tolerances for rounding errors.
fn limit(case: &str, tensor: &str) -> (&'static str, f64) {
    let exact = tensor.starts_with("f32.") || case != "switch_bf16";
    let plain = tensor.strip_prefix("f32.").unwrap_or(tensor);
    match (plain.split('.').next_back(), plain.starts_with("grad."), exact) {
        (Some("argmax" | "kept" | "cached" | "uncached"), _, _) => ("max_abs", 0.0),
        (_, true, true) => ("rel_l2", 5e-4),
        // Both differ from the exact gradient by at most 0.3.
        (_, true, false) => ("rel_l2", 0.6),
        (_, false, true) => ("rel_to_max", 5e-5),
        (_, false, false) => ("rel_to_max", 0.08),
    }
}

#[test]
fn t5_1_0() {
    check("t5_v1_0", DENSE, 2);
}

#[test]
fn t5_1_1() {
    check("t5_v1_1", DENSE, 3);
}

#[test]
fn switch_with_experts_everywhere() {
    check("switch_tiny", PLACES, 1);
}

#[test]
fn switch_with_more_slots_than_tokens() {
    check("switch_generous", PLACES, 2);
}

#[test]
fn switch_with_few_slots() {
    check("switch_step2_tight", PLACES, 3);
}

#[test]
fn switch_in_16_bits() {
    check("switch_bf16", PLACES, 2);
}

#[test]
fn buckets_of_relative_positions() {
    let Some(dir) = oracle("relative_position_buckets") else { return };
    let bytes = std::fs::read(dir.join("expected.safetensors")).expect("the case is whole");
    let expected = safetensors::SafeTensors::deserialize(&bytes).expect("the case is whole");
    let ints = |name: &str| -> Vec<i32> {
        let tensor = expected.tensor(name).expect("the case is whole");
        tensor.data().chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let relative = ints("relative_position");
    assert!(relative.len() > 500);
    for (buckets, distance) in [(32, 128), (8, 16)] {
        for (kind, both) in [("bidirectional", true), ("causal", false)] {
            let ours: Vec<i32> = relative
                .iter()
                .map(|r| models::position::bucket(*r, both, buckets, distance) as i32)
                .collect();
            assert_eq!(ours, ints(&format!("{kind}.{buckets}.{distance}")));
        }
    }
}
