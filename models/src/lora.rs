//! Low-rank adapters (LoRA, Hu et al. 2021): a frozen matrix `W` plus `alpha / rank · A B`, where only `A`
//! and `B` are trained.

use crate::{Context, patterns::Patterns};
use mesh::{
    Dim, Name,
    dsl::{Args, Graph, Init, Names, Program, State, Tensor, einsum},
};

/// The end of the name of `A`, which follows the name of its matrix.
pub const A: &str = "lora_a";
/// The end of the name of `B`.
pub const B: &str = "lora_b";

/// Settings of adapters.
#[derive(Clone, PartialEq, Debug)]
pub struct Lora {
    /// The rank of the update of a matrix.
    pub rank: usize,
    /// The update is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Names of the matrices that get an adapter.
    pub targets: Patterns,
}

impl Lora {
    /// Returns the factor of the product of both matrices.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Returns the adapters with the settings of the command line applied; `None` means a rank of 0.
    pub(crate) fn with(own: Option<Self>, args: &Args) -> Option<Self> {
        let own = own.unwrap_or_else(|| Self { rank: 0, alpha: 16.0, targets: Patterns::from("*/q,*/v") });
        let made = Self {
            rank: args.get("lora_rank", own.rank),
            alpha: args.get("lora_alpha", own.alpha),
            targets: args.get("lora_targets", own.targets),
        };
        (made.rank > 0).then_some(made)
    }
}

/// The two matrices of an adapter.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    a: State,
    b: State,
    scale: f64,
    rank: Dim,
    columns: Vec<Dim>,
}

impl Adapter {
    /// Declares the adapter of the matrix `name` whose dims are `stacked` (one matrix for each), `rows` and
    /// `columns`. `B` is 0 at first, so that the model is unchanged.
    #[track_caller]
    pub fn new(
        p: &Program,
        lora: &Lora,
        name: &str,
        stacked: &[Dim],
        (rows, columns): (&[Dim], &[Dim]),
    ) -> Self {
        let rank = Dim::new("lora_rank", lora.rank);
        let one = std::slice::from_ref(&rank);
        let fan_in: usize = rows.iter().map(|d| d.size).product();
        let init = Init::Normal((fan_in as f64).powf(-0.5));
        Self {
            a: p.param(format!("{name}/{A}"), [stacked, rows, one].concat(), init),
            b: p.param(format!("{name}/{B}"), [stacked, one, columns].concat(), Init::Zeros),
            scale: lora.scale(),
            rank,
            columns: columns.to_vec(),
        }
    }

    /// Returns the states of `A` and `B`, and the dim between them.
    pub fn parts(&self) -> (&State, &State, &Dim) {
        (&self.a, &self.b, &self.rank)
    }

    /// Returns `scale · A B` in `f32` with the dims of `like`, the matrix of the current layer.
    pub fn matrix<'g>(&self, g: &'g Graph, like: Tensor<'g>) -> Tensor<'g> {
        let names: Vec<Name> = like.dims().into_iter().map(|d| d.name).collect();
        einsum([self.a.read(g), self.b.read(g)], names) * self.scale
    }

    /// Returns `scale · (x A) B` with the dims `out`, without the matrix of all elements.
    pub fn product<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, out: &[Name]) -> Tensor<'g> {
        let is_column = |name: &&Name| self.columns.iter().any(|d| d.name == **name);
        let mut inner: Vec<Name> = out.iter().filter(|name| !is_column(name)).cloned().collect();
        inner.push(self.rank.name.clone());
        let read = |state: &State| state.read(cx.g).cast(cx.dtype());
        let reduced = einsum([x, read(&self.a)], inner);
        einsum([reduced, read(&self.b)], out.names()) * self.scale
    }
}
