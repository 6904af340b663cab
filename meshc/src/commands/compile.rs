//! `meshc compile`: compiles a model into an artefact directory.

use crate::{
    args::{
        model::ModelArgs,
        placement::PlacementArgs,
        plugin::{FlagArgs, PluginArgs, TargetArgs, environment},
    },
    output::{
        host::HOST,
        stream::{errln, out, outln},
    },
};
use anyhow::Result;
use compiler::{
    artefact::Artefact,
    pipeline::{Placement, Stage},
};
use driver::{
    ahead::{Ahead, COMPILED, Wanted, check_target},
    failure::failure,
    files::{check_target as check_folder, write_artefact},
    fit,
    lower::{Lowered, Watch, choose, emit, files, lower, whole_outputs},
    placement::{self, place},
    planned, program,
    request::Request,
    target::Target,
};
use report::{compiled::Compiled, table::size};
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model: built-in (see `meshc models`), a Rust program (.rs) or program text (.mesh)
    model: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Files to write besides the manifest; HLO modules are always written
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hlo")]
    emit: Vec<Emit>,
    /// Compile only this function; repeatable. Default: all
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    /// Write the program after every stage to this directory
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// With --dump: also write the program after every pass that changed it
    #[arg(long, requires = "dump")]
    dump_passes: bool,
    /// Stop after this stage and print the program: verify, simplify, autodiff, simplify-gradients,
    /// partition, simplify-local or hlo
    #[arg(long, value_name = "STAGE", value_parser = Stage::parse)]
    stop_after: Option<Stage>,
    /// Compile for training on several hosts: outputs such as losses by row are whole on every device
    #[arg(long)]
    several_hosts: bool,
    /// Print the time of each stage
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    flags: FlagArgs,
    #[command(flatten)]
    plugin: PluginArgs,
    /// Artefact directory. Default: PROGRAM.artefact
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Optional contents of an artefact.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Emit {
    /// NAME.hlo.pb and NAME.compile_options.pb for each function
    Hlo,
    /// NAME.executable: compiled by the plugin of the target, ahead of time for TPU slices
    Executable,
    /// NAME.optimized_hlo.pb and .txt: the program after the plugin's optimizations
    OptimizedHlo,
    /// Print the report, which the artefact contains as report.json
    Report,
    /// global.mesh and local.mesh: the input program, and the program of one device
    Mesh,
}

/// Compiles.
pub fn run(args: &Args) -> Result<()> {
    environment(Some(&args.target.target))?;
    let request = planned::completed(args.request()?, args.functions.first().map(String::as_str))?;
    let target = request.target.target.clone().unwrap_or_default();
    let mut program = program::load(&request)?;
    program::keep_functions(&mut program.module, &args.functions)?;
    let placement = place(&program.module, &request.placement)?;
    check_target(&target, &placement.mesh)?;
    let output = args.output.clone().unwrap_or_else(|| format!("{}.artefact", program.module.name).into());
    check_folder(&output)?;
    let mut watch = args.watch();
    let last = args.stop_after.unwrap_or(Stage::Hlo);
    let mut lowered = lower(&program, &placement, last, &mut watch)?;
    if args.several_hosts {
        lowered = lowered.map(|lowered| whole_outputs(&program, lowered)).transpose()?;
    }
    if args.dump.is_some() && placement.mesh.axes().is_empty() && last >= Stage::Partition {
        let note = "04-simplify-gradients, 05-partition and 06-simplify-local are equal on one device";
        errln!(
            "note: {note}; --mesh shows collectives, such as --mesh {}",
            placement::example(&program.module)
        );
    }
    let (Some(lowered), Stage::Hlo) = (&lowered, last) else { return stopped(args, watch) };
    let artefact = emit(&program, &placement, &target, &request.flags.of(&target)?, lowered, &mut watch)?;
    if args.stop_after.is_some() {
        return stopped(args, watch);
    }
    let wants = |emit| args.emit.contains(&emit);
    let mut files = files(&artefact, &lowered.reports)?;
    if wants(Emit::Mesh) {
        files.push(("global.mesh".into(), mesh::text::print(&program.module).into()));
        files.push(("local.mesh".into(), mesh::text::print(lowered.local.module()).into()));
    }
    let compiled = if wants(Emit::Executable) || wants(Emit::OptimizedHlo) {
        compile(args, &request, &target, &placement, lowered, &artefact, &mut files)?
    } else {
        Vec::new()
    };
    if let (Some(slice), true) = (target.slice(), compiled.is_empty()) {
        let warnings = lowered.reports.iter().filter_map(|report| fit::warning(report, slice));
        warnings.for_each(|warning| errln!("{warning}"));
    }
    if wants(Emit::Report) {
        let report = choose(&lowered.reports, None)?;
        out!("{report}");
        compiled.iter().filter(|c| c.function == report.function).for_each(|c| out!("{c}"));
    }
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    write_artefact(&output, files)?;
    let functions: Vec<&str> = artefact.manifest.functions.iter().map(|f| f.name.as_str()).collect();
    outln!("{}: {} for {}, {}", output.display(), functions.join(", "), target, size(bytes as u64));
    Ok(())
}

impl Args {
    fn request(&self) -> Result<Request> {
        Ok(Request {
            settings: self.settings.options(),
            placement: self.placement.options(),
            target: self.target.options()?,
            flags: self.flags.options(),
            plugin: self.plugin.options(),
            ..Request::new(&self.model, HOST)
        })
    }

    /// Returns the observer of the stages.
    fn watch(&self) -> Watch {
        let mut watch = Watch::default();
        watch.dump = self.dump.clone();
        watch.dump_passes = self.dump_passes;
        watch.timings = self.timings.then_some(HOST.say);
        watch.last = self.stop_after.map(|stage| (stage, Vec::new()));
        watch
    }
}

/// Compiles all functions with the plugin of the target, prints their memory, and adds the requested files.
fn compile(
    args: &Args,
    request: &Request,
    target: &Target,
    placement: &Placement,
    lowered: &Lowered,
    artefact: &Artefact,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Vec<Compiled>> {
    let wants = |emit| args.emit.contains(&emit);
    let wanted = Wanted { executable: wants(Emit::Executable), optimized_hlo: wants(Emit::OptimizedHlo) };
    let ahead = Ahead::new(request, target, &placement.mesh)?;
    let mut all = Vec::new();
    for function in &artefact.manifest.functions {
        errln!("compiling {} for {}", function.name, target);
        let outcome = match ahead.compile(artefact, function)? {
            Ok(outcome) => outcome,
            Err(too_large) => {
                let report = choose(&lowered.reports, Some(&function.name))?;
                let advice =
                    target.slice().map_or_else(Vec::new, |slice| fit::advice(request, slice, report));
                return Err(fit::does_not_fit(report, target, &too_large.0, &advice));
            }
        };
        all.push(outcome.compiled.clone());
        files.extend(outcome.files(wanted)?);
    }
    let estimates: Vec<(String, u64)> =
        lowered.reports.iter().map(|r| (r.function.clone(), r.peak_bytes_per_device.total)).collect();
    out!("{}", report::compiled::memory(&all, &estimates));
    let mut json = serde_json::to_vec_pretty(&all)?;
    json.push(b'\n');
    files.push((COMPILED.to_owned(), json));
    Ok(all)
}

/// Prints the program after the requested stage, unless it is dumped anyway.
fn stopped(args: &Args, watch: Watch) -> Result<()> {
    let Some((stage, texts)) = watch.last else { return Ok(()) };
    if args.dump.is_some() {
        return Ok(());
    }
    if texts.is_empty() {
        return Err(failure(
            format!("`--stop-after {0}`: stage `{0}` produces no text", stage.name()),
            "stop after another stage",
        ));
    }
    texts.iter().for_each(|(_, text)| out!("{text}"));
    Ok(())
}
