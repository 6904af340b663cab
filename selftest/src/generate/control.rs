//! Random scans, conditionals and gradients.

use super::program::{Facts, Gen, Instruction};
use mesh::{
    Body, BodyBuilder, DType, Op, Type, Value,
    ir::{Binary, Control, Reduce, ReduceKind, Remat, Scan, Unary},
};

impl<'e> Gen<'_, 'e> {
    /// Returns a generator for an inner body, and the values that it captures.
    fn inner(&mut self) -> Gen<'_, 'e> {
        Gen {
            b: BodyBuilder::new(self.b.env),
            rng: self.rng,
            facts: Vec::new(),
            pool: self.pool,
            number: self.number,
            smooth: self.smooth,
            narrow: self.narrow,
            depth: self.depth + 1,
            fresh: self.fresh,
        }
    }

    /// Picks distinct values to pass to a body.
    fn captures(&mut self, count: usize) -> Vec<Value> {
        let mut captures: Vec<Value> = Vec::new();
        for _ in 0..count {
            if let Some(v) = self.value(|_, v| !captures.contains(&v)) {
                captures.push(v);
            }
        }
        captures
    }

    pub(super) fn scan(&mut self) -> Option<()> {
        let dim = self.pool.last()?.clone();
        let sliced = |g: &Self, v: Value| g.ty(v).size(&dim.name) == Some(dim.size);
        let mut xs: Vec<Value> = Vec::new();
        for _ in 0..self.rng.below(3) {
            xs.push(self.value(sliced)?);
        }
        let plain = |g: &Self, v: Value| !g.ty(v).has(&dim.name);
        let mut carries: Vec<Value> = Vec::new();
        for _ in 0..self.rng.below(3) {
            carries.push(self.value(plain)?);
        }
        let count = 1 + self.rng.below(4);
        let captures = self.captures(count);
        let given: Vec<(Type, Facts)> = [&carries[..], &xs, &captures]
            .concat()
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let (mut ty, facts) = (self.ty(*v).clone(), self.facts(*v));
                if i < carries.len() {
                    // A carry is rounded in each step, within the bound that the step restores.
                    return (ty, Facts::rounded(facts.bound.max(1.0)));
                }
                let slice = (carries.len()..carries.len() + xs.len()).contains(&i);
                ty.dims.retain(|d| !slice || d.dim.name != dim.name);
                (ty, if slice { facts.moved() } else { facts })
            })
            .collect();
        let (body, facts, fresh) = self.step(&carries, given)?;
        self.fresh = fresh;
        let remat = self.rng.one_of([Remat::SaveAll, Remat::SaveContractions, Remat::SaveCarries]);
        let (reverse, unroll, barrier) = (self.rng.chance(50), self.rng.chance(20), self.rng.chance(20));
        let scan = Scan { dim, carries: carries.len(), xs: xs.len(), reverse, remat, unroll, barrier, body };
        let args = [carries, xs, captures].concat();
        self.emit(Control::Scan(Box::new(scan)), &args, &facts).map(drop)
    }

    /// Generates the body of a scan, with the facts about the scan's results.
    fn step(&mut self, carries: &[Value], given: Vec<(Type, Facts)>) -> Option<(Body, Vec<Facts>, usize)> {
        let count = 2 + self.rng.below(8);
        let kept = self.rng.below(3);
        let mut g = self.inner();
        // Integers are exact as carries too; the builder derives this from the type.
        for (ty, facts) in given {
            let exact = facts.exact || !ty.dtype.is_float();
            let bound = if ty.dtype.is_float() { facts.bound } else { f64::from(u32::MAX) };
            g.param(ty, Facts { exact, bound, ..facts });
        }
        g.instructions(count);
        let mut results = Vec::new();
        let mut facts = Vec::new();
        for i in 0..carries.len() {
            let carry = g.b.body.params[i];
            let next = g.next_carry(carry)?;
            results.push(next);
            facts.push(Facts { exact: !g.ty(carry).dtype.is_float(), ..g.facts(carry) });
        }
        for y in g.results(kept) {
            results.push(y);
            facts.push(g.facts(y).moved());
        }
        if results.is_empty() {
            return None;
        }
        let fresh = g.fresh;
        Some((g.b.finish(results), facts, fresh))
    }

    /// Generates the next value of a carry: it depends on the old value and on a value of the step, and
    /// floats stay within 1.
    fn next_carry(&mut self, carry: Value) -> Option<Value> {
        let ty = self.ty(carry).clone();
        let other = self.fitted(&ty)?;
        match ty.dtype {
            DType::F32 | DType::Bf16 => {
                let sum = self.binary(Binary::Add, carry, other, self.facts(carry).bound + 1.0)?;
                self.unary(Unary::Tanh, sum, Facts::rounded(1.0))
            }
            DType::S32 | DType::U32 => self.binary(Binary::Add, carry, other, f64::from(u32::MAX)),
            DType::Pred => self.binary(Binary::Xor, carry, other, 1.0),
        }
    }

    pub(super) fn cond(&mut self) -> Option<()> {
        let p = self.value(|g, v| g.ty(v).dtype == DType::Pred && g.ty(v).dims.is_empty());
        let p = match p {
            Some(p) => p,
            None => {
                // Any truth value is legal.
                let p = self.value(|g, v| g.ty(v).dtype == DType::Pred)?;
                let dims = self.ty(p).names().cloned().collect();
                self.emit1(Reduce::Over { kind: ReduceKind::Max, dims }, &[p], Facts::exact(1.0))?
            }
        };
        let count = 1 + self.rng.below(4);
        let captures = self.captures(count);
        let given: Vec<(Type, Facts)> =
            captures.iter().map(|v| (self.ty(*v).clone(), self.facts(*v))).collect();
        let (then, facts, fresh) = self.branch(&given, None)?;
        self.fresh = fresh;
        let types: Vec<Type> = then.result_types().cloned().collect();
        let (otherwise, others, fresh) = self.branch(&given, Some(&types))?;
        self.fresh = fresh;
        let facts: Vec<Facts> =
            facts.iter().zip(others).map(|(a, b)| a.with(b, a.bound.max(b.bound))).collect();
        let cond = Control::Cond { then: Box::new(then), otherwise: Box::new(otherwise) };
        self.emit(cond, &[vec![p], captures].concat(), &facts).map(drop)
    }

    /// Generates a branch with results of the given types, or of any types.
    fn branch(
        &mut self,
        given: &[(Type, Facts)],
        types: Option<&[Type]>,
    ) -> Option<(Body, Vec<Facts>, usize)> {
        let count = 1 + self.rng.below(6);
        let wanted = 1 + self.rng.below(2);
        let mut g = self.inner();
        for (ty, facts) in given {
            g.param(ty.clone(), *facts);
        }
        g.instructions(count);
        let results = match types {
            None => g.results(wanted),
            Some(types) => types.iter().map(|ty| g.fitted(ty)).collect::<Option<_>>()?,
        };
        if results.is_empty() {
            return None;
        }
        let facts = results.iter().map(|v| g.facts(*v).moved()).collect();
        let fresh = g.fresh;
        Some((g.b.finish(results), facts, fresh))
    }

    /// Generates the gradients of a sum of some values with respect to others.
    pub(super) fn gradient(&mut self) -> Option<Vec<Value>> {
        let float = |g: &Self, v: Value| g.ty(v).dtype.is_float();
        let mut loss = self.constant(DType::F32, 0.5)?;
        let ends: Vec<Value> = self.results(4).into_iter().filter(|v| float(self, *v)).collect();
        for x in ends {
            let x = match self.ty(x).dtype {
                DType::F32 => x,
                _ => self.emit1(
                    mesh::ir::Elementwise::Cast(DType::F32),
                    &[x],
                    Facts::rounded(self.facts(x).bound),
                )?,
            };
            let wave = self.unary(Unary::Sin, x, Facts::rounded(1.0))?;
            let dims = self.ty(wave).names().cloned().collect();
            let kind = self.rng.one_of([ReduceKind::Sum, ReduceKind::Mean]);
            let bound = self.ty(wave).elements() as f64;
            let part = self.emit1(Reduce::Over { kind, dims }, &[wave], Facts::rounded(bound))?;
            loss = self.binary(Binary::Add, loss, part, self.facts(loss).bound + bound)?;
        }
        let mut args = vec![loss];
        for _ in 0..2 + self.rng.below(3) {
            // Parameters and reads of state come first, so that they are picked often enough.
            let early = self.rng.chance(50);
            let count = self.b.body.params.len() + 2;
            args.push(self.value(|g, v| float(g, v) && (!early || (v.0 as usize) < count))?);
        }
        // The size of gradients is unknown, so no instruction uses them.
        let facts = vec![Facts::rounded(1.0); args.len() - 1];
        let mut results = self.emit(Instruction(Op::Control(Control::Grad)), &args, &facts)?;
        results.insert(0, loss);
        Some(results)
    }
}
