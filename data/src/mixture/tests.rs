//! Tests of batches: order, noise, windows, packed rows, mixtures, and input that does not fit.

use super::*;
use crate::{
    Bytes, Loader, Objective,
    tokenizer::{FIRST_BYTE, tests::words},
};
use std::{collections::BTreeSet, sync::Arc};

const SPEC: BatchSpec = BatchSpec {
    batch: 4,
    input_length: 32,
    target_length: 16,
    vocab: 300,
    objective: Objective::SpanCorruption,
    packing: false,
    special_tokens: SpecialTokens { pad: PAD as u32, eos: EOS as u32, sentinels: None },
};
const PAD: i32 = 0;
const EOS: i32 = 1;

/// A text in which all windows differ.
fn text(bytes: usize) -> Text {
    Text::new((0..bytes / 5).flat_map(|i| format!("{i:04} ").into_bytes()).collect::<Vec<u8>>())
}

fn source(bytes: usize, held_out: f64) -> Mixture {
    Mixture::of_text(text(bytes), SPEC, &Options { held_out, ..Options::default() }).unwrap()
}

impl Mixture {
    fn bytes(&self) -> Vec<u8> {
        let tokens = &self.corpora[0].corpus.tokens;
        let all = tokens.read(0..tokens.len()).unwrap();
        all.into_iter().map(|token| (token - FIRST_BYTE) as u8).collect()
    }
}

/// Restores the text of an example: inserts the spans of the target into the input.
fn restored(input: &[i32], target: &[i32]) -> Vec<u8> {
    let bytes = Bytes::new(SPEC.vocab, 4).unwrap();
    let mut out = Vec::new();
    for token in input {
        match bytes.byte(*token) {
            Some(byte) => out.push(byte),
            None if *token == EOS || *token == PAD => {}
            None => {
                let at = target.iter().position(|t| t == token).expect("the target has the sentinel");
                out.extend(target[at + 1..].iter().map_while(|t| bytes.byte(*t)));
            }
        }
    }
    out
}

fn examples(batch: &Batch) -> Vec<Vec<u8>> {
    let inputs = batch.inputs.chunks(SPEC.input_length);
    inputs.zip(batch.targets.chunks(SPEC.target_length)).map(|(i, t)| restored(i, t)).collect()
}

/// Checks that all rows of a text are in held-out batches, each once, and the tokens of all batches.
#[test]
fn a_text_that_is_held_out_as_a_whole_is_evaluated_as_a_whole() {
    for packing in [false, true] {
        let spec = BatchSpec { batch: 4, input_length: 0, objective: Objective::Lm, packing, ..SPEC };
        let spec = BatchSpec { target_length: 8, input_length: usize::from(packing) * 8, ..spec };
        let text = Text::new("x".repeat(7 * 10 + 3).into_bytes());
        let options = Options { held_out: 1.0, ..Options::default() };
        let mixture = Mixture::of_text(text, spec, &options).unwrap();
        assert_eq!((mixture.train_rows(), mixture.epoch_batches()), (0, 0));
        let rows = mixture.held_out_rows();
        assert_eq!((rows, mixture.held_out_batches()), (10 + usize::from(packing), 3));
        assert_eq!((mixture.held_out_rows_of(2), mixture.held_out_rows_of(9)), (8, rows));
        assert_eq!(mixture.left_over(), if packing { 0 } else { 3 });
        let targets = (0..3).map(|n| mixture.held_out_batch(n).unwrap().target_tokens()).sum::<usize>();
        assert_eq!(targets, 80 + if packing { 4 } else { 0 });
        let error = mixture.batch(0, 0).unwrap_err().to_string();
        assert!(error.contains("all rows are held out"), "{error}");
    }
}

#[test]
fn an_epoch_has_every_window_once_and_the_next_one_in_another_order() {
    let source = source(5000, 0.0);
    let (raw, windows) = (source.lengths().raw, source.train_rows());
    let bytes = source.bytes();
    let all: BTreeSet<&[u8]> = bytes.chunks_exact(raw).collect();
    let read: Vec<Vec<u8>> =
        (0..windows.div_ceil(2) as u64).flat_map(|step| examples(&source.batch(5, step).unwrap())).collect();
    let (first, second) = (&read[..windows], &read[windows..2 * windows]);
    for epoch in [first, second] {
        assert_eq!(epoch.iter().map(Vec::as_slice).collect::<BTreeSet<_>>(), all);
    }
    assert_ne!(first, second);
    assert_ne!(examples(&source.batch(5, 0).unwrap()), examples(&source.batch(6, 0).unwrap()));
    assert_eq!(source.digest(), self::source(5000, 0.0).digest());
    assert_ne!(source.digest(), self::source(5000, 0.1).digest());
    assert_ne!(source.digest(), self::source(5005, 0.0).digest());
}

#[test]
fn noise_differs_between_epochs_and_seeds_and_batches_repeat() {
    let source = source(40, 0.0);
    assert_eq!(source.train_rows(), 1);
    let batch = source.batch(0, 0).unwrap();
    let rows: BTreeSet<&[i32]> = batch.inputs.chunks(SPEC.input_length).collect();
    assert!(rows.len() > 1, "the same window, four epochs");
    assert_eq!(batch, source.batch(0, 0).unwrap());
    assert_ne!(batch, source.batch(1, 0).unwrap());
    assert_ne!(batch, source.batch(0, 1).unwrap());
}

#[test]
fn inputs_and_targets_end_and_are_padded() {
    let source = source(2000, 0.0);
    let Lengths { input, target, .. } = *source.lengths();
    let batch = source.batch(0, 3).unwrap();
    for (row, len) in batch
        .inputs
        .chunks(SPEC.input_length)
        .map(|r| (r, input))
        .chain(batch.targets.chunks(SPEC.target_length).map(|r| (r, target)))
    {
        assert_eq!(row[len - 1], EOS);
        assert!(row[..len - 1].iter().all(|t| *t > EOS) && row[len..].iter().all(|t| *t == PAD));
    }
    assert_eq!(batch.tokens(), SPEC.batch * (input + target));
    assert_eq!(batch.inputs.len(), SPEC.batch * SPEC.input_length);
    assert_eq!(batch.targets.len(), SPEC.batch * SPEC.target_length);
}

#[test]
fn held_out_windows_are_never_trained_on() {
    let source = source(5000, 0.1);
    let (train, held_out) = (source.train_rows(), source.held_out_rows());
    let tested: Vec<Vec<u8>> =
        (0..source.held_out_batches()).flat_map(|n| examples(&source.held_out_batch(n).unwrap())).collect();
    let tested: BTreeSet<_> = tested.into_iter().filter(|e| !e.is_empty()).collect();
    assert_eq!((tested.len(), held_out), (held_out, (train + held_out).div_ceil(10)));
    for step in 0..train as u64 {
        assert!(examples(&source.batch(1, step).unwrap()).iter().all(|e| !tested.contains(e)));
    }
    let last = source.held_out_batch(source.held_out_batches() - 1).unwrap();
    let rows = last.targets.chunks(SPEC.target_length).filter(|r| r.iter().any(|t| *t != PAD)).count();
    assert_eq!(rows, (held_out - 1) % SPEC.batch + 1);
}

#[test]
fn the_loader_gives_the_same_batches_and_stops_when_dropped() {
    let source: Arc<dyn BatchSource> = Arc::new(source(2000, 0.0));
    let mut loader = Loader::start(Arc::clone(&source), 3, 5..9, Rows::all(), 2).unwrap();
    for step in 5..9 {
        assert_eq!(loader.next().unwrap().unwrap().0, source.batch(3, step).unwrap());
    }
    assert!(loader.next().is_none());
    let mut endless = Loader::start(source, 3, 0..u64::MAX / 8, Rows::all(), 2).unwrap();
    assert!(endless.next().is_some());
    drop(endless);
}

#[test]
fn input_that_does_not_fit_is_an_error() {
    let fails = |text: Text, spec: BatchSpec, held_out: f64, parts: &[&str]| {
        let options = Options { held_out, ..Options::default() };
        let error = Mixture::of_text(text, spec, &options).unwrap_err().to_string();
        assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    };
    fails(text(20), SPEC, 0.0, &["too short: 20 bytes", "at least 34 bytes"]);
    fails(text(40), SPEC, 0.1, &["too short: 40 bytes", "at least 68 bytes"]);
    fails(text(4000), BatchSpec { vocab: 256, ..SPEC }, 0.0, &["vocabulary of 256", "at least 261"]);
    fails(text(4000), BatchSpec { target_length: 4, ..SPEC }, 0.0, &["target_length", "at least 8"]);
    fails(text(4000), BatchSpec { input_length: 2, ..SPEC }, 0.0, &["input_length"]);
    fails(text(4000), BatchSpec { batch: 0, ..SPEC }, 0.0, &["batches of 0 rows"]);
    fails(text(20), SPEC, 1.0, &["too short: 20 bytes", "at least 34 bytes"]);
    fails(text(4000), SPEC, 1.5, &["held-out share must be in [0, 1], got 1.5"]);
}
#[test]
fn examples_use_the_sentinels_of_the_tokenizer() {
    let spec = BatchSpec { vocab: 40, ..SPEC };
    let options = Options { tokenizer: words(30, &[29, 28, 27, 26]), ..Options::default() };
    // Words of 1 to 7 letters.
    let text = Text::new((0..2000).map(|i| "x".repeat(1 + i * i % 7) + " ").collect::<String>());
    let source = Mixture::of_text(text.clone(), spec, &options).unwrap();
    assert_eq!((source.tokens(), source.train_rows()), (2000, 2000 / source.lengths().raw));
    let batch = source.batch(1, 2).unwrap();
    assert_eq!(batch, source.batch(1, 2).unwrap());
    for row in batch.inputs.chunks(spec.input_length) {
        assert_eq!(row.iter().filter(|t| **t > 25).copied().collect::<Vec<_>>(), [29, 28]);
    }
    let digest = |tokenizer: Tokenizer, vocab: usize| {
        let options = Options { tokenizer, ..Options::default() };
        Mixture::of_text(text.clone(), BatchSpec { vocab, ..SPEC }, &options).unwrap().digest()
    };
    assert_ne!(digest(Tokenizer::Bytes, 300), digest(words(30, &[]), 300));
    let error = Mixture::of_text(self::text(40), spec, &options).unwrap_err().to_string();
    assert!(error.contains("too short: 8 tokens") && error.contains("at least 34 tokens"), "{error}");
}

#[test]
fn an_end_token_separates_documents() {
    let together = text(2000);
    let mut apart = together.clone();
    apart.ends = vec![10, 2000];
    let source = |text: Text| Mixture::of_text(text, SPEC, &Options::default()).unwrap();
    assert_ne!(source(together.clone()).digest(), source(apart.clone()).digest());
    assert_eq!((source(together).tokens(), source(apart.clone()).tokens()), (2000, 2002));
    let source = source(apart);
    let all = source.corpora().next().unwrap().tokens.read(0..2002).unwrap();
    assert_eq!((all[9], all[10], all[11], all[2001]), (3 + 32, EOS, 3 + 48, EOS));
    assert_eq!(all.iter().filter(|t| **t == EOS).count(), 2);
}

/// `count` documents of various lengths that repeat one letter.
fn documents(letter: u8, count: usize) -> Text {
    let mut text = Text::new(Vec::new());
    for i in 0..count {
        text.bytes.extend(vec![letter; 3 + i * i % 11]);
        text.ends.push(text.bytes.len());
    }
    text
}

fn corpus(name: &str, rate: Option<f64>, text: Text) -> Corpus {
    Corpus { name: name.into(), rate, tokens: Tokens::of_text(&text, &Tokenizer::Bytes).unwrap() }
}

/// The examples of a row, separated by segment.
fn segments(batch: &Batch, row: usize) -> Vec<(Vec<i32>, Vec<i32>)> {
    let [inputs, targets] = batch.segments.as_ref().expect("the spec is packed");
    let of = |tokens: &[i32], segments: &[i32], length: usize, number: i32| -> Vec<i32> {
        let row = row * length..(row + 1) * length;
        tokens[row.clone()]
            .iter()
            .zip(&segments[row])
            .filter(|(_, s)| **s == number)
            .map(|(t, _)| *t)
            .collect()
    };
    let most = inputs.iter().max().copied().unwrap_or(0);
    (1..=most)
        .map(|n| {
            let input = of(&batch.inputs, inputs, SPEC.input_length, n);
            (input, of(&batch.targets, targets, SPEC.target_length, n))
        })
        .filter(|(input, _)| !input.is_empty())
        .collect()
}

#[test]
fn packed_rows_have_every_document_once_an_epoch() {
    for objective in [Objective::SpanCorruption, Objective::PrefixLm, Objective::Lm] {
        let spec = BatchSpec { packing: true, objective, target_length: 32, ..SPEC };
        let source = Mixture::of_text(documents(b'a', 200), spec, &Options::default()).unwrap();
        let rows = source.train_rows();
        assert!(rows < 120 && source.examples_per_row().unwrap() > 1.6, "{objective:?}: {rows} rows");
        let task_rows = |batch: &Batch| -> Vec<usize> {
            (0..spec.batch)
                .flat_map(|row| {
                    let [inputs, targets] = batch.segments.as_ref().unwrap();
                    let of = |tokens: &[i32], segments: &[i32], length: usize| {
                        let (tokens, segments) =
                            (&tokens[row * length..][..length], &segments[row * length..][..length]);
                        let mut text = vec![0; 40];
                        for (token, segment) in tokens.iter().zip(segments) {
                            assert_eq!(*token == PAD, *segment == 0);
                            text[*segment as usize] += usize::from(*token == i32::from(b'a') + 3);
                        }
                        // Segment numbers ascend, and padding follows them.
                        let real = segments.iter().filter(|s| **s > 0).count();
                        assert!(segments[..real].is_sorted() && segments[real..].iter().all(|s| *s == 0));
                        text
                    };
                    let (i, t) = (
                        of(&batch.inputs, inputs, spec.input_length),
                        of(&batch.targets, targets, spec.target_length),
                    );
                    i.into_iter().zip(t).skip(1).map(|(i, t)| i + t).filter(|n| *n > 0).collect::<Vec<_>>()
                })
                .collect()
        };
        // All complete batches of one epoch.
        let mut lengths: Vec<usize> = Vec::new();
        for step in 0..(rows / spec.batch) as u64 {
            lengths.extend(task_rows(&source.batch(3, step).unwrap()));
        }
        let mut all: Vec<usize> = (0..200).map(|i| 3 + i * i % 11).collect();
        let left = rows % spec.batch;
        lengths.sort_unstable();
        all.sort_unstable();
        if left == 0 {
            assert_eq!(lengths, all, "{objective:?}");
        } else {
            assert!(lengths.len() < 200 && lengths.len() + 40 > 200, "{} examples", lengths.len());
        }
        assert_eq!(source.batch(3, 5).unwrap(), source.batch(3, 5).unwrap());
        assert_ne!(source.batch(3, 5).unwrap(), source.batch(4, 5).unwrap());
    }
    let spec = BatchSpec { packing: true, ..SPEC };
    let source =
        Mixture::of_text(documents(b'a', 100), spec, &Options { held_out: 0.2, ..Options::default() })
            .unwrap();
    let held: usize = (0..source.held_out_batches())
        .map(|n| source.held_out_batch(n).unwrap())
        .map(|batch| (0..4).map(|row| segments(&batch, row).len()).sum::<usize>())
        .sum();
    assert_eq!(held, 20);
    let error = Mixture::of_text(Text::new("a"), spec, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("too short: 1 bytes"), "{error}");
}

#[test]
fn corpora_are_mixed_by_their_rates_at_any_step() {
    let texts = || {
        vec![
            corpus("de", Some(1.0), Text::new("d".repeat(4000))),
            corpus("en", Some(3.0), Text::new("e".repeat(900))),
        ]
    };
    let source = Mixture::new(texts(), SPEC, &Options { held_out: 0.1, ..Options::default() }).unwrap();
    assert_eq!(source.shares().collect::<Vec<_>>(), [0.25, 0.75]);
    let letter = |batch: &Batch, row: usize| batch.inputs[row * SPEC.input_length] - 3;
    let count = |letter_: u8| {
        (0..500)
            .flat_map(|step| {
                let batch = source.batch(1, step).unwrap();
                (0..4).filter(|row| letter(&batch, *row) == i32::from(letter_)).collect::<Vec<_>>()
            })
            .count()
    };
    let (german, english) = (count(b'd'), count(b'e'));
    assert_eq!(german + english, 2000);
    assert!((430..570).contains(&german), "{german}");
    // A new mixture gives the same batch when it is asked for that step alone.
    let again = Mixture::new(texts(), SPEC, &Options { held_out: 0.1, ..Options::default() }).unwrap();
    assert_eq!(again.batch(1, 333).unwrap(), source.batch(1, 333).unwrap());
    assert_eq!(again.digest(), source.digest());
    // Each held-out batch is from one corpus, in round-robin order.
    let held: Vec<_> = (0..source.held_out_batches()).map(|n| source.held_out_corpus(n).unwrap()).collect();
    assert_eq!(held[..3], ["de", "en", "de"]);
    for (number, name) in held.iter().enumerate() {
        let batch = source.held_out_batch(number).unwrap();
        assert_eq!(letter(&batch, 0), i32::from(name.as_bytes()[0]), "{name}");
    }
    // Shares follow size, and are more uniform with a higher temperature.
    let sized = |temperature| {
        let texts = texts().into_iter().map(|t| Corpus { rate: None, ..t }).collect();
        let temperature = Temperature { temperature, ..Temperature::default() };
        Mixture::new(texts, SPEC, &Options { temperature, ..Options::default() })
            .unwrap()
            .shares()
            .next()
            .unwrap()
    };
    let (raw, windows) = (source.lengths().raw, |n: usize| (n / source.lengths().raw) as f64);
    assert!((sized(1.0) - windows(4000) / (windows(4000) + windows(900))).abs() < 1e-4, "{raw}");
    assert!(sized(1.0) > sized(3.0) && sized(3.0) > 0.5);
    let other = corpus("fr", None, text(4000));
    let short = corpus("xx", None, text(10));
    for (texts, part) in [
        (vec![], "no corpus"),
        (vec![other.clone(), short], "corpus `xx` is too short"),
        (vec![other.clone(), Corpus { rate: Some(1.0), ..other.clone() }], "`fr` has none"),
        (
            vec![
                other,
                Corpus {
                    tokens: Tokens::of_text(&text(9000), &words(30, &[])).unwrap(),
                    ..corpus("w", None, text(40))
                },
            ],
            "by `words`",
        ),
    ] {
        let error = Mixture::new(texts, SPEC, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_process_builds_only_its_rows_and_knows_the_sizes_of_all() {
    let sets = [vec![1..2, 1..2], vec![0..1, 2..4], vec![], vec![0..4, 1..3]].map(Rows::of);
    for objective in [Objective::SpanCorruption, Objective::PrefixLm, Objective::Lm] {
        for (packing, input_length) in [(false, 32), (true, 32), (false, 0)] {
            if input_length == 0 && objective != Objective::Lm {
                continue;
            }
            let spec = BatchSpec { objective, packing, input_length, ..SPEC };
            let texts = ["a", "b"].map(|name| corpus(name, None, documents(name.as_bytes()[0], 70)));
            let options = Options { held_out: 0.1, ..Options::default() };
            let source = Mixture::new(texts.into(), spec, &options).unwrap();
            let batches: Vec<[Batch; 5]> = (0..6)
                .map(|step| {
                    let some = |rows: &Rows| source.batch_rows(3, step, rows).unwrap();
                    [
                        source.batch(3, step).unwrap(),
                        some(&sets[0]),
                        some(&sets[1]),
                        some(&sets[2]),
                        some(&sets[3]),
                    ]
                })
                .chain((0..source.held_out_batches()).map(|number| {
                    let some = |rows: &Rows| source.held_out_batch_rows(number, rows).unwrap();
                    let whole = source.held_out_batch(number).unwrap();
                    [whole, some(&sets[0]), some(&sets[1]), some(&sets[2]), some(&sets[3])]
                }))
                .collect();
            for [whole, parts @ ..] in &batches {
                for (rows, part) in sets.iter().zip(parts) {
                    check_rows(whole, rows, part);
                }
            }
        }
    }
}

/// Checks that `part` has the rows `rows` of `whole`, padding elsewhere, and the numbers of tokens of
/// `whole`.
#[track_caller]
fn check_rows(whole: &Batch, rows: &Rows, part: &Batch) {
    assert_eq!((part.tokens(), part.target_tokens()), (whole.tokens(), whole.target_tokens()));
    assert_eq!(part.row_target_tokens().collect::<Vec<_>>(), whole.row_target_tokens().collect::<Vec<_>>());
    assert_eq!(part.corpora, whole.corpora);
    for ((role, all), (same, some)) in whole.arrays().zip(part.arrays()) {
        assert_eq!((role, all.len()), (same, some.len()));
        let length = all.len() / whole.size;
        for row in 0..whole.size {
            let (all, some) = (&all[row * length..][..length], &some[row * length..][..length]);
            if rows.contains(row) { assert_eq!(all, some) } else { assert!(some.iter().all(|t| *t == PAD)) }
        }
    }
}
