//! Encoder and decoder: blocks over the residual stream, run as a scan over `layers`.

use crate::{
    Config, Context, Weights,
    attention::{Attention, AttentionDims, causal_mask},
    feed_forward::FeedForward,
    norm::RmsNorm,
    position::RelativeBias,
    switch::{RouterMetrics, SwitchFfn},
};
use mesh::{
    Dim,
    dsl::{ScanOptions, Tensor},
};

/// One block: `x += attention(norm(x))` for each attention, then `x += feed_forward(norm(x))`.
#[derive(Clone, Debug)]
struct Block {
    attention: (RmsNorm, Attention),
    cross_attention: Option<(RmsNorm, Attention)>,
    feed_forward: (RmsNorm, Ffn),
}

#[derive(Clone, Debug)]
enum Ffn {
    Dense(Box<FeedForward>),
    Switch(Box<SwitchFfn>),
}

/// A stack of blocks and the norm after them.
#[derive(Clone, Debug)]
pub struct Stack {
    name: &'static str,
    layers: Dim,
    /// The blocks of one iteration: one, or as many as it takes until sparse layers repeat.
    blocks: Vec<Block>,
    bias: RelativeBias,
    norm: RmsNorm,
    dims: AttentionDims,
    options: ScanOptions,
    decoder: bool,
}

impl Stack {
    /// An encoder.
    pub fn encoder(w: &Weights<'_>, config: &Config) -> Self {
        Self::new(w, config, "encoder", config.encoder_layers, false)
    }

    /// A decoder: causal, with attention to the encoder's output.
    pub fn decoder(w: &Weights<'_>, config: &Config) -> Self {
        Self::new(w, config, "decoder", config.decoder_layers, true)
    }

    fn new(w: &Weights<'_>, config: &Config, name: &'static str, layers: usize, decoder: bool) -> Self {
        let dims = AttentionDims::new(config);
        let period = config.period();
        let layers = Dim::new("layers", layers / period);
        w.scope(name, || {
            let block = |i| Block::new(w, config, &dims, i, decoder);
            let blocks = w.stacked(&layers, || match period {
                1 => vec![block(0)],
                _ => (0..period).map(|i| w.scope(format!("block_{i}"), || block(i))).collect(),
            });
            let (buckets, distance) = (config.buckets, config.max_distance);
            Self {
                name,
                layers: layers.clone(),
                blocks,
                bias: RelativeBias::new(w, buckets, distance, &dims.heads, &dims.d_model, !decoder),
                norm: RmsNorm::new(w, "norm", &dims.d_model, config.epsilon),
                dims: dims.clone(),
                options: ScanOptions { remat: config.remat, unroll: config.unroll, reverse: false },
                decoder,
            }
        })
    }

    /// For embeddings `x` of `[batch, length, d_model]`. `memory` is what a decoder attends to besides,
    /// `padding` what is added to logits over the encoder's positions. The result has metrics for each
    /// sparse layer of an iteration, stacked over `layers`.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        length: &Dim,
        memory: Option<Tensor<'g>>,
        padding: Tensor<'g>,
    ) -> (Tensor<'g>, Vec<RouterMetrics<'g>>) {
        cx.g.scope(self.name, || {
            let own = length.renamed("memory_length");
            let mut bias = cx.g.scope("relative_bias", || self.bias.forward(cx, length, &own));
            if self.decoder {
                bias += causal_mask(cx, length, &own);
            }
            // The decoder's own padding comes last, so that causality hides it from what counts.
            let masks = if self.decoder { vec![bias] } else { vec![bias, padding] };
            let x = cx.drop(x, &[length]);
            let (x, metrics) = cx.g.scan_with(&self.layers, self.options, x, (), |x, ()| {
                let cx = cx.iteration();
                let mut metrics = Vec::new();
                let mut x = x;
                for (i, block) in self.blocks.iter().enumerate() {
                    let scope = if self.blocks.len() == 1 { "block".into() } else { format!("block_{i}") };
                    let seen = (length, memory, padding);
                    x = cx
                        .g
                        .scope(scope, || block.forward(&cx, x, &self.dims.batch, seen, &masks, &mut metrics));
                }
                (x, metrics)
            });
            (cx.drop(self.norm.forward(cx, x), &[length]), metrics)
        })
    }
}

impl Block {
    fn new(w: &Weights<'_>, config: &Config, dims: &AttentionDims, i: usize, decoder: bool) -> Self {
        let norm = || RmsNorm::new(w, "norm", &dims.d_model, config.epsilon);
        let attention = || (norm(), Attention::new(w, dims));
        let d_ff = Dim::new("d_ff", config.d_ff);
        let feed_forward = || match &config.switch {
            Some(switch) if config.is_sparse(i) => {
                Ffn::Switch(Box::new(SwitchFfn::new(w, &dims.d_model, &d_ff, switch)))
            }
            Some(_) | None => {
                Ffn::Dense(Box::new(FeedForward::new(w, &dims.d_model, &d_ff, config.activation)))
            }
        };
        Self {
            attention: w.scope("attention", attention),
            cross_attention: decoder.then(|| w.scope("cross_attention", attention)),
            feed_forward: w.scope("ffn", || (norm(), feed_forward())),
        }
    }

    fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        batch: &Dim,
        (length, memory, padding): (&Dim, Option<Tensor<'g>>, Tensor<'g>),
        masks: &[Tensor<'g>],
        metrics: &mut Vec<RouterMetrics<'g>>,
    ) -> Tensor<'g> {
        let g = cx.g;
        let mut x = x;
        x += g.scope("attention", || {
            let (norm, attention) = &self.attention;
            let h = norm.forward(cx, x);
            let own = h.rename(length, "memory_length");
            cx.drop(attention.forward(cx, h, length, own, masks), &[length])
        });
        if let (Some((norm, attention)), Some(memory)) = (&self.cross_attention, memory) {
            x += g.scope("cross_attention", || {
                let h = norm.forward(cx, x);
                cx.drop(attention.forward(cx, h, length, memory, &[padding]), &[length])
            });
        }
        x + g.scope("ffn", || {
            let (norm, ffn) = &self.feed_forward;
            let h = norm.forward(cx, x);
            let y = match ffn {
                Ffn::Dense(ffn) => ffn.forward(cx, h, batch, length),
                Ffn::Switch(ffn) => {
                    let (y, of_router) = ffn.forward(cx, h, batch, length);
                    metrics.push(of_router);
                    y
                }
            };
            cx.drop(y, &[length])
        })
    }
}
