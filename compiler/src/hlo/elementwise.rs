//! Elementwise operations.

use super::{Emitter, Hlo, Tensor, primitive};
use mesh::DType;
use mesh::ir::{Binary, Compare, Elementwise, Unary};
use proto::xla::PrimitiveType;

impl Emitter<'_> {
    pub(super) fn elementwise(&mut self, op: &Elementwise, args: &[Tensor]) -> Tensor {
        let args: Vec<Tensor> = args.iter().map(|x| self.widened(x)).collect();
        match op {
            Elementwise::Unary(op) => {
                let hlo = self.unary(*op, args[0].hlo);
                self.narrowed(&args[0], args[0].with(hlo))
            }
            Elementwise::Binary(op) => {
                let sum = if *op == Binary::Add { self.sum_of_rows([&args[0], &args[1]]) } else { None };
                if let Some(sum) = sum {
                    return sum;
                }
                let (x, order) = self.common(&args);
                let hlo = self.b.binary(binary(*op), x[0], x[1]);
                self.narrowed(&args[0], Tensor::new(hlo, order))
            }
            Elementwise::Compare(op) => {
                let (x, order) = self.common(&args);
                Tensor::new(self.b.compare(direction(*op), x[0], x[1]), order)
            }
            Elementwise::Select => {
                let (x, order) = self.common(&args);
                let hlo = self.b.select(x[0], x[1], x[2]);
                self.narrowed(&args[1], Tensor::new(hlo, order))
            }
            Elementwise::Cast(to) if *to == DType::Bf16 => self.rounded(&args[0]),
            Elementwise::Cast(to) => args[0].with(self.b.convert(args[0].hlo, primitive(*to))),
            Elementwise::StopGradient | Elementwise::WithGradient => self.narrowed(&args[0], args[0].clone()),
        }
    }

    /// A bf16 operand in float32, and not rounded since it was computed if it has no other use; `wide`
    /// records that it was bf16. Other operands as they are.
    fn widened(&mut self, x: &Tensor) -> Tensor {
        if self.b.dtype(x.hlo) != PrimitiveType::Bf16 {
            return Tensor { wide: None, ..x.clone() };
        }
        let hlo = x.wide.unwrap_or_else(|| self.b.convert(x.hlo, PrimitiveType::F32));
        Tensor { hlo, wide: Some(hlo), ..x.clone() }
    }

    /// The result of an operation. The (widened) operand `like` decides if it becomes bf16.
    fn narrowed(&mut self, like: &Tensor, result: Tensor) -> Tensor {
        if like.wide.is_some() && self.b.dtype(result.hlo) == PrimitiveType::F32 {
            return self.rounded(&result);
        }
        Tensor { wide: None, ..result }
    }

    fn rounded(&mut self, x: &Tensor) -> Tensor {
        let wide = (self.b.dtype(x.hlo) == PrimitiveType::F32).then_some(x.hlo);
        Tensor { wide, ..x.with(self.b.convert(x.hlo, PrimitiveType::Bf16)) }
    }

    fn unary(&mut self, op: Unary, x: Hlo) -> Hlo {
        let opcode = match op {
            Unary::Neg => "negate",
            Unary::Abs => "abs",
            Unary::Sign => "sign",
            Unary::Exp => "exponential",
            Unary::Expm1 => "exponential-minus-one",
            Unary::Log => "log",
            Unary::Log1p => "log-plus-one",
            Unary::Sqrt => "sqrt",
            Unary::Rsqrt => "rsqrt",
            Unary::Sin => "sine",
            Unary::Cos => "cosine",
            Unary::Tanh => "tanh",
            Unary::Logistic => "logistic",
            Unary::Erf => "erf",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Round => "round-nearest-even",
            Unary::RoundBf16 => return self.b.reduce_precision(x, 8, 7),
            Unary::Not => "not",
            Unary::IsFinite => return self.b.is_finite(x),
            Unary::Relu => {
                let zero = self.b.splat_like(x, 0.0);
                return self.b.binary("maximum", x, zero);
            }
            Unary::Gelu => return self.gelu(x),
        };
        self.b.unary(opcode, x)
    }

    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    fn gelu(&mut self, x: Hlo) -> Hlo {
        let cubic = self.b.splat_like(x, 0.044715);
        let scale = self.b.splat_like(x, (2.0 / std::f64::consts::PI).sqrt());
        let one = self.b.splat_like(x, 1.0);
        let half = self.b.splat_like(x, 0.5);
        let square = self.b.binary("multiply", x, x);
        let cube = self.b.binary("multiply", square, x);
        let cube = self.b.binary("multiply", cubic, cube);
        let inner = self.b.binary("add", x, cube);
        let inner = self.b.binary("multiply", scale, inner);
        let tanh = self.b.unary("tanh", inner);
        let gate = self.b.binary("add", one, tanh);
        let x = self.b.binary("multiply", half, x);
        self.b.binary("multiply", x, gate)
    }

    /// Applies `f` in float32 and rounds once.
    pub(super) fn in_f32(&mut self, x: Hlo, f: impl FnOnce(&mut Self, Hlo) -> Hlo) -> Hlo {
        let ty = self.b.dtype(x);
        let x = self.b.convert(x, PrimitiveType::F32);
        let y = f(self, x);
        self.b.convert(y, ty)
    }
}

fn binary(op: Binary) -> &'static str {
    match op {
        Binary::Add => "add",
        Binary::Sub => "subtract",
        Binary::Mul => "multiply",
        Binary::Div => "divide",
        Binary::Rem => "remainder",
        Binary::Pow => "power",
        Binary::Atan2 => "atan2",
        Binary::Max => "maximum",
        Binary::Min => "minimum",
        Binary::And => "and",
        Binary::Or => "or",
        Binary::Xor => "xor",
        Binary::Shl => "shift-left",
        Binary::Shr => "shift-right-logical",
    }
}

fn direction(op: Compare) -> &'static str {
    match op {
        Compare::Eq => "EQ",
        Compare::Ne => "NE",
        Compare::Lt => "LT",
        Compare::Le => "LE",
        Compare::Gt => "GT",
        Compare::Ge => "GE",
    }
}
