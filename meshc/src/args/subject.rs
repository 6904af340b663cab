//! Programs with parameters: a model, an artefact or a checkpoint.

use super::{
    hosts::HostArgs,
    model::ModelArgs,
    placement::PlacementArgs,
    plugin::{PluginArgs, environment},
};
use crate::output::host::HOST;
use anyhow::Result;
use driver::{
    hosts::{member::Member, start},
    profile::Recorder,
    request::Request,
    target::{Target, TargetOptions},
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A program, its parameters, and the devices it runs on.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// Model (built-in, .rs or .mesh), artefact directory, or checkpoint that names its model
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    subject: PathBuf,
    /// Checkpoint with the parameters, or a directory of checkpoints (the newest valid one is used)
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    target: Option<Target>,
    /// Write a profile of the calls to this folder: trace.json, and that of the plugin if it has a profiler.
    /// Of several processes, the first one writes its own
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    plugin: PluginArgs,
    #[command(flatten)]
    hosts: HostArgs,
}

impl SubjectArgs {
    /// Runs `work` in this process, or in all processes of a job. `input` is a file that all of them read.
    pub fn run(
        &self,
        input: Option<&Path>,
        work: impl FnOnce(&Member, &Request) -> Result<()>,
    ) -> Result<ExitCode> {
        environment(None)?;
        let request = Request {
            settings: self.settings.options(),
            placement: self.placement.options(),
            target: TargetOptions { target: self.target.clone(), ..TargetOptions::default() },
            plugin: self.plugin.options(),
            profile: self.profile.as_deref().map(Recorder::new),
            ..Request::new(&self.subject, HOST)
        };
        start::run(&self.hosts.options(), request, input, |member, request| {
            let profile = request.profile.clone().filter(|_| member.job.is_first());
            let request = Request { profile, ..request.clone() };
            work(member, &request)?;
            request.profile.map_or(Ok(()), |profile| profile.end(HOST.say))
        })
    }
}
