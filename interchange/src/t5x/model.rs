//! The model of a checkpoint of T5X: its settings, by names and sizes of arrays, and its variables.

use super::array::{Array, Source};
use crate::{Overrides, exported::shortened, failure, hf::file::Element, origin::resolved};
use anyhow::Result;
use models::{
    Config,
    t5x::{Layers, Variable, variables},
};
use std::collections::{BTreeMap, BTreeSet};

/// The prefix of parameters.
pub const TARGET: &str = "target/";
/// The prefix of optimizer slots.
pub const SLOTS: &str = "state/param_states/";

/// A model that arrays describe.
#[derive(Clone, PartialEq, Debug)]
pub struct Model {
    /// The preset that the settings change: `t5` or `switch`.
    pub preset: &'static str,
    /// Settings, separated by spaces.
    pub settings: String,
    /// The precision.
    pub dtype: String,
    /// Storage of layers.
    pub layers: Layers,
    /// The configuration.
    pub config: Config,
    /// The variables, which the checkpoint has with the right sizes.
    pub variables: Vec<Variable>,
}

impl Model {
    /// Returns the model of a checkpoint, with the settings of the user.
    ///
    /// # Errors
    /// The arrays are not those of a T5 or of a Switch Transformer; the message lists all differences.
    pub fn of(source: &dyn Source, overrides: &Overrides) -> Result<Self> {
        let name = source.path().display().to_string();
        let wrong = |why: String| {
            failure(
                format!("`{name}` has no model that can be imported: {why}"),
                "T5 1.0 and 1.1 of T5X, Flaxformer's Switch Transformers and Mesh TensorFlow's can be imported; see \
                 docs/interchange.md",
            )
        };
        let arrays = source.arrays();
        let shapes = Shapes { arrays };
        let layers = if shapes.any("encoder/encoder/") || shapes.any("decoder/decoder/") {
            Layers::Scanned
        } else {
            Layers::Separate
        };
        let found = shapes.settings(layers).map_err(wrong)?;
        let preset = if found.iter().any(|(key, _)| *key == "experts") { "switch" } else { "t5" };
        let params = || arrays.iter().filter(|(name, _)| name.starts_with(TARGET)).map(|(_, array)| array);
        let rounded = params().filter(|array| array.element == Element::Bf16).count() * 2 > params().count();
        let dtype = if rounded { "selective" } else { "f32" };
        let dtype = overrides.dtype.clone().unwrap_or_else(|| dtype.to_owned());
        let found = found.iter().map(|(key, value)| format!("{key}={value}"));
        let adafactor = shapes.slots().then_some(ADAFACTOR).into_iter().flatten();
        let words = found.chain(adafactor.map(|word| (*word).to_owned()));
        let words = words.filter(|word| !overrides.replaces(word));
        let settings = words.chain(overrides.settings.iter().cloned()).collect::<Vec<_>>().join(" ");
        let config = resolved(preset, &settings, &dtype, &name)?;
        let variables = variables(&config, layers).map_err(wrong)?;
        let model = Self { preset, settings, dtype, layers, config, variables };
        model.check(source)?;
        Ok(model)
    }

    /// Compares the parameters of the checkpoint with those of the model.
    fn check(&self, source: &dyn Source) -> Result<()> {
        let arrays = source.arrays();
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for variable in &self.variables {
            let (name, sizes) = (format!("{TARGET}{}", variable.name), variable.sizes());
            match arrays.get(&name) {
                None => missing.push(format!("`{}` {sizes:?}", source.own_name(&name))),
                Some(array) if array.sizes != sizes => misshapen.push(format!(
                    "`{}` has sizes {:?}; the other arrays require {sizes:?}",
                    source.own_name(&name),
                    array.sizes
                )),
                Some(array) if array.element == Element::I32 => {
                    misshapen.push(format!("`{}` has integer elements", source.own_name(&name)));
                }
                Some(_) => {}
            }
        }
        let known: BTreeSet<&str> = self.variables.iter().map(|v| v.name.as_str()).collect();
        let unknown = |name: &&String| match name.strip_prefix(TARGET) {
            Some(path) => !known.contains(path),
            None => !name.starts_with("state/") && *name != "step",
        };
        let unexpected = arrays.keys().filter(unknown).map(|name| format!("`{}`", source.own_name(name)));
        let lists = [
            ("missing", missing),
            ("with wrong sizes", misshapen),
            ("unexpected", unexpected.collect::<Vec<_>>()),
        ];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let wrong: Vec<String> =
            lists.map(|(what, list)| format!("{} {what}:\n    {}", list.len(), shortened(&list))).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let what = format!("the arrays in `{}` are not those of a model", source.path().display());
        Err(failure(
            format!("{what}\n  {}", wrong.join("\n  ")),
            "docs/interchange.md lists the models of T5X, Flaxformer and Mesh TensorFlow that can be imported",
        ))
    }
}

/// The settings of the optimizer with which T5X trains: those that slots imply, and those of released models.
const ADAFACTOR: &[&str] = &["optimizer=adafactor", "clip=0", "schedule=t5", "lr=1", "warmup=10000"];

/// The arrays of a checkpoint, searched for sizes.
struct Shapes<'a> {
    arrays: &'a BTreeMap<String, Array>,
}

/// A setting and its value.
type Setting = (&'static str, String);

impl Shapes<'_> {
    fn any(&self, prefix: &str) -> bool {
        let prefix = format!("{TARGET}{prefix}");
        self.arrays.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// True if there are optimizer slots of Adafactor.
    fn slots(&self) -> bool {
        let mut states =
            self.arrays.range(SLOTS.to_owned()..).take_while(|(name, _)| name.starts_with(SLOTS));
        states.any(|(name, _)| ["/v_row", "/v_col", "/v"].iter().any(|slot| name.ends_with(slot)))
    }

    /// Returns the size of an axis of a parameter.
    fn size(&self, name: &str, axis: usize) -> Result<usize, String> {
        let array = self.arrays.get(&format!("{TARGET}{name}"));
        let size = array.and_then(|array| array.sizes.get(axis));
        size.copied().ok_or_else(|| format!("there is no `{name}` with {} axes", axis + 1))
    }

    fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(&format!("{TARGET}{name}"))
    }

    /// Returns the settings that the arrays imply.
    fn settings(&self, layers: Layers) -> Result<Vec<Setting>, String> {
        for stack in ["encoder", "decoder"] {
            if self.any(&format!("{stack}/token_embedder/")) {
                return Err(format!(
                    "`{stack}/token_embedder`: encoder and decoder share one embedding here"
                ));
            }
        }
        if !self.any("encoder/") || !self.any("decoder/") {
            return Err("it must have an encoder and a decoder".into());
        }
        let embedding = "token_embedder/embedding";
        let [first, second] = ["encoder", "decoder"].map(|stack| Stack { shapes: self, stack, layers });
        let block = first.block(0);
        let biases = self.has(&format!("{block}/relpos_bias/rel_embedding"));
        let bias = if biases { format!("{block}/relpos_bias") } else { "encoder/relpos_bias".to_owned() };
        let bias = format!("{bias}/rel_embedding");
        let (heads, last) = (self.size(&bias, 0)?, usize::from(biases && layers == Layers::Scanned) + 1);
        let joined = self
            .size(&format!("{block}/attention/query/kernel"), usize::from(layers == Layers::Scanned) + 1)?;
        if heads == 0 || !joined.is_multiple_of(heads) {
            return Err(format!(
                "`{block}/attention/query/kernel` has {joined} columns, which {heads} heads share"
            ));
        }
        let (mlp, gated) = first.feed_forward()?;
        let tied = !self.has("decoder/logits_dense/kernel");
        let mut all = vec![
            ("vocab", self.size(embedding, 0)?.to_string()),
            ("d_model", self.size(embedding, 1)?.to_string()),
            ("d_ff", mlp.to_string()),
            ("heads", heads.to_string()),
            ("d_kv", (joined / heads).to_string()),
            ("buckets", self.size(&bias, last)?.to_string()),
            ("encoder_layers", first.count()?.to_string()),
            ("decoder_layers", second.count()?.to_string()),
            ("activation", if gated { "gated-gelu" } else { "relu" }.to_owned()),
            ("scaled_output", tied.to_string()),
            ("tied", tied.to_string()),
            ("layer_biases", biases.to_string()),
        ];
        match (first.sparse_step()?, second.sparse_step()?) {
            (None, None) => {}
            (Some(step), Some(decoder)) => {
                let (router, experts) = first.router(step)?;
                all.push(("experts", experts.to_string()));
                all.push(("sparse_step", step.to_string()));
                all.push(("decoder_sparse_step", decoder.to_string()));
                all.push(("router_bias", self.has(&format!("{router}/bias")).to_string()));
                all.push(("ignore_padding", "false".to_owned()));
            }
            (Some(_), None) => return Err("only its encoder has experts".into()),
            (None, Some(_)) => return Err("only its decoder has experts".into()),
        }
        Ok(all)
    }
}

/// One of the two stacks.
struct Stack<'s> {
    shapes: &'s Shapes<'s>,
    stack: &'static str,
    layers: Layers,
}

impl Stack<'_> {
    /// Returns the number of blocks with variables: layers, or members of the block that is scanned.
    fn blocks(&self) -> usize {
        match self.layers {
            Layers::Separate => {
                (0..).take_while(|i| self.shapes.any(&format!("{}/layers_{i}/", self.stack))).count()
            }
            Layers::Scanned if self.shapes.any(&format!("{0}/{0}/subblock_0/", self.stack)) => {
                (0..).take_while(|i| self.shapes.any(&format!("{0}/{0}/subblock_{i}/", self.stack))).count()
            }
            Layers::Scanned => 1,
        }
    }

    /// Returns the path of a block.
    fn block(&self, i: usize) -> String {
        let stack = self.stack;
        match self.layers {
            Layers::Separate => format!("{stack}/layers_{i}"),
            Layers::Scanned if self.shapes.any(&format!("{stack}/{stack}/subblock_0/")) => {
                format!("{stack}/{stack}/subblock_{i}")
            }
            Layers::Scanned => format!("{stack}/{stack}"),
        }
    }

    /// Returns the number of layers.
    fn count(&self) -> Result<usize, String> {
        let name = format!("{}/pre_mlp_layer_norm/scale", self.block(0));
        let times = if self.layers == Layers::Scanned { self.shapes.size(&name, 1)? } else { 1 };
        times.checked_mul(self.blocks()).ok_or_else(|| format!("`{name}` is too large"))
    }

    /// Returns the size of the hidden layer, and true if feed-forward layers are gated.
    fn feed_forward(&self) -> Result<(usize, bool), String> {
        let block = self.block(0);
        let axis = usize::from(self.layers == Layers::Scanned);
        for (prefix, axis) in [("mlp", 1 + axis), ("mlp/expert", 2 + axis)] {
            for (name, gated) in [("wi", false), ("wi_0", true)] {
                let name = format!("{block}/{prefix}/{name}/kernel");
                if self.shapes.has(&name) {
                    return Ok((self.shapes.size(&name, axis)?, gated));
                }
            }
        }
        Err(format!("there is neither `{block}/mlp/wi/kernel` nor `{block}/mlp/wi_0/kernel`"))
    }

    /// Returns 1 if all layers have experts, 2 if every second one has; `None` if no layer has.
    fn sparse_step(&self) -> Result<Option<usize>, String> {
        let sparse: Vec<bool> =
            (0..self.blocks()).map(|i| self.shapes.any(&format!("{}/mlp/expert/", self.block(i)))).collect();
        let is = |step: usize| sparse.iter().enumerate().all(|(i, own)| *own == (step == 1 || i % step == 1));
        match () {
            () if !sparse.contains(&true) => Ok(None),
            () if is(1) => Ok(Some(1)),
            () if is(2) => Ok(Some(2)),
            () => Err(format!(
                "the {} has experts neither in every layer nor in every second one, beginning with the second",
                self.stack
            )),
        }
    }

    /// Returns the path of the router, and the number of experts.
    fn router(&self, step: usize) -> Result<(String, usize), String> {
        let block = self.block(step - 1);
        let inner = if self.shapes.any(&format!("{block}/mlp/expert/wi/")) { "wi" } else { "wi_0" };
        let experts = self.shapes.size(&format!("{block}/mlp/expert/{inner}/kernel"), 0)?;
        Ok((format!("{block}/mlp/router/router_weights/w"), experts))
    }
}
