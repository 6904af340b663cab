//! Checkpoints of T5X: the file `checkpoint` and the folders of its larger arrays.

use super::{
    array::{Array, Block, Source, elements},
    flax::{self, Leaf, OCDBT},
    zarr::Zarr,
};
use crate::{failure, hf::file::Element};
use anyhow::Result;
use std::{
    collections::BTreeMap,
    io::BufReader,
    path::{Path, PathBuf},
};

/// The name of the file with the tree.
pub const TREE: &str = "checkpoint";
/// Names of the step, in newer and older checkpoints.
const STEPS: [&str; 2] = ["state/step", "step"];
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
        let file = proto::regular::open(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let leaves = flax::parse(BufReader::new(file)).map_err(wrong)?;
        let mut all = Self { dir: dir.to_owned(), arrays: BTreeMap::new(), stored: BTreeMap::new(), step: 0 };
        for (path, leaf) in leaves {
            let name = path.strip_prefix("optimizer/").unwrap_or(&path).to_owned();
            let (array, place) = match leaf {
                Leaf::Inline(array, bytes) => (array, Stored::Inline(bytes)),
                Leaf::Folder(folder) => {
                    let zarr = Zarr::open(&dir.join(folder))?;
                    (zarr.array.clone(), Stored::Folder(zarr))
                }
            };
            if name != "version" {
                all.arrays.insert(name.clone(), array);
                all.stored.insert(name, place);
            }
        }
        if let Some(name) = STEPS.into_iter().find(|name| all.arrays.contains_key(*name)) {
            all.step = all.number(name)?;
        }
        Ok(all)
    }

    /// Returns the number of the step, one int32 that is not negative.
    fn number(&self, name: &str) -> Result<u64> {
        let wrong = |why: String| {
            failure(
                format!("`{}` has the step `{name}` {why}", self.dir.join(TREE).display()),
                "a step is one int32 from 0: docs/interchange.md",
            )
        };
        let Array { element, sizes } = &self.arrays[name];
        if (*element, elements(sizes)) != (Element::I32, Some(1)) {
            return Err(wrong(format!("of sizes {sizes:?} and type {}", flax::dtype(*element))));
        }
        let (_, bytes) = self.read(name, 0)?;
        let bytes = bytes.try_into().expect("an int32 has 4 bytes");
        let step = i32::from_le_bytes(bytes);
        u64::try_from(step).map_err(|_| wrong(step.to_string()))
    }
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
