//! Reductions over dims.

use super::{Combine, Emitter, Hlo, Platform, Tensor};
use mesh::{
    Name, Type,
    ir::{Reduce, ReduceKind},
};
use proto::xla::PrimitiveType;

impl Emitter<'_> {
    pub(super) fn reduce(&mut self, op: &Reduce, x: &Tensor, ty: &Type) -> Tensor {
        match op {
            Reduce::Over { kind: ReduceKind::Sum, dims } => self.fold(Combine::Add, x, 0.0, dims),
            Reduce::Over { kind: ReduceKind::Mean, dims } => {
                let count: usize = dims.iter().filter_map(|n| ty.size(n)).product();
                let dtype = self.b.dtype(x.hlo);
                let wide = x.with(self.b.convert(x.hlo, PrimitiveType::F32));
                let sum = self.fold(Combine::Add, &wide, 0.0, dims);
                let share = self.b.splat_like(sum.hlo, 1.0 / count as f64);
                let mean = self.b.binary("multiply", sum.hlo, share);
                sum.with(self.b.convert(mean, dtype))
            }
            Reduce::Over { kind: ReduceKind::Max, dims } => self.extreme(x, dims, true),
            Reduce::Over { kind: ReduceKind::Min, dims } => self.extreme(x, dims, false),
            Reduce::Over { kind: ReduceKind::LogSumExp, dims } => self.logsumexp(x, dims),
            Reduce::ArgMax { dim } => self.argmax(x, dim),
        }
    }

    /// `x` reduced over the dims `gone`; bf16 sums are computed in float32.
    pub(super) fn fold(&mut self, combine: Combine, x: &Tensor, init: f64, gone: &[Name]) -> Tensor {
        let dims: Vec<usize> = gone.iter().map(|n| x.position(n)).collect();
        let order = x.order.iter().filter(|n| !gone.contains(n)).cloned().collect();
        let few = self.platform == Platform::Accelerator && combine == Combine::Add && init == 0.0;
        let reduce = |e: &mut Self, hlo: Hlo| match &dims[..] {
            [0] if few && is_few(&e.b.sizes(hlo)) => e.rows_added(hlo),
            _ => e.b.reduce(combine, hlo, init, &dims),
        };
        let narrow = self.b.dtype(x.hlo) == PrimitiveType::Bf16 && combine == Combine::Add;
        let hlo = if narrow { self.in_f32(x.hlo, reduce) } else { reduce(self, x.hlo) };
        Tensor::new(hlo, order)
    }

    /// Adds the rows of `x` one by one, which XLA can fuse with a following addition.
    fn rows_added(&mut self, x: Hlo) -> Hlo {
        let sizes = self.b.sizes(x);
        let mut sum = None;
        for i in 0..sizes[0] {
            let row = self.b.slice(x, 0, i, i + 1, 1);
            let row = self.b.reshape(row, &sizes[1..]);
            sum = Some(sum.map_or(row, |sum| self.b.binary("add", sum, row)));
        }
        sum.expect("there are rows, and few of them")
    }

    fn extreme(&mut self, x: &Tensor, dims: &[Name], max: bool) -> Tensor {
        let (low, high) = match self.b.dtype(x.hlo) {
            PrimitiveType::S32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            PrimitiveType::U32 => (0.0, f64::from(u32::MAX)),
            PrimitiveType::Pred => {
                let (combine, init) = if max { (Combine::Or, 0.0) } else { (Combine::And, 1.0) };
                return self.fold(combine, x, init, dims);
            }
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        };
        let (combine, init) = if max { (Combine::Max, low) } else { (Combine::Min, high) };
        self.fold(combine, x, init, dims)
    }

    fn logsumexp(&mut self, x: &Tensor, dims: &[Name]) -> Tensor {
        let dtype = self.b.dtype(x.hlo);
        let wide = x.with(self.b.convert(x.hlo, PrimitiveType::F32));
        let max = self.extreme(&wide, dims, true);
        // A row of -inf has no finite maximum to subtract; its result is ln 0 all the same.
        let finite = self.b.is_finite(max.hlo);
        let zero = self.b.splat_like(max.hlo, 0.0);
        let max = max.with(self.b.select(finite, max.hlo, zero));
        let sizes = self.b.sizes(wide.hlo);
        let top = self.expanded(&max, &wide.order, &sizes);
        let shifted = self.b.binary("subtract", wide.hlo, top);
        let exp = wide.with(self.b.unary("exponential", shifted));
        let sum = self.fold(Combine::Add, &exp, 0.0, dims);
        let log = self.b.unary("log", sum.hlo);
        let top = self.ordered(&max, &sum.order);
        let result = self.b.binary("add", log, top);
        sum.with(self.b.convert(result, dtype))
    }

    /// Two plain reductions instead of one over pairs, which compilers do not vectorize: the maximum, then
    /// the first position that holds it (or a NaN).
    fn argmax(&mut self, x: &Tensor, dim: &Name) -> Tensor {
        let max = self.extreme(x, std::slice::from_ref(dim), true);
        let sizes = self.b.sizes(x.hlo);
        let top = self.expanded(&max, &x.order, &sizes);
        let mut hit = self.b.compare("EQ", x.hlo, top);
        if matches!(self.b.dtype(x.hlo), PrimitiveType::F32 | PrimitiveType::Bf16) {
            let nan = self.b.compare("NE", x.hlo, x.hlo);
            hit = self.b.binary("or", hit, nan);
        }
        let axis = x.position(dim);
        let place = self.b.iota(PrimitiveType::S32, &sizes, axis);
        let last = self.b.splat(PrimitiveType::S32, (sizes[axis] - 1) as f64, &sizes);
        let place = Tensor::new(self.b.select(hit, place, last), x.order.clone());
        self.fold(Combine::Min, &place, (sizes[axis] - 1) as f64, std::slice::from_ref(dim))
    }
}

/// True if a tensor has few and large rows.
fn is_few(sizes: &[usize]) -> bool {
    let row: usize = sizes[1..].iter().product();
    (1..=FEW_ROWS).contains(&sizes[0]) && row >= LARGE_ROW
}

/// At most so many rows are added one by one, if each has enough elements: gradients of what a few sequences
/// share.
const FEW_ROWS: usize = 8;
const LARGE_ROW: usize = 1 << 20;
