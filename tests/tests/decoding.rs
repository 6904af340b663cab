//! Decoding: beam search against an exhaustive search, and samples against their distribution, under several
//! layouts.

use mesh::random::{THREEFRY_ROUNDS, threefry2x32};
use mesh::task::DecodingMethod;
use mesh::{DType, Dim, Site, dsl::Program};
use models::{
    Activation, Config, Generation, Switch, generate,
    generate::{EarlyStopping, sampling},
    probe,
};
use pjrt::ElementType;
use runtime::{
    HostTensor, Session,
    generate::{Generator, Options, Sequence},
};
use std::collections::BTreeMap;
use tests::training::session_of;

const EOS: usize = 1;

/// A model whose vocabulary is so small that all sequences can be enumerated.
fn tiny(batch: usize, vocab: usize, length: usize) -> Config {
    Config {
        name: "tiny".into(),
        batch,
        input_length: 6,
        target_length: length,
        vocab,
        d_model: 16,
        d_ff: 32,
        heads: 2,
        d_kv: 8,
        encoder_layers: 1,
        decoder_layers: 2,
        dropout: 0.0,
        switch: Some(Switch { sparse_step: 2, ..Switch::hugging_face(4, 64) }),
        ..Config::default()
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

/// Opens a session with random parameters, which are the same for all programs of a model.
#[track_caller]
fn session(program: Program, config: &Config, mesh: &str, parameters: Option<&mut Session>) -> Session {
    let module = program.finish().unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    let mut session = session_of(module, mesh, &config.layout(), "");
    match parameters {
        None => drop(call(&mut session, "init", &[("seed", HostTensor::u32_scalar(5))])),
        Some(from) => {
            let params = from.artefact().manifest.state.iter().map(|s| s.name.clone());
            for name in params.filter(|n| !n.starts_with("kept/")).collect::<Vec<_>>() {
                let value = from.state(&name).unwrap_or_else(|e| panic!("{e}"));
                session.set_state(&name, &value).unwrap_or_else(|e| panic!("{e}"));
            }
        }
    }
    session
}

fn generating(config: &Config, options: &Generation, mesh: &str) -> Session {
    session(generate::program(config, options, &Site::default()), config, mesh, None)
}

#[track_caller]
fn run(session: &mut Session, inputs: &[Vec<i32>], options: &Options) -> Vec<Vec<Sequence>> {
    let mut all = Vec::new();
    let mut generator = Generator::new(session).unwrap_or_else(|e| panic!("{e}"));
    let result = generator.run(inputs, options, &mut |number, sequences| {
        assert_eq!(number, all.len(), "inputs come in order");
        all.push(sequences);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    all
}

/// Returns log-probabilities after the start token and each of `prefixes`, indexed by row, position and
/// token.
#[track_caller]
fn probabilities(
    config: &Config,
    from: &mut Session,
    input: &[i32],
    prefixes: &[Vec<i32>],
) -> Vec<Vec<Vec<f64>>> {
    let rows = prefixes.len();
    let config = Config { batch: rows, ..config.clone() };
    let mut session = session(probe::program(&config, false, &Site::default()), &config, "", Some(from));
    let (length, target) = (config.input_length, config.target_length);
    let mut ids = input.to_vec();
    ids.resize(length, 0);
    let mask: Vec<i32> = ids.iter().map(|t| i32::from(*t != 0)).collect();
    let repeated = |row: &[i32]| HostTensor::s32(&[rows, length], &row.repeat(rows));
    let before = prefixes.iter().flat_map(|p| {
        let mut row = [&[0], &p[..]].concat();
        row.resize(target, 0);
        row
    });
    let before: Vec<i32> = before.collect();
    let mut inputs = vec![
        ("input_ids", repeated(&ids)),
        ("attention_mask", repeated(&mask)),
        ("decoder_input_ids", HostTensor::s32(&[rows, target], &before)),
        ("labels", HostTensor::s32(&[rows, target], &before)),
    ];
    inputs.extend(probe::WEIGHTS.map(|name| (name, HostTensor::f32(&[], &[0.0]))));
    let logits = call(&mut session, "probe", &inputs)["logits"].to_f64().expect("logits are numbers");
    let log_softmax = |logits: &[f64]| {
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        logits.iter().map(|l| l - sum.ln()).collect()
    };
    let row = |row: &[f64]| row.chunks_exact(config.vocab).map(log_softmax).collect();
    logits.chunks_exact(target * config.vocab).map(row).collect()
}

/// Returns all sequences of up to `length` tokens with their log-probabilities.
fn all_sequences(config: &Config, from: &mut Session, input: &[i32]) -> Vec<(Vec<i32>, f64)> {
    let (vocab, length) = (config.vocab as i32, config.target_length);
    let mut prefixes = vec![Vec::new()];
    for _ in 1..length {
        prefixes = prefixes.iter().flat_map(|p| (0..vocab).map(|t| [&p[..], &[t]].concat())).collect();
    }
    let mut all: BTreeMap<Vec<i32>, f64> = BTreeMap::new();
    for (prefix, log) in prefixes.iter().zip(probabilities(config, from, input, &prefixes)) {
        for last in 0..vocab {
            let mut tokens = [&prefix[..], &[last]].concat();
            let end = tokens.iter().position(|t| *t as usize == EOS).map_or(length, |at| at + 1);
            tokens.truncate(end);
            let sum = tokens.iter().zip(&log).map(|(token, log)| log[*token as usize]).sum();
            all.insert(tokens, sum);
        }
    }
    all.into_iter().collect()
}

#[test]
fn a_wide_beam_search_finds_the_best_of_all_sequences() {
    let config = tiny(2, 5, 3);
    let inputs = [vec![3, 4, 2, 1], vec![2, 1]];
    for penalty in [0.0, 1.0, 2.0] {
        let options = Generation {
            method: DecodingMethod::Beam,
            beams: 25,
            steps: 2,
            early: EarlyStopping::Certain,
            ..Generation::default()
        };
        let mut session = generating(&config, &options, "");
        let options = Options { length_penalty: penalty, ..Options::default() };
        let found = run(&mut session, &inputs, &options);
        for (input, found) in inputs.iter().zip(&found) {
            let mut all = all_sequences(&config, &mut session, input);
            all.iter_mut().for_each(|(tokens, score)| *score /= (tokens.len() as f64).powf(penalty.into()));
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (have, (tokens, score)) in found.iter().zip(&all).take(5) {
                assert!((have.score - score).abs() < 1e-4, "{have:?}, not {tokens:?} with {score}");
                assert_eq!(have.tokens, *tokens, "penalty {penalty}");
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_whole_prefix_with_biases_of_every_layer() {
    let base = Config { switch: None, layer_biases: true, ..tiny(2, 7, 5) };
    let config = Config { activation: Activation::GatedSilu, scaled_output: Some(false), ..base };
    let input = vec![3, 4, 2, 6, 1];
    for looped in [false, true] {
        let options = Generation { steps: 5, looped: Some(looped), ..Generation::default() };
        let mut session = generating(&config, &options, "");
        let limits = Options { min_length: 5, ..Options::default() };
        let found = run(&mut session, std::slice::from_ref(&input), &limits).remove(0).remove(0);
        let prefix = found.tokens[..found.tokens.len() - 1].to_vec();
        let all = probabilities(&config, &mut session, &input, &[prefix]).remove(0);
        let score: f64 = all.iter().zip(&found.tokens).map(|(log, token)| log[*token as usize]).sum();
        assert_eq!(found.tokens.len(), 5, "no token but the last ends a sequence");
        assert!((score - found.score).abs() < 1e-4, "{score}, not {}", found.score);
    }
}

#[test]
fn one_beam_is_greedy_and_lengths_are_kept() {
    let config = tiny(4, 12, 8);
    let inputs = [vec![3, 4, 2, 1], vec![2, 1], vec![9, 9, 9, 1], vec![11, 5, 7, 3, 1], vec![4, 1]];
    let greedy = Generation { steps: 3, ..Generation::default() };
    let beam = Generation { method: DecodingMethod::Beam, early: EarlyStopping::First, ..greedy.clone() };
    let (mut greedy, mut beam) = (generating(&config, &greedy, ""), generating(&config, &beam, ""));
    for (min_length, max_length) in [(0, None), (8, None), (3, Some(5)), (0, Some(1))] {
        let options = Options { min_length, max_length, length_penalty: 0.0, ..Options::default() };
        let (a, b) = (run(&mut greedy, &inputs, &options), run(&mut beam, &inputs, &options));
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            assert_eq!(a.tokens, b.tokens, "{options:?}");
            assert!((a.score - b.score).abs() < 1e-4, "{a:?} {b:?}");
            let ended = a.tokens.last() == Some(&1);
            let most = max_length.unwrap_or(8);
            assert!(a.tokens.len() == most || ended && a.tokens.len() > min_length, "{options:?}: {a:?}");
        }
    }
}

#[test]
fn samples_have_their_distribution() {
    let config = tiny(16, 8, 2);
    let input = vec![3, 4, 2, 1];
    let method = Generation { method: DecodingMethod::Sample, beams: 128, steps: 1, ..Generation::default() };
    let mut session = generating(&config, &method, "");
    let log = probabilities(&config, &mut session, &input, &[vec![]])[0][0].clone();
    let cases: [(f32, Option<usize>, f32); 5] =
        [(1.0, None, 1.0), (0.5, None, 1.0), (1.0, Some(3), 1.0), (1.5, None, 0.7), (0.8, Some(5), 0.6)];
    for (temperature, top_k, top_p) in cases {
        // The allowed tokens and their probabilities, computed by sorting on the host.
        let mut likely: Vec<(usize, f64)> =
            log.iter().map(|l| (l / f64::from(temperature)).exp()).enumerate().collect();
        likely.sort_by(|a, b| b.1.total_cmp(&a.1));
        likely.truncate(top_k.unwrap_or(config.vocab));
        let sum: f64 = likely.iter().map(|l| l.1).sum();
        let mut before = 0.0;
        likely.retain(|l| {
            let kept = before < f64::from(top_p);
            before += l.1 / sum;
            kept
        });
        let sum: f64 = likely.iter().map(|l| l.1).sum();

        let options =
            Options { seed: 7, temperature, top_k, top_p, max_length: Some(1), ..Options::default() };
        let drawn = run(&mut session, &vec![input.clone(); config.batch], &options);
        let count =
            |token: usize| drawn.iter().flatten().filter(|s| s.tokens == [token as i32]).count() as f64;
        let total = (config.batch * 128) as f64;
        let allowed: f64 = likely.iter().map(|(token, _)| count(*token)).sum();
        assert_eq!(allowed, total, "only {likely:?} may come");
        let chi_square: f64 = likely
            .iter()
            .map(|(token, weight)| {
                let expected = weight / sum * total;
                (count(*token) - expected).powi(2) / expected
            })
            .sum();
        // The 99.9th percentile with seven degrees of freedom; the seed is fixed.
        assert!(chi_square < 24.3, "{temperature} {top_k:?} {top_p}: chi-square {chi_square}");
    }
}

#[test]
fn samples_are_the_same_under_every_layout_and_in_every_batch() {
    let inputs: Vec<Vec<i32>> = (0..11).map(|i| vec![2 + i % 9, 3 + i % 5, 1]).collect();
    let options = Options { seed: 3, top_k: Some(9), top_p: 0.95, ..Options::default() };
    let drawn = |batch: usize, mesh: &str, method: DecodingMethod| {
        // With unstacked experts, which needs sparse layers in the encoder, and with stacked experts.
        let encoder_layers = if method == DecodingMethod::Sample { 2 } else { 1 };
        let config = Config { heads: 4, encoder_layers, ..tiny(batch, 16, 6) };
        let generation = Generation { method, beams: 2, steps: 4, ..Generation::default() };
        run(&mut generating(&config, &generation, mesh), &inputs, &options)
    };
    for method in [DecodingMethod::Sample, DecodingMethod::Beam] {
        let one = drawn(4, "", method);
        let different = one.iter().flatten().map(|s| &s.tokens).collect::<std::collections::BTreeSet<_>>();
        assert!(different.len() > 5, "inputs and sequences give different samples: {one:?}");
        for (batch, mesh) in
            [(16, ""), (8, "data=8"), (8, "data=2,expert=2,model=2"), (2, "expert=2,model=4")]
        {
            let many = drawn(batch, mesh, method);
            assert_eq!(many.len(), one.len());
            for (a, b) in one.iter().flatten().zip(many.iter().flatten()) {
                assert_eq!(a.tokens, b.tokens, "{method:?}, batch {batch}, {mesh}");
                assert!((a.score - b.score).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn rows_that_end_make_room_for_other_inputs() {
    let inputs: Vec<Vec<i32>> = (0..23).map(|i| vec![2 + i % 9, 3 + i % 5, 4 + i % 7, 1]).collect();
    let options = Options { seed: 3, min_length: 1, ..Options::default() };
    let repetition = generate::repetition::Repetition { penalty: 1.3, ngram: 3 };
    for (method, beams, mesh) in [
        (DecodingMethod::Sample, 1, ""),
        (DecodingMethod::Sample, 2, "data=2,model=4"),
        (DecodingMethod::Beam, 2, ""),
        (DecodingMethod::Greedy, 1, ""),
    ] {
        // Every program takes seconds to compile.
        let is_slow = std::env::var_os("MESH_SLOW").is_some_and(|value| value == "1");
        if !is_slow && (method == DecodingMethod::Greedy || !mesh.is_empty()) {
            tests::say_skipped("MESH_SLOW=1 takes every method and several devices");
            continue;
        }
        let config = |batch| Config { heads: 4, encoder_layers: 2, ..tiny(batch, 16, 14) };
        let generation =
            Generation { method, beams, steps: 2, admit: 2, repetition, ..Generation::default() };
        // All inputs in one batch, and in four rows.
        let alone = run(&mut generating(&config(24), &generation, ""), &inputs, &options);
        let many = run(&mut generating(&config(4), &generation, mesh), &inputs, &options);
        let lengths: std::collections::BTreeSet<usize> =
            alone.iter().map(|sequences| sequences[0].tokens.len()).collect();
        let varied = method != DecodingMethod::Sample || lengths.len() > 4;
        assert!(varied, "{method:?}: the lengths are {lengths:?}");
        assert_eq!(many.len(), alone.len());
        for (number, (a, b)) in alone.iter().flatten().zip(many.iter().flatten()).enumerate() {
            assert_eq!(a.tokens, b.tokens, "{method:?}, {mesh}, sequence {number}");
            assert!((a.score - b.score).abs() < 1e-3, "{method:?}, {mesh}: {a:?} {b:?}");
        }
    }
}

#[test]
fn experts_in_groups_decode_as_without_groups() {
    let flat = Config { heads: 4, encoder_layers: 2, ..tiny(4, 16, 6) };
    let roomy = |expert_groups| Switch {
        expert_groups,
        fixed_capacity: 0,
        group_capacity_factor: 99.0,
        eval_capacity_factor: 99.0,
        ..flat.switch.clone().expect("it has experts")
    };
    let inputs: Vec<Vec<i32>> = (0..8).map(|i| vec![2 + i % 9, 3 + i % 5, 1]).collect();
    let options = Options::default();
    let want = run(&mut generating(&flat, &Generation::default(), ""), &inputs, &options);
    let tokens = |all: &[Vec<Sequence>]| all.iter().flatten().map(|s| s.tokens.clone()).collect::<Vec<_>>();
    for cached in [true, false] {
        let generation = Generation { cached, ..Generation::default() };
        for mesh in ["", "expert=2,inner=2,model=2"] {
            let grouped = Config { switch: Some(roomy(2)), ..flat.clone() };
            let have = run(&mut generating(&grouped, &generation, mesh), &inputs, &options);
            assert_eq!(tokens(&have), tokens(&want), "cached: {cached}, {mesh}");
        }
    }
}

#[test]
fn random_bits_are_those_of_the_language() {
    let p = Program::new("bits");
    let places = Dim::new("places", 5);
    p.function("bits", |g| {
        let word = |name| g.input(name, DType::U32, []);
        let key = [word("seed"), word("position")];
        let input = g.iota(&places, DType::U32) * 77u32;
        g.output("bits", sampling::threefry(key, input));
    });
    let mut session = session_of(p.finish().expect("no mistakes"), "", "", "");
    let word = HostTensor::u32_scalar;
    let bits = &call(&mut session, "bits", &[("seed", word(9)), ("position", word(4_000_000_000))])["bits"];
    assert_eq!(bits.dtype, ElementType::U32);
    let want: Vec<f64> = (0..5u32)
        .map(|i| f64::from(threefry2x32(THREEFRY_ROUNDS, [9, 4_000_000_000], [i * 77, 0])[0]))
        .collect();
    assert_eq!(bits.to_f64().expect("numbers"), want);
}

#[test]
fn wrong_numbers_are_told() {
    let config = tiny(2, 8, 4);
    let method = Generation { method: DecodingMethod::Sample, filter: false, ..Generation::default() };
    let mut session = generating(&config, &method, "");
    let mut generator = Generator::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
    let mut says = |inputs: &[Vec<i32>], options: Options, part: &str| {
        let error = generator.run(inputs, &options, &mut |_, _| Ok(())).expect_err(part).to_string();
        assert!(error.contains(part) && error.contains("help: "), "{error}");
    };
    let good = Options::default();
    let input = [vec![2, 1]];
    says(
        &input,
        Options { temperature: 0.0, ..good },
        "`--temperature` must be a finite number above 0 (got 0)",
    );
    says(&input, Options { temperature: f32::NAN, ..good }, "(got NaN)");
    says(&input, Options { top_p: 0.0, ..good }, "`--top-p` must be above 0");
    says(
        &input,
        Options { top_k: Some(9), ..good },
        "must be from 1 to 8, the size of the vocabulary (got 9)",
    );
    says(&input, Options { top_k: Some(3), ..good }, "filter=true");
    says(&input, Options { max_length: Some(5), ..good }, "target_length=5");
    says(
        &input,
        Options { min_length: 3, max_length: Some(2), ..good },
        "must be at most 2, the maximum length",
    );
    says(&[vec![2, 1], vec![]], good, "input 2 is empty");
    says(&[vec![2; 7]], good, "input_length=7");
    says(&[vec![2, 8]], good, "token 8");
    says(&[vec![2, 0, 1]], good, "token 0");
    for (options, part) in [
        (Generation { beams: 2, ..Generation::default() }, "all beams would be the same"),
        (Generation { steps: 0, ..Generation::default() }, "`steps` must be at least 1, got 0"),
    ] {
        let mistakes = generate::program(&config, &options, &Site::default()).finish().expect_err(part);
        assert!(mistakes.to_string().contains(part), "{mistakes}");
    }
}

/// Experts of several sizes: a step with separate experts, one without a cache, and several devices give the
/// same tokens.
#[test]
fn experts_of_several_sizes_decode_alike() {
    let plain = tiny(4, 16, 6);
    let switch = plain.switch.clone().map(|s| Switch { expert_sizes: "32x2,48x2".parse().unwrap(), ..s });
    let config = Config { switch, ..plain };
    let inputs: Vec<Vec<i32>> = (0..8).map(|i| vec![2 + i % 9, 3 + i % 5, 1]).collect();
    let tokens = |cached, mesh| {
        let generation = Generation { cached, ..Generation::default() };
        let all = run(&mut generating(&config, &generation, mesh), &inputs, &Options::default());
        all.iter().flatten().map(|s| s.tokens.clone()).collect::<Vec<_>>()
    };
    let want = tokens(true, "");
    assert!(want.iter().any(|row| row != &want[0]), "{want:?}");
    for (cached, mesh) in [(false, ""), (true, "expert=2,model=2"), (false, "expert=2,data=2")] {
        assert_eq!(tokens(cached, mesh), want, "cached: {cached}, {mesh}");
    }
}
