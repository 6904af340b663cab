//! Models that the facts of a checkpoint describe: a preset and settings. They need no model file and no
//! build.

use crate::{facts, failure};
use anyhow::{Result, anyhow};
use mesh::{Diagnostics, dsl::Args};
use models::{Config, zoo};
use runtime::checkpoint::Checkpoint;

/// Settings of the user that override those of the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// The precision: `f32`, `selective` or `bf16`.
    pub dtype: Option<String>,
    /// Settings as `key=value`.
    pub settings: Vec<String>,
}

impl Overrides {
    /// True if nothing is overridden.
    pub fn is_empty(&self) -> bool {
        self.dtype.is_none() && self.settings.is_empty()
    }

    /// True if the user gives the value of this setting, `key=value`.
    pub fn replaces(&self, setting: &str) -> bool {
        self.settings.iter().any(|own| key(own) == key(setting))
    }
}

fn key(setting: &str) -> &str {
    setting.split('=').next().unwrap_or(setting)
}

/// The model of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// A preset of `models::zoo`.
    pub model: String,
    /// Settings, separated by spaces.
    pub settings: String,
    /// The precision.
    pub dtype: String,
    /// The path of the checkpoint, for messages.
    pub name: String,
}

impl Origin {
    /// Returns the model of a checkpoint, with the overrides applied. `model` is the preset if the user names
    /// one.
    pub fn of(checkpoint: &Checkpoint, model: Option<&str>, overrides: &Overrides) -> Result<Self> {
        let given = checkpoint.facts();
        let name = checkpoint.dir().display().to_string();
        let Some(model) = model.or(given.get(facts::MODEL).map(String::as_str)) else {
            return Err(failure(
                format!("the checkpoint `{name}` does not name its model"),
                "name the model, and the settings of training that differ from its defaults",
            ));
        };
        // Settings of older checkpoints hold entries of the schedule, too.
        let own = [facts::SETTINGS, facts::SCHEDULE].into_iter().filter_map(|fact| given.get(fact));
        let kept = own
            .flat_map(|text| text.split_whitespace())
            .filter(|s| !overrides.replaces(s))
            .map(str::to_owned);
        let unsaid =
            former_defaults(model, given.get(facts::SETTINGS)).filter(|s| !overrides.replaces(s)).into_iter();
        let settings: Vec<String> = unsaid.chain(kept).chain(overrides.settings.iter().cloned()).collect();
        let dtype = overrides.dtype.as_ref().or(given.get(facts::DTYPE));
        Ok(Self {
            model: model.to_owned(),
            settings: settings.join(" "),
            dtype: dtype.map_or("f32", String::as_str).to_owned(),
            name,
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> Result<Config> {
        resolved(&self.model, &self.settings, &self.dtype, &self.name)
    }
}

/// Returns the settings with which a checkpoint was made that it does not name: defaults of its time that
/// have changed since. Training records all settings; an import of former versions recorded those of its file
/// only.
fn former_defaults(model: &str, recorded: Option<&String>) -> Option<String> {
    let sparse = zoo::named(model).is_some_and(|preset| preset.switch.is_some());
    let unsaid =
        |settings: &String| !settings.split_whitespace().any(|setting| key(setting) == "ignore_padding");
    (sparse && recorded.is_some_and(unsaid)).then(|| "ignore_padding=false".to_owned())
}

/// A preset with settings; `name` says who asks for it.
pub fn resolved(model: &str, settings: &str, dtype: &str, name: &str) -> Result<Config> {
    let preset = zoo::named(model).ok_or_else(|| {
        let known: Vec<&str> = zoo::ALL.iter().map(|preset| preset.name).collect();
        failure(
            format!("`{name}` names the unknown model `{model}`"),
            format!("the models are {}", known.join(", ")),
        )
    })?;
    let words = settings.split_whitespace().flat_map(|s| ["--set".to_owned(), s.to_owned()]);
    let args = Args::parse(["--dtype".to_owned(), dtype.to_owned()].into_iter().chain(words));
    let args = args.map_err(|d| anyhow!("`{name}`: {d}"))?;
    let config = preset.with(&args);
    let mut mistakes = args.mistakes();
    mistakes.extend(config.mistakes());
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(failure(
            format!("`{name}` has invalid settings:\n{}", Diagnostics(mistakes)),
            "correct them with --set KEY=VALUE",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the setting of padding in a checkpoint of `model` with these recorded settings.
    #[track_caller]
    fn check(model: &str, recorded: &str, expect: Option<bool>) {
        let unsaid = former_defaults(model, Some(&recorded.to_owned()));
        let settings: Vec<String> =
            unsaid.into_iter().chain(recorded.split_whitespace().map(str::to_owned)).collect();
        let config = resolved(model, &settings.join(" "), "f32", "a checkpoint").unwrap();
        assert_eq!(config.switch.map(|s| s.ignore_padding), expect, "{model} {recorded}");
    }

    #[test]
    fn checkpoints_have_the_default_of_their_time() {
        check("switch", "experts=4 fixed_capacity=8", Some(false));
        check("switch", "experts=4 ignore_padding=true", Some(true));
        check("switch", "experts=4 ignore_padding=false", Some(false));
        check("t5", "d_model=8", None);
        assert_eq!(former_defaults("switch", None), None, "no settings are recorded");
    }
}
