//! `manifest.json`: the manifest in readable form, for people and scripts. Runtimes read `manifest.pb`.
//!
//! The fields and their names come from `manifest.proto`: `cargo xtask codegen` derives serde's `Serialize`
//! for the generated types. This file only lays out the text.

use serde_json::{Value, json};

use crate::manifest::Manifest;

/// Arrays and objects that fit into this many columns are written on one line.
const WIDTH: usize = 110;

/// Returns the manifest as indented JSON that ends in a newline.
pub fn to_json(manifest: &Manifest) -> String {
    let mut out = String::new();
    let value = serde_json::to_value(manifest).expect("all keys of a manifest are strings");
    write(&mut out, &value, 0);
    out.push('\n');
    out
}

/// Appends `value` to a line that is indented by `indent` columns.
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

/// Returns the value on one line, with a space after commas and colons.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, sample::manifest};

    #[test]
    fn readable_and_complete() {
        let text = to_json(&manifest());
        let head = "{\n  \"format_version\": 1,\n  \"program\": \"tiny\",\n";
        assert!(text.starts_with(head), "{text}");
        for line in [
            r#"  "mesh": {"axes": [{"name": "data", "size": 2}, {"name": "model", "size": 2}]},"#,
            r#"          {"name": "d_ff", "size": 8, "axes": ["model"], "local_size": 4}"#,
            r#"      "slot_of": "w""#,
            r#"          "donated_to": 0"#,
            r#"        {"name": "seed", "kind": "seed", "tensor": {"dtype": "u32", "dims": []}}"#,
            r#"        {"name": "loss", "kind": "metric", "tensor": {"dtype": "f32", "dims": []}}"#,
            r#"  "meta": {"dtype": "bf16"},"#,
            r#"    "kind": "train","#,
            r#"    "training": {"objective": "lm", "packing": false},"#,
            r#"    "continues": false"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["state"][1]["kind"], "slot");
        assert_eq!(value["summary"]["flops_per_step"], u64::MAX);
        assert_eq!(value["functions"][0]["inputs"][1].get("donated_to"), None);
    }

    /// Damaged bytes are decoded or refused; neither decoding, checking nor printing panics.
    #[test]
    fn damage() {
        let bytes = manifest().encode_to_vec();
        let (mut refused, mut read) = (0, 0);
        for at in 0..bytes.len() {
            refused += usize::from(Manifest::decode(&bytes[..at]).is_err());
            for flip in [1u8, 0x40, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                if let Ok(manifest) = Manifest::decode(damaged.as_slice()) {
                    crate::manifest_check::check(&manifest);
                    to_json(&manifest);
                    read += 1;
                }
            }
        }
        assert!(refused > 100 && read > 100, "{refused} refused, {read} read");
    }
}
