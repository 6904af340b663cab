//! Options of generation in `generation_config.json`, or in `config.json` if that file does not exist, as in
//! transformers.
//!
//! Those that change the tokens of every method are recorded in the checkpoint and are the defaults of `meshc
//! generate`. Others that change tokens are named, with the option of `meshc generate` if there is one.

use super::file::Fields;
use crate::failure;
use anyhow::Result;
use models::Config;
use runtime::checkpoint::Facts;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Keys that `meshc generate` takes from the checkpoint; they are also the names of its settings.
pub const TAKEN: [&str; 2] = ["no_repeat_ngram_size", "repetition_penalty"];

/// The treatment of a key that changes tokens.
#[derive(Clone, Copy)]
enum Key {
    /// Recorded in the checkpoint.
    Taken,
    /// An option of `meshc generate`, which the user must give.
    Option(&'static str),
    /// The same, which matters only if the first key has not its neutral value.
    With(&'static str, &'static str),
    /// Not in `meshc generate`.
    Absent,
    /// The same as a value of the model.
    Model,
}

/// Keys that change tokens, with the values with which they do not.
const KEYS: &[(&str, Key, &[&str])] = &[
    ("bad_words_ids", Key::Absent, &["[]"]),
    ("begin_suppress_tokens", Key::Absent, &["[]"]),
    ("constraints", Key::Absent, &["[]"]),
    ("decoder_start_token_id", Key::Model, &[]),
    ("diversity_penalty", Key::Absent, &["0.0"]),
    ("do_sample", Key::Option("--method sample"), &["false"]),
    ("dola_layers", Key::Absent, &[]),
    ("early_stopping", Key::With("num_beams", "--early-stopping"), &["false"]),
    ("encoder_no_repeat_ngram_size", Key::Absent, &["0"]),
    ("encoder_repetition_penalty", Key::Absent, &["1.0"]),
    ("eos_token_id", Key::Model, &[]),
    ("epsilon_cutoff", Key::Absent, &["0.0"]),
    ("eta_cutoff", Key::Absent, &["0.0"]),
    ("exponential_decay_length_penalty", Key::Absent, &[]),
    ("force_words_ids", Key::Absent, &["[]"]),
    ("forced_bos_token_id", Key::Absent, &[]),
    ("forced_decoder_ids", Key::Absent, &["[]"]),
    ("forced_eos_token_id", Key::Absent, &[]),
    ("guidance_scale", Key::Absent, &["1.0"]),
    ("length_penalty", Key::With("num_beams", "--length-penalty"), &["1.0"]),
    ("max_length", Key::Option("--max-length"), &["20"]),
    ("max_new_tokens", Key::Option("--max-length"), &[]),
    ("min_length", Key::Option("--min-length"), &["0"]),
    ("min_new_tokens", Key::Option("--min-length"), &["0"]),
    ("min_p", Key::With("do_sample", ""), &["0.0"]),
    ("no_repeat_ngram_size", Key::Taken, &["0"]),
    ("num_beam_groups", Key::Absent, &["1"]),
    ("num_beams", Key::Option("--method beam --beams"), &["1"]),
    ("num_return_sequences", Key::Option("--sequences"), &["1"]),
    ("penalty_alpha", Key::Absent, &["0.0"]),
    ("renormalize_logits", Key::Absent, &["false"]),
    ("repetition_penalty", Key::Taken, &["1.0"]),
    ("sequence_bias", Key::Absent, &["{}", "[]"]),
    ("stop_strings", Key::Absent, &["[]"]),
    ("suppress_tokens", Key::Absent, &["[]"]),
    ("temperature", Key::With("do_sample", "--temperature"), &["1.0"]),
    ("top_h", Key::With("do_sample", ""), &[]),
    ("top_k", Key::With("do_sample", "--top-k"), &["0", "50"]),
    ("top_p", Key::With("do_sample", "--top-p"), &["1.0"]),
    ("typical_p", Key::With("do_sample", ""), &["1.0"]),
    ("watermarking_config", Key::Absent, &[]),
];

/// Keys of `generation_config.json` that change no token.
const WITHOUT_EFFECT: &[&str] = &[
    "_from_model_config",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "disable_compile",
    "low_memory",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "remove_invalid_values",
    "return_dict_in_generate",
    "return_legacy_cache",
    "token_healing",
    "transformers_version",
    "use_cache",
];

/// Options of generation of a directory.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GenerationDefaults {
    /// The options that the checkpoint records, in the form that `--set` takes, separated by spaces.
    pub settings: String,
    /// Keys that `meshc generate` does not follow.
    pub warnings: Vec<String>,
}

impl GenerationDefaults {
    /// Reads the options of the model in `dir`, whose `config.json` has the text `described`.
    ///
    /// # Errors
    /// The file cannot be read, is no JSON object, or a value that is taken is out of range.
    pub fn read(dir: &Path, described: &str, config: &Config) -> Result<Self> {
        let path = dir.join("generation_config.json");
        let own = path.is_file();
        let (name, text) = match own {
            true => (path.display().to_string(), proto::regular::read_to_string(&path)?),
            false => (dir.join("config.json").display().to_string(), described.to_owned()),
        };
        let fields: Fields = serde_json::from_str(&text).map_err(|e| {
            failure(format!("`{name}` is not a configuration: {e}"), "it must be a JSON object")
        })?;
        Self::of(&fields.0, &name, own, config).map_err(|what| {
            failure(format!("`{name}`: {what}"), "correct the value, or remove the key: it is a default")
        })
    }

    /// `own` is true for `generation_config.json`, whose unknown keys are named here.
    fn of(fields: &[(String, Value)], name: &str, own: bool, config: &Config) -> Result<Self, String> {
        let mut defaults = Self::default();
        let changes = |key: &str| {
            let value = fields.iter().find(|(k, v)| k == key && !v.is_null());
            let known = KEYS.iter().find(|(k, ..)| *k == key);
            value.zip(known).is_some_and(|((_, value), (.., neutral))| !is_neutral(value, neutral))
        };
        for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let Some((_, kind, _)) = KEYS.iter().find(|(known, ..)| known == key) else {
                if own && !WITHOUT_EFFECT.contains(&key.as_str()) {
                    defaults.warnings.push(format!("`{name}` has the unknown key `{key}`, which is ignored"));
                }
                continue;
            };
            if !changes(key) {
                continue;
            }
            let said = format!("`{name}` has `{key}` = {value}");
            let give = |option: &str| match option {
                "" => format!(
                    "{said}, which `meshc generate` does not have: its tokens differ from transformers'"
                ),
                option => format!("{said}, which is no default of `meshc generate`: use its {option}"),
            };
            match kind {
                Key::Taken => defaults.take(key, value)?,
                Key::Option(option) => defaults.warnings.push(give(option)),
                Key::With(other, option) if changes(other) => defaults.warnings.push(give(option)),
                Key::With(..) => {}
                Key::Absent => defaults.warnings.push(give("")),
                // Those of `config.json` are settings of the model.
                Key::Model if own => {
                    let model = match key.as_str() {
                        "eos_token_id" => config.eos_token,
                        _ => config.start_token,
                    };
                    if *value != json!(model) {
                        let differs = "the model's token, with which `meshc generate` works";
                        defaults.warnings.push(format!("{said}, which differs from {model}, {differs}"));
                    }
                }
                Key::Model => {}
            }
        }
        Ok(defaults)
    }

    fn take(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let legal = match key {
            "repetition_penalty" => value.as_f64().is_some_and(|penalty| penalty > 0.0),
            _ => value.as_u64().is_some(),
        };
        if !legal {
            return Err(format!("`{key}` is {value}, which is not a number in its range"));
        }
        if !self.settings.is_empty() {
            self.settings.push(' ');
        }
        self.settings += &format!("{key}={value}");
        Ok(())
    }
}

/// True if a value is one of `neutral`, which are JSON; numbers are compared as numbers.
fn is_neutral(value: &Value, neutral: &[&str]) -> bool {
    neutral.iter().any(|text| match (value.as_f64(), text.parse::<f64>()) {
        (Some(number), Ok(neutral)) => number == neutral,
        _ => serde_json::from_str::<Value>(text).is_ok_and(|neutral| neutral == *value),
    })
}

/// Returns the options that the facts of a checkpoint record, as keys and values.
pub fn recorded(facts: &Facts) -> Vec<(&'static str, String)> {
    let settings = facts.get(crate::facts::GENERATION).map_or("", String::as_str);
    let pairs = settings.split_whitespace().filter_map(|setting| setting.split_once('='));
    let known = |(key, value): (&str, &str)| {
        TAKEN.into_iter().find(|taken| *taken == key).map(|key| (key, value.to_owned()))
    };
    pairs.filter_map(known).collect()
}

/// Adds the options that the facts of a checkpoint record to a `generation_config.json`.
pub(super) fn add_recorded(facts: &Facts, map: &mut Map<String, Value>) {
    for (key, value) in recorded(facts) {
        let number = serde_json::from_str(&value).unwrap_or(Value::String(value));
        map.insert(key.to_owned(), number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what is recorded of a file of these keys, and parts of the warnings.
    #[track_caller]
    fn check(own: bool, text: &str, settings: &str, warnings: &[&str]) {
        let fields: Fields = serde_json::from_str(text).unwrap();
        let found = GenerationDefaults::of(&fields.0, "the file", own, &Config::default()).unwrap();
        assert_eq!(found.settings, settings, "{text}");
        assert_eq!(found.warnings.len(), warnings.len(), "{text}: {:?}", found.warnings);
        for (have, want) in found.warnings.iter().zip(warnings) {
            assert!(have.contains(want), "{have}\ndoes not say\n{want}");
        }
    }

    #[test]
    fn keys_are_taken_or_named() {
        check(
            true,
            r#"{"repetition_penalty":1.3,"no_repeat_ngram_size":3}"#,
            "repetition_penalty=1.3 no_repeat_ngram_size=3",
            &[],
        );
        check(false, r#"{"repetition_penalty":1,"no_repeat_ngram_size":0,"d_model":8}"#, "", &[]);
        check(
            true,
            r#"{"num_beams":4,"length_penalty":2.0}"#,
            "",
            &["--method beam --beams", "`length_penalty` = 2.0"],
        );
        // Without beams and sampling they change nothing.
        check(
            true,
            r#"{"length_penalty":2.0,"early_stopping":true,"temperature":0.7,"top_p":0.9,"min_p":0.1}"#,
            "",
            &[],
        );
        check(
            true,
            r#"{"do_sample":true,"temperature":0.7,"top_k":50}"#,
            "",
            &["--method sample", "--temperature"],
        );
        check(
            true,
            r#"{"do_sample":true,"min_p":0.1}"#,
            "",
            &["--method sample", "`min_p` = 0.1, which `meshc generate` does not have"],
        );
        check(
            true,
            r#"{"bad_words_ids":[[3]],"forced_eos_token_id":1}"#,
            "",
            &["`bad_words_ids`", "`forced_eos_token_id` = 1"],
        );
        check(
            true,
            r#"{"eos_token_id":[1,7],"pad_token_id":0,"decoder_start_token_id":0}"#,
            "",
            &["= [1,7], which differs from 1"],
        );
        check(
            true,
            r#"{"max_length":20,"max_new_tokens":64,"suppress_tokens":[]}"#,
            "",
            &["`max_new_tokens` = 64"],
        );
        check(
            true,
            r#"{"repetition_penalti":2,"use_cache":true}"#,
            "",
            &["unknown key `repetition_penalti`"],
        );
        check(false, r#"{"eos_token_id":9,"vocab_size":9}"#, "", &[]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (text, part) in [
            (r#"{"repetition_penalty":0}"#, "`repetition_penalty` is 0"),
            (r#"{"no_repeat_ngram_size":-1}"#, "`no_repeat_ngram_size` is -1"),
            (r#"{"no_repeat_ngram_size":"2"}"#, "is \"2\""),
        ] {
            let fields: Fields = serde_json::from_str(text).unwrap();
            let said = GenerationDefaults::of(&fields.0, "the file", true, &Config::default()).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn recorded_options_are_exported() {
        let fact =
            (crate::facts::GENERATION.to_owned(), "repetition_penalty=1.3 no_repeat_ngram_size=3".to_owned());
        let mut map = Map::new();
        add_recorded(&[fact].into_iter().collect(), &mut map);
        assert_eq!(Value::Object(map), json!({ "repetition_penalty": 1.3, "no_repeat_ngram_size": 3 }));
    }
}
