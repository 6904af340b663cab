//! Distillation from a teacher that ran before: its largest logits are data, and the program of the teacher
//! that computes them.

use crate::{
    Config, Context,
    evaluation::of_evaluation,
    objective::{Feeds, SoftTargets, TeacherLogits, normalizer_and_wanted},
    tokens::PAD,
};
use mesh::{
    DType, Diagnostic, Site,
    dsl::{Args, Program},
};

/// Settings of distillation from logits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Offline {
    /// The number of logits for each target token, the largest ones of the teacher.
    pub top: usize,
    /// The weight of the teacher's probabilities in the loss; the targets have the rest.
    pub soft: f64,
    /// The logits of both models are divided by it before the softmax of the soft loss.
    pub temperature: f64,
}

impl Offline {
    /// Reads the settings of the command line. `None` means that there are no logits.
    pub fn with(args: &Args) -> Option<Self> {
        let top = args.get("distill_logits", 0);
        (top > 0).then(|| Self {
            top,
            soft: args.get("distill_soft", 0.25),
            temperature: args.get("distill_temperature", 1.0),
        })
    }

    pub(super) fn mistakes(&self, config: &Config) -> Vec<Diagnostic> {
        let mut all = super::losses(self.soft, self.temperature);
        let mut mistake = |what: String| all.push(Diagnostic::new("", what));
        if self.top > config.vocab {
            mistake(format!("`distill_logits` must be at most `vocab`, {}, got {}", config.vocab, self.top));
        }
        if config.packing {
            mistake("`distill_logits` needs rows of one example: `packing` must be false".to_owned());
        }
        all
    }

    /// Returns the soft targets of a step whose inputs have a teacher's logits.
    pub(crate) fn targets<'g>(&self, feeds: Feeds<'g>) -> Option<SoftTargets<'g>> {
        let logits = TeacherLogits::Top(feeds.teacher?);
        Some(SoftTargets { logits, share: self.soft, temperature: self.temperature })
    }
}

/// Builds the program of a teacher, `--set task=logits`: `eval_step` with `loss` and the additional output
/// `logits`, `f32[batch, target_length, vocab]`. A batch is one microbatch.
pub fn logits(config: &Config, place: &Site) -> Program {
    of_evaluation(Config { packing: false, ..config.clone() }, place, |g, model, config| {
        let feeds = Feeds::input(g, config);
        let cx = Context::new(g, config, None);
        let logits = model.logits(&cx, feeds);
        let counts = feeds.targets.ne(PAD).cast(DType::F32);
        let [normalizer, wanted] = normalizer_and_wanted(logits, feeds.targets, &config.vocab_dim());
        let each = (normalizer - wanted) * counts;
        g.output("loss", each.sum_all() / counts.sum_all().maximum(1.0));
        g.output("logits", logits);
    })
}
