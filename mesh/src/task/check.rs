//! Comparison of a program with its task contract.

use super::{ASSERT_FINITE, DecodingMethod, Generation, Objective, Task, TaskKind};
use crate::{DType, Function, Mesh, Module, Name, Type};

/// A use of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// `meshc train`.
    Train,
    /// `meshc eval`, and evaluation during training.
    Evaluate,
    /// `meshc score`.
    Score,
    /// `meshc generate`.
    Generate,
}

impl Purpose {
    /// The verb, for messages.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Score => "score",
            Self::Generate => "generate",
        }
    }

    /// The name of the kind of task that serves this purpose.
    fn kind(self) -> &'static str {
        match self {
            Self::Train | Self::Evaluate => "train",
            Self::Score => "score",
            Self::Generate => "generate",
        }
    }
}

/// Returns everything that `module` lacks for `purpose`, one sentence each; none if it is ready.
pub fn missing(module: &Module, purpose: Purpose) -> Vec<String> {
    let Some(task) = &module.task else {
        return vec!["the program declares no task; declare it with `p.task(Task { … })`".to_owned()];
    };
    if task.kind.name() != purpose.kind() {
        let (own, wanted) = (task.kind.name(), purpose.kind());
        return vec![format!("the task of the program is `{own}`, not `{wanted}`")];
    }
    let mut problems = values(task);
    for signature in signatures(task, purpose, module) {
        match module.function(signature.function) {
            Some(function) => signature.compare(function, &mut problems),
            None if signature.optional => {}
            None => problems.push(format!("the program has no function `{}`", signature.function)),
        }
    }
    problems
}

/// Returns the outputs that no command reads, as pairs of function and output. Training functions have none:
/// every output of theirs is a metric. Every command reads assertions. Functions that the contract does not
/// name are for `meshc run`.
pub fn unused_outputs(module: &Module) -> Vec<(Name, Name)> {
    let Some(task) = &module.task else { return Vec::new() };
    let purpose = match task.kind {
        TaskKind::Train { .. } => return Vec::new(),
        TaskKind::Score => Purpose::Score,
        TaskKind::Generate(_) => Purpose::Generate,
    };
    let read = signatures(task, purpose, module);
    let unused =
        read.iter().filter_map(|s| Some((s, module.function(s.function)?))).flat_map(|(s, function)| {
            let is_read = |name: &Name| {
                name.starts_with(ASSERT_FINITE) || s.outputs.iter().any(|port| port.name == *name)
            };
            let unread = function.outputs.iter().filter(move |name| !is_read(name));
            unread.map(|name| (function.name.clone(), name.clone()))
        });
    unused.collect()
}

/// Returns the problems of the values of a task, one sentence each.
pub fn values(task: &Task) -> Vec<String> {
    let mut problems = Vec::new();
    let mut at_least = |key: &str, value: usize, least: usize| {
        if value < least {
            problems.push(format!("`{key}` of the task must be at least {least}, got {value}"));
        }
    };
    at_least("vocab", task.vocab, 3);
    at_least("batch", task.batch, 1);
    let lm = matches!(task.kind, TaskKind::Train { objective: Objective::Lm, .. });
    at_least("input_length", task.input_length, usize::from(!lm));
    at_least("target_length", task.target_length, 1);
    if let TaskKind::Generate(Generation { beams, steps, .. }) = task.kind {
        at_least("beams", beams, 1);
        at_least("steps", steps, 1);
    }
    let tokens = task.special_tokens;
    let last = tokens.sentinels.map(|s| ("first_sentinel", s.first));
    for (key, token) in [("pad", tokens.pad), ("eos", tokens.eos)].into_iter().chain(last) {
        if token as usize >= task.vocab {
            problems.push(format!(
                "`{key}` of the task must be below the vocabulary size {}, got {token}",
                task.vocab
            ));
        }
    }
    if tokens.pad == tokens.eos {
        problems.push(format!("`pad` and `eos` of the task must differ, both are {}", tokens.pad));
    }
    if let Some(s) = tokens.sentinels.filter(|s| s.count > s.first + 1) {
        problems.push(format!(
            "`sentinels` of the task must be at most {}, as they count down from {}, got {}",
            s.first + 1,
            s.first,
            s.count
        ));
    }
    problems
}

/// The requirements of the contract on one function.
struct Signature {
    function: &'static str,
    /// True if the program may lack the function.
    optional: bool,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// An input or output with a role. Names of dims are free, their sizes are not.
struct Port {
    name: Name,
    dtype: DType,
    sizes: Vec<usize>,
    required: bool,
}

fn port(name: &str, dtype: DType, sizes: &[usize], required: bool) -> Port {
    Port { name: name.into(), dtype, sizes: sizes.to_vec(), required }
}

fn signatures(task: &Task, purpose: Purpose, module: &Module) -> Vec<Signature> {
    let seed = || port(&task.names.seed, DType::U32, &[], false);
    let has_state = module.env.states.iter().next().is_some();
    let init =
        Signature { function: "init", optional: !has_state, inputs: vec![seed()], outputs: Vec::new() };
    let of = |function, inputs, outputs| Signature { function, optional: false, inputs, outputs };
    match (purpose, task.kind) {
        (Purpose::Train, _) => {
            let inputs = batch(task, module.function("train_step")).into_iter().chain([seed()]).collect();
            vec![init, of("train_step", inputs, losses(task))]
        }
        (Purpose::Evaluate, _) => {
            let inputs = batch(task, module.function("eval_step")).into_iter().chain([seed()]).collect();
            vec![init, of("eval_step", inputs, losses(task))]
        }
        (Purpose::Score, _) => {
            let outputs = ["log_likelihood", "tokens", "correct"];
            let outputs = outputs.map(|name| port(name, DType::F32, &[task.batch], true)).into();
            vec![of("score", batch(task, None), outputs)]
        }
        (Purpose::Generate, TaskKind::Generate(generation)) => {
            generating(task, generation, module.function("admit"))
        }
        (Purpose::Generate, TaskKind::Train { .. } | TaskKind::Score) => Vec::new(),
    }
}

/// The inputs of a function that takes a batch. `function` decides whether the segments of inputs are needed.
fn batch(task: &Task, function: Option<&Function>) -> Vec<Port> {
    let Task { batch, input_length, target_length, names, .. } = task;
    let (lm, packing) = match task.kind {
        TaskKind::Train { objective, packing } => (objective == Objective::Lm, packing),
        TaskKind::Score | TaskKind::Generate(_) => (false, false),
    };
    let tokens = |name: &Name, length: usize, required| port(name, DType::S32, &[*batch, length], required);
    let mut ports = vec![tokens(&names.targets, *target_length, true)];
    if packing {
        ports.push(tokens(&names.targets_segments, *target_length, true));
    }
    if *input_length > 0 {
        let has_inputs = function.is_some_and(|f| f.inputs.contains(&names.inputs));
        ports.push(tokens(&names.inputs, *input_length, !lm));
        if packing {
            ports.push(tokens(&names.inputs_segments, *input_length, !lm || has_inputs));
        }
    }
    ports.extend(function.into_iter().flat_map(|f| teacher(f, *batch, *target_length)));
    ports
}

/// The largest logits of a teacher for each target token, for a function that takes them.
fn teacher(function: &Function, batch: usize, length: usize) -> Vec<Port> {
    let given = || function.inputs.iter().zip(function.body.param_types());
    let top = given().find(|(name, _)| **name == *"teacher_logits").and_then(|(_, ty)| ty.dims.get(2));
    let Some(top) = top.map(|dim| dim.dim.size) else { return Vec::new() };
    let sizes = [batch, length, top];
    vec![port("teacher_tokens", DType::S32, &sizes, true), port("teacher_logits", DType::F32, &sizes, true)]
}

fn losses(task: &Task) -> Vec<Port> {
    vec![
        port(&task.names.loss, DType::F32, &[], true),
        port(&task.names.row_loss, DType::F32, &[task.batch], false),
    ]
}

/// The functions of generation. `admit` decides how many inputs start at once.
fn generating(task: &Task, generation: Generation, admit: Option<&Function>) -> Vec<Signature> {
    let scalar = |name, dtype| port(name, dtype, &[], true);
    let max_length = || scalar("max_length", DType::S32);
    let mut decode = vec![scalar("min_length", DType::S32), max_length()];
    let mut results = Vec::new();
    match generation.method {
        DecodingMethod::Greedy => {}
        DecodingMethod::Sample => {
            decode.extend([scalar(&task.names.seed, DType::U32), scalar("first", DType::S32)]);
            decode.push(scalar("temperature", DType::F32));
            if generation.filter {
                decode.extend([scalar("top_k", DType::S32), scalar("top_p", DType::F32)]);
            }
        }
        DecodingMethod::Beam => {
            decode.push(scalar("length_penalty", DType::F32));
            results.extend([max_length(), scalar("length_penalty", DType::F32)]);
        }
    }
    let inputs = vec![port(&task.names.inputs, DType::S32, &[task.batch, task.input_length], true)];
    let length = task.target_length.next_multiple_of(generation.steps.max(1));
    let tokens = port("tokens", DType::S32, &[task.batch, generation.beams, length], true);
    let scores = port("scores", DType::F32, &[task.batch, generation.beams], true);
    let open = port("open", DType::S32, &[], false);
    let rows = |name, required| port(name, DType::S32, &[task.batch], required);
    let given = admit.into_iter().flat_map(|f| f.inputs.iter().zip(f.body.param_types()));
    let admitted = given.filter(|(name, _)| **name == task.names.inputs).find_map(|(_, ty)| ty.dims.first());
    let sizes = [admitted.map_or(1, |dim| dim.dim.size), task.input_length];
    let is_sampling = generation.method == DecodingMethod::Sample;
    let mut more = vec![port(&task.names.inputs, DType::S32, &sizes, true), rows("from", true)];
    more.extend(is_sampling.then(|| rows("numbers", true)));
    let of = |function, optional, inputs, outputs| Signature { function, optional, inputs, outputs };
    vec![
        of("prepare", true, Vec::new(), Vec::new()),
        of("encode", false, inputs, Vec::new()),
        of("admit", true, more, Vec::new()),
        of("decode", false, decode, vec![open, rows("open_rows", false)]),
        of("results", false, results, vec![tokens, scores]),
    ]
}

impl Signature {
    /// Adds what `function` lacks, what has another type, and inputs that the runtime has no value for.
    fn compare(&self, function: &Function, problems: &mut Vec<String>) {
        let given: Vec<(&Name, &Type)> = function.inputs.iter().zip(function.body.param_types()).collect();
        let made: Vec<(&Name, &Type)> = function.outputs.iter().zip(function.body.result_types()).collect();
        for (what, ports, all) in [("input", &self.inputs, &given), ("output", &self.outputs, &made)] {
            ports.iter().for_each(|port| problems.extend(port.compare(self.function, what, all)));
        }
        for (name, _) in given {
            if self.inputs.iter().all(|port| port.name != *name) {
                problems.push(format!(
                    "function `{}` has the input `{name}`, for which the runtime has no value",
                    self.function
                ));
            }
        }
    }
}

impl Port {
    fn compare(&self, function: &str, what: &str, all: &[(&Name, &Type)]) -> Option<String> {
        let Self { name, dtype, sizes, required } = self;
        let list = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let expected = format!("{dtype}[{list}]");
        match all.iter().find(|(n, _)| *n == name) {
            None if !required => None,
            None => Some(format!("function `{function}` lacks {what} `{name}` of type {expected}")),
            Some((_, ty)) => {
                let fits = ty.dtype == *dtype && ty.dims.iter().map(|d| d.dim.size).eq(sizes.iter().copied());
                let no_mesh = Mesh::default();
                (!fits).then(|| {
                    let has = ty.display(&no_mesh);
                    format!("{what} `{name}` of function `{function}` is {has}, expected {expected}")
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// The problems of a program with this task and these functions.
    #[track_caller]
    fn check(task: &str, functions: &str, purpose: Purpose, expected: &[&str]) {
        let text = format!("module m\n{task}\nstate param w: f32[d=4]\n{functions}");
        let module = parse(&text, "m.mesh").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(missing(&module, purpose), expected);
    }

    const LM: &str = "task train objective=lm vocab=9 batch=2 target_length=4";
    const INIT: &str = "func init(%0 seed: u32[]) {\n  return\n}\n";

    fn step(inputs: &str) -> String {
        format!(
            "{INIT}func train_step({inputs}) -> (loss: f32[]) {{\n  %9 = constant {{dtype=f32, value=0}} : f32[]\n  return %9\n}}\n"
        )
    }

    #[test]
    fn logits_of_a_teacher_have_one_more_dim() {
        let logits = |top: &str| {
            let top = format!("batch=2, length=4, top={top}");
            let tokens = format!("%1 teacher_tokens: s32[{top}]");
            step(&format!("%0 targets: s32[batch=2, length=4], {tokens}, %2 teacher_logits: f32[{top}]"))
        };
        check(LM, &logits("3"), Purpose::Train, &[]);
        check(
            LM,
            &step("%0 targets: s32[batch=2, length=4], %1 teacher_logits: f32[batch=2, length=4, top=3]"),
            Purpose::Train,
            &["function `train_step` lacks input `teacher_tokens` of type s32[2, 4, 3]"],
        );
    }

    #[test]
    fn a_language_model_needs_no_inputs_and_no_seed() {
        check(LM, &step("%0 targets: s32[batch=2, length=4]"), Purpose::Train, &[]);
        check(LM, &step("%0 targets: s32[rows=2, l=4], %1 seed: u32[]"), Purpose::Train, &[]);
        check(
            LM,
            &step("%0 targets: s32[batch=2, length=4], %1 rate: f32[]"),
            Purpose::Train,
            &["function `train_step` has the input `rate`, for which the runtime has no value"],
        );
    }

    #[test]
    fn everything_that_is_missing_is_listed() {
        check(
            "",
            INIT,
            Purpose::Train,
            &["the program declares no task; declare it with `p.task(Task { … })`"],
        );
        check(LM, INIT, Purpose::Score, &["the task of the program is `train`, not `score`"]);
        check(LM, INIT, Purpose::Train, &["the program has no function `train_step`"]);
        check(
            "task train objective=prefix_lm vocab=9 batch=2 input_length=3 target_length=4 loss=xent eos=0",
            &step("%0 targets: s32[batch=2, length=5]"),
            Purpose::Train,
            &[
                "`pad` and `eos` of the task must differ, both are 0",
                "input `targets` of function `train_step` is s32[batch=2, length=5], expected s32[2, 4]",
                "function `train_step` lacks input `inputs` of type s32[2, 3]",
                "function `train_step` lacks output `xent` of type f32[]",
            ],
        );
    }
}
