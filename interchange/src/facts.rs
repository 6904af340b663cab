//! Names of the facts that describe the model of a checkpoint.

/// The preset that the settings change.
pub const MODEL: &str = "model";
/// Settings in the form that `--set` takes, separated by spaces.
pub const SETTINGS: &str = "settings";
/// The entries of the schedule that differ from their defaults, with spaces between.
pub const SCHEDULE: &str = "schedule";
/// The precision in the form that `--dtype` takes.
pub const DTYPE: &str = "dtype";
/// Defaults of generation in the form that `--set` takes, separated by spaces.
pub const GENERATION: &str = "generation";
/// The text of the imported `config.json`.
pub const CONFIG: &str = "hf.config";
/// The element type of most tensors imported from Hugging Face; tensors with another one, as a JSON object
/// from name to type.
pub const ELEMENTS: [&str; 2] = ["hf.element", "hf.elements"];
/// The element type of most arrays that were imported from T5X; arrays with another one, as a JSON object
/// from path to type.
pub const T5X_ELEMENTS: [&str; 2] = ["t5x.element", "t5x.elements"];
/// Storage of layers in T5X: `separate` or `scanned`.
pub const T5X_LAYERS: &str = "t5x.layers";
