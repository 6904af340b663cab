//! `meshc selftest` on the CPU plugin: it fails if an operation is wrong, or if no
//! program was compared.

use crate::support::Workplace;

/// Quick compilation.
const FLAGS: [&str; 2] = ["--flag", "xla_backend_optimization_level=0"];

#[test]
fn the_cpu_plugin_passes() {
    let place = Workplace::new();
    let words = ["selftest", "--mesh", "x=2", "--programs", "10", "--json"];
    let ran = place.run_on_cpu(&[&words[..], &FLAGS].concat()).succeeds();
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!((&report["programs"], &report["layers"]), (&10.into(), &2.into()));
    let families = report["families"].as_object().unwrap();
    assert_eq!(families.len(), 9);
    for family in ["elementwise", "contract", "reduce", "shape", "index", "state", "collective"] {
        assert!(families[family].as_u64().is_some_and(|n| n > 0), "{family}: {report}");
    }
    assert!(report["worst_of_tolerance"].as_f64().is_some_and(|part| part <= 1.0), "{report}");
}

#[test]
fn a_wrong_operation_fails() {
    let place = Workplace::new();
    let words = ["selftest", "--mesh", "x=2", "--programs", "10", "--seconds", "10", "--plant-fault"];
    let ran = place.run_on_cpu(&[&words[..], &FLAGS].concat()).fails_with(1, &[]);
    assert!(ran.out.contains("FAILED: ") && ran.out.contains("seed 1 mesh `x=2` layout"), "{}", ran.out);
    assert!(ran.out.contains("the plugin on one device") && ran.out.contains(" = max"), "{}", ran.out);
}

#[test]
fn without_time_it_fails() {
    let place = Workplace::new();
    let ran = place.run_on_cpu(&["selftest", "--seconds", "0"]).fails_with(1, &[]);
    assert!(ran.out.contains("nothing was compared"), "{}", ran.out);
    place.run_on_cpu(&["selftest", "--mesh", "x"]).fails_with(2, &["--mesh"]);
}
