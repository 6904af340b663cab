//! `meshc checkpoint convert`: expert surgery, and the exact properties of its results.

use crate::support::{Workplace, home, model};
use serde_json::Value;

/// A model that trains in milliseconds, with an expert slot for every token in evaluation.
const TINY: &str = "batch=4 d_model=16 d_ff=16 heads=2 d_kv=8 input_length=32 target_length=16 layers=2";
const ROOMY: &str = "eval_capacity_factor=64";

fn sets(words: &str) -> Vec<&str> {
    words.split_whitespace().flat_map(|word| ["--set", word]).collect()
}

fn data() -> String {
    home().join("mesh/src").display().to_string()
}

/// Trains a model for a few steps; the checkpoint is `ck/step_00000003`.
fn trained(file: &str, settings: &str) -> Workplace {
    let place = Workplace::new();
    let (model, data) = (model(file), data());
    let words =
        ["train", &model, "--data", &data, "--steps", "3", "--checkpoint-dir", "ck", "--metrics", "m.jsonl"];
    place.run_on_cpu(&[&words[..], &sets(TINY), &sets(settings)].concat()).succeeds();
    place
}

fn convert(place: &Workplace, from: &str, out: &str, args: &[&str]) -> String {
    place.run(&[&["checkpoint", "convert", from, out], args].concat()).succeeds().out
}

fn loss(place: &Workplace, checkpoint: &str) -> f64 {
    let data = data();
    let ran = place.run_on_cpu(&["eval", checkpoint, "--data", &data, "--batches", "3", "--json"]).succeeds();
    serde_json::from_str::<Value>(&ran.out).unwrap()["loss"].as_f64().unwrap()
}

#[track_caller]
fn near(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-5 * b.abs(), "{a} is not {b}");
}

const FIRST: &str = "ck/step_00000003";

#[test]
fn copies_of_experts_compute_the_same() {
    let place = trained("switch_tiny.rs", &format!("experts=4 {ROOMY}"));
    let before = loss(&place, FIRST);
    // Gates are half as large, and the experts' last matrix is twice as large.
    let said = convert(&place, FIRST, "twice", &["--experts", "8", "--router-noise", "0"]);
    assert!(said.contains("0 slots reset") && !said.contains("initial"), "{said}");
    near(loss(&place, "twice"), before);
    // Without that factor the function changes.
    convert(&place, FIRST, "bare", &["--experts", "8", "--router-noise", "0", "--scale", "1"]);
    assert!((loss(&place, "bare") - before).abs() > 1e-4 * before);
    // Little noise in the router changes the loss little, and sends tokens to all copies.
    convert(&place, FIRST, "noisy", &["--experts", "8"]);
    let noisy = loss(&place, "noisy");
    assert!(noisy != before && (noisy - before).abs() < 0.01 * before, "{noisy} {before}");
    // The inverse conversion restores parameters, slots and counters bit for bit.
    convert(&place, "twice", "again", &["--experts", "4", "--keep-experts", "0,2,4,6", "--scale", "0.5"]);
    place.run(&["checkpoint", "diff", FIRST, "again"]).succeeds();
    near(loss(&place, "again"), before);
    place.run(&["checkpoint", "verify", "twice", "noisy", "again"]).succeeds();

    // A run resumes from the result, including slots and step.
    convert(&place, FIRST, "more/step_00000003", &["--experts", "8"]);
    let (model, data) = (model("switch_tiny.rs"), data());
    let words = ["train", &model, "--data", &data, "--steps", "4", "--checkpoint-dir", "more", "--resume"];
    let ran = place.run_on_cpu(&[&words[..], &sets(TINY), &sets(ROOMY), &sets("experts=8")].concat());
    assert!(ran.succeeds().out.contains("finished after step 4"));
}

#[test]
fn the_busiest_experts_stay_layer_by_layer() {
    let place = trained("switch_tiny.rs", "experts=4");
    let line =
        |encoder: &str, decoder: &str| format!("{{\"encoder_load\":{encoder},\"decoder_load\":{decoder}}}\n");
    let even = "[[0.25,0.25,0.25,0.25],[0.25,0.25,0.25,0.25]]";
    let some = line("[[0.1,0.4,0.2,0.3],[0.7,0.1,0.1,0.1]]", "[[0.2,0.2,0.2,0.4],[0.1,0.2,0.3,0.4]]");
    place.write("load.jsonl", some + &line(even, even));
    convert(&place, FIRST, "half", &["--experts", "2", "--keep-by-load", "load.jsonl"]);
    let open = |name: &str| runtime::Checkpoint::open(&place.at(name)).unwrap();
    let (before, after) = (open(FIRST), open("half"));
    for (stack, kept) in [("encoder", [[1, 3], [0, 1]]), ("decoder", [[0, 3], [2, 3]])] {
        for (layer, kept) in kept.iter().enumerate() {
            for (i, e) in kept.iter().enumerate() {
                for name in ["wi", "wi/m", "wo", "wo/v"].map(|n| format!("{stack}/ffn/{n}")) {
                    let size = before.tensor(&name).unwrap().sizes();
                    let one = [&[1, 1], &size[2..]].concat();
                    let a = before.read_box(&name, &[layer, *e, 0, 0], &one).unwrap();
                    assert_eq!(
                        a,
                        after.read_box(&name, &[layer, i, 0, 0], &one).unwrap(),
                        "{name} {layer} {e}"
                    );
                }
                let router = format!("{stack}/ffn/router");
                let a = before.read_box(&router, &[layer, 0, *e], &[1, 16, 1]).unwrap();
                assert_eq!(a, after.read_box(&router, &[layer, 0, i], &[1, 16, 1]).unwrap());
            }
        }
    }
    // The metrics file of training is accepted too.
    convert(&place, FIRST, "one", &["--experts", "1", "--keep-by-load", "m.jsonl"]);
}

#[test]
fn dense_to_sparse_and_back() {
    let place = trained("t5_tiny.rs", "");
    let before = loss(&place, FIRST);
    // With one expert per token and a gate of 1, the upcycled model equals the dense one for any router.
    let whole = sets("routing=top_k top_k=1 renormalize=true eval_capacity_factor=64");
    let said = convert(&place, FIRST, "up", &[&["--experts", "4"][..], &whole].concat());
    assert!(said.contains("initial values: encoder/ffn/router, decoder/ffn/router"), "{said}");
    near(loss(&place, "up"), before);
    // Gates are probabilities in a Switch layer; the factor compensates a gate of 1/4, and no larger one.
    let every_other = sets("sparse_step=2 eval_capacity_factor=64");
    convert(&place, FIRST, "switch", &[&["--experts", "4"][..], &every_other].concat());
    let plain = loss(&place, "switch");
    assert!(plain != before && (plain - before).abs() < 0.2 * before, "{plain} {before}");
    let names = runtime::Checkpoint::open(&place.at("switch")).unwrap();
    assert_eq!(
        names.tensor("encoder/block_1/ffn/wi").unwrap().shape(),
        "f32[layers=1, experts=4, d_model=16, d_ff=16]"
    );

    // Every expert equals the dense layer it was copied from, including slots.
    convert(&place, "up", "one", &["--dense", "--ffn", "2"]);
    place.run(&["checkpoint", "diff", FIRST, "one"]).succeeds();
    convert(&place, "switch", "two", &["--dense", "--ffn", "3", "--scale", "0.25"]);
    place.run(&["checkpoint", "diff", FIRST, "two"]).succeeds();
    convert(&place, "up", "mean", &["--dense", "--ffn", "mean"]);
    near(loss(&place, "mean"), before);
    // Drop-upcycling gives half of the hidden units of every expert new weights, and changes nothing else.
    convert(&place, FIRST, "dropped", &[&["--experts", "4", "--reinitialize", "0.5"][..], &whole].concat());
    let changed = |a: &str, b: &str| {
        let ran = place.run(&["checkpoint", "diff", a, b]);
        ran.out.lines().filter(|l| l.starts_with("* ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let differ = changed("up", "dropped");
    assert!(differ.len() == 4 && differ.iter().all(|l| l.contains("/ffn/w")), "{differ:?}");
    let after = loss(&place, "dropped");
    assert!(after.is_finite() && after != before, "{after} {before}");
    let said = convert(&place, "switch", "fresh", &["--dense"]);
    assert!(said.contains("initial values: encoder/ffn/wi, encoder/ffn/wo, decoder/ffn/wi"), "{said}");
    let differ = changed(FIRST, "fresh");
    assert!(differ.len() == 12 && differ.iter().all(|l| l.contains("/ffn/w")), "{differ:?}");
    loss(&place, "fresh");
}

#[test]
fn what_cannot_be_converted() {
    let place = trained("switch_tiny.rs", "experts=4");
    let fails = |args: &[&str], parts: &[&str]| {
        place.run(&[&["checkpoint", "convert", FIRST, "out"], args].concat()).fails(parts);
        assert!(!place.at("out").exists());
    };
    fails(&["--experts", "6"], &["6 experts cannot be copies of 4", "a multiple"]);
    fails(&["--experts", "2"], &["which 2 of the 4 experts stay", "--keep-experts", "--keep-by-load"]);
    fails(&["--experts", "2", "--keep-experts", "1,4"], &["[1, 4]", "0 to 3"]);
    fails(&["--experts", "2", "--keep-experts", "1,1"], &["[1, 1]", "each once"]);
    fails(&["--experts", "8", "--keep-experts", "1"], &["8 of 4 experts are requested"]);
    fails(&["--experts", "2", "--keep-by-load", "nowhere"], &["nowhere"]);
    place.write("other.jsonl", "{\"loss\": 1}\n");
    fails(&["--experts", "2", "--keep-by-load", "other.jsonl"], &["line 1 of `other.jsonl`", "4 experts"]);
    fails(&["--dense", "--ffn", "4"], &["no expert 4 among 4"]);
    fails(
        &["--experts", "8", "--set", "d_ff=32"],
        &["`encoder/ffn/wi`: the checkpoint has f32[layers=2", "help:"],
    );
    fails(&["--experts", "8", "--set", "layers=3"], &["cannot be converted"]);
    fails(&["--experts", "8", "--set", "expert=8"], &["expert"]);

    place.run(&["checkpoint", "convert", FIRST, "ck", "--experts", "8"]).fails(&["already exists"]);
    place.run(&["checkpoint", "convert", FIRST, "out"]).fails_with(2, &["--experts"]);
}
