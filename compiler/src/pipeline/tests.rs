//! The order of stages and passes, and whose fault a mistake is.

use super::*;
use mesh::text;

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
fn every_stage_and_pass_is_observed_in_order() {
    let mut seen = Vec::new();
    let mut passes = Vec::new();
    let mut files = Vec::new();
    let mut observe = |step: Step| {
        files.extend(step.dump().into_iter().map(|(name, text)| (name, !text.is_empty())));
        match step.pass {
            Some(pass) => passes.push((step.stage, pass.name)),
            None => seen.push(step.stage),
        }
    };
    let local = compile(program(), &placement(), &mut observe).unwrap();
    let artefact = emit(&local, &Settings::default(), &mut observe).unwrap();
    assert_eq!(artefact.manifest.functions.len(), 1);
    assert_eq!(seen, Stage::ALL);
    for stage in Stage::ALL {
        for pass in stage.passes() {
            assert!(passes.contains(&(stage, pass.name)), "{stage:?} did not run {}", pass.name);
        }
    }
    assert!(files.iter().all(|(_, full)| *full));
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    for name in [
        "01-verify.mesh",
        "02-01-fold.mesh",
        "03-01-autodiff.mesh",
        "05-02-peephole.mesh",
        "06-simplify-local.mesh",
        "07-hlo-train_step.hlo.txt",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[test]
fn the_last_stage_is_a_choice() {
    let mut seen = Vec::new();
    let global = verify(program(), &mut unobserved).unwrap();
    let mut observe = |step: Step| seen.extend(step.pass.is_none().then_some(step.stage));
    optimize(global, Stage::Autodiff, &mut observe).unwrap();
    assert_eq!(seen, [Stage::Simplify, Stage::Autodiff]);
}

#[test]
fn a_local_program_is_taken_back() {
    let local = compile(program(), &placement(), &mut unobserved).unwrap();
    let text = text::print(local.module());
    let again = verify_local(text::parse(&text, "dump.mesh").unwrap(), &mut unobserved).unwrap();
    let files = |local: &Local| emit(local, &Settings::default(), &mut unobserved).unwrap().files;
    assert!(files(&local) == files(&again), "the HLO differs");
}

#[test]
fn mistakes_of_a_layout_are_the_users() {
    #[track_caller]
    fn check(mesh: &str, layout: &str, expect: &str) {
        let (mesh, layout) = (Mesh::parse(mesh).unwrap(), Layout::parse(layout).unwrap());
        let placement = Placement { mesh, layout, state_layout: Layout::default() };
        let mistakes = compile(program(), &placement, &mut unobserved).unwrap_err().to_string();
        assert!(mistakes.contains(expect), "{mistakes}");
        assert!(!mistakes.contains("bug in the compiler"), "{mistakes}");
    }
    check("", "batch:data", "layout splits dim `batch` over axis `data`");
    check("data=3", "batch:data", "does not divide into 3 shards");
    check("data=2", "batch:data,d_in:data", "splits both `batch` and `d_in` of one tensor");
    check("data=2", "batch:data,d_inn:data", "splits dim `d_inn`");
}

/// Makes the first result of every function pending, which no function may return.
fn breaks(module: &mut Module) -> bool {
    for f in &mut module.functions {
        let result = f.body.results[0];
        f.body.values[result].ty.sum = mesh::AxisSet::one(mesh::AxisId(0));
    }
    true
}

fn refuses(_: &Module) -> Result<Module, Diagnostics> {
    Err(Diagnostic::new("elementwise_e3", "the operands have different pending sums").into())
}

#[test]
fn mistakes_of_a_pass_are_the_compilers() {
    #[track_caller]
    fn check(stage: Stage, bad: Run, expect: &str) {
        let good = Stage::Simplify.passes()[0];
        let bad = Pass { name: "bad", what: "fails", run: bad };
        let groups = [Group::Once(good), Group::Once(bad), Group::Once(good)];
        let mistakes =
            run(stage, &groups, &program(), &Axes::default(), Global::new, &mut unobserved).unwrap_err();
        assert!(mistakes.0[0].message.contains(expect), "{mistakes}");
        assert!(mistakes.to_string().contains("this is a bug in the compiler"), "{mistakes}");
        assert!(mistakes.0.len() > 1, "what was refused is not shown: {mistakes}");
    }
    check(
        Stage::Autodiff,
        Run::Expand(refuses),
        "stage `autodiff`, pass `bad`, failed on a verified program",
    );
    check(Stage::SimplifyLocal, Run::Rewrite(breaks), "stage `simplify-local`, pass `bad`, failed");
    // A request for a gradient is left, which partitioning refuses.
    check(Stage::Partition, Run::Partition, "stage `partition`, pass `bad`, failed");
}

#[test]
fn stages_have_names() {
    for (i, stage) in Stage::ALL.into_iter().enumerate() {
        assert_eq!(Stage::parse(stage.name()), Ok(stage));
        assert_eq!(stage as usize, i);
    }
    assert!(Stage::parse("tidy").unwrap_err().contains("verify, simplify"));
    assert!(Stage::ALL.iter().flat_map(|s| s.passes()).all(|pass| !pass.what.is_empty()));
}
