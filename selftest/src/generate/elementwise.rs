//! Random elementwise operations.

use super::program::{Facts, Gen};
use mesh::{
    DType, Value,
    ir::{Binary, Compare, Elementwise, Unary},
};

impl Gen<'_, '_> {
    pub(super) fn elementwise(&mut self) -> Option<()> {
        match self.rng.below(15) {
            0..=2 => self.smooth_unary(),
            3 => self.kinked_unary(),
            4 => self.whole_unary(),
            5..=7 => self.float_binary(),
            8 => self.kinked_binary(),
            9 => self.whole_binary(),
            10 => self.compare(),
            11 => self.select(),
            12 => self.cast(),
            13 => {
                let x = self.float()?;
                let y = self.value(|g, v| g.ty(v).matches(g.ty(x)))?;
                self.emit1(Elementwise::WithGradient, &[x, y], self.facts(x).moved())
            }
            _ => {
                let x = self.float()?;
                self.emit1(Elementwise::StopGradient, &[x], self.facts(x).moved())
            }
        }
        .map(drop)
    }

    pub(super) fn unary(&mut self, op: Unary, x: Value, facts: Facts) -> Option<Value> {
        self.emit1(Elementwise::Unary(op), &[x], facts)
    }

    pub(super) fn binary(&mut self, op: Binary, a: Value, b: Value, bound: f64) -> Option<Value> {
        self.emit1(Elementwise::Binary(op), &[a, b], Facts::rounded(bound))
    }

    fn smooth_unary(&mut self) -> Option<Value> {
        let others = [
            Unary::Abs,
            Unary::Sign,
            Unary::Relu,
            Unary::Floor,
            Unary::Ceil,
            Unary::Round,
            Unary::RoundBf16,
            Unary::Not,
            // Chosen below in place of others.
            Unary::Expm1,
            Unary::Erf,
        ];
        let smooth: Vec<Unary> = Unary::ALL.iter().copied().filter(|op| !others.contains(op)).collect();
        let op = smooth[self.rng.below(smooth.len())];
        let mut x = self.float()?;
        let bound = self.facts(x).bound;
        // Similar functions, without a separate draw, so that existing seeds keep their programs.
        let op = match (op, x.0 % 2) {
            (Unary::Exp, 1) => Unary::Expm1,
            (Unary::Tanh, 1) => Unary::Erf,
            (op, _) => op,
        };
        let facts = match op {
            Unary::Neg => self.facts(x).moved(),
            Unary::Exp | Unary::Expm1 => Facts::rounded(bound.exp()),
            Unary::Sin | Unary::Cos | Unary::Tanh | Unary::Logistic | Unary::Erf => Facts::rounded(1.0),
            Unary::Gelu => Facts::rounded(bound),
            Unary::IsFinite => Facts::exact(1.0),
            Unary::Log | Unary::Log1p | Unary::Sqrt | Unary::Rsqrt => {
                x = self.positive(x)?;
                Facts::rounded(self.facts(x).bound.sqrt().max(1.5))
            }
            Unary::Abs
            | Unary::Sign
            | Unary::Relu
            | Unary::Floor
            | Unary::Ceil
            | Unary::Round
            | Unary::RoundBf16
            | Unary::Not => {
                unreachable!("not a smooth function")
            }
        };
        self.unary(op, x, facts)
    }

    /// Generates `x² + 1/2`, which is at least 1/2 and smooth.
    pub(super) fn positive(&mut self, x: Value) -> Option<Value> {
        let half = self.constant(self.ty(x).dtype, 0.5)?;
        let bound = self.facts(x).bound.powi(2);
        let square = self.binary(Binary::Mul, x, x, bound)?;
        self.binary(Binary::Add, square, half, bound + 0.5)
    }

    fn kinked_unary(&mut self) -> Option<Value> {
        let op = self.rng.one_of([Unary::Abs, Unary::Relu, Unary::Sign, Unary::Floor]);
        let jumps = matches!(op, Unary::Sign | Unary::Floor);
        let x = self.kinked().filter(|x| !jumps || self.facts(*x).exact)?;
        // Another discontinuous function, without a separate draw, so that existing seeds keep their
        // programs.
        let op = match (op, x.0 % 4) {
            (Unary::Floor, 1) => Unary::RoundBf16,
            (Unary::Floor, 2) | (Unary::Sign, 1) => Unary::Ceil,
            (Unary::Floor, 3) | (Unary::Sign, 3) => Unary::Round,
            (op, _) => op,
        };
        let facts = self.facts(x).moved();
        self.unary(op, x, Facts { bound: facts.bound + 1.0, ..facts })
    }

    fn whole_unary(&mut self) -> Option<Value> {
        let x = self.value(|g, v| !g.ty(v).dtype.is_float())?;
        let op = self.rng.one_of([Unary::Neg, Unary::Abs, Unary::Sign, Unary::Relu, Unary::Not]);
        let bound = match self.ty(x).dtype {
            DType::S32 => self.facts(x).bound + 1.0,
            DType::Pred => 1.0,
            DType::U32 | DType::Bf16 | DType::F32 => f64::from(u32::MAX),
        };
        self.unary(op, x, Facts::exact(bound))
    }

    /// Picks two floats of one element type.
    fn floats(&mut self) -> Option<(Value, Value)> {
        let a = self.float()?;
        let dtype = self.ty(a).dtype;
        Some((a, self.value(|g, v| g.ty(v).dtype == dtype)?))
    }

    fn float_binary(&mut self) -> Option<Value> {
        let (a, mut b) = self.floats()?;
        let (bound_a, bound_b) = (self.facts(a).bound, self.facts(b).bound);
        match self.rng.below(8) {
            0..=1 => self.binary(Binary::Add, a, b, bound_a + bound_b),
            2..=3 => self.binary(Binary::Sub, a, b, bound_a + bound_b),
            4..=5 => self.binary(Binary::Mul, a, b, bound_a * bound_b),
            6 => {
                b = self.positive(b)?;
                self.binary(Binary::Div, a, b, 2.0 * bound_a)
            }
            _ => {
                let base = self.positive(a)?;
                if b.0 % 2 == 1 {
                    // Away from the jump of the angle at the negative half of the second axis.
                    return self.binary(Binary::Atan2, b, base, std::f64::consts::FRAC_PI_2);
                }
                let exponent = self.unary(Unary::Tanh, b, Facts::rounded(1.0))?;
                self.binary(Binary::Pow, base, exponent, (bound_a.powi(2) + 0.5).max(2.0))
            }
        }
    }

    fn kinked_binary(&mut self) -> Option<Value> {
        let a = self.kinked()?;
        let (dtype, exact) = (self.ty(a).dtype, self.facts(a).exact);
        if exact && self.rng.chance(20) {
            let step = self.constant(dtype, 0.75)?;
            return self.emit1(Elementwise::Binary(Binary::Rem), &[a, step], Facts::exact(0.75));
        }
        let smooth = self.smooth;
        let b = self.value(|g, v| g.ty(v).dtype == dtype && (!smooth || g.facts(v).exact))?;
        let op = self.rng.one_of([Binary::Max, Binary::Min]);
        let facts = self.facts(a).with(self.facts(b), self.facts(a).bound.max(self.facts(b).bound));
        self.emit1(Elementwise::Binary(op), &[a, b], facts)
    }

    fn whole_binary(&mut self) -> Option<Value> {
        let a = self.value(|g, v| !g.ty(v).dtype.is_float())?;
        let dtype = self.ty(a).dtype;
        let b = self.value(|g, v| g.ty(v).dtype == dtype)?;
        let arithmetic = self.rng.one_of([
            Binary::Add,
            Binary::Sub,
            Binary::Mul,
            Binary::Div,
            Binary::Rem,
            Binary::Max,
            Binary::Min,
        ]);
        let bits = self.rng.one_of([Binary::And, Binary::Or, Binary::Xor]);
        let shift = self.rng.one_of([Binary::Shl, Binary::Shr]);
        let op = match (dtype, self.rng.below(3)) {
            (DType::Pred, _) | (_, 0) => bits,
            (DType::U32, 1) => shift,
            (DType::S32 | DType::U32 | DType::Bf16 | DType::F32, _) => arithmetic,
        };
        if op == Binary::Mul && b.0 % 2 == 1 {
            return self.whole_contract(a, b);
        }
        let (bound_a, bound_b) = (self.facts(a).bound, self.facts(b).bound);
        let bound = match op {
            Binary::Add | Binary::Sub => bound_a + bound_b,
            Binary::Mul => bound_a * bound_b,
            Binary::Max | Binary::Min => bound_a.max(bound_b),
            Binary::Rem => bound_a,
            Binary::Div => bound_a.max(1.0),
            Binary::Pow
            | Binary::Atan2
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr => f64::from(u32::MAX),
        };
        let signless = dtype == DType::U32 && matches!(op, Binary::Sub | Binary::Div);
        let bound = if signless || bound > f64::from(i32::MAX) { f64::from(u32::MAX) } else { bound };
        self.emit1(Elementwise::Binary(op), &[a, b], Facts::exact(bound))
    }

    fn compare(&mut self) -> Option<Value> {
        let a = self.value(|g, v| g.facts(v).exact)?;
        let dtype = self.ty(a).dtype;
        let b = self.value(|g, v| g.ty(v).dtype == dtype && g.facts(v).exact)?;
        let op =
            self.rng.one_of([Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge]);
        self.emit1(Elementwise::Compare(op), &[a, b], Facts::exact(1.0))
    }

    fn select(&mut self) -> Option<Value> {
        let p = self.value(|g, v| g.ty(v).dtype == DType::Pred)?;
        let a = self.value(|_, _| true)?;
        let dtype = self.ty(a).dtype;
        let b = self.value(|g, v| g.ty(v).dtype == dtype)?;
        let facts = self.facts(a).with(self.facts(b), self.facts(a).bound.max(self.facts(b).bound));
        self.emit1(Elementwise::Select, &[p, a, b], facts)
    }

    fn cast(&mut self) -> Option<Value> {
        let to = self.rng.one_of([DType::Pred, DType::S32, DType::U32, DType::Bf16, DType::F32]);
        let x = self.value(|_, _| true)?;
        let (from, facts) = (self.ty(x).dtype, self.facts(x));
        // Integers up to 256 are exact in every float type; larger ones are rounded.
        let ok = match (from.is_float(), to.is_float()) {
            (true, true) => true,
            (true, false) => facts.exact,
            (false, true) => facts.bound <= 256.0,
            (false, false) => true,
        };
        let bound = match to {
            DType::Pred => 1.0,
            DType::U32 => f64::from(u32::MAX),
            DType::S32 if from == DType::U32 => f64::from(u32::MAX),
            DType::S32 | DType::Bf16 | DType::F32 => facts.bound,
        };
        // bf16 represents the values of inputs exactly, but not every float.
        let exact = facts.exact && to != DType::Bf16;
        if ok {
            self.emit1(Elementwise::Cast(to), &[x], Facts { exact, bound, permutation: None })
        } else {
            None
        }
    }
}
