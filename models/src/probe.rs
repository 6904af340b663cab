//! A program that shows what happens inside a model, for comparison with other software: the input of every
//! block, every router's decisions, every loss, and the gradient of any mix of the losses.
//!
//! Names of outputs are those of Hugging Face's code, where layers and blocks count from 0.

use crate::{
    Config, Context, Weights,
    attention::MASKED,
    objective::{EncoderDecoder, ForwardPass},
    stack::{Stack, StackOutput},
    switch::Trace,
};
use mesh::{
    DType, Dim, Site,
    dsl::{Graph, Program, Tensor},
};

/// The parts of a loss, and the names of the inputs that weigh them. Their `hf` parts are what Hugging Face's
/// code adds for routers: see [`program`].
pub const WEIGHTS: [&str; 5] = ["weight.ce", "weight.aux", "weight.z", "weight.hf_aux", "weight.hf_z"];

/// The program: one function, `probe`, of `input_ids`, `attention_mask` (`[batch, length]`),
/// `decoder_input_ids`, `labels` (`[batch, target_length]`; -100: does not count) and [`WEIGHTS`]. Its outputs:
///
/// - `encoder.hidden.I`, `encoder.last_hidden_state`, the same of the decoder, `logits`;
/// - `router.STACK.I.logits`, `probs`, `argmax`, `kept`, `gate` of every sparse layer;
/// - `loss.ce`; `loss.aux.STACK.I`, `loss.z.STACK.I`, and `loss.aux_flat.STACK.I`, where the batch is one group;
///   `loss.hf_STACK_aux_loss` and `loss.hf_STACK_z_loss`, which join the sparse layers of a stack along the
///   sequence, count a dropped token for expert 0, and are 0 if all layers are sparse;
/// - with `gradients`, `grad/PARAMETER` of the weighted sum of cross-entropy, `aux`, `z`, and these two.
pub fn program(config: &Config, gradients: bool, place: &Site) -> Program {
    let p = Program::new(format!("{}_probe", config.name));
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    p.meta("batch", config.batch);
    p.meta("layout", config.layout());
    p.schedule(config.schedule);
    let weights = Weights::new(&p);
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

/// A program with one function, `logits`, of `input_ids`, `attention_mask` and `decoder_input_ids`: for every
/// position of the targets the logits of the next token, as often as tokens are appended one by one.
///
/// With `apart`, routers see the decoder's positions one at a time, as they do where keys and values of earlier
/// ones are kept: no position takes a slot from another, so that none is dropped. The encoder's compete as ever.
pub fn logits(config: &Config, apart: bool, place: &Site) -> Program {
    let p = Program::new(format!("{}_logits", config.name));
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    p.meta("batch", config.batch);
    p.meta("layout", config.layout());
    p.schedule(config.schedule);
    let mut decoder = config.clone();
    if let Some(switch) = decoder.switch.as_mut().filter(|_| apart) {
        // As many slots as there are tokens to choose them.
        switch.fixed_capacity = config.target_length * switch.choices().max(1);
    }
    let model = EncoderDecoder::with_decoder(&Weights::new(&p), config, &decoder);
    p.function("logits", |g| {
        let (batch, length, target_length) = model.dims();
        let tokens = |name: &str, dim: &Dim| g.input(name, DType::S32, [&batch, dim]);
        let (inputs, mask) = (tokens("input_ids", &length), tokens("attention_mask", &length));
        let before = tokens("decoder_input_ids", &target_length);
        let padding = (mask.eq(0).cast(DType::F32) * MASKED).rename(&length, "memory_length");
        // Every position counts: what follows is not known yet, and what is not there is not looked at.
        let all = g.full(1, DType::S32, [&batch, &target_length]);
        g.output("logits", model.pass(&Context::new(g, config, None), inputs, padding, before, all).logits);
    });
    p
}

struct Probe<'g, 'm> {
    g: &'g Graph,
    config: &'m Config,
    model: &'m EncoderDecoder,
}

impl<'g> Probe<'g, '_> {
    /// Outputs everything but gradients; the result is what they are of.
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
        g.output("logits", pass.logits);
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
        let vocab = &Dim::new("vocab", self.config.vocab);
        let counts = labels.ne(-100).cast(DType::F32);
        let wanted = (pass.logits * labels.one_hot(vocab, DType::F32)).sum(vocab);
        let weight = counts / counts.sum(positions).maximum(1.0);
        ((pass.logits.logsumexp(vocab) - wanted) * weight).sum(positions)
    }

    /// Outputs what happened in a stack. The result are its losses: the sums of aux and of z over layers, and
    /// Hugging Face's aux and z.
    fn stack(
        &self,
        decoder: bool,
        passed: &StackOutput<'g>,
        positions: [&Dim; 2],
    ) -> [Option<Tensor<'g>>; 4] {
        let g = self.g;
        let (stack, layers) = match decoder {
            true => ("decoder", self.config.decoder_layers),
            false => ("encoder", self.config.encoder_layers),
        };
        g.output(format!("{stack}.last_hidden_state"), passed.x);
        let (mut aux, mut z) = (None, None);
        let mut traces = Vec::new();
        for i in 0..layers {
            let place = Stack::location(self.config, decoder, i);
            let way = &passed.segments[place.segment];
            let layer = |x: Tensor<'g>| x.slice("layers", place.layer..place.layer + 1).squeeze("layers");
            g.output(format!("{stack}.hidden.{i}"), layer(way.hidden[place.block]));
            if !self.config.is_sparse(decoder, i) {
                continue;
            }
            // Metrics come in the order of the sparse blocks of an iteration, of which this one is the last
            // but those after it.
            let first = i - place.block;
            let earlier = (first..i).filter(|i| self.config.is_sparse(decoder, *i)).count();
            let metrics = way.routers[earlier];
            let (of_layer, z_of_layer) = (layer(metrics.aux), layer(metrics.z));
            g.output(format!("loss.aux.{stack}.{i}"), of_layer);
            g.output(format!("loss.z.{stack}.{i}"), z_of_layer);
            let add = |sum: Option<Tensor<'g>>, x: Tensor<'g>| Some(sum.map_or(x, |sum| sum + x));
            (aux, z) = (add(aux, of_layer), add(z, z_of_layer));
            let trace = Trace {
                logits: layer(metrics.trace.logits),
                probabilities: layer(metrics.trace.probabilities),
                expert: layer(metrics.trace.expert),
                kept: layer(metrics.trace.kept),
                gate: layer(metrics.trace.gate),
            };
            self.router(&format!("{stack}.{i}"), &trace, positions);
            traces.push(trace);
        }
        let theirs = (!traces.is_empty()).then(|| self.joined(decoder, &traces, positions));
        if let Some([aux, z]) = theirs {
            g.output(format!("loss.hf_{stack}_aux_loss"), aux);
            g.output(format!("loss.hf_{stack}_z_loss"), z);
        }
        [aux, z, theirs.map(|[aux, _]| aux), theirs.map(|[_, z]| z)]
    }

    fn router(&self, layer: &str, trace: &Trace<'g>, positions: [&Dim; 2]) {
        let g = self.g;
        let experts = &Dim::new("experts_all", self.experts());
        g.output(format!("router.{layer}.logits"), trace.logits);
        g.output(format!("router.{layer}.probs"), trace.probabilities);
        g.output(format!("router.{layer}.argmax"), trace.expert);
        g.output(format!("router.{layer}.kept"), trace.kept);
        g.output(format!("router.{layer}.gate"), trace.gate);
        let share = trace.expert.one_hot(experts, DType::F32).mean(positions);
        let flat = (share * trace.probabilities.mean(positions)).sum(experts) * (experts.size as f64);
        g.output(format!("loss.aux_flat.{layer}"), flat);
    }

    /// Hugging Face's losses of a stack. A mean along joined sequences of equal length is a mean of means.
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
        let share = mean(&|t| (t.expert * t.kept).one_hot(experts, DType::F32).mean(tokens));
        let probability = mean(&|t| t.probabilities.mean(tokens));
        let aux = (share * probability).sum(experts).mean(batch) * (experts.size as f64);
        let z = mean(&|t| t.logits.logsumexp(experts).square().mean([batch, tokens]));
        [aux, z]
    }

    fn experts(&self) -> usize {
        self.config.switch.as_ref().map_or(1, |s| s.experts)
    }
}
