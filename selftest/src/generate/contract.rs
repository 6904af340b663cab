//! Random einsums. Those of whole numbers are in place of some of their products, so that existing seeds keep
//! their other instructions.

use super::program::{Facts, Gen};
use mesh::{DType, Name, Value, ir::Contract};

impl Gen<'_, '_> {
    pub(super) fn contract(&mut self) -> Option<()> {
        let a = self.float()?;
        let dtype = self.ty(a).dtype;
        // Einsums of tensors that share no dim are rare in models.
        let strangers = self.rng.chance(10);
        let shares = |g: &Self, v| g.ty(v).names().any(|n| g.ty(a).has(n));
        let b = self.value(|g, v| g.ty(v).dtype == dtype && (strangers || shares(g, v)))?;
        let mut all: Vec<Name> = self.ty(a).names().cloned().collect();
        all.extend(self.ty(b).names().filter(|n| !all.contains(n)).cloned().collect::<Vec<_>>());
        let out = self.rng.some_of(&all);
        let summed: usize = all
            .iter()
            .filter(|n| !out.contains(n))
            .map(|n| self.ty(a).size(n).or(self.ty(b).size(n)).unwrap_or(1))
            .product();
        let bound = self.facts(a).bound * self.facts(b).bound * summed as f64;
        let dtype = if self.rng.chance(80) { DType::F32 } else { DType::Bf16 };
        self.emit1(Contract { out, dtype }, &[a, b], Facts::rounded(bound)).map(drop)
    }

    /// Generates the einsum of two tensors of whole numbers that sums the last of their dims.
    pub(super) fn whole_contract(&mut self, a: Value, b: Value) -> Option<Value> {
        let mut out: Vec<Name> = self.ty(a).names().cloned().collect();
        out.extend(self.ty(b).names().filter(|n| !out.contains(n)).cloned().collect::<Vec<_>>());
        out.pop();
        let dtype = self.ty(a).dtype;
        // Whole numbers wrap, so that their bounds are of no consequence.
        self.emit1(Contract { out, dtype }, &[a, b], Facts::exact(f64::from(u32::MAX)))
    }
}
