//! Laws of the text form and of the verifier, checked on random programs and on damaged ones.

mod damage;
mod generate;

use generate::{Choices, program};
use mesh::{
    Module,
    text::{parse, parse_source, print},
    verify::{Stage, verify},
};
use proptest::prelude::*;

/// Random choices. Missing choices count as 0, so that shrinking gives small, simple programs.
fn choices() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..400)
}

fn stage(local: bool) -> Stage {
    if local { Stage::Local } else { Stage::Global }
}

/// Equality of modules, with NaN equal to itself.
fn same(a: &Module, b: &Module) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn printed_programs_parse_to_themselves(choices in choices(), local: bool) {
        let module = program(&mut Choices::new(choices), local);
        prop_assert_eq!(verify(&module, stage(local)), Ok(()));
        let text = print(&module);
        let again = parse(&text, "printed");
        let again = again.map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert!(same(&module, &again), "{}\nbecomes\n{}", text, print(&again));
    }

    #[test]
    fn damaged_text_is_read_without_a_panic(choices in choices(), damage in choices(), local: bool) {
        let text = print(&program(&mut Choices::new(choices), local));
        let text = damage::text(text, &mut Choices::new(damage));
        match parse_source(&text, "damaged.mesh") {
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                for error in &errors.0 {
                    let site = error.site.as_ref().expect("mistakes in text have a place");
                    prop_assert!(site.line as usize <= text.split('\n').count(), "{error}");
                    prop_assert!(error.to_string().starts_with("damaged.mesh:"), "{error}");
                }
            }
            Ok(module) => {
                let canonical = print(&module);
                let again = parse(&canonical, "printed");
                let again = again.map_err(|e| TestCaseError::fail(format!("{e}\n{canonical}")))?;
                prop_assert_eq!(print(&again), canonical);
                let _ = verify(&module, Stage::Global);
                let _ = verify(&module, Stage::Local);
            }
        }
    }

    #[test]
    fn damaged_programs_are_verified_without_a_panic(choices in choices(), damage in choices(), local: bool) {
        let mut module = program(&mut Choices::new(choices), local);
        damage::module(&mut module, &mut Choices::new(damage));
        print(&module);
        for stage in [Stage::Global, Stage::Local] {
            if let Err(errors) = verify(&module, stage) {
                prop_assert!(errors.0.iter().all(|d| !d.label.is_empty()), "{errors}");
                errors.to_string();
            }
        }
    }
}

/// The generator makes programs with every operation.
#[test]
fn random_programs_hold_every_operation() {
    let mut seen = std::collections::BTreeSet::new();
    let mut state = 0u64;
    for i in 0..2000 {
        let mut next = || {
            // SplitMix64 (Steele, Lea and Flood, 2014).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 32) as u32
        };
        let module = program(&mut Choices::new((0..400).map(|_| next()).collect()), i % 2 == 0);
        for f in &module.functions {
            f.body.walk(&mut |_, inst| {
                seen.insert(mesh::text::op_name(&inst.op));
            });
        }
    }
    let all = mesh::text::op_names().collect();
    assert_eq!(seen, all);
}

/// Returns the names that `page` lacks, each written as `form` does.
fn lacking(page: &str, form: fn(&str) -> Vec<String>) -> Vec<&'static str> {
    let path = format!("{}/../{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    mesh::text::op_names().filter(|name| !form(name).iter().any(|form| text.contains(form))).collect()
}

/// The places of an operation that the Rust compiler does not ask for.
#[test]
fn every_operation_is_documented_and_has_a_line_in_a_filetest() {
    let in_table = |name: &str| vec![format!("`{name}`"), format!("`{name} {{")];
    assert_eq!(lacking("docs/ir.md", in_table), [""; 0], "add them to the tables of docs/ir.md");
    let global = |name: &str| vec![format!(" = {name} "), format!("  {name} "), format!(" = {name}\n")];
    let missing = lacking("tests/filetests/text/ops.mesh", global);
    let local = lacking("tests/filetests/text/local.mesh", global);
    let missing: Vec<&str> = missing.into_iter().filter(|name| local.contains(name)).collect();
    assert_eq!(
        missing, [""; 0],
        "add a line to tests/filetests/text/ops.mesh, or local.mesh for collectives"
    );
}
