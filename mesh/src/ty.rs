//! Types: element type, dims, and sharding over the mesh.
//!
//! Along each mesh axis a value is in exactly one of these states:
//! - *replicated*: every device along the axis holds the same numbers (the axis is not mentioned);
//! - *split*: a dim is divided into shards along the axis, `batch=32@data`;
//! - *pending sum*: the logical value is the sum over the axis of what the devices hold, `{sum: data}`;
//!   only linear operations take it;
//! - *pending max* or *pending min*: likewise for the maximum or minimum, `{max: model}`; only an
//!   all-reduce takes it.
//!
//! Sizes are always logical (unsharded). Global values are replicated along every axis.

use crate::{AxisId, AxisSet, Dim, Mesh, Name};
use std::fmt;

/// Element types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum DType {
    /// A truth value.
    Pred,
    /// Signed 32-bit integer.
    S32,
    /// Unsigned 32-bit integer; arithmetic wraps.
    U32,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl DType {
    /// All element types.
    pub const ALL: [Self; 5] = [Self::Pred, Self::S32, Self::U32, Self::Bf16, Self::F32];
    /// The name in text and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pred => "pred",
            Self::S32 => "s32",
            Self::U32 => "u32",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
    /// The element type called `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred => 1,
            Self::Bf16 => 2,
            Self::S32 | Self::U32 | Self::F32 => 4,
        }
    }
    /// True for floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Bf16 | Self::F32)
    }
    /// True for integer types (not for `pred`).
    pub fn is_int(self) -> bool {
        matches!(self, Self::S32 | Self::U32)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A dim of a tensor, and the axes it is split over, major axis first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorDim {
    /// Name and logical size.
    pub dim: Dim,
    /// The axes; empty if the dim is not split.
    pub axes: Vec<AxisId>,
}

/// The type of a value. The order of dims decides only how a value prints and how it crosses the boundary
/// of a function. Operands that differ only in the order of dims match.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Dims with unique names.
    pub dims: Vec<TensorDim>,
    /// Axes over which a sum is pending.
    pub sum: AxisSet,
    /// Axes over which a maximum is pending.
    pub max: AxisSet,
    /// Axes over which a minimum is pending.
    pub min: AxisSet,
}

impl Type {
    /// A replicated type.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = Dim>) -> Self {
        let dims = dims.into_iter().map(|dim| TensorDim { dim, axes: Vec::new() }).collect();
        Self { dtype, dims, sum: AxisSet::EMPTY, max: AxisSet::EMPTY, min: AxisSet::EMPTY }
    }
    /// A replicated type without dims.
    pub fn scalar(dtype: DType) -> Self {
        Self::new(dtype, [])
    }
    /// The dim called `name`.
    pub fn dim(&self, name: &str) -> Option<&TensorDim> {
        self.dims.iter().find(|d| d.dim.name == *name)
    }
    /// The position of the dim called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.dims.iter().position(|d| d.dim.name == *name)
    }
    /// True if a dim is called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.dim(name).is_some()
    }
    /// The logical size of the dim called `name`.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.dim(name).map(|d| d.dim.size)
    }
    /// The axes of the dim called `name`; empty if there is no such dim.
    pub fn axes_of(&self, name: &str) -> &[AxisId] {
        self.dim(name).map_or(&[], |d| &d.axes)
    }
    /// Names of the dims, in order.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.dims.iter().map(|d| &d.dim.name)
    }
    /// Dims without their axes, in order.
    pub fn logical(&self) -> impl Iterator<Item = &Dim> {
        self.dims.iter().map(|d| &d.dim)
    }
    /// Axes over which a sum, maximum or minimum is pending.
    pub fn pending(&self) -> AxisSet {
        self.sum.union(self.max).union(self.min)
    }
    /// The number of logical elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().map(|d| d.dim.size).product()
    }
    /// Axes that split some dim.
    pub fn split(&self) -> AxisSet {
        self.dims.iter().flat_map(|d| d.axes.iter().copied()).collect()
    }
    /// The shape of one device's shard, in the order of `dims`.
    pub fn local_shape(&self, mesh: &Mesh) -> Vec<usize> {
        self.dims.iter().map(|d| d.dim.size / mesh.product(&d.axes)).collect()
    }
    /// Elements of one device's shard.
    pub fn local_elements(&self, mesh: &Mesh) -> usize {
        self.local_shape(mesh).into_iter().product()
    }
    /// Bytes of one device's shard.
    pub fn local_bytes(&self, mesh: &Mesh) -> usize {
        self.local_elements(mesh) * self.dtype.bytes()
    }
    /// The same type with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }
    /// The same dims and element type, replicated over every axis.
    pub fn unsharded(&self) -> Self {
        Self::new(self.dtype, self.logical().cloned())
    }
    /// True if both are the same up to the order of dims.
    pub fn matches(&self, other: &Self) -> bool {
        self.dtype == other.dtype
            && self.sum == other.sum
            && self.max == other.max
            && self.min == other.min
            && self.dims.len() == other.dims.len()
            && self.dims.iter().all(|d| other.dims.contains(d))
    }
    /// Text of the type with axis names from `mesh`: `bf16[batch=32@data, d_model=64]{sum: model}`.
    pub fn display<'a>(&'a self, mesh: &'a Mesh) -> impl fmt::Display + 'a {
        TypeText { ty: self, mesh }
    }
}

struct TypeText<'a> {
    ty: &'a Type,
    mesh: &'a Mesh,
}

impl fmt::Display for TypeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.ty.dtype)?;
        for (i, d) in self.ty.dims.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, d.dim)?;
            for (j, axis) in d.axes.iter().enumerate() {
                write!(f, "{}{}", if j == 0 { "@" } else { "+" }, self.mesh.name(*axis))?;
            }
        }
        write!(f, "]")?;
        for (word, set) in [("sum", self.ty.sum), ("max", self.ty.max), ("min", self.ty.min)] {
            if !set.is_empty() {
                write!(f, "{{{word}: ")?;
                for (i, axis) in set.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { "+" }, self.mesh.name(axis))?;
                }
                write!(f, "}}")?;
            }
        }
        Ok(())
    }
}
