//! Names of the facts that describe the model of a checkpoint.

/// The preset that the settings change.
pub const MODEL: &str = "model";
/// Settings in the form that `--set` takes, separated by spaces.
pub const SETTINGS: &str = "settings";
/// The entries of the schedule that differ from their defaults, with spaces between.
pub const SCHEDULE: &str = "schedule";
/// The precision in the form that `--dtype` takes.
pub const DTYPE: &str = "dtype";
/// The text of the imported `config.json`.
pub const CONFIG: &str = "hf.config";
/// The element type of most imported tensors.
pub const ELEMENT: &str = "hf.element";
/// Tensors with another element type, as a JSON object from name to type.
pub const ELEMENTS: &str = "hf.elements";
