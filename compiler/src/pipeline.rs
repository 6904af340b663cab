//! The order of the stages, and what happens between them.
//!
//! A stage takes a verified module and gives a module, which is verified before the next stage sees it: a
//! mistake found then is the compiler's own, and the message names the stage. Nothing is written and no
//! clock is read here; whoever calls may look at the program after each stage ([`Step`]), and dump or time it.

use crate::{
    artefact::{self, Artefact, Settings},
    autodiff, partition, passes,
};
use mesh::{
    Diagnostic, Diagnostics, Layout, Mesh, Module,
    layout::AxisMap,
    text,
    verify::{Global, Local},
};
use proto::{Message, hlo_text, manifest_check, xla::HloModuleProto};

/// The stages, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// The program as it came is checked against all rules of the language.
    Verify,
    /// What is inside loops is made small before it is differentiated; what is the same in every
    /// iteration leaves them.
    Prepare,
    /// Requests for gradients become the instructions that compute them.
    Autodiff,
    /// What loops stack becomes narrow; dead code, repetitions, and operations that do nothing go.
    Simplify,
    /// Whole tensors become one device's shards, with explicit collectives.
    Partition,
    /// As before, on the program of one device.
    Tidy,
    /// Each function becomes an HLO module, and the manifest says what they mean.
    Emit,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] = [
        Self::Verify,
        Self::Prepare,
        Self::Autodiff,
        Self::Simplify,
        Self::Partition,
        Self::Tidy,
        Self::Emit,
    ];

    /// The word for `--stop-after` and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Prepare => "prepare",
            Self::Autodiff => "autodiff",
            Self::Simplify => "simplify",
            Self::Partition => "partition",
            Self::Tidy => "tidy",
            Self::Emit => "emit",
        }
    }

    /// The stage called `name`; the error lists all.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|s| s.name()).collect();
            format!("there is no stage `{name}`: the stages are {}", known.join(", "))
        })
    }
}

/// How a program is to lie over the machine.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Placement {
    /// The mesh.
    pub mesh: Mesh,
    /// Which dims are split over which axes in every value.
    pub layout: Layout,
    /// How stored tensors are split further.
    pub state_layout: Layout,
}

impl Placement {
    /// The rules with their axes looked up: for values, and for stored tensors.
    pub fn resolve(&self) -> Result<(AxisMap, AxisMap), Diagnostic> {
        let resolve = |layout: &Layout, what: &str| {
            layout.resolve(&self.mesh).map_err(|message| Diagnostic::new("", format!("{what}: {message}")))
        };
        Ok((resolve(&self.layout, "layout")?, resolve(&self.state_layout, "state layout")?))
    }
}

/// The program after a stage, for those who look on.
#[derive(Clone, Copy, Debug)]
pub struct Step<'s> {
    /// The stage that has just ended.
    pub stage: Stage,
    view: View<'s>,
}

#[derive(Clone, Copy, Debug)]
enum View<'s> {
    Module(&'s Module),
    Artefact(&'s Artefact),
}

impl Step<'_> {
    /// The program as text: `(file name, contents)`. The names sort in the order of the stages.
    pub fn dump(&self) -> Vec<(String, String)> {
        let number = 1 + self.stage as usize;
        let name = self.stage.name();
        match self.view {
            View::Module(module) => vec![(format!("{number:02}-{name}.mesh"), text::print(module))],
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

    /// How many instructions the program has, those of nested bodies included. (HLO is not counted.)
    pub fn instructions(&self) -> usize {
        let View::Module(module) = self.view else { return 0 };
        let mut count = 0;
        module.functions.iter().for_each(|f| f.body.walk(&mut |_, _| count += 1));
        count
    }
}

/// Who looks on: called after each stage.
pub type Observer<'o> = &'o mut dyn FnMut(Step);

/// Nobody looks on.
pub fn unobserved(_: Step) {}

/// Verifies a program as it came from its author.
pub fn verify(module: Module, observe: Observer) -> Result<Global, Diagnostics> {
    let global = Global::new(module)?;
    observe(Step { stage: Stage::Verify, view: View::Module(global.module()) });
    Ok(global)
}

/// Expands gradients and makes the program small. `last` is the last stage to run, at most
/// [`Stage::Simplify`].
pub fn optimize(global: Global, last: Stage, observe: Observer) -> Result<Global, Diagnostics> {
    type Pass = fn(Module) -> Result<Module, Diagnostics>;
    let passes: [(Stage, Pass); 3] = [
        (Stage::Prepare, simplified),
        (Stage::Autodiff, |module| autodiff::expand(&module)),
        (Stage::Simplify, |mut module| {
            passes::narrow::run(&mut module);
            simplified(module)
        }),
    ];
    let mut global = global;
    for (stage, pass) in passes.into_iter().filter(|(stage, _)| *stage <= last) {
        global = Global::new(pass(global.into_module())?).map_err(|d| ours(stage, d))?;
        observe(Step { stage, view: View::Module(global.module()) });
    }
    Ok(global)
}

/// Makes the program of one device from an optimized one. `last` is the last stage to run,
/// [`Stage::Partition`] or a later one.
pub fn localize(
    global: &Global,
    placement: &Placement,
    last: Stage,
    observe: Observer,
) -> Result<Local, Diagnostics> {
    let (compute, state) = placement.resolve()?;
    let module = partition::partition(global.module(), &placement.mesh, &compute, &state)?;
    let local = Local::new(module).map_err(|d| ours(Stage::Partition, d))?;
    observe(Step { stage: Stage::Partition, view: View::Module(local.module()) });
    if last < Stage::Tidy {
        return Ok(local);
    }
    let local = Local::new(simplified(local.into_module())?).map_err(|d| ours(Stage::Tidy, d))?;
    observe(Step { stage: Stage::Tidy, view: View::Module(local.module()) });
    Ok(local)
}

/// Makes the files that the runtime gets.
pub fn emit(local: &Local, settings: &Settings, observe: Observer) -> Result<Artefact, Diagnostics> {
    let artefact = artefact::build(local.module(), settings)?;
    observe(Step { stage: Stage::Emit, view: View::Artefact(&artefact) });
    Ok(artefact)
}

/// From a program as it came to the program of one device: all stages but [`Stage::Emit`].
pub fn compile(module: Module, placement: &Placement, observe: Observer) -> Result<Local, Diagnostics> {
    let global = verify(module, observe)?;
    let global = optimize(global, Stage::Simplify, observe)?;
    localize(&global, placement, Stage::Tidy, observe)
}

fn simplified(mut module: Module) -> Result<Module, Diagnostics> {
    passes::simplify(&mut module);
    Ok(module)
}

/// A verified program went in, and a wrong one came out.
fn ours(stage: Stage, mistakes: Diagnostics) -> Diagnostics {
    let count = mistakes.0.len();
    let mut mistakes = mistakes;
    let note = Diagnostic::new(
        "",
        format!("stage `{}` made a program that breaks {count} of the language's rules", stage.name()),
    )
    .help("this is a bug in the compiler, not in the model: please report it with the model and the layout");
    mistakes.0.insert(0, note);
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "
module example
state param w: f32[d_in=4, d_out=6]
func train_step(%x x: f32[batch=8, d_in=4]) -> (loss: f32[]) {
  %w = read {state=w}
  %y = einsum %x, %w {out=[batch, d_out], dtype=f32}
  %square = mul %y, %y
  %loss = reduce_mean %square {dims=[batch, d_out]}
  %g = grad %loss, %w
  %rate = constant {dtype=f32, value=0.1}
  %step = mul %g, %rate
  %next = sub %w, %step
  write %next {state=w}
  return %loss
}
";

    fn program() -> Module {
        text::parse(PROGRAM, "example.mesh").unwrap()
    }

    fn placement() -> Placement {
        Placement {
            mesh: Mesh::parse("data=2,model=2").unwrap(),
            layout: Layout::parse("batch:data,d_out:model").unwrap(),
            state_layout: Layout::default(),
        }
    }

    #[test]
    fn every_stage_is_seen_once_and_in_order() {
        let mut seen = Vec::new();
        let mut files = Vec::new();
        let mut observe = |step: Step| {
            seen.push(step.stage);
            files.extend(step.dump().into_iter().map(|(name, text)| (name, !text.is_empty())));
        };
        let local = compile(program(), &placement(), &mut observe).unwrap();
        let artefact = emit(&local, &Settings::default(), &mut observe).unwrap();
        assert_eq!(artefact.manifest.functions.len(), 1);
        assert_eq!(seen, Stage::ALL);
        assert!(files.iter().all(|(_, full)| *full));
        let mut names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.is_sorted());
        names.sort();
        assert_eq!(names[0], "01-verify.mesh");
        assert_eq!(names[6], "07-emit-train_step.hlo.txt");
    }

    #[test]
    fn it_stops_where_it_is_told() {
        let mut seen = Vec::new();
        let global = verify(program(), &mut unobserved).unwrap();
        optimize(global, Stage::Autodiff, &mut |step: Step| seen.push(step.stage)).unwrap();
        assert_eq!(seen, [Stage::Prepare, Stage::Autodiff]);
    }

    #[test]
    fn a_layout_without_a_mesh_axis_is_named() {
        let placement = Placement { mesh: Mesh::default(), ..placement() };
        let mistakes = compile(program(), &placement, &mut unobserved).unwrap_err();
        assert!(mistakes.to_string().contains("layout splits dim `batch` over axis `data`"), "{mistakes}");
    }

    #[test]
    fn a_mistake_after_a_stage_is_ours() {
        let mistakes = ours(Stage::Tidy, Diagnostic::new("type_t1", "dim `a` appears twice").into());
        let text = mistakes.to_string();
        assert!(text.contains("stage `tidy` made a program that breaks 1"), "{text}");
        assert!(text.contains("bug in the compiler"), "{text}");
    }

    #[test]
    fn stages_have_names() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.name()), Ok(stage));
        }
        assert!(Stage::parse("lower").unwrap_err().contains("verify, prepare"));
    }
}
