//! Element types of activations and routers.

use mesh::DType;

/// Element types of activations and of the router. Parameters, optimizer slots, softmax, statistics of
/// norms and losses are always `f32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// `f32` throughout.
    F32,
    /// Selective precision (the paper's section 2.4): `bf16` activations and all-to-alls, `f32` in the
    /// router.
    Selective,
    /// `bf16` activations, including the router.
    Bf16,
}

impl Precision {
    /// Element type of activations.
    pub fn activations(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Selective | Self::Bf16 => DType::Bf16,
        }
    }
    /// Element type of the router's product and softmax.
    pub fn router(self) -> DType {
        match self {
            Self::F32 | Self::Selective => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Selective => "selective",
            Self::Bf16 => "bf16",
        }
    }
}
