//! The interpreter's tensor: named dims over an array of `f64`.
//!
//! Every element type fits in an `f64` (32-bit integers exactly, a boolean as 0 or 1), so that movement of
//! data is independent of types; arithmetic rounds or wraps its results with [`Precision::store`].

use half::bf16;
use mesh::{DType, Dim, Name, Type};
use ndarray::{Array2, Array3, ArrayD, IxDyn};

/// The points at which floats are rounded to their type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// After every instruction, as on a device.
    #[default]
    Normal,
    /// Never: all floats are `f64`, for finite differences.
    Wide,
    /// As often as on the least precise device, including each partial sum. The difference from
    /// [`Self::Wide`] is what rounding can do to a program.
    Harsh,
}

impl Precision {
    /// The number that a tensor of type `dtype` holds after `x` is written to it. Integers wrap.
    pub fn store(self, dtype: DType, x: f64) -> f64 {
        match (dtype, self) {
            (DType::Pred, _) => f64::from(x != 0.0),
            (DType::S32, _) => f64::from(wrap(x) as i32),
            (DType::U32, _) => f64::from(wrap(x)),
            (DType::Bf16 | DType::F32, Self::Wide) => x,
            // Rounded through f32, as devices do.
            (DType::Bf16, Self::Normal | Self::Harsh) => bf16::from_f32(x as f32).to_f64(),
            (DType::F32, Self::Normal | Self::Harsh) => f64::from(x as f32),
        }
    }

    /// A partial sum of numbers of type `dtype`.
    pub fn partial(self, dtype: DType, x: f64) -> f64 {
        if self == Self::Harsh && dtype.is_float() { f64::from(x as f32) } else { x }
    }

    /// A sum of numbers of type `dtype`, not rounded to it.
    pub fn sum(self, dtype: DType, numbers: impl IntoIterator<Item = f64>) -> f64 {
        numbers.into_iter().fold(0.0, |sum, x| self.partial(dtype, sum + x))
    }
}

/// The low 32 bits of an integer. Sums of up to 2^21 numbers of 32 bits are exact in an `f64`; products are
/// not, and do not use this.
fn wrap(x: f64) -> u32 {
    x as i128 as u32
}

/// A tensor, whole or one shard.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Names of the dims, in the order of the array's axes.
    pub names: Vec<Name>,
    /// The elements.
    pub data: ArrayD<f64>,
}

impl Tensor {
    /// A tensor of the given elements in row-major order. Fails if their number is wrong.
    pub fn new(dtype: DType, dims: &[Dim], elements: Vec<f64>) -> Result<Self, String> {
        let shape: Vec<usize> = dims.iter().map(|d| d.size).collect();
        let have = elements.len();
        let data = ArrayD::from_shape_vec(IxDyn(&shape), elements).map_err(|_| {
            let want: usize = shape.iter().product();
            format!("a tensor of shape {shape:?} has {want} elements, not {have}")
        })?;
        Ok(Self { dtype, names: dims.iter().map(|d| d.name.clone()).collect(), data })
    }

    /// A scalar.
    pub fn scalar(dtype: DType, x: f64) -> Self {
        Self { dtype, names: Vec::new(), data: ArrayD::from_elem(IxDyn(&[]), x) }
    }

    /// A tensor with all elements `x`.
    pub fn full(dtype: DType, dims: &[Dim], x: f64) -> Self {
        let shape: Vec<usize> = dims.iter().map(|d| d.size).collect();
        let names = dims.iter().map(|d| d.name.clone()).collect();
        Self { dtype, names, data: ArrayD::from_elem(IxDyn(&shape), x) }
    }

    /// Reads row-major little-endian elements.
    pub fn from_bytes(dtype: DType, dims: &[Dim], bytes: &[u8]) -> Result<Self, String> {
        let width = dtype.bytes();
        if !bytes.len().is_multiple_of(width) {
            return Err(format!("{} bytes are not a whole number of {dtype}", bytes.len()));
        }
        let element = |b: &[u8]| match *b {
            [x] => f64::from(x != 0),
            [a, b] => bf16::from_le_bytes([a, b]).to_f64(),
            [a, b, c, d] => {
                let word = u32::from_le_bytes([a, b, c, d]);
                match dtype {
                    DType::S32 => f64::from(word as i32),
                    DType::U32 => f64::from(word),
                    DType::Pred | DType::Bf16 | DType::F32 => f64::from(f32::from_bits(word)),
                }
            }
            _ => unreachable!("elements are 1, 2 or 4 bytes wide"),
        };
        Self::new(dtype, dims, bytes.chunks_exact(width).map(element).collect())
    }

    /// The elements in row-major order, little-endian, rounded to the element type.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.data.len() * self.dtype.bytes());
        for x in &self.data {
            match self.dtype {
                DType::Pred => bytes.push(u8::from(*x != 0.0)),
                DType::S32 | DType::U32 => bytes.extend(wrap(*x).to_le_bytes()),
                DType::Bf16 => bytes.extend(bf16::from_f32(*x as f32).to_le_bytes()),
                DType::F32 => bytes.extend((*x as f32).to_le_bytes()),
            }
        }
        bytes
    }

    /// Names and sizes, in order.
    pub fn dims(&self) -> Vec<Dim> {
        self.names.iter().zip(self.data.shape()).map(|(n, s)| Dim::new(n, *s)).collect()
    }

    /// The axis of the array for dim `name`.
    pub fn axis(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| *n == *name)
    }

    /// The size of dim `name`.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.axis(name).map(|i| self.data.shape()[i])
    }

    /// The number of a tensor with one element.
    pub fn number(&self) -> f64 {
        *self.data.first().expect("a dim has at least one element")
    }

    /// The elements in row-major order.
    pub fn elements(&self) -> Vec<f64> {
        self.data.iter().copied().collect()
    }

    /// True if the tensor is a logical value of type `ty`, whatever the order of dims.
    pub fn fits(&self, ty: &Type) -> bool {
        self.dtype == ty.dtype
            && self.names.len() == ty.dims.len()
            && ty.logical().all(|d| self.size(&d.name) == Some(d.size))
    }

    /// The same tensor with its dims in the order of `names`, which are its own.
    pub fn ordered(&self, names: &[Name]) -> Self {
        Self { dtype: self.dtype, names: names.to_vec(), data: self.by(names) }
    }

    /// The array with its axes in the order of `names`, which are all of the tensor's.
    pub(super) fn by(&self, names: &[Name]) -> ArrayD<f64> {
        debug_assert_eq!(names.len(), self.names.len());
        let order: Vec<usize> = names.iter().map(|n| self.known(n)).collect();
        self.data.view().permuted_axes(order).as_standard_layout().into_owned()
    }

    /// The axis of a dim that inference has found in the tensor.
    pub(super) fn known(&self, name: &Name) -> usize {
        self.axis(name).expect("the verifier runs first: the tensor has the dims that its operation names")
    }

    /// The array as a matrix: all of `rows` in one axis, all of `columns` in the other.
    pub(super) fn matrix(&self, rows: &[Name], columns: &[Name]) -> Array2<f64> {
        let array = self.by(&[rows, columns].concat());
        let shape = (self.count(rows), self.count(columns));
        array.into_shape_with_order(shape).expect("the axes multiply to the number of elements")
    }

    /// The array with three axes, each of which merges some of the dims.
    pub(super) fn cube(&self, a: &[Name], b: &[Name], c: &[Name]) -> Array3<f64> {
        let array = self.by(&[a, b, c].concat());
        let shape = (self.count(a), self.count(b), self.count(c));
        array.into_shape_with_order(shape).expect("the axes multiply to the number of elements")
    }

    /// The product of the sizes of the dims `names`.
    pub(super) fn count(&self, names: &[Name]) -> usize {
        names.iter().map(|n| self.data.shape()[self.known(n)]).product()
    }

    /// Names of the dims that are not in `names`, in order.
    pub(super) fn names_but(&self, names: &[Name]) -> Vec<Name> {
        self.names.iter().filter(|n| !names.contains(n)).cloned().collect()
    }

    /// The dims called `names`, in that order.
    pub(super) fn dims_of(&self, names: &[Name]) -> Vec<Dim> {
        names.iter().map(|n| Dim::new(n, self.data.shape()[self.known(n)])).collect()
    }

    /// A tensor from an array whose row-major elements are those of `dims`, however its own axes merge them.
    pub(super) fn split<D: ndarray::Dimension>(
        dtype: DType,
        dims: &[Dim],
        data: ndarray::Array<f64, D>,
    ) -> Self {
        Self::new(dtype, dims, data.into_iter().collect())
            .expect("an operation makes as many elements as its dims have")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        let dims = [Dim::new("a", 2), Dim::new("b", 2)];
        for (dtype, x) in [
            (DType::F32, [1.5, -0.0, f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE)]),
            (DType::Bf16, [1.5, -0.0, 256.0, 2.0]),
            (DType::S32, [0.0, -1.0, -2_147_483_648.0, 7.0]),
            (DType::U32, [0.0, 4_294_967_295.0, 5.0, 7.0]),
            (DType::Pred, [0.0, 1.0, 1.0, 0.0]),
        ] {
            let tensor = Tensor::new(dtype, &dims, x.to_vec()).unwrap();
            assert_eq!(Tensor::from_bytes(dtype, &dims, &tensor.to_bytes()).unwrap(), tensor);
        }
        assert!(Tensor::from_bytes(DType::F32, &dims, &[0; 15]).unwrap_err().contains("15 bytes"));
        assert!(Tensor::from_bytes(DType::F32, &dims, &[0; 12]).unwrap_err().contains("4 elements, not 3"));
    }

    #[test]
    fn numbers_are_stored_as_their_type_holds_them() {
        let store = |dtype, x| Precision::Normal.store(dtype, x);
        assert_eq!(store(DType::S32, 2_147_483_648.0), -2_147_483_648.0);
        assert_eq!(store(DType::U32, -1.0), 4_294_967_295.0);
        assert_eq!(store(DType::F32, 0.1), f64::from(0.1f32));
        assert_eq!(store(DType::Bf16, 1.003_906_25), 1.0, "ties go to even");
        assert_eq!(Precision::Wide.store(DType::Bf16, 0.1), 0.1);
    }

    #[test]
    fn dims_are_found_by_name_whatever_their_order() {
        let tensor =
            Tensor::new(DType::F32, &[Dim::new("a", 2), Dim::new("b", 3)], vec![0., 1., 2., 3., 4., 5.])
                .unwrap();
        let turned = tensor.ordered(&["b".into(), "a".into()]);
        assert_eq!(turned.elements(), [0., 3., 1., 4., 2., 5.]);
        assert!(turned.fits(&Type::new(DType::F32, [Dim::new("a", 2), Dim::new("b", 3)])));
        assert!(!turned.fits(&Type::new(DType::F32, [Dim::new("a", 3), Dim::new("b", 2)])));
    }
}
