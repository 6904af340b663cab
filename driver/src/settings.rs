//! The settings of a model.

use crate::failure::failure;
use anyhow::Result;
use interchange::Overrides;
use mesh::{layout::suggest, schedule};
use models::zoo;

/// Settings of a model, in the form of the command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The precision. `None` means the model's own.
    pub dtype: Option<String>,
    /// Settings as `key=value`.
    pub settings: Vec<String>,
    /// Schedule entries as `key=value`, and `preset=NAME`.
    pub schedule: Vec<String>,
}

impl Settings {
    /// True if no option is given.
    pub fn is_empty(&self) -> bool {
        self.dtype.is_none() && self.settings.is_empty() && self.schedule.is_empty()
    }

    /// Returns the settings with one more, a list of these values, unless there are none.
    pub fn with(mut self, name: &str, values: &[String]) -> Self {
        if !values.is_empty() {
            self.settings.push(format!("{name}={}", values.join(",")));
        }
        self
    }

    /// True if a setting or a schedule entry with this key is given.
    pub fn sets(&self, name: &str) -> bool {
        self.settings.iter().chain(&self.schedule).any(|given| key(given) == name)
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

    /// Returns notes about settings that are schedule entries now. `module` is the program that they made.
    pub fn renamed(&self, module: &mesh::Module) -> Vec<String> {
        let is_entry = |setting: &&String| {
            let (key, value) = (key(setting), setting.split_once('=').map_or("", |(_, value)| value.trim()));
            let mut said = module.schedule;
            schedule::entry(key).is_some() && said.set(key, value).is_ok() && said == module.schedule
        };
        let note = |setting: &String| {
            format!("note: `--set {setting}` is an entry of the schedule: write `--schedule {setting}`")
        };
        self.settings.iter().filter(is_entry).map(note).collect()
    }
}

/// Returns the key of `key=value`.
pub fn key(text: &str) -> &str {
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
