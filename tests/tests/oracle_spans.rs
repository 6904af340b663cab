//! Span corruption against t5 0.9.4: `span_corruption` of the reference folder.
//!
//! The folder is `../shared/oracle` beside the repository, or `MESH_ORACLE`. It is not part of the
//! repository; without it the tests are skipped with a message.

use data::{SpanCorruption, order::Rng, spans::replace};
use serde_json::Value;
use std::fs;
use tests::oracle;

/// Returns the reference numbers, or `None` if the folder does not exist.
fn reference() -> Option<Value> {
    let path = oracle::folder()?.join("span_corruption/expected.json");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    Some(serde_json::from_slice(&bytes).expect("the reference is JSON"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("`{key}` is a list"))
}

fn tokens(example: &Value, key: &str) -> Vec<i32> {
    list(example, key).iter().map(|t| t.as_i64().expect("tokens are whole numbers") as i32).collect()
}

fn size(value: &Value, key: &str) -> usize {
    value[key].as_u64().unwrap_or_else(|| panic!("`{key}` is a size")) as usize
}

fn corruption(value: &Value) -> SpanCorruption {
    let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("`{key}` is a number"));
    SpanCorruption { density: number("noise_density"), mean_span: number("mean_noise_span_length") }
}

fn mask(example: &Value) -> Vec<bool> {
    let text = example["mask"].as_str().expect("a mask is text");
    text.chars().map(|c| c == '1').collect()
}

/// Returns the number of removed tokens and of spans.
fn counts(mask: &[bool]) -> (usize, usize) {
    let starts = mask.iter().enumerate().filter(|(i, m)| **m && (*i == 0 || !mask[i - 1])).count();
    (mask.iter().filter(|m| **m).count(), starts)
}

#[test]
fn masks_become_the_same_inputs_and_targets() {
    let Some(reference) = reference() else { return };
    let last = size(&reference, "vocab_size") as i32 - 1;
    let examples = list(&reference, "examples");
    assert!(!examples.is_empty());
    for example in examples {
        let (text, mask) = (tokens(example, "tokens"), mask(example));
        assert_eq!(text.len(), mask.len());
        let sentinel = |span: usize| last - span as i32;
        assert_eq!(replace(&text, mask.iter().copied(), sentinel), tokens(example, "inputs"), "{example}");
        assert_eq!(
            replace(&text, mask.iter().map(|m| !m), sentinel),
            tokens(example, "targets"),
            "{example}"
        );
    }
}

#[test]
fn masks_have_as_much_noise_in_as_many_spans() {
    let Some(reference) = reference() else { return };
    let mut compared = 0;
    for example in list(&reference, "examples") {
        if example["by_hand"].as_bool() == Some(true) {
            continue;
        }
        let (theirs, spans) = (mask(example), corruption(example));
        for key in 0..20 {
            let ours = spans.mask(theirs.len(), &mut Rng::keyed(&[key]));
            assert_eq!(ours.len(), theirs.len());
            assert_eq!(counts(&ours), counts(&theirs), "{example}");
            assert!(!ours[0], "a mask begins with text");
        }
        compared += 1;
    }
    assert!(compared > 20, "{compared} masks of the sampler");
}

#[test]
fn examples_are_as_long() {
    let Some(reference) = reference() else { return };
    let lengths = list(&reference, "lengths");
    assert!(!lengths.is_empty());
    for case in lengths {
        let ours = corruption(case).helper(size(case, "inputs_length"));
        let theirs = (size(case, "tokens_length"), size(case, "targets_length"));
        assert_eq!((ours.raw, ours.target), theirs, "{case}");
    }
}
