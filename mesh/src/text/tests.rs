//! Tests of the text form.

use super::{op::names, parse, parse_source, print};
use crate::verify::{Stage, verify};

/// A program with every family of operations, in canonical form.
const PROGRAM: &str = r#"module tiny
meta layout = "batch:data" @ models/tiny.rs:2:5
meta "odd key" = "a \"quoted\"\nline \\ \u{7}"
state param encoder/wi: f32[layers=2, d_model=4, d_ff=8] @ models/tiny.rs:3:9 "encoder"
state counter step: s32[]

func init(%seed: u32[]) {
  %1 = constant {dtype=u32, value=0}
  %2 = random %seed, %1 {dist=truncated_normal, dims=[layers=2, d_model=4, d_ff=8], dtype=f32, stream=1} : f32[layers=2, d_model=4, d_ff=8] @ models/tiny.rs:3:9 "encoder"
  write %2 {state=encoder/wi}
  return
}

func train_step(%0 seed: u32[], %x inputs: f32[batch=2, d_model=4]) -> (loss: f32[]) {
  %2 = read {state=encoder/wi} : f32[layers=2, d_model=4, d_ff=8]
  %encoder.last = scan %x, %2 {dim=layers=2, carries=1, xs=1, reverse, remat=save_carries} (%0: f32[batch=2, d_model=4], %1: f32[d_model=4, d_ff=8]) {
    %2 = einsum %0, %1 {out=[batch, d_ff], dtype=f32} : f32[batch=2, d_ff=8] @ "/tmp/x y.rs":5:1 "a/b" !
    %3 = einsum %2, %1 {out=[batch, d_model], dtype=f32} : f32[batch=2, d_model=4]
    yield %3
  } : f32[batch=2, d_model=4]
  %4 = reduce_sum %encoder.last {dims=[batch, d_model]} : f32[]
  %5 = grad %4, %x : f32[batch=2, d_model=4]
  %6 = constant {dtype=f32, value=-inf} : f32[]
  %7 = lt %6, %4 : pred[]
  %8 = cond %7, %4 (%0: f32[]) {
    %1 = neg %0 : f32[]
    yield %1
  } else (%0: f32[]) {
    yield %0
  } : f32[]
  return %8
}
"#;

#[test]
fn canonical_text_prints_as_it_was_read() {
    let text = PROGRAM.replace("{dtype=u32, value=0}\n", "{dtype=u32, value=0} : u32[]\n");
    let module = parse(&text, "tiny.mesh").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(print(&module), text);
    assert_eq!(parse(&print(&module), "tiny.mesh").unwrap(), module);
}

#[test]
fn what_people_wrote_has_sites_in_their_text() {
    let text =
        "module m\nfunc f() -> (y: f32[]) {\n  %0 = constant {dtype=f32, value=1} : f32[]\n  return %0\n}\n";
    let site = |m: &crate::Module| m.functions[0].body.insts[0].site.clone();
    assert_eq!(site(&parse(text, "a.mesh").unwrap()), crate::Site::default());
    let module = parse_source(text, "a.mesh").unwrap();
    assert_eq!(site(&module), crate::Site::new("a.mesh", 3, 3, ""));
    assert_eq!(verify(&module, Stage::Global), Ok(()));
}

#[test]
fn every_name_is_built_by_its_family() {
    for (name, _) in names() {
        let text = format!("module m\nfunc f() {{\n  {name}\n  return\n}}\n");
        assert!(!parse(&text, "t").is_err_and(|e| e.to_string().contains("no operation")), "{name}");
    }
}

#[test]
fn mistakes_say_where_and_what_to_do() {
    let check = |line: &str, rendered: &str| {
        let text = format!("module m\nfunc f(%x x: f32[a=4]) {{\n  {line}\n  return\n}}\n");
        assert_eq!(parse(&text, "m.mesh").unwrap_err().to_string(), rendered);
    };
    check("%0 = tank %x", "m.mesh:3:8: error: there is no operation `tank`\n  help: did you mean `tanh`?");
    check(
        "%0 = slice %x {dim=a, strat=0, limit=4, stride=1}",
        "m.mesh:3:8: error: `slice` needs the attribute `start`\n  help: did you mean `start` where it says `strat`?",
    );
    check(
        "%0 = cumsum %x {dim=a, revers}",
        "m.mesh:3:26: error: `cumsum` has no attribute `revers`\n  help: did you mean `reverse`?",
    );
    check(
        "%0 = cast %x {dtype=float}",
        "m.mesh:3:17: error: `dtype` of `cast` cannot be `float`\n  help: use one of pred, s32, u32, bf16, f32",
    );
    check(
        "%0 = reduce_sum %x {dims=[b]}",
        "m.mesh:3:8: error[op_o2]: reduction: the tensor has no dim `b`\n  help: did you mean `a`? its dims are a",
    );
    check(
        "write %x {state=w}",
        "m.mesh:3:13: error[state_a2]: state `w` is not declared\n  help: declare it before the functions: `state param NAME: TYPE`",
    );
}

#[test]
fn a_name_that_is_taken_gets_a_suffix() {
    let text = "module m\n\nfunc f(%x: f32[]) -> (y: f32[]) {\n  %h = neg %x : f32[]\n  %1 = neg %h : f32[]\n  \
                %h_2 = neg %1 : f32[]\n  return %h_2\n}\n";
    let mut module = parse(&text.replace("%h_2", "%other"), "m.mesh").unwrap();
    let body = &mut module.functions[0].body;
    let last = body.results[0];
    body.values[last].name = Some("h".into());
    let printed = print(&module);
    assert_eq!(printed, text.replace("%1", "%2"));
    assert_eq!(print(&parse(&printed, "m.mesh").unwrap()), printed);
}
