//! The task contract on the command line: the result of `meshc check`, and refusals before compilation.

use crate::support::Workplace;

/// A program of one weight that predicts nothing; `outputs` are those of `train_step`.
fn program(task: &str, inputs: &str, output: &str) -> String {
    format!(
        "module m\n{task}\n\nfunc train_step({inputs}) -> ({output}: f32[]) {{\n  %9 = constant {{dtype=f32, value=1.0}} : \
         f32[]\n  return %9\n}}\n"
    )
}

const LM: &str = "task train objective=lm vocab=384 batch=2 input_length=0 target_length=16";

#[test]
fn check_says_whether_a_program_can_be_trained() {
    let place = Workplace::new();
    place.write("good.mesh", program(LM, "%0 targets: s32[batch=2, length=16]", "loss"));
    let good = place.run(&["check", "good.mesh"]).succeeds().out;
    assert!(good.contains("trainable: yes (language modelling, 2 rows of 16 tokens)"), "{good}");
    assert!(good.contains("evaluation: no: the program has no function `eval_step`"), "{good}");
    place.write("bad.mesh", program(LM, "%0 tokens: s32[batch=2, length=16]", "cost"));
    let bad = place.run(&["check", "bad.mesh"]).succeeds().out;
    for line in [
        "trainable: no: function `train_step` lacks input `targets` of type s32[2, 16]",
        "trainable: no: function `train_step` has the input `tokens`, for which the runtime has no value",
        "trainable: no: function `train_step` lacks output `loss` of type f32[]",
    ] {
        assert!(bad.contains(line), "`{line}` is not in {bad}");
    }
    place.write("none.mesh", program("", "", "loss"));
    let none = place.run(&["check", "none.mesh"]).succeeds().out;
    assert!(none.contains("trainable: no: the program declares no task"), "{none}");
}

#[test]
fn commands_refuse_before_compiling_and_any_program_with_a_contract_trains() {
    let place = Workplace::new();
    place.write("text.txt", "some text to learn, again and again. ".repeat(20));
    place.write("bad.mesh", program(LM, "%0 targets: s32[batch=2, length=16]", "cost"));
    place.run_on_cpu(&["train", "bad.mesh", "--data", "text.txt", "--steps", "2"]).fails(&[
        "`bad.mesh` cannot train",
        "lacks output `loss`",
        "docs/train-contract.md",
    ]);
    place.write("good.mesh", program(LM, "%0 targets: s32[batch=2, length=16]", "loss"));
    place
        .run_on_cpu(&["train", "good.mesh", "--data", "text.txt", "--steps", "2", "--eval-every", "1"])
        .fails(&["`good.mesh` cannot evaluate", "no function `eval_step`"]);
    place.run_on_cpu(&["train", "good.mesh", "--data", "text.txt", "--steps", "2"]).succeeds();
    // The contract may rename inputs and outputs.
    let named = format!("{LM} targets=tokens loss=cost");
    place.write("named.mesh", program(&named, "%0 tokens: s32[batch=2, length=16]", "cost"));
    place
        .run(&["train", "named.mesh", "--data", "text.txt", "--steps", "2", "--metrics", "m.jsonl"])
        .succeeds();
    assert_eq!(place.metrics("m.jsonl")[1]["loss"], 1.0);
}

/// A program that sends tokens to the expert with the largest score. `narrow` computes `%chosen` of
/// `%scores`.
fn routed(narrow: &str) -> String {
    format!(
        "module m
meta dtype = \"selective\"

func f(%x x: bf16[batch=4, d=8], %w w: f32[d=8, experts=2]) -> (y: bf16[experts=2, d=8]) {{
  %wide = cast %x {{dtype=f32}}
  %scores = einsum %wide, %w {{out=[batch, experts], dtype=f32}}
  %chosen = {narrow}
  %expert = argmax %chosen {{dim=experts}}
  %sent = scatter_add %expert, %x {{dim=experts=2, over=[batch]}}
  return %sent
}}
"
    )
}

#[test]
fn check_proves_selective_precision() {
    let place = Workplace::new();
    let of = |model: &str| place.run(&["check", model, "--dtype", "selective"]).succeeds().out;
    let sparse = of("switch_tiny");
    let routers = "selective precision: 2 routers compute in f32 (models/src/switch/router.rs:";
    assert!(sparse.contains(routers), "{sparse}");
    let dense = of("t5_tiny");
    assert!(dense.contains("selective precision: the program has no router"), "{dense}");
    place.write("good.mesh", routed("exp %scores"));
    let good = place.run(&["check", "good.mesh"]).succeeds().out;
    assert!(good.contains("selective precision: one router computes in f32 (good.mesh:6)"), "{good}");
    place.write("bad.mesh", routed("cast %scores {dtype=bf16}"));
    place.run(&["check", "bad.mesh"]).fails(&["computes in bf16 here", "--> bad.mesh:7:3"]);
    place.write(
        "wide.mesh",
        "module m
meta dtype = \"selective\"

func f(%x x: f32[batch=8, experts_all=4]) -> (y: f32[expert_batch=8, experts=4]) {
  %y = rename %x {pairs=[batch -> expert_batch, experts_all -> experts]}
  return %y
}
",
    );
    place.run(&["check", "wide.mesh"]).succeeds();
    let layout = "batch:data+expert,expert_batch:data,experts:expert";
    place
        .run(&["check", "wide.mesh", "--mesh", "data=2,expert=2", "--layout", layout])
        .fails(&["f32 is sent by an all-to-all", "--> wide.mesh:5:3"]);
}
