//! Generation and scoring with decoder-only models: with and without a cache, in every form of the program,
//! under several layouts, and against the losses of training programs.

use mesh::{Site, task::DecodingMethod};
use models::{
    Activation, Config, Generation, Objective, Switch, config::Positions, generate,
    switch::options::EvalCapacity,
};
use runtime::{
    HostTensor, Session,
    generate::{Generator, Options, Score, Scorer, Sequence},
};
use std::collections::BTreeMap;
use tests::training::session_of;

/// Tokens of the longest input, and of a target.
const SIZES: [usize; 2] = [6, 7];

/// A language model with rotary positions, whose rows are inputs of at most 6 tokens and targets of 7.
fn small() -> Config {
    Config {
        name: "small".into(),
        batch: 4,
        input_length: SIZES[0],
        target_length: SIZES[1],
        objective: Objective::Lm,
        vocab: 40,
        d_model: 16,
        d_ff: 24,
        heads: 4,
        d_kv: 4,
        kv_heads: 2,
        encoder_layers: 0,
        decoder_layers: 2,
        positions: Positions::Rope,
        activation: Activation::GatedSilu,
        // Random tied tables repeat tokens.
        tied: false,
        dropout: 0.0,
        ..Config::default()
    }
}

/// Options of sparse layers that drop no token, so that generation with and without a cache agree.
fn experts() -> Switch {
    Switch { eval_capacity: EvalCapacity::All, init_scale: Some(1.0), ..Switch::top_2(4) }
}

fn relative(config: Config) -> Config {
    Config { positions: Positions::Relative, kv_heads: 0, buckets: 8, max_distance: 16, ..config }
}

/// Models of all kinds of positions, masks and layers. A normal run takes some of them.
fn models() -> Vec<(&'static str, Config)> {
    let prefix = || Config { objective: Objective::PrefixLm, ..small() };
    let shared = Switch { shared_experts: 1, ..experts() };
    let every_other = Switch { sparse_step: 2, ..experts() };
    let mut all = vec![
        ("shared experts", Config { switch: Some(shared), window: 4, ..small() }),
        ("prefix", Config { window: 5, switch: Some(experts()), ..prefix() }),
    ];
    if !is_slow() {
        tests::say_skipped("MESH_SLOW=1 also takes models with position biases and with other tokens");
        return all;
    }
    all.extend([
        ("start token", Config { start_token: 2, eos_token: 3, switch: Some(every_other), ..small() }),
        ("biases", Config { switch: Some(experts()), ..relative(small()) }),
        ("biases of layers", Config { layer_biases: true, window: 5, ..relative(small()) }),
        ("prefix and biases", relative(prefix())),
    ]);
    all
}

fn is_slow() -> bool {
    std::env::var_os("MESH_SLOW").is_some_and(|value| value == "1")
}

/// Inputs of all lengths.
fn inputs() -> Vec<Vec<i32>> {
    [6, 1, 4, 3].into_iter().map(|n| (0..n).map(|at| 4 + (at * 7 + n * 5) % 36).collect()).collect()
}

/// Opens a session with random parameters, which are the same for all programs of a model.
#[track_caller]
fn open(program: mesh::dsl::Program, config: &Config, mesh: &str) -> Session {
    let module = program.finish().unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    let mut session = session_of(module, mesh, &config.layout(), "");
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(5))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
    session
}

/// Generates for all inputs; the best sequence of each comes first.
#[track_caller]
fn generated(config: &Config, options: &Generation, mesh: &str) -> Vec<Vec<Sequence>> {
    let config = &match mesh {
        "" => config.clone(),
        _ => Config { batch: 8, ..config.clone() },
    };
    let mut session = open(generate::program(config, options, &Site::default()), config, mesh);
    let mut all = Vec::new();
    let mut generator = Generator::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
    let given = Options { min_length: 3, seed: 9, temperature: 0.7, ..Options::default() };
    let result = generator.run(&inputs(), &given, &mut |_, sequences| {
        all.push(sequences);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    all
}

#[track_caller]
fn scores(config: &Config, pairs: &[(Vec<i32>, Vec<i32>)], mesh: &str) -> Vec<Score> {
    let batch = if mesh.is_empty() { config.batch } else { 8 };
    let config = &Config { batch, ..config.clone() };
    let mut session = open(models::score::program(config, &Site::default()), config, mesh);
    let mut scorer = Scorer::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
    scorer.run(pairs).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn same(have: &[Vec<Sequence>], want: &[Vec<Sequence>], what: &str) {
    assert_eq!(have.len(), want.len(), "{what}");
    for (have, want) in have.iter().flatten().zip(want.iter().flatten()) {
        assert_eq!(have.tokens, want.tokens, "{what}: {have:?} {want:?}");
        assert!((have.score - want.score).abs() < 2e-4, "{what}: {have:?} {want:?}");
    }
}

#[test]
fn all_forms_of_the_program_give_the_same_tokens() {
    for (name, config) in models() {
        let usual = Generation::default();
        let first = generated(&config, &Generation { looped: Some(false), ..usual.clone() }, "");
        let forms = [
            ("in a loop", Generation { looped: Some(true), steps: 3, ..usual.clone() }),
            (
                "stacked",
                Generation { looped: Some(false), unstacked: Some(false), steps: 7, ..usual.clone() },
            ),
            ("without cache", Generation { cached: false, ..usual.clone() }),
        ];
        for (form, options) in forms {
            // Dense models have no experts to unstack.
            if form == "stacked" && config.switch.is_none() {
                continue;
            }
            same(&generated(&config, &options, ""), &first, &format!("{name}, {form}"));
        }
        let tokens: Vec<&[i32]> = first.iter().map(|s| &s[0].tokens[..]).collect();
        let distinct = tokens.concat().into_iter().collect::<std::collections::BTreeSet<i32>>();
        assert!(distinct.len() > 3, "the sequences are trivial: {name} {tokens:?}");

        // Every token is the most likely one after the input and those before, by the program that scores.
        let pairs = || inputs().into_iter().zip(tokens.iter().map(|t| t.to_vec())).collect::<Vec<_>>();
        // A target cannot have token 0, which is padding.
        let pairs: Vec<_> = pairs().into_iter().filter(|(_, target)| !target.contains(&0)).collect();
        assert!(!pairs.is_empty(), "{name}: {tokens:?}");
        let counted = first.iter().flatten().filter(|s| !s.tokens.contains(&0));
        for (score, sequence) in scores(&config, &pairs, "").iter().zip(counted) {
            assert!((score.log_likelihood - sequence.score).abs() < 2e-4, "{name}: {score:?} {sequence:?}");
            // Before the smallest length, the end token is excluded.
            assert!(score.correct + 3 >= score.tokens, "{name}: {score:?} {sequence:?}");
        }
    }
}

#[test]
fn samples_and_beams_are_the_same_without_a_cache() {
    let sparse = Config { switch: Some(experts()), ..small() };
    let window = is_slow().then(|| ("window", Config { window: 4, ..relative(small()) }));
    for (name, config) in [("sparse", sparse)].into_iter().chain(window) {
        for method in [DecodingMethod::Sample].into_iter().chain(is_slow().then_some(DecodingMethod::Beam)) {
            let options = Generation { method, beams: 3, ..Generation::default() };
            let cached = generated(&config, &options, "");
            let uncached = generated(&config, &Generation { cached: false, ..options }, "");
            same(&cached, &uncached, &format!("{name}, {method:?}"));
            assert_ne!(cached[0][0].tokens, cached[0][1].tokens, "{name}, {method:?}");
        }
    }
}

#[test]
fn rows_that_end_make_room_for_other_inputs() {
    let sparse = Config { switch: Some(experts()), ..small() };
    let biases = is_slow().then(|| Config { layer_biases: true, window: 5, ..relative(small()) });
    let windows =
        Config { window: 5, switch: Some(experts()), objective: Objective::PrefixLm, ..relative(small()) };
    for config in [sparse, windows].into_iter().chain(biases) {
        let options =
            Generation { method: DecodingMethod::Sample, steps: 2, admit: 1, ..Generation::default() };
        let of_batch = |batch: usize| {
            let config = Config { batch, vocab: 12, target_length: 24, ..config.clone() };
            let mut session = open(generate::program(&config, &options, &Site::default()), &config, "");
            let mut generator = Generator::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
            let all: Vec<Vec<i32>> =
                (0..9).map(|i| (0..1 + i % 6).map(|at| 4 + (at * 7 + i * 5) % 8).collect()).collect();
            let mut made = Vec::new();
            let given = Options { seed: 4, temperature: 30.0, ..Options::default() };
            let done = generator.run(&all, &given, &mut |number, sequences| {
                assert_eq!(number, made.len(), "outputs have the order of inputs");
                made.push(sequences);
                Ok(())
            });
            done.unwrap_or_else(|e| panic!("{e}"));
            made
        };
        let (alone, many) = (of_batch(9), of_batch(3));
        same(&many, &alone, "in three rows");
        let lengths: Vec<usize> = alone.iter().map(|s| s[0].tokens.len()).collect();
        assert!(lengths.iter().any(|n| *n != lengths[0]), "{lengths:?}");
    }
}

#[test]
fn layouts_give_the_same_tokens() {
    let sparse = Config { switch: Some(experts()), vocab: 40, ..small() };
    let biases = is_slow().then(|| ("biases", relative(sparse.clone())));
    for (name, config) in [("rotary", sparse)].into_iter().chain(biases) {
        let greedy = Generation::default();
        let beam = Generation { method: DecodingMethod::Beam, beams: 2, ..Generation::default() };
        for options in [beam].into_iter().chain(is_slow().then_some(greedy)) {
            let one = generated(&config, &options, "");
            for mesh in ["data=2,expert=2,model=2", "expert=4,model=2"] {
                let what = format!("{name}, {mesh}, {:?}", options.method);
                same(&generated(&config, &options, mesh), &one, &what);
            }
        }
    }
}

/// Returns the sum of the log-probabilities of a text, by the loss of a training program without inputs.
#[track_caller]
fn by_loss(config: &Config, text: &[i32]) -> f64 {
    let config = &Config { batch: 1, input_length: 0, target_length: SIZES[0] + SIZES[1], ..config.clone() };
    let program = models::program(config, &Site::default());
    let mut session = open(program, config, "");
    let mut row = text.to_vec();
    row.resize(config.target_length, 0);
    let given = BTreeMap::from([("targets".to_owned(), HostTensor::s32(&[1, row.len()], &row))]);
    let outputs = session.call("eval_step", &given).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
    -outputs["loss"].to_f64().expect("a loss is a number")[0] * text.len() as f64
}

#[test]
fn scores_of_continuations_are_differences_of_losses() {
    for (name, config) in models().into_iter().filter(|(_, config)| config.objective == Objective::Lm) {
        let pairs: Vec<_> = inputs().into_iter().map(|input| (input, vec![9, 30, 5, 1])).collect();
        let have = scores(&config, &pairs, "");
        for ((input, target), have) in pairs.iter().zip(have).take(2) {
            let all = [&input[..], &target[..]].concat();
            let want = by_loss(&config, &all) - by_loss(&config, input);
            assert!((have.log_likelihood - want).abs() < 2e-4, "{name}: {have:?} is not {want}");
        }
        // Without an input, the text is the target.
        let have = scores(&config, &[(Vec::new(), vec![9, 30, 5])], "")[0];
        let want = by_loss(&config, &[9, 30, 5]);
        assert!((have.log_likelihood - want).abs() < 2e-4, "{name}: {have:?} is not {want}");
    }
}
