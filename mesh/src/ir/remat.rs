//! Policies of differentiated loops: values that are saved, and values that are recomputed.

/// Remat policies: the values that the forward half of a differentiated scan saves for the backward half. The
/// others are recomputed. A policy saves the fewest bytes that it allows. Slices and captures are not saved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Remat {
    /// Recompute only cheap operations: elementwise operations, creation and movement (constants, iotas,
    /// random numbers, broadcasts, renames of one dim).
    #[default]
    SaveAll,
    /// Also recompute einsums with at most [`Remat::few_terms`] products per element, i.e. attention logits.
    SaveLong,
    /// As `SaveLong`, with a larger bound that includes the results of attention. Also recompute einsums of
    /// slices and captures, whose operands need not be saved.
    SaveCompact,
    /// Recompute everything but einsums, renames of several dims at once (which may be all-to-alls), and
    /// loops that contain these.
    SaveContractions,
    /// Recompute everything from the carries.
    SaveCarries,
}

impl Remat {
    /// The largest number of products per element for which an einsum is recomputed.
    pub fn few_terms(self) -> usize {
        match self {
            Remat::SaveLong => 64,
            Remat::SaveCompact => 512,
            Remat::SaveAll | Remat::SaveContractions | Remat::SaveCarries => 0,
        }
    }
}
