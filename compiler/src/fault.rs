//! Faults of the compiler: what a stage refuses after the program and its layout were accepted.

use mesh::{Diagnostic, Diagnostics};

/// Reports `mistakes` as a fault of the compiler, found by `pass` of `stage` in a program that was verified
/// before.
pub(crate) fn ours(stage: &str, pass: Option<&str>, mistakes: impl Into<Diagnostics>) -> Diagnostics {
    let mut mistakes = mistakes.into();
    let pass = pass.map_or_else(String::new, |pass| format!(", pass `{pass}`,"));
    let note = Diagnostic::new("", format!("stage `{stage}`{pass} failed on a verified program")).help(
        "this is a bug in the compiler, not in the model: please report it with the model and the layout",
    );
    mistakes.0.insert(0, note);
    mistakes
}
