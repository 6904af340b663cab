//! A program that outputs intermediate values of a model, for comparison with other systems: the input of
//! every block, the decisions of every router, every loss, and gradients of a weighted sum of the losses.
//!
//! Outputs are named as in Hugging Face's code, with layers and blocks counted from 0.

use crate::{
    Config, Context, Decoder, Weights,
    attention::MASKED,
    objective::{EncoderDecoder, ForwardPass, normalizer_and_wanted},
    stack::{Stack, StackOutput},
    switch::Trace,
};
use mesh::{
    DType, Dim, Site,
    dsl::{Graph, Program, Tensor},
};

/// Names of the inputs that weight the losses. The `hf` losses are those that Hugging Face's code adds for
/// routers: see [`program`].
pub const WEIGHTS: [&str; 5] = ["weight.ce", "weight.aux", "weight.z", "weight.hf_aux", "weight.hf_z"];

/// Builds a program with one function, `probe`, of `input_ids`, `attention_mask` (`[batch, length]`),
/// `decoder_input_ids`, `labels` (`[batch, target_length]`; -100 does not count) and [`WEIGHTS`]. Its
/// outputs:
///
/// - `encoder.hidden.I`, `encoder.last_hidden_state`, the same of the decoder, `logits`;
/// - `router.STACK.I.logits`, `probs`, `argmax`, `kept`, `gate` of every sparse layer;
/// - `loss.ce`; `loss.aux.STACK.I`, `loss.z.STACK.I`, and `loss.aux_flat.STACK.I`, which treats the batch
///   as one group; `loss.hf_STACK_aux_loss` and `loss.hf_STACK_z_loss`, which concatenate the sparse layers
///   of a stack along the sequence, count a dropped token for expert 0, and are 0 if all layers are sparse;
/// - with `gradients`, `grad/PARAMETER` of the weighted sum of cross-entropy, `aux`, `z`, and these two
///   losses.
pub fn program(config: &Config, gradients: bool, place: &Site) -> Program {
    let p = Program::new(format!("{}_probe", config.name));
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    p.meta("layout", config.layout());
    p.schedule(config.schedule);
    let weights = Weights::new(&p).with_adapters(config.lora.as_ref());
    let model = EncoderDecoder::new(&weights, config);
    p.function("probe", |g| {
        let total = Probe { g, config, model: &model }.run();
        if !gradients {
            return;
        }
        let all = weights.all();
        let values: Vec<Tensor<'_>> = all.iter().map(|w| w.state.read(g)).collect();
        for (weight, gradient) in all.iter().zip(g.grad(total, &values)) {
            g.output(format!("grad/{}", weight.state.name()), gradient);
        }
    });
    p
}

/// Builds a program with one function, `logits`, of `input_ids`, `attention_mask` and `decoder_input_ids`:
/// the logits of the next token at every target position, for generation that recomputes the prefix.
///
/// A decoder-only model takes `input_ids`, the tokens that it reads at `target_length` positions, alone.
///
/// With `independent`, every decoder position is routed alone, as in generation with a KV cache: positions
/// do not compete for expert slots, and none is dropped. Encoder positions compete as usual.
pub fn logits(config: &Config, independent: bool, place: &Site) -> Program {
    let p = Program::new(format!("{}_logits", config.name));
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    p.meta("layout", config.layout());
    p.schedule(config.schedule);
    let mut decoder = config.clone();
    if let Some(switch) = decoder.switch.as_mut().filter(|_| independent) {
        // As many expert slots as choices of tokens.
        switch.fixed_capacity = config.target_length * switch.choices().max(1);
    }
    let weights = Weights::new(&p).with_adapters(config.lora.as_ref());
    if config.is_decoder_only() {
        let model = Decoder::new(&weights, &decoder);
        p.function("logits", |g| {
            let dims = [Dim::new("batch", config.batch), Dim::new("target_length", config.target_length)];
            let tokens = g.input("input_ids", DType::S32, &dims[..]);
            let logits = model.reading(&Context::new(g, config, None), tokens);
            g.output("logits", without_padding(config, logits));
        });
        return p;
    }
    let model = EncoderDecoder::with_decoder(&weights, config, &decoder);
    p.function("logits", |g| {
        let (batch, length, target_length) = model.dims();
        let tokens = |name: &str, dim: &Dim| g.input(name, DType::S32, [&batch, dim]);
        let (inputs, mask) = (tokens("input_ids", &length), tokens("attention_mask", &length));
        let before = tokens("decoder_input_ids", &target_length);
        let padding = (mask.eq(0).cast(DType::F32) * MASKED).rename(&length, "memory_length");
        // Every position counts: padding is not known before the tokens are.
        let all = g.full(1, DType::S32, [&batch, &target_length]);
        let logits = model.pass(&Context::new(g, config, None), inputs, padding, before, all).logits;
        g.output("logits", without_padding(config, logits));
    });
    p
}

/// Returns the logits of the tokens, without those of padding.
fn without_padding<'g>(config: &Config, logits: Tensor<'g>) -> Tensor<'g> {
    if config.vocab_padding == 0 { logits } else { logits.slice("vocab", ..config.vocab) }
}

struct Probe<'g, 'm> {
    g: &'g Graph,
    config: &'m Config,
    model: &'m EncoderDecoder,
}

impl<'g> Probe<'g, '_> {
    /// Outputs everything except gradients; returns the weighted sum of losses.
    fn run(&self) -> Tensor<'g> {
        let g = self.g;
        let (batch, length, target_length) = self.model.dims();
        let tokens = |name: &str, dim: &Dim| g.input(name, DType::S32, [&batch, dim]);
        let (inputs, mask) = (tokens("input_ids", &length), tokens("attention_mask", &length));
        let (before, labels) =
            (tokens("decoder_input_ids", &target_length), tokens("labels", &target_length));
        let [ce, aux, z, hf_aux, hf_z] = WEIGHTS.map(|name| g.input(name, DType::F32, []));

        let cx = &Context::new(g, self.config, None);
        let padding = (mask.eq(0).cast(DType::F32) * MASKED).rename(&length, "memory_length");
        let pass = self.model.pass(cx, inputs, padding, before, labels.maximum(0));
        g.output("logits", without_padding(self.config, pass.logits));
        let cross_entropy = self.cross_entropy(&pass, labels, [&batch, &target_length]);
        g.output("loss.ce", cross_entropy);
        let mut total = cross_entropy * ce;
        for (decoder, passed, tokens) in
            [(false, &pass.encoder, &length), (true, &pass.decoder, &target_length)]
        {
            let of_stack = self.stack(decoder, passed, [&batch, tokens]);
            for (part, weight) in of_stack.into_iter().zip([aux, z, hf_aux, hf_z]) {
                if let Some(part) = part {
                    total += part * weight;
                }
            }
        }
        total
    }

    fn cross_entropy(&self, pass: &ForwardPass<'g>, labels: Tensor<'g>, positions: [&Dim; 2]) -> Tensor<'g> {
        let vocab = &self.config.vocab_dim();
        let counts = labels.ne(-100).cast(DType::F32);
        let [normalizer, wanted] = normalizer_and_wanted(pass.logits, labels, vocab);
        let weight = counts / counts.sum(positions).maximum(1.0);
        ((normalizer - wanted) * weight).sum(positions)
    }

    /// Outputs the intermediate values of a stack. Returns its losses: the sums of aux and z over layers,
    /// and Hugging Face's aux and z; `None` means no sparse layer.
    fn stack(
        &self,
        decoder: bool,
        passed: &StackOutput<'g>,
        positions: [&Dim; 2],
    ) -> [Option<Tensor<'g>>; 4] {
        let g = self.g;
        let stack = if decoder { "decoder" } else { "encoder" };
        g.output(format!("{stack}.last_hidden_state"), passed.x);
        let (mut aux, mut z) = (None, None);
        let mut traces = Vec::new();
        for i in 0..self.config.layers(decoder) {
            let location = Stack::location(self.config, decoder, i);
            let trace_of_segment = &passed.segments[location.segment];
            let layer =
                |x: Tensor<'g>| x.slice("layers", location.layer..location.layer + 1).squeeze("layers");
            g.output(format!("{stack}.hidden.{i}"), layer(trace_of_segment.hidden[location.block]));
            if !self.config.is_sparse(decoder, i) {
                continue;
            }
            // Metrics are in the order of the sparse blocks of an iteration: count those before this one.
            let first = i - location.block;
            let earlier = (first..i).filter(|i| self.config.is_sparse(decoder, *i)).count();
            let metrics = trace_of_segment.routers[earlier];
            let (of_layer, z_of_layer) = (layer(metrics.aux), layer(metrics.z));
            g.output(format!("loss.aux.{stack}.{i}"), of_layer);
            g.output(format!("loss.z.{stack}.{i}"), z_of_layer);
            let add = |sum: Option<Tensor<'g>>, x: Tensor<'g>| Some(sum.map_or(x, |sum| sum + x));
            (aux, z) = (add(aux, of_layer), add(z, z_of_layer));
            let trace = Trace {
                logits: layer(metrics.trace.logits),
                probabilities: layer(metrics.trace.probabilities),
                expert: layer(metrics.trace.expert),
                assigned: layer(metrics.trace.assigned),
                gate: layer(metrics.trace.gate),
            };
            self.router(&format!("{stack}.{i}"), &trace, positions);
            traces.push(trace);
        }
        let hugging_face = (!traces.is_empty()).then(|| self.joined(decoder, &traces, positions));
        if let Some([aux, z]) = hugging_face {
            g.output(format!("loss.hf_{stack}_aux_loss"), aux);
            g.output(format!("loss.hf_{stack}_z_loss"), z);
        }
        [aux, z, hugging_face.map(|[aux, _]| aux), hugging_face.map(|[_, z]| z)]
    }

    fn router(&self, layer: &str, trace: &Trace<'g>, positions: [&Dim; 2]) {
        let g = self.g;
        let experts = &Dim::new("experts_all", self.experts());
        g.output(format!("router.{layer}.logits"), trace.logits);
        g.output(format!("router.{layer}.probs"), trace.probabilities);
        g.output(format!("router.{layer}.argmax"), trace.expert);
        g.output(format!("router.{layer}.kept"), trace.assigned);
        g.output(format!("router.{layer}.gate"), trace.gate);
        let share = trace.expert.one_hot(experts, DType::F32).mean(positions);
        let flat = (share * trace.probabilities.mean(positions)).sum(experts) * (experts.size as f64);
        g.output(format!("loss.aux_flat.{layer}"), flat);
    }

    /// Returns Hugging Face's losses of a stack. The mean over concatenated sequences of equal length is a
    /// mean of means.
    fn joined(&self, decoder: bool, traces: &[Trace<'g>], [batch, tokens]: [&Dim; 2]) -> [Tensor<'g>; 2] {
        let experts = &Dim::new("experts_all", self.experts());
        let zero = self.g.constant(0.0, DType::F32);
        if self.config.sparse_step(decoder) == Some(1) {
            return [zero, zero];
        }
        let mean = |of: &dyn Fn(&Trace<'g>) -> Tensor<'g>| {
            let sum = traces.iter().map(of).reduce(|a, b| a + b).unwrap_or(zero);
            sum / (traces.len() as f64)
        };
        let share = mean(&|t| (t.expert * t.assigned).one_hot(experts, DType::F32).mean(tokens));
        let probability = mean(&|t| t.probabilities.mean(tokens));
        let aux = (share * probability).sum(experts).mean(batch) * (experts.size as f64);
        let z = mean(&|t| t.logits.logsumexp(experts).square().mean([batch, tokens]));
        [aux, z]
    }

    fn experts(&self) -> usize {
        self.config.switch.as_ref().map_or(1, |s| s.experts)
    }
}
