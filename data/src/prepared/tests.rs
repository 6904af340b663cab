//! Tests of prepared tokens.

use super::{
    manifest::{DOCUMENTS, MANIFEST, TOKENS},
    *,
};
use crate::{Pieces, Reading, Result, Tokenizer, Tokens, tokenizer::tests::words};
use std::{fs, path::Path};

/// Text files and files with documents, ordered so that every kind follows every kind.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"a bb ccc\"}\n{\"text\": \"dddd a\"}\n";
    for (name, text) in
        [("a.txt", "a bb "), ("b.txt", "ccc a"), ("c.jsonl", lines), ("d.jsonl", lines), ("e.txt", "bb bb")]
    {
        fs::create_dir_all(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in").join(name), text).unwrap();
    }
    dir
}

fn prepared(place: &Path, tokenizer: &Tokenizer) -> Result<PreparedTokens> {
    prepare(&[place.join("in")], &Reading::default(), tokenizer, &place.join("out"), &mut |_, _| ())
}

#[test]
fn prepared_tokens_are_those_of_the_text() {
    for tokenizer in [Tokenizer::Bytes, words(300, &[299, 298]), words(70_000, &[])] {
        let dir = folder();
        let stored = Tokens::of_prepared(prepared(dir.path(), &tokenizer).unwrap(), None).unwrap();
        let text = Tokens::open(&[dir.path().join("in")], &Reading::default(), Some(&tokenizer)).unwrap();
        let all = |tokens: &Tokens| tokens.read(0..tokens.len()).unwrap();
        assert_eq!(all(&stored), all(&text));
        assert_eq!(stored.ends().unwrap(), text.ends().unwrap());
        assert_eq!(stored.digest(), text.digest());
        assert_eq!(stored.read(3..5).unwrap(), text.read(3..5).unwrap());
        assert_eq!((stored.provenance().bytes, stored.provenance().files), (text.provenance().bytes, 5));
        assert_eq!(stored.tokenizer().identity(), tokenizer.identity());
        assert_eq!(stored.tokenizer().sentinels(80_000, 2).unwrap(), tokenizer.sentinels(80_000, 2).unwrap());
        // Three text files and four lines; an end token separates lines from each other and from text files.
        let stored = PreparedTokens::open(&dir.path().join("out")).unwrap();
        assert_eq!((stored.documents().unwrap().len(), stored.ends().unwrap().len()), (7, 5));
    }
}

#[track_caller]
fn fails(result: Result<impl Sized>, parts: &[&str]) {
    let error = result.err().expect("this fails").to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_changed_bit_or_a_missing_byte_is_found() {
    let dir = folder();
    prepared(dir.path(), &words(300, &[])).unwrap();
    let out = dir.path().join("out");
    for name in [TOKENS, DOCUMENTS] {
        let whole = fs::read(out.join(name)).unwrap();
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1 << (at % 8);
            fs::write(out.join(name), altered).unwrap();
            fails(PreparedTokens::open(&out), &["damaged", name, "help:"]);
        }
        fs::write(out.join(name), &whole[..whole.len() - 1]).unwrap();
        fails(PreparedTokens::open(&out), &["damaged", name, "bytes"]);
        fs::write(out.join(name), &whole).unwrap();
    }
    let manifest = fs::read_to_string(out.join(MANIFEST)).unwrap();
    fs::write(out.join(MANIFEST), manifest.replace("\"version\": 1", "\"version\": 9")).unwrap();
    fails(PreparedTokens::open(&out), &["version 9"]);
    fs::write(out.join(MANIFEST), &manifest[..manifest.len() - 9]).unwrap();
    fails(PreparedTokens::open(&out), &["damaged", "manifest"]);
    let other = manifest.replace("\"width\": 2", "\"width\": 0");
    fs::write(out.join(MANIFEST), &other).unwrap();
    fails(PreparedTokens::open(&out), &["damaged", "digest of its manifest"]);
    // Directories of earlier versions have no digest of the manifest.
    let digest = other.find("\"manifest_digest\"").unwrap();
    fs::write(out.join(MANIFEST), format!("{}\"manifest_digest\": null\n}}", &other[..digest])).unwrap();
    fails(PreparedTokens::open(&out), &["damaged", "0 bytes"]);
    fs::write(out.join(MANIFEST), manifest).unwrap();
    fs::remove_file(out.join(TOKENS)).unwrap();
    assert!(PreparedTokens::is_at(&out));
    fails(PreparedTokens::open(&out), &["opening the tokens"]);
}

#[test]
fn a_failed_preparation_leaves_no_files() {
    let dir = folder();
    let names = || {
        let entries = fs::read_dir(dir.path()).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    fs::write(dir.path().join("in/f.jsonl"), "{\"text\": 1}").unwrap();
    fails(prepared(dir.path(), &Tokenizer::Bytes), &["f.jsonl", "line 1"]);
    assert_eq!(names(), ["in"]);
    fs::remove_file(dir.path().join("in/f.jsonl")).unwrap();
    prepared(dir.path(), &Tokenizer::Bytes).unwrap();
    fails(prepared(dir.path(), &Tokenizer::Bytes), &["out` exists already"]);
    let out = dir.path().join("out");
    let stored = || PreparedTokens::open(&out).unwrap();
    fails(Tokens::of_prepared(stored(), Some(&words(300, &[]))), &["`bytes`", "not by `words` (the digest)"]);
    fails(
        Tokens::open(&[out.clone(), dir.path().join("in")], &Reading::default(), None),
        &["prepared tokens", "other data"],
    );
    let record = TokenizerRecord::of(&words(300, &[]));
    fails(record.encode("a"), &["`words`", "--tokenizer"]);
}
