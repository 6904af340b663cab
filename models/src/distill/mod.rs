//! Distillation (the paper's section 4.2): a student learns from the targets and from the probabilities of a
//! frozen teacher, in one step.
//!
//! The teacher's parameters are state called `teacher/…` that no function changes. They are not parameters of
//! the program: they have no slots, and evaluation and generation do not need them. Both models read the same
//! tokens; the teacher runs as in evaluation.

mod initial;

use crate::{
    Config, Context, Weights,
    objective::{EncoderDecoder, Feeds, SoftTargets},
    zoo,
};
use mesh::{
    DType, Diagnostic, Site,
    dsl::{Args, Graph, Program},
};

/// The scope of the teacher, and the beginning of the names of its state.
pub const TEACHER: &str = "teacher";

/// Settings of distillation.
#[derive(Clone, PartialEq, Debug)]
pub struct Distillation {
    /// The teacher. Its batch, lengths and schedule are those of the student.
    pub teacher: Config,
    /// The weight of the teacher's probabilities in the loss; the targets have the rest.
    pub soft: f64,
    /// The logits of both models are divided by it before the softmax of the soft loss.
    pub temperature: f64,
    /// The element type in which the teacher's parameters are stored.
    pub stored: DType,
    /// True if the student starts with the teacher's parameters, where both have the same.
    pub init: bool,
}

impl Distillation {
    /// Reads the settings of the command line for the student `config`. `None` means no teacher.
    pub fn with(config: &Config, args: &Args) -> Option<Self> {
        let names: Vec<&str> = ["none"].into_iter().chain(zoo::ALL.iter().map(|p| p.name)).collect();
        let preset = zoo::named(args.choice("teacher", &names, "none"))?;
        let teacher = args.within("teacher.", |args| preset.with(args));
        let stored = args.choice("teacher_stored", &["f32", "bf16"], "f32");
        Some(Self {
            teacher: Self::beside(config, teacher),
            soft: args.get("distill_soft", 0.25),
            temperature: args.get("distill_temperature", 1.0),
            stored: if stored == "bf16" { DType::Bf16 } else { DType::F32 },
            init: args.get("distill_init", true),
        })
    }

    /// Returns the teacher with everything that the student `config` decides for both.
    pub fn beside(config: &Config, teacher: Config) -> Config {
        Config {
            batch: config.batch,
            input_length: config.input_length,
            target_length: config.target_length,
            objective: config.objective,
            packing: config.packing,
            sentinels: config.sentinels,
            vocab_padding: config.vocab_padding,
            schedule: config.schedule,
            lora: None,
            ..teacher
        }
    }

    /// Returns all mistakes of the settings.
    pub fn mistakes(&self, config: &Config) -> Vec<Diagnostic> {
        let mut all: Vec<Diagnostic> = self.teacher.mistakes();
        all.iter_mut().for_each(|mistake| mistake.message = format!("the teacher: {}", mistake.message));
        let mut require = |good: bool, what: String| {
            if !good {
                all.push(Diagnostic::new("", what));
            }
        };
        let (theirs, ours) = (self.teacher.vocab, config.vocab);
        require(
            theirs == ours,
            format!("the teacher has another vocabulary: `teacher.vocab` is {theirs}, `vocab` is {ours}"),
        );
        let soft = self.soft;
        require((0.0..=1.0).contains(&soft), format!("`distill_soft` must be in [0, 1], got {soft}"));
        let t = self.temperature;
        require(t > 0.0 && t.is_finite(), format!("`distill_temperature` must be more than 0, got {t}"));
        all
    }

    /// Declares the teacher's state, and states in the meta entries of `p` what is taken from a checkpoint of
    /// the teacher.
    pub(crate) fn teacher(&self, p: &Program, student: &Weights<'_>, config: &Config) -> Teacher {
        let weights = Weights::new(p).stored_as(self.stored);
        let model = p.scope(TEACHER, || EncoderDecoder::new(&weights, &self.teacher.microbatch()));
        let start = initial::Start::new(config, &self.teacher, &student.all(), &weights.all(), self.init);
        p.meta("from.map", start.rules.join(" "));
        p.meta("from.initial", start.initial.join(" "));
        Teacher { model, soft: self.soft, temperature: self.temperature, config: self.teacher.microbatch() }
    }

    /// Returns the layout that suits both models.
    pub fn layout(&self, config: &Config) -> String {
        if self.teacher.switch.is_some() { self.teacher.layout() } else { config.layout() }
    }
}

/// A teacher.
#[derive(Clone, Debug)]
pub(crate) struct Teacher {
    model: EncoderDecoder,
    config: Config,
    soft: f64,
    temperature: f64,
}

impl Teacher {
    /// Returns what the teacher says about a batch.
    pub fn targets<'g>(&self, g: &'g Graph, feeds: Feeds<'g>) -> SoftTargets<'g> {
        let cx = Context::new(g, &self.config, None);
        let logits = g.scope(TEACHER, || self.model.run(&cx, feeds).logits.stop_gradient());
        SoftTargets { logits, share: self.soft, temperature: self.temperature }
    }
}

/// Notes the mistakes of the settings at `place`. Returns true if there are any.
pub(crate) fn noted(p: &Program, distill: &Distillation, config: &Config, place: &Site) -> bool {
    let mistakes = distill.mistakes(config);
    let any = !mistakes.is_empty();
    mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
    any
}
