//! Mapping between the variables of T5X and Flaxformer and the parameters of our models.
//!
//! A variable is an array of one layer, or with scanned layers of all layers of a stack, which are then its
//! second axis. Experts are its first axis. Heads and their elements are merged into one axis. Our parameters
//! stack layers and experts. So each variable is a rectangular part of one parameter, with its dims permuted.

use crate::{Config, stack::Stack, switch::options::RoutingMethod};

/// Storage of the layers of a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layers {
    /// Each layer has its own variables.
    Separate,
    /// Layers are an axis of the variables, as flax's scan stores them.
    Scanned,
}

/// A variable of T5X.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// Its path in the tree of parameters, with `/` between names.
    pub name: String,
    /// The dims of the parameter that each axis merges, outermost first.
    pub axes: Vec<Vec<String>>,
    /// The parameter that contains it.
    pub param: String,
    /// Names and sizes of that parameter's dims.
    pub dims: Vec<(String, usize)>,
    /// Start of the part in each dim.
    pub start: Vec<usize>,
    /// Size of the part in each dim.
    pub part: Vec<usize>,
}

impl Variable {
    /// Returns the sizes of the axes.
    pub fn sizes(&self) -> Vec<usize> {
        let size = |dim: &String| self.dims.iter().position(|(name, _)| name == dim).map(|at| self.part[at]);
        self.axes.iter().map(|axis| axis.iter().filter_map(size).product()).collect()
    }
}

/// Returns all variables of a model, in the order of its layers.
///
/// # Errors
/// Names the feature of the model that T5X and Flaxformer lack.
pub fn variables(config: &Config, layers: Layers) -> Result<Vec<Variable>, String> {
    check(config, layers)?;
    let mut list = List { config, layers, all: Vec::new() };
    let (vocab, d_model) = (config.vocab, config.d_model);
    let table = [("vocab", vocab + config.vocab_padding), ("d_model", d_model)];
    list.whole("token_embedder/embedding", &[&["vocab"], &["d_model"]], "embedding", &table);
    list.stack(false);
    list.stack(true);
    if !config.tied {
        list.whole("decoder/logits_dense/kernel", &[&["d_model"], &["vocab"]], "head", &table);
    }
    Ok(list.all)
}

fn check(config: &Config, layers: Layers) -> Result<(), String> {
    if config.scales_output() != config.tied {
        return Err(
            "T5X scales the output if the embedding is shared, and only then (`scaled_output`)".into()
        );
    }
    if config.is_decoder_only() {
        return Err("decoder-only models (`encoder_layers=0`) cannot be converted".into());
    }
    if let Some(name) = config.switch.as_ref().and_then(|switch| switch.later_options().first().copied()) {
        return Err(format!("Flaxformer has no `{name}`"));
    }
    if let Some(switch) = &config.switch
        && (switch.sparse_parts.attention() || switch.routing != RoutingMethod::Switch)
    {
        return Err("Flaxformer is supported with `experts_in=ffn` and `routing=switch`".into());
    }
    for decoder in [false, true] {
        let (count, period) = (config.layers(decoder), config.period(decoder));
        if layers == Layers::Scanned && !count.is_multiple_of(period) {
            return Err(format!(
                "{count} layers cannot be scanned if one of every {period} has experts: {count} is not a multiple \
                 of {period}"
            ));
        }
        if config.switch.is_some() && period > 2 {
            return Err(format!(
                "Flaxformer's sparse layers are the last of every {period}, and ours are the second (`sparse_step`)"
            ));
        }
    }
    if layers == Layers::Scanned && !config.layer_biases {
        return Err("scanned layers have their own position biases (`layer_biases=true`)".into());
    }
    Ok(())
}

/// The dims that each axis merges.
type Axes<'d> = &'d [&'d [&'d str]];
/// Names and sizes of dims.
type Dims<'d> = &'d [(&'d str, usize)];

struct List<'c> {
    config: &'c Config,
    layers: Layers,
    all: Vec<Variable>,
}

/// Location of a block: the prefix of its variables, and the scope and index of its parameters.
struct Block {
    prefix: String,
    scope: String,
    /// Number of layers in the parameters of the scope.
    count: usize,
    /// Index of the block's layer; `None` if the variables have all of them.
    layer: Option<usize>,
}

impl List<'_> {
    fn stack(&mut self, decoder: bool) {
        let config = self.config;
        let stack = if decoder { "decoder" } else { "encoder" };
        let layers = config.layers(decoder);
        let blocks = match self.layers {
            Layers::Separate => layers,
            Layers::Scanned => config.period(decoder).min(layers),
        };
        for i in 0..blocks {
            let location = Stack::location(config, decoder, i);
            let (prefix, layer) = match (self.layers, &config.switch) {
                (Layers::Separate, _) => (format!("{stack}/layers_{i}"), Some(location.layer)),
                (Layers::Scanned, None) => (format!("{stack}/{stack}"), None),
                (Layers::Scanned, Some(_)) => (format!("{stack}/{stack}/subblock_{i}"), None),
            };
            self.block(&Block { prefix, scope: location.scope, count: location.count, layer }, decoder, i);
        }
        if !config.layer_biases {
            let dims = [("buckets", config.buckets), ("heads", config.heads)];
            let name = format!("{stack}/relpos_bias/rel_embedding");
            self.whole(&name, &[&["heads"], &["buckets"]], &format!("{stack}/relative_bias"), &dims);
        }
        let norm = [("d_model", config.d_model)];
        self.whole(&format!("{stack}/{stack}_norm/scale"), &[&["d_model"]], &format!("{stack}/norm"), &norm);
    }

    fn block(&mut self, at: &Block, decoder: bool, i: usize) {
        let Config { d_model, heads, d_kv, d_ff, buckets, .. } = *self.config;
        let (d_model, heads, d_kv) = (("d_model", d_model), ("heads", heads), ("d_kv", d_kv));
        let attention: &[(&str, &str, &str)] = if decoder {
            &[
                ("self_attention", "pre_self_attention_layer_norm", "attention"),
                ("encoder_decoder_attention", "pre_cross_attention_layer_norm", "cross_attention"),
            ]
        } else {
            &[("attention", "pre_attention_layer_norm", "attention")]
        };
        for (theirs, norm, ours) in attention {
            for (part, param) in [("query", "q"), ("key", "k"), ("value", "v")] {
                let axes: Axes = &[&["d_model"], &["heads", "d_kv"]];
                let (name, param) = (format!("{theirs}/{part}/kernel"), format!("{ours}/{param}"));
                self.of_layer(at, &name, axes, &param, &[d_model, heads, d_kv]);
            }
            let axes: Axes = &[&["heads", "d_kv"], &["d_model"]];
            let name = format!("{theirs}/out/kernel");
            self.of_layer(at, &name, axes, &format!("{ours}/o"), &[heads, d_kv, d_model]);
            self.of_layer(at, &format!("{norm}/scale"), &[&["d_model"]], &format!("{ours}/norm"), &[d_model]);
        }
        if self.config.layer_biases {
            let dims = [("buckets", buckets), heads];
            let axes: Axes = &[&["heads"], &["buckets"]];
            self.of_layer(at, "relpos_bias/rel_embedding", axes, "attention/relative_bias", &dims);
        }
        let d_ff = ("d_ff", d_ff);
        let inner: &[&str] = if self.config.activation.gated() { &["wi_0", "wi_1"] } else { &["wi"] };
        let matrices =
            inner.iter().map(|name| (*name, ["d_model", "d_ff"])).chain([("wo", ["d_ff", "d_model"])]);
        let sparse = self.config.switch.as_ref().filter(|_| self.config.is_sparse(decoder, i));
        for (name, [rows, columns]) in matrices {
            let param = format!("ffn/{name}");
            match sparse {
                None => {
                    let name = format!("mlp/{name}/kernel");
                    self.of_layer(at, &name, &[&[rows], &[columns]], &param, &[d_model, d_ff]);
                }
                Some(switch) => {
                    let dims = [("experts", switch.experts), d_model, d_ff];
                    let name = format!("mlp/expert/{name}/kernel");
                    self.of_layer(at, &name, &[&["experts"], &[rows], &[columns]], &param, &dims);
                }
            }
        }
        if let Some(switch) = sparse {
            let (router, experts) = ("mlp/router/router_weights/w", ("experts_all", switch.experts));
            let axes: Axes = &[&["d_model"], &["experts_all"]];
            self.of_layer(at, &format!("{router}/kernel"), axes, "ffn/router", &[d_model, experts]);
            if switch.router_bias {
                let name = format!("{router}/bias");
                self.of_layer(at, &name, &[&["experts_all"]], "ffn/router_bias", &[experts]);
            }
        }
        self.of_layer(at, "pre_mlp_layer_norm/scale", &[&["d_model"]], "ffn/norm", &[d_model]);
    }

    /// Adds a variable of one layer, or of all of them.
    fn of_layer(&mut self, at: &Block, name: &str, axes: Axes, param: &str, dims: Dims) {
        let (name, param) = (format!("{}/{name}", at.prefix), format!("{}/{param}", at.scope));
        let mut axes = owned(axes);
        if at.layer.is_none() {
            axes.insert(1, vec!["layers".to_owned()]);
        }
        let layers = at.layer.map_or(at.count, |_| 1);
        let all: Vec<(String, usize)> =
            [("layers", at.count)].iter().chain(dims).map(|(n, s)| ((*n).to_owned(), *s)).collect();
        let part = [layers].into_iter().chain(dims.iter().map(|d| d.1)).collect();
        let start = [at.layer.unwrap_or(0)].into_iter().chain(dims.iter().map(|_| 0)).collect();
        self.all.push(Variable { name, axes, param, dims: all, start, part });
    }

    /// Adds a variable that is a whole parameter, without padding of the vocabulary.
    fn whole(&mut self, name: &str, axes: Axes, param: &str, dims: Dims) {
        let used = |(name, size): &(&str, usize)| if *name == "vocab" { self.config.vocab } else { *size };
        let part = dims.iter().map(used).collect();
        let (name, param) = (name.to_owned(), param.to_owned());
        let owned_dims = dims.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect();
        let start = vec![0; dims.len()];
        self.all.push(Variable { name, axes: owned(axes), param, dims: owned_dims, start, part });
    }
}

fn owned(axes: Axes) -> Vec<Vec<String>> {
    axes.iter().map(|axis| axis.iter().map(|dim| (*dim).to_owned()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Activation, Switch,
        parts::{self, Part},
    };

    /// The small model, with a number of layers that can be scanned.
    fn small() -> Config {
        Config { encoder_layers: 4, ..parts::small() }
    }

    /// Checks that every element of every parameter of `config` is in exactly one variable.
    #[track_caller]
    fn covers(config: &Config, layers: Layers) {
        let variables = variables(config, layers).expect("T5X has such models");
        for variable in &variables {
            let sizes = variable.sizes();
            assert_eq!(sizes.iter().product::<usize>(), variable.part.iter().product(), "{}", variable.name);
        }
        let part = |v: &Variable| Part {
            name: v.name.clone(),
            param: v.param.clone(),
            dims: v.dims.clone(),
            start: v.start.clone(),
            part: v.part.clone(),
        };
        parts::covers(config, variables.iter().map(part).collect());
    }

    #[test]
    fn all_parameters_are_parts_of_their_variables() {
        covers(&small(), Layers::Separate);
        covers(&Config { activation: Activation::GatedGelu, tied: false, ..small() }, Layers::Separate);
        covers(&Config { layer_biases: true, ..small() }, Layers::Separate);
        covers(&Config { layer_biases: true, ..small() }, Layers::Scanned);
        for (sparse_step, router_bias) in [(1, false), (2, true)] {
            let switch = Switch { experts: 3, sparse_step, router_bias, ..Switch::default() };
            let sparse = Config { switch: Some(switch), ..small() };
            covers(&sparse, Layers::Separate);
            covers(&Config { layer_biases: true, ..sparse }, Layers::Scanned);
        }
    }

    #[test]
    fn names_and_sizes_are_those_of_flaxformer() {
        let switch = Some(Switch { experts: 3, sparse_step: 2, ..Switch::default() });
        let check = |config: &Config, layers, name: &str, sizes: &[usize]| {
            let all = variables(config, layers).expect("Flaxformer has such models");
            let found = all.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(found.sizes(), sizes, "{name}");
        };
        let sparse = Config { switch, ..small() };
        check(&sparse, Layers::Separate, "encoder/layers_1/mlp/expert/wi/kernel", &[3, 4, 6]);
        check(&sparse, Layers::Separate, "decoder/layers_1/mlp/router/router_weights/w/kernel", &[4, 3]);
        check(&sparse, Layers::Separate, "decoder/layers_0/mlp/wo/kernel", &[6, 4]);
        check(&sparse, Layers::Separate, "encoder/relpos_bias/rel_embedding", &[2, 8]);
        let scanned = Config { layer_biases: true, ..sparse };
        check(&scanned, Layers::Scanned, "encoder/encoder/subblock_1/mlp/expert/wo/kernel", &[3, 2, 6, 4]);
        check(&scanned, Layers::Scanned, "encoder/encoder/subblock_0/attention/out/kernel", &[6, 2, 4]);
        check(&scanned, Layers::Scanned, "encoder/encoder/subblock_1/pre_mlp_layer_norm/scale", &[4, 2]);
        let dense = Config { layer_biases: true, tied: false, ..small() };
        check(&dense, Layers::Scanned, "decoder/decoder/self_attention/query/kernel", &[4, 2, 6]);
        check(&dense, Layers::Scanned, "decoder/decoder/relpos_bias/rel_embedding", &[2, 2, 8]);
        check(&dense, Layers::Scanned, "decoder/logits_dense/kernel", &[4, 8]);
    }

    #[test]
    fn models_that_t5x_lacks_are_refused() {
        let fails = |config: &Config, layers, expect: &str| {
            let why = variables(config, layers).expect_err("T5X has no such model");
            assert!(why.contains(expect), "{why}");
        };
        let sparse = |sparse_step| Some(Switch { experts: 3, sparse_step, ..Switch::default() });
        fails(
            &Config { switch: sparse(3), ..small() },
            Layers::Separate,
            "the last of every 3, and ours are the second",
        );
        fails(&small(), Layers::Scanned, "layer_biases=true");
        fails(&Config { scaled_output: Some(false), ..small() }, Layers::Separate, "scaled_output");
        let odd = Config { switch: sparse(2), encoder_layers: 3, layer_biases: true, ..small() };
        fails(
            &odd,
            Layers::Scanned,
            "3 layers cannot be scanned if one of every 2 has experts: 3 is not a multiple of 2",
        );
    }
}
