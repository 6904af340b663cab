//! Random indexing operations. Some indices are out of range.

use super::program::{Facts, Gen};
use super::shape::unsplit;
use mesh::{
    DType, Dim, Name, Value,
    ir::{Extreme, Index, Outside, Shape, Unary},
};

impl Gen<'_, '_> {
    pub(super) fn index(&mut self) -> Option<()> {
        match self.rng.below(12) {
            0..=1 => {
                let index = self.indices()?;
                let dim = self.other_dims(index).first()?.clone();
                let dtype = self.rng.one_of([DType::F32, DType::F32, DType::Bf16, DType::S32, DType::Pred]);
                self.emit1(Index::OneHot { dim: unsplit(dim), dtype }, &[index], Facts::exact(1.0)).map(drop)
            }
            2..=3 => {
                let (x, index) = (self.value(|g, v| !g.ty(v).dims.is_empty())?, self.indices()?);
                let dim = self.dim_of(x)?.name;
                let outside = self.rng.one_of([Outside::Zero, Outside::Clamp]);
                self.emit1(Index::Gather { dim, outside }, &[x, index], self.facts(x).moved()).map(drop)
            }
            4..=5 => self.scatter_add(),
            6 => self.permute(),
            7 => self.top_k(),
            8 => self.sort(),
            9 => {
                let x = self.value(|g, v| g.ty(v).dtype != DType::Pred)?;
                let dim = self.dim_of(x)?;
                let (exclusive, reverse) = (self.rng.chance(50), self.rng.chance(50));
                let facts = Facts::rounded(self.facts(x).bound * dim.size as f64);
                self.emit1(Index::CumSum { dim: dim.name, exclusive, reverse }, &[x], facts).map(drop)
            }
            10 => {
                let (x, start) = (self.value(|_, _| true)?, self.start()?);
                let dim = self.dim_of(x)?;
                let size = 1 + self.rng.below(dim.size);
                let op = Index::DynamicSlice { dim: dim.name, size };
                self.emit1(op, &[x, start], self.facts(x).moved()).map(drop)
            }
            _ => self.dynamic_update(),
        }
    }

    fn indices(&mut self) -> Option<Value> {
        self.value(|g, v| g.ty(v).dtype == DType::S32)
    }

    fn start(&mut self) -> Option<Value> {
        self.value(|g, v| g.ty(v).dtype == DType::S32 && g.ty(v).dims.is_empty())
    }

    fn scatter_add(&mut self) -> Option<()> {
        let index = self.indices()?;
        let has_all = |g: &Self, v: Value| {
            g.ty(v).dtype != DType::Pred
                && g.ty(index).logical().all(|d| g.ty(v).size(&d.name) == Some(d.size))
        };
        let updates = self.value(has_all)?;
        let own: Vec<Name> = self.ty(index).names().cloned().collect();
        let over = self.rng.some_of(&own);
        let count: usize = over.iter().filter_map(|n| self.ty(index).size(n)).product();
        let dim = self.other_dims(updates).first()?.clone();
        // Without a separate draw, so that existing seeds keep their other instructions.
        if updates.0.is_multiple_of(3) && (!self.smooth || self.facts(updates).exact) {
            return self.scatter_extreme(index, updates, dim, over);
        }
        let facts = Facts::rounded(self.facts(updates).bound * count as f64);
        self.emit1(Index::ScatterAdd { dim: unsplit(dim), over }, &[index, updates], facts).map(drop)
    }

    /// Scatters updates onto ones.
    fn scatter_extreme(&mut self, index: Value, updates: Value, dim: Dim, over: Vec<Name>) -> Option<()> {
        let kept = self.ty(updates).logical().filter(|d| !over.contains(&d.name));
        let dims: Vec<_> = kept.chain([&dim]).cloned().map(unsplit).collect();
        let one = self.constant(self.ty(updates).dtype, 1.0)?;
        let x = self.emit1(Shape::Broadcast { dims }, &[one], Facts::exact(1.0))?;
        let kind = if updates.0.is_multiple_of(2) { Extreme::Max } else { Extreme::Min };
        let facts = self.facts(updates).with(Facts::exact(1.0), self.facts(updates).bound.max(1.0));
        self.emit1(Index::ScatterExtreme { kind, dim: dim.name, over }, &[x, index, updates], facts).map(drop)
    }

    fn permute(&mut self) -> Option<()> {
        let forward = self.value(|g, v| g.facts(v).permutation.is_some_and(|p| p.forward))?;
        let pair = self.facts(forward).permutation?.pair;
        let half = |g: &Self, v| g.facts(v).permutation.is_some_and(|p| p.pair == pair && !p.forward);
        let inverse = self.value(half)?;
        let names = |g: &Self, v: Value| g.ty(v).names().cloned().collect::<Vec<_>>();
        let (of_forward, of_inverse) = (names(self, forward), names(self, inverse));
        let dim = of_inverse.iter().find(|n| !of_forward.contains(n))?.clone();
        let to = of_forward.iter().find(|n| !of_inverse.contains(n))?.clone();
        let x = self.value(|g, v| of_inverse.iter().all(|n| g.ty(v).has(n)) && !g.ty(v).has(&to))?;
        self.emit1(Index::Permute { dim, to }, &[x, forward, inverse], self.facts(x).moved()).map(drop)
    }

    fn top_k(&mut self) -> Option<()> {
        let x = self.exact()?;
        let dim = self.dim_of(x)?;
        let size = 1 + self.rng.below(dim.size);
        let name = match self.rng.below(3) {
            0 => dim.name.clone(),
            1 => self.other_dims(x).into_iter().find(|d| d.size == size)?.name,
            _ => self.fresh_name(),
        };
        let facts = [self.facts(x).moved(), Facts::exact(dim.size as f64)];
        self.emit(Index::TopK { dim: dim.name, to: Dim::new(name, size) }, &[x], &facts).map(drop)
    }

    fn sort(&mut self) -> Option<()> {
        let key = self.exact()?;
        let dim = self.dim_of(key)?.name;
        let descending = self.rng.chance(50);
        let mut args = vec![key];
        for _ in 0..self.rng.below(3) {
            let alike = |g: &Self, v: Value| g.ty(v).with_dtype(g.ty(key).dtype).matches(g.ty(key));
            args.push(self.value(alike)?);
        }
        let facts: Vec<Facts> = args.iter().map(|v| self.facts(*v).moved()).collect();
        self.emit(Index::Sort { dim, descending }, &args, &facts).map(drop)
    }

    fn dynamic_update(&mut self) -> Option<()> {
        let x = self.value(|_, _| true)?;
        let mut update = self.slice(x)?;
        let dims = |g: &Self, v: Value| g.ty(v).logical().cloned().collect::<Vec<_>>();
        let dim = dims(self, x).into_iter().zip(dims(self, update)).find(|(a, b)| a != b)?.0.name;
        if self.ty(x).dtype.is_float() {
            update = self.unary(Unary::Sin, update, Facts::rounded(1.0))?;
        }
        let start = self.start()?;
        let facts = self.facts(x).with(self.facts(update), self.facts(x).bound.max(1.0));
        self.emit1(Index::DynamicUpdate { dim }, &[x, update, start], facts).map(drop)
    }
}
