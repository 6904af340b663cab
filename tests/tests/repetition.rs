//! A repetition penalty, a block of n-grams and a decoder prompt, against the tokens of transformers 4.57
//! and 5.24 for models with and without an encoder.
//!
//! `tests/transformers/repetition.py` writes the cases.

use crate::transformers::{Case, parameters};
use interchange::hf::Folder;
use mesh::{Site, task::DecodingMethod};
use models::{
    Config, Generation, generate,
    generate::{EarlyStopping, repetition::Repetition},
};
use runtime::{
    HostTensor,
    generate::{Generator, Options},
};
use serde_json::Value;
use tests::training::session_of;

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().expect("a list").iter().map(|t| t.as_i64().expect("a token") as i32).collect()
}

fn rows(value: &Value) -> Vec<Vec<i32>> {
    value.as_array().expect("a matrix").iter().map(ids).collect()
}

/// Returns the program's options and those of its calls.
fn options(case: &Value) -> (Generation, Options) {
    let given = &case["options"];
    let is_search = given["num_beams"].as_u64().is_some();
    let repetition = Repetition {
        penalty: given["repetition_penalty"].as_f64().unwrap_or(1.0),
        ngram: given["no_repeat_ngram_size"].as_u64().unwrap_or(0) as usize,
    };
    let program = Generation {
        method: if is_search { DecodingMethod::Beam } else { DecodingMethod::Greedy },
        beams: given["num_beams"].as_u64().unwrap_or(1) as usize,
        steps: 4,
        early: EarlyStopping::Likely,
        repetition,
        decoder_prompt: ids(&case["prompt"]).into_iter().map(|t| t as u32).collect(),
        ..Generation::default()
    };
    let length_penalty = given["length_penalty"].as_f64().unwrap_or(1.0) as f32;
    (program, Options { length_penalty, ..Options::default() })
}

/// With and without a cache.
const BOTH: [bool; 2] = [true, false];

fn is_slow() -> bool {
    std::env::var_os("MESH_SLOW").is_some_and(|value| value == "1")
}

/// Checks the tokens of one case.
#[track_caller]
fn check(folder: &Folder, case: &Value, new: usize, ways: &[bool], mesh: &str) {
    let inputs = rows(&case["inputs"]);
    let longest = inputs.iter().map(Vec::len).max().expect("there are inputs");
    let batch = if mesh.is_empty() { inputs.len() } else { 8 };
    let config = Config { batch, target_length: new, input_length: longest + 1, ..folder.config.clone() };
    let (program, calls) = options(case);
    for cached in ways {
        let program = Generation { cached: *cached, ..program.clone() };
        let module = generate::program(&config, &program, &Site::default()).finish();
        let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
        let mut session = session_of(module, mesh, &config.layout(), "");
        for (name, tensor) in parameters(folder) {
            let value: Vec<f32> = tensor.elements().iter().map(|x| *x as f32).collect();
            let sizes: Vec<usize> = tensor.dims().iter().map(|d| d.size).collect();
            session.set_state(&name, &HostTensor::f32(&sizes, &value)).unwrap_or_else(|e| panic!("{e}"));
        }
        let mut generator = Generator::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
        let done = generator.run(&inputs, &calls, &mut |number, sequences| {
            let end = |tokens: &[i32]| -> Vec<i32> {
                let eos = config.eos_token as i32;
                let end = tokens.iter().position(|t| *t == eos).map_or(tokens.len(), |at| at + 1);
                tokens[..end].to_vec()
            };
            let want: Vec<Vec<i32>> = rows(&case["tokens"][number]).iter().map(|row| end(row)).collect();
            let have: Vec<Vec<i32>> = sequences.iter().map(|s| s.tokens.clone()).collect();
            let what = format!("{} {} {}", case["model"], case["options"], case["prompt"]);
            assert_eq!(have, want, "row {number}: {what}, cached: {cached}, {mesh}");
            Ok(())
        });
        done.unwrap_or_else(|e| panic!("{e}"));
    }
}

#[track_caller]
fn check_all(model: &str) {
    for version in ["v4", "v5"] {
        let all = Case::read(&format!("repetition_{version}"));
        let new = all.value("new").as_u64().expect("a number") as usize;
        let name = format!("{model}_{version}");
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        Case::read(&name).write(place.path());
        let folder = Folder::open(place.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let all = all.value("cases").as_array().expect("a list");
        let own: Vec<&Value> = all.iter().filter(|case| case["model"] == name).collect();
        assert!(own.len() >= 9, "{name} has {} cases", own.len());
        if is_slow() {
            own.iter().for_each(|case| check(&folder, case, new, &BOTH, ""));
        } else if version == "v4" {
            tests::say_skipped("MESH_SLOW=1 takes every option alone, without a cache, and of both versions");
            // Both options without and with beams, and beams after a prompt.
            let prompted = own.get(11).copied();
            [own[5], own[6]]
                .into_iter()
                .chain(prompted)
                .for_each(|case| check(&folder, case, new, &[true], ""));
        }
        if version == "v4" && (is_slow() || model == "mixtral") {
            check(&folder, own[6], new, &[true], "data=4,model=2");
        }
    }
}

#[test]
fn t5() {
    check_all("t5_tied");
}

#[test]
fn switch() {
    check_all("switch");
}

#[test]
fn mixtral() {
    check_all("mixtral");
}

#[test]
fn mistral() {
    check_all("mistral");
}
