//! Structural checks of emitted HLO modules, before a plugin receives them.
//!
//! Plugins answer most malformed modules with an error, but some with an abort or a hang. These checks name
//! the mistake first. They cover the structure of a module: ids, order, references, replica groups, aliasing.
//! XLA itself checks the shapes of operations.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::xla::op_sharding::Type;
use crate::xla::{HloComputationProto, HloInstructionProto, HloModuleProto, PrimitiveType};

/// The largest id. Plugins store ids in 32 bits.
const ID_LIMIT: i64 = 1 << 31;

/// A mistake in a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place: `computation/instruction`, `computation`, or the module's name.
    pub place: String,
    /// The mistake.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Returns all problems of a module for `partitions` partitions. The empty list means that it is well-formed.
pub fn check(module: &HloModuleProto, partitions: usize) -> Vec<Problem> {
    let mut checker = Checker { module, partitions, problems: Vec::new() };
    checker.computations();
    checker.entry();
    checker.instructions();
    checker.problems
}

struct Checker<'a> {
    module: &'a HloModuleProto,
    partitions: usize,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn problem(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), what: what.into() });
    }

    /// Checks that computations have unique ids and names, and a root.
    fn computations(&mut self) {
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for computation in &self.module.computations {
            let place = &computation.name;
            if !(0..ID_LIMIT).contains(&computation.id) {
                self.problem(place, format!("computation id {} does not fit in 31 bits", computation.id));
            }
            if !ids.insert(computation.id) {
                self.problem(place, format!("computation id {} is taken already", computation.id));
            }
            if !names.insert(&computation.name) {
                self.problem(place, "the computation's name is taken already");
            }
            if !computation.instructions.iter().any(|i| i.id == computation.root_id) {
                self.problem(
                    place,
                    format!("root id {} is not one of its instructions", computation.root_id),
                );
            }
            self.parameters(computation);
        }
    }

    /// Checks that parameters are numbered from 0 without gaps, and that the signature has the same number.
    fn parameters(&mut self, computation: &HloComputationProto) {
        let parameters = computation.instructions.iter().filter(|i| i.opcode == "parameter");
        let mut numbers: Vec<i64> = parameters.map(|i| i.parameter_number).collect();
        numbers.sort_unstable();
        if numbers.iter().enumerate().any(|(i, &number)| number != i as i64) {
            let what = format!("parameters are numbered {numbers:?}, not from 0 without gaps");
            self.problem(&computation.name, what);
        }
        let declared = computation.program_shape.as_ref().map(|shape| shape.parameters.len());
        if declared.is_some_and(|declared| declared != numbers.len()) {
            let what =
                format!("{} parameters, but the signature has {}", numbers.len(), declared.unwrap_or(0));
            self.problem(&computation.name, what);
        }
    }

    /// Checks that the entry exists, matches the module's signature, and aliases its own parameters and
    /// results.
    fn entry(&mut self) {
        let module = self.module;
        let entry = module.computations.iter().find(|c| c.id == module.entry_computation_id);
        let Some(entry) = entry else {
            let what = format!("entry computation id {} does not exist", module.entry_computation_id);
            return self.problem(&module.name, what);
        };
        if entry.name != module.entry_computation_name {
            let what = format!("entry is called `{}` in the module's head", module.entry_computation_name);
            self.problem(&entry.name, what);
        }
        let Some(signature) = &module.host_program_shape else {
            return self.problem(&module.name, "no host_program_shape");
        };
        let parameters = entry.instructions.iter().filter(|i| i.opcode == "parameter").count();
        if signature.parameters.len() != parameters {
            let what =
                format!("{parameters} parameters, host_program_shape has {}", signature.parameters.len());
            self.problem(&entry.name, what);
        }
        let outputs = match &signature.result {
            Some(result) if result.element_type() == PrimitiveType::Tuple => result.tuple_shapes.len(),
            _ => 0,
        };
        self.aliases(parameters, outputs);
    }

    /// Checks that aliases name a parameter and an element of the result tuple, each at most once.
    fn aliases(&mut self, parameters: usize, outputs: usize) {
        let module = self.module;
        let (mut from, mut to) = (HashSet::new(), HashSet::new());
        for entry in module.input_output_alias.iter().flat_map(|alias| &alias.entries) {
            let number = entry.parameter_number;
            if usize::try_from(number).map_or(true, |number| number >= parameters) {
                self.problem(&module.name, format!("alias of parameter {number}, of {parameters}"));
            }
            if !from.insert((number, &entry.parameter_shape_index)) {
                self.problem(&module.name, format!("parameter {number} is aliased twice"));
            }
            let output = &entry.output_shape_index;
            if output.first().is_some_and(|&o| usize::try_from(o).map_or(true, |o| o >= outputs)) {
                self.problem(&module.name, format!("alias with output {output:?}, of {outputs}"));
            }
            if !to.insert(output) {
                self.problem(&module.name, format!("output {output:?} is aliased twice"));
            }
        }
    }

    /// Checks all instructions in order.
    fn instructions(&mut self) {
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        let mut callable = HashSet::new();
        for computation in &self.module.computations {
            let mut defined: HashMap<i64, &'a HloInstructionProto> = HashMap::new();
            for instruction in &computation.instructions {
                let place = format!("{}/{}", computation.name, instruction.name);
                if !(0..ID_LIMIT).contains(&instruction.id) {
                    self.problem(&place, format!("id {} does not fit in 31 bits", instruction.id));
                }
                if !ids.insert(instruction.id) {
                    self.problem(&place, format!("id {} is taken already", instruction.id));
                }
                if !names.insert(&instruction.name) {
                    self.problem(&place, "the name is taken already");
                }
                self.references(&place, instruction, &defined, &callable);
                self.values(&place, instruction);
                self.collective(&place, instruction);
                defined.insert(instruction.id, instruction);
            }
            callable.insert(computation.id);
        }
    }

    /// Checks that operands are defined earlier in the same computation, and callees earlier in the module.
    fn references(
        &mut self,
        place: &str,
        instruction: &HloInstructionProto,
        defined: &HashMap<i64, &HloInstructionProto>,
        callable: &HashSet<i64>,
    ) {
        let ids = instruction.operand_ids.iter().chain(&instruction.control_predecessor_ids);
        for id in ids.filter(|id| !defined.contains_key(id)) {
            self.problem(place, format!("operand {id} is not defined before it in the same computation"));
        }
        for id in instruction.called_computation_ids.iter().filter(|id| !callable.contains(id)) {
            self.problem(place, format!("called computation {id} is not defined before the caller"));
        }
        if instruction.opcode == "get-tuple-element" {
            let tuple = instruction.operand_ids.first().and_then(|id| defined.get(id));
            let len = tuple.and_then(|t| t.shape.as_ref()).map(|shape| shape.tuple_shapes.len());
            let index = usize::try_from(instruction.tuple_index).unwrap_or(usize::MAX);
            if len.is_some_and(|len| index >= len) {
                let what = format!("element {} of a tuple of {}", instruction.tuple_index, len.unwrap_or(0));
                self.problem(place, what);
            }
        }
    }

    /// Checks that shape, sharding and literal are present where required.
    fn values(&mut self, place: &str, instruction: &HloInstructionProto) {
        match &instruction.shape {
            None => self.problem(place, "no shape"),
            Some(shape) if shape.element_type() == PrimitiveType::Invalid => {
                self.problem(place, "a shape without an element type");
            }
            Some(shape) if shape.dimensions.iter().any(|&size| size < 0) => {
                self.problem(place, format!("negative size in {:?}", shape.dimensions));
            }
            Some(_) => {}
        }
        if (instruction.opcode == "constant") != instruction.literal.is_some() {
            self.problem(place, "constants must have a literal, and other instructions must not");
        }
        let manual = instruction.sharding.as_ref().is_some_and(|sharding| {
            let leaves = &sharding.tuple_shardings;
            sharding.r#type() == Type::Manual
                || sharding.r#type() == Type::Tuple && leaves.iter().all(|leaf| leaf.r#type() == Type::Manual)
        });
        if self.partitions > 1 && !manual {
            self.problem(place, "no sharding={manual}, but there are several partitions");
        }
    }

    /// Checks that replica groups divide the partitions evenly, in the form that all plugins read.
    fn collective(&mut self, place: &str, instruction: &HloInstructionProto) {
        if instruction.iota_collective_device_list.is_some()
            || instruction.mesh_axes_replica_group_list.is_some()
            || instruction
                .collective_device_list
                .as_ref()
                .is_some_and(|l| l.iota_replica_group_list.is_some())
        {
            self.problem(
                place,
                "replica groups in closed form, which not all plugins read: list them instead",
            );
        }
        let grouped = ["all-reduce", "all-gather", "reduce-scatter", "all-to-all"];
        if !grouped.contains(&instruction.opcode.as_str()) {
            return;
        }
        let old = &instruction.replica_groups;
        let groups = instruction.collective_device_list.as_ref().map_or(old, |list| &list.replica_groups);
        let mut members: Vec<i64> = groups.iter().flat_map(|g| g.replica_ids.iter().copied()).collect();
        members.sort_unstable();
        if members.iter().copied().ne(0..self.partitions as i64) {
            let what = format!("replica groups do not divide the {} partitions", self.partitions);
            self.problem(place, what);
        }
        let size = groups.first().map_or(0, |group| group.replica_ids.len());
        if groups.iter().any(|group| group.replica_ids.len() != size) {
            self.problem(place, "replica groups of different sizes");
        }
        if self.partitions > 1 && instruction.channel_id <= 0 {
            self.problem(place, "no channel id: the groups would count replicas, not partitions");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_good_module_has_no_problems() {
        assert_eq!(check(&sample::module(), 8), []);
    }

    /// Checks the problems of the sample after `break_it` damaged it.
    #[track_caller]
    fn broken(break_it: impl FnOnce(&mut HloModuleProto), expected: &[&str]) {
        let mut module = sample::module();
        break_it(&mut module);
        let found: Vec<String> = check(&module, 8).iter().map(Problem::to_string).collect();
        assert_eq!(found, expected);
    }

    /// The instruction called `name` in the entry, the last computation of the module.
    fn entry<'a>(module: &'a mut HloModuleProto, name: &str) -> &'a mut HloInstructionProto {
        let entry = module.computations.last_mut().unwrap();
        entry.instructions.iter_mut().find(|i| i.name == name).unwrap()
    }

    #[test]
    fn ids() {
        broken(
            |m| m.computations[0].id = 2,
            &[
                "main: computation id 2 is taken already",
                "add: entry is called `main` in the module's head",
                "add: 2 parameters, host_program_shape has 1",
                "main/sum: called computation 1 is not defined before the caller",
            ],
        );
        broken(
            |m| entry(m, "out").operand_ids[0] = 99,
            &["main/out: operand 99 is not defined before it in the same computation"],
        );
        broken(
            |m| entry(m, "half").operand_ids[0] = 1,
            &["main/half: operand 1 is not defined before it in the same computation"],
        );
        broken(|m| m.computations[1].root_id = 1, &["main: root id 1 is not one of its instructions"]);
        broken(|m| m.entry_computation_id = 7, &["sample: entry computation id 7 does not exist"]);
        broken(|m| entry(m, "x").name = "sum".into(), &["main/sum: the name is taken already"]);
        broken(
            |m| {
                entry(m, "out").id = 1 << 31;
                m.computations[1].root_id = 1 << 31;
            },
            &["main/out: id 2147483648 does not fit in 31 bits"],
        );
    }

    #[test]
    fn parameters_and_aliases() {
        broken(
            |m| entry(m, "x").parameter_number = 2,
            &["main: parameters are numbered [2], not from 0 without gaps"],
        );
        broken(
            |m| m.host_program_shape.as_mut().unwrap().parameters.clear(),
            &["main: 1 parameters, host_program_shape has 0"],
        );
        let alias =
            |m: &mut HloModuleProto,
             change: fn(&mut crate::xla::hlo_input_output_alias_proto::AliasEntryProto)| {
                change(&mut m.input_output_alias.as_mut().unwrap().entries[0]);
            };
        broken(|m| alias(m, |e| e.parameter_number = 3), &["sample: alias of parameter 3, of 1"]);
        broken(|m| alias(m, |e| e.output_shape_index = vec![5]), &["sample: alias with output [5], of 2"]);
        broken(
            |m| {
                let entries = &mut m.input_output_alias.as_mut().unwrap().entries;
                entries.push(entries[0].clone());
            },
            &["sample: parameter 0 is aliased twice", "sample: output [0] is aliased twice"],
        );
    }

    #[test]
    fn values_and_collectives() {
        broken(
            |m| entry(m, "c").literal = None,
            &["main/c: constants must have a literal, and other instructions must not"],
        );
        broken(
            |m| entry(m, "half").sharding = None,
            &["main/half: no sharding={manual}, but there are several partitions"],
        );
        broken(|m| entry(m, "half").shape = None, &["main/half: no shape"]);
        broken(
            |m| entry(m, "sum").channel_id = 0,
            &["main/sum: no channel id: the groups would count replicas, not partitions"],
        );
        broken(
            |m| {
                let groups = entry(m, "sum").collective_device_list.as_mut().unwrap();
                groups.replica_groups[0].replica_ids.pop();
            },
            &[
                "main/sum: replica groups do not divide the 8 partitions",
                "main/sum: replica groups of different sizes",
            ],
        );
        broken(
            |m| entry(m, "sum").iota_collective_device_list = Some(Default::default()),
            &["main/sum: replica groups in closed form, which not all plugins read: list them instead"],
        );
    }
}
