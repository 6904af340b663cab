//! Arrays in the format zarr 2: a folder with `.zarray`, which describes the array, and one file for each
//! chunk, `0.0`, `0.1` and so on.
//!
//! Chunks are row-major, uncompressed or compressed with gzip. All chunks have the same size; those at the
//! end of an axis may exceed the array.

use super::array::{Array, Block, elements};
use crate::{failure, hf::file::Element};
use anyhow::{Context, Result};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use serde_json::{Value, json};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

/// Largest number of bytes in a chunk that is written, as T5X chooses it.
const CHUNK: usize = 64 << 20;
/// Largest number of bytes in a chunk that is read: a small file can decompress to as many.
const LARGEST: usize = 4 << 30;
/// Largest length of `.zarray`.
const LONGEST: u64 = 1 << 20;

/// An array in a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zarr {
    dir: PathBuf,
    /// Type and sizes.
    pub array: Array,
    /// Sizes of a chunk.
    chunks: Vec<usize>,
    gzip: bool,
    /// The character between the indices in the names of chunks.
    separator: char,
}

impl Zarr {
    /// Opens an array; reads and checks its description.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(".zarray");
        let file = proto::regular::open(&path).map_err(|error| {
            failure(
                format!("reading `{}`: {error}", path.display()),
                "an array is a folder in the format zarr 2: copy or download the checkpoint again",
            )
        })?;
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).with_context(|| format!("reading `{}`", path.display()))?;
        Self::parse(dir, &text).map_err(|why| {
            failure(
                format!("`{}` {why}", path.display()),
                "arrays are read in the format zarr 2, row-major, uncompressed or with gzip, in chunks of at most \
                 4 GiB: open the array with TensorStore and write it so",
            )
        })
    }

    fn parse(dir: &Path, text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|e| format!("is not JSON: {e}"))?;
        let fixed = |key: &str, only: Value| match &value[key] {
            found if *found == only => Ok(()),
            found => Err(format!("has `{key}` {found}; only {only} is supported")),
        };
        fixed("zarr_format", json!(2))?;
        fixed("order", json!("C"))?;
        if value["filters"].as_array().is_some_and(|filters| !filters.is_empty()) {
            return Err(format!("has `filters` {}; none are supported", value["filters"]));
        }
        let gzip = match (&value["compressor"], value["compressor"]["id"].as_str()) {
            (Value::Null, _) => false,
            (_, Some("gzip")) => true,
            (other, _) => return Err(format!("has `compressor` {other}; gzip and null are supported")),
        };
        let element = element(&value["dtype"]).ok_or_else(|| {
            format!(
                "has elements of `dtype` {}; \"<f4\", \"<f2\", \"bfloat16\", \"<f8\" and \"<i4\" are supported",
                value["dtype"]
            )
        })?;
        let list = |key: &str| -> Result<Vec<usize>, String> {
            let list = value[key].as_array().map(|list| list.iter().map(Value::as_u64).collect());
            let list: Option<Option<Vec<u64>>> = list;
            let list = list.flatten().ok_or_else(|| format!("has no `{key}`, a list of sizes"))?;
            let list: Vec<usize> = list.into_iter().map(|n| n as usize).collect();
            elements(&list).map(|_| list).ok_or_else(|| format!("has too large a `{key}`: {}", value[key]))
        };
        let (sizes, chunks) = (list("shape")?, list("chunks")?);
        if sizes.len() != chunks.len() || chunks.contains(&0) {
            return Err(format!("has `chunks` {chunks:?} for `shape` {sizes:?}"));
        }
        let bytes = chunks.iter().product::<usize>() * element.size();
        if bytes > LARGEST {
            return Err(format!("has `chunks` {chunks:?} of {bytes} bytes; at most {LARGEST} are supported"));
        }
        let separator = match value["dimension_separator"].as_str() {
            None | Some(".") => '.',
            Some("/") => '/',
            Some(other) => {
                return Err(format!("has `dimension_separator` \"{other}\"; \".\" and \"/\" exist"));
            }
        };
        Ok(Self { dir: dir.to_owned(), array: Array { element, sizes }, chunks, gzip, separator })
    }

    /// Returns the number of chunks.
    pub fn blocks(&self) -> usize {
        self.grid().iter().product()
    }

    /// Returns the number of chunks along each axis.
    fn grid(&self) -> Vec<usize> {
        self.array.sizes.iter().zip(&self.chunks).map(|(size, chunk)| size.div_ceil(*chunk)).collect()
    }

    /// Returns the position of a chunk in the grid.
    fn position(&self, block: usize) -> Vec<usize> {
        let (mut rest, mut at) = (block, vec![0; self.chunks.len()]);
        for (index, count) in at.iter_mut().zip(self.grid()).rev() {
            (*index, rest) = (rest % count, rest / count);
        }
        at
    }

    fn file(&self, position: &[usize]) -> PathBuf {
        let indices: Vec<String> = position.iter().map(usize::to_string).collect();
        // An array without axes has one chunk, `0`.
        let name =
            if indices.is_empty() { "0".to_owned() } else { indices.join(&self.separator.to_string()) };
        self.dir.join(name)
    }

    /// Reads a chunk, without what exceeds the array.
    pub fn read(&self, block: usize) -> Result<(Block, Vec<u8>)> {
        let position = self.position(block);
        let path = self.file(&position);
        let wrong = |why: String| {
            failure(
                format!("`{}` {why}", path.display()),
                "the checkpoint is incomplete or damaged: copy or download it again",
            )
        };
        let file = proto::regular::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => wrong("is missing: it is a chunk of the array".into()),
            _ => wrong(format!("cannot be opened: {error}")),
        })?;
        let (most, element) = (self.chunks.iter().product::<usize>(), self.array.element.size());
        let (expect, mut bytes) = (most * element, Vec::new());
        let limit = expect as u64 + 1;
        let read = if self.gzip {
            MultiGzDecoder::new(std::io::BufReader::new(file)).take(limit).read_to_end(&mut bytes)
        } else {
            file.take(limit).read_to_end(&mut bytes)
        };
        read.map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if bytes.len() != expect {
            let found = if bytes.len() > expect { "more".to_owned() } else { bytes.len().to_string() };
            return Err(wrong(format!("has {found} bytes instead of {expect}")));
        }
        let start: Vec<usize> = position.iter().zip(&self.chunks).map(|(at, chunk)| at * chunk).collect();
        let inside = |((start, size), chunk): ((&usize, &usize), &usize)| (*chunk).min(size - start);
        let sizes: Vec<usize> = start.iter().zip(&self.array.sizes).zip(&self.chunks).map(inside).collect();
        let bytes = cropped(bytes, &self.chunks, &sizes, element);
        Ok((Block { start, sizes }, bytes))
    }

    /// Creates the folder of an array, compressed with gzip if `gzip`, and writes its description.
    ///
    /// # Errors
    /// The folder exists, or cannot be written.
    pub fn create(dir: &Path, array: &Array, gzip: bool) -> Result<Self> {
        let chunks = chunk_sizes(&array.sizes, CHUNK / array.element.size());
        let zarr = Self { dir: dir.to_owned(), array: array.clone(), chunks, gzip, separator: '.' };
        let compressor = if gzip { json!({ "id": "gzip", "level": 1 }) } else { Value::Null };
        let description = json!({
            "chunks": zarr.chunks,
            "compressor": compressor,
            "dimension_separator": ".",
            "dtype": dtype(array.element),
            "fill_value": null,
            "filters": null,
            "order": "C",
            "shape": array.sizes,
            "zarr_format": 2,
        });
        let writing = || format!("writing `{}`", dir.display());
        fs::create_dir(dir).with_context(writing)?;
        fs::write(dir.join(".zarray"), description.to_string()).with_context(writing)?;
        Ok(zarr)
    }

    /// Returns the box of a chunk of an array that this program created: chunks divide the array.
    pub fn place(&self, block: usize) -> Block {
        let start = self.position(block).iter().zip(&self.chunks).map(|(at, chunk)| at * chunk).collect();
        Block { start, sizes: self.chunks.clone() }
    }

    /// Writes a chunk.
    pub fn write(&self, block: usize, bytes: &[u8]) -> Result<()> {
        let path = self.file(&self.position(block));
        let writing = || format!("writing `{}`", path.display());
        let file = fs::File::create_new(&path).with_context(writing)?;
        let mut file = if self.gzip {
            let mut encoder = GzEncoder::new(file, Compression::fast());
            encoder.write_all(bytes).with_context(writing)?;
            encoder.finish().with_context(writing)?
        } else {
            let mut file = file;
            file.write_all(bytes).with_context(writing)?;
            file
        };
        file.flush().and_then(|()| file.sync_all()).with_context(writing)
    }
}

/// Returns the type with a name of zarr. `bfloat16` is TensorStore's name.
fn element(dtype: &Value) -> Option<Element> {
    Some(match dtype.as_str()? {
        "<f4" => Element::F32,
        "<f2" => Element::F16,
        "<f8" => Element::F64,
        "<i4" => Element::I32,
        "bfloat16" => Element::Bf16,
        _ => return None,
    })
}

/// Returns the inverse of [`element`].
fn dtype(element: Element) -> &'static str {
    match element {
        Element::F32 => "<f4",
        Element::F16 => "<f2",
        Element::F64 => "<f8",
        Element::I32 => "<i4",
        Element::Bf16 => "bfloat16",
    }
}

/// Returns sizes of chunks with at most `most` elements, which divide the array. The largest axes are divided
/// first.
fn chunk_sizes(sizes: &[usize], most: usize) -> Vec<usize> {
    let mut chunks: Vec<usize> = sizes.iter().map(|size| (*size).max(1)).collect();
    while chunks.iter().product::<usize>() > most.max(1) {
        let Some((axis, size)) = chunks.iter().copied().enumerate().max_by_key(|(_, size)| *size) else {
            break;
        };
        let smaller = (1..size).rev().find(|n| size % n == 0);
        chunks[axis] = smaller.expect("more than `most` elements have an axis longer than 1");
    }
    chunks
}

/// Returns the first `sizes` elements along each axis of an array of `from` elements.
fn cropped(bytes: Vec<u8>, from: &[usize], sizes: &[usize], element: usize) -> Vec<u8> {
    if from == sizes {
        return bytes;
    }
    let (Some((last, outer)), Some(from_last)) = (sizes.split_last(), from.last()) else { return bytes };
    let rows: usize = outer.iter().product();
    let mut out = Vec::with_capacity(rows * last * element);
    for row in 0..rows {
        let (mut rest, mut at, mut stride) = (row, 0, *from_last);
        for (size, have) in outer.iter().zip(from).rev() {
            at += rest % size * stride;
            rest /= size;
            stride *= have;
        }
        out.extend_from_slice(&bytes[at * element..(at + last) * element]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        for (i, sizes) in [vec![], vec![3], vec![2, 3], vec![2, 1, 4]].into_iter().enumerate() {
            for gzip in [false, true] {
                let array = Array { element: Element::F32, sizes: sizes.clone() };
                let dir = place.path().join(format!("{i}{gzip}"));
                let written = Zarr::create(&dir, &array, gzip).unwrap();
                let bytes: Vec<u8> = (0..sizes.iter().product::<usize>() * 4).map(|i| i as u8).collect();
                written.write(0, &bytes).unwrap();
                let read = Zarr::open(&dir).unwrap();
                assert_eq!((&read.array, read.blocks()), (&array, 1));
                assert_eq!(
                    read.read(0).unwrap(),
                    (Block { start: vec![0; sizes.len()], sizes: sizes.clone() }, bytes)
                );
            }
        }
    }

    #[test]
    fn chunks_at_the_end_are_cropped() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"zarr_format":2,"order":"C","filters":null,"compressor":null,"dtype":"<i4","shape":[3,5],
            "chunks":[2,3],"fill_value":null,"dimension_separator":"/"}"#;
        fs::write(dir.path().join(".zarray"), text).unwrap();
        fs::create_dir(dir.path().join("1")).unwrap();
        let bytes: Vec<u8> = (0..6i32).flat_map(i32::to_le_bytes).collect();
        fs::write(dir.path().join("1/1"), &bytes).unwrap();
        let zarr = Zarr::open(dir.path()).unwrap();
        assert_eq!(zarr.blocks(), 4);
        let (block, read) = zarr.read(3).unwrap();
        assert_eq!((block.start, block.sizes), (vec![2, 3], vec![1, 2]));
        assert_eq!(read, bytes[..8]);
        let error = zarr.read(2).unwrap_err().to_string();
        assert!(error.contains("1/0` is missing: it is a chunk of the array"), "{error}");
        fs::write(dir.path().join("1/1"), &bytes[1..]).unwrap();
        assert!(zarr.read(3).unwrap_err().to_string().contains("has 23 bytes instead of 24"));
        fs::write(dir.path().join("1/1"), [&bytes[..], &[0]].concat()).unwrap();
        assert!(zarr.read(3).unwrap_err().to_string().contains("has more bytes instead of 24"));
    }

    /// Checks the error, or the array, for a description with one key replaced.
    #[track_caller]
    fn refused(key: &str, value: Value, expect: &str) {
        let mut all = json!({"zarr_format": 2, "order": "C", "filters": null, "compressor": {"id": "gzip"},
            "dtype": "<f4", "shape": [4, 4], "chunks": [4, 4], "fill_value": null});
        all[key] = value;
        let said = match Zarr::parse(Path::new("x"), all.to_string().as_bytes()) {
            Ok(zarr) => format!("{zarr:?}"),
            Err(why) => why,
        };
        assert!(said.contains(expect), "{said}\ndoes not say\n{expect}");
    }

    #[test]
    fn other_formats_are_refused() {
        refused("zarr_format", json!(3), "has `zarr_format` 3; only 2 is supported");
        refused("order", json!("F"), "has `order` \"F\"; only \"C\" is supported");
        refused("compressor", json!({"id": "blosc"}), "gzip and null are supported");
        refused("filters", json!([{"id": "delta"}]), "has `filters`");
        refused("dtype", json!(">f4"), "has elements of `dtype` \">f4\"");
        refused("dtype", json!([["a", "<f4"]]), "has elements of `dtype`");
        refused("shape", json!([4]), "has `chunks` [4, 4] for `shape` [4]");
        refused("shape", json!([-4, 4]), "has no `shape`");
        refused("shape", json!([1u64 << 40, 1u64 << 40]), "has too large a `shape`");
        refused("chunks", json!([0, 4]), "has `chunks` [0, 4]");
        refused("chunks", json!([32769, 32768]), "of 4295098368 bytes; at most 4294967296 are supported");
        refused("chunks", json!([32768, 32768]), "Zarr {");
        refused("dimension_separator", json!("-"), "has `dimension_separator`");
    }

    #[test]
    fn chunks_divide_the_array() {
        assert_eq!(chunk_sizes(&[4, 6], 24), [4, 6]);
        assert_eq!(chunk_sizes(&[4, 6], 12), [4, 3]);
        assert_eq!(chunk_sizes(&[4, 6], 1), [1, 1]);
        assert_eq!(chunk_sizes(&[7, 5], 10), [1, 5]);
        assert_eq!(chunk_sizes(&[], 10), [] as [usize; 0]);
    }
}
