//! Conversion between `config.json` of T5, mT5 and SwitchTransformers and the settings of mesh models.
//!
//! Unknown keys are errors, because they may change the model. Redundant keys must agree.

use super::file::Fields;
use crate::failure;
use anyhow::Result;
use mesh::layout::suggest;
use models::{Activation, Config, Switch};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

/// Ignored keys: they do not change the model, or only in uses that mesh does not have.
const WITHOUT_EFFECT: &[&str] = &[
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "add_router_probs",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "n_positions",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_router_logits",
    "output_scores",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "router_ignore_padding_tokens",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Keys that are converted.
const READ: &[&str] = &[
    "d_ff",
    "d_kv",
    "d_model",
    "decoder_sparse_step",
    "decoder_start_token_id",
    "dense_act_fn",
    "dropout_rate",
    "encoder_sparse_step",
    "eos_token_id",
    "expert_capacity",
    "feed_forward_proj",
    "is_encoder_decoder",
    "is_gated_act",
    "layer_norm_epsilon",
    "model_type",
    "num_decoder_layers",
    "num_experts",
    "num_heads",
    "num_layers",
    "num_sparse_decoder_layers",
    "num_sparse_encoder_layers",
    "pad_token_id",
    "relative_attention_max_distance",
    "relative_attention_num_buckets",
    "router_aux_loss_coef",
    "router_bias",
    "router_dtype",
    "router_jitter_noise",
    "router_type",
    "router_z_loss_coef",
    "tie_word_embeddings",
    "vocab_size",
];

/// A model described by settings.
#[derive(Clone, PartialEq, Debug)]
pub struct Described {
    /// The preset that the settings change: `t5` or `switch`.
    pub model: &'static str,
    /// Keys and values.
    pub settings: Vec<(String, String)>,
    /// The precision for the element type of the file: `f32` or `selective`.
    pub dtype: &'static str,
    /// The text of `config.json`.
    pub text: String,
}

impl Described {
    /// Reads `config.json` of a directory.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).map_err(|e| {
            failure(
                format!("reading `{}`: {e}", path.display()),
                "name the directory of a Hugging Face model",
            )
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, name: &str) -> Result<Self> {
        let fields: Fields = serde_json::from_str(text).map_err(|e| {
            failure(format!("`{name}` is not a configuration: {e}"), "it must be a JSON object")
        })?;
        let keys = Keys { fields: fields.0, mistakes: Vec::new() };
        keys.describe(text.to_owned()).map_err(|mistakes| {
            let what =
                format!("`{name}` describes a model that cannot be imported:\n  {}", mistakes.join("\n  "));
            failure(
                what,
                "T5, mT5 and SwitchTransformers can be imported; docs/interchange.md lists the keys",
            )
        })
    }

    /// Returns the settings as one string.
    pub fn line(&self) -> String {
        self.settings.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }
}

/// A `config.json` that is being converted.
struct Keys {
    fields: Vec<(String, Value)>,
    mistakes: Vec<String>,
}

impl Keys {
    fn get(&self, key: &str) -> Option<&Value> {
        // A null counts as absent.
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v).filter(|v| !v.is_null())
    }

    /// Returns the value of `key`, or `default`. A value that `read` rejects is a mistake.
    fn value<T>(&mut self, key: &str, what: &str, read: impl Fn(&Value) -> Option<T>, default: T) -> T {
        let Some(value) = self.get(key).cloned() else { return default };
        read(&value).unwrap_or_else(|| {
            self.mistakes.push(format!("`{key}` is {value}, which is not {what}"));
            default
        })
    }

    fn size(&mut self, key: &str, default: usize) -> usize {
        let read = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < 1 << 40);
        self.value(key, "an integer of at least 0", read, default)
    }

    fn number(&mut self, key: &str, default: f64) -> f64 {
        self.value(key, "a number", Value::as_f64, default)
    }

    fn flag(&mut self, key: &str, default: bool) -> bool {
        self.value(key, "true or false", Value::as_bool, default)
    }

    fn word(&mut self, key: &str, default: &str) -> String {
        self.value(key, "a string", |v| v.as_str().map(str::to_owned), default.to_owned())
    }

    /// Checks a key of which only one value is supported.
    fn fixed(&mut self, key: &str, only: Value, why: &str) {
        if let Some(value) = self.get(key).filter(|v| **v != only) {
            let mistake = format!("`{key}` is {value}; {why} {only}");
            self.mistakes.push(mistake);
        }
    }

    fn describe(mut self, text: String) -> Result<Described, Vec<String>> {
        self.known();
        let kind = self.word("model_type", "");
        let switch = match kind.as_str() {
            "t5" | "mt5" => false,
            "switch_transformers" => true,
            other => {
                let mistake = match other {
                    "" => "there is no `model_type`".to_owned(),
                    _ => format!("`model_type` is \"{other}\""),
                };
                return Err(vec![mistake + "; t5, mt5 and switch_transformers are supported"]);
            }
        };
        self.fixed("is_encoder_decoder", json!(true), "the only supported value is");
        for (key, only) in [("pad_token_id", 0), ("decoder_start_token_id", 0), ("eos_token_id", 1)] {
            self.fixed(key, json!(only), "the only supported value is");
        }
        let mut settings = self.sizes(&kind);
        if switch {
            self.experts(&mut settings);
        }
        let dtype = match self.get("dtype").or(self.get("torch_dtype")).and_then(Value::as_str) {
            Some("bfloat16") => "selective",
            Some("float32" | "float16") | None => "f32",
            Some(other) => {
                self.mistakes
                    .push(format!("`dtype` is \"{other}\"; float32, bfloat16 and float16 are supported"));
                "f32"
            }
        };
        let model = if switch { "switch" } else { "t5" };
        if self.mistakes.is_empty() {
            Ok(Described { model, settings, dtype, text })
        } else {
            Err(self.mistakes)
        }
    }

    fn known(&mut self) {
        let known = || READ.iter().chain(WITHOUT_EFFECT).copied();
        let unknown: Vec<String> =
            self.fields.iter().map(|(k, _)| k.clone()).filter(|k| !known().any(|known| known == k)).collect();
        for key in unknown {
            let near =
                suggest(&key, known()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.mistakes.push(format!("unknown key `{key}`{near}"));
        }
    }

    /// Converts the keys that T5 and SwitchTransformers share.
    fn sizes(&mut self, kind: &str) -> Vec<(String, String)> {
        // Defaults of transformers, by kind: vocab_size, d_model, d_ff, num_layers, num_heads.
        let [vocab, d_model, d_ff, layers, heads] = match kind {
            "switch_transformers" => [32128, 768, 2048, 12, 12],
            "mt5" => [250_112, 512, 1024, 8, 6],
            _ => [32128, 512, 2048, 6, 8],
        };
        let mut settings = Vec::new();
        let mut set = |key: &str, value: String| settings.push((key.to_owned(), value));
        for (theirs, ours, default) in [
            ("vocab_size", "vocab", vocab),
            ("d_model", "d_model", d_model),
            ("d_ff", "d_ff", d_ff),
            ("d_kv", "d_kv", 64),
            ("num_heads", "heads", heads),
            ("relative_attention_num_buckets", "buckets", 32),
            ("relative_attention_max_distance", "max_distance", 128),
        ] {
            set(ours, self.size(theirs, default).to_string());
        }
        let layers = self.size("num_layers", layers);
        set("encoder_layers", layers.to_string());
        set("decoder_layers", self.size("num_decoder_layers", layers).to_string());
        set("epsilon", self.number("layer_norm_epsilon", 1e-6).to_string());
        set("dropout", self.number("dropout_rate", 0.1).to_string());
        set("tied", self.flag("tie_word_embeddings", kind != "mt5").to_string());
        // The loss of Hugging Face has no z-loss.
        set("z_loss", "0".into());
        set("activation", self.activation(kind).into());
        settings
    }

    /// Converts `feed_forward_proj` and the keys that depend on it.
    fn activation(&mut self, kind: &str) -> &'static str {
        let function = self.get("dense_act_fn").and_then(Value::as_str).map(str::to_owned);
        let usual = match (kind, function.as_deref()) {
            ("mt5", _) => "gated-gelu",
            (_, Some("gelu_new")) if self.flag("is_gated_act", false) => "gated-gelu",
            (_, _) => "relu",
        };
        let stated = self.word("feed_forward_proj", usual);
        let (ours, gated, known) = match stated.as_str() {
            "relu" => ("relu", false, ["relu", "relu"]),
            "gated-gelu" => ("gated-gelu", true, ["gelu_new", "gelu_new"]),
            other => {
                self.mistakes
                    .push(format!("`feed_forward_proj` is \"{other}\"; relu and gated-gelu are supported"));
                return "relu";
            }
        };
        if gated && kind == "switch_transformers" {
            self.mistakes.push(
                "`feed_forward_proj` is \"gated-gelu\", which SwitchTransformers does not support".into(),
            );
        }
        if let Some(function) = function.filter(|f| !known.contains(&f.as_str())) {
            self.mistakes.push(format!(
                "`dense_act_fn` is \"{function}\", which contradicts `feed_forward_proj`, \"{stated}\": that is {}",
                known[0]
            ));
        }
        self.fixed("is_gated_act", json!(gated), &format!("with `feed_forward_proj` \"{stated}\" it is"));
        ours
    }

    fn experts(&mut self, settings: &mut Vec<(String, String)>) {
        let layers = self.size("num_layers", 12);
        let decoder_layers = self.size("num_decoder_layers", layers);
        self.fixed("router_dtype", json!("float32"), "the only supported value is");
        self.fixed("router_type", json!("tokens_masked"), "the only supported value is");
        let steps = [
            self.step("num_sparse_encoder_layers", "encoder_sparse_step", layers),
            self.step("num_sparse_decoder_layers", "decoder_sparse_step", decoder_layers),
        ];
        let capacity = self.size("expert_capacity", 64);
        if capacity == 0 {
            self.mistakes.push("`expert_capacity` is 0: every token would be dropped".into());
        }
        for (key, value) in [
            ("experts", self.size("num_experts", 8).to_string()),
            ("sparse_step", steps[0].to_string()),
            ("decoder_sparse_step", steps[1].to_string()),
            ("fixed_capacity", capacity.to_string()),
            ("min_capacity", "1".into()),
            ("group_size", "0".into()),
            ("jitter", self.number("router_jitter_noise", 0.01).to_string()),
            ("aux_loss", self.number("router_aux_loss_coef", 0.001).to_string()),
            ("router_z_loss", self.number("router_z_loss_coef", 0.001).to_string()),
            ("router_bias", self.flag("router_bias", false).to_string()),
            ("round_probabilities", "true".into()),
        ] {
            settings.push((key.into(), value));
        }
    }

    /// Returns the distance between sparse layers, which two keys state redundantly.
    fn step(&mut self, number: &str, step: &str, layers: usize) -> usize {
        let stated = self.get(step).is_some().then(|| self.size(step, 1));
        // The default of transformers.
        let sparse = self.size(number, 3);
        let follows = layers.checked_div(sparse).unwrap_or(layers);
        let count = self.get(number).is_some();
        match stated {
            Some(stated) if count && stated != follows => self.mistakes.push(format!(
                "`{step}` is {stated}, which contradicts `{number}` = {sparse}: for {layers} layers it implies {follows}"
            )),
            Some(_) | None => {}
        }
        let chosen = stated.unwrap_or(follows);
        if chosen == 0 {
            self.mistakes.push(format!("`{number}` is {sparse}, more than the {layers} layers"));
        }
        chosen.max(1)
    }
}

/// Returns the text of `config.json` for a model that was not imported.
pub fn write(config: &Config, dtype: &str) -> Result<String, String> {
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| drop(map.insert(key.into(), value));
    let gated = config.activation == Activation::GatedGelu;
    let (kind, class) = match config.switch {
        Some(_) => ("switch_transformers", "SwitchTransformersForConditionalGeneration"),
        None => ("t5", "T5ForConditionalGeneration"),
    };
    set("architectures", json!([class]));
    set("model_type", json!(kind));
    for (key, size) in [
        ("vocab_size", config.vocab),
        ("d_model", config.d_model),
        ("d_ff", config.d_ff),
        ("d_kv", config.d_kv),
        ("num_heads", config.heads),
        ("num_layers", config.encoder_layers),
        ("num_decoder_layers", config.decoder_layers),
        ("relative_attention_num_buckets", config.buckets),
        ("relative_attention_max_distance", config.max_distance),
    ] {
        set(key, json!(size));
    }
    set("layer_norm_epsilon", json!(config.epsilon));
    set("dropout_rate", json!(config.dropout));
    set("tie_word_embeddings", json!(config.tied));
    set("feed_forward_proj", json!(if gated { "gated-gelu" } else { "relu" }));
    set("dense_act_fn", json!(if gated { "gelu_new" } else { "relu" }));
    set("is_gated_act", json!(gated));
    set("dtype", json!(dtype));
    for (key, value) in [
        ("is_encoder_decoder", json!(true)),
        ("pad_token_id", json!(0)),
        ("eos_token_id", json!(1)),
        ("decoder_start_token_id", json!(0)),
    ] {
        set(key, value);
    }
    if let Some(switch) = &config.switch {
        write_switch(config, switch, &mut set)?;
    }
    let mut text = serde_json::to_string_pretty(&map).expect("numbers and texts are JSON");
    text.push('\n');
    Ok(text)
}

/// Writes the keys of SwitchTransformers.
fn write_switch(config: &Config, switch: &Switch, set: &mut dyn FnMut(&str, Value)) -> Result<(), String> {
    if switch.fixed_capacity == 0 {
        let what =
            "its expert capacity follows from a capacity factor, and SwitchTransformers needs a fixed number";
        return Err(format!("{what}: set it with --set fixed_capacity=64"));
    }
    set("expert_capacity", json!(switch.fixed_capacity));
    for (decoder, number, step, layers) in [
        (false, "num_sparse_encoder_layers", "encoder_sparse_step", config.encoder_layers),
        (true, "num_sparse_decoder_layers", "decoder_sparse_step", config.decoder_layers),
    ] {
        let own = config.sparse_step(decoder).unwrap_or(1);
        // SwitchTransformers states the number of sparse layers and derives their distance by integer
        // division. If no number gives this distance, only the distance is correct.
        if let Some(count) = (1..=layers).find(|n| layers / n == own) {
            set(number, json!(count));
        }
        set(step, json!(own));
    }
    set("num_experts", json!(switch.experts));
    set("router_aux_loss_coef", json!(switch.aux_loss));
    set("router_z_loss_coef", json!(switch.router_z_loss));
    set("router_jitter_noise", json!(switch.jitter));
    set("router_bias", json!(switch.router_bias));
    set("router_dtype", json!("float32"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[&str]) {
        let said = match Described::parse(text, "config.json") {
            Ok(described) => described.line(),
            Err(error) => error.to_string(),
        };
        for expect in expect {
            assert!(said.contains(expect), "{said}\ndoes not say\n{expect}");
        }
    }

    #[test]
    fn what_is_not_said_has_their_defaults() {
        check(
            r#"{"model_type":"t5"}"#,
            &["vocab=32128 d_model=512", "heads=8", "encoder_layers=6", "tied=true", "activation=relu"],
        );
        check(r#"{"model_type":"mt5"}"#, &["vocab=250112", "tied=false", "activation=gated-gelu"]);
        check(
            r#"{"model_type":"switch_transformers","num_layers":5,"num_sparse_encoder_layers":2,"num_sparse_decoder_layers":5}"#,
            &["experts=8", " sparse_step=2", "decoder_sparse_step=1", "fixed_capacity=64", "aux_loss=0.001"],
        );
    }

    #[test]
    fn what_is_written_is_read_as_the_same_model() {
        use crate::origin::resolved;
        let switch = Switch { sparse_step: 2, decoder_sparse_step: 3, ..Switch::hugging_face(4, 7) };
        let sparse = Config { switch: Some(switch), dropout: 0.0, ..models::zoo::t5_small() };
        for config in [models::zoo::t5_base(), models::zoo::t5_v1_1_xxl(), sparse] {
            let text = write(&config, "bfloat16").unwrap();
            let described = Described::parse(&text, "config.json").unwrap();
            let again = resolved(described.model, &described.line(), described.dtype, "config.json").unwrap();
            assert_eq!(models::hf::tensors(&again), models::hf::tensors(&config));
            let sizes = |c: &Config| (c.buckets, c.epsilon, c.dropout, c.max_distance, c.activation, c.tied);
            assert_eq!(sizes(&again), sizes(&config));
            let routers = |c: &Config| {
                let router = |s: &Switch| (s.fixed_capacity, s.aux_loss, s.router_z_loss, s.jitter);
                (c.switch.as_ref().map(router), [false, true].map(|decoder| c.sparse_step(decoder)))
            };
            assert_eq!(routers(&again), routers(&config));
        }
    }

    #[test]
    fn unknown_and_contradictory_keys_are_mistakes() {
        check(r#"{"model_type":"t5","d_modle":8}"#, &["unknown key `d_modle`; did you mean `d_model`?"]);
        check(r#"{"model_type":"bert"}"#, &["`model_type` is \"bert\"; t5, mt5 and switch_transformers"]);
        check(r#"{}"#, &["there is no `model_type`"]);
        check(r#"{"model_type":"t5","d_model":"8"}"#, &["`d_model` is \"8\", which is not an integer"]);
        check(r#"{"model_type":"t5","d_model":8,"d_model":8}"#, &["duplicate key `d_model`"]);
        check(
            r#"{"model_type":"t5","feed_forward_proj":"relu","is_gated_act":true}"#,
            &["`is_gated_act` is true; with"],
        );
        check(
            r#"{"model_type":"t5","feed_forward_proj":"gated-gelu","dense_act_fn":"relu"}"#,
            &["`dense_act_fn` is \"relu\", which contradicts `feed_forward_proj`"],
        );
        check(
            r#"{"model_type":"t5","feed_forward_proj":"gated-silu"}"#,
            &["relu and gated-gelu are supported"],
        );
        check(
            r#"{"model_type":"t5","pad_token_id":5}"#,
            &["`pad_token_id` is 5; the only supported value is 0"],
        );
        check(
            r#"{"model_type":"switch_transformers","num_layers":4,"num_sparse_encoder_layers":2,"encoder_sparse_step":3}"#,
            &[
                "`encoder_sparse_step` is 3, which contradicts `num_sparse_encoder_layers` = 2: for 4 layers it implies 2",
            ],
        );
        check(
            r#"{"model_type":"switch_transformers","num_layers":2,"num_sparse_encoder_layers":3}"#,
            &["more than the 2 layers"],
        );
        check(r#"{"model_type":"switch_transformers","expert_capacity":0}"#, &["`expert_capacity` is 0"]);
        check(
            r#"{"model_type":"switch_transformers","router_dtype":"bfloat16"}"#,
            &["the only supported value is \"float32\""],
        );
    }
}
