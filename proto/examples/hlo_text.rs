//! `cargo run -p proto --example hlo_text [--no-metadata] FILE.hlo.pb…`: HLO modules as text.

use std::error::Error;

use proto::Message;
use proto::hlo_text::{Options, print};
use proto::xla::HloModuleProto;

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, paths): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let metadata = match flags.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => true,
        ["--no-metadata"] => false,
        _ => return Err("usage: hlo_text [--no-metadata] FILE...".into()),
    };
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let module = HloModuleProto::decode(bytes.as_slice())
            .map_err(|error| format!("{path} is not an HloModuleProto: {error}"))?;
        print!("{}", print(&module, &Options { metadata, ..Options::default() }));
    }
    Ok(())
}
