//! Einsums. Dims in both operands and in the result are batch dimensions of a dot, dims in both that go
//! are contracted; a dim that only one operand has and that goes is summed before.

use super::{Combine, Emitter, Tensor, position, primitive};
use mesh::{Name, ir::Contract};
use proto::xla::{DotDimensionNumbers, PrimitiveType};

impl Emitter<'_> {
    pub(super) fn contract(&mut self, op: &Contract, args: &[Tensor]) -> Tensor {
        let a = self.presum(&args[0], &args[1], &op.out);
        let b = self.presum(&args[1], &args[0], &op.out);
        let shared: Vec<Name> = a.order.iter().filter(|n| b.order.contains(n)).cloned().collect();
        let (batch, contracted): (Vec<Name>, Vec<Name>) =
            shared.into_iter().partition(|n| op.out.contains(n));
        let free = |x: &Tensor| x.order.iter().any(|n| !batch.contains(n) && !contracted.contains(n));
        if contracted.is_empty() || !(free(&a) || free(&b)) {
            return self.multiply_and_sum(op, &a, &b, &contracted);
        }
        // The dot gives batch, left, right: the operand whose own dims come first in the result is left.
        let own = |x: &Tensor| op.out.iter().position(|n| x.order.contains(n) && !batch.contains(n));
        let swap = match (own(&a), own(&b)) {
            (Some(i), Some(j)) => j < i,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let (a, b) = if swap { (b, a) } else { (a, b) };
        let numbers =
            |x: &Tensor, names: &[Name]| names.iter().map(|n| position(&x.order, n) as i64).collect();
        let dot = DotDimensionNumbers {
            lhs_contracting_dimensions: numbers(&a, &contracted),
            rhs_contracting_dimensions: numbers(&b, &contracted),
            lhs_batch_dimensions: numbers(&a, &batch),
            rhs_batch_dimensions: numbers(&b, &batch),
        };
        let hlo = self.b.dot(a.hlo, b.hlo, dot, primitive(op.dtype));
        let rest = |x: &Tensor| -> Vec<Name> {
            x.order.iter().filter(|n| !batch.contains(n) && !contracted.contains(n)).cloned().collect()
        };
        let order = [batch.clone(), rest(&a), rest(&b)].concat();
        Tensor { hlo, order }
    }

    /// `x` summed over dims that neither `other` nor the result has.
    fn presum(&mut self, x: &Tensor, other: &Tensor, out: &[Name]) -> Tensor {
        let lonely = |n: &&Name| !other.order.contains(n) && !out.contains(n);
        let gone: Vec<Name> = x.order.iter().filter(lonely).cloned().collect();
        if gone.is_empty() {
            return x.clone();
        }
        self.fold(Combine::Add, x, 0.0, &gone)
    }

    /// An einsum without a matrix product in it: nothing contracted, or nothing but batch dims kept.
    fn multiply_and_sum(&mut self, op: &Contract, a: &Tensor, b: &Tensor, contracted: &[Name]) -> Tensor {
        let (x, order) = self.common(&[a.clone(), b.clone()]);
        let wide: Vec<_> = x.into_iter().map(|x| self.b.convert(x, PrimitiveType::F32)).collect();
        let product = Tensor { hlo: self.b.binary("multiply", wide[0], wide[1]), order };
        let sum = self.fold(Combine::Add, &product, 0.0, contracted);
        Tensor { hlo: self.b.convert(sum.hlo, primitive(op.dtype)), ..sum }
    }
}
