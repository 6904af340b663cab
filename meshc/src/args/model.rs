//! The settings of a model.

use crate::output::failure::failure;
use anyhow::Result;
use interchange::Overrides;
use mesh::{layout::suggest, schedule};
use models::zoo;

/// Settings of a model.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Precision of the model: f32, selective (bf16 except routers and sums) or bf16
    #[arg(long)]
    pub dtype: Option<String>,
    /// Setting of the model; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Schedule entry, such as remat=carries, which changes time and memory but not the model, or
    /// preset=NAME; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub schedule: Vec<String>,
}

impl ModelArgs {
    /// True if no option is given.
    pub fn is_empty(&self) -> bool {
        self.dtype.is_none() && self.settings.is_empty() && self.schedule.is_empty()
    }

    /// Returns the options as overrides of a checkpoint's settings.
    pub fn overrides(&self) -> Result<Overrides> {
        let settings = [self.settings.clone(), self.entries()?].concat();
        Ok(Overrides { dtype: self.dtype.clone(), settings })
    }

    /// Returns the options as arguments of a model program.
    pub fn words(&self) -> Result<Vec<String>> {
        let dtype = self.dtype.iter().flat_map(|d| ["--dtype".to_owned(), d.clone()]);
        let settings = self.settings.iter().flat_map(|s| ["--set".to_owned(), s.clone()]);
        let entries = self.entries()?;
        let schedule = entries.into_iter().flat_map(|entry| ["--schedule".to_owned(), entry]);
        Ok(dtype.chain(settings).chain(schedule).collect())
    }

    /// Returns the schedule entries, completed by those of the preset.
    fn entries(&self) -> Result<Vec<String>> {
        let given: Vec<&str> = self.schedule.iter().chain(&self.settings).map(|e| key(e)).collect();
        let mut all = Vec::new();
        for entry in &self.schedule {
            match entry.split_once('=') {
                Some((key, name)) if key.trim() == "preset" => {
                    all.extend(named(name.trim())?.map(str::to_owned))
                }
                Some(_) | None => continue,
            }
        }
        all.retain(|entry: &String| !given.contains(&key(entry)));
        all.extend(self.schedule.iter().filter(|entry| key(entry) != "preset").cloned());
        Ok(all)
    }

    /// Prints a note about settings that are schedule entries now. `module` is the program that they made.
    pub fn note_renamed(&self, module: &mesh::Module) {
        for setting in &self.settings {
            let (key, value) = (key(setting), setting.split_once('=').map_or("", |(_, value)| value.trim()));
            let mut said = module.schedule;
            if schedule::entry(key).is_some() && said.set(key, value).is_ok() && said == module.schedule {
                eprintln!(
                    "note: `--set {setting}` is an entry of the schedule: write `--schedule {setting}`"
                );
            }
        }
    }
}

/// Returns the key of `key=value`.
fn key(text: &str) -> &str {
    text.split_once('=').map_or(text, |(key, _)| key).trim()
}

/// Returns the entries of the schedule preset `name`.
fn named(name: &str) -> Result<impl Iterator<Item = &'static str>> {
    let preset = zoo::schedule(name).ok_or_else(|| {
        let known: Vec<&str> = zoo::SCHEDULES.iter().map(|preset| preset.name).collect();
        let near = suggest(name, known.iter().copied());
        let hint = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        failure(
            format!("`--schedule preset={name}` names no preset"),
            format!("{hint}the presets are {}", known.join(", ")),
        )
    })?;
    Ok(preset.entries.split_whitespace())
}
