//! Throughput of `data prepare` per core, beside Hugging Face tokenizers.

use crate::{
    peers,
    step::{cpu_seconds, peak_rss_mb},
};
use anyhow::{Context, Result};
use data::{Reading, Tokenizer, tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Tokenizes `text` with `tokenizer` into a temporary directory. `peer` is a Python interpreter, and the
/// `tokenizer.json` that the peer runs.
pub fn measure(text: &str, tokenizer: &str, peer: Option<(&str, &str)>) -> Result<Value> {
    let bytes = std::fs::metadata(text).with_context(|| format!("reading {text}"))?.len();
    let pieces = Tokenizer::Pieces(tokenizer::open(Path::new(tokenizer))?);
    let folder = tempfile::tempdir()?;
    let paths = [PathBuf::from(text)];
    let before = cpu_seconds();
    data::prepared::prepare(
        &paths,
        &Reading::default(),
        &pieces,
        &folder.path().join("tokens"),
        &mut |_, _| (),
    )?;
    let rate = bytes as f64 / 1e6 / (cpu_seconds() - before);
    let peer = match peer {
        Some((python, file)) => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/tokenize_hf.py");
            Some(peers::json(python, &[script, file, text])?)
        }
        None => None,
    };
    let ratio = peer.as_ref().and_then(|peer| peer["mb_per_cpu_s"].as_f64()).map(|theirs| rate / theirs);
    Ok(json!({
        "text": text, "bytes": bytes, "tokenizer": tokenizer, "mb_per_cpu_s": rate,
        "peak_rss_mb": peak_rss_mb(), "peer": peer, "ratio_to_peer": ratio,
    }))
}
