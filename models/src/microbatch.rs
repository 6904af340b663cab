//! A step over its batch in parts (gradient accumulation): activations of one part are in memory at a time, and
//! what is owed to other devices is settled once, after the last.
//!
//! Parts are taken across the batch, not along it: every device has its share of each.

use crate::{
    Config, Weight,
    objective::{Feeds, Losses},
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Rng, Tensor, Tree},
};

/// The inputs of a step.
#[derive(Clone, Debug)]
pub struct Batch<'g> {
    feeds: Feeds<'g>,
    parts: Dim,
    batch: Dim,
    /// Element type of gradients on their way between devices.
    sent: DType,
}

/// What a part of a batch knows of the whole.
#[derive(Clone, Copy, Debug)]
pub struct Part<'g> {
    /// How many targets of the whole batch count.
    pub counted: Tensor<'g>,
    /// How much of the batch it is.
    pub share: f64,
}

impl<'g> Part<'g> {
    /// Random numbers of its own.
    pub fn random(&self, rng: Rng<'g>) -> Rng<'g> {
        if self.share < 1.0 { rng.fold(self.counted.graph().iteration()) } else { rng }
    }
}

/// What is worth knowing of a step, by name.
#[derive(Clone, Debug)]
pub struct StepMetrics<'g> {
    /// What training makes small.
    pub total: Option<Tensor<'g>>,
    numbers: Vec<(String, Tensor<'g>)>,
}

impl<'g> StepMetrics<'g> {
    /// All of it but `without` as outputs.
    pub fn output(&self, g: &Graph, without: &[&str]) {
        for (name, value) in self.numbers.iter().filter(|(name, _)| !without.contains(&name.as_str())) {
            g.output(name.clone(), *value);
        }
    }
}

impl<'g> Batch<'g> {
    /// The inputs of a function for a model `config`.
    pub fn input(g: &'g Graph, config: &Config) -> Self {
        Self {
            feeds: Feeds::input(g, config),
            parts: Dim::new("microbatches", config.schedule.microbatches),
            batch: Dim::new("batch", config.microbatch().batch),
            sent: config.precision.activations(),
        }
    }

    /// Runs `f` for each part. It gives gradients of `weights` that are to be added up, perhaps the loss they are
    /// of, and the losses.
    pub fn each(
        &self,
        g: &'g Graph,
        weights: &[Weight],
        f: impl FnOnce(Feeds<'g>, Part<'g>) -> (Vec<Tensor<'g>>, Option<Tensor<'g>>, Losses<'g>),
    ) -> (Vec<Tensor<'g>>, StepMetrics<'g>) {
        let Self { feeds, parts, batch, sent: _ } = self;
        let part = Part { counted: feeds.counted(), share: 1.0 / parts.size as f64 };
        if parts.size == 1 {
            let (gradients, total, losses) = f(*feeds, part);
            let numbers = numbers(&losses).into_iter().map(|(name, value, _)| (name, value));
            return (self.sent(gradients), StepMetrics { total, numbers: numbers.collect() });
        }
        let zeros: Vec<_> = weights.iter().map(|w| g.full(0.0, DType::F32, w.state.dims())).collect();
        let split = feeds.map(&mut |x| x.split("batch", [batch, parts]));
        let mut known = Vec::new();
        let (sums, (total, values)) = g.scan(parts, zeros, split, |sums, feeds| {
            let (gradients, total, losses) = f(feeds, part);
            let numbers = numbers(&losses);
            let values: Vec<Tensor<'g>> = numbers.iter().map(|n| n.1).collect();
            known = numbers.into_iter().map(|(name, _, over)| (name, over)).collect();
            let sums = sums.into_iter().zip(gradients).map(|(sum, gradient)| sum + gradient);
            (sums.collect::<Vec<_>>(), (total, values))
        });
        let whole = |((name, over), values): ((String, MetricReduction), Tensor<'g>)| {
            let value = match over {
                MetricReduction::Sum => values.sum(parts),
                MetricReduction::Mean => values.sum(parts) * part.share,
                MetricReduction::Each => values.merge([batch, parts], "batch"),
            };
            (name, value)
        };
        let numbers = known.into_iter().zip(values).map(whole).collect();
        (self.sent(sums), StepMetrics { total: total.map(|t| t.sum(parts)), numbers })
    }

    /// Gradients as they go to other devices: what each owes is sent in the type of activations.
    fn sent(&self, gradients: Vec<Tensor<'g>>) -> Vec<Tensor<'g>> {
        gradients.into_iter().map(|x| x.cast(self.sent).cast(DType::F32)).collect()
    }
}

/// How a number of a step follows from those of its parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MetricReduction {
    Sum,
    Mean,
    /// A number for each sequence, in the order of the whole batch.
    Each,
}

/// What a step says about losses and routers.
fn numbers<'g>(losses: &Losses<'g>) -> Vec<(String, Tensor<'g>, MetricReduction)> {
    let mut all = vec![
        ("loss".to_owned(), losses.cross_entropy, MetricReduction::Sum),
        ("row_loss".to_owned(), losses.rows, MetricReduction::Each),
        ("accuracy".to_owned(), losses.accuracy, MetricReduction::Sum),
        ("tokens".to_owned(), losses.tokens, MetricReduction::Sum),
        ("z_loss".to_owned(), losses.z_loss, MetricReduction::Sum),
    ];
    all.extend(losses.aux_loss.map(|aux| ("aux_loss".to_owned(), aux, MetricReduction::Mean)));
    for (stack, metrics) in &losses.routers {
        for (i, m) in metrics.iter().enumerate() {
            // One sparse layer in an iteration needs no more of a name; several are told split by their place.
            let name = match metrics.iter().filter(|other| other.place == m.place).count() {
                _ if metrics.len() == 1 => (*stack).to_owned(),
                1 => format!("{stack}_{}", m.place),
                _ => format!("{stack}_{}_{i}", m.place),
            };
            for (what, value) in
                [("load", m.load), ("dropped", m.dropped), ("entropy", m.entropy), ("aux", m.aux), ("z", m.z)]
            {
                all.push((format!("{name}_{what}"), value, MetricReduction::Mean));
            }
        }
    }
    all
}
