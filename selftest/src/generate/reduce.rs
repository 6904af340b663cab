//! Random reductions.

use super::program::{Facts, Gen};
use mesh::{
    DType, Name,
    ir::{Reduce, ReduceKind},
};

impl Gen<'_, '_> {
    pub(super) fn reduce(&mut self) -> Option<()> {
        if self.rng.chance(20) {
            let x = self.exact()?;
            let dim = self.dim_of(x)?;
            return self
                .emit1(Reduce::ArgMax { dim: dim.name }, &[x], Facts::exact(dim.size as f64))
                .map(drop);
        }
        let kind = self.rng.one_of([
            ReduceKind::Sum,
            ReduceKind::Sum,
            ReduceKind::Max,
            ReduceKind::Min,
            ReduceKind::Mean,
            ReduceKind::LogSumExp,
        ]);
        let x = match kind {
            ReduceKind::Sum | ReduceKind::Mean | ReduceKind::LogSumExp => {
                self.value(|g, v| g.ty(v).dtype != DType::Pred)?
            }
            ReduceKind::Max | ReduceKind::Min => {
                let float = self.kinked();
                if self.rng.chance(50) { float? } else { self.value(|g, v| !g.ty(v).dtype.is_float())? }
            }
        };
        let names: Vec<Name> = self.ty(x).names().cloned().collect();
        let dims = self.rng.some_of(&names);
        let count: usize = dims.iter().filter_map(|n| self.ty(x).size(n)).product();
        let facts = self.facts(x);
        let facts = match kind {
            ReduceKind::Sum => Facts::rounded(facts.bound * count as f64),
            ReduceKind::Mean => Facts::rounded(facts.bound),
            ReduceKind::LogSumExp => Facts::rounded(facts.bound + (count as f64).ln()),
            ReduceKind::Max | ReduceKind::Min => facts.moved(),
        };
        self.emit1(Reduce::Over { kind, dims }, &[x], facts).map(drop)
    }
}
