//! Comparison of the interpreter and the plugin with expected numbers.

use crate::plugin;
use compiler::interp::{self, Precision, Tensors};
use mesh::Module;

/// Checks outputs of the function `f` of a verified Local module, in the interpreter and on the plugin: every
/// element is nearer than `tolerance` to the expected one. `about` names the case in messages.
#[track_caller]
pub fn check_outputs(
    local: &Module,
    given: &Tensors,
    expected: &[(&str, Vec<f64>)],
    tolerance: f64,
    about: &str,
) {
    let interpreted = interp::run(local, "f", given, &Tensors::new(), Precision::Normal);
    let interpreted = interpreted.unwrap_or_else(|d| panic!("{about}: {d}"));
    let on_plugin = plugin::run(local, "f", given, &Tensors::new());
    let on_plugin = on_plugin.unwrap_or_else(|e| panic!("{about}: {e}"));
    for (backend, outputs) in [("interpreter", interpreted.outputs), ("plugin", on_plugin.outputs)] {
        for (name, want) in expected {
            let got = outputs[*name].elements();
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < tolerance;
            let close = got.len() == want.len() && got.iter().zip(want).all(near);
            assert!(close, "{name} under `{about}` in the {backend}: {got:?}, expected {want:?}");
        }
    }
}
