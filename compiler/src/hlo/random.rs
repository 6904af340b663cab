//! Random numbers: Threefry-2x32 on logical positions, elementwise. `mesh::random` is the scalar form and
//! explains the choices.

use super::{Emitter, Hlo, Tensor, primitive};
use mesh::{
    Name, TensorDim,
    ir::{Dist, Random},
    random,
};
use proto::xla::PrimitiveType;

const U32: PrimitiveType = PrimitiveType::U32;

impl Emitter<'_> {
    pub(super) fn random(&mut self, op: &Random, args: &[Tensor]) -> Tensor {
        let own = op.dims.iter().map(|d| d.dim.name.clone());
        let order: Vec<Name> = args[1].order.iter().cloned().chain(own).collect();
        let bits = self.bits(op, args[0].hlo, args[1].hlo);
        let hlo = match op.dist {
            Dist::Bits => bits,
            Dist::Bernoulli(p) => self.below(bits, p),
            Dist::Uniform => {
                let top = self.top_24(bits);
                let top = self.b.convert(top, PrimitiveType::F32);
                let scale = self.b.splat_like(top, 2f64.powi(-24));
                let unit = self.b.binary("multiply", top, scale);
                self.b.convert(unit, primitive(op.dtype))
            }
            Dist::Normal => {
                let even = self.symmetric(bits);
                let x = self.erf_inv_scaled(even);
                self.b.convert(x, primitive(op.dtype))
            }
            Dist::TruncatedNormal => {
                let even = self.symmetric(bits);
                let share = self.b.splat_like(even, f64::from(random::ERF_SQRT_2));
                let even = self.b.binary("multiply", even, share);
                let x = self.erf_inv_scaled(even);
                let (low, high) = (self.b.splat_like(x, -2.0), self.b.splat_like(x, 2.0));
                let x = self.b.clamp(low, x, high);
                self.b.convert(x, primitive(op.dtype))
            }
        };
        Tensor::new(hlo, order)
    }

    /// 32 random bits for each element of this device's shard.
    fn bits(&mut self, op: &Random, seed: Hlo, counter: Hlo) -> Hlo {
        let sizes: Vec<usize> = op.dims.iter().map(|d| d.dim.size / self.mesh().product(&d.axes)).collect();
        let high = random::high_dims(&op.dims.iter().map(|d| d.dim.size).collect::<Vec<_>>());
        let (major_dims, minor_dims) = op.dims.split_at(high);
        let low = self.linear(minor_dims, major_dims.len(), &sizes);
        let high = self.linear(major_dims, 0, &sizes);
        let spread = self.b.splat(U32, f64::from(random::HIGH_FACTOR), &sizes);
        let stream = self.b.splat(U32, f64::from(op.stream), &sizes);
        let high = self.b.binary("multiply", high, spread);
        let high = self.b.binary("xor", high, stream);
        let outer = self.b.sizes(counter);
        if outer.is_empty() {
            return self.threefry(seed, counter, high, low);
        }
        let all = [outer.clone(), sizes].concat();
        let inner: Vec<usize> = (outer.len()..all.len()).collect();
        let [high, low] = [high, low].map(|x| self.b.broadcast(x, &all, &inner));
        let seed = self.b.broadcast(seed, &outer, &[]);
        self.threefry(seed, counter, high, low)
    }

    /// The row-major logical position over `dims`, which are the dimensions from `first` of an array of
    /// `sizes`.
    fn linear(&mut self, dims: &[TensorDim], first: usize, sizes: &[usize]) -> Hlo {
        let mut sum = self.b.splat(U32, 0.0, sizes);
        let mut weight: u32 = 1;
        for (i, d) in dims.iter().enumerate().rev() {
            let at = first + i;
            let place = self.positions(&d.axes, sizes[at], U32);
            let scale = self.b.splat(U32, f64::from(weight), &[sizes[at]]);
            let term = self.b.binary("multiply", place, scale);
            let term = self.b.broadcast(term, sizes, &[at]);
            sum = self.b.binary("add", sum, term);
            weight = weight.wrapping_mul(d.dim.size as u32);
        }
        sum
    }

    /// `seed` and `counter` have the first dims of `x0` and `x1`.
    fn threefry(&mut self, seed: Hlo, counter: Hlo, x0: Hlo, x1: Hlo) -> Hlo {
        let sizes = self.b.sizes(x0);
        let outer = self.b.sizes(counter);
        let first: Vec<usize> = (0..outer.len()).collect();
        let number = |e: &mut Self, x: f64| match outer.is_empty() {
            true => e.b.constant(U32, x),
            false => e.b.splat(U32, x, &outer),
        };
        let parity = number(self, f64::from(random::PARITY));
        let third = self.b.binary("xor", parity, seed);
        let third = self.b.binary("xor", third, counter);
        let keys = [seed, counter, third];
        let spread =
            |e: &mut Self, x: Hlo| if sizes.is_empty() { x } else { e.b.broadcast(x, &sizes, &first) };
        let first = spread(self, keys[0]);
        let second = spread(self, keys[1]);
        let mut x0 = self.b.binary("add", x0, first);
        let mut x1 = self.b.binary("add", x1, second);
        for round in 0..random::THREEFRY_ROUNDS as usize {
            x0 = self.b.binary("add", x0, x1);
            let turns = random::ROTATIONS[round % 8];
            let left = self.b.splat(U32, f64::from(turns), &sizes);
            let right = self.b.splat(U32, f64::from(32 - turns), &sizes);
            let left = self.b.binary("shift-left", x1, left);
            let right = self.b.binary("shift-right-logical", x1, right);
            let turned = self.b.binary("or", left, right);
            x1 = self.b.binary("xor", turned, x0);
            if round % 4 == 3 {
                let injection = round / 4 + 1;
                let key = spread(self, keys[injection % 3]);
                x0 = self.b.binary("add", x0, key);
                let count = number(self, injection as f64);
                let key = self.b.binary("add", keys[(injection + 1) % 3], count);
                let key = spread(self, key);
                x1 = self.b.binary("add", x1, key);
            }
        }
        x0
    }

    /// True with probability `p`.
    fn below(&mut self, bits: Hlo, p: f64) -> Hlo {
        match random::bernoulli_threshold(p) {
            Some(threshold) => {
                let threshold = self.b.splat_like(bits, f64::from(threshold));
                self.b.compare("LT", bits, threshold)
            }
            None => {
                let sizes = self.b.sizes(bits);
                self.b.splat(PrimitiveType::Pred, 1.0, &sizes)
            }
        }
    }

    fn top_24(&mut self, bits: Hlo) -> Hlo {
        let eight = self.b.splat_like(bits, 8.0);
        self.b.binary("shift-right-logical", bits, eight)
    }

    /// Uniform in (-1, 1): centred as an integer, so that every step is exact.
    fn symmetric(&mut self, bits: Hlo) -> Hlo {
        let top = self.top_24(bits);
        let top = self.b.convert(top, PrimitiveType::S32);
        let middle = self.b.splat_like(top, 2f64.powi(23));
        let centred = self.b.binary("subtract", top, middle);
        let x = self.b.convert(centred, PrimitiveType::F32);
        let half = self.b.splat_like(x, 0.5);
        let x = self.b.binary("add", x, half);
        let scale = self.b.splat_like(x, 2f64.powi(-23));
        self.b.binary("multiply", x, scale)
    }

    /// `√2 · erf⁻¹(x)` in float32, by Giles' two polynomials.
    fn erf_inv_scaled(&mut self, x: Hlo) -> Hlo {
        let minus = self.b.unary("negate", x);
        let square = self.b.binary("multiply", minus, x);
        let w = self.b.unary("log-plus-one", square);
        let w = self.b.unary("negate", w);
        let five = self.b.splat_like(x, 5.0);
        let central = self.b.compare("LT", w, five);
        let shift = self.b.splat_like(x, 2.5);
        let near = self.b.binary("subtract", w, shift);
        let root = self.b.unary("sqrt", w);
        let three = self.b.splat_like(x, 3.0);
        let far = self.b.binary("subtract", root, three);
        let near = self.polynomial(near, &random::ERFINV_NEAR);
        let far = self.polynomial(far, &random::ERFINV_FAR);
        let p = self.b.select(central, near, far);
        let y = self.b.binary("multiply", p, x);
        let scale = self.b.splat_like(y, std::f64::consts::SQRT_2);
        self.b.binary("multiply", y, scale)
    }

    /// Horner's rule, the highest power first.
    fn polynomial(&mut self, x: Hlo, coefficients: &[f32]) -> Hlo {
        let mut sum = self.b.splat_like(x, f64::from(coefficients[0]));
        for c in &coefficients[1..] {
            let term = self.b.binary("multiply", sum, x);
            let c = self.b.splat_like(x, f64::from(*c));
            sum = self.b.binary("add", term, c);
        }
        sum
    }
}
