//! Einsums as dots. Dims of both operands and the result are batch dimensions; dims of both operands that the
//! result lacks are contracted; a dim of one operand only that the result lacks is summed first.

use super::{Combine, Emitter, Platform, Tensor, position, primitive};
use mesh::{DType, Name, ir::Contract};
use proto::xla::{DotDimensionNumbers, PrimitiveType};

impl Emitter<'_> {
    pub(super) fn contract(&mut self, op: &Contract, args: &[Tensor]) -> Tensor {
        let a = self.presum(&args[0], &args[1], &op.out);
        let b = self.presum(&args[1], &args[0], &op.out);
        let shared: Vec<Name> = a.order.iter().filter(|n| b.order.contains(n)).cloned().collect();
        let (batch, contracted): (Vec<Name>, Vec<Name>) =
            shared.into_iter().partition(|n| op.out.contains(n));
        let free = |x: &Tensor| x.order.iter().any(|n| !batch.contains(n) && !contracted.contains(n));
        // Backends have no units for matrix products of 32-bit whole numbers, and not all take their dots.
        if !op.dtype.is_float() || contracted.is_empty() || !(free(&a) || free(&b)) {
            return self.multiply_and_sum(op, &a, &b, &contracted);
        }
        match self.platform {
            Platform::Cpu { .. } => self.cpu_dot(op, &a, &b, &contracted),
            Platform::Accelerator => self.plain_dot(op, &a, &b, &contracted),
        }
    }

    /// A dot of the operands as they are; the plugin's compiler chooses their layout in memory.
    fn plain_dot(&mut self, op: &Contract, a: &Tensor, b: &Tensor, contracted: &[Name]) -> Tensor {
        // The dot puts batch, left, right in this order, so that the operand whose own dims come first in the
        // result is left.
        let own =
            |x: &Tensor, y: &Tensor| op.out.iter().position(|n| x.order.contains(n) && !y.order.contains(n));
        let swap = match (own(a, b), own(b, a)) {
            (Some(i), Some(j)) => j < i,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let (a, b) = if swap { (b, a) } else { (a, b) };
        self.dot(op, a, b, contracted)
    }

    /// XLA's CPU backend has a fast path for products whose left operand is contracted over its last
    /// dimension. Of the two arrangements, the one that moves less memory is taken; operands are transposed
    /// in a way that XLA does not fold back into the product. (Measured: a product in another arrangement
    /// takes twice as long in f32, and four to seven times as long in bf16.)
    fn cpu_dot(&mut self, op: &Contract, a: &Tensor, b: &Tensor, contracted: &[Name]) -> Tensor {
        let elements = |x: &Tensor| self.b.sizes(x.hlo).iter().product::<usize>();
        let plan = |left: &Tensor, right: &Tensor| {
            let sums = together(right, contracted)
                .or_else(|| together(left, contracted))
                .unwrap_or_else(|| contracted.to_vec());
            let turn_left = !left.order.ends_with(&sums);
            let turn_right = together(right, contracted).is_none_or(|order| order != sums);
            let order = dot_order(op, left, right, contracted);
            let result: usize = elements(left)
                / sums.iter().map(|n| self.b.sizes(left.hlo)[left.position(n)]).product::<usize>();
            let result =
                result * right_only(right, left).map(|i| self.b.sizes(right.hlo)[i]).product::<usize>();
            let cost = if turn_left { elements(left) } else { 0 }
                + if turn_right { elements(right) } else { 0 }
                + if order == op.out { 0 } else { result };
            (cost, sums, turn_left, turn_right)
        };
        let (first, second) = (plan(a, b), plan(b, a));
        let swap = second.0 < first.0;
        let (left, right) = if swap { (b, a) } else { (a, b) };
        let (_, sums, turn_left, turn_right) = if swap { second } else { first };
        let batch: Vec<Name> =
            op.out.iter().filter(|n| left.order.contains(n) && right.order.contains(n)).cloned().collect();
        let rest = |x: &Tensor| -> Vec<Name> {
            x.order.iter().filter(|n| !batch.contains(n) && !sums.contains(n)).cloned().collect()
        };
        let left = if turn_left {
            self.solid(left, [batch.clone(), rest(left), sums.clone()].concat())
        } else {
            left.clone()
        };
        let right = if turn_right {
            self.solid(right, [batch.clone(), sums.clone(), rest(right)].concat())
        } else {
            right.clone()
        };
        let (mut left, mut right) = (self.merged(&left, &sums), self.merged(&right, &sums));
        // A transpose that XLA may fold: its slow path has no bf16 products with float32 results.
        let foldable = |x: &Tensor| self.b.sizes(x.hlo).iter().all(|n| super::factor(*n).is_none());
        let is_bf16 = |x: &Tensor| self.b.dtype(x.hlo) == PrimitiveType::Bf16;
        if self.widens_products && is_bf16(&left) && is_bf16(&right) {
            return self.wide_dot(op, &left, &right, &sums[..1]);
        }
        if (turn_left && foldable(&left)) || (turn_right && foldable(&right)) {
            left = left.with(self.b.convert(left.hlo, PrimitiveType::F32));
            right = right.with(self.b.convert(right.hlo, PrimitiveType::F32));
        }
        self.dot(op, &left, &right, &sums[..1])
    }

    /// A product of bf16 values in f32. XLA may cancel a cast to bf16 and back, but no `reduce-precision`: so
    /// the operands and the result are those of a bf16 product, up to the order of sums.
    fn wide_dot(&mut self, op: &Contract, left: &Tensor, right: &Tensor, contracted: &[Name]) -> Tensor {
        let mut rounded = |x: &Tensor| {
            let wide = self.b.convert(x.hlo, PrimitiveType::F32);
            x.with(self.b.reduce_precision(wide, 8, 7))
        };
        let (left, right) = (rounded(left), rounded(right));
        let product = self.dot(&Contract { dtype: DType::F32, ..op.clone() }, &left, &right, contracted);
        match op.dtype {
            DType::Bf16 => {
                let exact = self.b.reduce_precision(product.hlo, 8, 7);
                Tensor { wide: Some(exact), ..product.with(self.b.convert(exact, PrimitiveType::Bf16)) }
            }
            DType::F32 | DType::S32 | DType::U32 | DType::Pred => product,
        }
    }

    fn solid(&mut self, x: &Tensor, order: Vec<Name>) -> Tensor {
        let permutation: Vec<usize> = order.iter().map(|n| x.position(n)).collect();
        Tensor::new(self.turned(x.hlo, &permutation), order)
    }

    /// `x` with the adjacent dims `names` merged, under the name of the first.
    fn merged(&mut self, x: &Tensor, names: &[Name]) -> Tensor {
        let at = x.position(&names[0]);
        let mut sizes = self.b.sizes(x.hlo);
        let product = sizes[at..at + names.len()].iter().product();
        sizes.splice(at..at + names.len(), [product]);
        let mut order = x.order.clone();
        order.drain(at + 1..at + names.len());
        Tensor::new(self.b.reshape(x.hlo, &sizes), order)
    }

    fn dot(&mut self, op: &Contract, a: &Tensor, b: &Tensor, contracted: &[Name]) -> Tensor {
        let batch: Vec<Name> =
            op.out.iter().filter(|n| a.order.contains(n) && b.order.contains(n)).cloned().collect();
        let numbers =
            |x: &Tensor, names: &[Name]| names.iter().map(|n| position(&x.order, n) as i64).collect();
        let dot = DotDimensionNumbers {
            lhs_contracting_dimensions: numbers(a, contracted),
            rhs_contracting_dimensions: numbers(b, contracted),
            lhs_batch_dimensions: numbers(a, &batch),
            rhs_batch_dimensions: numbers(b, &batch),
        };
        let order = dot_order(op, a, b, contracted);
        Tensor::new(self.b.dot(a.hlo, b.hlo, dot, primitive(op.dtype)), order)
    }

    /// `x` summed over the dims that neither `other` nor the result has.
    fn presum(&mut self, x: &Tensor, other: &Tensor, out: &[Name]) -> Tensor {
        let lonely = |n: &&Name| !other.order.contains(n) && !out.contains(n);
        let gone: Vec<Name> = x.order.iter().filter(lonely).cloned().collect();
        if gone.is_empty() {
            return x.clone();
        }
        self.fold(Combine::Add, x, 0.0, &gone)
    }

    /// An einsum that contains no matrix product of floats: nothing is contracted, only batch dims remain, or
    /// the operands are whole numbers.
    fn multiply_and_sum(&mut self, op: &Contract, a: &Tensor, b: &Tensor, contracted: &[Name]) -> Tensor {
        let (x, order) = self.common(&[a.clone(), b.clone()]);
        let ty = if op.dtype.is_float() { PrimitiveType::F32 } else { primitive(op.dtype) };
        let wide: Vec<_> = x.into_iter().map(|x| self.b.convert(x, ty)).collect();
        let product = Tensor::new(self.b.binary("multiply", wide[0], wide[1]), order);
        let sum = self.fold(Combine::Add, &product, 0.0, contracted);
        sum.with(self.b.convert(sum.hlo, primitive(op.dtype)))
    }
}

/// Positions of the dims that only `x` has.
fn right_only(x: &Tensor, other: &Tensor) -> impl Iterator<Item = usize> {
    (0..x.order.len()).filter(|i| !other.order.contains(&x.order[*i]))
}

/// The order of a dot's dims: batch (as in the result), left, right.
fn dot_order(op: &Contract, left: &Tensor, right: &Tensor, contracted: &[Name]) -> Vec<Name> {
    let batch = op.out.iter().filter(|n| left.order.contains(n) && right.order.contains(n)).cloned();
    let own = |x: &Tensor, y: &Tensor| -> Vec<Name> {
        right_only(x, y).map(|i| x.order[i].clone()).filter(|n| !contracted.contains(n)).collect()
    };
    batch.chain(own(left, right)).chain(own(right, left)).collect()
}

/// The dims `names` in their order in `x`. `None` if they are not adjacent.
fn together(x: &Tensor, names: &[Name]) -> Option<Vec<Name>> {
    let first = x.order.iter().position(|n| names.contains(n))?;
    let run = x.order.get(first..first + names.len())?;
    run.iter().all(|n| names.contains(n)).then(|| run.to_vec())
}
