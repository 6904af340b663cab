//! Checks of a manifest, before a runtime uses it.
//!
//! Decoding proves only that bytes are a message. These checks prove that the message is a valid manifest:
//! known version and types, names that resolve, sizes that divide, inputs and outputs of the types of their
//! state. After them a runtime can look up names and indices without further checks.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::manifest::{
    DecodingMethod, File, Function, InputKind, Manifest, Objective, OutputKind, StateEntry, StateKind, Task,
    TaskKind, Tensor,
};

/// The version of the format that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The largest number of devices of a mesh.
pub const MAX_DEVICES: u64 = 1 << 20;

/// Element types a manifest may name.
pub const DTYPES: [&str; 5] = ["f32", "bf16", "s32", "u32", "pred"];

/// The functions whose inputs are batches of the task.
const TAKE_BATCHES: [&str; 4] = ["train_step", "eval_step", "score", "encode"];

/// A mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place: a path such as `functions[0].inputs[2].tensor`.
    pub place: String,
    /// The mistake.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Returns all problems of a manifest. The empty list means that it is valid.
pub fn check(manifest: &Manifest) -> Vec<Problem> {
    if manifest.format_version != FORMAT_VERSION {
        // Fields may have other meanings in another version, so further messages could be wrong.
        let what =
            format!("{} is not a version this program reads ({FORMAT_VERSION})", manifest.format_version);
        return vec![Problem { place: "format_version".into(), what }];
    }
    let mut checker = Checker::default();
    checker.mesh(manifest);
    checker.state(manifest);
    checker.task(manifest);
    if manifest.functions.is_empty() {
        checker.problem("functions", "there is none");
    }
    let mut names = HashSet::new();
    for (i, function) in manifest.functions.iter().enumerate() {
        let place = format!("functions[{i}]");
        checker.named(&format!("{place}.name"), &function.name, &mut names);
        checker.function(&place, function);
        checker.batches(&place, manifest.task.as_ref(), function);
    }
    checker.problems
}

#[derive(Default)]
struct Checker<'a> {
    problems: Vec<Problem>,
    axes: HashMap<&'a str, u64>,
    state: HashMap<&'a str, &'a StateEntry>,
}

impl<'a> Checker<'a> {
    fn problem(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), what: what.into() });
    }

    /// Checks that a name is neither empty nor taken.
    fn named(&mut self, place: &str, name: &'a str, taken: &mut HashSet<&'a str>) {
        if name.is_empty() {
            self.problem(place, "empty");
        } else if !taken.insert(name) {
            self.problem(place, format!("`{name}` is taken already"));
        }
    }

    fn mesh(&mut self, manifest: &'a Manifest) {
        let Some(mesh) = &manifest.mesh else { return self.problem("mesh", "missing") };
        let mut names = HashSet::new();
        for (i, axis) in mesh.axes.iter().enumerate() {
            let place = format!("mesh.axes[{i}]");
            self.named(&format!("{place}.name"), &axis.name, &mut names);
            if axis.size == 0 {
                self.problem(&place, "an axis of size 0");
            }
            self.axes.insert(&axis.name, axis.size);
        }
        if devices(manifest).is_none() {
            self.problem("mesh", "more than 1048576 devices");
        }
    }

    fn state(&mut self, manifest: &'a Manifest) {
        let mut names = HashSet::new();
        for (i, entry) in manifest.state.iter().enumerate() {
            let place = format!("state[{i}]");
            self.named(&format!("{place}.name"), &entry.name, &mut names);
            if entry.kind() == StateKind::Unspecified {
                self.problem(&place, format!("kind {} is unknown", entry.kind));
            }
            self.tensor(&place, entry.tensor.as_ref());
            self.state.insert(&entry.name, entry);
        }
        for (i, entry) in manifest.state.iter().enumerate() {
            let owner = self.state.get(entry.slot_of.as_str());
            if !entry.slot_of.is_empty() && owner.is_none_or(|owner| owner.kind() != StateKind::Param) {
                self.problem(format!("state[{i}].slot_of"), format!("no parameter `{}`", entry.slot_of));
            }
        }
    }

    fn task(&mut self, manifest: &Manifest) {
        let Some(task) = &manifest.task else { return };
        let complete = match task.kind() {
            TaskKind::Unspecified => false,
            TaskKind::Train => {
                task.training.is_some_and(|training| training.objective() != Objective::Unspecified)
            }
            TaskKind::Score => true,
            TaskKind::Generate => task.generation.is_some_and(|generation| {
                generation.method() != DecodingMethod::Unspecified
                    && generation.beams > 0
                    && generation.steps > 0
            }),
        };
        if !complete {
            self.problem("task", format!("kind {} is unknown, or its message is incomplete", task.kind));
        }
        if i32::try_from(task.vocab).is_err() || task.batch == 0 || task.target_length == 0 {
            self.problem("task", "the vocabulary, the batch or the target length is out of range");
        }
        let tokens = task.special_tokens.unwrap_or_default();
        let largest = tokens.pad.max(tokens.eos).max(tokens.sentinels.map_or(0, |s| s.first));
        if tokens.pad == tokens.eos || u64::from(largest) >= task.vocab {
            self.problem("task.special_tokens", "two are equal, or one is not in the vocabulary");
        }
        if tokens.sentinels.is_some_and(|s| s.count > s.first + 1) {
            self.problem("task.special_tokens.sentinels", "more than count down from the first");
        }
    }

    fn function(&mut self, place: &str, function: &'a Function) {
        self.file(&format!("{place}.module"), function.module.as_ref());
        self.file(&format!("{place}.compile_options"), function.compile_options.as_ref());
        let mut names = HashSet::new();
        let mut states = HashSet::new();
        let mut taken = HashSet::new();
        for (i, input) in function.inputs.iter().enumerate() {
            let place = format!("{place}.inputs[{i}]");
            self.named(&format!("{place}.name"), &input.name, &mut names);
            self.tensor(&place, input.tensor.as_ref());
            match input.kind() {
                InputKind::Unspecified => self.problem(&place, format!("kind {} is unknown", input.kind)),
                InputKind::State => self.reference(&place, &input.state, input.tensor.as_ref(), &mut states),
                InputKind::Data | InputKind::Seed => self.no_reference(&place, &input.state),
            }
            if let Some(output) = input.donated_to {
                let target = function.outputs.get(output as usize);
                if target.is_none_or(|target| target.tensor != input.tensor) {
                    self.problem(&place, format!("donated to output {output}, which is not of its type"));
                }
                if !taken.insert(output) {
                    self.problem(&place, format!("output {output} has a donated buffer already"));
                }
            }
        }
        names.clear();
        states.clear();
        for (i, output) in function.outputs.iter().enumerate() {
            let place = format!("{place}.outputs[{i}]");
            self.named(&format!("{place}.name"), &output.name, &mut names);
            self.tensor(&place, output.tensor.as_ref());
            match output.kind() {
                OutputKind::Unspecified => self.problem(&place, format!("kind {} is unknown", output.kind)),
                OutputKind::State => {
                    self.reference(&place, &output.state, output.tensor.as_ref(), &mut states);
                }
                OutputKind::Metric | OutputKind::Value => self.no_reference(&place, &output.state),
            }
        }
    }

    /// Checks that the inputs that take batches have the sizes of the task.
    fn batches(&mut self, place: &str, task: Option<&Task>, function: &Function) {
        let Some(task) = task.filter(|_| TAKE_BATCHES.contains(&function.name.as_str())) else { return };
        let names = task.names.clone().unwrap_or_default();
        let (input, target) = (task.input_length, task.target_length);
        let roles = [
            (&names.inputs, input),
            (&names.inputs_segments, input),
            (&names.targets, target),
            (&names.targets_segments, target),
        ];
        for (i, given) in function.inputs.iter().enumerate() {
            let role = roles.iter().find(|(name, _)| !name.is_empty() && **name == given.name);
            let (Some((_, length)), Some(tensor)) = (role, &given.tensor) else { continue };
            let sizes: Vec<u64> = tensor.dims.iter().map(|dim| dim.size).collect();
            if sizes != [task.batch, *length] {
                let what =
                    format!("its sizes are {sizes:?}, but the task has {} rows of {length}", task.batch);
                self.problem(format!("{place}.inputs[{i}].tensor"), what);
            }
        }
    }

    /// Checks that a state entry exists, has the same type, and occurs once in this list.
    fn reference(
        &mut self,
        place: &str,
        name: &'a str,
        tensor: Option<&Tensor>,
        seen: &mut HashSet<&'a str>,
    ) {
        match self.state.get(name) {
            None => self.problem(place, format!("no state entry `{name}`")),
            Some(entry) if entry.tensor.as_ref() != tensor => {
                self.problem(place, format!("its type is not that of state entry `{name}`"));
            }
            Some(_) if !seen.insert(name) => {
                self.problem(place, format!("state entry `{name}` occurs twice"));
            }
            Some(_) => {}
        }
    }

    fn no_reference(&mut self, place: &str, state: &str) {
        if !state.is_empty() {
            self.problem(place, format!("names state entry `{state}`, but its kind is not state"));
        }
    }

    /// Checks that the element type is known, axes exist and occur once, and sizes agree.
    fn tensor(&mut self, place: &str, tensor: Option<&'a Tensor>) {
        let place = format!("{place}.tensor");
        let Some(tensor) = tensor else { return self.problem(place, "missing") };
        if !DTYPES.contains(&tensor.dtype.as_str()) {
            self.problem(format!("{place}.dtype"), format!("`{}` is unknown", tensor.dtype));
        }
        let mut used = HashSet::new();
        let mut names = HashSet::new();
        let mut bytes = Some(4u64);
        for (i, dim) in tensor.dims.iter().enumerate() {
            let place = format!("{place}.dims[{i}]");
            self.named(&format!("{place}.name"), &dim.name, &mut names);
            let mut shards = Some(1u64);
            for axis in &dim.axes {
                match self.axes.get(axis.as_str()) {
                    None => self.problem(&place, format!("the mesh has no axis `{axis}`")),
                    Some(&size) => shards = shards.and_then(|n| n.checked_mul(size)),
                }
                if !used.insert(axis.as_str()) {
                    self.problem(&place, format!("axis `{axis}` splits the tensor twice"));
                }
            }
            if shards.and_then(|n| n.checked_mul(dim.local_size)) != Some(dim.size) {
                let what = format!("size {} is not local size {} times the axes", dim.size, dim.local_size);
                self.problem(&place, what);
            }
            bytes = bytes.and_then(|n| n.checked_mul(dim.size)).filter(|&n| i64::try_from(n).is_ok());
        }
        if bytes.is_none() {
            self.problem(place, "more bytes than a machine addresses");
        }
    }

    /// Checks that a file has a plain name and a digest.
    fn file(&mut self, place: &str, file: Option<&File>) {
        let Some(file) = file else { return self.problem(place, "missing") };
        let name = &file.name;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
            self.problem(format!("{place}.name"), format!("{name:?} is not a plain file name"));
        }
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if file.sha256.len() != 64 || !file.sha256.bytes().all(hex) {
            self.problem(format!("{place}.sha256"), "not 64 lower-case hexadecimal digits");
        }
    }
}

/// Returns the number of devices of the mesh; `None` if there is no mesh or the number is too large.
pub fn devices(manifest: &Manifest) -> Option<u64> {
    let mesh = manifest.mesh.as_ref()?;
    let devices = mesh.axes.iter().try_fold(1u64, |product, axis| product.checked_mul(axis.size))?;
    (devices <= MAX_DEVICES).then_some(devices)
}

/// Returns the shape of one device's shard of a tensor, in storage order.
pub fn local_shape(tensor: &Tensor) -> Vec<u64> {
    tensor.dims.iter().map(|dim| dim.local_size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::manifest;

    #[test]
    fn a_good_manifest_has_no_problems() {
        assert_eq!(check(&manifest()), []);
    }

    /// Checks the problems of the sample after `break_it` damaged it.
    #[track_caller]
    fn broken(break_it: impl FnOnce(&mut Manifest), expected: &[&str]) {
        let mut manifest = manifest();
        break_it(&mut manifest);
        let found: Vec<String> = check(&manifest).iter().map(Problem::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn heads_and_meshes() {
        broken(|m| m.format_version = 2, &["format_version: 2 is not a version this program reads (1)"]);
        broken(|m| m.functions.clear(), &["functions: there is none"]);
        broken(
            |m| m.mesh = None,
            &[
                "mesh: missing",
                "state[0].tensor.dims[1]: the mesh has no axis `model`",
                "state[0].tensor.dims[1]: size 8 is not local size 4 times the axes",
                "state[1].tensor.dims[1]: the mesh has no axis `model`",
                "state[1].tensor.dims[1]: size 8 is not local size 4 times the axes",
                "functions[0].inputs[0].tensor.dims[1]: the mesh has no axis `model`",
                "functions[0].inputs[0].tensor.dims[1]: size 8 is not local size 4 times the axes",
                "functions[0].inputs[1].tensor.dims[0]: the mesh has no axis `data`",
                "functions[0].inputs[1].tensor.dims[0]: size 6 is not local size 3 times the axes",
                "functions[0].outputs[0].tensor.dims[1]: the mesh has no axis `model`",
                "functions[0].outputs[0].tensor.dims[1]: size 8 is not local size 4 times the axes",
            ],
        );
        broken(
            |m| m.mesh.as_mut().unwrap().axes[0].size = 0,
            &[
                "mesh.axes[0]: an axis of size 0",
                "functions[0].inputs[1].tensor.dims[0]: size 6 is not local size 3 times the axes",
            ],
        );
        let huge = |m: &mut Manifest| {
            let mesh = m.mesh.as_mut().unwrap();
            mesh.axes.push(crate::manifest::Axis { name: "huge".into(), size: u64::MAX });
        };
        broken(huge, &["mesh: more than 1048576 devices"]);
    }

    #[test]
    fn batches() {
        let of = |what: &str| {
            format!("functions[0].inputs[1].tensor: its sizes are [6, 5], but the task has {what}")
        };
        broken(|m| m.task.as_mut().unwrap().batch = 7, &[&of("7 rows of 5")]);
        broken(|m| m.task.as_mut().unwrap().target_length = 4, &[&of("6 rows of 4")]);
        broken(|m| m.task.as_mut().unwrap().names = None, &[]);
    }

    #[test]
    fn state() {
        broken(|m| m.state[1].slot_of = "w2".into(), &["state[1].slot_of: no parameter `w2`"]);
        broken(|m| m.state[2].kind = 9, &["state[2]: kind 9 is unknown"]);
        broken(
            |m| m.state[2].tensor.as_mut().unwrap().dtype = "s33".into(),
            &["state[2].tensor.dtype: `s33` is unknown"],
        );
        broken(
            |m| m.state[2].name = "w".into(),
            &[
                "state[2].name: `w` is taken already",
                "state[1].slot_of: no parameter `w`",
                "functions[0].inputs[0]: its type is not that of state entry `w`",
                "functions[0].outputs[0]: its type is not that of state entry `w`",
            ],
        );
    }

    #[test]
    fn functions() {
        let input = |m: &mut Manifest, i: usize, change: fn(&mut crate::manifest::Input)| {
            change(&mut m.functions[0].inputs[i]);
        };
        broken(|m| input(m, 0, |i| i.state = "v".into()), &["functions[0].inputs[0]: no state entry `v`"]);
        broken(
            |m| input(m, 0, |i| i.donated_to = Some(1)),
            &["functions[0].inputs[0]: donated to output 1, which is not of its type"],
        );
        broken(
            |m| input(m, 0, |i| i.donated_to = Some(7)),
            &["functions[0].inputs[0]: donated to output 7, which is not of its type"],
        );
        broken(
            |m| input(m, 1, |i| i.state = "w".into()),
            &["functions[0].inputs[1]: names state entry `w`, but its kind is not state"],
        );
        broken(
            |m| input(m, 1, |i| i.tensor.as_mut().unwrap().dims[1].axes.push("data".into())),
            &[
                "functions[0].inputs[1].tensor.dims[1]: axis `data` splits the tensor twice",
                "functions[0].inputs[1].tensor.dims[1]: size 5 is not local size 5 times the axes",
            ],
        );
        broken(
            |m| m.functions[0].module.as_mut().unwrap().name = "../x".into(),
            &["functions[0].module.name: \"../x\" is not a plain file name"],
        );
        broken(
            |m| m.functions[0].module.as_mut().unwrap().sha256.pop().map_or((), drop),
            &["functions[0].module.sha256: not 64 lower-case hexadecimal digits"],
        );
    }
}
