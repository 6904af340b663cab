//! Random folds.

use super::program::{Facts, Gen};
use mesh::{
    DType, Name,
    ir::{Fold, Reduce},
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
        let kind = self.rng.one_of([Fold::Sum, Fold::Sum, Fold::Max, Fold::Min, Fold::Mean, Fold::LogSumExp]);
        let x = match kind {
            Fold::Sum | Fold::Mean | Fold::LogSumExp => self.value(|g, v| g.ty(v).dtype != DType::Pred)?,
            Fold::Max | Fold::Min => {
                let float = self.kinked();
                if self.rng.chance(50) { float? } else { self.value(|g, v| !g.ty(v).dtype.is_float())? }
            }
        };
        let names: Vec<Name> = self.ty(x).names().cloned().collect();
        let dims = self.rng.some_of(&names);
        let count: usize = dims.iter().filter_map(|n| self.ty(x).size(n)).product();
        let facts = self.facts(x);
        let facts = match kind {
            Fold::Sum => Facts::rounded(facts.bound * count as f64),
            Fold::Mean => Facts::rounded(facts.bound),
            Fold::LogSumExp => Facts::rounded(facts.bound + (count as f64).ln()),
            Fold::Max | Fold::Min => facts.moved(),
        };
        self.emit1(Reduce::Fold { kind, dims }, &[x], facts).map(drop)
    }
}
