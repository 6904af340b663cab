//! Conversion between `config.json` of T5, mT5, umT5 and SwitchTransformers and the settings of mesh models.
//!
//! Unknown keys are errors, because they may change the model. Redundant keys must agree.

use super::{
    causal,
    file::Fields,
    keys::{Keys, READ},
    sentinels,
};
use crate::failure;
use anyhow::Result;
use mesh::task::Sentinels;
use models::{Activation, Config, Switch, hf::Causal};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Endings of architectures that are not an encoder with a decoder and an output projection.
const OTHER_ARCHITECTURES: [(&str, &str); 4] = [
    ("EncoderModel", "an encoder without a decoder"),
    ("ForSequenceClassification", "a classifier"),
    ("ForTokenClassification", "a classifier"),
    ("ForQuestionAnswering", "a model of spans"),
];

/// Number of ByT5's sentinels: they count down from its last byte, 0xff, and no text has the bytes from 0xf5.
const BYT5_SENTINELS: (u32, u32) = (258, 11);

/// A model described by settings.
#[derive(Clone, PartialEq, Debug)]
pub struct Described {
    /// The preset that the settings change: `t5` or `switch`.
    pub model: &'static str,
    /// Keys and values.
    pub settings: Vec<(String, String)>,
    /// The precision for the element type of the file: `f32` or `selective`.
    pub dtype: &'static str,
    /// True if `tie_word_embeddings` says that the output projection shares the embedding. The weights
    /// decide: see [`Described::set_head`].
    pub declares_tied: bool,
    /// True if tokens are bytes, as ByT5's tokenizer makes them.
    pub of_bytes: bool,
    /// The class of a decoder-only model; `None` means a model with an encoder.
    pub causal: Option<Causal>,
    /// The text of `config.json`.
    pub text: String,
}

impl Described {
    /// Reads `config.json` of a directory.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = proto::regular::read_to_string(&path).map_err(|e| {
            failure(
                format!("reading `{}`: {e}", path.display()),
                "name the directory of a Hugging Face model",
            )
        })?;
        // Absent or damaged, the file of the tokenizer says nothing about the model.
        let tokenizer = proto::regular::read(&dir.join("tokenizer_config.json")).ok();
        let tokenizer: Option<Value> = tokenizer.and_then(|text| serde_json::from_slice(&text).ok());
        let class = tokenizer.as_ref().and_then(|t| t["tokenizer_class"].as_str());
        let mut described = Self::parse(&text, class, &path.display().to_string())?;
        if !described.of_bytes && described.causal.is_none() {
            let vocab = described.settings.iter().find(|(key, _)| key == "vocab");
            let vocab = vocab.and_then(|(_, size)| size.parse().ok()).expect("every model has a vocabulary");
            if let Some(Sentinels { first, count }) = sentinels::of_directory(dir, vocab)? {
                described.settings.push(("first_sentinel".into(), first.to_string()));
                described.settings.push(("sentinels".into(), count.to_string()));
            }
        }
        Ok(described)
    }

    /// `class` is the class of the tokenizer by its own file, which `config.json` may state, too.
    fn parse(text: &str, class: Option<&str>, name: &str) -> Result<Self> {
        let fields: Fields = serde_json::from_str(text).map_err(|e| {
            failure(format!("`{name}` is not a configuration: {e}"), "it must be a JSON object")
        })?;
        let mut fields = fields.0;
        if let Some(class) = class
            && fields.iter().all(|(key, value)| key != "tokenizer_class" || value.is_null())
        {
            fields.retain(|(key, _)| key != "tokenizer_class");
            fields.push(("tokenizer_class".into(), class.into()));
        }
        let keys = Keys { fields, mistakes: Vec::new() };
        keys.describe(text.to_owned()).map_err(|mistakes| {
            let what =
                format!("`{name}` describes a model that cannot be imported:\n  {}", mistakes.join("\n  "));
            failure(
                what,
                "T5, mT5, umT5, SwitchTransformers, Mistral, Mixtral and GLM-4-MoE can be imported; \
                 docs/interchange.md lists the keys",
            )
        })
    }

    /// Adds the settings of the output projection. The weights decide: a separate projection is one that
    /// differs from the embedding. `own` is `None` if the weights have no projection, else true if theirs
    /// differs.
    ///
    /// # Errors
    /// The weights have no projection, and `config.json` requires one.
    pub fn set_head(&mut self, own: Option<bool>) -> Result<(), String> {
        if own.is_none() && !self.declares_tied {
            return Err("there is no `lm_head.weight`, and `tie_word_embeddings` is false".into());
        }
        self.settings.push(("tied".into(), (!own.unwrap_or(false)).to_string()));
        Ok(())
    }

    /// Returns the settings as one string.
    pub fn line(&self) -> String {
        self.settings.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }
}

impl Keys {
    fn describe(mut self, text: String) -> Result<Described, Vec<String>> {
        let kind = self.word("model_type", "");
        if let Some(class) = Causal::ALL.into_iter().find(|class| class.model_type() == kind) {
            return self.causal(class, text);
        }
        self.known(READ);
        let switch = match kind.as_str() {
            "t5" | "mt5" | "umt5" => false,
            "switch_transformers" => true,
            other => {
                let mistake = match other {
                    "" => "there is no `model_type`".to_owned(),
                    _ => format!("`model_type` is \"{other}\""),
                };
                let supported = "; t5, mt5, umt5 and switch_transformers are supported, and mistral, mixtral and glm4_moe";
                return Err(vec![mistake + supported]);
            }
        };
        self.architecture();
        self.fixed("tie_encoder_decoder", json!(false), "the only supported value is");
        self.fixed("is_encoder_decoder", json!(true), "the only supported value is");
        for (key, only) in [("pad_token_id", 0), ("decoder_start_token_id", 0), ("eos_token_id", 1)] {
            self.fixed(key, json!(only), "the only supported value is");
        }
        let mut settings = self.sizes(&kind);
        let (declares_tied, scaled) = self.output(&kind);
        settings.push(("scaled_output".into(), scaled.to_string()));
        let of_bytes = self.word("tokenizer_class", "").starts_with("ByT5Tokenizer");
        if of_bytes {
            let (first, count) = BYT5_SENTINELS;
            settings.push(("first_sentinel".into(), first.to_string()));
            settings.push(("sentinels".into(), count.to_string()));
        }
        if switch {
            self.experts(&mut settings);
        }
        let dtype = self.dtype();
        let model = if switch { "switch" } else { "t5" };
        if self.mistakes.is_empty() {
            Ok(Described { model, settings, dtype, declares_tied, of_bytes, causal: None, text })
        } else {
            Err(self.mistakes)
        }
    }

    /// Describes a decoder-only model.
    fn causal(mut self, class: Causal, text: String) -> Result<Described, Vec<String>> {
        let settings = causal::describe(&mut self, class);
        let (declares_tied, dtype) = (self.flag("tie_word_embeddings", false), self.dtype());
        let model = if class == Causal::Mistral { "t5" } else { "switch" };
        if self.mistakes.is_empty() {
            let causal = Some(class);
            Ok(Described { model, settings, dtype, declares_tied, of_bytes: false, causal, text })
        } else {
            Err(self.mistakes)
        }
    }

    /// Returns the precision for the element type of the file.
    fn dtype(&mut self) -> &'static str {
        match self.get("dtype").or(self.get("torch_dtype")).and_then(Value::as_str) {
            Some("bfloat16") => "selective",
            Some("float32" | "float16" | "float64") | None => "f32",
            Some(other) => {
                self.mistakes.push(format!(
                    "`dtype` is \"{other}\"; float32, bfloat16, float16 and float64 are supported"
                ));
                "f32"
            }
        }
    }

    /// Refuses classes that are no encoder with a decoder.
    fn architecture(&mut self) {
        let Some(Value::Array(all)) = self.get("architectures").cloned() else { return };
        for class in all.iter().filter_map(Value::as_str) {
            let other = OTHER_ARCHITECTURES.iter().find(|(ending, _)| class.ends_with(ending));
            if let Some((_, what)) = other {
                self.mistakes.push(format!(
                    "`architectures` is {class}, {what}; only classes with an encoder, a decoder and an output \
                     projection are supported, such as T5ForConditionalGeneration"
                ));
            }
        }
    }

    /// Returns whether the output projection is declared to share the embedding, and whether its input is
    /// scaled by `d_model^-0.5`. Since version 5 a key says so, and mT5 is never scaled; before, the flag of
    /// tied tables decides.
    fn output(&mut self, kind: &str) -> (bool, bool) {
        let tied = self.flag("tie_word_embeddings", kind != "mt5");
        let stated = self.flag("scale_decoder_outputs", tied);
        let version = self.word("transformers_version", "");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if kind == "mt5" && !version.is_empty() && major.is_none() {
            self.mistakes.push(format!(
                "`transformers_version` is \"{version}\", which is no version; it decides if mT5's output is scaled"
            ));
        }
        if kind == "switch_transformers" && stated != tied {
            self.mistakes.push(format!(
                "`scale_decoder_outputs` is {stated}, which contradicts `tie_word_embeddings`; SwitchTransformers scales by \
                 the latter"
            ));
        }
        (tied, stated && !(kind == "mt5" && major.is_some_and(|major| major >= 5)))
    }

    /// Converts the keys that T5 and SwitchTransformers share.
    fn sizes(&mut self, kind: &str) -> Vec<(String, String)> {
        // Defaults of transformers, by kind: vocab_size, d_model, d_ff, num_layers, num_heads.
        let [vocab, d_model, d_ff, layers, heads] = match kind {
            "switch_transformers" => [32128, 768, 2048, 12, 12],
            "mt5" | "umt5" => [250_112, 512, 1024, 8, 6],
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
        set("layer_biases", (kind == "umt5").to_string());
        // The loss of Hugging Face has no z-loss.
        set("z_loss", "0".into());
        set("activation", self.activation(kind).into());
        settings
    }

    /// Converts `feed_forward_proj` and the keys that depend on it.
    fn activation(&mut self, kind: &str) -> &'static str {
        let function = self.get("dense_act_fn").and_then(Value::as_str).map(str::to_owned);
        let usual = match (kind, function.as_deref()) {
            ("mt5" | "umt5", _) => "gated-gelu",
            (_, Some("gelu_new")) if self.flag("is_gated_act", false) => "gated-gelu",
            (_, Some("silu")) if self.flag("is_gated_act", false) => "gated-silu",
            (_, _) => "relu",
        };
        let stated = self.word("feed_forward_proj", usual);
        let Some(ours) = Activation::ALL.into_iter().find(|a| a.name() == stated) else {
            let known = Activation::ALL.map(Activation::name).join(", ");
            self.mistakes.push(format!("`feed_forward_proj` is \"{stated}\"; supported are {known}"));
            return "relu";
        };
        let (gated, known) = (ours.gated(), dense_act_fn(ours));
        if gated && kind == "switch_transformers" {
            self.mistakes.push(format!(
                "`feed_forward_proj` is \"{stated}\", which SwitchTransformers does not support"
            ));
        }
        if let Some(function) = function.filter(|f| f != known) {
            self.mistakes.push(format!(
                "`dense_act_fn` is \"{function}\", which contradicts `feed_forward_proj`, \"{stated}\": that is {known}"
            ));
        }
        self.fixed("is_gated_act", json!(gated), &format!("with `feed_forward_proj` \"{stated}\" it is"));
        ours.name()
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
            // Transformers has a key for it, `router_ignore_padding_tokens`, which its code does not read.
            ("ignore_padding", "false".into()),
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

/// Returns transformers' name of the function of an activation.
fn dense_act_fn(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::GatedGelu => "gelu_new",
        Activation::GatedSilu => "silu",
    }
}

/// Returns the text of `config.json` for a model that was not imported.
pub fn write(config: &Config, dtype: &str) -> Result<String, String> {
    if config.is_decoder_only() {
        return causal::write(config, dtype);
    }
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| drop(map.insert(key.into(), value));
    let (kind, class) = match config.switch {
        Some(_) => ("switch_transformers", "SwitchTransformersForConditionalGeneration"),
        None if config.layer_biases => ("umt5", "UMT5ForConditionalGeneration"),
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
    // Transformers before version 5 scale the output if the tables are tied.
    set("tie_word_embeddings", json!(config.scales_output()));
    set("scale_decoder_outputs", json!(config.scales_output()));
    set("feed_forward_proj", json!(config.activation.name()));
    set("dense_act_fn", json!(dense_act_fn(config.activation)));
    set("is_gated_act", json!(config.activation.gated()));
    if config.sentinels.is_some_and(|s| (s.first, s.count) == BYT5_SENTINELS) {
        set("tokenizer_class", json!("ByT5Tokenizer"));
    }
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
        let said = match Described::parse(text, None, "config.json") {
            Ok(mut described) => {
                described.set_head(Some(!described.declares_tied)).unwrap();
                described.line()
            }
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
        let ul2 = Config { activation: Activation::GatedSilu, ..models::zoo::t5_v1_1_xxl() };
        let umt5 = Config { layer_biases: true, tied: false, ..models::zoo::t5_small() };
        let byt5 = Sentinels { first: BYT5_SENTINELS.0, count: BYT5_SENTINELS.1 };
        let byt5 = Config { sentinels: Some(byt5), ..models::zoo::t5_small() };
        for config in [models::zoo::t5_base(), models::zoo::t5_v1_1_xxl(), sparse, ul2, umt5, byt5] {
            let text = write(&config, "bfloat16").unwrap();
            let mut described = Described::parse(&text, None, "config.json").unwrap();
            described.set_head((!config.tied).then_some(true)).unwrap();
            let again = resolved(described.model, &described.line(), described.dtype, "config.json").unwrap();
            assert_eq!(models::hf::tensors(&again), models::hf::tensors(&config));
            let sizes = |c: &Config| (c.buckets, c.epsilon, c.dropout, c.max_distance, c.activation);
            assert_eq!(sizes(&again), sizes(&config));
            let output = |c: &Config| (c.tied, c.scales_output(), c.layer_biases, c.sentinels);
            assert_eq!(output(&again), output(&config));
            let routers = |c: &Config| {
                let router =
                    |s: &Switch| (s.fixed_capacity, s.aux_loss, s.router_z_loss, s.jitter, s.ignore_padding);
                (c.switch.as_ref().map(router), [false, true].map(|decoder| c.sparse_step(decoder)))
            };
            assert_eq!(routers(&again), routers(&config));
        }
    }

    /// Checks the settings of the output projection. `own` is the answer of the weights.
    #[track_caller]
    fn output(text: &str, own: Option<bool>, tied: bool, scaled: bool) {
        let mut described = Described::parse(text, None, "config.json").unwrap();
        described.set_head(own).unwrap();
        let expect = format!("scaled_output={scaled} tied={tied}");
        assert!(described.line().replace("experts", "").contains(&expect), "{}", described.line());
    }

    #[test]
    fn weights_and_flags_decide_about_the_output() {
        let t5 = |more: &str| format!(r#"{{"model_type":"t5","transformers_version":"5.24.0"{more}}}"#);
        let tie = |flag: bool| format!(r#","tie_word_embeddings":{flag}"#);
        let scale = |flag: bool| format!(r#","scale_decoder_outputs":{flag}"#);
        output(&t5(""), None, true, true);
        output(&t5(&tie(true)), Some(false), true, true);
        output(&t5(&tie(false)), Some(true), false, false);
        output(&t5(&tie(false)), Some(false), true, false);
        // Since version 5 tables count as tied always.
        output(&t5(&(tie(true) + &scale(false))), Some(true), false, false);
        output(&t5(&(tie(true) + &scale(false))), None, true, false);
        output(&t5(&(tie(true) + &scale(true))), Some(true), false, true);
        let mt5 = |version: &str, tied| {
            format!(r#"{{"model_type":"mt5","transformers_version":"{version}"{}}}"#, tie(tied))
        };
        output(&mt5("4.57.6", true), None, true, true);
        output(&mt5("4.57.6", false), Some(true), false, false);
        output(&mt5("5.0.0.dev0", true), None, true, false);
        output(r#"{"model_type":"mt5","scale_decoder_outputs":true}"#, Some(true), false, true);
        output(r#"{"model_type":"umt5"}"#, Some(true), false, true);
        let none = Described::parse(&t5(&tie(false)), None, "config.json").unwrap().set_head(None);
        assert!(none.unwrap_err().contains("there is no `lm_head.weight`"));
    }

    #[test]
    fn kinds_have_their_settings() {
        check(r#"{"model_type":"umt5"}"#, &["vocab=250112", "layer_biases=true", "activation=gated-gelu"]);
        check(r#"{"model_type":"t5","feed_forward_proj":"gated-silu"}"#, &["activation=gated-silu"]);
        check(r#"{"model_type":"t5","is_gated_act":true,"dense_act_fn":"silu"}"#, &["activation=gated-silu"]);
        check(
            r#"{"model_type":"t5","tokenizer_class":"ByT5Tokenizer"}"#,
            &["first_sentinel=258", " sentinels=11"],
        );
        let by_file =
            Described::parse(r#"{"model_type":"t5"}"#, Some("ByT5Tokenizer"), "config.json").unwrap();
        assert!(by_file.of_bytes && by_file.line().contains("first_sentinel=258"));
        check(
            r#"{"model_type":"t5","architectures":["T5EncoderModel"]}"#,
            &["`architectures` is T5EncoderModel, an encoder without a decoder"],
        );
        check(r#"{"model_type":"t5","quantization_config":{}}"#, &["unknown key `quantization_config`"]);
        check(r#"{"model_type":"t5","tie_encoder_decoder":true}"#, &["the only supported value is false"]);
        check(
            r#"{"model_type":"mt5","transformers_version":"new"}"#,
            &["`transformers_version` is \"new\", which is no version"],
        );
        check(
            r#"{"model_type":"switch_transformers","scale_decoder_outputs":false}"#,
            &["contradicts `tie_word_embeddings`"],
        );
    }

    #[test]
    fn unknown_and_contradictory_keys_are_mistakes() {
        check(r#"{"model_type":"t5","d_modle":8}"#, &["unknown key `d_modle`; did you mean `d_model`?"]);
        check(
            r#"{"model_type":"bert"}"#,
            &["`model_type` is \"bert\"; t5, mt5, umt5 and switch_transformers"],
        );
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
            r#"{"model_type":"t5","feed_forward_proj":"gated-relu"}"#,
            &["`feed_forward_proj` is \"gated-relu\"; supported are relu, gated-gelu, gated-silu"],
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
