//! The settings of a model.

use interchange::Overrides;

/// A model and its settings.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Precision of the model: f32, selective (bf16 but for routers and sums) or bf16
    #[arg(long)]
    pub dtype: Option<String>,
    /// A setting of the model; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

impl ModelArgs {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.dtype.is_none() && self.settings.is_empty()
    }

    /// The same as overrides of a checkpoint's settings.
    pub fn overrides(&self) -> Overrides {
        Overrides { dtype: self.dtype.clone(), settings: self.settings.clone() }
    }

    /// As the arguments of a model program.
    pub fn words(&self) -> Vec<String> {
        let dtype = self.dtype.iter().flat_map(|d| ["--dtype".to_owned(), d.clone()]);
        dtype.chain(self.settings.iter().flat_map(|s| ["--set".to_owned(), s.clone()])).collect()
    }
}
