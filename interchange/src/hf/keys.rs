//! Keys of `config.json`: those that are known, and a file that is being read.

use mesh::layout::suggest;
use serde_json::Value;

/// A `config.json` that is being converted.
pub(super) struct Keys {
    /// All keys and their values.
    pub(super) fields: Vec<(String, Value)>,
    /// The mistakes that were found.
    pub(super) mistakes: Vec<String>,
}

impl Keys {
    /// Returns the value of `key`; `None` means that it is absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        // A null counts as absent.
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v).filter(|v| !v.is_null())
    }

    /// Returns the value of `key`, or `default`. A value that `read` rejects is a mistake.
    pub(super) fn value<T>(
        &mut self,
        key: &str,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
        default: T,
    ) -> T {
        let Some(value) = self.get(key).cloned() else { return default };
        read(&value).unwrap_or_else(|| {
            self.mistakes.push(format!("`{key}` is {value}, which is not {what}"));
            default
        })
    }

    /// Returns a number of at least 0.
    pub(super) fn size(&mut self, key: &str, default: usize) -> usize {
        let read = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n < 1 << 40);
        self.value(key, "an integer of at least 0", read, default)
    }

    /// Returns a number.
    pub(super) fn number(&mut self, key: &str, default: f64) -> f64 {
        self.value(key, "a number", Value::as_f64, default)
    }

    /// Returns true or false.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.value(key, "true or false", Value::as_bool, default)
    }

    /// Returns a string.
    pub(super) fn word(&mut self, key: &str, default: &str) -> String {
        self.value(key, "a string", |v| v.as_str().map(str::to_owned), default.to_owned())
    }

    /// Checks a key of which only one value is supported.
    pub(super) fn fixed(&mut self, key: &str, only: Value, why: &str) {
        if let Some(value) = self.get(key).filter(|v| **v != only) {
            let mistake = format!("`{key}` is {value}; {why} {only}");
            self.mistakes.push(mistake);
        }
    }

    /// Notes keys that are neither among `read` nor without effect.
    pub(super) fn known(&mut self, read: &[&'static str]) {
        let known = || read.iter().chain(WITHOUT_EFFECT).copied();
        let unknown: Vec<String> =
            self.fields.iter().map(|(k, _)| k.clone()).filter(|k| !known().any(|known| known == k)).collect();
        for key in unknown {
            let near =
                suggest(&key, known()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.mistakes.push(format!("unknown key `{key}`{near}"));
        }
    }
}

/// Ignored keys: they do not change the model, or only in uses that mesh does not have.
const WITHOUT_EFFECT: &[&str] = &[
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "add_router_probs",
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
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Keys that are converted.
pub(super) const READ: &[&str] = &[
    "architectures",
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
    "scale_decoder_outputs",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "transformers_version",
    "vocab_size",
];
