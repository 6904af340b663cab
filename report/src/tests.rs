//! Reports on small programs that can be counted by hand.

use super::*;
use compiler::pipeline::{Axes, partition};
use mesh::{Layout, text::parse_source};

/// The forward pass of a Switch layer: attention's two products, a router, and experts at capacity factor 2.
const LAYER: &str = r#"
module layer
state param wq: f32[d_model=8, heads=2, d_kv=4]
state param wr: f32[d_model=8, experts=4]
state param wi: f32[experts=4, d_model=8, d_ff=16]
func eval_step(%x x: f32[batch=4, length=8, d_model=8], %to to: s32[batch=4, slots=16], %back back: s32[batch=4, length=8]) -> (y: f32[batch=4, length=8, d_ff=16], p: f32[batch=4, length=8, experts=4]) {
  %wq = read {state=wq} : f32[d_model=8, heads=2, d_kv=4]
  %wr = read {state=wr} : f32[d_model=8, experts=4]
  %wi = read {state=wi} : f32[experts=4, d_model=8, d_ff=16]
  %q = einsum %x, %wq {out=[batch, length, heads, d_kv], dtype=f32} : f32[batch=4, length=8, heads=2, d_kv=4]
  %k = rename %q {pairs=[length -> memory]} : f32[batch=4, memory=8, heads=2, d_kv=4]
  %s = einsum %q, %k {out=[batch, heads, length, memory], dtype=f32} : f32[batch=4, heads=2, length=8, memory=8]
  %a = einsum %s, %k {out=[batch, length, heads, d_kv], dtype=f32} : f32[batch=4, length=8, heads=2, d_kv=4]
  %z = reshape %a {from=[heads, d_kv], to=[d_model=8]} : f32[batch=4, length=8, d_model=8]
  %p = einsum %x, %wr {out=[batch, length, experts], dtype=f32} : f32[batch=4, length=8, experts=4] @ m.rs:7:1 "ffn/router"
  %d = permute %z, %to, %back {dim=length, to=slots} : f32[batch=4, slots=16, d_model=8]
  %e = reshape %d {from=[slots], to=[experts=4, capacity=4]} : f32[batch=4, experts=4, capacity=4, d_model=8]
  %h = einsum %e, %wi {out=[batch, experts, capacity, d_ff], dtype=f32} : f32[batch=4, experts=4, capacity=4, d_ff=16] @ m.rs:9:1 "ffn/experts"
  %f = reshape %h {from=[experts, capacity], to=[slots=16]} : f32[batch=4, slots=16, d_ff=16]
  %y = permute %f, %back, %to {dim=slots, to=length} : f32[batch=4, length=8, d_ff=16]
  return %y, %p
}
"#;

#[track_caller]
fn check(mesh: &str, layout: &str) -> Report {
    let module = parse_source(LAYER, "layer.mesh").unwrap_or_else(|e| panic!("{e}"));
    let mesh = Mesh::parse(mesh).unwrap();
    let compute = Layout::parse(layout).unwrap().resolve(&mesh).unwrap();
    let axes = Axes { mesh, compute, ..Axes::default() };
    let local = partition(&module, &axes).unwrap_or_else(|e| panic!("{e}"));
    report(&local, None).unwrap()
}

#[test]
fn arithmetic_is_counted_as_the_paper_does() {
    let one = check("", "");
    assert_eq!(one.parameters, 64 + 32 + 4 * 128);
    // Per sequence of 8 tokens: the query product, half of attention's two, and one expert per token.
    let (query, attention, expert) = (2 * 8 * 64, 2 * 8 * 8 * 8, 2 * 8 * 128);
    assert_eq!(one.sequences, 4);
    assert_eq!(one.flops_per_sequence, query + attention + expert);
    // Per step and device everything counts, including the router and empty expert slots.
    assert_eq!(one.flops_per_device, 4 * (query + 2 * attention + 2 * 8 * 32 + 2 * expert));
    let two = check("data=2", "batch:data");
    assert_eq!(two.flops_per_device * 2, one.flops_per_device);
    assert_eq!(two.flops_per_sequence, one.flops_per_sequence);
}

#[test]
fn collectives_have_bytes_axes_and_lines() {
    let two = check("model=2", "heads:model");
    let kinds: Vec<_> =
        two.collectives.iter().map(|c| (c.kind.as_str(), c.bytes, c.wire_bytes, c.count)).collect();
    // The merged dims heads and d_kv are gathered; a shard is 4·8·4 numbers.
    assert_eq!(kinds, [("all_gather", 4 * 8 * 4 * 4, 4 * 8 * 4 * 4, 1)]);
    assert_eq!(two.collectives[0].axes, ["model"]);
    assert_eq!(two.collectives[0].source, "layer.mesh:14");
    assert_eq!(two.traffic[0].wire_bytes, 512);
}

#[test]
fn memory_adds_up_and_names_what_is_held() {
    let one = check("", "");
    let m = &one.peak_bytes_per_device;
    assert_eq!(m.parameters, 4 * one.parameters);
    assert_eq!(m.inputs, 4 * (4 * 8 * 8 + 4 * 16 + 4 * 8));
    assert_eq!(m.total, m.parameters + m.inputs + m.activations + m.temporaries);
    // The experts' output in expert slots, its tokens, and the router's logits are held together at the end.
    assert_eq!(m.temporaries, 4 * (4 * 16 * 16 + 4 * 8 * 16 + 4 * 8 * 4));
    assert_eq!(m.largest[0].r#type, "f32[batch=4, experts=4, capacity=4, d_ff=16]");
}

#[test]
fn the_json_form_has_the_promised_fields() {
    let json = serde_json::to_value(check("data=2", "batch:data")).unwrap();
    for field in
        ["parameters", "flops_per_sequence", "flops_per_device", "peak_bytes_per_device", "collectives"]
    {
        assert!(json.get(field).is_some(), "{field}");
    }
    let two = serde_json::to_value(check("model=2", "heads:model")).unwrap();
    let used = &two["collectives"][0];
    for field in ["kind", "axes", "dtype", "bytes", "wire_bytes", "count", "direction", "source"] {
        assert!(used.get(field).is_some(), "{field}");
    }
    assert_eq!(used["direction"], "forward");
}

#[test]
fn the_text_form_is_aligned() {
    let text = check("model=2", "heads:model").to_string();
    assert!(text.starts_with("layer · eval_step · model=2 (2 devices)"), "{text}");
    let line = text.lines().find(|l| l.starts_with("all_gather")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["all_gather", "model", "f32", "512", "B", "512", "B", "1", "forward", "layer.mesh:14"]
    );
}

#[test]
fn arithmetic_has_a_purpose() {
    let one = check("", "");
    let p = one.flops_per_device_by_purpose;
    let (router, expert) = (4 * 2 * 8 * 32, 4 * 2 * 2 * 8 * 128);
    assert_eq!((p.routing, p.remat), (router, 0));
    // Two expert slots per token: half of the experts' FLOPs are on empty ones.
    assert_eq!(p.empty_slots, expert / 2);
    assert_eq!(p.model + p.routing + p.empty_slots, one.flops_per_device);
    let parts: u64 = one.flops_per_device_by_part.iter().map(|p| p.flops).sum();
    assert_eq!(parts, one.flops_per_device);
}

#[test]
fn shares_of_the_peak_add_up_and_the_timeline_reaches_it() {
    let one = check("", "");
    let m = &one.peak_bytes_per_device;
    for shares in [&m.purposes, &m.scopes, &m.dims] {
        assert_eq!(shares.iter().map(|s| s.bytes).sum::<u64>(), m.activations + m.temporaries);
    }
    assert_eq!(one.timeline.iter().map(|m| m.bytes).max(), Some(m.total));
}

/// The peak of a program with one state `w: f32[layers=4, d=8, e=8]`, without state and inputs.
#[track_caller]
fn held(function: &str) -> u64 {
    let text = format!("module m\nstate param w: f32[layers=4, d=8, e=8]\n{function}");
    let module = parse_source(&text, "m.mesh").unwrap_or_else(|e| panic!("{e}"));
    let local = partition(&module, &Axes::default());
    let m = report(&local.unwrap_or_else(|e| panic!("{e}")), None).unwrap().peak_bytes_per_device;
    m.activations + m.temporaries
}

#[test]
fn what_is_cheap_is_made_again_for_every_user() {
    let users = |op: &str| {
        held(&format!(
            "func f(%x x: f32[a=64]) -> (y: f32[], z: f32[]) {{
  %s = {op}
  %y = reduce_sum %s {{dims=[a]}} : f32[]
  %z = reduce_max %s {{dims=[a]}} : f32[]
  return %y, %z
}}
"
        ))
    };
    assert!(users("mul %x, %x : f32[a=64]") < 64 * 4);
    assert!(users("div %x, %x : f32[a=64]") >= 64 * 4);
}

#[test]
fn a_parameter_is_cast_whole_before_a_loop() {
    let body = |cast: &str, w: &str| {
        held(&format!(
            "func f(%x x: bf16[d=8]) -> (y: bf16[d=8]) {{
  %w = read {{state=w}} : f32[layers=4, d=8, e=8]
  %y = scan %x, %w {{dim=layers=4, carries=1, xs=1, remat=save_all}} (%c: bf16[d=8], %p: f32[d=8, e=8]) {{
{cast}    %h = einsum {w} {{out=[d], dtype=bf16}} : bf16[d=8]
    yield %h
  }} : bf16[d=8]
  return %y
}}
"
        ))
    };
    let narrow = body("    %q = cast %p {dtype=bf16} : bf16[d=8, e=8]\n", "%q, %c");
    let wide = body("    %q = cast %c {dtype=f32} : f32[d=8]\n", "%p, %q");
    // The whole parameter in half the bytes.
    assert!(narrow >= 4 * 64 * 2 && wide < 4 * 64 * 2, "{narrow} {wide}");
}

#[test]
fn the_page_has_a_picture_of_each_kind() {
    let report = check("model=2", "heads:model");
    let html = html::page(&report, None);
    for part in ["<svg", "Shards by device", "Memory over the program", "Traffic by mesh axes", "all_gather"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("<script") && !html.contains("http"), "it needs nothing else");
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}
