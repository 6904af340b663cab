//! Greedy generation against Hugging Face transformers, with and without a KV cache, on one and on eight
//! devices.

use mesh::Site;
use models::{Generation, Precision, generate};
use runtime::{HostTensor, Session};
use std::collections::BTreeMap;
use tests::{
    oracle::{Case, case},
    training,
};

const CASES: [&str; 6] =
    ["switch_tiny", "switch_generous", "switch_step2_tight", "switch_bf16", "t5_v1_0", "t5_v1_1"];
/// Number of tokens after the start token.
const NEW: usize = 16;

fn number(value: i32) -> HostTensor {
    HostTensor::s32(&[], &[value])
}

/// Returns the greedily decoded tokens for the rows of `case` under a layout, with the start token.
#[track_caller]
fn greedy(
    case: &Case,
    options: &Generation,
    batch: usize,
    mesh: &str,
    layout: Option<&str>,
) -> Vec<Vec<i32>> {
    let mut config = case.config(batch, NEW);
    if case.name == "switch_bf16" && !options.cached {
        // After four tokens, the two largest logits differ by 9e-4 in float32, a thirtieth of the spacing of
        // bfloat16 there: in bfloat16, the order of roundings decides.
        config.precision = Precision::F32;
    }
    let module = generate::program(&config, options, &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("{}: the model has mistakes:\n{d}", case.name));
    let default = config.layout();
    let layout = layout.unwrap_or(&default);
    let mut session = training::session_of(module, mesh, layout, "");
    for (name, value) in case.parameters(&config) {
        session.set_state(&name, &value).unwrap_or_else(|e| panic!("{e}"));
    }
    let tokens = run(&mut session, case.inputs(batch), options.steps);
    let rows = case.sizes().0;
    tokens.chunks_exact(NEW).take(rows).map(|row| [&[0], row].concat()).collect()
}

/// Returns all tokens of all rows.
#[track_caller]
fn run(session: &mut Session, inputs: HostTensor, steps: usize) -> Vec<i32> {
    let prepares = session.artefact().manifest.functions.iter().any(|f| f.name == "prepare");
    let mut call = |function: &str, inputs: &[(&str, HostTensor)]| {
        let inputs = inputs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let outputs = session.call(function, &inputs).and_then(|o| o.wait());
        outputs.unwrap_or_else(|e| panic!("{function}: {e}"))
    };
    if prepares {
        call("prepare", &[]);
    }
    call("encode", &[("inputs", inputs)]);
    for _ in 0..NEW.div_ceil(steps) {
        call("decode", &[("min_length", number(0)), ("max_length", number(NEW as i32))]);
    }
    let results: BTreeMap<String, HostTensor> = call("results", &[]);
    let width = results["tokens"].dims[2];
    let all = results["tokens"].to_f64().expect("tokens are numbers");
    all.chunks_exact(width).flat_map(|row| row[..NEW].iter().map(|t| *t as i32)).collect()
}

fn expected(case: &Case, key: &str) -> Vec<Vec<i32>> {
    let ids = case.tensors[2][key].to_f64().expect("tokens are numbers");
    ids.chunks_exact(NEW + 1).map(|row| row.iter().map(|t| *t as i32).collect()).collect()
}

#[test]
fn with_kept_keys_and_values() {
    for name in CASES {
        let Some(case) = case(name) else { return };
        let want = expected(&case, "generate.cached");
        // Numbers of steps that do and do not divide the number of tokens; unrolled layers and a loop.
        for (steps, looped) in [(16, false), (5, true)] {
            let options = Generation { steps, looped: Some(looped), ..Generation::default() };
            let have = greedy(&case, &options, case.sizes().0, "", None);
            assert_eq!(have, want, "{name} with {steps} steps a call, looped: {looped}");
        }
    }
}

#[test]
fn without() {
    let options = Generation { cached: false, ..Generation::default() };
    let mut differ = 0;
    for name in CASES {
        let Some(case) = case(name) else { return };
        let want = expected(&case, "generate.uncached");
        assert_eq!(greedy(&case, &options, case.sizes().0, "", None), want, "{name}");
        let same = want == expected(&case, "generate.cached");
        let tight = ["switch_tiny", "switch_step2_tight", "switch_bf16"].contains(&name);
        assert!(same || tight, "{name}: where no token is dropped both ways agree");
        differ += usize::from(!same);
    }
    assert!(differ > 0, "where tokens are dropped the ways differ");
}

#[test]
fn on_eight_devices() {
    let own = None;
    let places = [
        ("data=8", own),
        ("data=2,expert=2,model=2", own),
        ("expert=4,model=2", Some("batch:expert,vocab:model,d_ff:model")),
    ];
    for name in CASES {
        let Some(case) = case(name) else { return };
        for (mesh, layout) in places {
            let sparse = layout.filter(|_| name.starts_with("switch")).map(|l| format!("{l},experts:expert"));
            let layout = sparse.as_deref().or(layout);
            // Decoding without a cache runs the training code, whose layouts have separate tests.
            let ways: &[bool] = if mesh == "data=2,expert=2,model=2" { &[true, false] } else { &[true] };
            for cached in ways.iter().copied() {
                let options = Generation { cached, ..Generation::default() };
                let want = expected(&case, if cached { "generate.cached" } else { "generate.uncached" });
                assert_eq!(
                    greedy(&case, &options, 8, mesh, layout),
                    want,
                    "{name}, {mesh}, cached: {cached}"
                );
            }
        }
    }
}
