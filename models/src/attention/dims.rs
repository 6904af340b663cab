//! Dims of attention layers.

use crate::Config;
use mesh::Dim;

/// Dims of attention.
#[derive(Clone, Debug)]
pub struct AttentionDims {
    /// Sequences.
    pub batch: Dim,
    /// The residual stream.
    pub d_model: Dim,
    /// Heads; with grouped-query attention those of keys and values.
    pub heads: Dim,
    /// Elements of a head.
    pub d_kv: Dim,
}

impl AttentionDims {
    /// Returns the dims of a model.
    pub fn new(config: &Config) -> Self {
        Self {
            batch: Dim::new("batch", config.batch),
            d_model: Dim::new("d_model", config.d_model),
            heads: Dim::new("heads", config.heads / config.query_group()),
            d_kv: Dim::new("d_kv", config.d_kv),
        }
    }
}
