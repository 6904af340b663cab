//! `manifest.json`: the manifest as people and scripts read it. It says exactly what
//! `manifest.pb` says, and either can be made from the other.
//!
//! Keys are the field names of `manifest.proto`, in its order, and all of them are present (only
//! `state`, `slot_of` and `donated_to` appear where they say something). The reader takes keys in
//! any order, refuses unknown ones, and names the place of a mistake: `functions[0].inputs: missing`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::manifest::{
    Axis, Cost, Dim, File, Function, Input, InputKind, Manifest, Mesh, Output, OutputKind, Source,
    StateEntry, StateKind, Summary, Tensor,
};

/// A mistake in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Where: a path such as `functions[0].inputs[2].tensor`, or the line and column.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for JsonError {}

/// Lists and objects that fit into this many columns stand on one line.
const WIDTH: usize = 110;

/// The manifest as indented JSON, ending in a newline.
pub fn to_json(manifest: &Manifest) -> String {
    let value = json!({
        "format_version": manifest.format_version,
        "program": manifest.program,
        "producer": manifest.producer,
        "target": manifest.target,
        "mesh": manifest.mesh.as_ref().map(mesh),
        "layout": manifest.layout,
        "state_layout": manifest.state_layout,
        "random": manifest.random,
        "state": list(&manifest.state, state),
        "functions": list(&manifest.functions, function),
        "source": manifest.source.as_ref().map(|source| json!({"name": source.name, "sha256": source.sha256})),
        "summary": manifest.summary.as_ref().map(|summary| json!({
            "parameters": summary.parameters,
            "state_bytes_per_device": summary.state_bytes_per_device,
            "flops_per_step": summary.flops_per_step,
        })),
        "meta": manifest.meta,
    });
    let mut out = String::new();
    write(&mut out, &value, 0);
    out.push('\n');
    out
}

/// Writes `value` at the end of a line that has `indent` columns of indentation.
fn write(out: &mut String, value: &Value, indent: usize) {
    let flat = flat(value);
    if indent + flat.len() <= WIDTH {
        return out.push_str(&flat);
    }
    let (open, items, close): (_, Vec<(String, &Value)>, _) = match value {
        Value::Array(items) => ('[', items.iter().map(|item| (String::new(), item)).collect(), ']'),
        Value::Object(fields) => {
            ('{', fields.iter().map(|(key, field)| (format!("{}: ", json!(key)), field)).collect(), '}')
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return out.push_str(&flat),
    };
    out.push(open);
    for (i, (key, item)) in items.into_iter().enumerate() {
        out.push_str(if i > 0 { ",\n" } else { "\n" });
        out.push_str(&" ".repeat(indent + 2));
        out.push_str(&key);
        write(out, item, indent + 2);
    }
    out.push('\n');
    out.push_str(&" ".repeat(indent));
    out.push(close);
}

/// The value on one line, with a space after commas and colons.
fn flat(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flat).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, field)| format!("{}: {}", json!(key), flat(field))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

fn list<T>(items: &[T], one: fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(one).collect())
}

fn mesh(mesh: &Mesh) -> Value {
    json!({"axes": list(&mesh.axes, |axis| json!({"name": axis.name, "size": axis.size}))})
}

fn state(entry: &StateEntry) -> Value {
    let mut value = json!({
        "name": entry.name,
        "kind": state_kind_name(entry.kind()),
        "tensor": entry.tensor.as_ref().map(tensor),
    });
    if !entry.slot_of.is_empty() {
        value["slot_of"] = json!(entry.slot_of);
    }
    value
}

fn function(function: &Function) -> Value {
    json!({
        "name": function.name,
        "module": function.module.as_ref().map(file),
        "compile_options": function.compile_options.as_ref().map(file),
        "inputs": list(&function.inputs, input),
        "outputs": list(&function.outputs, output),
        "cost": function.cost.as_ref().map(|cost| json!({
            "flops_per_device": cost.flops_per_device,
            "peak_bytes_per_device": cost.peak_bytes_per_device,
            "collective_bytes_per_device": cost.collective_bytes_per_device,
        })),
    })
}

fn file(file: &File) -> Value {
    json!({"name": file.name, "sha256": file.sha256, "bytes": file.bytes})
}

fn input(input: &Input) -> Value {
    let mut value = json!({"name": input.name, "kind": input_kind_name(input.kind())});
    if !input.state.is_empty() {
        value["state"] = json!(input.state);
    }
    value["tensor"] = json!(input.tensor.as_ref().map(tensor));
    if let Some(output) = input.donated_to {
        value["donated_to"] = json!(output);
    }
    value
}

fn output(output: &Output) -> Value {
    let mut value = json!({"name": output.name, "kind": output_kind_name(output.kind())});
    if !output.state.is_empty() {
        value["state"] = json!(output.state);
    }
    value["tensor"] = json!(output.tensor.as_ref().map(tensor));
    value
}

fn tensor(tensor: &Tensor) -> Value {
    let dims = list(
        &tensor.dims,
        |dim| json!({"name": dim.name, "size": dim.size, "axes": dim.axes, "local_size": dim.local_size}),
    );
    json!({"dtype": tensor.dtype, "dims": dims})
}

/// The word for a kind of state.
pub fn state_kind_name(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Unspecified => "unspecified",
        StateKind::Param => "param",
        StateKind::Slot => "slot",
        StateKind::Counter => "counter",
    }
}

/// The word for a kind of input.
pub fn input_kind_name(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Unspecified => "unspecified",
        InputKind::State => "state",
        InputKind::Data => "data",
        InputKind::Seed => "seed",
    }
}

/// The word for a kind of output.
pub fn output_kind_name(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::Unspecified => "unspecified",
        OutputKind::State => "state",
        OutputKind::Metric => "metric",
        OutputKind::Value => "value",
    }
}

/// The manifest that `text` says. It is not checked further: see [`crate::manifest_check`].
pub fn from_json(text: &str) -> Result<Manifest, JsonError> {
    let value: Value = serde_json::from_str(text).map_err(|error| JsonError {
        place: format!("line {}, column {}", error.line(), error.column()),
        what: error.to_string(),
    })?;
    let mut object = Object::new(&value, "manifest")?;
    let manifest = Manifest {
        format_version: object.number("format_version")?,
        program: object.text("program")?,
        producer: object.text("producer")?,
        target: object.text("target")?,
        mesh: object.optional("mesh", read_mesh)?,
        layout: object.text("layout")?,
        state_layout: object.text("state_layout")?,
        random: object.text("random")?,
        state: object.list("state", read_state)?,
        functions: object.list("functions", read_function)?,
        source: object.optional("source", |object| {
            Ok(Source { name: object.text("name")?, sha256: object.text("sha256")? })
        })?,
        summary: object.optional("summary", |object| {
            Ok(Summary {
                parameters: object.number("parameters")?,
                state_bytes_per_device: object.number("state_bytes_per_device")?,
                flops_per_step: object.number("flops_per_step")?,
            })
        })?,
        meta: object.map("meta")?,
    };
    object.end()?;
    Ok(manifest)
}

fn read_mesh(object: &mut Object<'_>) -> Result<Mesh, JsonError> {
    let axes = object
        .list("axes", |object| Ok(Axis { name: object.text("name")?, size: object.number("size")? }))?;
    Ok(Mesh { axes })
}

fn read_state(object: &mut Object<'_>) -> Result<StateEntry, JsonError> {
    let kinds = [StateKind::Unspecified, StateKind::Param, StateKind::Slot, StateKind::Counter];
    Ok(StateEntry {
        name: object.text("name")?,
        kind: object.kind(&kinds, state_kind_name)?.into(),
        tensor: object.optional("tensor", read_tensor)?,
        slot_of: object.text_or_empty("slot_of")?,
    })
}

fn read_function(object: &mut Object<'_>) -> Result<Function, JsonError> {
    Ok(Function {
        name: object.text("name")?,
        module: object.optional("module", read_file)?,
        compile_options: object.optional("compile_options", read_file)?,
        inputs: object.list("inputs", read_input)?,
        outputs: object.list("outputs", read_output)?,
        cost: object.optional("cost", |object| {
            Ok(Cost {
                flops_per_device: object.number("flops_per_device")?,
                peak_bytes_per_device: object.number("peak_bytes_per_device")?,
                collective_bytes_per_device: object.number("collective_bytes_per_device")?,
            })
        })?,
    })
}

fn read_file(object: &mut Object<'_>) -> Result<File, JsonError> {
    Ok(File { name: object.text("name")?, sha256: object.text("sha256")?, bytes: object.number("bytes")? })
}

fn read_input(object: &mut Object<'_>) -> Result<Input, JsonError> {
    let kinds = [InputKind::Unspecified, InputKind::State, InputKind::Data, InputKind::Seed];
    Ok(Input {
        name: object.text("name")?,
        kind: object.kind(&kinds, input_kind_name)?.into(),
        state: object.text_or_empty("state")?,
        tensor: object.optional("tensor", read_tensor)?,
        donated_to: match object.has("donated_to") {
            true => Some(object.number("donated_to")?),
            false => None,
        },
    })
}

fn read_output(object: &mut Object<'_>) -> Result<Output, JsonError> {
    let kinds = [OutputKind::Unspecified, OutputKind::State, OutputKind::Metric, OutputKind::Value];
    Ok(Output {
        name: object.text("name")?,
        kind: object.kind(&kinds, output_kind_name)?.into(),
        state: object.text_or_empty("state")?,
        tensor: object.optional("tensor", read_tensor)?,
    })
}

fn read_tensor(object: &mut Object<'_>) -> Result<Tensor, JsonError> {
    let dtype = object.text("dtype")?;
    let dims = object.list("dims", |object| {
        Ok(Dim {
            name: object.text("name")?,
            size: object.number("size")?,
            axes: object.texts("axes")?,
            local_size: object.number("local_size")?,
        })
    })?;
    Ok(Tensor { dtype, dims })
}

/// A JSON object that is being read, and where it is.
struct Object<'a> {
    place: String,
    fields: &'a Map<String, Value>,
    /// Keys that somebody has asked for.
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    fn new(value: &'a Value, place: &str) -> Result<Object<'a>, JsonError> {
        let place = place.to_string();
        match value.as_object() {
            Some(fields) => Ok(Object { place, fields, known: Vec::new() }),
            None => Err(JsonError { place, what: "expected an object".into() }),
        }
    }

    fn error<T>(&self, key: &str, what: impl Into<String>) -> Result<T, JsonError> {
        Err(JsonError { place: self.path(key), what: what.into() })
    }

    /// The place of a field. The manifest itself goes without saying.
    fn path(&self, key: &str) -> String {
        if self.place == "manifest" { key.to_string() } else { format!("{}.{key}", self.place) }
    }

    fn has(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.fields.contains_key(key)
    }

    fn field(&mut self, key: &'static str) -> Result<&'a Value, JsonError> {
        self.known.push(key);
        match self.fields.get(key) {
            Some(value) => Ok(value),
            None => self.error(key, "missing"),
        }
    }

    fn text(&mut self, key: &'static str) -> Result<String, JsonError> {
        match self.field(key)?.as_str() {
            Some(text) => Ok(text.to_string()),
            None => self.error(key, "expected a string"),
        }
    }

    fn text_or_empty(&mut self, key: &'static str) -> Result<String, JsonError> {
        if self.has(key) { self.text(key) } else { Ok(String::new()) }
    }

    fn number<T: TryFrom<u64>>(&mut self, key: &'static str) -> Result<T, JsonError> {
        match self.field(key)?.as_u64().and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => self.error(key, "expected a whole number that is not negative"),
        }
    }

    fn texts(&mut self, key: &'static str) -> Result<Vec<String>, JsonError> {
        let texts = self.field(key)?.as_array();
        let texts =
            texts.and_then(|texts| texts.iter().map(|text| text.as_str().map(str::to_string)).collect());
        match texts {
            Some(texts) => Ok(texts),
            None => self.error(key, "expected a list of strings"),
        }
    }

    fn map(&mut self, key: &'static str) -> Result<BTreeMap<String, String>, JsonError> {
        let fields = self.field(key)?.as_object();
        let pairs = fields.and_then(|fields| {
            fields.iter().map(|(key, text)| Some((key.clone(), text.as_str()?.to_string()))).collect()
        });
        match pairs {
            Some(pairs) => Ok(pairs),
            None => self.error(key, "expected an object of strings"),
        }
    }

    fn kind<T: Copy>(&mut self, kinds: &[T], name: fn(T) -> &'static str) -> Result<T, JsonError> {
        let word = self.text("kind")?;
        match kinds.iter().find(|&&kind| name(kind) == word) {
            Some(&kind) => Ok(kind),
            None => self.error("kind", format!("`{word}` is unknown")),
        }
    }

    /// A message, or `null` for none.
    fn optional<T>(
        &mut self,
        key: &'static str,
        read: fn(&mut Object<'_>) -> Result<T, JsonError>,
    ) -> Result<Option<T>, JsonError> {
        let value = self.field(key)?;
        if value.is_null() {
            return Ok(None);
        }
        self.nested(value, &self.path(key), read).map(Some)
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        read: fn(&mut Object<'_>) -> Result<T, JsonError>,
    ) -> Result<Vec<T>, JsonError> {
        let Some(values) = self.field(key)?.as_array() else { return self.error(key, "expected a list") };
        let place = self.path(key);
        let items = values.iter().enumerate();
        items.map(|(i, value)| self.nested(value, &format!("{place}[{i}]"), read)).collect()
    }

    fn nested<T>(
        &self,
        value: &Value,
        place: &str,
        read: fn(&mut Object<'_>) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        let mut object = Object::new(value, place)?;
        let message = read(&mut object)?;
        object.end()?;
        Ok(message)
    }

    /// Nothing is left that nobody has asked for.
    fn end(&self) -> Result<(), JsonError> {
        match self.fields.keys().find(|key| !self.known.contains(&key.as_str())) {
            Some(key) => self.error(key, "unknown key"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use crate::sample::manifest;

    #[test]
    fn both_ways() {
        let manifest = manifest();
        let text = to_json(&manifest);
        assert_eq!(from_json(&text).unwrap(), manifest);
        assert_eq!(from_json(&to_json(&Manifest::default())).unwrap(), Manifest::default());
        let head = "{\n  \"format_version\": 1,\n  \"program\": \"tiny\",\n";
        assert!(text.starts_with(head), "{text}");
        let axes = r#"
  "mesh": {"axes": [{"name": "data", "size": 2}, {"name": "model", "size": 2}]},"#;
        assert!(text.contains(axes), "{text}");
    }

    #[track_caller]
    fn refused(from: &str, to: &str, expected: &str) {
        let text = to_json(&manifest());
        assert!(text.contains(from), "{text}");
        let error = from_json(&text.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn mistakes() {
        refused("\"program\"", "\"programme\"", "program: missing");
        refused("\"random\":", "\"more\": 1, \"random\":", "more: unknown key");
        refused(
            "\"size\": 2",
            "\"size\": -2",
            "mesh.axes[0].size: expected a whole number that is not negative",
        );
        refused("\"data\"", "1", "mesh.axes[0].name: expected a string");
        refused("\"param\"", "\"parameter\"", "state[0].kind: `parameter` is unknown");
        refused("\"vocab\": \"384\"", "\"vocab\": 384", "meta: expected an object of strings");
        refused("\"axes\": []", "\"axes\": 3", "state[0].tensor.dims[0].axes: expected a list of strings");
        refused(
            "\"donated_to\": 0",
            "\"donated_to\": null",
            "functions[0].inputs[0].donated_to: expected a whole number that is not negative",
        );
        assert_eq!(from_json("[]").unwrap_err().to_string(), "manifest: expected an object");
        let error = from_json("{\n  \"program\" 3").unwrap_err();
        assert_eq!(error.place, "line 2, column 13");
    }

    /// Every damaged copy is read or refused; none panics, in either form.
    #[test]
    fn damage() {
        let bytes = manifest().encode_to_vec();
        let text = to_json(&manifest());
        let (mut refused, mut read) = (0, 0);
        let mut count = |ok: bool| if ok { read += 1 } else { refused += 1 };
        for at in 0..bytes.len() {
            count(Manifest::decode(&bytes[..at]).is_ok());
            for flip in [1u8, 0x40, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let decoded = Manifest::decode(damaged.as_slice());
                count(decoded.is_ok());
                if let Ok(manifest) = decoded {
                    crate::manifest_check::check(&manifest);
                    to_json(&manifest);
                }
            }
        }
        for (at, _) in text.trim_end().char_indices() {
            assert!(from_json(&text[..at]).is_err(), "{}", &text[..at]);
            let damaged = format!("{}\u{1}{}", &text[..at], &text[at + 1..]);
            count(from_json(&damaged).is_ok());
        }
        assert!(refused > 100 && read > 100, "{refused} refused, {read} read");
    }
}
