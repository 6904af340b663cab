//! An odd vocabulary that is padded, so that it can be split: the padding changes no loss, no gradient, no
//! checkpoint and no generated token.

use compiler::{
    autodiff,
    interp::{self, Precision as Rounding, Tensor, Tensors},
    pipeline::{self, Placement},
};
use mesh::{DType, Dim, Layout, Mesh, Module, Name, Site, task::DecodingMethod};
use models::{Config, Generation, LrSchedule, Method, Optimizer, generate, optimizer::Adafactor};
use runtime::{
    Checkpoint, HostTensor, Session,
    checkpoint::{RestoreScope, Writer},
    generate::{Generator, Options},
};
use std::collections::BTreeMap;
use tests::training::{session, session_of};

const VOCAB: usize = 13;
const PADDING: usize = 3;

fn config(method: Method, tied: bool, vocab_padding: usize) -> Config {
    Config {
        name: "padded".into(),
        batch: 4,
        input_length: 6,
        target_length: 5,
        vocab: VOCAB,
        vocab_padding,
        tied,
        d_model: 8,
        d_ff: 16,
        heads: 4,
        d_kv: 4,
        encoder_layers: 1,
        decoder_layers: 1,
        optimizer: Optimizer {
            method,
            schedule: LrSchedule { rate: 2e-2, warmup: 1, ..LrSchedule::default() },
            ..Optimizer::default()
        },
        ..Config::default()
    }
}

fn adafactor() -> Method {
    Method::Adafactor(Adafactor::transformers())
}

/// Returns tokens of all values below the size of the vocabulary.
fn tokens(rows: usize, length: usize, shift: usize) -> Vec<i32> {
    (0..rows * length).map(|i| ((i * 5 + shift) % VOCAB) as i32).collect()
}

#[track_caller]
fn module(config: &Config) -> Module {
    let module = models::program(config, &Site::default()).finish();
    module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"))
}

/// Returns the outputs of three training steps and the state after them, in the interpreter.
#[track_caller]
fn interpreted(config: &Config) -> (Vec<Tensors>, Tensors) {
    let module = autodiff::expand(&module(config)).unwrap_or_else(|d| panic!("{d}"));
    let call = |function: &str, inputs: &Tensors, state: &Tensors| {
        interp::run(&module, function, inputs, state, Rounding::Normal).unwrap_or_else(|d| panic!("{d}"))
    };
    let given = |name: &str, length, shift| {
        let dims = [Dim::new("batch", config.batch), Dim::new(name, length)];
        let elements = tokens(config.batch, length, shift).into_iter().map(f64::from).collect();
        Tensor::new(DType::S32, &dims, elements).expect("as many elements as the dims have")
    };
    let seed = (Name::from("seed"), Tensor::scalar(DType::U32, 7.0));
    let mut state = call("init", &Tensors::from([seed.clone()]), &Tensors::new()).state;
    let inputs = Tensors::from([
        seed,
        ("inputs".into(), given("length", config.input_length, 0)),
        ("targets".into(), given("target_length", config.target_length, 1)),
    ]);
    let mut outputs = Vec::new();
    for _ in 0..3 {
        let outcome = call("train_step", &inputs, &state);
        state = outcome.state;
        outputs.push(outcome.outputs);
    }
    (outputs, state)
}

/// Returns the elements of a tensor without padding.
fn used(tensor: &Tensor) -> Vec<f64> {
    let Some(axis) = tensor.names.iter().position(|name| *name == "vocab") else {
        return tensor.elements();
    };
    let part = tensor.data.slice_axis(ndarray::Axis(axis), ndarray::Slice::from(..VOCAB));
    part.iter().copied().collect()
}

#[test]
fn padding_changes_no_bit_in_the_interpreter() {
    for (method, tied, most) in [
        (Method::Sgd, true, 0.0),
        (Method::adamw(), false, 0.0),
        // A mean without padding is rounded twice.
        (adafactor(), true, 1e-5),
    ] {
        let (plain, plain_state) = interpreted(&config(method.clone(), tied, 0));
        let (padded, padded_state) = interpreted(&config(method.clone(), tied, PADDING));
        let near = |name: &Name, a: &[f64], b: &[f64]| {
            assert_eq!(a.len(), b.len(), "{name}");
            let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs() / a.abs().max(1e-3));
            let apart = apart.fold(0.0, f64::max);
            assert!(apart <= most, "{method:?}: `{name}` is {apart:e} apart");
        };
        for (a, b) in plain.iter().zip(&padded) {
            a.iter().for_each(|(name, x)| near(name, &x.elements(), &b[name].elements()));
        }
        for (name, x) in &plain_state {
            near(name, &x.elements(), &used(&padded_state[name]));
        }
    }
}

#[track_caller]
fn call(
    session: &mut Session,
    function: &str,
    inputs: &[(&str, HostTensor)],
) -> BTreeMap<String, HostTensor> {
    let inputs = inputs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    session.call(function, &inputs).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{function}: {e}"))
}

/// Opens a session with initialized state.
#[track_caller]
fn initialized(config: &Config, mesh: &str) -> Session {
    let mut session = session(config, mesh, "");
    call(&mut session, "init", &[("seed", HostTensor::u32_scalar(7))]);
    session
}

/// Returns the losses of three training steps.
#[track_caller]
fn losses(config: &Config, session: &mut Session) -> Vec<f64> {
    let given =
        |length, shift| HostTensor::s32(&[config.batch, length], &tokens(config.batch, length, shift));
    let inputs = [
        ("seed", HostTensor::u32_scalar(7)),
        ("inputs", given(config.input_length, 0)),
        ("targets", given(config.target_length, 1)),
    ];
    let step = |_| call(session, "train_step", &inputs)["loss"].to_f64().expect("a loss is a number")[0];
    (0..3).map(step).collect()
}

#[test]
fn a_padded_vocabulary_trains_split_as_the_plain_one_on_one_device() {
    for method in [Method::adamw(), adafactor()] {
        let (plain, padded) = (config(method.clone(), true, 0), config(method.clone(), true, PADDING));
        let expected = losses(&plain, &mut initialized(&plain, ""));
        for mesh in ["", "model=2", "data=2,model=4"] {
            let found = losses(&padded, &mut initialized(&padded, mesh));
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() <= 2e-5 * a.abs(), "{method:?} on {mesh}: {expected:?} and {found:?}");
            }
        }
    }
}

#[test]
fn an_odd_vocabulary_that_is_split_is_offered_padding() {
    let placement = Placement {
        mesh: Mesh::parse("model=4").expect("it is legal"),
        layout: Layout::parse("vocab:model").expect("it is legal"),
        state_layout: Layout::default(),
    };
    let compile = |padding| {
        let module = module(&config(Method::Sgd, true, padding));
        pipeline::compile(module, &placement, &mut pipeline::unobserved).map(drop)
    };
    let said = compile(0).expect_err("13 rows do not divide by 4").to_string();
    assert!(said.contains("[layout_y3]") && said.contains("--set vocab_padding=3"), "{said}");
    let said = compile(1).expect_err("14 rows do not divide by 4").to_string();
    assert!(said.contains("--set vocab_padding=3"), "{said}");
    compile(PADDING).unwrap_or_else(|d| panic!("{d}"));
}

#[track_caller]
fn save(session: &Session, dir: &std::path::Path) -> Checkpoint {
    let mut writer = Writer::create(dir).unwrap();
    session.save(&mut writer).unwrap();
    writer.finish(session.checkpoint_facts(), 0).unwrap();
    Checkpoint::open(dir).unwrap()
}

#[test]
fn checkpoints_gain_and_lose_padding() {
    let place = tempfile::tempdir().unwrap();
    let values = |session: &Session| -> BTreeMap<String, HostTensor> {
        let names = session.artefact().manifest.state.iter().map(|s| &s.name);
        names.map(|n| (n.clone(), session.state(n).unwrap_or_else(|e| panic!("{e}")))).collect()
    };
    let (plain, padded) = (config(Method::adamw(), false, 0), config(Method::adamw(), false, PADDING));
    let first = initialized(&plain, "");
    let checkpoint = save(&first, &place.path().join("0"));
    let mut wide = session(&padded, "model=4", "");
    wide.restore(&checkpoint, RestoreScope::All).unwrap_or_else(|e| panic!("{e}"));
    let embedding = wide.state("embedding").unwrap();
    assert_eq!(embedding.dims, [VOCAB + PADDING, 8]);
    assert!(embedding.to_f64().unwrap()[VOCAB * 8..].iter().all(|x| *x == 0.0), "padding is 0");
    let checkpoint = save(&wide, &place.path().join("1"));
    let mut last = session(&plain, "", "");
    last.restore(&checkpoint, RestoreScope::All).unwrap_or_else(|e| panic!("{e}"));
    assert!(values(&last) == values(&first), "a checkpoint that gained and lost padding has the same bits");
    let other = Config { vocab: VOCAB + 1, ..plain };
    let said = session(&other, "", "").restore(&checkpoint, RestoreScope::All).unwrap_err().to_string();
    assert!(said.contains("does not fit the program"), "{said}");
}

/// Generates from random parameters.
#[track_caller]
fn generated(config: &Config, options: &Generation, mesh: &str, calls: &Options) -> Vec<Vec<i32>> {
    let module = generate::program(config, options, &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    let mut session = session_of(module, mesh, &config.layout(), "");
    call(&mut session, "init", &[("seed", HostTensor::u32_scalar(5))]);
    let inputs: Vec<Vec<i32>> = (0..16).map(|i| vec![2 + i % 11, 3 + i % 7, 1]).collect();
    let mut all = Vec::new();
    let mut generator = Generator::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
    let result = generator.run(&inputs, calls, &mut |_, sequences| {
        all.extend(sequences.into_iter().map(|s| s.tokens));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    all
}

#[test]
fn padding_is_never_generated() {
    let with = |padding| Config { dropout: 0.0, ..config(Method::Sgd, true, padding) };
    let greedy = Generation::default();
    let filtered = Generation { method: DecodingMethod::Sample, ..Generation::default() };
    let sampled = Generation { filter: false, ..filtered.clone() };
    // More continuations than tokens.
    let beams = Generation { method: DecodingMethod::Beam, beams: 8, ..Generation::default() };
    let hot = Options { temperature: 50.0, seed: 3, ..Options::default() };
    for (options, calls) in [
        (greedy, Options::default()),
        (sampled, hot),
        (filtered, Options { top_k: Some(VOCAB), ..hot }),
        (beams, Options::default()),
    ] {
        let plain = generated(&with(0), &options, "", &calls);
        for mesh in ["", "model=2"] {
            let padded = generated(&with(PADDING), &options, mesh, &calls);
            let top = padded.iter().flatten().max().expect("there are tokens");
            assert!((*top as usize) < VOCAB, "{options:?} on {mesh}: {padded:?}");
            assert_eq!(padded, plain, "{options:?} on {mesh}");
        }
    }
}
