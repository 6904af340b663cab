//! SentencePiece models against the SentencePiece library: tokens of texts, and texts of tokens.
//!
//! `sentencepiece/` has small models of every kind, texts that are hard to tokenize, and what the library
//! gives for them, written by `sentencepiece/reference.py`. `MESH_SLOW=1` compares large models and 100,000
//! texts with the library itself, which it installs into `target/`.

use data::{FileTokenizer, Pieces};
use rayon::prelude::*;
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

#[test]
fn hard_texts_have_the_tokens_that_the_library_gives_them() {
    let compared = compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sentencepiece"));
    assert!(compared >= 14 * 200, "{compared} texts");
}

#[test]
fn random_texts_have_the_tokens_that_the_library_gives_them() {
    if env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        eprintln!("skipped: MESH_SLOW=1 compares 100,000 texts by every model with the library");
        return;
    }
    let count = env::var("MESH_TEXTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let seed = env::var("MESH_SEED").unwrap_or_else(|_| "1".into());
    let folder = tempfile::tempdir().expect("a folder for the reference");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sentencepiece/reference.py");
    run(Command::new(python()).arg(script).arg(folder.path()).arg(count.to_string()).arg(seed));
    let compared = compare(folder.path());
    assert!(compared >= 14 * count, "{compared} texts");
}

/// Installs the library into a virtual environment and returns its Python.
fn python() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sentencepiece-0.2.3");
    let python = place.join("bin/python");
    if !place.join("done").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&place));
        let packages = ["sentencepiece==0.2.3", "protobuf==7.36.2"];
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages));
        fs::write(place.join("done"), "").expect("the environment can be written");
    }
    python
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Compares every model of a folder with its reference. Returns the number of texts, summed over models.
fn compare(folder: &Path) -> usize {
    let texts: Vec<String> = lines(&folder.join("texts.jsonl"));
    let mut models: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder of models")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "model"))
        .collect();
    models.sort();
    let mut wrong = Vec::new();
    for model in &models {
        let tokenizer = data::tokenizer::open(model).unwrap_or_else(|e| panic!("{e}"));
        let reference: Vec<(Vec<i32>, String)> = lines(&model.with_extension("jsonl"));
        assert_eq!(reference.len(), texts.len(), "{}", model.display());
        let found: Vec<String> = texts
            .par_iter()
            .zip(&reference)
            .filter_map(|(text, (tokens, decoded))| difference(&tokenizer, text, tokens, decoded))
            .collect();
        eprintln!("{}: {} texts, {} differ", model.display(), texts.len(), found.len());
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", model.display())));
    }
    let few = wrong[..wrong.len().min(20)].join("\n");
    assert!(wrong.is_empty(), "{} texts differ:\n{few}", wrong.len());
    models.len() * texts.len()
}

fn difference(it: &Arc<FileTokenizer>, text: &str, tokens: &[i32], decoded: &str) -> Option<String> {
    let theirs: Vec<i32> = tokens.iter().map(|token| token + it.offset()).collect();
    let ours = it.encode(text).unwrap_or_else(|e| panic!("{e}"));
    if ours != theirs {
        return Some(format!("{text:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
    }
    let back = it.decode(&theirs).unwrap_or_else(|e| panic!("{e}"));
    (back != decoded).then(|| format!("{theirs:?}\n  ours   {back:?}\n  theirs {decoded:?}"))
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("the reference is JSON lines");
        serde_json::from_value(value).expect("the reference has this form")
    };
    text.lines().map(line).collect()
}
