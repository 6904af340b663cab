//! Packing does not change results: logits of every token, the loss, and its gradient.

use compiler::{
    autodiff,
    interp::{self, Precision, Tensor, Tensors},
};
use mesh::{DType, Dim, Module, Site, dsl::Program, verify};
use models::{
    Config, Context, Switch, Weights,
    objective::{EncoderDecoder, Feeds},
};

/// Returns inputs and targets of examples that fit into two rows with three examples each.
const EXAMPLES: [(&[i32], &[i32]); 6] = [
    (&[5, 6, 7, 1], &[9, 8, 1]),
    (&[5, 1], &[4, 1]),
    (&[11, 12, 13, 1], &[7, 6, 5, 4, 1]),
    (&[8, 9, 1], &[5, 5, 5, 1]),
    (&[3, 4, 5, 6, 7, 1], &[3, 1]),
    (&[10, 1], &[12, 11, 10, 1]),
];

const INPUTS: usize = 12;
const TARGETS: usize = 10;

/// A model without noise, with expert slots for all tokens.
fn config(batch: usize, packing: bool, switch: bool) -> Config {
    let slots = Switch { experts: 4, fixed_capacity: 64, jitter: 0.0, ..Switch::default() };
    Config {
        name: "tiny".into(),
        batch,
        packing,
        input_length: INPUTS,
        target_length: TARGETS,
        vocab: 16,
        d_model: 8,
        d_ff: 16,
        heads: 4,
        d_kv: 4,
        encoder_layers: 2,
        decoder_layers: 2,
        buckets: 8,
        max_distance: 16,
        dropout: 0.0,
        switch: switch.then_some(slots),
        ..Config::default()
    }
}

/// Packs examples into rows: returns tokens and segments.
fn rows(per_row: usize) -> Tensors {
    let batch = EXAMPLES.len() / per_row;
    let mut all = Tensors::new();
    let mut side = |name: &str, dim: &str, length: usize, of: &dyn Fn(usize) -> &'static [i32]| {
        let (mut tokens, mut segments) = (Vec::new(), Vec::new());
        for row in 0..batch {
            for place in 0..per_row {
                let example = of(row * per_row + place);
                tokens.extend(example.iter().map(|t| f64::from(*t)));
                segments.extend(example.iter().map(|_| (place + 1) as f64));
            }
            tokens.resize((row + 1) * length, 0.0);
            segments.resize((row + 1) * length, 0.0);
        }
        let dims = [Dim::new("batch", batch), Dim::new(dim, length)];
        let tensor =
            |values| Tensor::new(DType::S32, &dims, values).expect("rows are as long as the dims say");
        all.insert(name.into(), tensor(tokens));
        all.insert(format!("{name}_segments").into(), tensor(segments));
    };
    side("inputs", "length", INPUTS, &|i| EXAMPLES[i].0);
    side("targets", "target_length", TARGETS, &|i| EXAMPLES[i].1);
    all
}

/// Returns the outputs of `function` after `init`.
#[track_caller]
fn call(module: &Module, function: &str, given: &Tensors) -> Tensors {
    let run = |function: &str, given: &Tensors, state: &Tensors| {
        let outcome = interp::run(module, function, given, state, Precision::Normal);
        outcome.unwrap_or_else(|d| panic!("{function}: {d}"))
    };
    let seed = Tensors::from([("seed".into(), Tensor::scalar(DType::U32, 7.0))]);
    let state = run("init", &seed, &Tensors::new()).state;
    let takes = &module.function(function).expect("the program has it").inputs;
    let mut all = given.clone();
    all.extend(seed);
    all.retain(|name, _| takes.iter().any(|input| input == name));
    run(function, &all, &state).outputs
}

/// Returns the cross-entropy of every target token in nats, in the order of examples.
fn nats(config: &Config, per_row: usize) -> Vec<f64> {
    let p = Program::new("probe");
    let model = EncoderDecoder::new(&Weights::new(&p), config);
    p.function("logits", |g| {
        let pass = model.run(&Context::new(g, config, None), Feeds::input(g, config));
        g.output("logits", pass.logits);
    });
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    let given = rows(per_row);
    let logits = &call(&module, "logits", &given)["logits"];
    let targets = given["targets"].data.iter().map(|t| *t as usize);
    assert_eq!(logits.dims().last().map(|d| d.name.to_string()).as_deref(), Some("vocab"));
    let logits: Vec<f64> = logits.data.iter().copied().collect();
    let of = |(row, target): (&[f64], usize)| {
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        (target != 0).then(|| most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - row[target])
    };
    logits.chunks(config.vocab).zip(targets).filter_map(of).collect()
}

#[test]
fn tokens_of_examples_in_one_row_are_as_likely_as_in_rows_of_their_own() {
    for switch in [false, true] {
        let alone = nats(&config(6, false, switch), 1);
        let packed = nats(&config(2, true, switch), 3);
        assert_eq!((alone.len(), packed.len()), (20, 20));
        let apart = alone.iter().zip(&packed).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 2e-6, "switch {switch}: {apart}: {alone:?} {packed:?}");
        // Without segment masks, only the first example of each row keeps its results.
        let mixed = nats(&config(2, false, switch), 3);
        let second = alone.iter().zip(&mixed).skip(3).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(second > 1e-3, "switch {switch}: {second}");
    }
}

#[test]
fn a_packed_batch_has_the_same_loss_and_gradient() {
    let step = |config: &Config, per_row| {
        let module = models::program(config, &Site::default()).finish();
        let module = autodiff::expand(&module.unwrap_or_else(|d| panic!("{d}"))).expect("gradients expand");
        let module = verify::Global::new(module).unwrap_or_else(|d| panic!("{d}")).into_module();
        let outputs = call(&module, "train_step", &rows(per_row));
        ["loss", "z_loss", "accuracy", "tokens", "grad_norm"]
            .map(|name| outputs.get(name).map_or(0.0, |x| x.data.iter().copied().sum::<f64>()))
    };
    let (alone, packed) = (step(&config(6, false, false), 1), step(&config(2, true, false), 3));
    for (a, b) in alone.iter().zip(packed) {
        assert!((a - b).abs() <= 1e-5 * a.abs(), "{alone:?} {packed:?}");
    }
    assert!(alone[0] > 1.0 && alone[4] > 1e-3, "{alone:?}");
}
