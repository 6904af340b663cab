//! The settings of a model.

use driver::settings::Settings;

/// Settings of a model.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Precision of the model: f32, selective (bf16 except routers and sums) or bf16
    #[arg(long)]
    dtype: Option<String>,
    /// Setting of the model; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Schedule entry, such as remat=carries, which changes time and memory but not the model, or
    /// preset=NAME; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    schedule: Vec<String>,
}

impl ModelArgs {
    /// Returns the settings.
    pub fn options(&self) -> Settings {
        let Self { dtype, settings, schedule } = self.clone();
        Settings { dtype, settings, schedule }
    }
}
