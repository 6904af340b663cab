//! Mapping between the tensors of Hugging Face's models and the parameters of ours. T5 and SwitchTransformers
//! are here, decoder-only models in `causal`.
//!
//! Hugging Face stores a tensor for each matrix of each layer and each expert, `[out, in]`. Our parameters
//! stack layers and experts. So each Hugging Face tensor is a rectangular part of one parameter, possibly
//! transposed. Elements keep their bytes.

mod causal;

pub use causal::Causal;

use crate::{
    Config,
    stack::{BlockLocation, Stack},
    switch::options::RoutingMethod,
};

/// A Hugging Face tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tensor {
    /// Its name in the Hugging Face checkpoint.
    pub name: String,
    /// Its sizes in the Hugging Face checkpoint.
    pub sizes: Vec<usize>,
    /// The parameter that contains it.
    pub param: String,
    /// Names and sizes of that parameter's dims.
    pub dims: Vec<(String, usize)>,
    /// Start of the part in each dim.
    pub start: Vec<usize>,
    /// Size of the part in each dim.
    pub part: Vec<usize>,
    /// True if the tensor is the transpose of the part.
    pub transposed: bool,
}

/// Returns all tensors of a model, in the order of its layers.
///
/// # Errors
/// Names the feature of the model that Hugging Face's classes lack.
pub fn tensors(config: &Config) -> Result<Vec<Tensor>, String> {
    if config.is_decoder_only() {
        return causal::tensors(config);
    }
    if let Some(name) = config.switch.as_ref().and_then(|switch| switch.later_options().first().copied()) {
        return Err(format!("SwitchTransformers has no `{name}`"));
    }
    if let Some(switch) = &config.switch {
        if config.activation.gated() {
            return Err(format!(
                "its experts are gated (`activation={}`), which SwitchTransformers does not support",
                config.activation.name()
            ));
        }
        if config.layer_biases {
            return Err("SwitchTransformers has no `layer_biases`".into());
        }
        if switch.sparse_parts.attention() || switch.routing != RoutingMethod::Switch {
            return Err("SwitchTransformers supports only `experts_in=ffn` and `routing=switch`".into());
        }
    }
    let mut list = List { config, all: Vec::new() };
    list.table("shared.weight", "embedding");
    list.stack(false);
    list.stack(true);
    if !config.tied {
        list.table("lm_head.weight", "head");
    }
    Ok(list.all)
}

struct List<'c> {
    config: &'c Config,
    all: Vec<Tensor>,
}

/// Names and sizes of dims.
type Dims<'d> = &'d [(&'d str, usize)];

impl List<'_> {
    fn stack(&mut self, decoder: bool) {
        let config = self.config;
        let stack = if decoder { "decoder" } else { "encoder" };
        for i in 0..config.layers(decoder) {
            self.block(stack, decoder, i);
            if i == 0 && !config.layer_biases {
                let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
                let dims = [("buckets", config.buckets), ("heads", config.heads)];
                self.whole(&name, &format!("{stack}/relative_bias"), &dims);
            }
        }
        let norm = [("d_model", config.d_model)];
        self.whole(&format!("{stack}.final_layer_norm.weight"), &format!("{stack}/norm"), &norm);
    }

    fn block(&mut self, stack: &str, decoder: bool, i: usize) {
        let config = self.config;
        let at = Stack::location(config, decoder, i);
        let (d_model, heads) = (("d_model", config.d_model), ("heads", config.heads));
        let d_kv = ("d_kv", config.d_kv);
        let attention: &[(&str, &str)] = if decoder {
            &[("SelfAttention", "attention"), ("EncDecAttention", "cross_attention")]
        } else {
            &[("SelfAttention", "attention")]
        };
        for (number, (theirs, ours)) in attention.iter().enumerate() {
            let layer = format!("{stack}.block.{i}.layer.{number}");
            for part in ["q", "k", "v"] {
                let (name, param) = (format!("{layer}.{theirs}.{part}.weight"), format!("{ours}/{part}"));
                self.matrix(name, &at, &param, &[], &[d_model], &[heads, d_kv], true);
            }
            let (name, param) = (format!("{layer}.{theirs}.o.weight"), format!("{ours}/o"));
            self.matrix(name, &at, &param, &[], &[heads, d_kv], &[d_model], true);
            if config.layer_biases && number == 0 {
                self.layer_bias(&layer, &at);
            }
            self.norm(&layer, &at, ours);
        }
        let layer = format!("{stack}.block.{i}.layer.{}", attention.len());
        match &config.switch {
            Some(switch) if config.is_sparse(decoder, i) => {
                self.experts(&layer, &at, switch.experts, switch.router_bias);
            }
            Some(_) => self.feed_forward(&format!("{layer}.mlp"), &at, &[]),
            None => self.feed_forward(&format!("{layer}.DenseReluDense"), &at, &[]),
        }
        self.norm(&layer, &at, "ffn");
    }

    /// Adds the table of biases of one layer.
    fn layer_bias(&mut self, layer: &str, at: &BlockLocation) {
        let Config { buckets, heads, .. } = *self.config;
        let dims = [("layers", at.count), ("buckets", buckets), ("heads", heads)];
        let name = format!("{layer}.SelfAttention.relative_attention_bias.weight");
        let param = format!("{}/attention/relative_bias", at.scope);
        self.part(name, vec![buckets, heads], param, &dims, &[at.layer, 0, 0], &[1, buckets, heads]);
    }

    fn experts(&mut self, layer: &str, at: &BlockLocation, experts: usize, bias: bool) {
        let router = format!("{layer}.mlp.router.classifier");
        let (d_model, all) = (("d_model", self.config.d_model), ("experts_all", experts));
        self.matrix(format!("{router}.weight"), at, "ffn/router", &[], &[d_model], &[all], true);
        if bias {
            let dims = [("layers", at.count), all];
            let param = format!("{}/ffn/router_bias", at.scope);
            self.part(format!("{router}.bias"), vec![experts], param, &dims, &[at.layer, 0], &[1, experts]);
        }
        for expert in 0..experts {
            let prefix = format!("{layer}.mlp.experts.expert_{expert}");
            self.feed_forward(&prefix, at, &[("experts", experts, expert)]);
        }
    }

    /// Adds `wi` and `wo`, of one expert if `expert` names its dim, size and index.
    fn feed_forward(&mut self, prefix: &str, at: &BlockLocation, expert: &[(&str, usize, usize)]) {
        let (d_model, d_ff) = ([("d_model", self.config.d_model)], [("d_ff", self.config.d_ff)]);
        let inner: &[&str] = if self.config.activation.gated() { &["wi_0", "wi_1"] } else { &["wi"] };
        for name in inner {
            let param = format!("ffn/{name}");
            self.matrix(format!("{prefix}.{name}.weight"), at, &param, expert, &d_model, &d_ff, true);
        }
        // Our matrices store d_model first, which is the Hugging Face order for this one.
        self.matrix(format!("{prefix}.wo.weight"), at, "ffn/wo", expert, &d_model, &d_ff, false);
    }

    fn norm(&mut self, layer: &str, at: &BlockLocation, ours: &str) {
        let size = self.config.d_model;
        let dims = [("layers", at.count), ("d_model", size)];
        let param = format!("{}/{ours}/norm", at.scope);
        self.part(format!("{layer}.layer_norm.weight"), vec![size], param, &dims, &[at.layer, 0], &[1, size]);
    }

    /// Adds a matrix of one layer, of one expert if `expert` is not empty. We store `rows` before `columns`;
    /// Hugging Face stores them the other way round if `transposed`.
    #[allow(clippy::too_many_arguments, reason = "one line for each matrix at the call sites")]
    fn matrix(
        &mut self,
        name: String,
        at: &BlockLocation,
        param: &str,
        expert: &[(&str, usize, usize)],
        rows: Dims,
        columns: Dims,
        transposed: bool,
    ) {
        let size = |dims: Dims| dims.iter().map(|d| d.1).product::<usize>();
        let sizes = if transposed { [size(columns), size(rows)] } else { [size(rows), size(columns)] };
        let (mut dims, mut start, mut part) = (vec![("layers", at.count)], vec![at.layer], vec![1]);
        for (dim, size, index) in expert {
            dims.push((dim, *size));
            start.push(*index);
            part.push(1);
        }
        for dim in rows.iter().chain(columns) {
            dims.push(*dim);
            start.push(0);
            part.push(dim.1);
        }
        let param = format!("{}/{param}", at.scope);
        self.part(name, sizes.to_vec(), param, &dims, &start, &part);
        if let Some(last) = self.all.last_mut() {
            last.transposed = transposed;
        }
    }

    /// Adds a table of tokens, without its padding.
    fn table(&mut self, name: &str, param: &str) {
        let Config { vocab, vocab_padding, d_model, .. } = *self.config;
        let dims = [("vocab", vocab + vocab_padding), ("d_model", d_model)];
        let sizes = vec![vocab, d_model];
        self.part(name.into(), sizes.clone(), param.into(), &dims, &[0, 0], &sizes);
    }

    fn whole(&mut self, name: &str, param: &str, dims: Dims) {
        let sizes: Vec<usize> = dims.iter().map(|d| d.1).collect();
        self.part(name.into(), sizes.clone(), param.into(), dims, &vec![0; dims.len()], &sizes);
    }

    fn part(
        &mut self,
        name: String,
        sizes: Vec<usize>,
        param: String,
        dims: Dims,
        start: &[usize],
        part: &[usize],
    ) {
        let dims = dims.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        let (start, part) = (start.to_vec(), part.to_vec());
        self.all.push(Tensor { name, sizes, param, dims, start, part, transposed: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Activation, Switch,
        parts::{self, Part, small},
    };

    /// Checks that every element of every parameter of `config` is in exactly one Hugging Face tensor.
    #[track_caller]
    fn covers(config: &Config) {
        let tensors = tensors(config).expect("Hugging Face has such models");
        for tensor in &tensors {
            assert_eq!(tensor.sizes.iter().product::<usize>(), tensor.part.iter().product::<usize>());
        }
        let part = |t: &Tensor| Part {
            name: t.name.clone(),
            param: t.param.clone(),
            dims: t.dims.clone(),
            start: t.start.clone(),
            part: t.part.clone(),
        };
        parts::covers(config, tensors.iter().map(part).collect());
    }

    #[test]
    fn all_parameters_are_parts_of_their_tensors() {
        covers(&small());
        covers(&Config { activation: Activation::GatedGelu, tied: false, ..small() });
        covers(&Config { activation: Activation::GatedSilu, layer_biases: true, ..small() });
        for (sparse_step, router_bias) in [(1, false), (2, false), (3, true), (5, false)] {
            let switch = Switch { experts: 3, sparse_step, router_bias, ..Switch::default() };
            covers(&Config { switch: Some(switch), ..small() });
        }
    }

    #[test]
    fn padding_is_in_no_tensor() {
        let all = tensors(&Config { vocab_padding: 3, ..small() }).expect("Hugging Face has such models");
        let table = all.iter().find(|t| t.param == "embedding").expect("it has an embedding");
        assert_eq!((&table.sizes, &table.part), (&vec![8, 4], &vec![8, 4]));
        assert_eq!(table.dims, [("vocab".to_owned(), 11), ("d_model".to_owned(), 4)]);
    }

    #[test]
    fn names_are_those_of_hugging_face() {
        let switch = Some(Switch { experts: 2, sparse_step: 2, ..Switch::default() });
        let all = tensors(&Config { switch, ..small() }).expect("Hugging Face has such models");
        let find = |name: &str| all.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}"));
        let q = find("decoder.block.1.layer.1.EncDecAttention.q.weight");
        assert_eq!((q.param.as_str(), &q.sizes[..]), ("decoder/block_1/cross_attention/q", &[6, 4][..]));
        let wo = find("encoder.block.1.layer.1.mlp.experts.expert_1.wo.weight");
        assert_eq!((wo.param.as_str(), wo.transposed), ("encoder/block_1/ffn/wo", false));
        assert_eq!((&wo.start[..], &wo.part[..]), (&[0, 1, 0, 0][..], &[1, 1, 4, 6][..]));
        let wi = find("encoder.block.2.layer.1.mlp.wi.weight");
        assert_eq!((wi.param.as_str(), wi.transposed), ("encoder/rest/block_0/ffn/wi", true));
        find("decoder.block.1.layer.2.mlp.router.classifier.weight");
    }

    #[test]
    fn gated_experts_do_not_exist_in_hugging_face() {
        let config = Config { switch: Some(Switch::default()), activation: Activation::GatedGelu, ..small() };
        assert!(tensors(&config).expect_err("SwitchTransformers has no gated experts").contains("gated"));
    }
}
