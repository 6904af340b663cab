//! Random constants, reshapes, slices and concatenations.

use super::program::{Facts, Gen};
use mesh::{
    DType, Dim, Name, TensorDim, Value,
    ir::{Edge, Shape, Unary},
};

/// Makes a dim without axes.
pub(super) fn unsplit(dim: Dim) -> TensorDim {
    TensorDim { dim, axes: Vec::new() }
}

impl Gen<'_, '_> {
    pub(super) fn shape(&mut self) -> Option<()> {
        match self.rng.below(13) {
            0 => {
                let dtype = self.rng.one_of(DType::ALL);
                let value = match dtype {
                    DType::F32 | DType::Bf16 => self.rng.between(-24, 24) as f64 / 8.0,
                    DType::S32 => self.rng.between(-4, 4) as f64,
                    DType::U32 => self.rng.between(0, 9) as f64,
                    DType::Pred => self.rng.between(0, 1) as f64,
                };
                self.constant(dtype, value)
            }
            1 => {
                let dim = self.rng.pick(self.pool)?.clone();
                let dtype = self.rng.one_of([DType::F32, DType::S32, DType::U32, DType::Bf16]);
                let facts = Facts::exact(dim.size as f64);
                self.emit1(Shape::Iota { dim: unsplit(dim), dtype }, &[], facts)
            }
            2..=4 => self.rename(),
            5..=7 => self.reshape(),
            8 => {
                let x = self.value(|_, _| true)?;
                let mut dims = self.other_dims(x);
                dims.truncate(1 + self.rng.below(2));
                let dims = dims.into_iter().map(unsplit).collect();
                self.emit1(Shape::Broadcast { dims }, &[x], self.facts(x).moved())
            }
            9 => {
                let x = self.value(|_, _| true)?;
                self.slice(x)
            }
            10 => {
                let x = self.value(|_, _| true)?;
                let dim = self.dim_of(x)?.name;
                let value =
                    if self.ty(x).dtype == DType::Pred { 1.0 } else { self.rng.one_of([0.0, 1.0, 2.0]) };
                let facts = self.facts(x).moved();
                let facts = Facts { bound: facts.bound.max(value), ..facts };
                let (low, high) = (self.rng.below(3), self.rng.below(3));
                self.emit1(Shape::Pad { dim, low, high, value }, &[x], facts)
            }
            11 => self.shift(),
            _ => self.concat(),
        }
        .map(drop)
    }

    /// Slices `x` along one dim.
    pub(super) fn slice(&mut self, x: Value) -> Option<Value> {
        let dim = self.dim_of(x)?;
        let start = self.rng.below(dim.size);
        let limit = start + 1 + self.rng.below(dim.size - start);
        let stride = self.rng.one_of([1, 1, 2, 3]);
        self.emit1(Shape::Slice { dim: dim.name, start, limit, stride }, &[x], self.facts(x).moved())
    }

    /// Shifts or rolls `x` along one dim.
    fn shift(&mut self) -> Option<Value> {
        let x = self.value(|_, _| true)?;
        let dim = self.dim_of(x)?;
        let by = self.rng.below(2 * dim.size + 1) as isize - dim.size as isize;
        let facts = self.facts(x).moved();
        if self.rng.chance(50) {
            return self.emit1(Shape::Shift { dim: dim.name, by, edge: Edge::Wrap }, &[x], facts);
        }
        let value = if self.ty(x).dtype == DType::Pred { 1.0 } else { self.rng.one_of([0.0, 0.0, 2.0]) };
        let facts = Facts { bound: facts.bound.max(value), ..facts };
        self.emit1(Shape::Shift { dim: dim.name, by, edge: Edge::Fill(value) }, &[x], facts)
    }

    /// Renames dims to dims of the pool of equal size, including swaps, so that axes move between dims.
    fn rename(&mut self) -> Option<Value> {
        let x = self.value(|g, v| !g.ty(v).dims.is_empty())?;
        let own: Vec<Dim> = self.ty(x).logical().cloned().collect();
        let mut pairs: Vec<(Name, Name)> = Vec::new();
        let count = 1 + self.rng.below(3);
        for from in self.rng.shuffled(&own).into_iter().take(count) {
            let mut targets: Vec<Name> = self.pool[..self.pool.len() - 1]
                .iter()
                .filter(|d| d.size == from.size && d.name != from.name)
                .map(|d| d.name.clone())
                .collect();
            if self.rng.chance(30) {
                targets.push(self.fresh_name());
            }
            targets.retain(|n| pairs.iter().all(|(_, to)| to != n));
            pairs.push((from.name, self.rng.pick(&targets)?.clone()));
        }
        self.emit1(Shape::Rename { pairs }, &[x], self.facts(x).moved())
    }

    /// Reshapes some dims, in random order.
    fn reshape(&mut self) -> Option<Value> {
        let x = self.value(|_, _| true)?;
        let own: Vec<Dim> = self.ty(x).logical().cloned().collect();
        let mut from = self.rng.shuffled(&own);
        from.truncate(self.rng.one_of([0, 1, 1, 2, 2, 2, 3]));
        if self.rng.chance(50) {
            // In the order of the tensor, as in models.
            from.sort_by_key(|d| own.iter().position(|o| o == d));
        }
        let mut rest: usize = from.iter().map(|d| d.size).product();
        let mut to: Vec<TensorDim> = Vec::new();
        let parts = self.rng.one_of([1, 1, 2, 2, 3]);
        for part in 0..parts {
            let divisors: Vec<usize> = (1..=rest).filter(|d| rest.is_multiple_of(*d)).collect();
            let size = if part + 1 == parts { rest } else { *self.rng.pick(&divisors)? };
            rest /= size;
            let pool: Vec<Name> = self.pool[..self.pool.len() - 1]
                .iter()
                .filter(|d| d.size == size && to.iter().all(|t| t.dim.name != d.name))
                .map(|d| d.name.clone())
                .collect();
            let known = if self.rng.chance(70) { self.rng.pick(&pool).cloned() } else { None };
            let name = match known {
                Some(name) => name,
                None => self.fresh_name(),
            };
            to.push(unsplit(Dim::new(name, size)));
        }
        let from = from.into_iter().map(|d| d.name).collect();
        self.emit1(Shape::Reshape { from, to }, &[x], self.facts(x).moved())
    }

    fn concat(&mut self) -> Option<Value> {
        let x = self.value(|g, v| !g.ty(v).dims.is_empty())?;
        let dim = self.dim_of(x)?.name;
        let fits = |g: &Self, v: Value| {
            let (a, b) = (g.ty(x), g.ty(v));
            let but = |t: &mesh::Type| {
                let mut t = t.clone();
                t.dims.iter_mut().filter(|d| d.dim.name == dim).for_each(|d| d.dim.size = 1);
                t
            };
            b.has(&dim) && but(a).matches(&but(b))
        };
        let mut parts = vec![x];
        for _ in 0..1 + self.rng.below(2) {
            parts.push(self.value(fits)?);
        }
        let parts = self.rng.shuffled(&parts);
        let facts = parts.iter().map(|v| self.facts(*v)).reduce(|a, b| a.with(b, a.bound.max(b.bound)))?;
        self.emit1(Shape::Concat { dim }, &parts, facts)
    }

    /// Makes a value of a given type from a value of its element type: reduces extra dims and broadcasts
    /// missing ones. Floats end within 1.
    pub(super) fn fitted(&mut self, ty: &mesh::Type) -> Option<Value> {
        use mesh::ir::{Reduce, ReduceKind};
        let mut x = self.value(|g, v| g.ty(v).dtype == ty.dtype)?;
        let extra: Vec<Name> = self
            .ty(x)
            .logical()
            .filter(|d| ty.size(&d.name) != Some(d.size))
            .map(|d| d.name.clone())
            .collect();
        if !extra.is_empty() {
            let kind = match ty.dtype {
                DType::F32 | DType::Bf16 => ReduceKind::Mean,
                DType::S32 | DType::U32 => ReduceKind::Sum,
                DType::Pred => ReduceKind::Max,
            };
            let facts = if ty.dtype.is_float() {
                Facts::rounded(self.facts(x).bound)
            } else {
                Facts::exact(f64::from(u32::MAX))
            };
            x = self.emit1(Reduce::Over { kind, dims: extra }, &[x], facts)?;
        }
        if ty.dtype.is_float() {
            x = self.unary(Unary::Tanh, x, Facts::rounded(1.0))?;
        }
        let missing: Vec<TensorDim> =
            ty.dims.iter().filter(|d| !self.ty(x).has(&d.dim.name)).cloned().collect();
        if !missing.is_empty() {
            x = self.emit1(Shape::Broadcast { dims: missing }, &[x], self.facts(x).moved())?;
        }
        self.ty(x).matches(ty).then_some(x)
    }
}
