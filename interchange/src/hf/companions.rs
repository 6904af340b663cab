//! Files of an exported model beside its weights and `config.json`: the tokenizer's, `generation_config.json`
//! and `README.md`.

use super::generation::add_recorded;
use anyhow::{Context, Result};
use data::{
    Codec, FileTokenizer, Pieces, Sentinels, SpecialTokens, Tokenizer,
    tokenizer::{Conventions, Division},
};
use models::Config;
use runtime::checkpoint::{Checkpoint, Facts, TOKENIZER};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt::Write, sync::Arc};

/// Usual names of the unknown token.
const UNKNOWN: [&str; 3] = ["<unk>", "[UNK]", "<|unk|>"];

/// The unknown token of transformers' tokenizer of T5. transformers 5 has no other.
const UNKNOWN_OF_T5: i32 = 2;

/// Files by name.
pub(super) type Files = BTreeMap<&'static str, Vec<u8>>;

/// Returns the files of the tokenizer of a checkpoint, or the reason why transformers cannot have it.
///
/// # Errors
/// The tokenizer of the checkpoint is damaged.
pub(super) fn tokenizer(checkpoint: &Checkpoint, config: &Config) -> Result<Result<Files, String>> {
    let contents = checkpoint.tokenizer()?;
    let recorded = checkpoint.facts().get(TOKENIZER).map(String::as_str);
    of_contents(contents, recorded, config)
        .with_context(|| format!("reading the tokenizer of `{}`", checkpoint.dir().display()))
}

fn of_contents(
    contents: Option<Vec<u8>>,
    recorded: Option<&str>,
    config: &Config,
) -> Result<Result<Files, String>> {
    Ok(match (contents, recorded) {
        (Some(contents), _) => {
            let contents: Arc<[u8]> = contents.into();
            match data::tokenizer::parse(contents.clone(), "tokenizer") {
                Ok(parsed) if config.is_decoder_only() => of_causal(&contents, &parsed, config)?,
                Ok(parsed) => of_file(&contents, &parsed, config)?,
                Err(error) => Err(error.to_string()),
            }
        }
        (None, Some("bytes")) if config.is_decoder_only() => {
            Err("its tokens are bytes, and transformers' tokenizer of bytes adds an end token to prompts"
                .into())
        }
        (None, Some("bytes")) => of_bytes(config),
        (None, Some(_)) => Err("the checkpoint has the digest of its tokenizer, and not its file".into()),
        (None, None) => Err("the checkpoint does not say which one it has".into()),
    })
}

/// Returns the files for the tokenizer of a decoder-only model, which adds no end token to a text.
fn of_causal(contents: &[u8], parsed: &Arc<FileTokenizer>, config: &Config) -> Result<Result<Files, String>> {
    let file = data::tokenizer::file_contents(contents);
    let is_json = file.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !is_json || parsed.offset() != 0 {
        return Ok(Err("it is no tokenizer.json whose first tokens are padding and the end".into()));
    }
    let names = Tokenizer::Pieces(parsed.clone()).names(parsed.tokens())?;
    let name = |token: u32| names.get(token as usize).cloned().unwrap_or_default();
    let mut settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": name(0),
        "eos_token": name(config.eos_token), "clean_up_tokenization_spaces": false });
    let mut file = file.to_vec();
    if parsed.has_file_numbers() {
        settings["bos_token"] = json!(name(config.start_token));
        if parsed.added()?[0].is_empty() {
            file = with_start(&file, &name(config.start_token), config.start_token)?;
        }
    }
    let settings = ("tokenizer_config.json", pretty(&settings));
    Ok(Ok([settings, ("tokenizer.json", file)].into_iter().collect()))
}

/// Returns a `tokenizer.json` that begins texts with a start token.
fn with_start(contents: &[u8], name: &str, id: u32) -> Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(contents)?;
    let start = json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = |id: &str, type_id: usize| json!({ "Sequence": { "id": id, "type_id": type_id } });
    value["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [start.clone(), text("A", 0)],
        "pair": [start.clone(), text("A", 0), start, text("B", 0)],
        "special_tokens": { name: { "id": name, "ids": [id], "tokens": [name] } }
    });
    Ok(serde_json::to_vec(&value)?)
}

fn of_bytes(config: &Config) -> Result<Files, String> {
    let sentinels = sentinels(Tokenizer::Bytes, config)?;
    let special =
        ["<pad>", "</s>", "<unk>"].into_iter().zip(0..).map(|(name, id)| (id, name.to_owned())).collect();
    let settings = Settings { class: "ByT5Tokenizer", special, sentinels: &sentinels };
    Ok(settings.files(config))
}

/// Returns the files for a tokenizer with this file.
fn of_file(contents: &[u8], parsed: &Arc<FileTokenizer>, config: &Config) -> Result<Result<Files, String>> {
    if parsed.offset() != 0 {
        return Ok(Err(format!(
            "its first tokens are not <pad> and </s>, so that the model has its tokens + {}",
            parsed.offset()
        )));
    }
    let why = parsed.division().and_then(unlike_transformers).map(str::to_owned);
    let unlike = |have| unlike_t5(have, parsed.unknown());
    if let Some(why) = why.or_else(|| parsed.conventions().and_then(unlike)) {
        return Ok(Err(why));
    }
    let tokenizer = Tokenizer::Pieces(parsed.clone());
    let sentinels = match sentinels(tokenizer.clone(), config) {
        Ok(sentinels) => sentinels,
        Err(why) => return Ok(Err(why)),
    };
    // Sentinels that the file does not have are added after its tokens, the last one first.
    let is_json = contents.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let added: &[i32] = if parsed.sentinels().starts_with(&sentinels) { &[] } else { &sentinels };
    if added.last().is_some_and(|last| *last as usize != parsed.tokens()) {
        let what = format!("its sentinels, {} tokens that count down from {}", added.len(), added[0]);
        return Ok(Err(format!("{what}, do not follow its {} tokens", parsed.tokens())));
    }
    let class = if is_json { "PreTrainedTokenizerFast" } else { "T5Tokenizer" };
    let names = tokenizer.names(parsed.tokens())?;
    let unknown = match is_json {
        true => UNKNOWN.iter().find_map(|unknown| names.iter().position(|name| name == unknown)),
        false => Some(UNKNOWN_OF_T5 as usize),
    };
    let special = [Some(0), Some(1), unknown].into_iter().flatten();
    let special = special.map(|id| (id as i32, names[id].clone())).collect();
    let mut files = Settings { class, special, sentinels: added }.files(config);
    match is_json {
        true => drop(files.insert("tokenizer.json", with_end(contents, &names[1])?)),
        false => drop(files.insert("spiece.model", contents.to_vec())),
    }
    Ok(Ok(files))
}

/// Returns the reason why transformers' `T5TokenizerFast` divides text in another way than the SentencePiece
/// model.
fn unlike_transformers(division: Division) -> Option<&'static str> {
    match division {
        Division::Unigram | Division::Bpe { by_word: true } => None,
        Division::Bpe { by_word: false } => Some(
            "its SentencePiece model merges pieces across spaces or has unused pieces, and transformers divides at \
             spaces first",
        ),
        Division::Words => {
            Some("its SentencePiece model has words, and transformers reads unigram and BPE models only")
        }
        Division::Characters => {
            Some("its SentencePiece model has characters, and transformers reads unigram and BPE models only")
        }
    }
}

/// Returns the convention of a SentencePiece model that transformers' `T5TokenizerFast` does not have.
/// `unknown` is its unknown token. (transformers 4.57.6 was compared with the library on the models of
/// `data/tests/sentencepiece`, and on models whose `unk_id` or `unk_piece` does not name the unknown piece.)
fn unlike_t5(have: Conventions, unknown: i32) -> Option<String> {
    let t5 = Conventions::default();
    let what = [
        (have.dummy_prefix != t5.dummy_prefix, "does not add a space before the text"),
        (have.space_after_word != t5.space_after_word, "has the space of a word behind it"),
        (have.removes_spaces != t5.removes_spaces, "keeps several spaces"),
        (have.escapes_spaces != t5.escapes_spaces, "does not escape spaces"),
        (have.byte_fallback != t5.byte_fallback, "divides unknown characters into bytes"),
        (have.names_unknown != t5.names_unknown, "has another unknown piece than its options name"),
        (unknown != UNKNOWN_OF_T5, "has an unknown piece that is not its third one"),
    ];
    let (_, what) = what.into_iter().find(|(is_unlike, _)| *is_unlike)?;
    Some(format!("its SentencePiece model {what}, unlike transformers' tokenizer of T5"))
}

/// Returns the sentinels of a model, in order.
fn sentinels(tokenizer: Tokenizer, config: &Config) -> Result<Vec<i32>, String> {
    let own = config.sentinels.map(|own| Sentinels { first: own.first, count: own.count });
    let special = SpecialTokens { pad: 0, eos: 1, sentinels: own };
    let codec = Codec::new(config.vocab, tokenizer, special).map_err(|error| error.to_string())?;
    Ok(codec.sentinels().to_vec())
}

/// Returns a `tokenizer.json` that ends texts with token 1, as meshc does. One that has a post-processor is
/// unchanged.
fn with_end(contents: &[u8], end_name: &str) -> Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(contents)?;
    if !value["post_processor"].is_null() {
        return Ok(contents.to_vec());
    }
    let end = json!({ "SpecialToken": { "id": end_name, "type_id": 0 } });
    let text = |id: &str, type_id: usize| json!({ "Sequence": { "id": id, "type_id": type_id } });
    value["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [text("A", 0), end.clone()],
        "pair": [text("A", 0), end.clone(), text("B", 0), end],
        "special_tokens": { end_name: { "id": end_name, "ids": [1], "tokens": [end_name] } }
    });
    Ok(serde_json::to_vec(&value)?)
}

/// The settings of a tokenizer.
struct Settings<'s> {
    /// The class in transformers.
    class: &'static str,
    /// Padding, the end, and the unknown token if there is one.
    special: Vec<(i32, String)>,
    /// Sentinels that the tokenizer's file does not have.
    sentinels: &'s [i32],
}

impl Settings<'_> {
    fn files(&self, config: &Config) -> Files {
        let names: Vec<String> = (0..self.sentinels.len()).map(|span| format!("<extra_id_{span}>")).collect();
        let sentinels = self.sentinels.iter().copied().zip(names.iter().cloned());
        let token = |name: String| {
            json!({ "content": name, "lstrip": false, "normalized": false, "rstrip": false,
                    "single_word": false, "special": true })
        };
        let special = self.special.iter().cloned().chain(sentinels);
        let decoder: Map<String, Value> = special.map(|(id, name)| (id.to_string(), token(name))).collect();
        let mut map = Map::new();
        for ((_, name), key) in self.special.iter().zip(["pad_token", "eos_token", "unk_token"]) {
            map.insert(key.into(), json!(name));
        }
        map.insert("additional_special_tokens".into(), json!(names));
        let mut all = map.clone();
        all.insert("tokenizer_class".into(), json!(self.class));
        all.insert("extra_ids".into(), json!(names.len()));
        all.insert("model_max_length".into(), json!(config.input_length));
        all.insert("clean_up_tokenization_spaces".into(), json!(false));
        all.insert("added_tokens_decoder".into(), Value::Object(decoder));
        [("tokenizer_config.json", all), ("special_tokens_map.json", map)]
            .into_iter()
            .map(|(name, map)| (name, pretty(&Value::Object(map))))
            .collect()
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("numbers and texts are JSON");
    text.push(b'\n');
    text
}

/// Returns the contents of `generation_config.json`.
pub(super) fn generation(config: &Config, facts: &Facts) -> Vec<u8> {
    let Config { start_token, eos_token, .. } = config;
    let start = if config.is_decoder_only() { "bos_token_id" } else { "decoder_start_token_id" };
    let mut map = Map::new();
    for (key, token) in [(start, *start_token), ("eos_token_id", *eos_token), ("pad_token_id", 0)] {
        map.insert(key.into(), json!(token));
    }
    add_recorded(facts, &mut map);
    pretty(&Value::Object(map))
}

/// Returns the model card, `README.md`. `tokenizer` is the reason why there is none.
pub(super) fn card(config: &Config, parameters: usize, step: u64, tokenizer: Option<&str>) -> String {
    let (kind, task) = match (models::hf::Causal::of(config), &config.switch) {
        (Ok(class), _) if config.is_decoder_only() => (class.name(), "text-generation"),
        (_, Some(_)) => ("Switch Transformer", "text2text-generation"),
        (_, None) => ("T5", "text2text-generation"),
    };
    let mut text = format!(
        "---\nlibrary_name: transformers\npipeline_tag: {task}\nlicense: unknown\n---\n\n# {kind}\n\n\
         Exported by `meshc convert to-hf` from the checkpoint of step {step}.\n\n| | |\n|---|---|\n"
    );
    let mut row = |name: &str, value: String| {
        writeln!(text, "| {name} | {value} |").expect("a string takes all text");
    };
    row("parameters", parameters.to_string());
    let layers = match config.is_decoder_only() {
        true => config.decoder_layers.to_string(),
        false => {
            format!("{} in the encoder, {} in the decoder", config.encoder_layers, config.decoder_layers)
        }
    };
    row("layers", layers);
    if let Some(switch) = &config.switch {
        row("experts", format!("{} in each sparse layer", switch.experts));
        if switch.fixed_capacity > 0 {
            row("expert capacity", format!("{} tokens of a sequence", switch.fixed_capacity));
        }
    }
    row("`d_model`", config.d_model.to_string());
    row("`d_ff`", config.d_ff.to_string());
    row("attention heads", format!("{} of {}", config.heads, config.d_kv));
    row("activation", config.activation.name().to_owned());
    row("vocabulary", format!("{} tokens", config.vocab));
    row("license", "unknown".into());
    if let Some(why) = tokenizer {
        write!(text, "\nThere is no tokenizer in this folder: {why}.\n").expect("a string takes all text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(vocab: usize) -> Config {
        Config { vocab, input_length: 64, ..Config::default() }
    }

    /// A `tokenizer.json` with these tokens.
    fn json_file(tokens: &[&str]) -> Vec<u8> {
        let vocab: Map<String, Value> =
            tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
        let model = json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" });
        let file = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null,
            "decoder": null, "model": model });
        file.to_string().into_bytes()
    }

    fn value(files: &Files, name: &str) -> Value {
        serde_json::from_slice(&files[name]).unwrap()
    }

    /// Checks class, number of sentinels and the ids of added tokens.
    #[track_caller]
    fn check(contents: Option<Vec<u8>>, vocab: usize, class: &str, extra: usize, ids: &[(&str, &str)]) {
        let recorded = contents.is_none().then_some("bytes");
        let files = of_contents(contents, recorded, &config(vocab)).unwrap().unwrap();
        let (all, map) = (value(&files, "tokenizer_config.json"), value(&files, "special_tokens_map.json"));
        assert_eq!((&all["tokenizer_class"], &all["extra_ids"]), (&json!(class), &json!(extra)));
        assert_eq!((&all["model_max_length"], &all["eos_token"]), (&json!(64), &json!("</s>")));
        assert_eq!((&map["pad_token"], &map["unk_token"]), (&json!("<pad>"), &json!("<unk>")));
        assert_eq!(map["additional_special_tokens"].as_array().map(Vec::len), Some(extra));
        for (id, name) in ids {
            assert_eq!(all["added_tokens_decoder"][id]["content"], *name, "{id}");
        }
        assert_eq!(all["added_tokens_decoder"].as_object().map(Map::len), Some(3 + extra));
    }

    #[test]
    fn tokenizers_have_the_sentinels_of_the_model() {
        check(None, 384, "ByT5Tokenizer", 125, &[("383", "<extra_id_0>"), ("259", "<extra_id_124>")]);
        let class = "PreTrainedTokenizerFast";
        let plain = json_file(&["<pad>", "</s>", "<unk>", "a", "b"]);
        check(Some(plain), 7, class, 2, &[("6", "<extra_id_0>"), ("5", "<extra_id_1>"), ("1", "</s>")]);
        let own = json_file(&["<pad>", "</s>", "<unk>", "a", "<extra_id_1>", "<extra_id_0>"]);
        check(Some(own), 8, class, 0, &[("0", "<pad>")]);
    }

    #[test]
    fn texts_end_with_the_end_token() {
        let file = json_file(&["<pad>", "</s>", "<unk>", "a"]);
        let ended = with_end(&file, "</s>").unwrap();
        let value: Value = serde_json::from_slice(&ended).unwrap();
        assert_eq!(value["post_processor"]["special_tokens"]["</s>"]["ids"], json!([1]));
        assert_eq!(with_end(&ended, "</s>").unwrap(), ended, "a file with a post-processor is unchanged");
    }

    #[test]
    fn tokenizers_without_a_counterpart_are_named() {
        let refused = |contents: Option<Vec<u8>>, recorded: Option<&str>, config: &Config, expect: &str| {
            let why = of_contents(contents, recorded, config).unwrap().unwrap_err();
            assert!(why.contains(expect), "{why}");
        };
        let moved = json_file(&["<unk>", "a", "b"]);
        refused(Some(moved), None, &config(8), "the model has its tokens + 3");
        let plain = json_file(&["<pad>", "</s>", "<unk>", "a", "b"]);
        refused(Some(plain.clone()), None, &config(4), "too small");
        let sentinels = Some(mesh::task::Sentinels { first: 9, count: 2 });
        let apart = Config { sentinels, ..config(10) };
        refused(Some(plain), None, &apart, "2 tokens that count down from 9, do not follow its 5 tokens");
        refused(Some(b"{}".to_vec()), None, &config(8), "`tokenizer` cannot be used");
        let model = |name: &str| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/sentencepiece");
            Some(std::fs::read(dir.join(format!("{name}.model"))).expect("it is there"))
        };
        refused(model("bpe_across_spaces"), None, &config(260), "merges pieces across spaces");
        refused(model("word"), None, &config(160), "has words, and transformers reads unigram and BPE");
        refused(model("bpe_nmt_nfkc"), None, &config(260), "the model has its tokens + 3");
        refused(None, Some("blake3:00"), &config(8), "the digest");
        refused(None, None, &config(8), "does not say");
    }

    /// A model of `data/tests/sentencepiece`, with other options of training if there are any.
    fn spiece(name: &str, options: &[u8]) -> Arc<FileTokenizer> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/sentencepiece");
        let mut contents = std::fs::read(dir.join(format!("{name}.model"))).unwrap();
        // Field 2 is the options; repeated ones are merged.
        let head = [0x12, u8::try_from(options.len()).unwrap()];
        contents.extend(head.iter().chain(options));
        data::tokenizer::parse(contents.into(), name).unwrap()
    }

    /// `unk_id`, field 40.
    const NAMES_2: &[u8] = &[0xc0, 0x02, 2];
    /// `unk_piece`, field 45.
    const NAMES_UNK: &[u8] = &[0xea, 0x02, 5, b'<', b'U', b'N', b'K', b'>'];

    #[test]
    fn sentencepiece_models_are_read_by_transformers_as_by_the_library() {
        for (name, options, expect) in [
            ("unigram_identity_no_prefix", NAMES_2, Some("does not add a space")),
            ("unigram_suffix_user", NAMES_2, Some("behind it")),
            ("unigram_all_spaces", NAMES_2, Some("keeps several spaces")),
            ("unigram_unescaped", NAMES_2, Some("does not escape spaces")),
            ("unigram_bytes", NAMES_2, Some("into bytes")),
            // transformers 4 gives unknown characters the token of `unk_id`, 0 by default.
            ("unigram_nmt_nfkc", &[], Some("another unknown piece than its options name")),
            ("unigram_nmt_nfkc", NAMES_2, None),
            // It looks for the unknown piece of a BPE model by name.
            ("bpe_across_spaces", &[], None),
            ("bpe_across_spaces", NAMES_UNK, Some("another unknown piece than its options name")),
            ("bpe_nmt_nfkc", &[], Some("not its third one")),
        ] {
            let parsed = spiece(name, options);
            let why = unlike_t5(parsed.conventions().unwrap(), parsed.unknown() - parsed.offset());
            match expect {
                None => assert_eq!(why, None, "{name}"),
                Some(part) => assert!(why.as_ref().is_some_and(|why| why.contains(part)), "{name}: {why:?}"),
            }
        }
    }

    #[test]
    fn tokenizers_of_decoder_only_models_add_no_end() {
        let causal = Config { encoder_layers: 0, ..config(8) };
        let file = json_file(&["<pad>", "</s>", "<unk>", "a"]);
        let files = of_contents(Some(file.clone()), None, &causal).unwrap().unwrap();
        assert_eq!(files["tokenizer.json"], file);
        assert_eq!(value(&files, "tokenizer_config.json")["eos_token"], "</s>");
        let why = of_contents(None, Some("bytes"), &causal).unwrap().unwrap_err();
        assert!(why.contains("adds an end token"), "{why}");
        let moved = json_file(&["<unk>", "<s>", "</s>"]);
        assert!(of_contents(Some(moved), None, &causal).unwrap().is_err());
    }

    #[test]
    fn cards_describe_the_model() {
        let sparse = Config { switch: Some(models::Switch::default()), ..config(100) };
        let text = card(&sparse, 123, 7, Some("it has none"));
        for part in
            ["# Switch Transformer", "step 7", "| parameters | 123 |", "license: unknown", "it has none."]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!card(&config(100), 1, 0, None).contains("tokenizer"));
        let start: Value = serde_json::from_slice(&generation(&config(8), &Facts::new())).unwrap();
        assert_eq!(start, json!({ "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0 }));
    }
}
