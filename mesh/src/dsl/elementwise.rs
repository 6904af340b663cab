//! Elementwise arithmetic, comparison, selection and conversion, with broadcasting by name.

use super::{Graph, Tensor};
use crate::{
    DType, Op, Site,
    ir::{Binary, Compare, Elementwise, Shape, Unary, binary_words, compare_words, unary_words},
};
use std::{f64::consts::FRAC_1_SQRT_2, ops};

/// The second operand of an operation: a tensor, or a number that takes the tensor's element type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an operand of a tensor",
    label = "a tensor or a number is expected here",
    note = "use a `Tensor`, or a number such as `2.0`; read state with `.read(g)`"
)]
pub trait Operand<'g>: Copy {
    /// Returns the operand as a tensor. A number gets the element type of `like`.
    fn tensor(self, like: Tensor<'g>, site: &Site) -> Tensor<'g>;
}

impl<'g> Operand<'g> for Tensor<'g> {
    fn tensor(self, _: Tensor<'g>, _: &Site) -> Tensor<'g> {
        self
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl<'g> Operand<'g> for $number {
            fn tensor(self, like: Tensor<'g>, site: &Site) -> Tensor<'g> {
                if like.is_poison() {
                    return like;
                }
                like.graph.number(f64::from(self), like.dtype(), site)
            }
        }
        operators!($number);
    )*};
}

/// Operators with a number on the left.
macro_rules! operators {
    ($number:ty) => {
        operators!($number, Add add Add, Sub sub Sub, Mul mul Mul, Div div Div, Rem rem Rem);
    };
    ($number:ty, $($trait:ident $method:ident $op:ident),*) => {$(
        impl<'g> ops::$trait<Tensor<'g>> for $number {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: Tensor<'g>) -> Tensor<'g> {
                let site = other.graph.site();
                self.tensor(other, &site).binary_at(Binary::$op, other, &site)
            }
        }
    )*};
}

numbers!(f32, f64, i32, u32);

macro_rules! binary_operators {
    ($($trait:ident $method:ident $assign:ident $assign_method:ident $op:ident),*) => {$(
        impl<'g, T: Operand<'g>> ops::$trait<T> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: T) -> Tensor<'g> {
                let site = self.graph.site();
                self.binary_at(Binary::$op, other.tensor(self, &site), &site)
            }
        }
        impl<'g, T: Operand<'g>> ops::$assign<T> for Tensor<'g> {
            #[track_caller]
            fn $assign_method(&mut self, other: T) {
                let site = self.graph.site();
                *self = self.binary_at(Binary::$op, other.tensor(*self, &site), &site);
            }
        }
    )*};
}

binary_operators!(
    Add add AddAssign add_assign Add,
    Sub sub SubAssign sub_assign Sub,
    Mul mul MulAssign mul_assign Mul,
    Div div DivAssign div_assign Div,
    Rem rem RemAssign rem_assign Rem,
    BitAnd bitand BitAndAssign bitand_assign And,
    BitOr bitor BitOrAssign bitor_assign Or,
    BitXor bitxor BitXorAssign bitxor_assign Xor,
    Shl shl ShlAssign shl_assign Shl,
    Shr shr ShrAssign shr_assign Shr
);

impl<'g> ops::Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn neg(self) -> Tensor<'g> {
        self.unary_at(Unary::Neg, &self.graph.site())
    }
}

impl<'g> ops::Not for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn not(self) -> Tensor<'g> {
        self.unary_at(Unary::Not, &self.graph.site())
    }
}

// The methods of functions, from the tables beside their enums.

macro_rules! unary_methods {
    (Unary;
     $($operator:ident $word:literal),*;
     $($(#[$doc:meta])* $method:ident $op:ident $name:literal,)*) => {
        impl<'g> Tensor<'g> {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $method(self) -> Self {
                self.unary_at(Unary::$op, &self.graph.site())
            }
        )*}
    };
}
unary_words!(unary_methods);

macro_rules! binary_methods {
    ($ty:ident;
     $($operator:ident $word:literal),*;
     $($(#[$doc:meta])* $method:ident $op:ident $name:literal,)*) => {
        impl<'g> Tensor<'g> {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $method(self, other: impl Operand<'g>) -> Self {
                let site = self.graph.site();
                let other = other.tensor(self, &site);
                self.apply(Op::Elementwise(Elementwise::$ty($ty::$op)), &[other], &site)
            }
        )*}
    };
}
binary_words!(binary_methods);
compare_words!(binary_methods);

impl<'g> Tensor<'g> {
    /// `x · x`.
    #[track_caller]
    pub fn square(self) -> Self {
        self.times(self, &self.graph.site())
    }

    /// GELU by the error function: `x/2 · (1 + erf(x/√2))` (Hendrycks and Gimpel, 2016).
    #[track_caller]
    pub fn gelu_exact(self) -> Self {
        let site = self.graph.site();
        let erf = self.binary_at(Binary::Mul, FRAC_1_SQRT_2.tensor(self, &site), &site).apply(
            Op::Elementwise(Elementwise::Unary(Unary::Erf)),
            &[],
            &site,
        );
        let half = 0.5.tensor(self, &site);
        let share = erf.times(half, &site).binary_at(Binary::Add, half, &site);
        self.times(share, &site)
    }

    /// `a` where this `pred` is true, else `b`.
    #[track_caller]
    pub fn select(self, a: Tensor<'g>, b: impl Operand<'g>) -> Self {
        let site = self.graph.site();
        self.apply(Op::Elementwise(Elementwise::Select), &[a, b.tensor(a, &site)], &site)
    }

    /// Converts to another element type. Returns the same tensor if it has that type.
    #[track_caller]
    pub fn cast(self, dtype: DType) -> Self {
        self.cast_at(dtype, &self.graph.site())
    }

    /// The same values, without a gradient.
    #[track_caller]
    pub fn stop_gradient(self) -> Self {
        self.apply(Op::Elementwise(Elementwise::StopGradient), &[], &self.graph.site())
    }

    /// The same values, with the gradient of `other`, a float tensor of the same type: what is differentiated
    /// is `other`. A function gets its own gradient by an `other` that has it; its values are not computed
    /// where only the gradient is needed.
    #[track_caller]
    pub fn with_gradient_of(self, other: Self) -> Self {
        self.apply(Op::Elementwise(Elementwise::WithGradient), &[other], &self.graph.site())
    }

    // Versions with a given site, for operations that consist of several instructions.

    pub(super) fn unary_at(self, op: Unary, site: &Site) -> Self {
        self.apply(Op::Elementwise(Elementwise::Unary(op)), &[], site)
    }
    pub(super) fn binary_at(self, op: Binary, other: Self, site: &Site) -> Self {
        self.apply(Op::Elementwise(Elementwise::Binary(op)), &[other], site)
    }
    pub(super) fn times(self, other: Self, site: &Site) -> Self {
        self.binary_at(Binary::Mul, other, site)
    }
    pub(super) fn over(self, other: Self, site: &Site) -> Self {
        self.binary_at(Binary::Div, other, site)
    }
    pub(super) fn minus(self, other: Self, site: &Site) -> Self {
        self.binary_at(Binary::Sub, other, site)
    }
    pub(super) fn cast_at(self, dtype: DType, site: &Site) -> Self {
        if self.id.is_some() && self.ty().is_some_and(|ty| ty.dtype == dtype) {
            return self;
        }
        self.apply(Op::Elementwise(Elementwise::Cast(dtype)), &[], site)
    }
}

impl Graph {
    pub(super) fn number(&self, value: f64, dtype: DType, site: &Site) -> Tensor<'_> {
        self.emit1(Op::Shape(Shape::Constant { dtype, value }), &[], site)
    }
}
