//! Sentinels of a directory with a SentencePiece model and without a `tokenizer.json`.
//!
//! They are not in T5's `spiece.model`: transformers' `T5Tokenizer` adds `extra_ids` tokens after its pieces,
//! of which the last is `<extra_id_0>`, and those of the model's vocabulary after them have no meaning. mT5's
//! model has them as pieces.

use crate::failure;
use anyhow::Result;
use mesh::task::Sentinels;
use prost::Message;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// `T5Tokenizer`'s number of sentinels.
const EXTRA_IDS: u64 = 100;

/// The pieces of a SentencePiece model, by the fields of `ModelProto` in sentencepiece_model.proto.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
}

/// Returns the sentinels of a directory, for a model with `vocab` tokens. `None` means that the tokenizer's
/// file names them, or that there are none.
///
/// # Errors
/// The directory states sentinels that the vocabulary does not have.
pub(super) fn of_directory(dir: &Path, vocab: usize) -> Result<Option<Sentinels>> {
    if dir.join("tokenizer.json").is_file() {
        return Ok(None);
    }
    // A damaged model is an error where it is used.
    let model = proto::regular::read(&dir.join("spiece.model")).ok();
    let Some(model) = model.and_then(|bytes| Model::decode(&*bytes).ok()) else { return Ok(None) };
    let read = |name: &str| -> Option<Value> {
        serde_json::from_slice(&proto::regular::read(&dir.join(name)).ok()?).ok()
    };
    let files = ["tokenizer_config.json", "special_tokens_map.json"].map(read);
    let names: BTreeSet<&str> = model.pieces.iter().map(|p| p.piece.as_str()).collect();
    if ["<extra_id_0>", "▁<extra_id_0>"].iter().any(|name| names.contains(name)) {
        return Ok(None);
    }
    let [config, map] = &files;
    if let Some(stated) = config.as_ref().and_then(with_ids) {
        return fitting(stated, vocab, dir).map(Some);
    }
    let count = config.as_ref().and_then(|config| config["extra_ids"].as_u64());
    let listed = || [config, map].into_iter().flatten().find_map(listed);
    let stated = count.or_else(listed);
    let (first, count) =
        (model.pieces.len() as u64 + stated.unwrap_or(EXTRA_IDS), stated.unwrap_or(EXTRA_IDS));
    let sentinels =
        (count > 0).then(|| u32::try_from(first - 1).ok().zip(u32::try_from(count).ok())).flatten();
    let sentinels = sentinels.map(|(first, count)| Sentinels { first, count });
    match sentinels {
        // The usual number does not fit: the model was made without sentinels.
        Some(sentinels) if stated.is_none() && sentinels.first as usize >= vocab => Ok(None),
        Some(sentinels) => fitting(sentinels, vocab, dir).map(Some),
        None => Ok(None),
    }
}

/// Returns the sentinels that `added_tokens_decoder` lists with their ids, as far as they count down by one.
fn with_ids(config: &Value) -> Option<Sentinels> {
    let added = config["added_tokens_decoder"].as_object()?;
    let ids: BTreeMap<u64, u32> = added
        .iter()
        .filter_map(|(id, token)| Some((number(token["content"].as_str()?)?, id.parse().ok()?)))
        .collect();
    let first = *ids.get(&0)?;
    let count = (0..).take_while(|n| ids.get(n).map(|id| u64::from(*id) + n) == Some(first.into())).count();
    Some(Sentinels { first, count: u32::try_from(count).ok()? })
}

/// Returns the number of sentinels among the additional special tokens of a file.
fn listed(file: &Value) -> Option<u64> {
    let tokens = file["additional_special_tokens"].as_array()?;
    let names = tokens.iter().filter_map(|token| token.as_str().or(token["content"].as_str()));
    Some(names.filter_map(number).count() as u64).filter(|count| *count > 0)
}

/// Returns the number of a sentinel's name, `<extra_id_N>`.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix("<extra_id_")?.strip_suffix('>')?.parse().ok()
}

fn fitting(sentinels: Sentinels, vocab: usize, dir: &Path) -> Result<Sentinels> {
    if (sentinels.first as usize) < vocab && sentinels.count < sentinels.first {
        return Ok(sentinels);
    }
    Err(failure(
        format!(
            "`{}` has {} sentinels of which the first is token {}, but `vocab_size` is {vocab}",
            dir.display(),
            sentinels.count,
            sentinels.first
        ),
        "tokenizer and model must belong together: correct tokenizer_config.json or config.json",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Checks the sentinels, as first and count, of a directory with a model of 20 pieces of which the last
    /// is called `last`, and these files.
    #[track_caller]
    fn check(last: &str, files: &[(&str, &str)], vocab: usize, expect: Result<Option<(u32, u32)>, &str>) {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let names = (0..19).map(|i| format!("p{i}")).chain([last.to_owned()]);
        let model = Model { pieces: names.map(|piece| Piece { piece }).collect() };
        fs::write(dir.path().join("spiece.model"), model.encode_to_vec()).expect("a file can be written");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file can be written");
        }
        let found = of_directory(dir.path(), vocab);
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found.map(|s| (s.first, s.count)), expect, "{files:?}"),
            (Err(found), Err(part)) => assert!(found.to_string().contains(part), "{found}"),
            (found, expect) => panic!("{files:?}: {found:?}, not {expect:?}"),
        }
    }

    #[test]
    fn sentinels_follow_the_pieces_and_not_the_vocabulary() {
        // 100 by default, as in T5: 32,000 pieces, the first sentinel 32,099, and 32,128 rows of the
        // embedding.
        check("x", &[], 128, Ok(Some((119, 100))));
        check("x", &[], 120, Ok(Some((119, 100))));
        check("x", &[], 119, Ok(None));
        check("x", &[], 20, Ok(None));
    }

    #[test]
    fn files_of_the_directory_decide() {
        let config = |text: &'static str| [("tokenizer_config.json", text)];
        check("x", &config(r#"{"extra_ids": 5}"#), 128, Ok(Some((24, 5))));
        check("x", &config(r#"{"extra_ids": 0}"#), 128, Ok(None));
        let map =
            r#"{"additional_special_tokens": ["<extra_id_0>", {"content": "<extra_id_1>"}, "<other>"]}"#;
        check("x", &[("special_tokens_map.json", map)], 128, Ok(Some((21, 2))));
        let ids = r#"{"extra_ids": 2, "added_tokens_decoder": {"0": {"content": "<pad>"},
            "30": {"content": "<extra_id_0>"}, "29": {"content": "<extra_id_1>"}, "27": {"content": "<extra_id_2>"}}}"#;
        check("x", &config(ids), 128, Ok(Some((30, 2))));
        check("x", &[("tokenizer.json", "{}")], 128, Ok(None));
        check("<extra_id_0>", &[], 128, Ok(None));
        check("▁<extra_id_0>", &config(r#"{"extra_ids": 0}"#), 128, Ok(None));
        check("x", &config(r#"{"extra_ids": 5}"#), 24, Err("the first is token 24, but `vocab_size` is 24"));
        check("x", &config("damaged"), 128, Ok(Some((119, 100))));
    }
}
