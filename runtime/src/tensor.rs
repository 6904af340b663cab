//! Logical tensors in host memory.

use crate::{Error, Result, shard};
use pjrt::ElementType;
use proto::manifest::Tensor;

/// A logical (whole) tensor: dense, row-major, little-endian.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostTensor {
    /// The type of the elements.
    pub dtype: ElementType,
    /// Dim sizes, outermost first.
    pub dims: Vec<usize>,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl HostTensor {
    /// Creates a tensor of 32-bit floats.
    pub fn f32(dims: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: ElementType::F32,
            dims: dims.to_vec(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }
    /// Creates a tensor of signed 32-bit integers.
    pub fn s32(dims: &[usize], values: &[i32]) -> Self {
        Self {
            dtype: ElementType::S32,
            dims: dims.to_vec(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }
    /// Creates a scalar unsigned 32-bit integer.
    pub fn u32_scalar(value: u32) -> Self {
        Self { dtype: ElementType::U32, dims: Vec::new(), bytes: value.to_le_bytes().to_vec() }
    }
    /// Checks that this is a value of the type `tensor`. `what` names the value in the error.
    ///
    /// # Errors
    /// The element type, the sizes or the number of bytes differ.
    pub fn require(&self, what: &str, tensor: &Tensor) -> Result<()> {
        let (dims, dtype) = (shard::dims(tensor), element_type(&tensor.dtype)?);
        let size = dtype.byte_size().unwrap_or(0) * dims.iter().product::<usize>();
        if self.dtype == dtype && self.dims == dims && self.bytes.len() == size {
            return Ok(());
        }
        let names: Vec<String> = tensor.dims.iter().map(|d| format!("{}={}", d.name, d.size)).collect();
        Err(Error::input(
            format!("{what} is {}{:?} with {} bytes", self.dtype, self.dims, self.bytes.len()),
            format!("the program expects {}[{}], {size} bytes", tensor.dtype, names.join(", ")),
        ))
    }
    /// Converts all elements to `f64`.
    ///
    /// # Errors
    /// The element type is not one that programs use.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        let four =
            |f: fn([u8; 4]) -> f64| self.bytes.chunks_exact(4).map(|b| f([b[0], b[1], b[2], b[3]])).collect();
        Ok(match self.dtype {
            ElementType::F32 => four(|b| f64::from(f32::from_le_bytes(b))),
            ElementType::S32 => four(|b| f64::from(i32::from_le_bytes(b))),
            ElementType::U32 => four(|b| f64::from(u32::from_le_bytes(b))),
            ElementType::Bf16 => {
                self.bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
            }
            ElementType::Pred => self.bytes.iter().map(|b| f64::from(*b)).collect(),
            other => {
                return Err(Error::input(
                    format!("elements of type {other} cannot be read as numbers"),
                    "programs use f32, bf16, s32, u32 and pred",
                ));
            }
        })
    }
}

/// Parses the name of an element type in a manifest.
///
/// # Errors
/// The name is not `f32`, `bf16`, `s32`, `u32` or `pred`.
pub fn element_type(name: &str) -> Result<ElementType> {
    Ok(match name {
        "f32" => ElementType::F32,
        "bf16" => ElementType::Bf16,
        "s32" => ElementType::S32,
        "u32" => ElementType::U32,
        "pred" => ElementType::Pred,
        other => {
            return Err(Error::input(
                format!("the manifest has the unknown element type `{other}`"),
                "compile the program again with this version",
            ));
        }
    })
}
