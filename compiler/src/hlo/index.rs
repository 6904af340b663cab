//! Movement by index. Gathers and scatters are emitted in the one form that all plugins do well: whole rows
//! of a matrix, with batch dims merged into the row number.

use super::{Combine, Emitter, Hlo, Platform, Rows, Tensor, primitive};
use mesh::{
    Dim, Name, TensorDim, Type,
    ir::{Extreme, Index, Outside},
};
use proto::xla::PrimitiveType;

impl Emitter<'_> {
    pub(super) fn index(&mut self, op: &Index, args: &[Tensor], types: &[&Type]) -> Vec<Tensor> {
        match op {
            Index::OneHot { dim, dtype } => vec![self.one_hot(&args[0], dim, primitive(*dtype))],
            Index::Gather { dim, outside } => {
                let dim = types[0].dim(dim).expect("the verifier checked the dim").clone();
                vec![self.gather(&args[0], &args[1], &dim, *outside)]
            }
            Index::ScatterAdd { dim, over } => {
                vec![self.scatter(Combine::Add, None, [&args[0], &args[1]], dim, over)]
            }
            Index::ScatterExtreme { kind, dim, over } => {
                let dim = types[0].dim(dim).expect("the verifier checked the dim").clone();
                let combine = match kind {
                    Extreme::Max => Combine::Max,
                    Extreme::Min => Combine::Min,
                };
                vec![self.scatter(combine, Some(&args[0]), [&args[1], &args[2]], &dim, over)]
            }
            Index::Permute { dim, to: _ } => {
                let dim = types[0].dim(dim).expect("the verifier checked the dim").clone();
                vec![self.gather(&args[0], &args[1], &dim, Outside::Zero)]
            }
            Index::TopK { dim, to } => self.top_k(&args[0], dim, to),
            Index::Sort { dim, descending } => self.sort(args, dim, *descending),
            Index::CumSum { dim, exclusive, reverse } => {
                vec![self.cumsum(&args[0], dim, *exclusive, *reverse)]
            }
            Index::DynamicSlice { dim, size } => {
                let at = args[0].position(dim);
                let mut sizes = self.b.sizes(args[0].hlo);
                sizes[at] = *size;
                let start = self.inside(args[1].hlo, self.b.sizes(args[0].hlo)[at] - size);
                let starts = self.starts(sizes.len(), at, start);
                vec![args[0].with(self.b.dynamic_slice(args[0].hlo, &starts, &sizes))]
            }
            Index::DynamicUpdate { dim } => {
                let update = self.ordered(&args[1], &args[0].order);
                let at = args[0].position(dim);
                let last = self.b.sizes(args[0].hlo)[at] - self.b.sizes(update)[at];
                let start = self.inside(args[2].hlo, last);
                let starts = self.starts(args[0].order.len(), at, start);
                vec![args[0].with(self.b.dynamic_update_slice(args[0].hlo, update, &starts))]
            }
        }
    }

    fn one_hot(&mut self, index: &Tensor, dim: &TensorDim, dtype: PrimitiveType) -> Tensor {
        let local = dim.dim.size / self.mesh().product(&dim.axes);
        let places = self.positions(&dim.axes, local, PrimitiveType::S32);
        let places = Tensor::new(places, vec![dim.dim.name.clone()]);
        let order: Vec<Name> = index.order.iter().chain([&dim.dim.name]).cloned().collect();
        let mut sizes = self.b.sizes(index.hlo);
        sizes.push(local);
        let index = self.expanded(index, &order, &sizes);
        let places = self.expanded(&places, &order, &sizes);
        let hit = self.b.compare("EQ", index, places);
        Tensor::new(self.b.convert(hit, dtype), order)
    }

    /// The largest elements along `dim` and their positions.
    fn top_k(&mut self, x: &Tensor, dim: &Name, to: &Dim) -> Vec<Tensor> {
        let at = x.position(dim);
        let places = self.b.iota(PrimitiveType::S32, &self.b.sizes(x.hlo), at);
        let sorted = self.b.sort(&[x.hlo, places], at, true);
        let rename = |n: &Name| if n == dim { to.name.clone() } else { n.clone() };
        let order: Vec<Name> = x.order.iter().map(rename).collect();
        let part = |e: &mut Self, i: usize| {
            let part = e.b.part(sorted, i);
            Tensor::new(e.b.slice(part, at, 0, to.size, 1), order.clone())
        };
        vec![part(self, 0), part(self, 1)]
    }

    /// All operands in the order that sorts the first one.
    fn sort(&mut self, args: &[Tensor], dim: &Name, descending: bool) -> Vec<Tensor> {
        let order = args[0].order.clone();
        let operands: Vec<Hlo> = args.iter().map(|x| self.ordered(x, &order)).collect();
        let sorted = self.b.sort(&operands, args[0].position(dim), descending);
        let part = |e: &mut Self, i: usize| if operands.len() == 1 { sorted } else { e.b.part(sorted, i) };
        (0..operands.len()).map(|i| Tensor::new(part(self, i), order.clone())).collect()
    }

    /// `start` clamped to 0..=`last`. HLO specifies that a dynamic slice clamps, but XLA merges a slice of a
    /// slice by adding the unclamped starts, and then reads what the inner slice excludes.
    fn inside(&mut self, start: Hlo, last: usize) -> Hlo {
        let low = self.b.constant(PrimitiveType::S32, 0.0);
        let high = self.b.constant(PrimitiveType::S32, last as f64);
        self.b.clamp(low, start, high)
    }

    /// The starts of a dynamic slice: `start` along dimension `at`, 0 elsewhere.
    pub(super) fn starts(&mut self, rank: usize, at: usize, start: Hlo) -> Vec<Hlo> {
        let zero = self.b.constant(PrimitiveType::S32, 0.0);
        (0..rank).map(|i| if i == at { start } else { zero }).collect()
    }

    fn gather(&mut self, x: &Tensor, index: &Tensor, dim: &TensorDim, outside: Outside) -> Tensor {
        let name = &dim.dim.name;
        let batch: Vec<Name> = index.order.iter().filter(|n| x.order.contains(n)).cloned().collect();
        let rest: Vec<Name> = x.order.iter().filter(|n| *n != name && !batch.contains(n)).cloned().collect();
        let order_x = [&batch[..], std::slice::from_ref(name), &rest[..]].concat();
        let rows = self.ordered(x, &order_x);
        let sizes = self.b.sizes(rows);
        let local = sizes[batch.len()];
        let width: usize = sizes[batch.len() + 1..].iter().product();
        let count: usize = sizes[..=batch.len()].iter().product();
        let rows = self.b.reshape(rows, &[count, width]);
        let index_sizes = self.b.sizes(index.hlo);
        let (row, inside) = self.row_numbers(index, &batch, dim, local);
        let taken = self.b.gather_rows(rows, row);
        let rest_sizes = &sizes[batch.len() + 1..];
        let shape = [&index_sizes[..], rest_sizes].concat();
        let taken = self.b.reshape(taken, &shape);
        let order = [&index.order[..], &rest[..]].concat();
        let hlo = match outside {
            Outside::Clamp => taken,
            Outside::Zero => {
                let inside = self.b.broadcast(inside, &shape, &(0..index_sizes.len()).collect::<Vec<_>>());
                let zero = self.b.splat_like(taken, 0.0);
                self.b.select(inside, taken, zero)
            }
        };
        Tensor::new(hlo, order)
    }

    /// For each element of `index` (flattened), the row that it means in the matrix batch × `dim`, clamped;
    /// and, in the shape of `index`, whether it lies inside this device's shard of `dim`.
    fn row_numbers(&mut self, index: &Tensor, batch: &[Name], dim: &TensorDim, local: usize) -> (Hlo, Hlo) {
        let sizes = self.b.sizes(index.hlo);
        let ty = PrimitiveType::S32;
        let mut at = index.hlo;
        if let Some(offset) = self.shard_offset(&dim.axes, local) {
            let offset = self.b.broadcast(offset, &sizes, &[]);
            at = self.b.binary("subtract", at, offset);
        }
        let zero = self.b.splat(ty, 0.0, &sizes);
        let last = self.b.splat(ty, (local - 1) as f64, &sizes);
        let above = self.b.compare("GE", at, zero);
        let below = self.b.compare("LE", at, last);
        let inside = self.b.binary("and", above, below);
        let mut row = self.b.clamp(zero, at, last);
        let mut weight = local;
        for name in batch.iter().rev() {
            let i = index.position(name);
            let place = self.b.iota(ty, &sizes, i);
            let stride = self.b.splat(ty, weight as f64, &sizes);
            let term = self.b.binary("multiply", place, stride);
            row = self.b.binary("add", row, term);
            weight *= sizes[i];
        }
        (self.b.reshape(row, &[sizes.iter().product()]), inside)
    }

    /// Combines updates with the elements of `x` at their indices; without `x`, with zeros.
    fn scatter(
        &mut self,
        combine: Combine,
        x: Option<&Tensor>,
        [index, updates]: [&Tensor; 2],
        dim: &TensorDim,
        over: &[Name],
    ) -> Tensor {
        let batch: Vec<Name> = index.order.iter().filter(|n| !over.contains(n)).cloned().collect();
        let rest: Vec<Name> = updates.order.iter().filter(|n| !index.order.contains(n)).cloned().collect();
        let local = dim.dim.size / self.mesh().product(&dim.axes);
        let dtype = self.b.dtype(updates.hlo);
        let rows = self.ordered(updates, &[&index.order[..], &rest[..]].concat());
        let sizes = self.b.sizes(rows);
        let rest_sizes = sizes[index.order.len()..].to_vec();
        let count: usize = sizes[..index.order.len()].iter().product();
        let width: usize = rest_sizes.iter().product();
        let rows = self.b.reshape(rows, &[count, width]);
        // Sums are computed in float32, whatever the type of the updates.
        let wide = if dtype == PrimitiveType::Bf16 { PrimitiveType::F32 } else { dtype };
        let rows = self.b.convert(rows, wide);
        let batch_sizes: Vec<usize> = batch.iter().map(|n| sizes[index.position(n)]).collect();
        let total = batch_sizes.iter().product::<usize>() * local;
        let (row, inside) = self.row_numbers(index, &batch, dim, local);
        // Indices outside go past the end, where a scatter drops them.
        let inside = self.b.reshape(inside, &[count]);
        let past = self.b.splat(PrimitiveType::S32, total as f64, &[count]);
        let row = self.b.select(inside, row, past);
        let shape = [&batch_sizes[..], &[local], &rest_sizes[..]].concat();
        let order = [&batch[..], std::slice::from_ref(&dim.dim.name), &rest[..]].concat();
        let before = match x {
            Some(x) => {
                let x = self.ordered(x, &order);
                let x = self.b.reshape(x, &[total, width]);
                self.b.convert(x, wide)
            }
            None => self.b.splat(wide, 0.0, &[total, width]),
        };
        let y = self.b.scatter_rows(combine, before, row, rows);
        let y = self.b.convert(y, dtype);
        let y = Tensor::new(self.b.reshape(y, &shape), order);
        if x.is_none() && dtype == PrimitiveType::F32 && 2 * count <= total {
            self.few_rows.insert(y.hlo, Rows { index: row, updates: rows, matrix: [total, width] });
        }
        y
    }

    /// The sum of two tensors of which one is a sum of few rows: these are added to the rows of the other
    /// one, so that a loop which accumulates them touches only these rows. `None` means that neither is.
    pub(super) fn sum_of_rows(&mut self, [a, b]: [&Tensor; 2]) -> Option<Tensor> {
        let of = |e: &Self, x: &Tensor| e.few_rows.get(&x.hlo).copied();
        let (rows, like, other) = match (of(self, a), of(self, b)) {
            (_, Some(rows)) => (rows, b, a),
            (Some(rows), None) => (rows, a, b),
            (None, None) => return None,
        };
        let same =
            like.order.len() == other.order.len() && like.order.iter().all(|n| other.order.contains(n));
        if !same {
            return None;
        }
        let sum = self.ordered(other, &like.order);
        let sum = self.b.reshape(sum, &rows.matrix);
        let sum = self.b.scatter_rows(Combine::Add, sum, rows.index, rows.updates);
        Some(like.with(self.b.reshape(sum, &self.b.sizes(like.hlo))))
    }

    /// Running sums by doubling: after step k, every element holds the sum of the 2^k elements up to it.
    fn cumsum(&mut self, x: &Tensor, dim: &Name, exclusive: bool, reverse: bool) -> Tensor {
        let at = x.position(dim);
        let size = self.b.sizes(x.hlo)[at];
        let dtype = self.b.dtype(x.hlo);
        let wide = if dtype == PrimitiveType::Bf16 { PrimitiveType::F32 } else { dtype };
        let mut sum = self.b.convert(x.hlo, wide);
        let whole = matches!(dtype, PrimitiveType::S32 | PrimitiveType::U32);
        if self.platform == Platform::Accelerator && whole {
            // Compilers for accelerators recognize this window, and read the tensor fewer times than the loop
            // below.
            let all = self.b.running_sum(sum, at, reverse);
            return x.with(if exclusive { self.b.binary("subtract", all, sum) } else { all });
        }
        let mut step = 1;
        while step < size {
            let shifted = self.shifted(sum, at, step, reverse);
            sum = self.b.binary("add", sum, shifted);
            step *= 2;
        }
        if exclusive {
            sum = self.shifted(sum, at, 1, reverse);
        }
        x.with(self.b.convert(sum, dtype))
    }

    /// `x` shifted by `step` along dimension `at`, towards the end, or the start if `back`; zeros are shifted
    /// in.
    fn shifted(&mut self, x: Hlo, at: usize, step: usize, back: bool) -> Hlo {
        let size = self.b.sizes(x)[at];
        let zero = self.b.constant(self.b.dtype(x), 0.0);
        if step >= size {
            return self.b.splat_like(x, 0.0);
        }
        if back {
            let kept = self.b.slice(x, at, step, size, 1);
            self.b.pad(kept, zero, at, 0, step)
        } else {
            let kept = self.b.slice(x, at, 0, size - step, 1);
            self.b.pad(kept, zero, at, step, 0)
        }
    }
}
