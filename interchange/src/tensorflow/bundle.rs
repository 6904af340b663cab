//! Files of a TensorFlow checkpoint: the index, `NAME.index`, and elements, `NAME.data-00000-of-00002`.

use super::{
    names::renamed,
    table::{Refused, records},
};
use crate::{
    failure,
    hf::file::Element,
    t5x::array::{Array, Block, Source, elements},
};
use anyhow::{Context, Result};
use prost::Message;
use runtime::train::events::masked;
use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Number of bytes that are read at once.
const BLOCK: usize = 64 << 20;
/// Number of bytes that are read of a file `checkpoint`.
const BEGINNING: u64 = 64 << 10;
/// The key of the header in the index.
const HEADER: &[u8] = b"";
/// The tensor with the number of the step.
const STEP: &str = "global_step";
/// The remedy for files that are incomplete or damaged.
const DAMAGED: &str = "the checkpoint is incomplete or damaged: copy or download all of its files again";
/// The remedy for formats and models that are not supported.
const UNSUPPORTED: &str = "docs/interchange.md lists the models and formats that can be imported";
/// A tensor with names of Python objects, which newer versions write.
const OBJECTS: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

/// `BundleHeaderProto` of TensorFlow.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int32, tag = "1")]
    shards: i32,
    /// 0: little endian.
    #[prost(int32, tag = "2")]
    endianness: i32,
}

/// `BundleEntryProto` of TensorFlow.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    /// `DataType` of TensorFlow.
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(int32, tag = "3")]
    shard: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    size: i64,
    /// The masked checksum of the elements.
    #[prost(fixed32, tag = "6")]
    crc32c: u32,
    /// Parts of a variable that is stored in several tensors.
    #[prost(bytes = "vec", repeated, tag = "7")]
    slices: Vec<Vec<u8>>,
}

/// `TensorShapeProto` of TensorFlow.
#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dims: Vec<Dim>,
}

/// `TensorShapeProto.Dim` of TensorFlow.
#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// A checkpoint of TensorFlow.
#[derive(Debug)]
pub struct Checkpoint {
    /// The path without the endings of its files.
    prefix: PathBuf,
    arrays: BTreeMap<String, Array>,
    places: BTreeMap<String, Place>,
    shards: Vec<(PathBuf, File)>,
    step: u64,
    /// The checksum of the blocks that were read of an array.
    sum: Cell<u32>,
}

/// The place of a tensor.
#[derive(Clone, Debug)]
struct Place {
    own_name: String,
    shard: usize,
    offset: u64,
    crc32c: u32,
}

impl Checkpoint {
    /// Returns true if a path is a checkpoint of TensorFlow, a folder with one, or one of its files.
    pub fn is_at(path: &Path) -> bool {
        prefix(path).is_some()
    }

    /// Opens a checkpoint: a path without the endings of its files, the path of its index, or a folder.
    ///
    /// # Errors
    /// A file is missing or damaged, its format is not supported, or tensors are not those of a T5.
    pub fn open(path: &Path) -> Result<Self> {
        let prefix =
            prefix(path).with_context(|| format!("`{}` has no TensorFlow checkpoint", path.display()))?;
        let index = with_ending(&prefix, ".index");
        let wrong = |why: Refused| {
            let (why, help) = match why {
                Refused::Damaged(why) => (why, DAMAGED),
                Refused::Unsupported(why) => (why, UNSUPPORTED),
            };
            failure(format!("`{}` {why}", index.display()), help)
        };
        let bytes = proto::regular::read(&index).map_err(|e| wrong(format!("cannot be read: {e}").into()))?;
        let (shards, entries) = entries(&bytes).map_err(wrong)?;
        let shards = (0..shards).map(|i| {
            let path = with_ending(&prefix, &format!(".data-{i:05}-of-{shards:05}"));
            let file = proto::regular::open(&path).map_err(|error| {
                failure(
                    format!("`{}` cannot be read: {error}", path.display()),
                    "its elements are there: copy or download all files of the checkpoint",
                )
            })?;
            Ok((path, file))
        });
        let shards: Vec<(PathBuf, File)> = shards.collect::<Result<_>>()?;
        let lengths = shards.iter().map(|(path, file)| {
            file.metadata().map(|m| m.len()).with_context(|| format!("reading `{}`", path.display()))
        });
        let lengths: Vec<u64> = lengths.collect::<Result<_>>()?;
        let names = renamed(entries.keys().map(String::as_str).filter(|n| ![STEP, OBJECTS].contains(n)));
        let mut all = Self {
            prefix,
            arrays: BTreeMap::new(),
            places: BTreeMap::new(),
            shards,
            step: 0,
            sum: Cell::new(0),
        };
        for (name, own_name) in names.map_err(|why| wrong(Refused::Unsupported(why)))? {
            let (array, place) = placed(own_name, &entries[own_name], &lengths).map_err(wrong)?;
            all.arrays.insert(name.clone(), array);
            all.places.insert(name, place);
        }
        if let Some(entry) = entries.get(STEP) {
            all.step = all.number(entry).map_err(wrong)?;
        }
        Ok(all)
    }

    /// Returns the number of the step, an int32 or int64.
    fn number(&self, entry: &Entry) -> Result<u64, Refused> {
        let bad = || Refused::Damaged(format!("has a damaged tensor `{STEP}`"));
        let length = match entry.dtype {
            3 => 4,
            9 => 8,
            other => {
                return Err(Refused::Unsupported(format!(
                    "has the tensor `{STEP}` of TensorFlow's type {other}; int32 (3) and int64 (9) are supported"
                )));
            }
        };
        if usize::try_from(entry.size) != Ok(length) {
            return Err(bad());
        }
        let shard = usize::try_from(entry.shard).ok().and_then(|i| self.shards.get(i)).ok_or_else(bad)?;
        let (mut bytes, offset) = ([0; 8], u64::try_from(entry.offset).map_err(|_| bad())?);
        shard.1.read_exact_at(&mut bytes[..length], offset).map_err(|_| bad())?;
        if masked(crc32c::crc32c(&bytes[..length])) != entry.crc32c {
            return Err(bad());
        }
        let [a, b, c, d, ..] = bytes;
        let step = match length {
            4 => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => i64::from_le_bytes(bytes),
        };
        u64::try_from(step).map_err(|_| Refused::Damaged(format!("has a negative step, {step}, in `{STEP}`")))
    }

    /// Returns the number of rows that are read at once.
    fn rows(array: &Array) -> usize {
        (BLOCK / row(array).max(1)).max(1)
    }
}

/// Returns the number of bytes in a row, which has all axes but the first.
fn row(array: &Array) -> usize {
    array.sizes.iter().skip(1).product::<usize>() * array.element.size()
}

/// Returns the number of files with elements, and the entries by name.
fn entries(index: &[u8]) -> Result<(usize, BTreeMap<String, Entry>), Refused> {
    let mut all = records(index)?.into_iter();
    let header = all.next().filter(|(key, _)| key == HEADER).ok_or("has no header")?.1;
    let header = Header::decode(&header[..]).map_err(|e| format!("has a damaged header: {e}"))?;
    if header.endianness != 0 {
        let why = "was written by a big-endian machine, which is not supported";
        return Err(Refused::Unsupported(why.into()));
    }
    // The names of files have five digits.
    let shards = usize::try_from(header.shards).ok().filter(|n| (1..100_000).contains(n));
    let shards = shards.ok_or_else(|| format!("has {} files with elements", header.shards))?;
    let mut entries = BTreeMap::new();
    for (key, value) in all {
        let name = String::from_utf8(key).map_err(|_| "has a name that is not text")?;
        let entry = Entry::decode(&value[..]).map_err(|e| format!("has a damaged tensor `{name}`: {e}"))?;
        entries.insert(name, entry);
    }
    Ok((shards, entries))
}

/// Returns the array of an entry and its place, held against the lengths of the files.
fn placed(name: &str, entry: &Entry, lengths: &[u64]) -> Result<(Array, Place), Refused> {
    let element = element(entry.dtype).ok_or_else(|| {
        Refused::Unsupported(format!(
            "has the tensor `{name}` of TensorFlow's type {}; float32 (1), float64 (2), int32 (3), bfloat16 (14) and \
             float16 (19) are supported",
            entry.dtype
        ))
    })?;
    if !entry.slices.is_empty() {
        let why = format!("has the tensor `{name}` in slices: save it without a partitioner");
        return Err(Refused::Unsupported(why));
    }
    let dims = entry.shape.iter().flat_map(|shape| &shape.dims);
    let sizes: Option<Vec<usize>> = dims.map(|dim| usize::try_from(dim.size).ok()).collect();
    let bytes = sizes.as_deref().and_then(elements).map(|n| (n * element.size()) as u64);
    let (sizes, bytes) =
        sizes.zip(bytes).ok_or_else(|| format!("has the tensor `{name}` with wrong sizes"))?;
    let (size, offset) = (u64::try_from(entry.size).ok(), u64::try_from(entry.offset).ok());
    if size != Some(bytes) {
        return Err(format!("has the tensor `{name}` of sizes {sizes:?} with {} bytes", entry.size).into());
    }
    let shard = usize::try_from(entry.shard).ok().filter(|shard| *shard < lengths.len());
    let end = offset.and_then(|offset| offset.checked_add(bytes));
    let (Some(shard), Some(offset), Some(end)) = (shard, offset, end) else {
        return Err(
            format!("has the tensor `{name}` at byte {} of file {}", entry.offset, entry.shard).into()
        );
    };
    if end > lengths[shard] {
        return Err(format!(
            "has the tensor `{name}` up to byte {end} of file {shard}, which has {} bytes",
            lengths[shard]
        )
        .into());
    }
    let place = Place { own_name: name.to_owned(), shard, offset, crc32c: entry.crc32c };
    Ok((Array { element, sizes }, place))
}

/// Returns the type with a number of TensorFlow.
fn element(dtype: i32) -> Option<Element> {
    Some(match dtype {
        1 => Element::F32,
        2 => Element::F64,
        3 => Element::I32,
        14 => Element::Bf16,
        19 => Element::F16,
        _ => return None,
    })
}

fn with_ending(prefix: &Path, ending: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Returns the path of a checkpoint without the endings of its files; `None` if there is none.
fn prefix(path: &Path) -> Option<PathBuf> {
    let index = |prefix: &Path| with_ending(prefix, ".index").is_file();
    if path.is_dir() {
        let named = beginning(&path.join("checkpoint")).and_then(|text| latest(&text));
        if let Some(prefix) = named.map(|name| path.join(name)).filter(|prefix| index(prefix)) {
            return Some(prefix);
        }
        let files = fs::read_dir(path).ok()?.filter_map(Result::ok).map(|entry| entry.path());
        let mut found = files.filter(|file| file.extension().is_some_and(|e| e == "index") && file.is_file());
        let only = found.next()?;
        return found.next().is_none().then(|| only.with_extension(""));
    }
    let name = path.to_str()?;
    let without = name.strip_suffix(".index").or_else(|| Some(name.rsplit_once(".data-")?.0)).unwrap_or(name);
    Some(PathBuf::from(without)).filter(|prefix| index(prefix))
}

/// Returns the beginning of a file `checkpoint`, which names the newest checkpoint first. T5X has a file of
/// the same name, which may be large.
fn beginning(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    proto::regular::open(path).ok()?.take(BEGINNING).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the name of the newest checkpoint in the text of a file `checkpoint`.
fn latest(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("model_checkpoint_path:"))?;
    let name = line.trim().trim_matches('"');
    // The path may be one of another machine.
    name.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

impl Source for Checkpoint {
    fn path(&self) -> &Path {
        &self.prefix
    }

    fn arrays(&self) -> &BTreeMap<String, Array> {
        &self.arrays
    }

    fn own_name(&self, name: &str) -> String {
        self.places.get(name).map_or_else(|| name.to_owned(), |place| place.own_name.clone())
    }

    fn blocks(&self, name: &str) -> usize {
        let array = &self.arrays[name];
        array.sizes.first().map_or(1, |rows| rows.div_ceil(Self::rows(array)))
    }

    fn read(&self, name: &str, block: usize) -> Result<(Block, Vec<u8>)> {
        let (array, place) = (&self.arrays[name], &self.places[name]);
        let (rows, mut start, mut sizes) =
            (Self::rows(array), vec![0; array.sizes.len()], array.sizes.clone());
        if let (Some(start), Some(size)) = (start.first_mut(), sizes.first_mut()) {
            *start = block * rows;
            *size = rows.min(*size - *start);
        }
        let mut bytes = vec![0; sizes.iter().product::<usize>() * array.element.size()];
        let (path, file) = &self.shards[place.shard];
        let offset = place.offset + (start.first().unwrap_or(&0) * row(array)) as u64;
        file.read_exact_at(&mut bytes, offset).with_context(|| format!("reading `{}`", path.display()))?;
        let before = if block == 0 { 0 } else { self.sum.get() };
        self.sum.set(crc32c::crc32c_append(before, &bytes));
        if block + 1 == self.blocks(name) && masked(self.sum.get()) != place.crc32c {
            return Err(failure(
                format!("`{}`: the checksum of tensor `{}` is wrong", path.display(), place.own_name),
                "the file is damaged: copy or download it again",
            ));
        }
        Ok((Block { start, sizes }, bytes))
    }

    fn rows_are_first(&self) -> bool {
        false
    }

    fn step(&self) -> u64 {
        self.step
    }
}

#[cfg(test)]
mod tests {
    use super::{super::table::tests::table, *};
    use crate::{
        Overrides,
        t5x::import::{Imported, import},
    };
    use models::{
        Config, Switch,
        t5x::{Layers, variables},
    };
    use tempfile::TempDir;

    fn small() -> Config {
        let switch = Switch { experts: 3, sparse_step: 2, ..Switch::default() };
        Config {
            vocab: 10,
            d_model: 4,
            d_ff: 6,
            heads: 2,
            d_kv: 3,
            buckets: 8,
            max_distance: 16,
            encoder_layers: 2,
            decoder_layers: 2,
            switch: Some(switch),
            ..Config::default()
        }
    }

    /// Returns Mesh TensorFlow's name of a variable of T5X, with two layers in a block.
    fn own(path: &str) -> String {
        let stack = path.split('/').next().unwrap_or(path);
        let tail: Vec<&str> = path.split('/').skip(1).collect();
        let (decoder, layer) =
            (stack == "decoder", tail[0].strip_prefix("layers_").map(|n| n.parse().unwrap()));
        let step = if decoder { 3 } else { 2 };
        let at =
            |sublayer: usize| format!("{stack}/block_000/layer_{:03}", layer.unwrap_or(0) * step + sublayer);
        let part = |word: &str| match word {
            "query" => "q",
            "key" => "k",
            "value" => "v",
            _ => "o",
        };
        match tail[..] {
            ["embedding"] => "shared/embedding".into(),
            ["relpos_bias", _] => format!("{}/SelfAttention/relative_attention_bias", at(0)),
            ["encoder_norm" | "decoder_norm", _] => format!("{stack}/rms_norm/scale"),
            [_, "attention" | "self_attention", word, _] => format!("{}/SelfAttention/{}", at(0), part(word)),
            [_, "encoder_decoder_attention", word, _] => format!("{}/EncDecAttention/{}", at(1), part(word)),
            [_, "pre_attention_layer_norm" | "pre_self_attention_layer_norm", _] => {
                format!("{}/rms_norm/scale", at(0))
            }
            [_, "pre_cross_attention_layer_norm", _] => format!("{}/rms_norm/scale", at(1)),
            [_, "pre_mlp_layer_norm", _] => format!("{}/rms_norm/scale", at(step - 1)),
            [_, "mlp", "router", ..] => format!("{}/MoE1D/switch_gating/kernel", at(step - 1)),
            [_, "mlp", "expert", word, _] => format!("{}/MoE1D/{word}/kernel", at(step - 1)),
            [_, "mlp", word, _] => format!("{}/DenseReluDense/{word}/kernel", at(step - 1)),
            _ => panic!("{path}"),
        }
    }

    /// Writes a checkpoint with elements 0, 1, 2 and so on; `change` alters the entries.
    fn checkpoint(change: impl Fn(&str, &mut Entry)) -> TempDir {
        with_step(9, &123i64.to_le_bytes(), Header { shards: 1, endianness: 0 }, change)
    }

    /// The same with these elements of the step and this header.
    fn with_step(dtype: i32, step: &[u8], header: Header, change: impl Fn(&str, &mut Entry)) -> TempDir {
        let place = tempfile::tempdir().unwrap();
        let (mut data, mut entries) = (Vec::new(), BTreeMap::new());
        let mut add = |name: String, dtype: i32, sizes: &[usize], bytes: Vec<u8>| {
            let dims = sizes.iter().map(|size| Dim { size: *size as i64 }).collect();
            let mut entry = Entry {
                dtype,
                shape: Some(Shape { dims }),
                offset: data.len() as i64,
                size: bytes.len() as i64,
                crc32c: masked(crc32c::crc32c(&bytes)),
                ..Entry::default()
            };
            change(&name, &mut entry);
            data.extend(bytes);
            entries.insert(name, entry);
        };
        let mut number = 0;
        for variable in variables(&small(), Layers::Separate).unwrap() {
            let sizes = variable.sizes();
            let count: usize = sizes.iter().product();
            let bytes = (number..number + count).flat_map(|n| (n as f32).to_le_bytes()).collect();
            number += count;
            add(own(&variable.name), 1, &sizes, bytes);
        }
        add(STEP.into(), dtype, &[], step.to_vec());
        let records = [(Vec::new(), header.encode_to_vec())].into_iter();
        let records = records
            .chain(entries.into_iter().map(|(name, entry)| (name.into_bytes(), entry.encode_to_vec())));
        fs::create_dir(place.path().join("tf")).unwrap();
        fs::write(place.path().join("tf/model.ckpt-123.index"), table(&records.collect::<Vec<_>>())).unwrap();
        fs::write(place.path().join("tf/model.ckpt-123.data-00000-of-00001"), data).unwrap();
        place
    }

    fn read_in(place: &TempDir) -> Result<Imported> {
        let source = Checkpoint::open(&place.path().join("tf"))?;
        import(&source, &Overrides::default(), &place.path().join("out"))
    }

    #[test]
    fn tensors_come_to_their_places() {
        let place = checkpoint(|_, _| ());
        let done = read_in(&place).unwrap();
        assert_eq!((done.step, done.slots), (123, Err("it has none".to_owned())));
        let out = runtime::checkpoint::Checkpoint::open(&place.path().join("out")).unwrap();
        let router = out.read("encoder/block_1/ffn/router").unwrap();
        assert_eq!(router.dims, [1, 4, 3]);
        let mut seen: Vec<f64> = Vec::new();
        for tensor in out.tensors() {
            seen.extend(out.read(&tensor.name).unwrap().to_f64().unwrap());
        }
        seen.sort_by(f64::total_cmp);
        assert!(seen.iter().enumerate().all(|(i, x)| i as f64 == *x), "every element is there once");
        let embedding = out.read("embedding").unwrap().to_f64().unwrap();
        assert_eq!(embedding, (0..40).map(f64::from).collect::<Vec<_>>());
    }

    /// Writes a checkpoint whose entry of one matrix is altered.
    fn changed(change: fn(&mut Entry)) -> TempDir {
        checkpoint(|own, entry| {
            if own == "encoder/block_000/layer_001/DenseReluDense/wi/kernel" {
                change(entry);
            }
        })
    }

    /// Checks the error and its help, and that nothing is written.
    #[track_caller]
    fn refused(place: &TempDir, expect: &str, help: &str) {
        let error = read_in(place).unwrap_err();
        let Some(runtime::Error::Input { what, help: found }) = error.downcast_ref() else {
            panic!("{error:#}")
        };
        assert!(what.contains(expect), "{what}\ndoes not say\n{expect}");
        assert_eq!(found, help, "{what}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    /// Checks the step that is read of these elements, or the error and its help.
    #[track_caller]
    fn step(dtype: i32, bytes: &[u8], expect: Result<u64, (&str, &str)>) {
        let place = with_step(dtype, bytes, Header { shards: 1, endianness: 0 }, |_, _| ());
        match expect {
            Ok(step) => assert_eq!(read_in(&place).unwrap().step, step),
            Err((why, help)) => refused(&place, why, help),
        }
    }

    #[test]
    fn the_step_is_an_integer_that_is_not_negative() {
        step(3, &7i32.to_le_bytes(), Ok(7));
        step(9, &(1i64 << 40).to_le_bytes(), Ok(1 << 40));
        step(3, &(-1i32).to_le_bytes(), Err(("has a negative step, -1, in `global_step`", DAMAGED)));
        step(9, &(-9i64).to_le_bytes(), Err(("has a negative step, -9, in `global_step`", DAMAGED)));
        step(
            1,
            &7f32.to_le_bytes(),
            Err(("has the tensor `global_step` of TensorFlow's type 1", UNSUPPORTED)),
        );
        for (dtype, bytes) in [(3, &[0; 8][..]), (9, &[0; 4][..]), (3, &[0; 3][..])] {
            step(dtype, bytes, Err(("has a damaged tensor `global_step`", DAMAGED)));
        }
    }

    #[test]
    fn checkpoints_of_other_formats_are_not_called_damaged() {
        let big = Header { shards: 1, endianness: 1 };
        let place = with_step(9, &[0; 8], big, |_, _| ());
        refused(&place, "was written by a big-endian machine", UNSUPPORTED);
        refused(&changed(|entry| entry.dtype = 7), "of TensorFlow's type 7", UNSUPPORTED);
        let slices = changed(|entry| entry.slices = vec![vec![]]);
        refused(&slices, "in slices: save it without a partitioner", UNSUPPORTED);
    }

    #[test]
    fn damage_is_refused_and_leaves_nothing() {
        let place = checkpoint(|_, _| ());
        let (data, index) = ("tf/model.ckpt-123.data-00000-of-00001", "tf/model.ckpt-123.index");
        let (data, index) = (place.path().join(data), place.path().join(index));
        let bytes = fs::read(&data).unwrap();
        let mut flipped = bytes.clone();
        flipped[400] ^= 1;
        fs::write(&data, flipped).unwrap();
        refused(&place, "the checksum of tensor `", "the file is damaged: copy or download it again");
        fs::write(&data, &bytes[..bytes.len() - 9]).unwrap();
        refused(&place, "of file 0, which has", DAMAGED);
        fs::remove_file(&data).unwrap();
        let help = "its elements are there: copy or download all files of the checkpoint";
        refused(&place, "data-00000-of-00001` cannot be read", help);
        let table = fs::read(&index).unwrap();
        fs::write(&index, &table[..table.len() - 1]).unwrap();
        refused(&place, "is not the index of a TensorFlow checkpoint, or is truncated", DAMAGED);
        refused(&changed(|entry| entry.size = 8), "of sizes [4, 6] with 8 bytes", DAMAGED);
        refused(&changed(|entry| entry.shard = 4), "of file 4", DAMAGED);
        refused(
            &changed(|entry| entry.shape.as_mut().unwrap().dims.swap(0, 1)),
            "with wrong sizes:\n    `encoder/block_000",
            "docs/interchange.md lists the models of T5X, Flaxformer and Mesh TensorFlow that can be imported",
        );
    }

    #[test]
    fn checkpoints_are_found_by_any_of_their_paths() {
        let place = checkpoint(|_, _| ());
        let at = |name: &str| place.path().join(name);
        let prefix = at("tf/model.ckpt-123");
        for name in
            ["tf", "tf/model.ckpt-123", "tf/model.ckpt-123.index", "tf/model.ckpt-123.data-00000-of-00001"]
        {
            assert_eq!(super::prefix(&at(name)), Some(prefix.clone()), "{name}");
        }
        fs::write(at("tf/model.ckpt-99.index"), "").unwrap();
        assert_eq!(super::prefix(&at("tf")), None, "there are two");
        fs::write(at("tf/checkpoint"), "model_checkpoint_path: \"/there/model.ckpt-123\"\n").unwrap();
        assert_eq!(super::prefix(&at("tf")), Some(prefix.clone()));
        // Only the beginning is read, and it need not be text.
        let long = [&b"\xff\nmodel_checkpoint_path: \"model.ckpt-123\"\n"[..], &vec![0xff; 1 << 20]].concat();
        fs::write(at("tf/checkpoint"), &long).unwrap();
        assert_eq!(super::prefix(&at("tf")), Some(prefix));
        fs::remove_file(at("tf/checkpoint")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("tf/checkpoint")).status().unwrap();
        assert!(fifo.success());
        assert_eq!(super::prefix(&at("tf")), None, "a FIFO is not read");
        assert!(!Checkpoint::is_at(&at("tf/other")) && !Checkpoint::is_at(&at("none")));
    }
}
