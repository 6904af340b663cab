//! Tensors of a program in safetensors files.

use crate::failure;
use anyhow::{Context, Result};
use runtime::{ElementType, HostTensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Reads all tensors of `files`. Names must be unique across files.
pub fn read(files: &[PathBuf]) -> Result<BTreeMap<String, HostTensor>> {
    let mut all = BTreeMap::new();
    for path in files {
        let bytes = proto::regular::read(path).map_err(|e| {
            let what = format!("reading the tensors in `{}`: {e}", path.display());
            failure(what, "name a safetensors file")
        })?;
        for (name, tensor) in from_bytes(&bytes, path)? {
            if all.insert(name.clone(), tensor).is_some() {
                return Err(failure(
                    format!("tensor `{name}` is in `{}` and in an earlier file", path.display()),
                    "remove it from one of the files",
                ));
            }
        }
    }
    Ok(all)
}

fn from_bytes(bytes: &[u8], path: &Path) -> Result<Vec<(String, HostTensor)>> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| {
        failure(
            format!("`{}` is not a safetensors file, or it is truncated: {e}", path.display()),
            "write it with a safetensors library",
        )
    })?;
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let dtype = element_type(view.dtype()).ok_or_else(|| {
            failure(
                format!("tensor `{name}` of `{}` has elements of type {:?}", path.display(), view.dtype()),
                "use F32, BF16, I32, U32 or BOOL",
            )
        })?;
        Ok((name, HostTensor { dtype, dims: view.shape().to_vec(), bytes: view.data().to_vec() }))
    };
    tensors.tensors().into_iter().map(tensor).collect()
}

/// Returns the bytes of a safetensors file.
pub fn to_bytes(tensors: &BTreeMap<String, HostTensor>) -> Result<Vec<u8>> {
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        let view = TensorView::new(dtype(tensor.dtype)?, tensor.dims.clone(), &tensor.bytes);
        views.push((name.clone(), view.with_context(|| format!("writing tensor `{name}`"))?));
    }
    safetensors::serialize(views, None).context("writing tensors")
}

fn element_type(dtype: Dtype) -> Option<ElementType> {
    Some(match dtype {
        Dtype::F32 => ElementType::F32,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::I32 => ElementType::S32,
        Dtype::U32 => ElementType::U32,
        Dtype::BOOL => ElementType::Pred,
        _ => return None,
    })
}

fn dtype(element: ElementType) -> Result<Dtype> {
    Ok(match element {
        ElementType::F32 => Dtype::F32,
        ElementType::Bf16 => Dtype::BF16,
        ElementType::S32 => Dtype::I32,
        ElementType::U32 => Dtype::U32,
        ElementType::Pred => Dtype::BOOL,
        other => {
            return Err(failure(
                format!("safetensors files cannot store elements of type {other}"),
                "cast the output in the model",
            ));
        }
    })
}

/// Returns the rows of the matrix `input_ids` [inputs, tokens] without trailing padding. `name` is the file,
/// for messages.
///
/// # Errors
/// There is no such matrix.
pub fn token_rows(tensors: &BTreeMap<String, HostTensor>, name: &str) -> Result<Vec<Vec<i32>>> {
    let found = tensors.get("input_ids").or(tensors.get("inputs"));
    let ids = found.filter(|t| t.dims.len() == 2 && t.dims[1] > 0).ok_or_else(|| {
        failure(
            format!("`{name}` has no matrix of token ids `input_ids`"),
            "write it as I32 [inputs, tokens]",
        )
    })?;
    let row = |row: &[f64]| {
        let real = row.iter().rposition(|t| *t != 0.0).map_or(0, |last| last + 1);
        row[..real].iter().map(|t| *t as i32).collect()
    };
    Ok(ids.to_f64()?.chunks_exact(ids.dims[1]).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_round_trip() {
        let tensors = BTreeMap::from([
            ("a".to_owned(), HostTensor::f32(&[2, 1], &[1.0, -2.5])),
            ("seed".to_owned(), HostTensor::u32_scalar(7)),
            ("b".to_owned(), HostTensor { dtype: ElementType::Bf16, dims: vec![1], bytes: vec![0x80, 0x3f] }),
        ]);
        let bytes = to_bytes(&tensors).unwrap();
        let back: BTreeMap<_, _> = from_bytes(&bytes, Path::new("x")).unwrap().into_iter().collect();
        assert_eq!(back, tensors);
        let error = from_bytes(&bytes[..bytes.len() - 1], Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
    }
}
