//! Scans, conditionals and gradient requests as text. Their bodies follow the attributes.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
    words,
};
use crate::ir::{Control, Remat, Scan};

pub(super) const NAMES: &[&str] = &["scan", "cond", "grad"];

words!(remat, REMAT, Remat {
    SaveAll = "save_all", SaveLong = "save_long", SaveCompact = "save_compact",
    SaveContractions = "save_contractions", SaveCarries = "save_carries",
});

pub(super) fn name(op: &Control) -> &'static str {
    match op {
        Control::Scan(_) => "scan",
        Control::Cond { .. } => "cond",
        Control::Grad => "grad",
    }
}

pub(super) fn attributes(op: &Control, a: &mut AttrWriter<'_>) {
    match op {
        Control::Scan(scan) => {
            a.whole_dim("dim", &scan.dim);
            a.size("carries", scan.carries);
            a.size("xs", scan.xs);
            a.flag("reverse", scan.reverse);
            a.name("remat", remat(scan.remat));
            a.flag("unroll", scan.unroll);
            a.flag("barrier", scan.barrier);
        }
        Control::Cond { .. } | Control::Grad => {}
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Control>> {
    Ok(Some(match name {
        "scan" => Control::Scan(Box::new(Scan {
            dim: a.whole_dim("dim")?,
            carries: a.size("carries")?,
            xs: a.size("xs")?,
            reverse: a.flag("reverse")?,
            remat: a.choice("remat", REMAT)?,
            unroll: a.flag("unroll")?,
            barrier: a.flag("barrier")?,
            body: a.body()?,
        })),
        "cond" => Control::Cond { then: Box::new(a.body()?), otherwise: Box::new(a.body()?) },
        "grad" => Control::Grad,
        _ => return Ok(None),
    }))
}
