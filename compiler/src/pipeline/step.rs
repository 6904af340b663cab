//! The program after a pass or a stage, as observers of the pipeline see it.

use super::order::Stage;
use crate::artefact::Artefact;
use mesh::{Module, text};
use proto::{Message, hlo_text, manifest_check, xla::HloModuleProto};

/// The program after a pass or a stage.
#[derive(Clone, Copy, Debug)]
pub struct Step<'s> {
    /// The stage.
    pub stage: Stage,
    /// The pass that has just run; `None` after the whole stage, when the program has been verified.
    pub pass: Option<PassRun>,
    pub(super) view: View<'s>,
}

/// One run of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassRun {
    /// The pass's name.
    pub name: &'static str,
    /// The position among the runs of the stage, from 1.
    pub number: usize,
    /// True if the pass changed the program.
    pub changed: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum View<'s> {
    Module(&'s Module),
    Artefact(&'s Artefact),
}

impl Step<'_> {
    /// The program as text: `(file name, contents)`. The names sort in the order of stages and passes.
    pub fn dump(&self) -> Vec<(String, String)> {
        let number = 1 + self.stage as usize;
        let name = self.stage.name();
        match self.view {
            View::Module(module) => {
                let file = match self.pass {
                    Some(pass) => format!("{number:02}-{:02}-{}.mesh", pass.number, pass.name),
                    None => format!("{number:02}-{name}.mesh"),
                };
                vec![(file, text::print(module))]
            }
            View::Artefact(artefact) => {
                let devices = manifest_check::devices(&artefact.manifest).unwrap_or(1);
                let num_partitions = i64::try_from(devices).unwrap_or(1);
                let options = hlo_text::Options { num_partitions, ..hlo_text::Options::default() };
                let modules = artefact.files.iter().filter_map(|(file, bytes)| {
                    let function = file.strip_suffix(".hlo.pb")?;
                    let module = HloModuleProto::decode(&bytes[..]).ok()?;
                    let text = hlo_text::print(&module, &options);
                    Some((format!("{number:02}-{name}-{function}.hlo.txt"), text))
                });
                modules.collect()
            }
        }
    }

    /// The number of instructions, those of nested bodies included; 0 for HLO.
    pub fn instructions(&self) -> usize {
        let View::Module(module) = self.view else { return 0 };
        let mut count = 0;
        module.functions.iter().for_each(|f| f.body.walk(&mut |_, _| count += 1));
        count
    }
}

/// Called after each pass and after each stage.
pub type Observer<'o> = &'o mut dyn FnMut(Step);

/// An observer that does nothing.
pub fn unobserved(_: Step) {}
