//! Distillation: the gradient of the student against finite differences, and the frozen teacher.

use compiler::{
    autodiff,
    interp::{self, Precision as Rounding, Tensor, Tensors},
};
use mesh::{DType, Module, Site, dsl::Args};
use models::{
    Config, LrSchedule, Method, Optimizer, Switch,
    distill::{self, Distillation, Offline, Teaching},
    program::{distilled, taught},
};
use runtime::{
    Checkpoint, HostTensor, Session,
    checkpoint::{Mapping, Plan, RestoreScope, Writer},
};
use std::{collections::BTreeMap, path::Path};
use tests::training::{session, session_of, small_switch};

/// A dense student for the interpreter, whose parameters change by the gradient in one step.
fn student() -> Config {
    Config {
        batch: 2,
        input_length: 6,
        target_length: 5,
        vocab: 12,
        d_model: 6,
        d_ff: 8,
        heads: 2,
        d_kv: 3,
        encoder_layers: 1,
        decoder_layers: 1,
        buckets: 8,
        max_distance: 16,
        dropout: 0.0,
        optimizer: Optimizer {
            method: Method::Sgd,
            schedule: LrSchedule { rate: 1.0, warmup: 0, ..LrSchedule::default() },
            clip: 0.0,
            skip_non_finite: false,
        },
        ..Config::default()
    }
}

fn distillation(student: &Config, teacher: Config, (soft, temperature): (f64, f64)) -> Distillation {
    let teacher = Distillation::beside(student, teacher);
    Distillation { teacher, soft, temperature, stored: DType::F32, init: true }
}

fn module(student: &Config, distill: &Distillation) -> Module {
    distilled(student, Some(distill), &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"))
}

/// Runs a function of the interpreter with wide numbers.
fn call(module: &Module, function: &str, inputs: &Tensors, state: &Tensors) -> interp::Outcome {
    interp::run(module, function, inputs, state, Rounding::Wide).unwrap_or_else(|d| panic!("{function}: {d}"))
}

/// Initializes the state, and gives the teacher other values than 0.
fn begun(module: &Module) -> Tensors {
    let seed = Tensors::from([("seed".into(), Tensor::scalar(DType::U32, 5.0))]);
    let mut state = call(module, "init", &seed, &Tensors::new()).state;
    for (name, tensor) in state.iter_mut().filter(|(name, _)| name.starts_with("teacher/")) {
        let shift = name.len() as f64;
        let wave =
            |i: usize| (i as f64 * 1.7 + shift).sin() * 0.6 + if name.contains("norm") { 1.0 } else { 0.0 };
        tensor.data.iter_mut().enumerate().for_each(|(i, x)| *x = wave(i));
    }
    state
}

fn batch(config: &Config) -> Tensors {
    let tokens = |name: &str, length: usize, factor: usize| {
        let dim = if name == "inputs" { "length" } else { "target_length" };
        let dims = [mesh::Dim::new("batch", config.batch), mesh::Dim::new(dim, length)];
        // One row ends in padding.
        let token = |i: usize| if i % length + 1 == length { 0 } else { 3 + i * factor % (config.vocab - 3) };
        let data = (0..config.batch * length).map(|i| token(i) as f64).collect();
        (name.into(), Tensor::new(DType::S32, &dims, data).expect("the sizes agree"))
    };
    let seed = ("seed".into(), Tensor::scalar(DType::U32, 5.0));
    [seed, tokens("inputs", config.input_length, 5), tokens("targets", config.target_length, 7)].into()
}

fn number(outputs: &Tensors, name: &str) -> f64 {
    outputs[name].data.iter().sum()
}

#[test]
fn the_gradient_of_the_student_is_that_of_finite_differences() {
    let config = student();
    let switch = Switch { experts: 2, sparse_step: 2, min_capacity: 1, ..Switch::default() };
    let teacher =
        Config { d_model: 8, encoder_layers: 2, decoder_layers: 2, switch: Some(switch), ..student() };
    let distill = distillation(&config, teacher, (0.25, 2.0));
    let module = autodiff::expand(&module(&config, &distill)).expect("it has gradients");
    let (state, inputs) = (begun(&module), batch(&config));
    let total = |state: &Tensors| {
        let outputs = call(&module, "train_step", &inputs, state).outputs;
        let [hard, soft, z] = ["loss", "soft_loss", "z_loss"].map(|name| number(&outputs, name));
        0.75 * hard + 0.25 * soft + z
    };
    let after = call(&module, "train_step", &inputs, &state).state;
    for (name, value) in state.iter().filter(|(name, _)| name.starts_with("teacher/")) {
        assert_eq!(after[name].data, value.data, "{name}");
    }
    let names =
        ["embedding", "encoder/attention/q", "encoder/ffn/wi", "decoder/cross_attention/k", "decoder/norm"];
    for name in names {
        for i in [0, state[name].data.len() / 2, state[name].data.len() - 1] {
            let element = |state: &Tensors| state[name].data.iter().nth(i).copied().unwrap();
            let gradient = element(&state) - element(&after);
            let h = 1e-5;
            let moved = |by: f64| {
                let mut moved = state.clone();
                *moved.get_mut(name).unwrap().data.iter_mut().nth(i).unwrap() += by;
                total(&moved)
            };
            let difference = (moved(h) - moved(-h)) / (2.0 * h);
            let near = (gradient - difference).abs() <= 1e-6 + 1e-5 * difference.abs();
            assert!(near, "{name}[{i}]: {gradient}, finite differences {difference}");
        }
    }
}

#[test]
fn a_student_that_equals_its_teacher_learns_nothing_from_it() {
    let config = Config { z_loss: 0.0, ..student() };
    let module = autodiff::expand(&module(&config, &distillation(&config, config.clone(), (1.0, 3.0))));
    let module = module.expect("it has gradients");
    let mut state = begun(&module);
    let own: Vec<_> =
        state.keys().filter(|name| state.contains_key(&format!("teacher/{name}")[..])).cloned().collect();
    assert!(own.len() > 10);
    for name in &own {
        let theirs = state[&format!("teacher/{name}")[..]].clone();
        state.insert(name.clone(), theirs);
    }
    let step = call(&module, "train_step", &batch(&config), &state);
    let (loss, teacher) = (number(&step.outputs, "loss"), number(&step.outputs, "teacher_loss"));
    assert!((loss - teacher).abs() < 1e-9 && loss > 0.1, "{loss} and {teacher}");
    for name in &own {
        let change = state[name].data.iter().zip(&step.state[name].data).map(|(a, b)| (a - b).abs());
        assert!(change.fold(0.0, f64::max) < 1e-9, "{name}");
    }
}

/// Returns the logits of a model for a batch, as `[batch, target_length, vocab]`.
fn logits(config: &Config, state: &Tensors) -> Vec<f64> {
    let module = distill::logits(config, &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let mut inputs = batch(config);
    inputs.remove("seed");
    let mut outputs = call(&module, "eval_step", &inputs, state).outputs;
    let logits = outputs.remove("logits").expect("the program has the output");
    let names: Vec<String> = logits.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["batch", "target_length", "vocab"]);
    logits.data.iter().copied().collect()
}

/// Runs a step of distillation from logits, of which `top` are given for each target token: `choose` names
/// their tokens by rank, for the logits of the token.
fn offline(
    config: &Config,
    (top, temperature): (usize, f64),
    state: &Tensors,
    theirs: &[f64],
    choose: &dyn Fn(&[f64], usize) -> usize,
) -> interp::Outcome {
    let teaching = Teaching::Logits(Offline { top, soft: 0.25, temperature });
    let module = taught(config, Some(&teaching), &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let module = autodiff::expand(&module).expect("it has gradients");
    let dims = [("batch", config.batch), ("target_length", config.target_length), ("teacher_top", top)];
    let dims = dims.map(|(name, size)| mesh::Dim::new(name, size));
    let (mut tokens, mut logits) = (Vec::new(), Vec::new());
    for all in theirs.chunks(config.vocab) {
        for token in (0..top).map(|rank| choose(all, rank)) {
            tokens.push(token as f64);
            logits.push(all[token]);
        }
    }
    let mut inputs = batch(config);
    let of = |dtype, data: Vec<f64>| Tensor::new(dtype, &dims, data).expect("the sizes agree");
    inputs.insert("teacher_tokens".into(), of(DType::S32, tokens));
    inputs.insert("teacher_logits".into(), of(DType::F32, logits));
    call(&module, "train_step", &inputs, state)
}

/// The states of the teacher and of the student, by their own names.
fn divided(state: &Tensors) -> [Tensors; 2] {
    let theirs =
        state.iter().filter_map(|(name, x)| Some((name.strip_prefix("teacher/")?.into(), x.clone())));
    let ours = state.iter().filter(|(name, _)| !name.starts_with("teacher/"));
    [theirs.collect(), ours.map(|(name, x)| (name.clone(), x.clone())).collect()]
}

#[test]
fn all_logits_of_a_teacher_that_ran_before_teach_as_the_teacher_does() {
    for microbatches in [1, 2] {
        let mut config = student();
        config.schedule.microbatches = microbatches;
        let teacher = Config { d_model: 8, encoder_layers: 2, ..student() };
        let distill = distillation(&config, teacher, (0.25, 2.0));
        let online = autodiff::expand(&module(&config, &distill)).expect("it has gradients");
        let state = begun(&online);
        let [theirs, ours] = divided(&state);
        let wanted = call(&online, "train_step", &batch(&config), &state);
        let all = logits(&distill.teacher, &theirs);
        // Their order does not matter.
        let got = offline(&config, (config.vocab, 2.0), &ours, &all, &|all, rank| all.len() - 1 - rank);
        for name in ["loss", "soft_loss", "z_loss", "grad_norm"] {
            let (a, b) = (number(&wanted.outputs, name), number(&got.outputs, name));
            assert!((a - b).abs() < 1e-9, "{name}: {a} with the teacher, {b} with its logits");
        }
        assert!(number(&wanted.outputs, "soft_loss") > 0.1);
        for (name, value) in &got.state {
            let change = wanted.state[name].data.iter().zip(&value.data).map(|(a, b)| (a - b).abs());
            assert!(change.fold(0.0, f64::max) < 1e-9, "{name}");
        }
    }
}

#[test]
fn the_largest_logits_have_all_of_the_probability() {
    let config = student();
    let distill = distillation(&config, config.clone(), (0.25, 2.0));
    let state = begun(&autodiff::expand(&module(&config, &distill)).expect("it has gradients"));
    let [theirs, ours] = divided(&state);
    let (theirs, own) = (logits(&distill.teacher, &theirs), logits(&config, &ours));
    let order = |all: &[f64]| {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|a, b| all[*b].total_cmp(&all[*a]));
        order
    };
    let got = offline(&config, (3, 1.5), &ours, &theirs, &|all, rank| order(all)[rank]);
    // The definition: cross-entropy of the softmax of three logits and of all own logits.
    let softmax = |logits: Vec<f64>| {
        let sum: f64 = logits.iter().map(|x| (x / 1.5).exp()).sum();
        logits.into_iter().map(|x| (x / 1.5).exp() / sum).collect::<Vec<_>>()
    };
    let mut each = Vec::new();
    for (position, (theirs, own)) in theirs.chunks(12).zip(own.chunks(12)).enumerate() {
        // The last target of a row is padding.
        if position % config.target_length + 1 == config.target_length {
            continue;
        }
        let top = &order(theirs)[..3];
        let shares = softmax(top.iter().map(|token| theirs[*token]).collect());
        let own = softmax(own.to_vec());
        each.push(-shares.iter().zip(top).map(|(share, token)| share * own[*token].ln()).sum::<f64>());
    }
    let wanted = each.iter().sum::<f64>() / each.len() as f64 * 1.5 * 1.5;
    let soft = number(&got.outputs, "soft_loss");
    assert!((soft - wanted).abs() < 1e-9, "{soft}, expected {wanted}");
    assert!(!got.outputs.contains_key("teacher_loss"));
}

type Values = BTreeMap<String, HostTensor>;

fn run(session: &mut Session, function: &str, inputs: &Values) {
    session.call(function, inputs).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{function}: {e}"));
}

fn save(session: &Session, dir: &Path) -> Checkpoint {
    let mut writer = Writer::create(dir).unwrap();
    session.save(&mut writer).unwrap();
    writer.finish(session.checkpoint_facts(), 3).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn numbers(session: &Session, name: &str) -> Vec<f64> {
    session.state(name).and_then(|value| value.to_f64()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_checkpoint_gives_the_teacher_and_the_beginning_of_the_student() {
    let place = tempfile::tempdir().unwrap();
    let teacher = Config { switch: Some(Switch { sparse_step: 2, ..Switch::default() }), ..small_switch() };
    let mut first = session(&teacher, "", "");
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(3))]);
    run(&mut first, "init", &seed);
    let checkpoint = save(&first, &place.path().join("teacher"));

    let mut config = Config { switch: None, ..small_switch() };
    config.schedule.microbatches = 2;
    let mut distill = distillation(&config, teacher, (0.25, 1.0));
    distill.stored = DType::Bf16;
    let layout = distill.layout(&config);
    let mut session = session_of(module(&config, &distill), "data=2,expert=2", &layout, "*:data");
    run(&mut session, "init", &BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(9))]));
    let initial = numbers(&session, "encoder/ffn/wi");
    let meta = session.artefact().manifest.meta.clone();
    let mapping = Mapping::default().completed(|key| meta.get(key).map(String::as_str)).unwrap();
    let plan = Plan::new(&session, &checkpoint, &mapping).unwrap_or_else(|e| panic!("{e}"));
    session.load(&checkpoint, &plan).unwrap_or_else(|e| panic!("{e}"));
    // The teacher is rounded, the student is not.
    for entry in checkpoint.tensors().iter().filter(|t| {
        first
            .artefact()
            .manifest
            .state
            .iter()
            .any(|s| s.name == t.name && s.kind() == proto::manifest::StateKind::Param)
    }) {
        let (theirs, ours) =
            (numbers(&first, &entry.name), numbers(&session, &format!("teacher/{}", entry.name)));
        let near = theirs.iter().zip(&ours).all(|(a, b)| (a - b).abs() <= a.abs() / 256.0);
        assert!(near && theirs.len() == ours.len(), "{}", entry.name);
    }
    assert_eq!(numbers(&session, "embedding"), numbers(&first, "embedding"));
    let half = |values: Vec<f64>, part: usize| values.chunks(values.len() / 2).nth(part).unwrap().to_vec();
    for (part, block) in [(0, "block_0"), (1, "block_1")] {
        let theirs = numbers(&first, &format!("encoder/{block}/attention/q"));
        assert_eq!(half(numbers(&session, "encoder/attention/q"), part), theirs);
    }
    let dense = numbers(&session, "encoder/ffn/wi");
    assert_eq!(half(dense.clone(), 0), numbers(&first, "encoder/block_0/ffn/wi"));
    assert_eq!(half(dense, 1), half(initial, 1), "a layer of experts has no counterpart");

    let state = session.artefact().manifest.state.clone();
    let of_teacher: Vec<&str> =
        state.iter().map(|s| s.name.as_str()).filter(|n| n.starts_with("teacher/")).collect();
    let teacher: Vec<HostTensor> = of_teacher.iter().map(|name| session.state(name).unwrap()).collect();
    let before = numbers(&session, "decoder/attention/q");
    let tokens = |length: usize| HostTensor::s32(&[8, length], &vec![7; 8 * length]);
    let inputs = [
        ("seed".to_owned(), HostTensor::u32_scalar(3)),
        ("inputs".into(), tokens(32)),
        ("targets".into(), tokens(16)),
    ];
    let mut inputs = BTreeMap::from(inputs);
    (0..2).for_each(|_| run(&mut session, "train_step", &inputs));
    for (name, value) in of_teacher.iter().zip(&teacher) {
        assert!(session.state(name).unwrap() == *value, "{name}");
    }
    assert_ne!(numbers(&session, "decoder/attention/q"), before);

    // The checkpoint of a student needs no teacher to be used.
    let student = save(&session, &place.path().join("student"));
    let module = models::score::program(&config, &Site::default()).finish().unwrap();
    let mut score = session_of(module, "", "", "");
    score.restore(&student, RestoreScope::Params).unwrap_or_else(|e| panic!("{e}"));
    inputs.remove("seed");
    run(&mut score, "score", &inputs);
}

#[test]
fn settings_describe_the_teacher() {
    let with = |words: &str| {
        let args = words.split_whitespace().flat_map(|word| ["--set".to_owned(), word.to_owned()]);
        let args = Args::parse(args).expect("the arguments are legal");
        let config = models::zoo::t5_tiny().with(&args);
        let distill = Distillation::with(&config, &args);
        let mut said: Vec<String> = args.mistakes().into_iter().map(|m| m.message).collect();
        said.extend(distill.iter().flat_map(|d| d.mistakes(&config)).map(|m| m.message));
        (distill, said)
    };
    let (distill, said) = with(
        "teacher=switch_tiny teacher.experts=4 teacher.dtype=selective batch=6 distill_soft=0.5 \
         distill_temperature=2 teacher_stored=bf16 distill_init=false",
    );
    assert_eq!(said, Vec::<String>::new());
    let distill = distill.expect("there is a teacher");
    assert_eq!(distill.teacher.switch.as_ref().map(|s| s.experts), Some(4));
    assert_eq!((distill.teacher.batch, distill.teacher.precision), (6, models::Precision::Selective));
    assert_eq!(
        (distill.soft, distill.temperature, distill.stored, distill.init),
        (0.5, 2.0, DType::Bf16, false)
    );
    assert_eq!(with("").0, None);
    assert_eq!(with("teacher.experts=4").1, ["this program has no setting `teacher.experts`"]);
    assert_eq!(
        with("teacher=switch_tiny teacher.expert=4").1,
        ["this program has no setting `teacher.expert`"]
    );
    let wrong =
        with("teacher=switch_tiny teacher.vocab=100 teacher.heads=0 distill_soft=2 distill_temperature=0").1;
    assert_eq!(
        wrong,
        [
            "the teacher: `heads` must be at least 1, got 0",
            "the teacher has another vocabulary: `teacher.vocab` is 100, `vocab` is 384",
            "`distill_soft` must be in [0, 1], got 2",
            "`distill_temperature` must be more than 0, got 0",
        ]
    );
}
