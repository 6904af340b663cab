//! The Switch layer: a feed-forward layer with several copies, the *experts*, of which each token uses one
//! or a few.
//!
//! Reading order: [`options`] (the settings, with validation), [`SwitchFfn`] (the experts), [`attention`]
//! (experts in self-attention), [`router`] (probabilities), [`routing`] (its result), `assignment` (experts
//! and expert slots of each token), `balance` (router losses and metrics), `balance_bias` (balance without a
//! loss), [`dispatch`] (moving tokens to expert slots and back), `experts` (experts of one size), `exchange`
//! (the all-to-all), `hierarchy` (dispatch in two steps, for very many experts), `expert_dropout`,
//! `unstacked` (experts in separate states, for decoding), `capacity_buckets` (skipping empty expert slots),
//! `dropless` (routing without capacity).

mod assignment;
pub mod attention;
mod balance;
pub(crate) mod balance_bias;
mod capacity_buckets;
pub mod dispatch;
mod dropless;
mod exchange;
mod expert_dropout;
mod experts;
mod hierarchy;
pub mod options;
pub mod router;
pub mod routing;
mod unstacked;

use crate::{Activation, Context, Weights, feed_forward::FeedForward, stream};
use dispatch::Slots;
pub(crate) use dropless::always_sorts;
use expert_dropout::ExpertDropout;
use experts::Experts;
use hierarchy::Hierarchy;
use mesh::{
    Dim, Name,
    dsl::{State, Tensor, einsum},
};
use options::ExpertSize;
pub use options::Switch;
pub use router::{Router, RouterMetrics, Trace};
pub use routing::{Routes, Routing};
pub use unstacked::UnstackedExperts;

/// A router and its experts.
#[derive(Clone, Debug)]
pub struct SwitchFfn {
    router: Router,
    /// The experts of each size, in the order of their numbers.
    sizes: Vec<Experts>,
    /// The shared experts as one dense layer; `None` means that there are none.
    shared: Option<FeedForward>,
    d_model: Dim,
    options: Switch,
}

impl SwitchFfn {
    /// Declares the layer with the paper's initialization. `d_ff` is that of dense layers. Experts of several
    /// sizes are in scopes `size_0`, `size_1` and so on.
    pub fn new(w: &Weights<'_>, d_model: &Dim, d_ff: &Dim, activation: Activation, options: &Switch) -> Self {
        let router = Router::new(w, d_model, options, "ffn");
        let experts = |d_ff_of: usize, count| {
            Experts::new(w, [d_model, &d_ff.sized(d_ff_of)], activation, count, options.scale())
        };
        let sizes = options.sizes(d_ff.size);
        let sizes = match &sizes[..] {
            [one] => vec![experts(one.d_ff, one.count)],
            _ => {
                let of = |(i, size): (usize, &ExpertSize)| {
                    w.scope(size_scope(i), || experts(size.d_ff, size.count))
                };
                sizes.iter().enumerate().map(of).collect()
            }
        };
        let shared = (options.shared_experts > 0).then(|| {
            let wide = d_ff.sized(options.shared_experts * options.d_ff(d_ff.size));
            w.scope("shared", || FeedForward::new(w, d_model, &wide, activation))
        });
        Self { router, sizes, shared, d_model: d_model.clone(), options: options.clone() }
    }

    /// Applies the layer to `x` of `[batch, length, d_model]`, or with the dim of the residual stream: then
    /// tokens are exchanged sharded as the stream is, and experts all-gather them. Dropped tokens give 0, so
    /// they pass on the residual only. Returns the output and the router's metrics.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        batch: &Dim,
        length: &Dim,
    ) -> (Tensor<'g>, RouterMetrics<'g>) {
        let (y, routed) = self.routed(cx, x, batch, length);
        (y, routed.metrics)
    }

    /// [`SwitchFfn::forward`] that returns the routing, too.
    pub fn routed<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        batch: &Dim,
        length: &Dim,
    ) -> (Tensor<'g>, Routed<'g>) {
        let g = cx.g;
        let groups = Groups::new(&self.options, batch, length);
        let whole = x;
        let x = groups.regroup(x);
        let cx = &Context { tokens: cx.tokens.map(|tokens| groups.regroup(tokens)), ..*cx };
        let (group, token) = (&groups.group, &groups.token);
        let non_padding = cx.non_padding.map(|non_padding| groups.regroup(non_padding));
        let (routing, mut metrics) =
            g.scope("router", || self.router.forward(cx, x, non_padding, group, token));
        let y = if self.options.expert_groups > 0 {
            let hierarchy = Hierarchy::new(&self.options, [group, token], cx.train());
            let dropout = self.dropout(cx);
            // Experts in groups are all alike.
            let alike = &self.sizes[0];
            let experts = |sent| self.whole(sent, |sent| self.grouped_experts(cx, alike, &dropout, sent));
            let (y, dropped) = hierarchy.forward(cx, x, non_padding, &metrics.trace, experts);
            metrics.record_drops(
                cx,
                dropped,
                non_padding.filter(|_| self.options.ignore_padding),
                [group, token],
            );
            y
        } else if self.sorts(cx, [group, token]) {
            self.through_blocks(cx, x, [group, token], &routing)
        } else {
            let buckets = self.buckets(cx, &routing, token);
            self.through_smallest_bucket(cx, x, [group, token], &routing, &buckets)
        };
        let y = self.with_shared(cx, groups.ungroup(y), whole, (batch, length));
        (y, Routed { routing, metrics, group: group.clone(), token: token.clone() })
    }

    /// Adds the outputs of the shared experts for `x` to `y`.
    fn with_shared<'g>(
        &self,
        cx: &Context<'g>,
        y: Tensor<'g>,
        x: Tensor<'g>,
        positions: (&Dim, &Dim),
    ) -> Tensor<'g> {
        let Some(shared) = &self.shared else { return y };
        let (batch, length) = positions;
        let own = cx.g.scope("shared", || {
            let own = shared.forward(cx, stream::leave(x, &self.d_model), batch, length);
            stream::enter(own, x, &self.d_model)
        });
        y + own
    }

    /// Returns the state of the router's biases for the choice.
    pub(crate) fn balance_bias(&self) -> Option<&State> {
        self.router.balance_bias()
    }

    /// Returns the capacities for which the layer is compiled in addition to that of `routing`.
    fn buckets(&self, cx: &Context<'_>, routing: &Routing<'_>, token: &Dim) -> Vec<usize> {
        if cx.train() {
            return Vec::new();
        }
        if self.options.drops_nothing(false) {
            let usual = self.options.usual_capacity(token.size, false);
            return capacity_buckets::buckets_from(usual, routing.capacity);
        }
        if cx.schedule.skip_empty { capacity_buckets::buckets(routing.capacity) } else { Vec::new() }
    }

    /// Dispatches `x`, the tokens at `positions`, to the experts, applies them, and combines their outputs.
    fn through_experts<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: [&Dim; 2],
        routing: &Routing<'g>,
    ) -> Tensor<'g> {
        let g = cx.g;
        let d_model = stream::dim_of(x, &self.d_model);
        let slots = Slots::new(cx, &self.options, &d_model, positions, routing);
        let sent = g.scope("dispatch", || slots.dispatch_by_size(x));
        let exchanged = |sent, of_size: &Experts| {
            let dropout = self.dropout(cx);
            let experts = |sent| self.whole(sent, |sent| apply(cx, of_size, &dropout, sent));
            exchange::exchange(cx.schedule.exchange_parts, sent, exchange::FLAT, experts)
        };
        let done: Vec<Tensor<'g>> = match (&sent[..], &self.sizes[..]) {
            ([sent], [one]) => vec![exchanged(*sent, one)],
            (sent, sizes) => {
                let all = sent.iter().zip(sizes).enumerate();
                all.map(|(i, (sent, size))| g.scope(size_scope(i), || exchanged(*sent, size))).collect()
            }
        };
        g.scope("combine", || slots.combine_by_size(&done, &[&d_model]).named("combined"))
    }

    /// Applies `experts` to tokens that have the dim of the residual stream.
    fn whole<'g>(&self, sent: Tensor<'g>, experts: impl FnOnce(Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
        stream::enter(experts(stream::leave(sent, &self.d_model)), sent, &self.d_model)
    }

    fn dropout<'g>(&self, cx: &Context<'g>) -> ExpertDropout<'g> {
        ExpertDropout::new(self.options.expert_dropout.unwrap_or(cx.dropout))
    }

    /// Applies experts in groups, for dispatch in two steps.
    fn grouped_experts<'g>(
        &self,
        cx: &Context<'g>,
        experts: &Experts,
        dropout: &ExpertDropout<'g>,
        x: Tensor<'g>,
    ) -> Tensor<'g> {
        let positions = ["inner_senders", "expert_groups", "group_experts", "capacity"].map(Name::from);
        experts.apply(cx, dropout, x, &positions, |x, weight, out| {
            let (group, inner) = (self.options.group_dim(), self.options.inner_dim());
            einsum([x, weight.read(cx).split("experts", [&group, &inner])], out)
        })
    }
}

/// Returns the scope of the experts of size `i` of several.
fn size_scope(i: usize) -> String {
    format!("size_{i}")
}

/// Applies experts to the tokens in their expert slots.
fn apply<'g>(cx: &Context<'g>, experts: &Experts, dropout: &ExpertDropout<'g>, x: Tensor<'g>) -> Tensor<'g> {
    let positions = [Name::from("expert_batch"), "experts".into(), "capacity".into()];
    experts.apply(cx, dropout, x, &positions, |x, weight, out| weight.product(cx, x, out))
}

/// The routing of a layer's tokens.
#[derive(Clone, Debug)]
pub struct Routed<'g> {
    /// The assignment of tokens to expert slots.
    pub routing: Routing<'g>,
    /// Metrics of the router.
    pub metrics: RouterMetrics<'g>,
    /// The dim of groups.
    pub group: Dim,
    /// The dim of tokens in a group.
    pub token: Dim,
}

/// Groups of tokens that compete for expert slots. By default a group is a sequence, and nothing is
/// reshaped.
#[derive(Clone, Debug)]
struct Groups {
    batch: Dim,
    length: Dim,
    group: Dim,
    token: Dim,
}

impl Groups {
    fn new(options: &Switch, batch: &Dim, length: &Dim) -> Self {
        let (groups, tokens) = options.groups(batch.size, length.size);
        let same = (groups, tokens) == (batch.size, length.size);
        let (group, token) = if same {
            (batch.clone(), length.clone())
        } else {
            (batch.sized(groups), Dim::new("group", tokens))
        };
        Self { batch: batch.clone(), length: length.clone(), group, token }
    }

    /// True if groups are not sequences.
    fn differ(&self) -> bool {
        self.token != self.length
    }

    fn regroup<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        if !self.differ() {
            return x;
        }
        x.reshape([&self.batch, &self.length], [&self.group, &self.token])
    }

    fn ungroup<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        if !self.differ() {
            return x;
        }
        x.reshape([&self.group, &self.token], [&self.batch, &self.length])
    }
}
