//! `meshc compile`: a model to an artefact directory.

use crate::{
    ahead::{self, TargetArgs, Wanted, check_target},
    device::{PluginArgs, environment, flag},
    failure::failure,
    folder::{check_target as check_folder, write_folder},
    lower::{Watch, choose, emit, files, lower},
    model::{self, ModelArgs, Program},
    placement::{PlacementArgs, place},
};
use anyhow::Result;
use compiler::{pipeline::Stage, report::table::size};
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model: a program in Rust (.rs) or as text (.mesh)
    model: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// What to make besides the manifest; HLO modules are always made
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hlo")]
    emit: Vec<Emit>,
    /// Write the program after every stage into this folder
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Stop after this stage and print the program: verify, prepare, autodiff, simplify, partition, tidy or emit
    #[arg(long, value_name = "STAGE", value_parser = Stage::parse)]
    stop_after: Option<Stage>,
    /// Say how long each stage takes
    #[arg(long)]
    timings: bool,
    /// A flag for the plugin's compiler, stored in the artefact; may be given several times
    #[arg(long = "flag", value_name = "KEY=VALUE", value_parser = flag)]
    flags: Vec<(String, String)>,
    #[command(flatten)]
    plugin: PluginArgs,
    /// The artefact directory. Default: PROGRAM.artefact
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// What an artefact may hold.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Emit {
    /// NAME.hlo.pb and NAME.compile_options.pb, one for each function
    Hlo,
    /// NAME.executable: compiled by the plugin of the target, TPU slices included that are not here
    Executable,
    /// NAME.optimized_hlo.pb and .txt: the program as the plugin runs it
    OptimizedHlo,
    /// Print the report (it is in the artefact in any case, as report.json)
    Report,
    /// global.mesh and local.mesh: the program as it came, and the program of one device
    Mesh,
}

/// Compiles.
pub fn run(args: &Args) -> Result<()> {
    environment(Some(&args.target.target))?;
    let program = model::load(&args.model, &args.settings)?;
    let placement = place(&program.module, &args.placement)?;
    let wants = |emit| args.emit.contains(&emit);
    let wanted = Wanted { executable: wants(Emit::Executable), optimized_hlo: wants(Emit::OptimizedHlo) };
    let runs_plugin = wanted.executable || wanted.optimized_hlo;
    if !runs_plugin {
        check_target(&args.target, &placement.mesh, &args.plugin)?;
    }
    let output = output(args, &program);
    check_folder(&output)?;
    let mut watch = Watch::default();
    watch.dump = args.dump.clone();
    watch.timings = args.timings;
    watch.last = args.stop_after.map(|stage| (stage, Vec::new()));
    let last = args.stop_after.unwrap_or(Stage::Emit);
    let lowered = lower(&program, &placement, last, &mut watch)?;
    if let (Some(lowered), Stage::Emit) = (&lowered, last) {
        let target = &args.target.target;
        let artefact = emit(&program, &placement, target, &args.flags, lowered, &mut watch)?;
        if args.stop_after.is_none() {
            let mut files = files(&artefact, &lowered.reports)?;
            if wants(Emit::Mesh) {
                files.push(("global.mesh".into(), mesh::text::print(&program.module).into()));
                files.push(("local.mesh".into(), mesh::text::print(lowered.local.module()).into()));
            }
            if wants(Emit::Report) {
                print!("{}", choose(&lowered.reports, None)?);
            }
            if runs_plugin {
                files.extend(ahead::compile(&artefact, &args.target, &placement.mesh, &args.plugin, wanted)?);
            }
            write_folder(&output, &files)?;
            let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
            let functions: Vec<&str> = artefact.manifest.functions.iter().map(|f| f.name.as_str()).collect();
            println!("{}: {} for {target}, {}", output.display(), functions.join(", "), size(bytes as u64));
            return Ok(());
        }
    }
    stopped(args, watch)
}

/// Shows the program after the stage that was asked for, unless it is dumped anyway.
fn stopped(args: &Args, watch: Watch) -> Result<()> {
    let Some((stage, texts)) = watch.last else { return Ok(()) };
    if args.dump.is_some() {
        return Ok(());
    }
    if texts.is_empty() {
        return Err(failure(
            format!("there is nothing to show after stage `{}`", stage.name()),
            "stop after another stage",
        ));
    }
    texts.iter().for_each(|(_, text)| print!("{text}"));
    Ok(())
}

fn output(args: &Args, program: &Program) -> PathBuf {
    args.output.clone().unwrap_or_else(|| format!("{}.artefact", program.module.name).into())
}
