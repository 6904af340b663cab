//! Conversion between `config.json` of decoder-only models (Mistral, Mixtral, GLM-4-MoE) and the settings of
//! mesh models.

use super::keys::Keys;
use models::{Config, Switch, hf::Causal};
use serde_json::{Map, Value, json};

/// Keys that all classes have.
const READ: &[&str] = &[
    "architectures",
    "attention_dropout",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    // Our padding is token 0 always, and no row of a batch needs another.
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    // Tells how the tokenizer begins and ends a text, and nothing about the model.
    "tokenizer_class",
    "transformers_version",
    "vocab_size",
];

/// Keys of one class.
fn own_keys(class: Causal) -> &'static [&'static str] {
    match class {
        Causal::Mistral => &["sliding_window"],
        Causal::Mixtral => &[
            "num_experts_per_tok",
            "num_local_experts",
            "router_aux_loss_coef",
            "router_jitter_noise",
            "sliding_window",
        ],
        Causal::Glm4Moe => &[
            "attention_bias",
            "first_k_dense_replace",
            "moe_intermediate_size",
            "n_group",
            "n_routed_experts",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            // Layers that predict later tokens, which transformers do not load.
            "num_nextn_predict_layers",
            "partial_rotary_factor",
            "routed_scaling_factor",
            "topk_group",
            "use_qk_norm",
        ],
    }
}

/// The rate of the biases for the choice, which no file states: that of DeepSeek-V3.
const BALANCE_BIAS: &str = "0.001";

/// Rows of training have at most as many tokens, unless settings say otherwise.
const LONGEST_ROW: usize = 1024;

/// Returns the settings of a decoder-only model; notes mistakes in `keys`.
pub(super) fn describe(keys: &mut Keys, class: Causal) -> Vec<(String, String)> {
    let read: Vec<&'static str> = READ.iter().chain(own_keys(class)).copied().collect();
    keys.known(&read);
    architecture(keys, class);
    let mut settings = sizes(keys, class);
    let mut set = |key: &str, value: String| settings.push((key.to_owned(), value));
    for (key, value) in [
        ("objective", "lm"),
        ("input_length", "0"),
        ("encoder_layers", "0"),
        ("positions", "rope"),
        ("activation", "gated-silu"),
        ("scaled_output", "false"),
        ("dropout", "0"),
        // The loss of Hugging Face has no z-loss.
        ("z_loss", "0"),
    ] {
        set(key, value.into());
    }
    set("rope_theta", theta(keys, class).to_string());
    only(keys, "hidden_act", json!("silu"), json!("silu"));
    only(keys, "attention_dropout", json!(0.0), json!(0.0));
    let (bos, eos) = match class {
        Causal::Mistral | Causal::Mixtral => (1, 2),
        // Transformers have no default: the start is padding, and the end that of mesh models.
        Causal::Glm4Moe => (0, 1),
    };
    set("start_token", keys.size("bos_token_id", bos).to_string());
    set("eos_token", keys.size("eos_token_id", eos).to_string());
    match class {
        Causal::Mistral => {}
        Causal::Mixtral => settings.extend(mixtral(keys)),
        Causal::Glm4Moe => settings.extend(glm(keys)),
    }
    settings
}

/// Refuses classes without an output projection.
fn architecture(keys: &mut Keys, class: Causal) {
    let Some(Value::Array(all)) = keys.get("architectures").cloned() else { return };
    for name in all.iter().filter_map(Value::as_str).filter(|name| *name != class.name()) {
        keys.mistakes
            .push(format!("`architectures` is {name}; the only supported class is {}", class.name()));
    }
}

/// Returns the sizes.
fn sizes(keys: &mut Keys, class: Causal) -> Vec<(String, String)> {
    // Defaults of transformers: vocab_size, intermediate_size, num_hidden_layers, num_attention_heads.
    let [vocab, d_ff, layers, heads] = match class {
        Causal::Mistral | Causal::Mixtral => [32_000, 14_336, 32, 32],
        Causal::Glm4Moe => [151_552, 10_944, 46, 96],
    };
    let (d_model, heads) = (keys.size("hidden_size", 4096), keys.size("num_attention_heads", heads));
    let d_kv = keys.size("head_dim", d_model.checked_div(heads).unwrap_or(0));
    let epsilon = if class == Causal::Mistral { 1e-6 } else { 1e-5 };
    // An explicit null means no window, and an absent key the default.
    let stated = keys.fields.iter().any(|(key, _)| key == "sliding_window");
    let window = if class == Causal::Mistral && !stated { 4096 } else { 0 };
    let window = if class == Causal::Glm4Moe { 0 } else { keys.size("sliding_window", window) };
    let row = keys.size("max_position_embeddings", 131_072).clamp(1, LONGEST_ROW);
    let sizes = [
        ("vocab", keys.size("vocab_size", vocab)),
        ("d_model", d_model),
        ("d_ff", keys.size("intermediate_size", d_ff)),
        ("decoder_layers", keys.size("num_hidden_layers", layers)),
        ("heads", heads),
        ("kv_heads", keys.size("num_key_value_heads", 8)),
        ("d_kv", d_kv),
        ("window", window),
        ("target_length", row),
    ];
    let epsilon = keys.number("rms_norm_eps", epsilon).to_string();
    let sizes = sizes.into_iter().map(|(key, size)| (key, size.to_string())).chain([("epsilon", epsilon)]);
    sizes.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Returns the base of rotary positions, which version 5 states in `rope_parameters`.
fn theta(keys: &mut Keys, class: Causal) -> f64 {
    let usual = if class == Causal::Mixtral { 1e6 } else { 1e4 };
    let mut stated = keys.number("rope_theta", usual);
    let mut turned = keys.get("partial_rotary_factor").cloned();
    for name in ["rope_parameters", "rope_scaling"] {
        let Some(value) = keys.get(name).cloned() else { continue };
        for (key, value) in value.as_object().into_iter().flatten() {
            let fits = match key.as_str() {
                "rope_theta" => value.as_f64().map(|theta| stated = theta).is_some(),
                "rope_type" | "type" => value == "default",
                "partial_rotary_factor" => {
                    turned = Some(value.clone());
                    true
                }
                _ => false,
            };
            if !fits {
                keys.mistakes.push(format!("`{name}` has \"{key}\": {value}, which is not supported"));
            }
        }
        if !value.is_object() {
            keys.mistakes.push(format!("`{name}` is {value}, which is not an object"));
        }
    }
    // Absent, it is a half in GLM-4-MoE.
    let whole = turned.as_ref().map_or(class != Causal::Glm4Moe, |factor| factor.as_f64() == Some(1.0));
    if !whole {
        let stated = turned.map_or("absent, which means 0.5".to_owned(), |factor| factor.to_string());
        keys.mistakes.push(format!("`partial_rotary_factor` is {stated}; the only supported value is 1.0"));
    }
    stated
}

/// Checks a key of which only one value is supported, and which means `usual` if it is absent.
fn only(keys: &mut Keys, key: &str, supported: Value, usual: Value) {
    let value = keys.get(key).cloned();
    let same = |value: &Value| match (value.as_f64(), supported.as_f64()) {
        (Some(a), Some(b)) => a == b,
        (_, _) => *value == supported,
    };
    if !same(value.as_ref().unwrap_or(&usual)) {
        let stated = value.map_or(format!("absent, which means {usual}"), |value| value.to_string());
        keys.mistakes.push(format!("`{key}` is {stated}; the only supported value is {supported}"));
    }
}

/// Returns the settings of sparse layers that both classes have: `experts` experts, of which a token chooses
/// `top_k`, without capacity.
fn experts(experts: usize, top_k: usize) -> Vec<(String, String)> {
    let all = [
        ("experts", experts.to_string()),
        ("sparse_step", "1".into()),
        ("decoder_sparse_step", "0".into()),
        ("routing", "top_k".into()),
        ("top_k", top_k.to_string()),
        // Transformers drop no token.
        ("dropless", "true".into()),
        ("capacity_per_choice", "true".into()),
        ("eval_capacity", "all".into()),
        ("ignore_padding", "true".into()),
        ("exploration", "argmax".into()),
        ("router_z_loss", "0".into()),
    ];
    all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn mixtral(keys: &mut Keys) -> Vec<(String, String)> {
    let mut settings = experts(keys.size("num_local_experts", 8), keys.size("num_experts_per_tok", 2));
    let jitter = keys.number("router_jitter_noise", 0.0);
    if jitter > 0.0 {
        settings.retain(|(key, _)| key != "exploration");
        settings.push(("exploration".into(), "input_jitter".into()));
        settings.push(("jitter".into(), jitter.to_string()));
    }
    settings.push(("renormalize".into(), "true".into()));
    settings.push(("aux_loss".into(), keys.number("router_aux_loss_coef", 0.001).to_string()));
    settings
}

fn glm(keys: &mut Keys) -> Vec<(String, String)> {
    for (key, supported, usual) in [
        ("attention_bias", json!(false), json!(false)),
        ("use_qk_norm", json!(false), json!(false)),
        ("first_k_dense_replace", json!(0), json!(1)),
        ("n_group", json!(1), json!(1)),
        ("topk_group", json!(1), json!(1)),
    ] {
        only(keys, key, supported, usual);
    }
    let mut settings = experts(keys.size("n_routed_experts", 128), keys.size("num_experts_per_tok", 8));
    for (key, value) in [
        ("router_scores", "sigmoid".to_owned()),
        ("balance_bias", BALANCE_BIAS.to_owned()),
        ("aux_loss", "0".to_owned()),
        ("expert_d_ff", keys.size("moe_intermediate_size", 1408).to_string()),
        ("shared_experts", keys.size("n_shared_experts", 1).to_string()),
        ("renormalize", keys.flag("norm_topk_prob", true).to_string()),
        ("gate_scale", keys.number("routed_scaling_factor", 1.0).to_string()),
    ] {
        settings.push((key.to_owned(), value));
    }
    settings
}

/// Returns the text of `config.json` for a decoder-only model that was not imported.
///
/// # Errors
/// Names the setting of the model that no class has.
pub(super) fn write(config: &Config, dtype: &str) -> Result<String, String> {
    let class = Causal::of(config)?;
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| drop(map.insert(key.into(), value));
    // Both versions of transformers read the base of rotary positions: each has a key for it.
    let mut rope = json!({ "rope_theta": config.rope_theta, "rope_type": "default" });
    if class == Causal::Glm4Moe {
        rope["partial_rotary_factor"] = json!(1.0);
    }
    for (key, value) in [
        ("architectures", json!([class.name()])),
        ("model_type", json!(class.model_type())),
        ("attention_dropout", json!(0.0)),
        ("bos_token_id", json!(config.start_token)),
        ("eos_token_id", json!(config.eos_token)),
        ("dtype", json!(dtype)),
        ("head_dim", json!(config.d_kv)),
        ("hidden_act", json!("silu")),
        ("hidden_size", json!(config.d_model)),
        ("intermediate_size", json!(config.d_ff)),
        ("max_position_embeddings", json!(config.target_length)),
        ("num_attention_heads", json!(config.heads)),
        ("num_hidden_layers", json!(config.decoder_layers)),
        ("num_key_value_heads", json!(config.heads / config.query_group())),
        ("rms_norm_eps", json!(config.epsilon)),
        ("rope_parameters", rope),
        ("rope_theta", json!(config.rope_theta)),
        ("tie_word_embeddings", json!(config.tied)),
        ("vocab_size", json!(config.vocab)),
    ] {
        set(key, value);
    }
    if class != Causal::Glm4Moe {
        set("sliding_window", if config.window > 0 { json!(config.window) } else { Value::Null });
    }
    if let Some(switch) = &config.switch {
        write_experts(class, config, switch, &mut set);
    }
    let mut text = serde_json::to_string_pretty(&map).expect("numbers and texts are JSON");
    text.push('\n');
    Ok(text)
}

/// Writes the keys of sparse layers.
fn write_experts(class: Causal, config: &Config, switch: &Switch, set: &mut dyn FnMut(&str, Value)) {
    set("num_experts_per_tok", json!(switch.choices()));
    match class {
        Causal::Mistral => {}
        Causal::Mixtral => {
            set("intermediate_size", json!(switch.d_ff(config.d_ff)));
            set("num_local_experts", json!(switch.experts));
            set("router_aux_loss_coef", json!(switch.aux_loss));
            let noisy = switch.exploration == models::switch::options::Exploration::InputJitter;
            set("router_jitter_noise", json!(if noisy { switch.jitter } else { 0.0 }));
        }
        Causal::Glm4Moe => {
            for (key, value) in [
                ("attention_bias", json!(false)),
                ("first_k_dense_replace", json!(0)),
                ("moe_intermediate_size", json!(switch.d_ff(config.d_ff))),
                ("n_group", json!(1)),
                ("n_routed_experts", json!(switch.experts)),
                ("n_shared_experts", json!(switch.shared_experts)),
                ("norm_topk_prob", json!(switch.renormalizes())),
                ("partial_rotary_factor", json!(1.0)),
                ("routed_scaling_factor", json!(switch.gate_scale)),
                ("topk_group", json!(1)),
                ("use_qk_norm", json!(false)),
            ] {
                set(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::hf::config::Described;

    /// Checks the settings or mistakes of a `config.json` of these keys.
    #[track_caller]
    fn check(text: &str, expect: &[&str]) {
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        std::fs::write(dir.path().join("config.json"), text).expect("the folder is ours");
        let said = match Described::read(dir.path()) {
            Ok(described) => described.line(),
            Err(error) => error.to_string(),
        };
        expect.iter().for_each(|expect| assert!(said.contains(expect), "{said}\ndoes not say\n{expect}"));
    }

    #[test]
    fn what_is_not_said_has_their_defaults() {
        check(
            r#"{"model_type":"mistral"}"#,
            &["window=4096", "epsilon=0.000001", "rope_theta=10000 ", "d_kv=128"],
        );
        check(r#"{"model_type":"mistral","sliding_window":null}"#, &["window=0"]);
        check(
            r#"{"model_type":"mixtral"}"#,
            &[
                "window=0",
                "rope_theta=1000000 ",
                "start_token=1 eos_token=2",
                "experts=8",
                "top_k=2",
                "dropless=true",
            ],
        );
        check(
            r#"{"model_type":"glm4_moe","first_k_dense_replace":0,"rope_parameters":{"partial_rotary_factor":1,"rope_theta":5}}"#,
            &[
                "rope_theta=5 ",
                "experts=128",
                "router_scores=sigmoid",
                "expert_d_ff=1408",
                "shared_experts=1",
            ],
        );
    }

    #[test]
    fn unknown_and_unsupported_values_are_named() {
        let mixtral = |more: &str| format!(r#"{{"model_type":"mixtral",{more}}}"#);
        check(
            &mixtral(r#""num_local_expert":4"#),
            &["unknown key `num_local_expert`; did you mean `num_local_experts`?"],
        );
        check(&mixtral(r#""n_group":1"#), &["unknown key `n_group`"]);
        check(
            &mixtral(r#""hidden_act":"gelu""#),
            &["`hidden_act` is \"gelu\"; the only supported value is \"silu\""],
        );
        check(
            &mixtral(r#""attention_dropout":0.1"#),
            &["`attention_dropout` is 0.1; the only supported value is 0.0"],
        );
        check(
            &mixtral(r#""rope_scaling":{"type":"linear","factor":2}"#),
            &["\"type\": \"linear\"", "\"factor\": 2"],
        );
        check(&mixtral(r#""eos_token_id":[2,3]"#), &["`eos_token_id` is [2,3], which is not an integer"]);
        check(
            &mixtral(r#""architectures":["MixtralForSequenceClassification"]"#),
            &["the only supported class is MixtralForCausalLM"],
        );
        check(
            r#"{"model_type":"glm4_moe","n_group":2,"use_qk_norm":true}"#,
            &[
                "`partial_rotary_factor` is absent, which means 0.5; the only supported value is 1.0",
                "`first_k_dense_replace` is absent, which means 1; the only supported value is 0",
                "`n_group` is 2; the only supported value is 1",
                "`use_qk_norm` is true; the only supported value is false",
            ],
        );
    }
}
