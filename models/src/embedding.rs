//! Token embedding, and the output projection to logits.

use crate::{Config, Context, Weight, Weights, attention::MASKED};
use mesh::{
    DType, Dim,
    dsl::{Init, Program, State, Tensor, einsum_as},
};

/// One embedding table for both stacks, and for the output unless it has its own.
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Weight,
    head: Option<Weight>,
    vocab: Dim,
    /// The number of tokens; `None` means that the dim has no padding.
    tokens: Option<usize>,
    d_model: Dim,
    /// True if logits are those of the input times `d_model^-0.5`.
    scaled: bool,
}

impl Embedding {
    /// Declares tables initialized with deviation 1, as in T5, which does not scale embeddings.
    pub fn new(w: &Weights<'_>, config: &Config) -> Self {
        let (vocab, d_model) = (config.vocab_dim(), Dim::new("d_model", config.d_model));
        let tokens = (config.vocab_padding > 0).then_some(config.vocab);
        let table = |name| {
            let table = w.table(name, &[&vocab], &[&d_model], Init::Normal(1.0));
            match tokens {
                None => table,
                Some(tokens) => w.padded(table, vocab.sized(tokens)),
            }
        };
        let (own, head) = (table("embedding"), (!config.tied).then(|| table("head")));
        Self { table: own, head, vocab, tokens, d_model, scaled: config.scales_output() }
    }

    /// Returns the dim of the vocabulary, with its padding.
    pub fn vocab(&self) -> &Dim {
        &self.vocab
    }

    /// Returns the embeddings of `tokens` (`s32`).
    pub fn lookup<'g>(&self, cx: &Context<'g>, tokens: Tensor<'g>) -> Tensor<'g> {
        self.table.state.read(cx.g).gather(&self.vocab, tokens).cast(cx.dtype())
    }

    /// Returns the logits of `x`, `f32[batch, length, vocab]`. With a tied table, `x` is scaled by
    /// `d_model^-0.5`, as in T5, unless [`Config::scaled_output`] says otherwise. Logits of padding are so
    /// low that their probabilities and all gradients through them are 0.
    pub fn logits<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, batch: &Dim, length: &Dim) -> Tensor<'g> {
        self.logits_by(x, (batch, length), self.last().read(cx))
    }

    fn logits_by<'g>(&self, x: Tensor<'g>, (batch, length): (&Dim, &Dim), table: Tensor<'g>) -> Tensor<'g> {
        let x = if self.scaled { x * (self.d_model.size as f64).powf(-0.5) } else { x };
        let logits = einsum_as(DType::F32, [x, table], [batch, length, &self.vocab]);
        let Some(tokens) = self.tokens else { return logits };
        let g = logits.graph();
        let used = g.iota(&self.vocab, DType::S32).lt(tokens as i32);
        used.select(logits, g.constant(MASKED, DType::F32))
    }

    /// Returns the matrix of the output projection.
    fn last(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.table)
    }

    /// Declares a transposed copy of the output projection, called `name`: a product with few rows is
    /// cheaper with it.
    pub fn transposed(&self, p: &Program, name: &str, dtype: DType) -> State {
        p.store(name, dtype, [&self.d_model, &self.vocab], Init::Zeros)
    }

    /// Fills the copy that [`Embedding::transposed`] declared.
    pub fn set_transposed(&self, cx: &Context<'_>, transposed: &State) {
        transposed.assign(self.last().read(cx));
    }

    /// [`Embedding::logits`] with the copy that [`Embedding::transposed`] declared.
    pub fn logits_transposed<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: (&Dim, &Dim),
        transposed: &State,
    ) -> Tensor<'g> {
        self.logits_by(x, positions, transposed.read(cx.g))
    }
}
