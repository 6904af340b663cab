//! The file `checkpoint` of T5X: the tree of flax's state in msgpack.
//!
//! An extension of type 1 is an array: a msgpack list of sizes, element type and bytes. Type 3 is a scalar in
//! the same form. Larger arrays are maps that describe a TensorStore array in a folder beside the file, or
//! text of the form `PLACEHOLDER://FOLDER`.

use super::array::{Array, elements};
use crate::hf::file::Element;
use rmpv::Value;
use std::{
    collections::BTreeMap,
    io::{self, Read},
};

/// The extension types of arrays and of scalars.
const ARRAY: i8 = 1;
const SCALAR: i8 = 3;
/// The beginning of a text that stands for an array in a folder.
const PLACEHOLDER: &str = "PLACEHOLDER://";
/// Keys of an array that flax splits because it is larger than 1 GiB.
const SPLIT: &str = "__msgpack_chunked_array__";

/// A leaf of the tree.
#[derive(Clone, PartialEq, Debug)]
pub enum Leaf {
    /// An array with its elements.
    Inline(Array, Vec<u8>),
    /// An array in the folder of this name.
    Folder(String),
}

/// Returns the leaves of the tree by path, with `/` between names.
///
/// # Errors
/// The file is not such a tree. The error begins with a verb.
pub fn parse(mut file: impl Read) -> Result<BTreeMap<String, Leaf>, String> {
    let tree = rmpv::decode::read_value(&mut file).map_err(|e| format!("is not a msgpack file: {e}"))?;
    let rest = io::copy(&mut file, &mut io::sink()).map_err(|e| format!("cannot be read: {e}"))?;
    if rest > 0 {
        return Err(format!("has {rest} bytes after the tree"));
    }
    let mut leaves = BTreeMap::new();
    if !tree.is_map() {
        return Err("has no tree of arrays".into());
    }
    walk("", tree, &mut leaves)?;
    Ok(leaves)
}

/// Adds the leaves of a tree. Elements are moved where possible, because they may be large.
fn walk(path: &str, value: Value, leaves: &mut BTreeMap<String, Leaf>) -> Result<(), String> {
    let leaf = match value {
        Value::Map(_) if value[SPLIT].as_bool() == Some(true) => joined(&value),
        Value::Map(_) if !value["driver"].is_nil() => folder(&value).map(Leaf::Folder),
        Value::Map(entries) => {
            for (key, value) in entries {
                let key = key.as_str().ok_or_else(|| format!("has a key under `{path}` that is not text"))?;
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
                walk(&path, value, leaves)?;
            }
            return Ok(());
        }
        Value::Ext(ARRAY | SCALAR, bytes) => array(&bytes),
        Value::Integer(number) => {
            let number = number.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or("is too large");
            let sizes = Vec::new();
            let array = Array { element: Element::I32, sizes };
            number.map(|n| Leaf::Inline(array, n.to_le_bytes().to_vec())).map_err(str::to_owned)
        }
        Value::String(text) => match text.as_str().and_then(|text| text.strip_prefix(PLACEHOLDER)) {
            Some(name) => inside(name).map(Leaf::Folder),
            None => Err("is a text".into()),
        },
        Value::Nil => return Ok(()),
        Value::Boolean(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::Binary(_)
        | Value::Array(_)
        | Value::Ext(..) => Err("is not an array".into()),
    };
    let leaf = leaf.map_err(|why| format!("has an entry `{path}` that {why}"))?;
    match leaves.insert(path.to_owned(), leaf) {
        None => Ok(()),
        Some(_) => Err(format!("has the entry `{path}` twice")),
    }
}

/// Returns an array of the extension's bytes.
fn array(mut bytes: &[u8]) -> Result<Leaf, String> {
    let value = rmpv::decode::read_value(&mut bytes).map_err(|e| format!("is a damaged array: {e}"))?;
    let parts = match value {
        Value::Array(parts) if bytes.is_empty() => <[Value; 3]>::try_from(parts).ok(),
        _ => None,
    };
    let [sizes, dtype, data] = parts.ok_or("is a damaged array")?;
    let sizes: Option<Vec<usize>> =
        sizes.as_array().and_then(|all| all.iter().map(|n| n.as_u64().map(|n| n as usize)).collect());
    let sizes = sizes.ok_or("is an array without sizes")?;
    let dtype = dtype.as_str().ok_or("is an array without a type")?;
    let element = element(dtype).ok_or_else(|| {
        format!("has elements of type {dtype}; float32, bfloat16, float16, float64 and int32 are supported")
    })?;
    let Value::Binary(data) = data else { return Err("is an array without elements".into()) };
    let expect = elements(&sizes).map(|n| n * element.size());
    if expect != Some(data.len()) {
        return Err(format!("has {} bytes, which do not fit {dtype} of sizes {sizes:?}", data.len()));
    }
    Ok(Leaf::Inline(Array { element, sizes }, data))
}

/// Returns an array that flax split along its elements.
fn joined(value: &Value) -> Result<Leaf, String> {
    let list = |key: &str| -> Option<Vec<&Value>> {
        let entries = value[key].as_map()?;
        (0..entries.len())
            .map(|i| Some(&value[key][i.to_string().as_str()]).filter(|v| !v.is_nil()))
            .collect()
    };
    let sizes: Option<Vec<usize>> =
        list("shape").and_then(|all| all.iter().map(|n| n.as_u64().map(|n| n as usize)).collect());
    let (sizes, chunks) = sizes.zip(list("chunks")).ok_or("is a damaged array in parts")?;
    let (mut all, mut element) = (Vec::new(), None);
    for chunk in chunks {
        let Value::Ext(ARRAY, bytes) = chunk else { return Err("has a part that is no array".into()) };
        let Leaf::Inline(part, bytes) = array(bytes)? else {
            return Err("has a part that is no array".into());
        };
        if element.replace(part.element).is_some_and(|before| before != part.element) {
            return Err("has parts of different types".into());
        }
        all.extend_from_slice(&bytes);
    }
    let element = element.ok_or("has no parts")?;
    if elements(&sizes).map(|n| n * element.size()) != Some(all.len()) {
        return Err(format!("has {} bytes in its parts, which do not fit sizes {sizes:?}", all.len()));
    }
    Ok(Leaf::Inline(Array { element, sizes }, all))
}

/// Returns the folder of an array that is described by a specification of TensorStore.
fn folder(spec: &Value) -> Result<String, String> {
    let driver = spec["driver"].as_str().unwrap_or("unnamed");
    if driver != "zarr" {
        return Err(format!("is stored by TensorStore's driver `{driver}`; `zarr` is supported"));
    }
    let store = &spec["kvstore"];
    if store["driver"].as_str() == Some("ocdbt") {
        return Err(format!("is stored in OCDBT; {OCDBT}"));
    }
    let path = store["path"].as_str().or(spec["path"].as_str());
    inside(path.ok_or("is stored by TensorStore, at a place that is not named")?)
}

/// The remedy for arrays in OCDBT.
pub const OCDBT: &str =
    "save it with `use_ocdbt=False`, or copy each array with TensorStore to a folder of the driver zarr";

/// Checks that a path is the name of a folder beside the file.
fn inside(path: &str) -> Result<String, String> {
    let name = path.trim_end_matches('/');
    match name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        true => Err(format!("is stored in `{path}`, which is not a folder beside the file")),
        false => Ok(name.to_owned()),
    }
}

/// Returns the type with a name of numpy.
fn element(name: &str) -> Option<Element> {
    Some(match name {
        "float32" => Element::F32,
        "bfloat16" => Element::Bf16,
        "float16" => Element::F16,
        "float64" => Element::F64,
        "int32" => Element::I32,
        _ => return None,
    })
}

/// Returns the inverse of `element`.
pub fn dtype(element: Element) -> &'static str {
    match element {
        Element::F32 => "float32",
        Element::Bf16 => "bfloat16",
        Element::F16 => "float16",
        Element::F64 => "float64",
        Element::I32 => "int32",
    }
}

/// Returns an array as a value of the tree.
pub fn inline(array: &Array, bytes: Vec<u8>) -> Value {
    let sizes = array.sizes.iter().map(|size| Value::from(*size as u64)).collect();
    let parts = Value::Array(vec![Value::Array(sizes), dtype(array.element).into(), Value::Binary(bytes)]);
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, &parts).expect("memory can be written");
    Value::Ext(ARRAY, out)
}

/// Returns the description of an array in the folder `name`, as T5X writes it.
pub fn spec(array: &Array, name: &str) -> Value {
    let text = |text: &str| Value::from(text);
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(entries.into_iter().map(|(key, value)| (text(key), value)).collect())
    };
    let sizes = array.sizes.iter().map(|size| Value::from(*size as u64)).collect();
    map(vec![
        ("driver", text("zarr")),
        ("dtype", text(dtype(array.element))),
        ("kvstore", map(vec![("driver", text("file")), ("path", text(&format!("{name}/")))])),
        ("metadata", map(vec![("shape", Value::Array(sizes))])),
    ])
}

/// Returns the bytes of a tree with these values at these paths.
pub fn to_bytes(leaves: Vec<(String, Value)>) -> Vec<u8> {
    let mut tree = Value::Map(Vec::new());
    for (path, value) in leaves {
        let mut at = &mut tree;
        for name in path.split('/') {
            let Value::Map(entries) = at else { unreachable!("a path that has entries is a map") };
            let place = entries.iter().position(|(key, _)| key.as_str() == Some(name)).unwrap_or_else(|| {
                entries.push((Value::from(name), Value::Map(Vec::new())));
                entries.len() - 1
            });
            at = &mut entries[place].1;
        }
        *at = value;
    }
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, &tree).expect("memory can be written");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> (Array, Vec<u8>) {
        (Array { element: Element::Bf16, sizes: vec![2, 1] }, vec![1, 2, 3, 4])
    }

    #[test]
    fn what_is_written_is_read() {
        let (array, bytes) = small();
        let leaves = vec![
            ("optimizer/target/a".to_owned(), inline(&array, bytes.clone())),
            ("optimizer/target/b".to_owned(), spec(&array, "target.b")),
            ("version".to_owned(), Value::from(3)),
            ("empty".to_owned(), Value::Map(Vec::new())),
        ];
        let read = parse(&to_bytes(leaves)[..]).unwrap();
        assert_eq!(read["optimizer/target/a"], Leaf::Inline(array, bytes));
        assert_eq!(read["optimizer/target/b"], Leaf::Folder("target.b".into()));
        let version = Leaf::Inline(Array { element: Element::I32, sizes: vec![] }, vec![3, 0, 0, 0]);
        assert_eq!((&read["version"], read.len()), (&version, 3));
    }

    #[test]
    fn arrays_in_parts_are_joined() {
        let part = |bytes: Vec<u8>| {
            let array = Array { element: Element::Bf16, sizes: vec![bytes.len() / 2] };
            inline(&array, bytes)
        };
        let text = |entries: Vec<(&str, Value)>| {
            Value::Map(entries.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
        };
        let split = |second: Value| {
            text(vec![
                (SPLIT, Value::from(true)),
                ("shape", text(vec![("0", 3.into()), ("1", 1.into())])),
                ("chunks", text(vec![("0", part(vec![1, 2, 3, 4])), ("1", second)])),
            ])
        };
        let whole = parse(&to_bytes(vec![("a".into(), split(part(vec![5, 6])))])[..]).unwrap();
        let array = Array { element: Element::Bf16, sizes: vec![3, 1] };
        assert_eq!(whole["a"], Leaf::Inline(array, vec![1, 2, 3, 4, 5, 6]));
        let wrong = parse(&to_bytes(vec![("a".into(), split(part(vec![5, 6, 7, 8])))])[..]).unwrap_err();
        assert!(wrong.contains("has 8 bytes in its parts, which do not fit sizes [3, 1]"), "{wrong}");
    }

    /// Checks the error for a tree with this value.
    #[track_caller]
    fn refused(value: Value, expect: &str) {
        let why = parse(&to_bytes(vec![("a".into(), value)])[..]).unwrap_err();
        assert!(why.contains(expect), "{why}\ndoes not say\n{expect}");
    }

    fn stored(driver: &str, store: &str, path: &str) -> Value {
        let text = |entries: Vec<(&str, Value)>| {
            Value::Map(entries.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
        };
        let store = text(vec![("driver", store.into()), ("path", path.into())]);
        text(vec![("driver", driver.into()), ("kvstore", store)])
    }

    #[test]
    fn other_values_are_refused() {
        refused("text".into(), "entry `a` that is a text");
        refused(Value::Boolean(true), "is not an array");
        refused(Value::Ext(ARRAY, vec![0x91]), "is a damaged array");
        refused(Value::Ext(9, vec![1]), "is not an array");
        refused(inline(&small().0, vec![1, 2, 3]), "has 3 bytes, which do not fit bfloat16 of sizes [2, 1]");
        refused(stored("zarr3", "file", "a"), "driver `zarr3`; `zarr` is supported");
        refused(stored("zarr", "ocdbt", "a"), "is stored in OCDBT; save it with `use_ocdbt=False`");
        for path in ["../a", "/etc/a", "a/b", "", "."] {
            refused(stored("zarr", "file", path), "not a folder beside the file");
        }
        refused(Value::from(format!("{PLACEHOLDER}../a")), "not a folder beside the file");
        assert!(parse(&[0x93_u8, 1][..]).unwrap_err().contains("is not a msgpack file"));
        assert!(parse(&[1_u8][..]).unwrap_err().contains("has no tree"));
        assert!(parse(&[0x80_u8, 1][..]).unwrap_err().contains("has 1 bytes after the tree"));
        assert!(parse(&[0x81_u8, 1, 2][..]).unwrap_err().contains("a key under `` that is not text"));
        let twice = [0x82, 0xa1, b'a', 1, 0xa1, b'a', 2];
        assert!(parse(&twice[..]).unwrap_err().contains("has the entry `a` twice"));
    }
}
