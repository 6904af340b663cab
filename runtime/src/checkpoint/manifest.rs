//! The manifest of a checkpoint and its validation: every box is within its file, and the boxes of a tensor
//! cover every element exactly once.

use super::tiling;
use crate::{
    shard::{self, Region},
    tensor::element_type,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Named strings that a writer adds to a checkpoint. docs/checkpoints.md lists the known names.
pub type Facts = BTreeMap<String, String>;

/// The fact that identifies the tokenizer of the model: `bytes`, or the digest of its file.
pub const TOKENIZER: &str = "tokenizer";
/// The fact that names the file of the tokenizer in the checkpoint.
pub const TOKENIZER_FILE: &str = "tokenizer.file";

/// The file with names, shapes, locations and digests.
pub(super) const MANIFEST: &str = "manifest.json";
/// The marker file, which is written last.
pub(super) const COMMIT: &str = "COMMIT";

/// The value of the field `format`.
pub(super) const FORMAT: &str = "mesh-checkpoint";
/// The version that is written, and the newest that can be read.
pub(super) const VERSION: u32 = 1;

/// The number of boxes of a tensor that are compared with each other to name two that overlap.
const SEARCHED: usize = 4096;

/// The contents of `manifest.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: String,
    pub version: u32,
    pub step: u64,
    pub facts: Facts,
    pub files: Vec<File>,
    pub tensors: Vec<Entry>,
}

/// A safetensors file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct File {
    /// A name without path separators.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// Size of the header, before the first tensor.
    pub header_bytes: u64,
    pub header_blake3: String,
}

/// A logical tensor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in the program.
    pub name: String,
    /// The kind of state.
    pub kind: Kind,
    /// The element type: `f32`, `bf16`, `s32`, `u32` or `pred`.
    pub dtype: String,
    /// Names and sizes of its dims, outermost first.
    pub dims: Vec<(String, usize)>,
    /// The boxes of the tensor. Every element is in exactly one.
    pub boxes: Vec<TensorBox>,
}

/// A kind of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A trained parameter.
    Param,
    /// An optimizer's memory for a parameter.
    Slot,
    /// Other state, such as the step number.
    Counter,
}

/// A box: a rectangular part of a tensor, dense and row-major in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorBox {
    /// The name of the file.
    pub file: String,
    /// The offset in the file.
    pub offset: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The first element along each dim.
    pub start: Vec<usize>,
    /// The number of elements along each dim.
    pub size: Vec<usize>,
    /// Digest of the bytes, in lower-case hexadecimal.
    pub blake3: String,
}

impl Entry {
    /// Returns the sizes of all dims.
    pub fn sizes(&self) -> Vec<usize> {
        self.dims.iter().map(|d| d.1).collect()
    }
    /// Returns the bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.boxes.iter().map(|p| p.bytes).sum()
    }
    /// Returns the type as text, such as `f32[d_model=64, d_ff=128]`.
    pub fn shape(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(|(name, size)| format!("{name}={size}")).collect();
        format!("{}[{}]", self.dtype, dims.join(", "))
    }

    fn element(&self) -> Option<u64> {
        element_type(&self.dtype).ok()?.byte_size().map(|b| b as u64)
    }

    fn check(&self) -> Result<(), String> {
        let element = self.element().ok_or_else(|| format!("it has elements of type `{}`", self.dtype))?;
        let sizes = self.sizes();
        let whole = volume(&sizes).and_then(|n| n.checked_mul(element)).ok_or("it is too large")?;
        let mut sum = 0u64;
        for part in &self.boxes {
            let region = part.region();
            if !shard::inside(&region, &sizes) {
                return Err(format!("its box {region} is outside of it"));
            }
            if volume(&part.size).and_then(|n| n.checked_mul(element)) != Some(part.bytes) {
                return Err(format!("its box {region} has {} bytes", part.bytes));
            }
            sum = sum.checked_add(part.bytes).ok_or("it is too large")?;
        }
        let boxes = self.boxes.iter().map(|part| (&part.start[..], &part.size[..]));
        if sum == whole && tiling::covers_once(&sizes, boxes) {
            return Ok(());
        }
        // Unless elements are missing, some occur twice.
        let twice = (sum >= whole).then(|| self.overlap()).flatten();
        Err(twice.unwrap_or_else(|| format!("its boxes have {sum} bytes instead of {whole}, or overlap")))
    }

    /// Names two boxes that overlap, if there are any among the first boxes.
    fn overlap(&self) -> Option<String> {
        let some = &self.boxes[..self.boxes.len().min(SEARCHED)];
        some.iter().enumerate().find_map(|(i, b)| {
            let overlaps = |a: &&TensorBox| shard::overlap((&a.start, &a.size), (&b.start, &b.size));
            let a = some[..i].iter().find(overlaps)?;
            Some(format!("its boxes {} and {} overlap", a.region(), b.region()))
        })
    }
}

impl TensorBox {
    /// Returns the region of the tensor that the box holds.
    pub fn region(&self) -> Region {
        Region { start: self.start.clone(), sizes: self.size.clone() }
    }

    /// Returns the name in the safetensors file: the tensor's name, with the region unless the box is the
    /// whole tensor.
    pub(super) fn name_in_file(&self, entry: &Entry) -> String {
        if self.size == entry.sizes() {
            entry.name.clone()
        } else {
            format!("{}{}", entry.name, self.region())
        }
    }
}

impl Manifest {
    /// Parses and validates a manifest.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head =
            serde_json::from_slice(text).map_err(|e| format!("it is not a checkpoint manifest: {e}"))?;
        if head.format != FORMAT {
            return Err(format!("its format is `{}`, not `{FORMAT}`", head.format));
        }
        if head.version > VERSION {
            return Err(format!(
                "its format version is {}, and this program reads versions up to {VERSION}",
                head.version
            ));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks that every tensor is complete, and that the boxes of every file cover it without gaps.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut places: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for file in &self.files {
            check_name(&file.name)?;
            let plain = !file.name.contains(['/', '\\']) && !matches!(file.name.as_str(), "" | "." | "..");
            if !plain || file.header_bytes < 8 || file.header_bytes > file.bytes {
                return Err(format!("the file `{}` has an invalid name or size", file.name));
            }
            if places.insert(&file.name, Vec::new()).is_some() {
                return Err(format!("the file `{}` is listed twice", file.name));
            }
        }
        for entry in &self.tensors {
            check_name(&entry.name)?;
            entry.dims.iter().try_for_each(|(dim, _)| check_name(dim))?;
            entry.check().map_err(|why| format!("tensor `{}`: {why}", entry.name))?;
            if !names.insert(&entry.name) {
                return Err(format!("tensor `{}` is listed twice", entry.name));
            }
            for part in &entry.boxes {
                let place = places.get_mut(part.file.as_str());
                let place =
                    place.ok_or_else(|| format!("tensor `{}` has a box in an unlisted file", entry.name))?;
                place.push((part.offset, part.bytes));
            }
        }
        for file in &self.files {
            let boxes = places.get_mut(file.name.as_str()).expect("every file was inserted above");
            boxes.sort_unstable();
            let mut at = file.header_bytes;
            for (offset, bytes) in boxes {
                if *offset != at {
                    return Err(format!(
                        "boxes of the file `{}` overlap or leave a gap at byte {at}",
                        file.name
                    ));
                }
                at = at.checked_add(*bytes).ok_or("a file is too large")?;
            }
            if at != file.bytes {
                return Err(format!(
                    "the boxes of the file `{}` end at byte {at} of {}",
                    file.name, file.bytes
                ));
            }
        }
        Ok(())
    }
}

/// The longest name of a tensor, a dim or a file in bytes. Those of programs are no longer.
const LONGEST_NAME: usize = 1024;

/// Refuses a name that is too long for messages.
fn check_name(name: &str) -> Result<(), String> {
    if name.len() <= LONGEST_NAME {
        return Ok(());
    }
    let short: String = name.chars().take(40).collect();
    Err(format!("the name `{short}…` has {} bytes, more than {LONGEST_NAME}", name.len()))
}

/// Returns the contents of the marker for this manifest.
pub(super) fn commit_of(manifest: &[u8]) -> String {
    format!("blake3:{}\n", blake3::hash(manifest).to_hex())
}

fn volume(sizes: &[usize]) -> Option<u64> {
    sizes.iter().try_fold(1u64, |n, size| n.checked_mul(*size as u64))
}
