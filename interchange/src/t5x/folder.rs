//! Checkpoints of T5X: the file `checkpoint` and the folders of its larger arrays.

use super::{
    array::{Array, Block, Source},
    flax::{self, Leaf, OCDBT},
    zarr::Zarr,
};
use crate::failure;
use anyhow::Result;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The name of the file with the tree.
pub const TREE: &str = "checkpoint";
/// The file that a folder has whose arrays are in OCDBT.
const OCDBT_FILE: &str = "manifest.ocdbt";

/// A checkpoint of T5X.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    arrays: BTreeMap<String, Array>,
    stored: BTreeMap<String, Stored>,
    step: u64,
}

#[derive(Debug)]
enum Stored {
    Inline(Vec<u8>),
    Folder(Zarr),
}

impl Folder {
    /// Opens a checkpoint; reads the tree and the descriptions of all arrays.
    ///
    /// # Errors
    /// The tree or a description is missing, damaged or of another format.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(TREE);
        let wrong = |why: String| {
            failure(
                format!("`{}` {why}", path.display()),
                "name the folder of one checkpoint of T5X, such as checkpoint_1000000: docs/interchange.md",
            )
        };
        if dir.join(OCDBT_FILE).exists() {
            return Err(failure(
                format!("the arrays of `{}` are in OCDBT, which is not read", dir.display()),
                OCDBT,
            ));
        }
        let bytes = proto::regular::read(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let leaves = flax::parse(&bytes).map_err(wrong)?;
        let (mut arrays, mut stored, mut step) = (BTreeMap::new(), BTreeMap::new(), 0);
        for (path, leaf) in leaves {
            let name = path.strip_prefix("optimizer/").unwrap_or(&path).to_owned();
            let (array, place) = match leaf {
                Leaf::Inline(array, bytes) => (array, Stored::Inline(bytes)),
                Leaf::Folder(folder) => {
                    let zarr = Zarr::open(&dir.join(folder))?;
                    (zarr.array.clone(), Stored::Folder(zarr))
                }
            };
            match (name.as_str(), &place) {
                ("version", _) => continue,
                ("state/step" | "step", Stored::Inline(bytes)) => step = number(bytes),
                (_, _) => {}
            }
            arrays.insert(name.clone(), array);
            stored.insert(name, place);
        }
        Ok(Self { dir: dir.to_owned(), arrays, stored, step })
    }
}

/// Returns a step number of 4 bytes; one that is not positive counts as 0.
fn number(bytes: &[u8]) -> u64 {
    <[u8; 4]>::try_from(bytes)
        .ok()
        .and_then(|bytes| u64::try_from(i32::from_le_bytes(bytes)).ok())
        .unwrap_or(0)
}

impl Source for Folder {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn arrays(&self) -> &BTreeMap<String, Array> {
        &self.arrays
    }

    fn own_name(&self, name: &str) -> String {
        name.to_owned()
    }

    fn blocks(&self, name: &str) -> usize {
        match &self.stored[name] {
            Stored::Inline(_) => 1,
            Stored::Folder(zarr) => zarr.blocks(),
        }
    }

    fn read(&self, name: &str, block: usize) -> Result<(Block, Vec<u8>)> {
        match &self.stored[name] {
            Stored::Inline(bytes) => {
                let sizes = self.arrays[name].sizes.clone();
                Ok((Block { start: vec![0; sizes.len()], sizes }, bytes.clone()))
            }
            Stored::Folder(zarr) => zarr.read(block),
        }
    }

    fn rows_are_first(&self) -> bool {
        true
    }

    fn step(&self) -> u64 {
        self.step
    }
}
