//! Gradient accumulation over microbatches: only the activations of one microbatch are in memory, and
//! pending sums of gradients are reduced once, after the last microbatch.
//!
//! A microbatch takes every n-th sequence, so that each device has its share of every microbatch. If tokens
//! of several sequences compete for expert slots, it takes every n-th run of as many sequences as consist of
//! whole groups ([`Config::adjacent_sequences`]): its groups are then groups of the whole batch, unless the
//! number of tokens in a group depends on the size of the batch.
//!
//! With the schedule entry `stages`, all microbatches are computed at once, and the layers of each stack are
//! a pipeline through which they pass ([`mesh::dsl::ScanOptions::stages`]). Losses, gradients and random
//! numbers are the same.

use crate::{
    Config, Weight,
    objective::{Feeds, Losses, Part, router_loss},
    switch::{RouterMetrics, Switch, options::Balance, router::balance_over_batch},
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Tensor, Tree},
};

/// The ending of the names of metrics of choices.
const CHOICES: &str = "_choices";

/// The ending of the names of mean probabilities, from which the balance over the whole batch is computed.
const PROBABILITY: &str = "_probability";

/// The inputs of a step, and how they are split.
#[derive(Clone, Debug)]
pub struct Batch<'g> {
    feeds: Feeds<'g>,
    parts: Dim,
    batch: Dim,
    /// The number of adjacent sequences that a microbatch takes together.
    adjacent: usize,
    /// Stages of the pipeline through which the microbatches pass; 1 means that they run one after another.
    stages: usize,
    /// Element type in which gradients are reduced across devices.
    sent: DType,
    /// The options of sparse layers; `None` means that there are none.
    switch: Option<Switch>,
}

/// Losses and metrics of a step, by name.
#[derive(Clone, Debug)]
pub struct StepMetrics<'g> {
    /// The loss that training minimizes.
    pub total: Option<Tensor<'g>>,
    numbers: Vec<(String, Tensor<'g>)>,
}

impl<'g> StepMetrics<'g> {
    /// Returns each expert's share of choices, `[layers, experts_all]`, for each router with biases for the
    /// choice.
    pub fn choices(&self) -> Vec<Tensor<'g>> {
        self.numbers.iter().filter(|(name, _)| name.ends_with(CHOICES)).map(|(_, value)| *value).collect()
    }

    /// Makes all metrics except `without` outputs of the function.
    pub fn output(&self, g: &Graph, without: &[&str]) {
        for (name, value) in self.numbers.iter().filter(|(name, _)| !without.contains(&name.as_str())) {
            g.output(name.clone(), *value);
        }
    }
}

impl<'g> Batch<'g> {
    /// Declares the inputs of a step of the model `config`.
    pub fn input(g: &'g Graph, config: &Config) -> Self {
        Self {
            feeds: Feeds::input(g, config),
            parts: Dim::new("microbatches", config.schedule.microbatches),
            batch: Dim::new("batch", config.microbatch().batch),
            adjacent: config.adjacent_sequences(),
            stages: config.schedule.stages,
            sent: config.precision.activations(),
            switch: config.switch.clone(),
        }
    }

    /// Declares also the `top` largest logits of a teacher; `None` means none.
    pub fn with_teacher(self, g: &'g Graph, top: Option<usize>) -> Self {
        let Some(top) = top else { return self };
        Self { feeds: self.feeds.with_teacher(g, top), ..self }
    }

    /// Returns the shares of choices over the whole batch of each router, `[layers, experts_all]`, by a
    /// forward pass over all microbatches, if there are several and the load-balancing loss is that of the
    /// whole batch. `f` is a forward pass of [`Batch::each`] and draws the same random numbers.
    ///
    /// The gradient of that loss multiplies the gradient of a microbatch's mean probabilities by the shares
    /// of the whole batch, so these are needed before the first backward pass.
    pub fn choices(
        &self,
        g: &'g Graph,
        f: impl FnOnce(Feeds<'g>, Part<'g>) -> Losses<'g>,
    ) -> Option<Vec<Tensor<'g>>> {
        let of_batch = self.switch.as_ref().is_some_and(|switch| switch.balance == Balance::Batch);
        if self.parts.size == 1 || !of_batch {
            return None;
        }
        let part = self.feeds.part(1.0 / self.parts.size as f64);
        let split = self.feeds.map(&mut |x| self.split(x));
        let shares = |feeds| {
            let routers = named_routers(&f(feeds, part));
            routers.into_iter().filter_map(|(_, m)| m.choices).collect::<Vec<_>>()
        };
        let shares = g.rehearse(|| match self.stages {
            1 => g.scan(&self.parts, (), split, |(), feeds| ((), shares(feeds))).1,
            _ => g.map(&self.parts, split, shares),
        });
        Some(shares.into_iter().map(|x| x.sum(&self.parts) * part.share).collect())
    }

    /// Runs `f` for each microbatch and adds up its results. `f` returns the losses to report, and in
    /// training the loss whose gradients with respect to `weights` are `gradients`.
    pub fn each(
        &self,
        g: &'g Graph,
        weights: &[Weight],
        gradients: impl Fn(Tensor<'g>) -> Vec<Tensor<'g>>,
        f: impl FnOnce(Feeds<'g>, Part<'g>) -> (Option<Tensor<'g>>, Losses<'g>),
    ) -> (Vec<Tensor<'g>>, StepMetrics<'g>) {
        let Self { feeds, parts, stages, .. } = self;
        let part = feeds.part(1.0 / parts.size as f64);
        let of = |total: Option<Tensor<'g>>| total.map_or_else(Vec::new, &gradients);
        if parts.size == 1 && *stages == 1 {
            let (total, losses) = f(*feeds, part);
            let gradients = of(total);
            let numbers = numbers(&losses).into_iter().map(|(name, value, _)| (name, value)).collect();
            return (self.sent(gradients), StepMetrics { total, numbers: self.over_batch(numbers) });
        }
        let mut known = Vec::new();
        let mut values_of = |losses: &Losses<'g>| {
            let numbers = numbers(losses);
            let values: Vec<Tensor<'g>> = numbers.iter().map(|n| n.1).collect();
            known = numbers.into_iter().map(|(name, _, over)| (name, over)).collect();
            values
        };
        let (sums, (total, values)) = if *stages > 1 {
            let (total, values) = g.map(parts, feeds.map(&mut |x| self.split(x)), |feeds| {
                let (total, losses) = f(feeds, part);
                (total, values_of(&losses))
            });
            (of(total.map(|t| t.sum(parts))), (total, values))
        } else {
            self.accumulate(g, weights, |feeds| {
                let (total, losses) = f(feeds, part);
                (of(total), (total, values_of(&losses)))
            })
        };
        let whole = |((name, over), values): ((String, MetricReduction), Tensor<'g>)| {
            let value = match over {
                MetricReduction::Sum => values.sum(parts),
                MetricReduction::Mean => values.sum(parts) * part.share,
                MetricReduction::Each => self.merge(values),
            };
            (name, value)
        };
        let numbers = self.over_batch(known.into_iter().zip(values).map(whole).collect());
        (self.sent(sums), StepMetrics { total: total.map(|t| t.sum(parts)), numbers })
    }

    /// Runs `f` for one microbatch after the other; adds up the gradients that it returns, and stacks the
    /// other results.
    fn accumulate<Y: Tree<'g>>(
        &self,
        g: &'g Graph,
        weights: &[Weight],
        f: impl FnOnce(Feeds<'g>) -> (Vec<Tensor<'g>>, Y),
    ) -> (Vec<Tensor<'g>>, Y) {
        let zeros: Vec<_> = weights.iter().map(|w| g.full(0.0, DType::F32, w.state.dims())).collect();
        let split = self.feeds.map(&mut |x| self.split(x));
        g.scan(&self.parts, zeros, split, |sums, feeds| {
            let (gradients, values) = f(feeds);
            let sums = sums.into_iter().zip(gradients).map(|(sum, gradient)| sum + gradient);
            (sums.collect::<Vec<_>>(), values)
        })
    }

    /// Computes the load-balancing loss over the whole batch from the means of all microbatches, if it is
    /// that of the whole batch, and leaves only metrics that a step outputs.
    fn over_batch(&self, numbers: Vec<(String, Tensor<'g>)>) -> Vec<(String, Tensor<'g>)> {
        let Some(switch) = &self.switch else { return numbers };
        let get = |name: String| numbers.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        let aux_of = |router: &str| {
            get(format!("{router}{CHOICES}"))
                .zip(get(format!("{router}{PROBABILITY}")))
                .map(|(choices, probability)| balance_over_batch(choices, probability))
        };
        let with_loss = |(name, value): &(String, Tensor<'g>)| {
            let router = name.strip_suffix("_z")?;
            aux_of(router).map(|aux| [aux, *value])
        };
        let loss = router_loss(switch, &numbers.iter().filter_map(with_loss).collect::<Vec<_>>());
        let of_batch = |name: &str, value: Tensor<'g>| match name.strip_suffix("_aux") {
            Some(router) => aux_of(router).unwrap_or(value),
            None if name == "aux_loss" => loss.unwrap_or(value),
            None => value,
        };
        let shown = |name: &str| {
            !(name.ends_with(PROBABILITY) || name.ends_with(CHOICES) && switch.balance_bias == 0.0)
        };
        let all = numbers.iter().filter(|(name, _)| shown(name));
        all.map(|(name, value)| (name.clone(), of_batch(name, *value))).collect()
    }

    /// Replaces the batch by one dim of microbatches and one of their sequences.
    fn split(&self, x: Tensor<'g>) -> Tensor<'g> {
        let [runs, run] = self.runs();
        if run.size == 1 {
            return x.split("batch", [&self.batch, &self.parts]);
        }
        x.split("batch", [&runs, &self.parts, &run]).merge([&runs, &run], "batch")
    }

    /// The inverse of [`Batch::split`].
    fn merge(&self, x: Tensor<'g>) -> Tensor<'g> {
        let [runs, run] = self.runs();
        if run.size == 1 {
            return x.merge([&self.batch, &self.parts], "batch");
        }
        x.split("batch", [&runs, &run]).merge([&runs, &self.parts, &run], "batch")
    }

    /// The dims of a microbatch's sequences: runs of adjacent sequences, and the sequences of a run.
    fn runs(&self) -> [Dim; 2] {
        let run = self.adjacent;
        [Dim::new("runs", self.batch.size / run), Dim::new("run", run)]
    }

    /// Rounds gradients to the type of activations, in which pending sums are reduced across devices.
    fn sent(&self, gradients: Vec<Tensor<'g>>) -> Vec<Tensor<'g>> {
        gradients.into_iter().map(|x| x.cast(self.sent).cast(DType::F32)).collect()
    }
}

/// Combines the values of microbatches into one value of the step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MetricReduction {
    Sum,
    Mean,
    /// One value for each sequence, in the order of the whole batch.
    Each,
}

/// Returns losses and router metrics by name, with their reductions over microbatches.
fn numbers<'g>(losses: &Losses<'g>) -> Vec<(String, Tensor<'g>, MetricReduction)> {
    let mut all = vec![
        ("loss".to_owned(), losses.cross_entropy, MetricReduction::Sum),
        ("row_loss".to_owned(), losses.rows, MetricReduction::Each),
        ("accuracy".to_owned(), losses.accuracy, MetricReduction::Sum),
        ("tokens".to_owned(), losses.tokens, MetricReduction::Sum),
        ("z_loss".to_owned(), losses.z_loss, MetricReduction::Sum),
    ];
    all.extend(losses.aux_loss.map(|aux| ("aux_loss".to_owned(), aux, MetricReduction::Mean)));
    if let Some(distilled) = &losses.distilled {
        all.push(("soft_loss".to_owned(), distilled.soft, MetricReduction::Sum));
        all.extend(distilled.teacher.map(|loss| ("teacher_loss".to_owned(), loss, MetricReduction::Sum)));
    }
    for (name, m) in named_routers(losses) {
        for (what, value) in
            [("load", m.load), ("dropped", m.dropped), ("entropy", m.entropy), ("aux", m.aux), ("z", m.z)]
        {
            all.push((format!("{name}_{what}"), value, MetricReduction::Mean));
        }
        let means = [(CHOICES, m.choices), (PROBABILITY, m.probability)];
        let means = means.into_iter().filter_map(|(what, mean)| Some((format!("{name}{what}"), mean?)));
        all.extend(means.map(|(name, mean)| (name, mean, MetricReduction::Mean)));
    }
    all
}

/// Returns the metrics of all routers with their names, such as `encoder` or `decoder_attention`.
pub(crate) fn named_routers<'g>(losses: &Losses<'g>) -> Vec<(String, RouterMetrics<'g>)> {
    let mut all = Vec::new();
    for (stack, metrics) in &losses.routers {
        let places: Vec<&str> = metrics.iter().map(|m| m.place).collect();
        all.extend(metrics.iter().enumerate().map(|(i, m)| (router_name(stack, &places, i), *m)));
    }
    all
}

/// Returns the name of router `i` of a stack; `places` has the part of each router's layer. A single router
/// in an iteration needs no suffix; several are distinguished by their place.
pub(crate) fn router_name(stack: &str, places: &[&str], i: usize) -> String {
    let place = places[i];
    match places.iter().filter(|other| **other == place).count() {
        _ if places.len() == 1 => stack.to_owned(),
        1 => format!("{stack}_{place}"),
        _ => format!("{stack}_{place}_{i}"),
    }
}
