//! Names of T5X for the tensors of Mesh TensorFlow.
//!
//! A stack consists of sublayers, `block_000/layer_001` or `layer_001`, in their order; a block may have the
//! sublayers of several layers. A sublayer has a norm and one of self-attention, cross-attention, and dense
//! or sparse feed-forward layers, which are named by their class. A feed-forward layer ends a layer.

use crate::t5x::model::{SLOTS, TARGET};
use std::collections::{BTreeMap, BTreeSet};

/// Endings of Adafactor's slots, and their names in T5X.
const ENDINGS: [(&str, &str); 4] =
    [("_slot_vr", "v_row"), ("_slot_vc", "v_col"), ("_slot_v", "v"), ("_slot_m", "m")];

/// Returns T5X's name of each tensor. A tensor that T5 does not have gets its own name below `target`.
///
/// # Errors
/// Names the first sublayer that is not where it belongs in a T5.
pub fn renamed<'n>(names: impl Iterator<Item = &'n str>) -> Result<BTreeMap<String, &'n str>, String> {
    let names: Vec<&str> = names.collect();
    let stacks = ["encoder", "decoder"].map(|stack| Stack::of(stack, &names));
    let [encoder, decoder] = stacks;
    let stacks = [encoder?, decoder?];
    let mut all = BTreeMap::new();
    for name in names {
        let (variable, slot) = without_ending(name);
        let path = path(variable, &stacks).unwrap_or_else(|| variable.to_owned());
        let path = match slot {
            None => format!("{TARGET}{path}"),
            Some(slot) => format!("{SLOTS}{path}/{slot}"),
        };
        if let Some(other) = all.insert(path, name) {
            return Err(format!("has the tensors `{other}` and `{name}` for one parameter"));
        }
    }
    Ok(all)
}

/// Splits a name into that of the variable and that of its slot in T5X.
fn without_ending(name: &str) -> (&str, Option<&'static str>) {
    let ending = ENDINGS.iter().find_map(|(ending, slot)| Some((name.strip_suffix(ending)?, Some(*slot))));
    ending.unwrap_or((name, None))
}

/// Sublayers of a stack.
struct Stack {
    stack: &'static str,
    /// Index of the layer and class of each sublayer, by its path.
    sublayers: BTreeMap<String, (usize, Class)>,
    /// True if several layers have a table of position biases.
    biases: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Attention,
    Cross,
    Dense,
    Sparse,
}

/// The table of position biases of a self-attention.
const BIAS: &str = "SelfAttention/relative_attention_bias";

impl Stack {
    fn of(stack: &'static str, names: &[&str]) -> Result<Self, String> {
        // Sorted by numbers, because 1000 sublayers have four digits.
        let mut found: BTreeMap<(usize, usize), (&str, BTreeSet<&str>)> = BTreeMap::new();
        for (number, sublayer, rest) in names.iter().filter_map(|name| sublayer(name, stack)) {
            let class = rest.split('/').next().unwrap_or(rest);
            let (_, classes) = found.entry(number).or_insert((sublayer, BTreeSet::new()));
            if !class.ends_with("_norm") {
                classes.insert(class);
            }
        }
        let (mut sublayers, mut layer, mut next) = (BTreeMap::new(), 0, Class::Attention);
        for (path, classes) in found.into_values() {
            let class = match classes.iter().copied().collect::<Vec<_>>()[..] {
                ["SelfAttention"] => Class::Attention,
                ["EncDecAttention"] => Class::Cross,
                ["DenseReluDense"] => Class::Dense,
                ["MoE1D"] => Class::Sparse,
                _ => {
                    let all: Vec<&str> = classes.into_iter().collect();
                    let all = if all.is_empty() { "a norm".to_owned() } else { all.join(", ") };
                    return Err(format!("has the sublayer `{path}` with {all}, which T5 does not have"));
                }
            };
            let fits = match class {
                Class::Sparse => next == Class::Dense,
                Class::Attention | Class::Cross | Class::Dense => next == class,
            };
            if !fits {
                return Err(format!("has the sublayer `{path}` at a place where T5 has another"));
            }
            sublayers.insert(path.to_owned(), (layer, class));
            layer += usize::from(matches!(class, Class::Dense | Class::Sparse));
            next = match class {
                Class::Attention if stack == "decoder" => Class::Cross,
                Class::Attention | Class::Cross => Class::Dense,
                Class::Dense | Class::Sparse => Class::Attention,
            };
        }
        let biased =
            names.iter().filter(|name| sublayer(name, stack).is_some_and(|(_, _, rest)| rest == BIAS));
        Ok(Self { stack, sublayers, biases: biased.count() > 1 })
    }
}

/// Returns the numbers of a tensor's block and layer, the path of its sublayer, and the rest of its name.
fn sublayer<'n>(name: &'n str, stack: &str) -> Option<((usize, usize), &'n str, &'n str)> {
    let in_stack = name.strip_prefix(stack)?.strip_prefix('/')?;
    let number = |word: &str, prefix: &str| word.strip_prefix(prefix)?.parse::<usize>().ok();
    let (first, rest) = in_stack.split_once('/')?;
    let (numbers, rest) = match number(first, "block_") {
        Some(block) => {
            let (second, rest) = rest.split_once('/')?;
            ((block, number(second, "layer_")?), rest)
        }
        None => ((0, number(first, "layer_")?), rest),
    };
    Some((numbers, &name[..name.len() - rest.len() - 1], rest))
}

/// Returns T5X's path of a variable; `None` if T5 has no such variable.
fn path(name: &str, stacks: &[Stack; 2]) -> Option<String> {
    match name {
        "shared/embedding" => return Some("token_embedder/embedding".into()),
        "decoder/logits/kernel" => return Some("decoder/logits_dense/kernel".into()),
        _ => {}
    }
    let stack =
        stacks.iter().find(|s| name.strip_prefix(s.stack).is_some_and(|rest| rest.starts_with('/')))?;
    let (decoder, stack_name) = (stack.stack == "decoder", stack.stack);
    let Some((_, path, rest)) = sublayer(name, stack_name) else {
        let norm = name.strip_prefix(stack_name)?.strip_prefix('/')?.strip_suffix("/scale")?;
        let is_norm = ["rms_norm", "layer_norm", "final_layer_norm"].contains(&norm);
        return is_norm.then(|| format!("{stack_name}/{stack_name}_norm/scale"));
    };
    let (layer, class) = *stack.sublayers.get(path)?;
    let prefix = format!("{stack_name}/layers_{layer}");
    if ["rms_norm/scale", "layer_norm/scale"].contains(&rest) {
        let norm = match class {
            Class::Attention if decoder => "pre_self_attention_layer_norm",
            Class::Attention => "pre_attention_layer_norm",
            Class::Cross => "pre_cross_attention_layer_norm",
            Class::Dense | Class::Sparse => "pre_mlp_layer_norm",
        };
        return Some(format!("{prefix}/{norm}/scale"));
    }
    if rest == BIAS {
        let at = if stack.biases { prefix } else { stack_name.to_owned() };
        return Some(format!("{at}/relpos_bias/rel_embedding"));
    }
    let (_, part) = rest.split_once('/')?;
    let attention = |ours: &str| {
        let part =
            [("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")].iter().find(|(p, _)| *p == part)?;
        Some(format!("{prefix}/{ours}/{}/kernel", part.1))
    };
    let inner = ["wi/kernel", "wi_0/kernel", "wi_1/kernel", "wo/kernel"].contains(&part);
    match class {
        Class::Attention => attention(if decoder { "self_attention" } else { "attention" }),
        Class::Cross => attention("encoder_decoder_attention"),
        Class::Dense => inner.then(|| format!("{prefix}/mlp/{part}")),
        Class::Sparse if part == "switch_gating/kernel" => {
            Some(format!("{prefix}/mlp/router/router_weights/w/kernel"))
        }
        Class::Sparse => inner.then(|| format!("{prefix}/mlp/expert/{part}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers in one block of each stack, the second one sparse.
    const NAMES: &[(&str, &str)] = &[
        ("shared/embedding", "token_embedder/embedding"),
        ("encoder/block_000/layer_000/SelfAttention/q", "encoder/layers_0/attention/query/kernel"),
        (
            "encoder/block_000/layer_000/SelfAttention/relative_attention_bias",
            "encoder/relpos_bias/rel_embedding",
        ),
        ("encoder/block_000/layer_000/rms_norm/scale", "encoder/layers_0/pre_attention_layer_norm/scale"),
        ("encoder/block_000/layer_001/DenseReluDense/wi/kernel", "encoder/layers_0/mlp/wi/kernel"),
        ("encoder/block_000/layer_002/SelfAttention/o", "encoder/layers_1/attention/out/kernel"),
        ("encoder/block_000/layer_003/MoE1D/wo/kernel", "encoder/layers_1/mlp/expert/wo/kernel"),
        (
            "encoder/block_000/layer_003/MoE1D/switch_gating/kernel",
            "encoder/layers_1/mlp/router/router_weights/w/kernel",
        ),
        ("encoder/block_000/layer_003/layer_norm/scale", "encoder/layers_1/pre_mlp_layer_norm/scale"),
        ("encoder/final_layer_norm/scale", "encoder/encoder_norm/scale"),
        ("decoder/layer_000/SelfAttention/k", "decoder/layers_0/self_attention/key/kernel"),
        (
            "decoder/layer_000/SelfAttention/relative_attention_bias",
            "decoder/layers_0/relpos_bias/rel_embedding",
        ),
        ("decoder/layer_001/EncDecAttention/v", "decoder/layers_0/encoder_decoder_attention/value/kernel"),
        ("decoder/layer_001/rms_norm/scale", "decoder/layers_0/pre_cross_attention_layer_norm/scale"),
        ("decoder/layer_002/DenseReluDense/wi_0/kernel", "decoder/layers_0/mlp/wi_0/kernel"),
        (
            "decoder/layer_003/SelfAttention/relative_attention_bias",
            "decoder/layers_1/relpos_bias/rel_embedding",
        ),
        ("decoder/rms_norm/scale", "decoder/decoder_norm/scale"),
        ("decoder/logits/kernel", "decoder/logits_dense/kernel"),
        ("decoder/layer_002/DenseReluDense/bias", "decoder/layer_002/DenseReluDense/bias"),
        ("student/encoder/rms_norm/scale", "student/encoder/rms_norm/scale"),
    ];

    #[test]
    fn tensors_have_the_names_of_t5x() {
        let found = renamed(NAMES.iter().map(|(name, _)| *name)).unwrap();
        for (name, expect) in NAMES {
            assert_eq!(found.get(&format!("{TARGET}{expect}")), Some(name), "{expect}");
        }
        let slots = NAMES.iter().map(|(name, _)| format!("{name}_slot_vr")).collect::<Vec<_>>();
        let found =
            renamed(slots.iter().map(String::as_str).chain(NAMES.iter().map(|(name, _)| *name))).unwrap();
        for (name, expect) in NAMES {
            let slot = format!("{SLOTS}{expect}/v_row");
            assert_eq!(found.get(&slot).copied(), Some(format!("{name}_slot_vr").as_str()), "{slot}");
        }
    }

    #[test]
    fn sublayers_of_other_models_are_refused() {
        let check = |names: &[&str], expect: &str| {
            let why = renamed(names.iter().copied()).unwrap_err();
            assert!(why.contains(expect), "{why}");
        };
        check(&["encoder/layer_000/LocalSelfAttention/q"], "`encoder/layer_000` with LocalSelfAttention");
        check(
            &["encoder/layer_000/SelfAttention/q", "encoder/layer_001/EncDecAttention/q"],
            "where T5 has another",
        );
        check(&["encoder/layer_000/rms_norm/scale"], "with a norm");
        check(&["encoder/rms_norm/scale", "encoder/layer_norm/scale"], "for one parameter");
    }
}
