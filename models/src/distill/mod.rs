//! Distillation (the paper's section 4.2): a student learns from the targets and from the probabilities of a
//! frozen teacher, in one step.
//!
//! The teacher's parameters are state called `teacher/…` that no function changes. They are not parameters of
//! the program: they have no slots, and evaluation and generation do not need them. Both models read the same
//! tokens; the teacher runs as in evaluation.

mod initial;
mod offline;

pub use offline::{Offline, logits};

use crate::{
    Config, Context, Weights,
    mistakes::Mistakes,
    objective::{EncoderDecoder, Feeds, SoftTargets, TeacherLogits},
    zoo,
};
use mesh::{
    DType, Diagnostic, Site,
    dsl::{Args, Graph, Program},
};

/// The scope of the teacher, and the beginning of the names of its state.
pub const TEACHER: &str = "teacher";

/// Returns true if a setting is one of distillation, which only training has.
pub fn is_setting(key: &str) -> bool {
    let own = [
        "teacher",
        "teacher_stored",
        "distill_logits",
        "distill_soft",
        "distill_temperature",
        "distill_init",
    ];
    own.contains(&key) || key.starts_with("teacher.")
}

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
        let (theirs, ours) = (self.teacher.vocab, config.vocab);
        if theirs != ours {
            all.push(Diagnostic::new(
                "",
                format!("the teacher has another vocabulary: `teacher.vocab` is {theirs}, `vocab` is {ours}"),
            ));
        }
        all.extend(losses(self.soft, self.temperature));
        all
    }

    /// Declares the teacher's state, and states in the meta entries of `p` what is taken from a checkpoint of
    /// the teacher.
    fn teacher(&self, p: &Program, student: &Weights<'_>, config: &Config) -> Teacher {
        let weights = Weights::new(p).stored_as(self.stored);
        let model = p.scope(TEACHER, || EncoderDecoder::new(&weights, &self.teacher.microbatch()));
        let start = initial::Start::new(config, &self.teacher, &student.all(), &weights.all(), self.init);
        p.meta("from.map", start.rules.join(" "));
        p.meta("from.initial", start.initial.join(" "));
        let config = self.teacher.microbatch();
        Teacher::Model(Box::new(Model { model, soft: self.soft, temperature: self.temperature, config }))
    }

    /// Returns the layout that suits both models.
    pub fn layout(&self, config: &Config) -> String {
        if self.teacher.switch.is_some() { self.teacher.layout() } else { config.layout() }
    }
}

/// A teacher of a program.
#[derive(Clone, Debug)]
pub(crate) enum Teacher {
    /// A model that runs in the same step.
    Model(Box<Model>),
    /// Logits in the inputs.
    Logits(Offline),
}

/// A model that teaches.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    model: EncoderDecoder,
    config: Config,
    soft: f64,
    temperature: f64,
}

impl Teacher {
    /// Returns the number of logits of each target token that are inputs.
    pub fn top(&self) -> Option<usize> {
        match self {
            Self::Model(_) => None,
            Self::Logits(offline) => Some(offline.top),
        }
    }

    /// Returns what the teacher says about a batch. `None` if its logits are not among the inputs.
    pub fn targets<'g>(&self, g: &'g Graph, feeds: Feeds<'g>) -> Option<SoftTargets<'g>> {
        match self {
            Self::Model(teacher) => {
                let cx = Context::new(g, &teacher.config, None);
                let logits = g.scope(TEACHER, || teacher.model.run(&cx, feeds).logits.stop_gradient());
                let logits = TeacherLogits::All(logits);
                Some(SoftTargets { logits, share: teacher.soft, temperature: teacher.temperature })
            }
            Self::Logits(offline) => offline.targets(feeds),
        }
    }
}

/// Returns the mistakes of the settings of the losses.
fn losses(soft: f64, temperature: f64) -> Vec<Diagnostic> {
    let soft =
        (!(0.0..=1.0).contains(&soft)).then(|| format!("`distill_soft` must be in [0, 1], got {soft}"));
    let good = temperature > 0.0 && temperature.is_finite();
    let temperature =
        (!good).then(|| format!("`distill_temperature` must be more than 0, got {temperature}"));
    soft.into_iter().chain(temperature).map(|what| Diagnostic::new("", what)).collect()
}

/// The source of soft targets.
#[derive(Clone, PartialEq, Debug)]
pub enum Teaching {
    /// A teacher in the same step.
    Model(Box<Distillation>),
    /// Logits of a teacher that ran before.
    Logits(Offline),
}

impl Teaching {
    /// Reads the settings of the command line for the student `config`. `None` means no teacher.
    pub fn with(config: &Config, args: &Args) -> Option<Self> {
        let model = Distillation::with(config, args).map(Box::new).map(Self::Model);
        model.or_else(|| Offline::with(args).map(Self::Logits))
    }

    /// Declares the teacher's state, if it is a model.
    pub(crate) fn teacher(&self, p: &Program, student: &Weights<'_>, config: &Config) -> Teacher {
        match self {
            Self::Model(distill) => distill.teacher(p, student, config),
            Self::Logits(offline) => Teacher::Logits(*offline),
        }
    }

    fn mistakes(&self, config: &Config) -> Vec<Diagnostic> {
        let mut wrong = Mistakes::default();
        no_decoder_only(config, &mut wrong);
        let (teacher, own) = match self {
            Self::Model(distill) => (Some(&distill.teacher), distill.mistakes(config)),
            Self::Logits(offline) => (None, offline.mistakes(config)),
        };
        if let Some(teacher) = teacher.filter(|_| wrong.count() == 0) {
            no_decoder_only(teacher, &mut wrong);
        }
        wrong.found().into_iter().chain(own).collect()
    }

    /// Returns the layout that suits the student and the teacher.
    pub fn layout(&self, config: &Config) -> String {
        match self {
            Self::Model(distill) => distill.layout(config),
            Self::Logits(_) => config.layout(),
        }
    }
}

/// Notes a mistake if the model is decoder-only.
fn no_decoder_only(config: &Config, wrong: &mut Mistakes) {
    wrong.unless(
        !config.is_decoder_only(),
        || "distillation does not support decoder-only models (`encoder_layers` = 0)".into(),
        "train without a teacher, or use a model with an encoder",
    );
}

/// Notes the mistakes of the settings at `place`. Returns true if there are any.
pub(crate) fn noted(p: &Program, teaching: &Teaching, config: &Config, place: &Site) -> bool {
    let mistakes = teaching.mistakes(config);
    let any = !mistakes.is_empty();
    mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
    any
}
